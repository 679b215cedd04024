"""Minima of loss against size at fixed compute, by parabola or Akima interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy

from analysis import laws
from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.budgets import budget_of, budget_sets
from analysis.frontiers.optimum import optimum_at, parameter_draws
from analysis.frontiers.result import (
    Frontier,
    curvature_notes,
    data_ranges,
    lost_resamples,
    quantiles,
    straight_line,
)
from analysis.tables.conventions import counted, per_token
from scaling.errors import TableError

_ENOUGH = 250
"""Runs that show the shape of a law as well as thousands do."""


_LOST = 0.05
"""A minimum that more resamples than these lack is none."""
_NEAR = 8.0
"""A parabola uses sizes within this factor of the best one (and at least five)."""


def isoflop(
    runs: pd.DataFrame,
    *,
    kind: str = "isoflop",
    tolerance: float | None = None,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Frontier:
    """Minima of ln L against ln N at each compute budget, and power laws through them.

    kind       'isoflop' fits a parabola to the sizes near the best one, 'akima' interpolates all.
    tolerance  runs whose C lie within 1 + tolerance of each other share a budget (5 % where not
               given, more where that leaves most of the runs out).

    A minimum must be interior: where the best size is the smallest or the largest of its budget, or
    the parabola opens downwards, the budget is listed in `optima` with that kind and not used. Rows
    with equal run_id share their noise; repeats of a size (seeds) are averaged, so keep only its
    best learning rate beforehand. Losses at a C slightly off the budget's are moved there along
    Chinchilla's law, fitted to the same runs; on that law `Frontier.bias` is measured.

    Source: Hoffmann et al. 2022, section 3.2; Porian et al. 2024 (arXiv 2406.19146)
    """
    runs = counted(runs, "N", "C")
    budgets, status = budget_sets(runs, tolerance)
    law = _reference(runs)
    per = per_token(runs)
    spread = max(float(np.ptp(np.log(budget["C"]))) for budget in budgets)
    if spread > 1e-3:
        how = "losses are moved to the budget's C along a fitted law" if law else "not corrected"
        status.append(f"C differs by up to {np.expm1(spread):.1%} within a budget: {how}")
    budgets = [_levelled(budget, law) for budget in budgets]
    noise = _noise(budgets)
    rng = np.random.default_rng(seed)
    groups = pd.factorize(runs["run_id"])[0] if "run_id" in runs else np.arange(len(runs))
    shocks = noise * rng.standard_normal((bootstrap, groups.max() + 1))
    row_of = pd.Series(groups, index=runs.index)
    rows, paths = [], []
    for budget in budgets:
        C = budget_of(budget)
        u, v = np.log(budget["N"].to_numpy(float)), np.log(budget["L"].to_numpy(float))
        state = _interior(u, v, kind)
        draws = np.vstack([v, v + shocks[:, row_of[budget.index]]])
        at, least = _minima(u, draws, kind)
        if state == "minimum" and np.mean(~np.isfinite(at)) > _LOST:
            state = "flat"
        bias = np.nan
        if state == "minimum":
            bias = _bias(law, budget, kind, per)
            paths.append((np.log(C), at, least, bias))
            low, high = np.exp(quantiles(at[1:], level))
        else:
            at, least, low, high = at * np.nan, least * np.nan, np.nan, np.nan
        N = np.exp(at[0])
        rows.append((C, N, C / per(N), np.exp(least[0]), state, low, high, len(u), bias))
    columns = ["C", "N", "D", "L", "kind", "N_low", "N_high", "sizes", "bias"]
    optima = pd.DataFrame(rows, columns=columns)
    status += [
        f"no interior minimum at C = {', '.join(f'{C:.3g}' for C in group['C'])}: {_WHY[str(kind)]}"
        for kind, group in optima.groupby("kind")
        if kind != "minimum"
    ]
    if len(paths) < 2:
        found = optima[optima["kind"] == "minimum"]
        raise TableError(
            f"isoFLOP minima need two budgets with an interior minimum; of {len(budgets)} here "
            f"{len(paths)} have one: "
            + "; ".join(
                [*(f"N_opt({r.C:.3g}) = {r.N:.3g}" for r in found.itertuples()), *status]
                or ["one budget only; train another, ten times as large"]
            )
        )
    x = np.array([p[0] for p in paths])
    centre = float(x.mean())
    N, L = np.array([p[1] for p in paths]).T, np.array([p[2] for p in paths]).T
    logs = {"N": N, "D": x - np.log(per(np.exp(N))), "L": L}
    lines = {name: straight_line(x - centre, y) for name, y in logs.items()}
    status += lost_resamples(lines["N"], bootstrap)
    scale = _birge(x - centre, N)
    if scale > 1:
        status.append(
            f"the minima scatter {scale:.1f} times more about the line than the noise of the "
            "losses explains; intervals are widened by that"
        )
        lines = {name: line[0] + scale * (line - line[0]) for name, line in lines.items()}
    if len(paths) == 2:
        status.append("two budgets only: whether the frontier is straight is not tested")
    status += curvature_notes(x, L[0])
    off = np.array([p[3] for p in paths])
    known, bias = np.isfinite(off), None
    if known.sum() >= 2:
        line = straight_line(x[known] - centre, off[known])[0]
        bias = {"exponent": float(line[1]), "N": float(np.expm1(line[0]))}
    else:
        status.append(
            "the method's own bias is not known: Chinchilla's law, as it fits these runs, has no "
            "minimum within their sizes"
        )
    return Frontier(
        kind, "N", "6 N D", optima, data_ranges(runs, optima), tuple(status), lines, centre,
        None, level, per, bias, sets=tuple(budgets),
    )  # fmt: skip


def _reference(runs: pd.DataFrame) -> FitResult | None:
    """Chinchilla's law fitted to the runs (a few hundred of them, spread over N and C), to measure an
    estimator with; None where it cannot be."""
    spread = runs.sort_values(["C", "N"], kind="stable")
    spread = spread.iloc[:: max(1, len(runs) // _ENOUGH)]
    try:
        return fit(laws.chinchilla, spread, bootstrap=0, cluster=None)
    except (FitError, TableError):
        return None


def _levelled(budget: pd.DataFrame, law: FitResult | None) -> pd.DataFrame:
    """The budget with losses as they would be at its own C, each size trained on as much more or
    fewer tokens."""
    if law is None or np.ptp(np.log(budget["C"])) == 0:
        return budget
    N, D = budget["N"].to_numpy(), budget["D"].to_numpy()
    at = D * budget_of(budget) / budget["C"].to_numpy()
    return budget.assign(L=budget["L"] * law.predict(N=N, D=at) / law.predict(N=N, D=D))


def _bias(
    law: FitResult | None, budget: pd.DataFrame, kind: str, per: Callable[[Any], Any]
) -> float:
    """ln N of the minimum that the method finds in noiseless losses of the law at the budget's own
    sizes, less the law's true optimum: the method's bias, from the width of the grid, from where
    its middle lies and from alpha != beta; nan where there is none.

    Source: Czech et al. 2026 (arXiv 2603.22339)
    """
    if law is None:
        return np.nan
    C, N = budget_of(budget), budget["N"].to_numpy()
    D = budget["D"].to_numpy() * C / budget["C"].to_numpy()
    u, v = np.log(N), np.log(law.predict(N=N, D=D))
    true = optimum_at(law.law, parameter_draws(law), np.array([C]), per)["N"][0, 0]
    if not np.isfinite(v).all() or _interior(u, v, kind) != "minimum":
        return np.nan
    return float(_minima(u, v[None], kind)[0][0] - np.log(true))


_WHY = {
    "edge": "the least loss is at the smallest or largest size, so the optimum is outside",
    "concave": "the parabola opens downwards, so it has no minimum",
    "flat": f"within the noise of the losses (in over {_LOST:.0%} of resamples) the parabola may as "
    "well open downwards",
}


def _near(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Mask of the sizes a parabola uses: within a factor of the best, and five at least."""
    distance = np.abs(u - u[np.argmin(v)])
    reach = max(np.log(_NEAR), np.sort(distance)[min(4, len(u) - 1)])
    return distance <= reach * (1 + 1e-12)


