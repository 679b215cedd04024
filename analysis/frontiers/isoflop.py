"""Minima of loss against size at fixed compute, by parabola or Akima interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.fitting.result import FitResult
from analysis.fitting.status import Note
from analysis.frontiers.budgets import budget_of, budget_sets
from analysis.frontiers.choice import Choice
from analysis.frontiers.isoflop_bias import Bias, ReferenceLaw, measured_bias, reference_law
from analysis.frontiers.isoflop_curve import NEAR, CurveMethod, Kind, noise_of_losses
from analysis.frontiers.result import (
    Frontier,
    curvature_notes,
    data_ranges,
    exponent_notes,
    hull,
    interval_of,
    lost_resamples,
    straight_line,
)
from analysis.laws import Law
from analysis.tables.conventions import counted, per_token
from scaling.errors import ConfigError, TableError

_KINDS: tuple[Kind, ...] = ("isoflop", "akima")
_LOST = 0.05
"""Fraction of resamples without a minimum above which a budget counts as flat."""
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
    "the method's own bias is not known: no law of N and D that fits these runs has a minimum "
    "within their sizes",
)
_NOT_CORRECTED = Note(
    "bias_not_corrected", "as its bias is not known, the frontier is not corrected for it"
)


def isoflop(
    runs: pd.DataFrame,
    *,
    kind: Kind = "isoflop",
    tolerance: float | None = None,
    law: Law | FitResult | Choice | ReferenceLaw | None = None,
    correct_bias: bool = False,
    near: float = NEAR,
    on: Literal["log", "raw"] = "log",
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Frontier:
    """Find minima of ln L against ln N at each compute budget, and power laws through them.

    kind       'isoflop' fits a parabola to the sizes near the best one, 'akima' interpolates all.
    tolerance  Runs whose C lie within 1 + tolerance of each other share a budget. The default is
               5 %, or more if that would leave out most of the runs.
    law        What the method's bias is measured on: a law of N and D, a fit, the choice of the
               laws, or a reference law. The default is the law that predicts the larger runs best.
    correct_bias  Subtract the bias. Intervals then hold its own uncertainty, that of the law's
               parameters and of which law is right; otherwise they hold the bias as well.
    near       A parabola uses the sizes within this factor of the best one (and at least five);
               inf for all.
    on         'log' fits ln L, 'raw' fits L, as Hoffmann et al. did.

    A minimum must be interior: if the best size is the smallest or the largest of its budget, or
    the parabola opens downwards, the budget is listed in `optima` with that kind and not used. Rows
    with equal run_id share their noise; repeats of a size (seeds) are averaged, so keep only its
    best learning rate beforehand. Losses at a C slightly off the budget's are moved there along the
    law.

    Source: Hoffmann et al. 2022, section 3.2; Porian et al. 2024 (arXiv 2406.19146); for the bias
    Czech et al. 2026 (arXiv 2603.22339)
    """
    method = _checked(kind, near, on)
    runs = counted(runs, "N", "C")
    budgets, status = budget_sets(runs, tolerance)
    reference = reference_law(runs, law, bootstrap=bootstrap, seed=seed)
    flops_of = per_token(runs)
    status += _compute_differs(budgets, moved=reference is not None)
    budgets = [_moved_to_budget(budget, reference) for budget in budgets]
    draws = _resampled(budgets, runs, bootstrap, seed)
    curves = [_Minimum.of(each, v, method) for each, v in zip(budgets, draws, strict=True)]
    minima = [one for one in curves if one.state == "minimum"]
    status += _without_minimum(curves)
    if len(minima) < 2:
        raise TableError(_too_few(curves, status))
    x = np.log([one.C for one in minima])
    centre = float(x.mean())
    N, L = np.array([one.N for one in minima]).T, np.array([one.L for one in minima]).T
    measured = measured_bias(
        reference, [one.budget for one in minima], method, flops_of, count=bootstrap, seed=seed
    )
    bias = measured.completed(x - centre)
    if bias is None:
        status += [_BIAS_UNKNOWN, *([_NOT_CORRECTED] if correct_bias else [])]
    plain, unbiased = (N, L), None if bias is None else (N - bias.N, L - bias.L)
    shown, other = (unbiased, None) if correct_bias and unbiased else (plain, unbiased)
    scale = _birge_ratio(x - centre, (unbiased or plain)[0])
    lines = _lines(*shown, x, centre, scale, flops_of)
    status += lost_resamples(lines["N"], bootstrap)
    if scale > 1:
        text = (
            f"the minima scatter {scale:.1f} times more about the line than the noise of the "
            "losses explains; intervals are widened by that"
        )
        status.append(Note("minima_scatter", text))
    status += exponent_notes(lines, level, f"{len(runs)} runs in {len(minima)} budgets")
    if len(minima) == 2:
        status.append(_TWO_BUDGETS)
    status += curvature_notes(x, shown[1][0])
    optima = _optima(curves, shown, other, measured.N[0], flops_of, level)
    return Frontier(
        method=kind, params="N", flops="6 N D", optima=optima, ranges=data_ranges(runs, optima),
        status=tuple(status), lines=lines, centre=centre, level=level, per_token=flops_of,
        bias=None if bias is None else _of_line(bias, x - centre, level), sets=tuple(budgets),
        unbiased=None if other is None else _lines(*other, x, centre, scale, flops_of),
        corrected=shown is unbiased, bias_laws={} if reference is None else reference.shares,
    )  # fmt: skip


def why_no_minima(runs: pd.DataFrame, law: Any = None) -> dict[str, str]:
    """Return why each kind does not find minima at two budgets, as :func:`isoflop` says; "" if it
    does.

    law  What predicts losses at N and D, to move losses to the C of their budget. Noise is not
         resampled, which may find a minimum flat that is interior here.
    """
    try:
        budgets, status = budget_sets(counted(runs, "N", "C"), None)
    except TableError as error:
        return dict.fromkeys(_KINDS, str(error))
    moved = [_moved_to_budget(budget, law) for budget in budgets]
    draws = [np.log(budget["L"].to_numpy(float))[None] for budget in moved]
    reasons = {}
    for kind in _KINDS:
        method = _checked(kind, NEAR, "log")
        curves = [_Minimum.of(each, v, method) for each, v in zip(moved, draws, strict=True)]
        found = sum(one.state == "minimum" for one in curves)
        notes = [*status, *_without_minimum(curves)]
        reasons[kind] = "" if found >= 2 else _too_few(curves, notes)
    return reasons


def _compute_differs(budgets: Sequence[pd.DataFrame], *, moved: bool) -> Iterator[Note]:
    """Say by how much C differs within a budget, and what is done about it."""
    spread = max(float(np.ptp(np.log(budget["C"]))) for budget in budgets)
    if spread > 1e-3:
        how = "losses are moved to the budget's C along a fitted law" if moved else "not corrected"
        text = f"C differs by up to {np.expm1(spread):.1%} within a budget: {how}"
        yield Note("compute_differs", text)


def _checked(kind: Kind, near: float, on: Literal["log", "raw"]) -> CurveMethod:
    if not near > 1:
        raise ConfigError(f"near={near} must be above 1: the factor between sizes, such as 8.")
    if on not in ("log", "raw"):
        raise ConfigError(f"on={on!r} is not known: give 'log' or 'raw'.")
    return CurveMethod(kind=kind, near=near, on=on)


def _lines(
    N: np.ndarray,
    L: np.ndarray,
    x: np.ndarray,
    centre: float,
    scale: float,
    flops_of: Callable[[Any], Any],
) -> dict[str, np.ndarray]:
    """Return lines of ln N, ln D and ln L through the minima, with draws `scale` times as wide."""
    logs = {"N": N, "D": x - np.log(flops_of(np.exp(N))), "L": L}
    lines = {name: straight_line(x - centre, y) for name, y in logs.items()}
    return {name: line[0] + scale * (line - line[0]) for name, line in lines.items()}


def _of_line(bias: Bias, x: np.ndarray, level: float) -> dict[str, float]:
    """Return what the method adds to the exponent of N_opt and, relatively, to N in the middle.

    With the ends of their intervals.
    """
    line = straight_line(x, bias.N)
    found = {"exponent": line[:, 1], "N": np.expm1(line[:, 0])}
    values = {name: float(draws[0]) for name, draws in found.items()}
    for name, draws in found.items():
        low, high = interval_of(draws, level)
        values |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return values


def _optima(
    curves: Sequence[_Minimum],
    shown: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray] | None,
    bias: np.ndarray,
    flops_of: Callable[[Any], Any],
    level: float,
) -> pd.DataFrame:
    """Return one row per budget: its optimum, with an interval if it has a minimum."""
    rows, i = [], 0
    for one in curves:
        N = L = low = high = off = np.nan
        if one.state == "minimum":
            N, L, off = np.exp(shown[0][0, i]), np.exp(shown[1][0, i]), bias[i]
            low, high = np.exp(interval_of(shown[0][:, i], level))
            if other is not None:
                ends = interval_of(other[0][:, i], level)
                low, high = hull((low, high), (np.exp(ends[0]), np.exp(ends[1])))
            i += 1
        rows.append(
            {
                "C": one.C, "N": N, "D": one.C / flops_of(N), "L": L, "kind": one.state,
                "N_low": low, "N_high": high, "sizes": len(one.budget), "bias": off,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


@dataclass(frozen=True, kw_only=True)
class _Minimum:
    """The minimum of loss at one budget, with its bootstrap distribution."""

    budget: pd.DataFrame
    state: str
    """'minimum', or the key of _WHY that says why the budget is not used."""
    N: np.ndarray
    """ln N of the minimum: (1 + resamples,), the estimate first."""
    L: np.ndarray
    """ln L at the minimum."""

    @classmethod
    def of(cls, budget: pd.DataFrame, draws: np.ndarray, method: CurveMethod) -> _Minimum:
        """Find the minimum, given ln L of the budget's sizes in `draws` (1 + resamples, sizes)."""
        u = np.log(budget["N"].to_numpy(float))
        state = method.state(u, draws[0])
        N, L = method.minima(u, draws)
        if state == "minimum" and np.mean(~np.isfinite(N)) > _LOST:
            state = "flat"
        return cls(budget=budget, state=state, N=N, L=L)

    @property
    def C(self) -> float:
        """FLOPs of the budget."""
        return budget_of(self.budget)


