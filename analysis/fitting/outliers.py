"""Rows that a law fitted to the other rows does not explain.

Bad rows that lie together pull a fit towards themselves and enlarge the scale by which they are
judged, so that they hide each other. So the law is fitted to the part of the rows that it explains
best, and every row is judged by its distance from that fit in units of its own standard error.

Sources: Rousseeuw & Van Driessen 2006, Computing LTS Regression for Large Data Sets (concentration
steps); Rousseeuw & Leroy 1987, Robust Regression and Outlier Detection (reweighting).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import scipy

from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem
from analysis.fitting.solver import gradients, solve

CUT = 4.0
"""Distance, in standard errors, beyond which a row is reported."""
_SHARE = 0.75
"""Share of the rows that the first fit explains best; up to a quarter may be bad."""
_INSIDE = 3.0
"""Distance within which rows count as good when the fit is refined."""
_ROUNDS = 8
_POLISH = 10


def distances(problem: Problem, minimum: Minimum) -> np.ndarray:
    """Return the distance (n,) of each row from a fit to the good rows, in standard errors.

    The error of a row that was not fitted includes that of the prediction.
    """
    single = replace(problem, groups=np.arange(problem.n))
    with np.errstate(all="ignore"):
        theta, good = _trimmed(single, minimum)
        scale = _spread(single, theta, good, _SHARE)
        z = _standardised(single, theta, good, scale)
        for _ in range(_POLISH):
            inside = np.abs(z) < _INSIDE
            if inside.sum() <= problem.q or np.array_equal(inside, good):
                break
            good = inside
            theta = solve(single, theta, np.inf, counts=good[None].astype(np.int64)).theta
            share = float(2 * scipy.special.ndtr(_INSIDE) - 1)
            z = _standardised(single, theta, good, _spread(single, theta, good, share))
    return z


def table(problem: Problem, minimum: Minimum, index: pd.Index, cut: float) -> pd.DataFrame:
    """Return the rows farther than `cut` standard errors from the fit to the good rows.

    Columns: the distance, and the residual of the fit to all rows. The farthest row is first.
    """
    z = distances(problem, minimum)
    order = np.argsort(-np.abs(z), kind="stable")
    order = order[np.abs(z[order]) > cut]
    residual = -problem.residuals(minimum.theta)[0]
    return pd.DataFrame({"distance": -z[order], "residual": residual[order]}, index=index[order])


def _trimmed(problem: Problem, minimum: Minimum) -> tuple[np.ndarray, np.ndarray]:
    """Return unknowns (q, 1) of the least trimmed squares, and which rows (n,) they explain."""
    theta = np.concatenate([minimum.basins[:, :3], minimum.pool[:, :6]], 1)
    keep = max(int(_SHARE * problem.n), problem.q + 1)
    size, root = theta.shape[1], np.sqrt(problem.weights)
    objective, counts = np.full(size, np.inf), np.zeros((size, problem.n), np.int64)
    for _ in range(_ROUNDS):
        distance = np.nan_to_num(np.abs(problem.residuals(theta)) * root, nan=np.inf)
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :keep]
        before = counts
        counts = np.zeros((size, problem.n), np.int64)
        np.put_along_axis(counts, nearest, 1, axis=1)
        if np.array_equal(before, counts):
            break
        found = solve(problem, theta, np.inf, counts=counts, limit=60)
        theta, objective = found.theta, found.objective
    best = int(np.argmin(objective))
    return theta[:, [best]], counts[best].astype(bool)


def _spread(problem: Problem, theta: np.ndarray, good: np.ndarray, share: float) -> float:
    """Return the standard deviation of the noise, from the central `share` of a normal one."""
    z = float(scipy.special.ndtri((1 + share) / 2))
    kept = 1 - 2 * z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / share
    r = problem.residuals(theta)[0][good]
    freedom = max(int(good.sum()) - problem.q, 1)
    total = float(np.sum(problem.weights[good] * r**2)) / freedom / kept
    return max(float(np.sqrt(total)), float(np.sqrt(problem.rounding)))


def _standardised(
    problem: Problem, theta: np.ndarray, good: np.ndarray, scale: float
) -> np.ndarray:
    root = np.sqrt(problem.weights)
    J = gradients(problem, theta) * root[:, None]
    J = J / (np.linalg.norm(J[good], axis=0) + 1e-300)
    half = np.linalg.pinv(J[good])
    leverage = np.sum((J @ half) ** 2, axis=1)
    error = np.where(good, np.maximum(1 - leverage, 0.1), 1 + leverage)
    return problem.residuals(theta)[0] * root / (scale * np.sqrt(error))
