"""Does a law predict runs that it has not seen? Backtests, competing laws, a plain verdict.

Intervals of a fit assume that its law is right. What shows whether it is: fit the smaller runs,
predict the larger ones, and count how many fall inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis import laws as known
from analysis.fitting.checks import FitError, check_level
from analysis.fitting.fit import fit
from analysis.fitting.minimise import minimise
from analysis.fitting.result import FitResult, plain
from analysis.fitting.status import CONVERGED, Status
from analysis.laws import Law, resolve
from analysis.validation.goodness import curvature, deviance, lack_of_fit
from scaling.errors import TableError
from scaling.table import missing_column

NARROW = 1.0
"""Decades of a size (parameters, tokens, FLOPs, ...) below which an exponent is hardly known."""
_NOT_SIZES = ("L", "bits_per_byte", "error")
"""Inputs that a law of them need not span decades of: all losses there are lie within one."""


@dataclass(frozen=True)
class Validation:
    """What :func:`validate` found."""

    law: Law
    fit: FitResult = field(repr=False)
    """The law fitted to all runs."""
    by: str
    """The column whose largest values were held out."""
    level: float
    backtest: pd.DataFrame
    """One row a cut-off: the law fitted to runs up to `cut` predicts all larger ones. Columns cut,
    n_fit, n_held, runs_held, error (root mean square log error), bias (mean log error, positive: measured
    above predicted), coverage (share of held-out runs inside the predictive interval), inflation
    (what the interval's width must be multiplied by to cover `level`), then the law's derived
    quantities as fitted to that cut."""
    scales: pd.DataFrame
    """Leave one scale out: every size of the first input predicted from the others."""
    laws: pd.DataFrame
    """Competing laws, one row each: q free parameters, aicc (differences from the best, of the
    likelihood that `likelihood` names), error (in sample), held_out and left_out (mean errors of
    the two tests above), status."""
    objections: tuple[str, ...]
    """What speaks against the law, in plain sentences."""
    notes: tuple[str, ...]
    """What a reader should know besides."""

    @property
    def likelihood(self) -> str:
        """The likelihood behind AICc, in words, and what counts as one observation."""
        assert self.fit.problem is not None and self.fit.minimum is not None
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
        """No objection was found."""
        return not self.objections

    @property
    def verdict(self) -> tuple[str, ...]:
        """Plain sentences: the conclusion, then objections and notes."""
        head = "supported by these runs" if self.supported else "not fully supported by these runs"
        return (head, *self.objections, *self.notes)

    def summary(self) -> pd.DataFrame:
        return self.laws

    def record(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
        return plain(
            {
                "law": self.law.name,
                "by": self.by,
                "level": self.level,
                "supported": self.supported,
                "verdict": self.verdict,
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


def validate(
    law: Law | str,
    runs: pd.DataFrame,
    *,
    by: str | None = None,
    against: Iterable[Law | str] | None = None,
    cuts: int = 5,
    level: float = 0.9,
    **options: Any,
) -> Validation:
    """Test `law` on runs held out of its fit, and beside competing laws.

    by: the column whose largest values are held out; None takes C, or the law's first input.
    against: competing laws; None takes those with the same inputs that differ in one assumption
        (no floor, a bottleneck instead of a sum, one exponent, a break).
    cuts: growing cut-offs, from 40 % of the runs to 80 %.
    level: of the predictive intervals whose coverage is counted.
    options: passed to :func:`analysis.fit`.

    Raises TableError for a missing column and FitError where the law cannot be fitted to all runs.
    """
    check_level(level)
    law = resolve(law)
    options = {"bootstrap": 400, **options}
    whole = fit(law, runs, **options)
    runs = whole.runs  # without rows that are not 'ok': so must the weights be
    if options.get("weights") is not None:
        assert whole.problem is not None
        options["weights"] = whole.problem.weights
    cluster = options.get("cluster", "run_id")
    if by is None:
        by = "C" if "C" in runs.columns else law.inputs[0]
    elif by in runs.columns and not pd.api.types.is_numeric_dtype(runs[by]):
        raise TableError(
            f"by={by!r} is not a numeric column ({by}={runs[by].iloc[0]!r}): its largest values are "
            "held out. Give C, N, D or another size."
        )
    if by not in runs.columns:
        raise TableError(missing_column(by, runs.columns))
    size = _scale_of_run(runs, by, cluster)
    rivals = [resolve(each) for each in against] if against is not None else _rivals(law)
    cutoffs = _cutoffs(size, cuts, len(law.params) - len(options.get("fixed") or {}) + 2)
    backtest, failed = _backtest(law, runs, size, cutoffs, level, {**options, "warm": whole})
    scales = _leave_one_out(whole)
    # One Huber threshold for all, or their objectives could not be compared.
    objective, delta = _objective(whole)
    same = {**options, "objective": objective, "delta": delta, "bootstrap": 0, "fixed": None}
    compared = _compare(whole, rivals, size, cutoffs, same)
    objections, notes = _verdict(whole, backtest, compared, level)
    return Validation(
        law,
        whole,
        by,
        level,
        backtest,
        scales,
        compared,
        tuple(objections),
        (*notes, *failed),
    )


def held_out(results: Mapping[str, FitResult], *, cuts: int = 5) -> dict[str, float]:
    """How well fitted laws of N and D predict the larger of their runs: rms error of log L of each.

    Each is refitted to the runs below growing cut-offs in compute and predicts those above; the
    mean over the cut-offs at which all could be refitted. NaN where there is none.
    """
    least = 2 + max((len(result.law.params) for result in results.values()), default=0)
    errors = {}
    for name, result in results.items():
        assert result.problem is not None
        compute = pd.Series(result.problem.columns["N"] * result.problem.columns["D"])
        size = compute.groupby(result.problem.groups).transform("max").to_numpy()  # whole runs
        errors[name] = _held_out(result, size, _cutoffs(size, cuts, least))
    table = pd.DataFrame(errors).dropna()
    return {name: float(table[name].mean()) for name in errors}


def _held_out(result: FitResult, size: np.ndarray, cutoffs: list[float]) -> pd.Series:
    """The rms error beyond each cut-off; NaN where there is no fit."""
    held = {cut: _errors(result, size > cut) for cut in cutoffs}
    rms = {cut: np.nan if off is None else _rms(off) for cut, off in held.items()}
    return pd.Series(rms, dtype=float)


def _scale_of_run(runs: pd.DataFrame, by: str, cluster: str | None) -> np.ndarray:
    """`by` of each row; where rows share a run, the run's largest: a run is held out whole."""
    if cluster is not None and cluster in runs.columns:
        return runs.groupby(cluster)[by].transform("max").to_numpy(float)
    return runs[by].to_numpy(float)


def _cutoffs(size: np.ndarray, cuts: int, least: int) -> list[float]:
    """Cut-offs at growing quantiles with at least `least` rows below and one above."""
    values = np.quantile(size, np.linspace(0.4, 0.8, cuts), method="lower")
    return [float(c) for c in np.unique(values) if (size <= c).sum() >= least and (size > c).any()]


def _objective(result: FitResult) -> tuple[str, float | None]:
    """The arguments of fit() that repeat a fit's objective, threshold and all."""
    if result.objective_kind == "lad":
        return "lad", None
    delta = result.certificate["delta"]
    return ("ls", None) if delta is None else ("huber", delta)


def _errors(result: FitResult, held: np.ndarray) -> np.ndarray | None:
    """log(measured / predicted) of the rows `held`, by the law refitted to all others.

    None where the others do not suffice for a fit, or it fails.
    """
    assert result.problem is not None and result.minimum is not None
    problem = result.problem.take(np.flatnonzero(~held))
    if problem.n <= problem.q or any(np.ptp(x) == 0 for x in problem.columns.values()):
        return None
    warm = problem.model.centred(result.problem.model.natural(result.minimum.basins))
    try:
        with np.errstate(all="ignore"):
            found = minimise(problem, *_objective(result), seed=0, warm=warm)
    except (FloatingPointError, np.linalg.LinAlgError):
        return None
    params = {p: float(v[0]) for p, v in problem.params(found.theta).items()}
    x = {name: column[held] for name, column in result.problem.columns.items()}
    with np.errstate(all="ignore"):
        return np.log(result.problem.target[held] / result.law.predict(params, **x))


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _backtest(
    law: Law,
    runs: pd.DataFrame,
    size: np.ndarray,
    cutoffs: list[float],
    level: float,
    options: dict[str, Any],
) -> tuple[pd.DataFrame, list[str]]:
    """The table, and a sentence for each cut-off at which there is no fit."""
    rows, failed = [], []
    cluster = options.get("cluster", "run_id")
    for cut in cutoffs:
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
            "error": _rms(off),
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
    """`options` with weights, if they are an array, cut to the rows kept."""
    weights = options.get("weights")
    if weights is None or isinstance(weights, str):
        return options
    return {**options, "weights": np.asarray(weights, float)[keep]}


def _leave_one_out(result: FitResult) -> pd.DataFrame:
    """Each value of the first input in turn, binned where there are more than 12."""
    name = result.law.inputs[0]
    x = result.runs[name].to_numpy(float)
    scale = x
    if len(np.unique(x)) > 12:
        edges = np.geomspace(x.min(), x.max(), 11)
        middle = np.sqrt(edges[1:] * edges[:-1])
        scale = middle[np.clip(np.searchsorted(edges, x, side="right") - 1, 0, 9)]
    rows = []
    for value in np.unique(scale):
        off = _errors(result, scale == value)
        if off is not None:
            rows.append({name: value, "n_held": len(off), "error": _rms(off), "bias": off.mean()})
    return pd.DataFrame(rows, columns=[name, "n_held", "error", "bias"])


def _rivals(law: Law) -> list[Law]:
    """Laws of the same inputs and target that differ in one assumption."""
    if law.target == "L" and law.inputs == ("N", "D"):
        names = ["chinchilla", "bottleneck", "shared_exponent", "kaplan_ND"]
        found = [known.LAWS[name] for name in names]
    elif law.target == "L" and len(law.inputs) == 1:
        x = law.inputs[0]
        found = [known.power(x), known.floor(x), known.broken(x)]
    else:
        found = []
    kaplan = {"kaplan_N", "kaplan_D", "kaplan_C"}
    same = law.name if law.name not in kaplan else f"power_{law.inputs[0]}"
    return [each for each in found if each.name != same]


def _compare(
    whole: FitResult,
    rivals: list[Law],
    size: np.ndarray,
    cutoffs: list[float],
    options: dict[str, Any],
) -> pd.DataFrame:
    """Fit each law with the same objective to the same rows.

    Rows of one run share their noise, so runs are what AICc counts: minus twice the log likelihood
    is taken a row, times the number of runs.
    """
    rows = {}
    for law in (whole.law, *rivals):
        try:
            result = whole if law is whole.law else fit(law, whole.runs, **options)
        except FitError as error:
            rows[law.name] = {"q": len(law.params), "status": str(error).split(":")[0]}
            continue
        assert result.minimum is not None and result.problem is not None
        n, k = result.problem.units(), result.problem.q + 1
        aicc = n * deviance(result) + 2 * k
        aicc = aicc + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.inf
        rows[law.name] = {
            "q": k - 1,
            "aicc": aicc,
            "error": _rms(result.log_residuals),
            "held_out": _held_out(result, size, cutoffs).mean(),
            "left_out": _leave_one_out(result)["error"].mean(),
            "status": "; ".join(Status(word.code) for word in result.status),
        }
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.index.name = "law"
    out["aicc"] -= out["aicc"].min()
    return out


def _verdict(
    whole: FitResult, backtest: pd.DataFrame, compared: pd.DataFrame, level: float
) -> tuple[list[str], list[str]]:
    """Objections to the law, and notes."""
    against, notes = [], []
    law, x = whole.law, whole.runs
    for name in law.inputs:
        decades = float(np.log10(x[name].max() / x[name].min()))
        if decades < NARROW and name not in _NOT_SIZES:
            what = "tell an exponent from a floor" if "E" in law.params else "know an exponent"
            against.append(f"{name} spans {decades:.2g} decades: too narrow to {what}")
    if whole.certificate["not_identified"]:
        names = ", ".join(whole.certificate["not_identified"])
        against.append(f"the data do not determine {names}")
    if CONVERGED not in whole.status:
        against.append("the fit did not converge")
    if whole.certificate["wrong_sign"]:
        against.append(f"wrong sign of {', '.join(whole.certificate['wrong_sign'])}")
    p = lack_of_fit(whole)
    if p < 0.001:
        against.append(f"residuals follow the inputs (p = {p:.1g}): the form is wrong somewhere")
    if not len(backtest):
        against.append("too few runs to hold any out")
    elif backtest["coverage"].notna().any():
        covered = float(np.average(backtest["coverage"], weights=backtest["n_held"]))
        noise = 2 * np.sqrt(level * (1 - level) / backtest["runs_held"].max())
        # Predictions of one fit err together, so a shortfall must be clear to count.
        if covered < level - 0.1 - noise:
            wider = float(np.median(backtest["inflation"]))
            against.append(
                f"{100 * level:g} % intervals cover {100 * covered:.0f} % of larger runs: widen "
                f"them {wider:.2g} times when extrapolating"
            )
    notes += [word for word in whole.status if word.code in ("implausible", "duplicates")]
    notes += _floor_note(whole, compared)
    if len(compared) > 1:
        here = compared.loc[law.name]
        for name, row in compared.drop(index=law.name).iterrows():
            aicc, held = row.get("aicc"), row.get("held_out")
            if pd.isna(aicc) or pd.isna(held):
                continue
            better_fit = aicc < here["aicc"] - 4
            better_held = held < 0.9 * here["held_out"]
            if better_fit and better_held:
                against.append(
                    f"{name} fits better (AICc {here['aicc'] - aicc:.3g} lower) and predicts "
                    f"better ({100 * held:.2g} % against {100 * here['held_out']:.2g} %)"
                )
            elif better_fit or better_held:
                notes.append(
                    f"{name} {'fits' if better_fit else 'predicts larger runs'} better but does "
                    f"not {'predict larger runs' if better_fit else 'fit'} better: undetermined"
                )
    return against, notes


def _floor_note(whole: FitResult, compared: pd.DataFrame) -> list[str]:
    """Floor or none, for a law of one input: AICc and the curvature test, side by side."""
    law = whole.law
    if len(law.inputs) != 1 or law.target != "L":
        return []
    x = law.inputs[0]
    pure = [name for name in (f"power_{x}", f"kaplan_{x}") if name in compared.index]
    if not pure or f"floor_{x}" not in compared.index:
        return []
    gain = float(compared.loc[pure[0], "aicc"] - compared.loc[f"floor_{x}", "aicc"])  # pyright: ignore
    assert whole.problem is not None
    t, p = curvature(whole.problem.columns[x], whole.problem.target, whole.problem.groups)
    by_aicc, by_test = gain > 2, t > 0 and p < 0.05
    word = "undetermined"
    if by_aicc == by_test:
        word = "supported" if by_aicc else "not supported"
    return [f"a floor is {word}: AICc gains {gain:.3g}, curvature t = {t:.2g} (p = {p:.2g})"]