def parabola(N: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parabola in log-log that `isoflop` fits to one budget, to be drawn: (which of the sizes
    it uses, N, L along it)."""
    u, v = np.log(N), np.log(L)
    near = _near(u, v)
    origin = u[near].mean()
    x = np.linspace(u[near].min(), u[near].max(), 61)
    y = np.polyval(np.polyfit(u[near] - origin, v[near], 2), x - origin)
    return near, np.exp(x), np.exp(y)


def _interior(u: np.ndarray, v: np.ndarray, kind: str) -> str:
    """'minimum', 'edge' or 'concave': whether the curve through one budget has its least inside."""
    if kind == "akima":
        fine = np.linspace(u[0], u[-1], 1025)
        best = int(np.argmin(scipy.interpolate.Akima1DInterpolator(u, v)(fine)))
        return "edge" if best in (0, len(fine) - 1) else "minimum"
    best = int(np.argmin(v))
    if best in (0, len(u) - 1):
        return "edge"
    near = _near(u, v)
    curvature, slope, _ = np.polyfit(u[near] - u[best], v[near], 2)
    if curvature <= 0:
        return "concave"
    return "minimum" if u[0] < u[best] - slope / (2 * curvature) < u[-1] else "edge"


def _minima(u: np.ndarray, v: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(ln N, ln L) of the minimum of each row of v (resamples, sizes); the first row is the data.

    A resample whose minimum is at the edge stays there (the interval then ends at the data), one
    whose parabola opens downwards is nan.
    """
    if kind == "akima":
        fine = np.linspace(u[0], u[-1], 1025)
        w = scipy.interpolate.Akima1DInterpolator(u, v, axis=1)(fine)
        best = np.clip(np.argmin(w, axis=1), 1, len(fine) - 2)
        left, mid, right = (w[np.arange(len(w)), best + k] for k in (-1, 0, 1))
        bend = left - 2 * mid + right
        shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0.0)
        shift = np.clip(shift, -1, 1)
        return fine[best] + shift * (fine[1] - fine[0]), mid - 0.25 * (left - right) * shift
    near = _near(u, v[0])
    origin = u[near].mean()
    c2, c1, c0 = np.polyfit(u[near] - origin, v[:, near].T, 2)
    c2 = np.where(c2 > 0, c2, np.nan)
    at = np.clip(origin - c1 / (2 * c2), u[0], u[-1])
    return at, c0 + c1 * (at - origin) + c2 * (at - origin) ** 2


