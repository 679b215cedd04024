"""Critical batch size: the examples that a larger batch costs and the steps that it saves.

To reach one loss, S steps and E = B S examples trade off as (S / S_min - 1)(E / E_min - 1) = 1
(McCandlish et al. 2018, eq. 2.11), that is S(B) = S_min + E_min / B; at the critical batch size
B_crit = E_min / S_min, training takes twice the minimum number of steps and twice the minimum
number of examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis import laws, notebook
from analysis.arguments import expect
from analysis.fitting.checks import FitError, check_draws, check_level
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.envelope import envelope
from analysis.frontiers.result import Frontier, exponent_interval
from analysis.in_words import cell, interval
from analysis.tables.select import settled
from scaling import progress
from scaling.errors import TableError
from scaling.jsonable import finite
from scaling.table import check, missing_column

_FEWEST = 3
"""Number of batch sizes that a trade-off needs: it has two parameters, and one more size tests
it."""
_LAW_LOSSES = 3
"""Number of losses with a critical batch size that the law B_crit(L) needs."""
_VAST = 1e4
"""An interval of B_crit over more than this factor says nothing and is not stated."""
PAPER_EXPONENTS = {"L": -0.050, "N": 0.73, "B": 0.24, "S": 0.03, "D": 0.27}
"""Powers of C_min that Kaplan et al. 2020 measured (Table 6 and eq. 1.3)."""


@dataclass(frozen=True, kw_only=True)
class CriticalBatch:
    """The critical batch size at each loss, and its law."""

    table: pd.DataFrame = field(repr=False)
    """One row per contour: L (and N), S_min, E_min, B_crit with low and high, the number of batch
    sizes in `batches` and, where measured, the gradient noise scale B_noise (McCandlish et al.
    2018, eq. 2.9), as a geometric mean over the runs."""
    fits: tuple[FitResult, ...] = field(repr=False)
    """The trade-off S(B) of each row."""
    law: FitResult | None
    """B_crit(L) = B_star / L^(1 / alpha_B); None for fewer than three losses."""
    status: tuple[str, ...]
    level: float = 0.95

    def _repr_html_(self) -> str:
        return notebook.critical_batch(self)

    def require_law(self) -> FitResult:
        """Return `law`; raise TableError if there is none."""
        if self.law is None:
            raise TableError("B_crit(L) is not known: it takes contours at three losses or more.")
        return self.law

    def _stated(self) -> pd.DataFrame:
        """Return the table without the ends of intervals that say nothing."""
        table = self.table.copy()
        known = (table["low"] > 0) & (table["high"] <= _VAST * table["low"])
        table[["low", "high"]] = table[["low", "high"]].where(known, axis=0)
        return table

    def record(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, ready for JSON."""
        return {
            "contours": finite(
                [
                    row | ({"reason": "not identified"} if np.isnan(row["low"]) else {})
                    for row in self._stated().to_dict("records")
                ]
            ),
            "law": None if self.law is None else self.law.record(),
            "status": list(self.status),
            "level": self.level,
        }

    def __str__(self) -> str:
        shown = self._stated().map(cell).to_string(index=False)
        lines = [f"critical batch size [tokens], {self.level:.0%} intervals", shown]
        if self.law is not None:
            p = self.law.interval(self.level)
            at = {name: interval(p["low"][name], p["high"][name], ".3g") for name in p.index}
            lines.append(
                f"B_crit(L) = {p['value']['B_star']:.3g} {at['B_star']} / L^(1 / alpha_B), "
                f"alpha_B = {p['value']['alpha_B']:.3g} {at['alpha_B']} "
                "(Kaplan et al. 2020: 2e8, 0.21)"
            )
        return "\n".join(lines + [f"  ! {line}" for line in self.status])


