"""Goodness of fit: likelihood, curvature, lack of fit."""

from __future__ import annotations

import numpy as np
import scipy

from analysis.fitting import noise
from analysis.fitting.result import FitResult
from analysis.fitting.solver import gradients


def deviance(result: FitResult) -> float:
    """Return minus twice the log likelihood of a fit per row; see fitting.noise.deviance."""
    return noise.deviance(result.problem, result.minimum, result.objective_kind)


def curvature(
    x: np.ndarray, L: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """Return t statistic and two-sided p value of the quadratic term of log L over log x.

    A floor bends a power law upwards, which gives t > 0. With few runs the test has more power than
    AICc. `groups` gives the run of each row; the variance is then that of sums over runs
    (cluster-robust).
    """
    u = np.log(x) - np.log(x).mean()
    design = np.column_stack([np.ones_like(u), u, u**2])
    freedom = len(u) - 3
    if freedom < 1 or np.linalg.matrix_rank(design) < 3:
        return np.nan, np.nan
    coefficients, *_ = np.linalg.lstsq(design, np.log(L), rcond=None)
    r = np.log(L) - design @ coefficients
    bread = np.linalg.inv(design.T @ design)
    variance = float(r @ r) / freedom * bread[2, 2]
    if groups is not None and (G := len(np.unique(groups))) < len(u):
        if G < 4:
            return np.nan, np.nan
        freedom = G - 3
        score = np.bincount(groups, (design @ bread[2]) * r)
        variance = float(score @ score) * G / freedom
    t = float(coefficients[2] / np.sqrt(max(variance, 1e-300)))
    return t, float(2 * scipy.special.stdtr(freedom, -abs(t)))


def lack_of_fit(result: FitResult) -> float:
    """Return the p value of an F test: do residuals follow a quadratic in the logs of the inputs?

    The part of the quadratic that the law's own parameters could have fitted is projected out
    first. Residuals are clipped at three robust standard deviations. Rows of one run share their
    noise: the degrees of freedom count runs, not rows.
    """
    problem, theta = result.problem, result.minimum.theta
    r = problem.residuals(theta)[0]
    spread = 1.4826 * np.median(np.abs(r - np.median(r)))
    r = np.clip(r, -3 * spread, 3 * spread)
    logs = [np.log(x) for x in problem.columns.values()]
    u = [(x - x.mean()) / (x.std() + 1e-300) for x in logs]
    terms = [*u, *(u[i] * u[j] for i in range(len(u)) for j in range(i + 1))]
    gradient = gradients(problem, theta)
    gradient = gradient / (np.linalg.norm(gradient, axis=0) + 1e-300)
    own, before = _left_over(r, gradient)
    rank, after = _left_over(r, np.column_stack([gradient, np.ones(len(r)), *terms]))
    freedom = problem.units() - rank
    if freedom < 3 or spread == 0 or rank == own:
        return np.nan
    F = (before - after) / (rank - own) / max(after / freedom, 1e-300)
    return float(scipy.special.fdtrc(rank - own, freedom, F))


def _left_over(r: np.ndarray, design: np.ndarray) -> tuple[int, float]:
    """Return the rank of a design, and the sum of squares of `r` that it leaves."""
    left, size, _ = np.linalg.svd(design, full_matrices=False)
    left = left[:, size > 1e-7 * size[0]]
    return left.shape[1], float(np.sum((r - left @ (left.T @ r)) ** 2))