def _noise(budgets: Sequence[pd.DataFrame]) -> float:
    """Relative noise of a loss, from how far five neighbours of a budget are from a cubic.

    Pseudo-residuals (Gasser et al. 1986) do not mistake the curve's shape for noise, their median
    does not mistake one odd run for it.
    """
    residuals = []
    for budget in budgets:
        u, v = np.log(budget["N"].to_numpy(float)), np.log(budget["L"].to_numpy(float))
        k = min(5, len(u))
        for i in range(len(u) - k + 1):
            powers = np.vander(u[i : i + k] - u[i : i + k].mean(), k - 1)
            contrast = np.linalg.svd(powers.T)[2][-1]  # unit vector at right angles to cubics
            residuals.append(contrast @ v[i : i + k])
    return float(1.4826 * np.median(np.abs(residuals)))


def _birge(x: np.ndarray, y: np.ndarray) -> float:
    """sqrt(chi2 / dof) of the estimates y[0] about their line, at least 1 (Birge 1932)."""
    freedom = len(x) - 2
    if freedom < 1 or not np.isfinite(y[1:]).any(axis=0).all():
        return 1.0
    spread = np.nanstd(y[1:], axis=0)
    if not (spread > 0).all():
        return 1.0
    intercept, slope = straight_line(x, y[:1])[0]
    chi2 = np.sum(((y[0] - intercept - slope * x) / spread) ** 2)
    return float(max(1.0, np.sqrt(chi2 / freedom)))