def critical_batch(
    points: pd.DataFrame, *, bootstrap: int = 1000, level: float = 0.95, seed: int = 0
) -> CriticalBatch:
    """Fit the critical batch size to the steps that reach a loss.

    points  Columns L (the loss reached), B and S, and optionally N; `contours` makes such a table
            from learning curves.

    One trade-off is fitted for every L (and N) by least squares of log S. The law is fitted to all
    contours, weighted by their precision. Raises TableError if no contour has three batch sizes.

    Source: McCandlish et al. 2018 (arXiv 1812.06162), eq. 2.11 and 2.12; Kaplan et al. 2020,
    section 5.1, eq. 5.3
    """
    remedy = "It must be a table, as contours() returns it."
    expect("critical_batch(points)", "points", points, pd.DataFrame, remedy=remedy)
    check(points, need=("L", "B", "S"))
    by = [name for name in ("N", "L") if name in points.columns]
    rows, fits, status = [], [], []
    progress.step("fitting the critical batch size")
    for key, contour in points.groupby(by):
        name = ", ".join(f"{n} = {k:.4g}" for n, k in zip(by, key, strict=True))
        if contour["B"].nunique() < _FEWEST:
            status.append(f"{name}: fewer than {_FEWEST} batch sizes; not used")
            continue
        try:
            found = fit(
                laws.mccandlish, contour.drop(columns="status", errors="ignore"), objective="ls",
                bootstrap=bootstrap, seed=seed,
            )  # fmt: skip
        except FitError as error:
            status.append(f"{name}: {error}")
            continue
        row = dict(zip(by, key, strict=True)) | _contour_row(contour, found, level)
        low, high = contour["B"].min(), contour["B"].max()
        if not low < row["B_crit"] < high:
            status.append(
                f"{name}: B_crit = {row['B_crit']:.3g} lies outside the batch sizes trained, "
                f"{low:.3g} to {high:.3g}"
            )
        rows.append(row)
        fits.append(found)
    if not rows:
        raise TableError(
            "a critical batch size needs one loss reached at three batch sizes or more: "
            + "; ".join(status)
        )
    table = pd.DataFrame(rows)
    law = None
    if table["L"].nunique() >= _LAW_LOSSES:
        law = fit(
            laws.critical_batch, table, weights=_precision(table), bootstrap=bootstrap, seed=seed
        )
    return CriticalBatch(table=table, fits=tuple(fits), law=law, status=tuple(status), level=level)


def critical_batch_for_plans(
    runs: pd.DataFrame, curves: pd.DataFrame | None, *, seed: int = 0
) -> CriticalBatch | None:
    """Return the critical batch size that gives a plan its batch size.

    runs    Finished runs; with fewer than three batch sizes there is none.
    curves  The evaluations of these runs; without them there is none.

    Raises TableError or FitError if the curves do not determine it.
    """
    if curves is None or not has_batch_sizes(runs):
        return None
    return critical_batch(contours(curves), seed=seed)


def has_batch_sizes(runs: pd.DataFrame) -> bool:
    """Return whether runs have enough batch sizes for a trade-off of steps and examples."""
    return "B" in runs.columns and runs["B"].nunique() >= _FEWEST


def _contour_row(contour: pd.DataFrame, tradeoff: FitResult, level: float) -> dict[str, float]:
    """Return the row of CriticalBatch.table for one contour."""
    B = tradeoff.derived(lambda p: p["E_min"] / p["S_min"], level)
    row = {
        "S_min": tradeoff.params["S_min"],
        "E_min": tradeoff.params["E_min"],
        "B_crit": B.value,
        "low": B.low,
        "high": B.high,
        "batches": contour["B"].nunique(),
    }
    if "B_noise" in contour.columns:
        measured = contour["B_noise"][contour["B_noise"] > 0]
        row["B_noise"] = float(np.exp(np.log(measured).mean())) if len(measured) else np.nan
    return row


def _precision(table: pd.DataFrame) -> np.ndarray:
    """Return weights of the contours from the widths of their intervals in ln B_crit.

    No contour is weighted as more precise than the typical one.
    """
    with np.errstate(all="ignore"):
        width = np.log(table["high"] / table["low"]).to_numpy(float)
    width = np.where(np.isfinite(width), width, 50.0)
    typical = float(np.median(width))
    return 1 / np.maximum(width, typical) ** 2 if typical > 0 else np.ones(len(table))


def batch_at_overhead(tradeoff: FitResult, *, base: float, overhead: float = 0.2) -> float:
    """Return the batch size at which training takes `overhead` more examples than at `base`.

    With S(B) = a + b / B, B S(B) = (1 + overhead) base S(base) gives
    B = (1 + overhead) base + overhead b / a.

    Source: Zhang et al. 2024 (arXiv 2410.21676)
    """
    a, b = tradeoff.params["S_min"], tradeoff.params["E_min"]
    return (1 + overhead) * base + overhead * b / a


def adjusted(table: pd.DataFrame, critical: CriticalBatch | Mapping[str, float]) -> pd.DataFrame:
    """Add C_min and S_min: the compute and steps that other batch sizes would have taken.

    C_min = C / (1 + B / B_crit(L)) is the compute needed far below the critical batch size, and
    S_min = S / (1 + B_crit(L) / B) is the number of steps needed far above it. `critical` is a
    result of `critical_batch`, or {"B_star": tokens, "alpha_B": exponent}. The frontier of adjusted
    curves is frontier(adjusted(curves, critical), flops="C_min").

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eqs. 5.4 and 5.5
    """
    params: Mapping[str, float]
    params = critical.require_law().params if isinstance(critical, CriticalBatch) else critical
    for name in ("L", "B", "C", "S"):
        if name not in table.columns:
            raise TableError(missing_column(name, table.columns))
    crit = laws.critical_batch.predict(params, L=table["L"].to_numpy(float))
    batch = table["B"].to_numpy(float)
    return table.assign(
        C_min=table["C"] / (1 + batch / crit), S_min=table["S"] / (1 + crit / batch)
    )


