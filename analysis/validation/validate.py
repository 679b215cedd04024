"""Test whether a law predicts runs that it has not seen: backtests, competing laws, a verdict.

The intervals of a fit assume that its law is right. To test that, :func:`validate` fits the smaller
runs, predicts the larger ones, and counts how many fall inside the intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis import laws as known
from analysis import notebook
from analysis.arguments import expect_law_and_runs
from analysis.fitting.checks import FitError, check_level
from analysis.fitting.fit import fit
from analysis.fitting.held_out import (
    CUTS,
    compute_of_run,
    cutoffs,
    errors_of,
    objective_of,
    rms,
)
from analysis.fitting.result import FitResult
from analysis.fitting.status import Status
from analysis.laws import Law, resolve
from analysis.validation.goodness import deviance
from analysis.validation.verdict import (
    PURE_POWERS,
    compare_with_rivals,
    floor_note,
    objections_to,
)
from scaling import progress
from scaling.errors import TableError
from scaling.jsonable import finite
from scaling.table import missing_column, sensible


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The result of :func:`validate`."""

    law: Law
    fit: FitResult = field(repr=False)
    """The law fitted to all runs."""
    by: str
    """The column whose largest values were held out."""
    level: float
    backtest: pd.DataFrame
    """One row per cut-off: the law fitted to runs up to `cut` predicts all larger ones. Columns:
    cut, n_fit, n_held, runs_held, error (root mean square log error), bias (mean log error;
    positive if measured above predicted), coverage (fraction of held-out rows inside the
    predictive interval), inflation (factor by which the interval must be widened to cover
    `level`), then the law's derived quantities as fitted below the cut-off."""
    scales: pd.DataFrame
    """Leave-one-scale-out test: each size of the first input is predicted from the others."""
    laws: pd.DataFrame
    """The law and its competitors by name, one row each; of laws with the same name, later ones are
    numbered, as in 'chinchilla (2)'. Columns: q (free parameters), aicc (difference from the best,
    by the likelihood that `likelihood` names), error (in sample), held_out and left_out (mean
    errors of the two tests above), status."""
    objections: tuple[str, ...]
    """Evidence against the law."""
    notes: tuple[str, ...]
    """Remarks that do not count against the law."""

    @property
    def likelihood(self) -> str:
        """Description of the likelihood behind AICc, and of what counts as one observation."""
        density = "Gaussian"
        if self.fit.objective_kind == "lad":
            density = "Laplace"
        elif np.isfinite(self.fit.minimum.delta):
            density = "Huber's density"
        runs, rows = self.fit.problem.units(), self.fit.n
        unit = f"{runs} runs of {rows} rows" if runs < rows else f"{rows} rows"
        return f"AICc by the {density} likelihood, its scale fitted, of {unit}"

    @property
    def supported(self) -> bool:
        """Whether there are no objections."""
        return not self.objections

    @property
    def verdict(self) -> tuple[str, ...]:
        """The conclusion, followed by objections and notes."""
        head = "supported by these runs" if self.supported else "not fully supported by these runs"
        return (head, *self.objections, *self.notes)

    def summary(self) -> pd.DataFrame:
        """Return the table of competing laws."""
        return self.laws

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers that are not finite become None."""
        return finite(
            {
                "law": self.law.name,
                "by": self.by,
                "level": self.level,
                "supported": self.supported,
                "verdict": list(map(str, self.verdict)),
                "likelihood": self.likelihood,
                "backtest": self.backtest.to_dict("records"),
                "scales": self.scales.to_dict("records"),
                "laws": self.laws.reset_index().to_dict("records"),
            }
        )

    def __str__(self) -> str:
        def text(table: pd.DataFrame, index: bool) -> str:
            return table.to_string(index=index, float_format="{:.4g}".format, na_rep="-")

        parts = [
            f"{self.law.name}: {self.law.formula}",
            f"runs up to a cut-off in {self.by} predict the larger ones "
            f"({100 * self.level:g} % intervals):",
            text(self.backtest, False),
            f"each {self.scales.columns[0]} predicted from the others:",
            text(self.scales, False),
            f"competing laws ({self.likelihood}):",
            text(self.laws, True),
            *(f"- {sentence}" for sentence in self.verdict),
        ]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return notebook.validation(self)


def validate(
    law: Law | str,
    runs: pd.DataFrame,
    *,
    by: str | None = None,
    against: Iterable[Law | str] | None = None,
    cuts: int = CUTS,
    level: float = 0.9,
    **options: Any,
) -> Validation:
    """Test `law` on runs held out of its fit, and compare it with competing laws.

    by: the column whose largest values are held out; None takes C, or the law's first input.
    against: competing laws; None takes those with the same inputs that differ in one assumption
        (no floor, a bottleneck instead of a sum, one exponent, a break).
    cuts: number of growing cut-offs, from 40 % of the runs to 80 %.
    level: level of the predictive intervals whose coverage is counted.
    options: passed to :func:`analysis.fit`.

    Raises TableError for a missing column and FitError if the law cannot be fitted to all runs.
    """
    check_level(level)
    expect_law_and_runs("validate", law, runs)
    law = resolve(law)
    options = {"bootstrap": 400, **options}
    whole = fit(law, runs, **options)
    runs = whole.runs  # without rows that are left out, as for the weights below
    if options.get("weights") is not None:
        options["weights"] = whole.problem.weights
    cluster = options.get("cluster", "run_id")
    if by is None:
        complete = (
            "C" in runs.columns and sensible(runs["C"].to_numpy(float, na_value=np.nan)).all()
        )
        by = "C" if complete else law.inputs[0]
    elif by in runs.columns and not pd.api.types.is_numeric_dtype(runs[by]):
        raise TableError(
            f"column {by!r} is not numeric ({by}={runs[by].iloc[0]!r}), so there are no largest "
            "values to hold out. Hold out by C, N, D or another size."
        )
    if by not in runs.columns:
        raise TableError(missing_column(by, runs.columns))
    size = _scale_of_run(runs, by, cluster)
    others = [resolve(each) for each in against] if against is not None else rivals(law)
    at = cutoffs(size, cuts, len(law.params) - len(options.get("fixed") or {}) + 2)
    scales = _leave_one_out(whole)
    # All share one Huber threshold; otherwise their objectives could not be compared.
    objective, delta = objective_of(whole)
    options = {**options, "objective": objective, "delta": delta}
    backtest, failed = _backtest(law, runs, size, at, level, {**options, "warm": whole})
    same = {**options, "bootstrap": 0, "fixed": None}
    names = _names([law, *others])
    compared = _compare(whole, scales, names, size, at, same)
    objections = [*objections_to(whole, backtest, level)]
    notes = [line for line in whole.status if line.code in ("implausible", "duplicates")]
    notes += floor_note(whole, names, compared)
    better, mixed = compare_with_rivals(compared)
    return Validation(
        law=law,
        fit=whole,
        by=by,
        level=level,
        backtest=backtest,
        scales=scales,
        laws=compared,
        objections=(*objections, *better),
        notes=(*notes, *mixed, *failed),
    )


def tested_reach(result: FitResult, *, cuts: int = CUTS) -> float | None:
    """Return how many times the compute of the runs fitted the largest held-out runs have.

    This is for the cut-offs of :func:`held_out`; None if there are too few runs for any.
    """
    size = compute_of_run(result)
    at = cutoffs(size, cuts, len(result.law.params) + 2)
    return float(size.max() / at[0]) if at else None


def _held_out(result: FitResult, size: np.ndarray, at: list[float]) -> float:
    """Return the rms error beyond each cut-off, averaged over those at which there is a fit."""
    progress.step(f"testing {result.law.name} on held-out runs")
    found = [off for cut in at if (off := errors_of(result, size > cut)) is not None]
    known = [error for error in map(rms, found) if np.isfinite(error)]
    return float(np.mean(known)) if known else np.nan


def _scale_of_run(runs: pd.DataFrame, by: str, cluster: str | None) -> np.ndarray:
    """Return `by` of each row, or the largest in its run, since a run is held out as a whole."""
    if cluster is not None and cluster in runs.columns:
        return runs.groupby(cluster)[by].transform("max").to_numpy(float)
    return runs[by].to_numpy(float)


def _backtest(
    law: Law,
    runs: pd.DataFrame,
    size: np.ndarray,
    at: list[float],
    level: float,
    options: dict[str, Any],
) -> tuple[pd.DataFrame, list[str]]:
    """Return the backtest and a note for each cut-off at which there is no fit."""
    rows, failed = [], []
    cluster = options.get("cluster", "run_id")
    for cut in at:
        try:
            result = fit(law, runs[size <= cut], **_rows(options, size <= cut))
        except FitError as error:
            failed.append(f"no fit to the runs up to {cut:.3g}: {error}")
            continue
        held = runs[size > cut]
        x = {name: held[name].to_numpy(float) for name in law.inputs}
        measured, centre = held[law.target].to_numpy(float), result.predict(**x)
        off = np.log(measured / centre)
        row = {
            "cut": cut,
            "n_fit": int((size <= cut).sum()),
            "n_held": len(held),
            "runs_held": held[cluster].nunique() if cluster in held.columns else len(held),
            "error": rms(off),
            "bias": float(np.mean(off)),
            "coverage": np.nan,
            "inflation": np.nan,
        }
        if len(result.samples):
            low, high = result.predict_interval(level, noise=True, **x)
            row["coverage"] = float(np.mean((measured >= low) & (measured <= high)))
            half = np.where(measured > centre, high - centre, centre - low)
            with np.errstate(all="ignore"):
                ratio = np.abs(measured - centre) / np.maximum(half, 1e-300)
            row["inflation"] = float(np.quantile(ratio, level))
        rows.append(row | {name: result.derived(name).value for name in law.derived})
    columns = ["cut", "n_fit", "n_held", "runs_held", "error", "bias", "coverage", "inflation"]
    return pd.DataFrame(rows, columns=[*columns, *law.derived]), failed


def _rows(options: dict[str, Any], keep: np.ndarray) -> dict[str, Any]:
    """Return `options` with an array of weights cut to the rows kept."""
    weights = options.get("weights")
    if weights is None or isinstance(weights, str):
        return options
    return {**options, "weights": np.asarray(weights, float)[keep]}


def _leave_one_out(result: FitResult) -> pd.DataFrame:
    """Predict each value of the first input from the others; values are binned if more than 12."""
    name = result.law.inputs[0]
    x = result.runs[name].to_numpy(float)
    scale = x
    if len(np.unique(x)) > 12:
        edges = np.geomspace(x.min(), x.max(), 11)
        middle = np.sqrt(edges[1:] * edges[:-1])
        scale = middle[np.clip(np.searchsorted(edges, x, side="right") - 1, 0, 9)]
    rows = []
    progress.step(f"leaving out each {name} in turn")
    for value in np.unique(scale):
        off = errors_of(result, scale == value)
        if off is not None:
            rows.append({name: value, "n_held": len(off), "error": rms(off), "bias": off.mean()})
    return pd.DataFrame(rows, columns=[name, "n_held", "error", "bias"])


def rivals(law: Law) -> list[Law]:
    """Return laws of the same inputs and target that differ in one assumption."""
    if law.target == "L" and law.inputs == ("N", "D"):
        found = [known.chinchilla, known.bottleneck, known.shared_exponent, known.kaplan_ND]
    elif law.target == "L" and len(law.inputs) == 1:
        x = law.inputs[0]
        found = [known.power(x), known.floor(x), known.broken(x)]
    else:
        found = []
    same = known.power(law.inputs[0]) if law in PURE_POWERS else law
    return [each for each in found if each != same]


def _names(laws: Sequence[Law]) -> dict[Law, str]:
    """Return a name for each law; later laws with a name that is taken are numbered."""
    names: dict[Law, str] = {}
    taken: Counter[str] = Counter()
    for law in dict.fromkeys(laws):
        taken[law.name] += 1
        names[law] = law.name if taken[law.name] == 1 else f"{law.name} ({taken[law.name]})"
    return names


def _compare(
    whole: FitResult,
    scales: pd.DataFrame,
    names: Mapping[Law, str],
    size: np.ndarray,
    at: list[float],
    options: dict[str, Any],
) -> pd.DataFrame:
    """Fit each law with the same objective to the same rows; `scales` are those of `whole`.

    Rows of one run share their noise, so AICc counts runs: minus twice the log likelihood is taken
    per row, times the number of runs.
    """
    rows = {}
    for law, name in names.items():
        try:
            result = whole if law == whole.law else fit(law, whole.runs, **options)
        except FitError as error:
            rows[name] = {"q": len(law.params), "status": str(error).split(":")[0]}
            continue
        n, k = result.problem.units(), result.problem.q + 1
        aicc = n * deviance(result) + 2 * k
        aicc = aicc + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.inf
        rows[name] = {
            "q": k - 1,
            "aicc": aicc,
            "error": rms(result.log_residuals),
            "held_out": _held_out(result, size, at),
            "left_out": (scales if result is whole else _leave_one_out(result))["error"].mean(),
            "status": "; ".join(Status(line.code) for line in result.status),
        }
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.index.name = "law"
    out["aicc"] -= out["aicc"].min()
    return out
