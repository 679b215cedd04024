"""Critical batch size: what a larger batch costs in examples and saves in steps.

To reach one loss, S steps and E = B S examples trade off as (S / S_min - 1)(E / E_min - 1) = 1
(McCandlish et al. 2018, eq. 2.11), that is S(B) = S_min + E_min / B; at the critical batch size
B_crit = E_min / S_min training takes twice the fewest steps and twice the fewest examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis import laws
from analysis.fitting.checks import FitError, check_draws, check_level
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.envelope import envelope
from analysis.frontiers.result import Frontier, quantiles
from analysis.tables.select import settled
from scaling.errors import TableError
from scaling.table import check, missing_column

_FEWEST = 3
"""Batch sizes that a trade-off needs: two parameters and something to judge them by."""


@dataclass(frozen=True)
class CriticalBatch:
    """The critical batch size at each loss, and its law."""

    table: pd.DataFrame = field(repr=False)
    """One row a contour: L (and N), S_min, E_min, B_crit with low and high, `batches` and, where it
    was measured, the gradient noise scale B_noise there (McCandlish et al. 2018, eq. 2.9): the
    geometric mean over the runs."""
    fits: tuple[FitResult, ...] = field(repr=False)
    """The trade-off S(B) of each row."""
    law: FitResult | None
    """B_crit(L) = B_star / L^(1 / alpha_B); None for fewer than three losses."""
    status: tuple[str, ...]
    level: float = 0.95

    def record(self) -> dict[str, Any]:
        """Everything as plain numbers and strings, ready for JSON."""
        return {
            "contours": self.table.astype(object)
            .where(self.table.notna(), None)
            .to_dict("records"),
            "law": None if self.law is None else self.law.record(),
            "status": list(self.status),
            "level": self.level,
        }

    def __str__(self) -> str:
        shown = self.table.to_string(index=False, float_format="{:.4g}".format)
        lines = [f"critical batch size [tokens], {self.level:.0%} intervals", shown]
        if self.law is not None:
            p = self.law.interval(self.level)
            at = {name: f"[{p['low'][name]:.3g}, {p['high'][name]:.3g}]" for name in p.index}
            lines.append(
                f"B_crit(L) = {p['value']['B_star']:.3g} {at['B_star']} / L^(1 / alpha_B), "
                f"alpha_B = {p['value']['alpha_B']:.3g} {at['alpha_B']}; the paper: 2e8, 0.21"
            )
        return "\n".join(lines + [f"  ! {line}" for line in self.status])


def critical_batch(
    points: pd.DataFrame, *, bootstrap: int = 1000, level: float = 0.95, seed: int = 0
) -> CriticalBatch:
    """The critical batch size from steps to a loss: columns L (the loss reached), B and S.

    One trade-off is fitted for every L (and every N, where there is such a column) by least
    squares of log S. `contours` makes such a table of learning curves. Raises TableError where no
    contour has three batch sizes. The law is fitted to all contours, weighted by their precision.

    Source: McCandlish et al. 2018 (arXiv 1812.06162), eq. 2.11 and 2.12; Kaplan et al. 2020,
    section 5.1, eq. 5.3
    """
    check(points, need=("L", "B", "S"))
    by = [name for name in ("N", "L") if name in points.columns]
    rows, fits, status = [], [], []
    for key, contour in points.groupby(by):
        said = ", ".join(f"{n} = {k:.4g}" for n, k in zip(by, key, strict=True))
        if contour["B"].nunique() < _FEWEST:
            status.append(f"{said}: fewer than {_FEWEST} batch sizes; not used")
            continue
        try:
            found = fit(
                laws.mccandlish, contour.drop(columns="status", errors="ignore"), objective="ls",
                bootstrap=bootstrap, seed=seed,
            )  # fmt: skip
        except FitError as error:
            status.append(f"{said}: {error}")
            continue
        B = found.derived(lambda p: p["E_min"] / p["S_min"], level)
        row = dict(zip(by, key, strict=True)) | {
            "S_min": found.params["S_min"],
            "E_min": found.params["E_min"],
            "B_crit": B.value,
            "low": B.low,
            "high": B.high,
            "batches": contour["B"].nunique(),
        }
        if "B_noise" in contour.columns:
            measured = contour["B_noise"][contour["B_noise"] > 0]
            row["B_noise"] = float(np.exp(np.log(measured).mean())) if len(measured) else np.nan
        low, high = contour["B"].min(), contour["B"].max()
        if not low < B.value < high:
            status.append(
                f"{said}: B_crit = {B.value:.3g} lies outside the batch sizes trained, "
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
    if table["L"].nunique() >= 3:
        law = fit(
            laws.critical_batch, table, weights=_precision(table), bootstrap=bootstrap, seed=seed
        )
    return CriticalBatch(table, tuple(fits), law, tuple(status), level)


def _precision(table: pd.DataFrame) -> np.ndarray:
    """Weights of the contours from the widths of their intervals in ln B_crit; a contour is never
    taken to be surer than the typical one."""
    with np.errstate(all="ignore"):
        width = np.log(table["high"] / table["low"]).to_numpy(float)
    width = np.where(np.isfinite(width), width, 50.0)
    typical = float(np.median(width))
    return 1 / np.maximum(width, typical) ** 2 if typical > 0 else np.ones(len(table))


def batch_at_overhead(tradeoff: FitResult, *, base: float, overhead: float = 0.2) -> float:
    """The batch size at which training takes `overhead` more examples than at `base`.

    With S(B) = a + b / B, B S(B) = (1 + overhead) base S(base) gives
    B = (1 + overhead) base + overhead b / a.

    Source: Zhang et al. 2024 (arXiv 2410.21676)
    """
    a, b = tradeoff.params["S_min"], tradeoff.params["E_min"]
    return (1 + overhead) * base + overhead * b / a


def adjusted(table: pd.DataFrame, critical: CriticalBatch | Mapping[str, float]) -> pd.DataFrame:
    """`table` with C_min and S_min beside C and S: what training far below, or far above, the
    critical batch size would have taken.

    C_min = C / (1 + B / B_crit(L)), S_min = S / (1 + B_crit(L) / B). `critical` is a result of
    `critical_batch`, or {"B_star": tokens, "alpha_B": exponent}. The frontier of adjusted curves is
    frontier(adjusted(curves, critical), flops="C_min").

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eqs. 5.4 and 5.5
    """
    if isinstance(critical, CriticalBatch):
        if critical.law is None:
            raise TableError("B_crit(L) is not known: it takes contours at three losses or more.")
        params: Mapping[str, float] = critical.law.params
    else:
        params = critical
    for name in ("L", "B", "C", "S"):
        if name not in table.columns:
            raise TableError(missing_column(name, table.columns))
    crit = laws.critical_batch.predict(params, L=table["L"].to_numpy(float))
    batch = table["B"].to_numpy(float)
    return table.assign(
        C_min=table["C"] / (1 + batch / crit), S_min=table["S"] / (1 + crit / batch)
    )


def compute_exponents(*, alpha_N: float, alpha_B: float, alpha_S: float) -> dict[str, float]:
    """Exponents of L, N, B, S and D in C_min that follow from L(N, S_min) and B_crit(L).

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
    """Steps to reach each loss at each batch size: a table of N, L, B, S for `critical_batch`.

    curves  one row an evaluation: run_id, N, B, S, L (`load` with curves=True). Runs of one size
            at several batch sizes, each with its own good learning rate.
    losses  to reach [nats/token]; where not given, `count` of them, spread in log over what at
            least three batch sizes of a size reach.

    Where the curves have B_noise, the gradient noise scale of each run when it gets there.

    A curve counts from its running minimum, interpolated in log S; of the runs of one N and B the
    fastest to a loss counts. Raises TableError where no size has three batch sizes.
    """
    for name in ("run_id", "N", "B", "S", "L"):
        if name not in curves.columns:
            raise TableError(missing_column(name, curves.columns))
    rows = []
    for N, size in curves.groupby("N"):
        runs = [run.sort_values("S") for _, run in size.groupby("run_id")]
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
                best = np.minimum.accumulate(run["L"].to_numpy(float))
                if best[-1] <= goal < best[0]:
                    at = np.interp(-goal, -best, np.log(run["S"].to_numpy(float)))
                    noise = np.nan
                    if "B_noise" in run.columns and (run["B_noise"] > 0).any():
                        seen = run[run["B_noise"] > 0]
                        noise = np.exp(np.interp(at, np.log(seen["S"]), np.log(seen["B_noise"])))
                    rows.append((N, goal, batch[i], np.exp(at), noise))
    if not rows:
        raise TableError(
            f"no size was trained at {_FEWEST} batch sizes; a critical batch size needs the same "
            "N at several B, say B a factor of 2 apart."
        )
    table = pd.DataFrame(rows, columns=["N", "L", "B", "S", "B_noise"]).sort_values("S")
    table = table.drop_duplicates(["N", "L", "B"]).dropna(axis=1, how="all")
    return table.sort_values(["N", "L", "B"], ignore_index=True)