def compute_exponents(*, alpha_N: float, alpha_B: float, alpha_S: float) -> dict[str, float]:
    """Derive the exponents of L, N, B, S and D in C_min from L(N, S_min) and B_crit(L).

    alpha_C = 1 / (1 / alpha_S + 1 / alpha_B + 1 / alpha_N); N ~ C^(alpha_C / alpha_N),
    B ~ C^(alpha_C / alpha_B), S ~ C^(alpha_C / alpha_S), D = B S.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eqs. 1.7 and 1.8; section 6.2
    """
    alpha_C = 1 / (1 / alpha_S + 1 / alpha_B + 1 / alpha_N)
    N, B, S = alpha_C / alpha_N, alpha_C / alpha_B, alpha_C / alpha_S
    return {"L": -alpha_C, "N": N, "B": B, "S": S, "D": B + S}


def contours(
    curves: pd.DataFrame, losses: Sequence[float] | None = None, *, count: int = 5
) -> pd.DataFrame:
    """Find the steps that reach each loss at each batch size: N, L, B, S for `critical_batch`.

    curves  One evaluation per row: run_id, N, B, S, L (`load` with curves=True). Sizes are trained
            at several batch sizes, each with a learning rate that suits it.
    losses  Losses to reach [nats/token]. The default is `count` losses, spread in log over the
            range that at least three batch sizes of a size reach.

    If the curves have B_noise, the table includes the gradient noise scale at which each run
    reaches the loss. The running minimum of each curve is interpolated in log S; of several runs
    with the same N and B, the first to reach a loss counts. Raises TableError if no size has three
    batch sizes.
    """
    remedy = "It must be a table, as load(..., curves=True) returns it."
    expect("contours(curves)", "curves", curves, pd.DataFrame, remedy=remedy)
    for name in ("run_id", "N", "B", "S", "L"):
        if name not in curves.columns:
            raise TableError(missing_column(name, curves.columns))
    rows = []
    for N, size in curves.groupby("N"):
        if size["B"].nunique() < _FEWEST:
            continue
        runs = [run for _, run in size.sort_values("S", kind="stable").groupby("run_id")]
        runs = [run for run in runs if len(run) >= 2]
        reached = pd.Series({i: run["L"].min() for i, run in enumerate(runs)}, dtype=float)
        batch = pd.Series({i: run["B"].iloc[0] for i, run in enumerate(runs)}, dtype=float)
        per_batch = reached.groupby(batch).min().sort_values()
        if len(per_batch) < _FEWEST:
            continue
        goals = losses
        if goals is None:
            low = per_batch.iloc[_FEWEST - 1]
            high = min(run["L"].iloc[0] for run in runs)
            goals = np.geomspace(low, max(low, low + 0.6 * (high - low)), count)
        for goal in goals:
            for i, run in enumerate(runs):
                log_S = log_reached(run, "S", goal)
                if log_S is not None and goal < run["L"].iloc[0]:
                    rows.append((N, goal, batch[i], np.exp(log_S), _noise_scale(run, log_S)))
    if not rows:
        raise TableError(
            f"no size was trained at {_FEWEST} batch sizes; a critical batch size needs the same "
            "N at several B, such as B a factor of 2 apart."
        )
    table = pd.DataFrame(rows, columns=["N", "L", "B", "S", "B_noise"]).sort_values("S")
    table = table.drop_duplicates(["N", "L", "B"]).dropna(axis=1, how="all")
    return table.sort_values(["N", "L", "B"], ignore_index=True)


def log_reached(run: pd.DataFrame, x: str, loss: float) -> float | None:
    """Return ln x at which the running minimum of one curve reaches a loss, or None.

    The rows of `run` are sorted by x.
    """
    best = np.minimum.accumulate(run["L"].to_numpy(float))
    if not best[-1] <= loss <= best[0]:
        return None
    return float(np.interp(-loss, -best, np.log(run[x].to_numpy(float))))


def _noise_scale(run: pd.DataFrame, log_S: float) -> float:
    """Interpolate the gradient noise scale of a run; nan where it was not measured."""
    if "B_noise" not in run.columns or not (run["B_noise"] > 0).any():
        return np.nan
    measured = run[run["B_noise"] > 0]
    return float(np.exp(np.interp(log_S, np.log(measured["S"]), np.log(measured["B_noise"]))))


