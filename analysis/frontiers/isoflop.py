"""Minima of loss against size at fixed compute, by parabola or Akima interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy

from analysis import laws
from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.fitting.status import Note
from analysis.frontiers.budgets import budget_of, budget_sets
from analysis.frontiers.optimum import optimum_at, parameter_draws
from analysis.frontiers.result import (
    Frontier,
    curvature_notes,
    data_ranges,
    exponent_notes,
    interval_of,
    lost_resamples,
    straight_line,
)
from analysis.tables.conventions import counted, per_token
from scaling.errors import TableError

_REFERENCE_RUNS = 250
"""Number of runs that determine the reference law as well as thousands do."""
_LOST = 0.05
"""Fraction of resamples without a minimum above which a budget counts as flat."""
_NEAR = 8.0
"""A parabola uses the sizes within this factor of the best one (and at least five)."""
_WHY = {
    "edge": "the least loss is at the smallest or largest size, so the optimum is outside",
    "concave": "the parabola opens downwards, so it has no minimum",
    "flat": f"within the noise of the losses (in over {_LOST:.0%} of resamples) the parabola may "
    "as well open downwards",
}
"""Reasons why a budget of each kind is not used."""
_TWO_BUDGETS = Note(
    "two_budgets", "two budgets only: whether the frontier is straight is not tested"
)
_BIAS_UNKNOWN = Note(
    "bias_unknown",
    "the method's own bias is not known: Chinchilla's law, as it fits these runs, has no minimum "
    "within their sizes",
)


def isoflop(
    runs: pd.DataFrame,
    *,
    kind: str = "isoflop",
    tolerance: float | None = None,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Frontier:
    """Find minima of ln L against ln N at each compute budget, and power laws through them.

    kind       'isoflop' fits a parabola to the sizes near the best one, 'akima' interpolates all.
    tolerance  Runs whose C lie within 1 + tolerance of each other share a budget. The default is
               5 %, or more if that would leave out most of the runs.

    A minimum must be interior: if the best size is the smallest or the largest of its budget, or
    the parabola opens downwards, the budget is listed in `optima` with that kind and not used. Rows
    with equal run_id share their noise; repeats of a size (seeds) are averaged, so keep only its
    best learning rate beforehand. Losses at a C slightly off the budget's are moved there along
    Chinchilla's law, fitted to the same runs; on that law `Frontier.bias` is measured.

    Source: Hoffmann et al. 2022, section 3.2; Porian et al. 2024 (arXiv 2406.19146)
    """
    runs = counted(runs, "N", "C")
    budgets, status = budget_sets(runs, tolerance)
    law = _reference_law(runs)
    flops_of = per_token(runs)
    spread = max(float(np.ptp(np.log(budget["C"]))) for budget in budgets)
    if spread > 1e-3:
        how = "losses are moved to the budget's C along a fitted law" if law else "not corrected"
        text = f"C differs by up to {np.expm1(spread):.1%} within a budget: {how}"
        status.append(Note("compute_differs", text))
    budgets = [_moved_to_budget(budget, law) for budget in budgets]
    draws = _resampled(budgets, runs, bootstrap, seed)
    minima = [
        _minimum(budget, v, kind, law, flops_of) for budget, v in zip(budgets, draws, strict=True)
    ]
    optima = pd.DataFrame([one.row(flops_of, level) for one in minima])
    status += _without_minimum(optima)
    minima = [one for one in minima if one.state == "minimum"]
    if len(minima) < 2:
        raise TableError(_too_few(optima, status))
    x = np.log([one.C for one in minima])
    centre = float(x.mean())
    N, L = np.array([one.N for one in minima]).T, np.array([one.L for one in minima]).T
    logs = {"N": N, "D": x - np.log(flops_of(np.exp(N))), "L": L}
    lines = {name: straight_line(x - centre, y) for name, y in logs.items()}
    status += lost_resamples(lines["N"], bootstrap)
    scale = _birge_ratio(x - centre, N)
    if scale > 1:
        text = (
            f"the minima scatter {scale:.1f} times more about the line than the noise of the "
            "losses explains; intervals are widened by that"
        )
        status.append(Note("minima_scatter", text))
        lines = {name: line[0] + scale * (line - line[0]) for name, line in lines.items()}
    status += exponent_notes(lines, level, f"{len(runs)} runs in {len(minima)} budgets")
    if len(minima) == 2:
        status.append(_TWO_BUDGETS)
    status += curvature_notes(x, L[0])
    bias = _bias_of_line(x - centre, np.array([one.bias for one in minima]))
    if bias is None:
        status.append(_BIAS_UNKNOWN)
    return Frontier(
        method=kind, params="N", flops="6 N D", optima=optima, ranges=data_ranges(runs, optima),
        status=tuple(status), lines=lines, centre=centre, level=level, per_token=flops_of,
        bias=bias, sets=tuple(budgets),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Minimum:
    """The minimum of loss at one budget, with its bootstrap distribution."""

    C: float
    state: str
    """'minimum', or the key of _WHY that says why the budget is not used."""
    N: np.ndarray
    """ln N of the minimum: (1 + resamples,), the estimate first."""
    L: np.ndarray
    """ln L at the minimum."""
    sizes: int
    bias: float
    """What the method adds to ln N; nan if unknown."""

    def row(self, flops_of: Callable[[Any], Any], level: float) -> dict[str, Any]:
        """Return the row for the optima of a Frontier."""
        if self.state == "minimum":
            N, L = np.exp(self.N[0]), np.exp(self.L[0])
            low, high = np.exp(interval_of(self.N, level))
        else:
            N = L = low = high = np.nan
        return {
            "C": self.C, "N": N, "D": self.C / flops_of(N), "L": L, "kind": self.state,
            "N_low": low, "N_high": high, "sizes": self.sizes, "bias": self.bias,
        }  # fmt: skip


def _minimum(
    budget: pd.DataFrame,
    draws: np.ndarray,
    kind: str,
    law: FitResult | None,
    flops_of: Callable[[Any], Any],
) -> _Minimum:
    """Return the minimum of a budget, given ln L of its sizes in `draws` (1 + resamples, sizes)."""
    u = np.log(budget["N"].to_numpy(float))
    state = _interior(u, draws[0], kind)
    N, L = _minima(u, draws, kind)
    if state == "minimum" and np.mean(~np.isfinite(N)) > _LOST:
        state = "flat"
    bias = _bias(law, budget, kind, flops_of) if state == "minimum" else np.nan
    return _Minimum(C=budget_of(budget), state=state, N=N, L=L, sizes=len(u), bias=bias)


def _resampled(
    budgets: Sequence[pd.DataFrame], runs: pd.DataFrame, bootstrap: int, seed: int
) -> list[np.ndarray]:
    """Return ln L of each budget's sizes, (1 + resamples, sizes): the data, then noisy copies.

    Rows of the same run share their noise.
    """
    rng = np.random.default_rng(seed)
    groups = pd.factorize(runs["run_id"])[0] if "run_id" in runs else np.arange(len(runs))
    shocks = _noise(budgets) * rng.standard_normal((bootstrap, groups.max() + 1))
    group_of = pd.Series(groups, index=runs.index)
    logs = [np.log(budget["L"].to_numpy(float)) for budget in budgets]
    return [
        np.vstack([v, v + shocks[:, group_of[budget.index]]])
        for budget, v in zip(budgets, logs, strict=True)
    ]


def _without_minimum(optima: pd.DataFrame) -> Iterator[Note]:
    """Say which budgets have no interior minimum, and why."""
    for state, group in optima.groupby("kind"):
        if state != "minimum":
            at = ", ".join(f"{C:.3g}" for C in group["C"])
            yield Note("no_minimum", f"no interior minimum at C = {at}: {_WHY[str(state)]}")


def _too_few(optima: pd.DataFrame, status: Sequence[str]) -> str:
    """Return the message for fewer than two interior minima."""
    found = optima[optima["kind"] == "minimum"]
    known = [f"N_opt({C:.3g}) = {N:.3g}" for C, N in zip(found["C"], found["N"], strict=True)]
    notes = [*known, *status] or ["one budget only; train another, ten times as large"]
    return (
        f"isoFLOP minima need two budgets with an interior minimum; of {len(optima)} here "
        f"{len(found)} have one: {'; '.join(notes)}"
    )


def _reference_law(runs: pd.DataFrame) -> FitResult | None:
    """Fit Chinchilla's law to a few hundred of the runs, spread over N and C.

    It is used to move losses to a budget's C and to measure the method's bias; None if it cannot be
    fitted.
    """
    spread = runs.sort_values(["C", "N"], kind="stable")
    spread = spread.iloc[:: max(1, len(runs) // _REFERENCE_RUNS)]
    try:
        return fit(laws.chinchilla, spread, bootstrap=0, cluster=None)
    except (FitError, TableError):
        return None


def _moved_to_budget(budget: pd.DataFrame, law: FitResult | None) -> pd.DataFrame:
    """Return the budget with losses as they would be at exactly its C, with more or fewer
    tokens."""
    if law is None or np.ptp(np.log(budget["C"])) == 0:
        return budget
    N, D = budget["N"].to_numpy(), budget["D"].to_numpy()
    at = D * budget_of(budget) / budget["C"].to_numpy()
    return budget.assign(L=budget["L"] * law.predict(N=N, D=at) / law.predict(N=N, D=D))


def _bias(
    law: FitResult | None, budget: pd.DataFrame, kind: str, flops_of: Callable[[Any], Any]
) -> float:
    """Measure what the method adds to ln N, on noiseless losses of the law at the budget's sizes.

    The bias comes from the width of the grid, from where its middle lies and from alpha != beta.
    It is nan if the law is unknown or has no minimum within the sizes.

    Source: Czech et al. 2026 (arXiv 2603.22339)
    """
    if law is None:
        return np.nan
    C, N = budget_of(budget), budget["N"].to_numpy()
    D = budget["D"].to_numpy() * C / budget["C"].to_numpy()
    u, v = np.log(N), np.log(law.predict(N=N, D=D))
    true = optimum_at(law.law, parameter_draws(law), np.array([C]), flops_of)["N"][0, 0]
    if not np.isfinite(v).all() or _interior(u, v, kind) != "minimum":
        return np.nan
    return float(_minima(u, v[None], kind)[0][0] - np.log(true))


def _bias_of_line(x: np.ndarray, biases: np.ndarray) -> dict[str, float] | None:
    """Return what the method adds to the exponent of N_opt and, relatively, to N in the middle.

    Returns None if the bias is known at fewer than two budgets.
    """
    known = np.isfinite(biases)
    if known.sum() < 2:
        return None
    intercept, slope = straight_line(x[known], biases[known])[0]
    return {"exponent": float(slope), "N": float(np.expm1(intercept))}


def _near(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return a mask of the sizes that a parabola uses: those near the best, and at least five."""
    distance = np.abs(u - u[np.argmin(v)])
    reach = max(np.log(_NEAR), np.sort(distance)[min(4, len(u) - 1)])
    return distance <= reach * (1 + 1e-12)