@dataclass(frozen=True)
class Efficient:
    """Compute-efficient training as in section 6 of Kaplan et al. 2020."""

    frontier: Frontier
    """The envelope of the curves over C_min, with D = C_min / (6 N); lines of B = B_crit(L) and of
    S = D / B beside those of N, D and L."""
    critical: CriticalBatch
    steps: FitResult
    """L(N, S_min)."""
    exponents: pd.DataFrame
    """One row each for L, N, B, S and D as powers of C_min: value with low and high (measured),
    analytic (from L(N, S_min) and B_crit), paper."""

    def record(self) -> dict[str, Any]:
        """Everything as plain numbers and strings, ready for JSON."""
        return {
            "exponents": self.exponents.to_dict("records"),
            "frontier": self.frontier.record(),
            "critical_batch": self.critical.record(),
            "steps": self.steps.record(),
        }

    def __str__(self) -> str:
        shown = self.exponents.to_string(index=False, float_format="{:.3f}".format)
        alpha_C = -self.exponents.set_index("exponent").loc["L", "analytic"]
        return (
            "compute-efficient training, powers of C_min = C / (1 + B / B_crit(L))\n"
            f"{shown}\nanalytic: alpha_C = 1 / (1 / alpha_S + 1 / alpha_B + 1 / alpha_N) = "
            f"{alpha_C:.3f}\n{self.critical}\n{self.frontier}"
        )