def _resampled(
    budgets: Sequence[pd.DataFrame], runs: pd.DataFrame, bootstrap: int, seed: int
) -> list[np.ndarray]:
    """Return ln L of each budget's sizes, (1 + resamples, sizes): the data, then noisy copies.

    Rows of the same run share their noise.
    """
    rng = np.random.default_rng(seed)
    groups = pd.factorize(runs["run_id"])[0] if "run_id" in runs else np.arange(len(runs))
    shocks = noise_of_losses(budgets) * rng.standard_normal((bootstrap, groups.max() + 1))
    group_of = pd.Series(groups, index=runs.index)
    logs = [np.log(budget["L"].to_numpy(float)) for budget in budgets]
    return [
        np.vstack([v, v + shocks[:, group_of[budget.index]]])
        for budget, v in zip(budgets, logs, strict=True)
    ]


def _without_minimum(curves: Sequence[_Minimum]) -> Iterator[Note]:
    """Say which budgets have no interior minimum, and why."""
    for state in _WHY:
        at = ", ".join(f"{one.C:.3g}" for one in curves if one.state == state)
        if at:
            yield Note("no_minimum", f"no interior minimum at C = {at}: {_WHY[state]}")


def _too_few(curves: Sequence[_Minimum], status: Sequence[str]) -> str:
    """Return the message for fewer than two interior minima."""
    found = [one for one in curves if one.state == "minimum"]
    known = [f"N_opt({one.C:.3g}) = {np.exp(one.N[0]):.3g}" for one in found]
    notes = [*known, *status] or ["one budget only; train another, ten times as large"]
    return (
        f"isoFLOP minima need two budgets with an interior minimum; of {len(curves)} here "
        f"{len(found)} have one: {'; '.join(notes)}"
    )


def _moved_to_budget(budget: pd.DataFrame, law: ReferenceLaw | None) -> pd.DataFrame:
    """Return the budget with losses as they would be at exactly its C, with more or fewer
    tokens."""
    if law is None or np.ptp(np.log(budget["C"])) == 0:
        return budget
    N, D = budget["N"].to_numpy(), budget["D"].to_numpy()
    at = D * budget_of(budget) / budget["C"].to_numpy()
    return budget.assign(L=budget["L"] * law.predict(N=N, D=at) / law.predict(N=N, D=D))


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