def parabola(N: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the parabola in log-log that `isoflop` fits to one budget, for figures.

    Returns the mask of the sizes used, and N and L along the parabola.
    """
    u, v = np.log(N), np.log(L)
    near = _near(u, v)
    origin = u[near].mean()
    x = np.linspace(u[near].min(), u[near].max(), 61)
    y = np.polyval(np.polyfit(u[near] - origin, v[near], 2), x - origin)
    return near, np.exp(x), np.exp(y)


def _interior(u: np.ndarray, v: np.ndarray, kind: str) -> str:
    """Return 'minimum', 'edge' or 'concave': whether a budget's curve has an interior minimum."""
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
    """Return ln N and ln L of the minimum of each row of v (resamples, sizes), the data first.

    A resample whose minimum is at the edge stays there (the interval then ends at the data); one
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
    """Estimate the relative noise of a loss from how far five neighbours are from a cubic.

    Pseudo-residuals (Gasser et al. 1986) do not mistake the curve's shape for noise, and their
    median does not mistake one odd run for it.
    """
    residuals = []
    for budget in budgets:
        u, v = np.log(budget["N"].to_numpy(float)), np.log(budget["L"].to_numpy(float))
        k = min(5, len(u))
        for i in range(len(u) - k + 1):
            powers = np.vander(u[i : i + k] - u[i : i + k].mean(), k - 1)
            contrast = np.linalg.svd(powers.T)[2][-1]  # unit vector orthogonal to cubics
            residuals.append(contrast @ v[i : i + k])
    return float(1.4826 * np.median(np.abs(residuals)))


def _birge_ratio(x: np.ndarray, y: np.ndarray) -> float:
    """Return sqrt(chi2 / dof) of the estimates y[0] about their line, at least 1 (Birge 1932)."""
    freedom = len(x) - 2
    if freedom < 1 or not np.isfinite(y[1:]).any(axis=0).all():
        return 1.0
    spread = np.nanstd(y[1:], axis=0)
    if not (spread > 0).all():
        return 1.0
    intercept, slope = straight_line(x, y[:1])[0]
    chi2 = np.sum(((y[0] - intercept - slope * x) / spread) ** 2)
    return float(max(1.0, np.sqrt(chi2 / freedom)))