_KAPLAN = {"L": -0.050, "N": 0.73, "B": 0.24, "S": 0.03, "D": 0.27}
"""Kaplan et al. 2020, Table 6 and eq. 1.3: powers of C_min as measured there."""


def efficient(
    curves: pd.DataFrame,
    critical: CriticalBatch | Mapping[str, float] | None = None,
    *,
    bootstrap: int = 300,
    level: float = 0.95,
    seed: int = 0,
) -> Efficient:
    """N, B, S and D of compute-efficient training as powers of C_min, measured and analytic.

    curves    learning curves of several sizes: run_id, N, B, S, D, C, L. What was trained at B far
              from critical is adjusted to C_min and S_min.
    critical  of `critical_batch`, with its law; where not given, of these curves' own contours.

    Measured: N and L by the envelope over C_min, B = B_crit(L), D = C_min / (6 N), S = D / B.
    Analytic: `compute_exponents` of a fit of kaplan_NS to the later half of each curve (in ln S; of
    that what is `settled`) and of B_crit's law. Raises TableError where there is no B_crit(L), or no
    envelope.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), sections 5 and 6, Figs. 13 and 14
    """
    check_draws(bootstrap, seed)
    check_level(level)
    if critical is None:
        critical = critical_batch(contours(curves), bootstrap=bootstrap, seed=seed)
    if not isinstance(critical, CriticalBatch):
        raise TableError("give the result of critical_batch, which knows how sure it is.")
    table = adjusted(curves, critical)
    assert critical.law is not None
    front = envelope(
        table.assign(C=table["C_min"], D=table["C_min"] / (6 * table["N"])).drop(columns="B"),
        bootstrap=bootstrap,
        level=level,
        seed=seed,
    )
    middle = table.groupby("run_id")["S"].transform(lambda s: np.sqrt(s.min() * s.max()))
    late = settled(table[table["S"] >= middle])
    steps = fit(laws.kaplan_NS, late.assign(S=late["S_min"]), bootstrap=bootstrap, seed=seed)
    law, lines = critical.law, dict(front.lines)
    best = pd.DataFrame([law.params])
    draws = law.samples if len(law.samples) else best
    drawn = pd.concat([best, draws.sample(bootstrap, replace=True, random_state=seed)])
    lines["B"] = -lines["L"] / drawn[["alpha_B"]].to_numpy(float)
    lines["B"][:, 0] += np.log(drawn["B_star"].to_numpy(float))
    lines["S"] = lines["D"] - lines["B"]
    analytic = compute_exponents(
        alpha_N=steps.params["alpha_N"], alpha_S=steps.params["alpha_S"],
        alpha_B=law.params["alpha_B"],
    )  # fmt: skip
    rows = []
    for name, paper in _KAPLAN.items():
        slopes = lines[name][:, 1]
        low, high = quantiles(slopes[1:], level)
        rows.append((name, slopes[0], float(low), float(high), analytic[name], paper))
    columns = ["exponent", "value", "low", "high", "analytic", "paper"]
    front = replace(front, flops="C_min", lines=lines)
    return Efficient(front, critical, steps, pd.DataFrame(rows, columns=columns))
