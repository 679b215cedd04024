"""Whether claimed constants are at the minimum of the objective that they are said to minimise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from analysis.fitting.minimise import LAD
from analysis.fitting.problem import Problem, huber
from analysis.fitting.result import FitResult
from analysis.fitting.solver import solve

EXCESS = 1e-4
"""A point is at the minimum if its objective exceeds it by less than this fraction: solvers of the
papers stop there."""
_EQUAL = 1e-7
"""Residuals that differ by less count as equal."""
_NEAR = 0.01
"""A local optimum belongs to a claim if it is within this fraction of each constant."""

Params = Mapping[str, float]


def residuals_at(problem: Problem, params: Params) -> np.ndarray:
    """Return the residuals (n,) of a law at any parameters, zero among them: measured less law."""
    with np.errstate(all="ignore"):
        fitted = problem.law.predict(params, **problem.columns)
        fitted = np.log(fitted) if problem.on == "log" else fitted
    measured = np.log(problem.target) if problem.on == "log" else problem.target
    return np.where(np.isfinite(fitted), measured - fitted, np.inf)


def objective_at(result: FitResult, params: Params) -> float:
    """Return the objective of a fit at other parameters of its law, summed over rows."""
    r = residuals_at(result.problem, params)
    if not np.isfinite(r).all():
        return float(np.inf)
    rho = np.abs(r) if result.objective_kind == "lad" else huber(r, result.minimum.delta)
    return float(rho @ result.problem.weights)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far claimed constants are from the minimum of their objective."""

    at_claim: float
    """The objective at the constants as written."""
    within: Mapping[str, float]
    """The best constants that round to those written."""
    at_within: float
    """The objective there."""
    least: float
    """The objective at the global minimum."""
    minimum: Mapping[str, float]
    """The constants there."""
    local: Mapping[str, float] | None
    """The local optimum that the claim is at, if it is not the global one."""
    at_local: float
    slack: float
    """Difference of objectives that counts as none."""

    @property
    def excess(self) -> float:
        """How much the objective exceeds its minimum, relatively, at the best constants that
        round to the claim."""
        return self.at_within / max(self.least, 1e-300) - 1

    @property
    def reached(self) -> bool:
        """Whether the claim is the minimum, up to its rounding."""
        return self.at_within <= self.least * (1 + EXCESS) + self.slack


def distance(result: FitResult, claimed: Params, half: Params) -> Distance:
    """Compare claimed constants with a global fit of the same objective to the same rows."""
    least, minimum = objective_at(result, result.params), dict(result.params)
    polished = _polished(result, claimed)
    at_local = objective_at(result, polished) if polished else np.inf
    if polished and at_local < least:  # the claim knew better than the global search
        least, minimum = at_local, polished
    r = np.full(1, _EQUAL)
    rho = np.abs(r) if result.objective_kind == "lad" else huber(r, result.minimum.delta)
    slack = float(rho[0] * result.problem.weights.sum())
    at_claim = objective_at(result, claimed)
    within = best_within(result, claimed, half, minimum)
    local = None
    if polished and at_local > least * (1 + EXCESS) + slack and _belongs(polished, claimed, half):
        local = polished
    return Distance(
        at_claim=at_claim,
        within=within,
        at_within=min(objective_at(result, within), at_claim),
        least=least,
        minimum=minimum,
        local=local,
        at_local=at_local,
        slack=slack,
    )


def _belongs(local: Params, claimed: Params, half: Params) -> bool:
    return all(
        abs(local[p] - claimed[p]) <= max(half.get(p, 0.0), _NEAR * abs(claimed[p]))
        for p in claimed
    )


def _polished(result: FitResult, claimed: Params) -> dict[str, float] | None:
    """Return the local minimum that a descent from the claim reaches; None if it has none."""
    problem, ranges = result.problem, result.law.ranges
    start = {
        p: max(v, 1e-12) if ranges[p].positive else v
        for p, v in {**result.params, **claimed}.items()
    }
    delta = result.minimum.delta
    with np.errstate(all="ignore"):
        found = solve(problem, problem.theta(start), delta, limit=500)
    params = {p: float(v[0]) for p, v in problem.params(found.theta).items()}
    usable = bool(np.isfinite(found.objective[0])) and np.isfinite([*params.values()]).all()
    return params if usable else None


def best_within(
    result: FitResult, claimed: Params, half: Params, minimum: Params
) -> dict[str, float]:
    """Return the constants of least objective among those that round to the claimed ones."""
    free = [p for p in result.problem.free if half.get(p, 0.0) > 0]
    middle = {**claimed}
    if not free:
        return middle
    reach = np.array([half[p] for p in free])
    centre = np.array([claimed[p] for p in free])
    low = np.array([0.0 if result.law.ranges[p].positive else -np.inf for p in free])
    low = np.maximum((low - centre) / reach, -1.0)
    others = [p for p in result.problem.free if p not in free]

    def params(u: np.ndarray) -> dict[str, float]:
        return middle | dict(zip(free, (centre + reach * u).tolist(), strict=True))

    target = (np.array([minimum[p] for p in free]) - centre) / reach
    inside = np.all((target >= low - 1e-9) & (target <= 1 + 1e-9))
    if inside and all(minimum[p] == claimed[p] for p in others):
        return params(np.clip(target, low, 1.0))
    starts = [np.clip(np.zeros(len(free)), low, 1.0), np.clip(target, low, 1.0)]
    tried = [*starts, *(_descend(result, params, u, low) for u in starts)]
    values = [objective_at(result, params(u)) for u in tried]
    return params(tried[int(np.argmin(values))])


def _descend(result: FitResult, params: Any, start: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Minimise the objective over a small box, in which the law is nearly linear."""
    problem, w = result.problem, np.sqrt(result.problem.weights)

    def weighted(u: np.ndarray) -> np.ndarray:
        return np.nan_to_num(residuals_at(problem, params(u)), posinf=1e6) * w

    if result.objective_kind == "lad":
        return _descend_lad(weighted, start, low)
    delta = result.minimum.delta
    room = np.clip(start, low + 1e-6, 1 - 1e-6)
    loss, scale = ("linear", 1.0) if np.isinf(delta) else ("huber", max(delta, LAD))
    with np.errstate(all="ignore"):
        found = scipy.optimize.least_squares(
            weighted, room, bounds=(low - 1e-12, np.full(len(room), 1.0)), loss=loss,
            f_scale=scale, x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=400,
        )  # fmt: skip
    return np.clip(found.x, low, 1.0)


def _descend_lad(weighted: Any, start: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Minimise the sum of absolute values by a linear program, linearised three times."""
    u = start
    for _ in range(3):
        r, q = weighted(u), len(u)
        step = np.where(u > 0, -1e-4, 1e-4)
        J = np.column_stack(
            [(weighted(u + step[j] * np.eye(q)[j]) - r) / step[j] for j in range(q)]
        )
        n, one = len(r), -np.eye(len(r))
        found = scipy.optimize.linprog(
            np.concatenate([np.zeros(q), np.ones(n)]),
            A_ub=np.block([[J, one], [-J, one]]),
            b_ub=np.concatenate([J @ u - r, r - J @ u]),
            bounds=[*zip(low, np.ones(q), strict=True), *[(0, None)] * n],
        )
        if found.x is None:
            return u
        u = np.clip(found.x[:q], low, 1.0)
    return u
