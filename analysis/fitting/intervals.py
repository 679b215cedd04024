"""Covariance, profile likelihood and identifiability of a fit's parameters.

Sources: Bell & McCaffrey 2002 and Hansen 2022, Jackknife Standard Errors for Clustered Regression
(few clusters); Huber & Ronchetti 2009, Robust Statistics, sections 3.2 and 7.6 (covariance and
likelihood ratio of M-estimates); Powell 1991 (kernel estimate of the density at zero that least
absolute deviations needs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem, typical
from analysis.fitting.size_effect import size_effect
from analysis.fitting.solver import gradients, prior_rows, solve

NULL = 1e-7
"""The data leave a direction of the unknowns open if its effect on the fitted values, relative to
that of the best known direction, is smaller than this."""


# --- Delta method ---------------------------------------------------------------------------------


def covariance(
    problem: Problem, minimum: Minimum, *, clustered: bool = True
) -> tuple[np.ndarray, float]:
    """Return the covariance (q, q) of the unknowns, and its degrees of freedom.

    It includes an error shared by the runs of one size, if there is one and the rows are
    `clustered`.
    """
    cov, freedom = _sampling(problem, minimum, clustered)
    effect = size_effect(problem, minimum) if clustered else None
    if effect is None:
        return cov, freedom
    J, prior = gradients(problem, minimum.theta), prior_rows(problem, minimum.theta)
    slope = curvature(problem, minimum)
    inverse = _inverse(J.T @ (J * problem.weights[:, None]) + prior.T @ prior / slope)
    added = effect.covariance(J, problem.weights, inverse)
    # Welch and Satterthwaite's degrees of freedom of the sum, for its typical direction.
    share = np.diag(added) / np.maximum(np.diag(cov) + np.diag(added), 1e-300)
    share = float(np.median(share))
    joint = 1 / (share**2 / effect.freedom + (1 - share) ** 2 / freedom)
    return cov + added, float(min(freedom, joint))


def _sampling(problem: Problem, minimum: Minimum, clustered: bool) -> tuple[np.ndarray, float]:
    """Return the covariance (q, q) from errors that differ from run to run, and its freedom.

    For least squares with one row per group it is the classical s^2 (J'WJ)^-1. Otherwise it is the
    sandwich of the M-estimate, with scores summed over groups and jackknifed (over rows without
    `clustered`). Directions that the data leave open get a huge variance.
    """
    J = gradients(problem, minimum.theta)
    r, w = problem.residuals(minimum.theta)[0], problem.weights
    prior = prior_rows(problem, minimum.theta)
    prior = prior.T @ prior
    information = J.T @ (J * w[:, None]) * curvature(problem, minimum)
    bread = _inverse(information + prior)
    G, n, q = problem.units(), problem.n, problem.q
    grouped = clustered and n > G
    if np.isinf(minimum.delta) and not grouped:
        freedom = max(n - q, 1)
        variance = float(np.sum(w * r * r)) / freedom
        if not prior.any():
            return bread * variance, freedom
        return bread @ (information * variance + prior * problem.strain) @ bread, freedom
    psi = np.clip(r, -minimum.delta, minimum.delta)
    if problem.few() and minimum.delta >= 0.1 * typical(problem, minimum.theta):
        freedom = max(n - q, 1)
        slope = curvature(problem, minimum)
        # Huber's correction for the number of parameters (Huber & Ronchetti 2009, eq. 7.82).
        K = 1 + q / n * (1 - slope) / slope
        variance = float(np.sum(w * psi * psi)) / freedom * K**2 / slope
        if not prior.any():
            return bread * variance, freedom
        return bread @ (information * variance + prior * problem.strain) @ bread, freedom
    score = (J * (w * psi)[:, None]).T
    if grouped:
        score = _without_own(problem, J * np.sqrt(w)[:, None], problem.per_group(score))
        freedom = max(G - 1, 1)
        correction = freedom / G
    else:
        freedom = max(n - q, 1)
        correction = n / freedom
    meat = score @ score.T * correction + prior * problem.strain
    return bread @ meat @ bread, freedom


def _without_own(problem: Problem, J: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return scores (q, G) of the groups as if each had been predicted from all the others.

    A fit follows its own rows, the more closely the fewer runs there are. So J_g' r_g becomes
    (I - M_g A)^-1 J_g' r_g, with M_g = J_g' J_g and A the inverse of their sum. The sandwich of
    these is the linearised jackknife over runs (CR3; Bell & McCaffrey 2002, Hansen 2022).
    """
    q = problem.q
    half = root(_inverse(J.T @ J))
    M = problem.per_group(np.einsum("ni,nj->ijn", J @ half, J @ half).reshape(q * q, -1))
    share, axes = np.linalg.eigh(M.T.reshape(-1, q, q))
    # A direction determined by a single run leaves no residual in that run: 0 / 0.
    scaled = np.einsum("gji,kj,kg->gi", axes, half, score) / np.maximum(1 - share, 1e-3)
    back = np.einsum("gij,gj->ig", axes, scaled)
    return np.linalg.pinv(half.T) @ back


def curvature(problem: Problem, minimum: Minimum) -> float:
    """Return the mean second derivative of Huber's function over the distribution of residuals.

    It is the fraction of rows within the threshold. If the threshold is small relative to the
    residuals, too few rows lie within it, at worst only those that the fit passes through. The
    density at zero is then estimated from a wider window (Powell 1991), without the q rows nearest
    to zero, which a fit of least absolute deviations meets exactly.
    """
    if np.isinf(minimum.delta):
        return 1.0
    size, w = np.abs(problem.residuals(minimum.theta)[0]), problem.weights
    order = np.argsort(size)
    size, w = size[order], w[order]
    # Silverman's rule for the width of the window, by the spread of a normal distribution.
    window = 1.06 * 1.4826 * float(np.median(size)) * problem.n**-0.2
    if minimum.delta >= window:
        return max(float(np.average(size <= minimum.delta, weights=w)), 1 / problem.n)
    size, w = size[problem.q :], w[problem.q :]
    window = max(window, float(size[0]))
    return float(np.average(size <= window, weights=w)) * minimum.delta / window


def null_directions(problem: Problem, minimum: Minimum) -> np.ndarray:
    """Return directions of the unknowns (q, K) along which the fitted values do not change."""
    J = gradients(problem, minimum.theta) * np.sqrt(problem.weights)[:, None]
    J = np.concatenate([J, prior_rows(problem, minimum.theta)])
    norms = np.linalg.norm(J, axis=0)
    norms = np.maximum(norms, 1e-12 * norms.max() + 1e-300)
    _, sizes, rows = np.linalg.svd(J / norms, full_matrices=False)
    return (rows[sizes <= NULL * sizes[0]] / norms).T


def moves(null: np.ndarray, gradient: np.ndarray) -> bool:
    """Return whether a quantity with this gradient (q,) in the unknowns changes along `null`."""
    size = np.linalg.norm(gradient) * np.linalg.norm(null, axis=0)
    return bool(np.any(np.abs(gradient @ null) > 1e-3 * size))


def _inverse(A: np.ndarray) -> np.ndarray:
    """Invert a positive semi-definite matrix; flat directions get 1e12 times a typical variance."""
    diagonal = np.diag(A)
    scale = np.sqrt(np.maximum(diagonal, 1e-20 * diagonal.max() + 1e-60))
    values, vectors = np.linalg.eigh(A / np.outer(scale, scale))
    values = np.maximum(values, 1e-12)
    return (vectors / values) @ vectors.T / np.outer(scale, scale)


def root(cov: np.ndarray) -> np.ndarray:
    """Return A with A A' = cov; eigenvalues that rounding made negative count as zero."""
    scale = np.sqrt(np.maximum(np.diag(cov), 1e-300))
    values, vectors = np.linalg.eigh(cov / np.outer(scale, scale))
    return scale[:, None] * vectors * np.sqrt(np.maximum(values, 0))


# --- Profiles -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The objective with one parameter held at each value, minimised over all others."""

    name: str
    value: np.ndarray
    """(K,) rising values of the parameter, including the fitted one."""
    drop: np.ndarray
    """(K,) signed root of the likelihood-ratio statistic: 0 at the fit, like a t statistic."""
    low: float
    """Lower end of the interval; -inf or 0 if the profile never rises enough."""
    high: float
    """Upper end; inf if the profile never rises enough."""


def scale(problem: Problem, minimum: Minimum) -> float:
    """Return s^2, the divisor that makes 2 (F - F_min) chi-square distributed."""
    r = problem.residuals(minimum.theta)[0]
    w = problem.weights
    psi = np.clip(r, -minimum.delta, minimum.delta)
    freedom = max(problem.n - problem.q, 1)
    return float(np.sum(w * psi**2) / freedom / curvature(problem, minimum))


def design_effect(problem: Problem, minimum: Minimum, a: np.ndarray) -> float:
    """Return the factor by which agreeing rows of a run or size raise the variance of a . theta.

    The likelihood treats rows as independent, so its statistics are divided by this factor, which
    is at least 1.
    """
    if problem.units() == problem.n and size_effect(problem, minimum) is None:
        return 1.0
    clustered, _ = covariance(problem, minimum)
    naive, _ = covariance(problem, minimum, clustered=False)
    return max(1.0, float(a @ clustered @ a) / max(float(a @ naive @ a), 1e-300))


def direction(problem: Problem, name: str) -> np.ndarray:
    """Return a (q,) such that a . theta is the unknown of a parameter: its log or itself."""
    return problem.model.natural(np.eye(problem.q))[problem.free.index(name)]


def held(
    problem: Problem, minimum: Minimum, names: list[str], shifts: np.ndarray, limit: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """Refit with each parameter shifted (in its log, where it is positive) and held there.

    shifts: (len(names), K). Returns the objectives (len(names), K) and the unknowns
    (q, len(names), K).
    """
    cov, _ = covariance(problem, minimum)
    theta, hold = [], []
    for name, row in zip(names, shifts, strict=True):
        a = direction(problem, name)
        variance = float(a @ cov @ a)  # zero for an exact fit
        path = cov @ a / variance if variance > 1e-300 else a / (a @ a)
        for shift in row:
            theta.append(minimum.theta[:, 0] + path * shift)
            hold.append(a)
    start, normals = np.array(theta).T, np.array(hold).T
    # If the linearised path leads astray, the fitted point with one coordinate moved may still
    # work.
    plain = normals / np.einsum("is,is->s", normals, normals) * np.ravel(shifts) + minimum.theta
    found = solve(
        problem,
        np.concatenate([start, plain], 1),
        minimum.delta,
        hold=np.concatenate([normals, normals], 1),
        limit=limit,
    )
    objective = found.objective.reshape(2, *shifts.shape)
    theta_out = found.theta.reshape(problem.q, 2, *shifts.shape)
    first = objective[0] <= objective[1]
    return np.min(objective, 0), np.where(first, theta_out[:, 0], theta_out[:, 1])


def profile(problem: Problem, minimum: Minimum, name: str, level: float = 0.95) -> Profile:
    """Return the profile likelihood of one free parameter, and its interval at `level`.

    The likelihood ratio, divided by the design effect if rows are clustered in runs, is compared
    with Student's t squared at the degrees of freedom of the covariance.
    """
    j = problem.free.index(name)
    positive = problem.model.log[j]
    a = direction(problem, name)
    cov, freedom = covariance(problem, minimum)
    quantile = float(scipy.special.stdtrit(freedom, (1 + level) / 2))
    unit = scale(problem, minimum) * design_effect(problem, minimum, a)
    unit = max(unit, problem.rounding)
    sd = float(np.sqrt(max(a @ cov @ a, 1e-300)))
    steps = quantile * np.array([0.25, 0.5, 0.75, 0.9, 1.0, 1.15, 1.4, 1.8, 2.5, 4, 8, 16])
    # Beyond a factor e^25 a coefficient is practically zero or infinite.
    steps = np.unique(np.minimum(steps * sd, 25.0)) if positive else steps * sd
    shifts = np.concatenate([-steps[::-1], steps])[None]
    x = t = shifts[0]
    ends = -np.inf, np.inf
    for _ in range(2):  # the second pass looks closely at the ends that the first one found
        value, theta = held(problem, minimum, [name], shifts)
        x = np.concatenate([shifts[0], [0.0]])
        value = np.concatenate([value[0], [minimum.objective]])
        theta = np.concatenate([theta[:, 0], minimum.theta[:, :1]], 1)
        order = np.argsort(x)
        x, value = x[order], _levelled(problem, minimum, a, x[order], value[order], theta[:, order])
        t = np.sign(x) * np.sqrt(np.maximum(2 * (value - minimum.objective) / unit, 0))
        ends = _crossing(x, t, -quantile), _crossing(x, t, quantile)
        near = [e * f for e in ends if np.isfinite(e) for f in (0.98, 1.0, 1.02)]
        if not near:
            break
        shifts = np.unique(np.concatenate([shifts[0], near]))[None]
    centre = float((a @ minimum.theta)[0])
    natural = np.exp(centre + x) if positive else centre + x
    low, high = (centre + e for e in ends)
    if positive:
        low, high = float(np.exp(low)), float(np.exp(high))
    return Profile(name=name, value=np.asarray(natural), drop=t, low=float(low), high=float(high))


def _levelled(
    problem: Problem,
    minimum: Minimum,
    a: np.ndarray,
    x: np.ndarray,
    value: np.ndarray,
    theta: np.ndarray,
) -> np.ndarray:
    """Return the objectives (K,) of a profile at ascending shifts x, without spurious dips.

    Each shift is solved again from its neighbours' unknowns (q, K) for as long as that helps, but
    only a few times.
    """
    value, theta = value.copy(), theta.copy()
    step = a[:, None] / (a @ a) * np.diff(x)
    for _ in range(8):
        start = np.concatenate([theta[:, :-1] + step, theta[:, 1:] - step], 1)
        hold = np.repeat(a[:, None], start.shape[1], 1)
        found = solve(problem, start, minimum.delta, hold=hold, limit=60)
        before = value.copy()
        for objective, ends, to in (
            (found.objective[: len(x) - 1], found.theta[:, : len(x) - 1], slice(1, None)),
            (found.objective[len(x) - 1 :], found.theta[:, len(x) - 1 :], slice(None, -1)),
        ):
            better = objective < value[to]
            value[to] = np.where(better, objective, value[to])
            theta[:, to] = np.where(better, ends, theta[:, to])
        if np.all(value >= before * (1 - 1e-9)):  # also true of infinite ones
            break
    return value


def _crossing(x: np.ndarray, t: np.ndarray, level: float) -> float:
    """Return where the signed root first exceeds `level` outwards from the fit, or infinity."""
    sign = np.sign(level)
    side = x * sign >= 0
    x, t = x[side] * sign, t[side] * sign
    order = np.argsort(x)
    x, t = x[order], t[order]
    above = np.flatnonzero(t >= abs(level))
    if not len(above):
        return sign * np.inf
    i = int(above[0])
    if i == 0:
        return 0.0
    f = (abs(level) - t[i - 1]) / (t[i] - t[i - 1])
    return float(sign * (x[i - 1] + f * (x[i] - x[i - 1])))


def unidentified(problem: Problem, minimum: Minimum, factor: float = 10.0) -> tuple[str, ...]:
    """Return free parameters that could be `factor` times larger or smaller at no real cost.

    The others are refitted. 'No real cost' is a likelihood ratio below the 95 % chi-square point. A
    parameter that may have either sign is moved by the width of its starting range instead.
    """
    names = list(problem.free)
    shifts = []
    for p, log in zip(names, problem.model.log, strict=True):
        region = problem.law.ranges[p]
        low, high = region.ends(problem.columns)
        size = np.log(factor) if log else high - low
        shifts.append([-size, size])
    value, _ = held(problem, minimum, names, np.array(shifts), limit=30)
    effect = [design_effect(problem, minimum, direction(problem, p)) for p in names]
    unit = np.maximum(scale(problem, minimum) * np.array(effect), problem.rounding)
    statistic = 2 * (value - minimum.objective) / unit[:, None]
    limit = float(scipy.special.chdtri(1, 0.05))
    return tuple(p for p, s in zip(names, statistic, strict=True) if np.any(s < limit))


def undetermined(problem: Problem, minimum: Minimum) -> list[str]:
    """Return free parameters that change along directions in which the fitted values do not."""
    null = null_directions(problem, minimum)
    return [p for p in problem.free if moves(null, direction(problem, p))]
