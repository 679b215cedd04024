"""Intervals of parameters that may be zero, such as a law's floor.

The logarithm of a positive parameter never reaches zero, so an interval of it cannot contain zero
by itself. Whether it should is decided by the likelihood ratio of the law without the parameter.
Only parameters without which the law keeps all others are tested: a law without its floor keeps its
exponents, but without A it has no alpha.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy

from analysis.fitting.intervals import covariance, design_effect, direction, scale
from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem
from analysis.fitting.solver import gradients, solve
from analysis.fitting.starts import unknowns_of

_TINY = 1e-6
"""A parameter below this fraction of its starting range is as good as zero."""


def with_zero(
    problem: Problem, minimum: Minimum, name: str, level: float, low: float, high: float
) -> tuple[float, float]:
    """Return the ends of the interval of a parameter, down to zero if the data allow zero.

    An upper end far above its starting range, or as good as zero, says nothing, and is
    replaced by the one of the likelihood.
    """
    region = problem.law.ranges[name]
    believed = problem.penalty is not None and name in problem.penalty.names  # never zero
    if not region.positive or np.isnan(low) or believed:
        return low, high
    with np.errstate(all="ignore"):
        _, freedom = covariance(problem, minimum)
        unit = scale(problem, minimum) * design_effect(problem, minimum, direction(problem, name))
        costs = scipy.special.stdtrit(freedom, (1 + level) / 2) ** 2 * max(unit, problem.rounding)
        most = minimum.objective + costs / 2
        if not _objective(problem, minimum, name, 0.0) < most:
            return low, high
        least, largest = region.ends(problem.columns)
        if _TINY * least < high <= 3 * largest:
            return 0.0, high
        return 0.0, _upper_end(problem, minimum, name, most, _TINY * least, 100 * largest)


def _upper_end(
    problem: Problem, minimum: Minimum, name: str, most: float, low: float, high: float
) -> float:
    """Return the value between low and high at which the objective reaches `most`, by bisection."""
    if _objective(problem, minimum, name, high) < most:
        return np.inf
    for _ in range(20):
        middle = float(np.sqrt(low * high))
        if _objective(problem, minimum, name, middle) < most:
            low = middle
        else:
            high = middle
    return high


def _objective(problem: Problem, minimum: Minimum, name: str, value: float) -> float:
    """Return the least objective with a parameter held at a value; infinite if that cannot be."""
    held = replace(problem, fixed={**problem.fixed, name: np.float64(value)})
    if not held.q:
        return np.inf
    pool = np.concatenate([minimum.basins[:, :3], minimum.pool[:, :3]], 1)
    theta = held.model.centred(unknowns_of(held, problem.params(pool)))
    theta = theta[:, np.isfinite(held.model.value(theta)).all(1)]
    if not theta.shape[1]:
        return np.inf
    slopes = np.abs(gradients(held, theta[:, :1])).max(0)
    if not (slopes > 1e-12 * slopes.max()).all():
        return np.inf
    found = solve(held, theta, minimum.delta, limit=100)
    return float(np.nanmin(found.objective, initial=np.inf))