@dataclass(frozen=True, kw_only=True)
class Efficient:
    """Compute-efficient training, as in section 6 of Kaplan et al. 2020."""

    frontier: Frontier
    """The envelope of the curves over C_min, with D = C_min / (6 N). It has lines of B = B_crit(L)
    and S = D / B in addition to those of N, D and L."""
    critical: CriticalBatch
    steps: FitResult
    """L(N, S_min)."""
    exponents: pd.DataFrame
    """L, N, B, S and D as powers of C_min, one per row: the measured value with low and high,
    analytic (from L(N, S_min) and B_crit), and paper."""

    def record(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, ready for JSON."""
        return {
            "exponents": finite(self.exponents.to_dict("records")),
            "frontier": self.frontier.record(),
            "critical_batch": self.critical.record(),
            "steps": self.steps.record(),
        }

    def __str__(self) -> str:
        shown = self.exponents.map(lambda x: cell(x, ".3f")).to_string(index=False)
        alpha_C = -self.exponents.set_index("exponent").loc["L", "analytic"]
        return (
            "compute-efficient training, powers of C_min = C / (1 + B / B_crit(L))\n"
            f"{shown}\nanalytic: alpha_C = 1 / (1 / alpha_S + 1 / alpha_B + 1 / alpha_N) = "
            f"{alpha_C:.3f}\n{self.critical}\n{self.frontier}"
        )


def efficient(
    curves: pd.DataFrame,
    critical: CriticalBatch | Mapping[str, float] | None = None,
    *,
    bootstrap: int = 300,
    level: float = 0.95,
    seed: int = 0,
) -> Efficient:
    """Fit N, B, S and D of compute-efficient training as powers of C_min.

    curves    Learning curves of several sizes: run_id, N, B, S, D, C, L. They are adjusted to
              C_min and S_min.
    critical  A result of `critical_batch` with its law. The default is that of the curves' own
              contours.

    Measured exponents take N and L from the envelope over C_min, B = B_crit(L), D = C_min / (6 N)
    and S = D / B. Analytic ones are `compute_exponents` of B_crit's law and of kaplan_NS, fitted to
    the `settled` evaluations in the later half of each curve (in ln S). Raises TableError if there
    is no B_crit(L) or no envelope.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), sections 5 and 6, Figs. 13 and 14
    """
    check_draws(bootstrap, seed)
    check_level(level)
    if critical is None:
        critical = critical_batch(contours(curves), bootstrap=bootstrap, seed=seed)
    if not isinstance(critical, CriticalBatch):
        raise TableError("critical must be a result of critical_batch, which has intervals.")
    law = critical.require_law()
    table = adjusted(curves, critical)
    front = envelope(
        table.assign(C=table["C_min"], D=table["C_min"] / (6 * table["N"])).drop(columns="B"),
        bootstrap=bootstrap,
        level=level,
        seed=seed,
    )
    middle = table.groupby("run_id")["S"].transform(lambda s: np.sqrt(s.min() * s.max()))
    late = settled(table[table["S"] >= middle])
    steps = fit(laws.kaplan_NS, late.assign(S=late["S_min"]), bootstrap=bootstrap, seed=seed)
    lines = dict(front.lines)
    draws = resampled_params(law, bootstrap, seed)
    lines["B"] = -lines["L"] / draws[["alpha_B"]].to_numpy(float)
    lines["B"][:, 0] += np.log(draws["B_star"].to_numpy(float))
    lines["S"] = lines["D"] - lines["B"]
    analytic = compute_exponents(
        alpha_N=steps.params["alpha_N"], alpha_S=steps.params["alpha_S"],
        alpha_B=law.params["alpha_B"],
    )  # fmt: skip
    rows = []
    for name, paper in PAPER_EXPONENTS.items():
        slopes = lines[name][:, 1]
        low, high = exponent_interval(slopes, level)
        rows.append((name, slopes[0], low, high, analytic[name], paper))
    columns = ["exponent", "value", "low", "high", "analytic", "paper"]
    front = replace(front, flops="C_min", lines=lines)
    return Efficient(
        frontier=front, critical=critical, steps=steps,
        exponents=pd.DataFrame(rows, columns=columns),
    )  # fmt: skip


def resampled_params(result: FitResult, count: int, seed: int) -> pd.DataFrame:
    """Return the parameters of a fit, followed by `count` draws from its resamples."""
    best = pd.DataFrame([result.params])
    draws = result.samples if len(result.samples) else best
    return pd.concat([best, draws.sample(count, replace=True, random_state=seed)])
