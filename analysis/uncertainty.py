"""How far a fit's parameters can be trusted: bootstraps, the delta method, profiles.

Rows that share a run are correlated: every bootstrap here draws whole groups (runs), which is the
plain bootstrap where each row is its own group.

Sources: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13 (pairs,
percentile); Wu 1986 and Cameron, Gelbach & Miller 2008 (wild, clustered); Huber & Ronchetti 2009,
Robust Statistics, sections 3.2 and 7.6 (covariance and likelihood ratio of M-estimates).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis import engine
from analysis.engine import Minimum, Problem

METHODS = ("bootstrap", "residual", "wild", "delta")
SMALL = 25
"""Fewer groups than this and a percentile bootstrap is too wide or too narrow: delta is used."""
_FEW_ROWS = 40
"""Below this, resamples have minima that warm starts miss (measured: 0.8 % at 30, 11 % at 15)."""


@dataclass(frozen=True)
class Draws:
    """Draws from the sampling distribution of the unknowns."""

    theta: np.ndarray
    """(q, B)."""
    method: str
    converged: float = 1.0
    """Fraction of the resamples that met the solver's tolerance."""
    rescued: int = 0
    """Resamples that the warm start left in a worse basin than another resample's solution."""


def draw(problem: Problem, minimum: Minimum, method: str, count: int, seed: int) -> Draws:
    """`count` draws by one of METHODS.

    'bootstrap' resamples groups; 'residual' resamples residuals over rows and 'wild' flips their
    signs group by group, both around the fitted law; 'delta' draws from the multivariate t
    distribution of the linearised fit.
    """
    rng = np.random.default_rng(seed)
    if method == "bootstrap":
        return _bootstrap(problem, minimum, count, rng)
    if method == "delta":
        return _delta(problem, minimum, count, seed)
    fitted = problem.model.value(minimum.theta)[0]
    r = problem.y - fitted
    if method == "residual":
        r = (r - np.average(r, weights=problem.weights)) * np.sqrt(
            problem.n / max(problem.n - problem.q, 1)
        )
        noise = rng.choice(r, (count, problem.n))
    else:
        signs = rng.choice([-1.0, 1.0], (count, problem.units()))
        noise = r * np.sqrt(problem.n / max(problem.n - problem.q, 1)) * signs[:, problem.groups]
    return _refit(problem, minimum, fitted + noise, method)


def _refit(problem: Problem, minimum: Minimum, targets: np.ndarray, method: str) -> Draws:
    B = len(targets)
    best = None
    rivals = np.flatnonzero(minimum.objectives[1:3] < 2 * minimum.objective) + 1
    for k in (0, *rivals):
        start = minimum.theta if k == 0 else minimum.basins[:, [k]]
        found = engine.solve(problem, np.repeat(start, B, 1), minimum.delta, targets=targets)
        if best is None:
            best = found
        else:
            win = found.objective < best.objective
            best = engine.Solutions(
                np.where(win, found.theta, best.theta),
                np.minimum(found.objective, best.objective),
                np.where(win, found.converged, best.converged),
                best.iterations + found.iterations,
            )
    assert best is not None
    return Draws(best.theta, method, float(best.converged.mean()))


# --- Bootstrap over groups ------------------------------------------------------------------------


def resamples(problem: Problem, count: int, rng: np.random.Generator) -> np.ndarray:
    """(B, G) how often each group is drawn. Draws with fewer rows than unknowns are drawn again."""
    G = problem.units()
    sizes = np.bincount(problem.groups, minlength=G)
    need = min(problem.q + 1, problem.n)
    counts = np.zeros((count, G), np.uint16 if G > 1000 else np.int64)
    for part in engine.chunks(count, max(1, 2**21 // G)):
        rows = part.stop - part.start
        todo = np.arange(rows)
        for _ in range(200):
            drawn = rng.integers(G, size=(len(todo), G)) + G * np.arange(len(todo))[:, None]
            found = np.bincount(drawn.ravel(), minlength=len(todo) * G).reshape(-1, G)
            counts[part.start + todo] = found
            todo = todo[(found > 0) @ sizes < need]
            if len(todo) == 0:
                break
    return counts


def _bootstrap(problem: Problem, minimum: Minimum, count: int, rng: np.random.Generator) -> Draws:
    counts = resamples(problem, count, rng)
    start = np.repeat(minimum.theta, count, 1)
    found = engine.solve(problem, start, minimum.delta, counts=counts)
    theta, value = found.theta.copy(), found.objective.copy()
    converged = found.converged.copy()
    if problem.n < _FEW_ROWS:
        pool = np.concatenate([minimum.basins, engine.spaced(minimum.pool, 128)], 1)
        _restart(problem, minimum.delta, counts, pool, theta, value, converged, tries=12)
    rescued = 0
    for _ in range(5):
        better = _beaten(problem, minimum, counts, theta, value, rng)
        if not len(better):
            break
        rescued += len(better)
        which, source = better.T
        again = engine.solve(problem, theta[:, source], minimum.delta, counts=counts[which])
        win = again.objective < value[which]
        theta[:, which[win]] = again.theta[:, win]
        value[which[win]] = again.objective[win]
        converged[which[win]] = again.converged[win]
        if not win.any():
            break
    return Draws(theta, "bootstrap", float(converged.mean()), rescued)


def _restart(
    problem: Problem,
    delta: float,
    counts: np.ndarray,
    pool: np.ndarray,
    theta: np.ndarray,
    value: np.ndarray,
    converged: np.ndarray,
    tries: int,
) -> None:
    """Solve each resample again from the best few of a pool of starts; keep what is better."""
    misfit = _misfit(problem, pool, delta)
    F = counts @ misfit.T
    best = np.argsort(F, axis=1)[:, :tries]
    for k in range(best.shape[1]):
        found = engine.solve(problem, pool[:, best[:, k]], delta, counts=counts, limit=40)
        win = found.objective < value * (1 - 1e-9)
        theta[:, win], value[win] = found.theta[:, win], found.objective[win]
        converged[win] = found.converged[win]


def _misfit(problem: Problem, theta: np.ndarray, delta: float) -> np.ndarray:
    """(M, G) weighted rho summed over each group, for unknowns (q, M)."""
    parts = []
    for part in engine.chunks(theta.shape[1], problem.slots):
        rho = engine.huber(problem.residuals(theta[:, part]), delta) * problem.weights
        parts.append(problem.per_group(rho))
    return np.nan_to_num(np.concatenate(parts), nan=1e30, posinf=1e30)


def _beaten(
    problem: Problem,
    minimum: Minimum,
    counts: np.ndarray,
    theta: np.ndarray,
    value: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """(K, 2) resamples that another resample's solution beats, and which one does.

    A basin that one resample found is a candidate for all: one matrix product compares 512 of
    them on every resample.
    """
    B = len(value)
    candidates = np.arange(B) if B <= 512 else rng.choice(B, 512, replace=False)
    misfit = _misfit(problem, theta[:, candidates], minimum.delta).T.astype(np.float32)
    out = []
    for part in engine.chunks(B, max(1, 2**22 // max(problem.units(), 512))):
        F = counts[part].astype(np.float32) @ misfit
        best = np.argmin(F, axis=1)
        lowest = F[np.arange(len(F)), best]
        # Single precision only screens: ties within 1e-4 are the same basin's neighbours, whose
        # minimum lies lower still.
        lost = np.flatnonzero(lowest < value[part] * (1 - 1e-4))
        out.append(np.stack([lost + part.start, candidates[best[lost]]], 1))
    return np.concatenate(out)


# --- Delta method ---------------------------------------------------------------------------------


def covariance(problem: Problem, minimum: Minimum) -> tuple[np.ndarray, float]:
    """Covariance (q, q) of the unknowns, and its degrees of freedom.

    Least squares with one row a group: the classical s^2 (J'WJ)^-1. Otherwise the sandwich of the
    M-estimate with scores summed over groups. Directions that the data leave flat get a huge
    variance.
    """
    J = engine.gradients(problem, minimum.theta)
    r, w = problem.residuals(minimum.theta)[0], problem.weights
    inside = float(np.average(np.abs(r) <= minimum.delta, weights=w))
    bread = _inverse(J.T @ (J * w[:, None])) / max(inside, 1 / problem.n)
    G, n, q = problem.units(), problem.n, problem.q
    if np.isinf(minimum.delta) and n == G:
        freedom = max(n - q, 1)
        return bread * float(np.sum(w * r * r)) / freedom, freedom
    psi = np.clip(r, -minimum.delta, minimum.delta)
    score = problem.per_group((J * (w * psi)[:, None]).T)
    meat = score @ score.T
    if n == G:
        freedom = max(n - q, 1)
        return bread @ meat @ bread * n / freedom, freedom
    freedom = max(G - 1, 1)
    correction = G / max(G - 1, 1) * (n - 1) / max(n - q, 1)
    return bread @ meat @ bread * correction, freedom


def _inverse(A: np.ndarray) -> np.ndarray:
    """Inverse of a positive semi-definite matrix; flat directions get variance 1e12 of a scale."""
    diagonal = np.diag(A)
    scale = np.sqrt(np.maximum(diagonal, 1e-20 * diagonal.max() + 1e-60))
    values, vectors = np.linalg.eigh(A / np.outer(scale, scale))
    values = np.maximum(values, 1e-12)
    return (vectors / values) @ vectors.T / np.outer(scale, scale)


def _delta(problem: Problem, minimum: Minimum, count: int, seed: int) -> Draws:
    cov, freedom = covariance(problem, minimum)
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.maximum(values, 0))
    # Evenly spread draws and their mirror images: quantiles closer than independent draws give.
    u = engine.evenly((count + 1) // 2, problem.q + 1, seed)
    u = np.clip(u, 1e-9, 1 - 1e-9)
    z = special.ndtri(u[:, :-1])
    z *= np.sqrt(freedom / special.chdtri(freedom, u[:, -1:]))
    z = np.concatenate([z, -z])[:count]
    return Draws(minimum.theta + root @ z.T, "delta")


# --- Profiles -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """The objective minimised over everything else, as one parameter is held at each value."""

    name: str
    value: np.ndarray
    """(K,) values of the parameter, rising; the fitted one is among them."""
    drop: np.ndarray
    """(K,) signed root of the likelihood-ratio statistic: like a t statistic, 0 at the fit."""
    low: float
    """Ends of the interval; -inf, 0 or inf where the profile never rises enough."""
    high: float


def scale(problem: Problem, minimum: Minimum) -> float:
    """What turns 2 (F - F_min) into a statistic with a chi-square law: s^2 for least squares."""
    r = problem.residuals(minimum.theta)[0]
    w = problem.weights
    psi = np.clip(r, -minimum.delta, minimum.delta)
    freedom = max(problem.n - problem.q, 1)
    inside = np.average(np.abs(r) <= minimum.delta, weights=w)
    return float(np.sum(w * psi**2) / freedom / max(inside, 1 / problem.n))


def direction(problem: Problem, name: str) -> np.ndarray:
    """(q,) a with a . theta = log of a coefficient (or positive parameter), or the parameter."""
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
        path = cov @ a / max(float(a @ cov @ a), 1e-300)
        for shift in row:
            theta.append(minimum.theta[:, 0] + path * shift)
            hold.append(a)
    start, normals = np.array(theta).T, np.array(hold).T
    # Where the straight path leads astray, the fitted point with one coordinate moved may not.
    plain = normals / np.einsum("is,is->s", normals, normals) * np.ravel(shifts) + minimum.theta
    found = engine.solve(
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
    """Profile likelihood of one free parameter, and its interval at `level`.

    The likelihood ratio is compared with Student's t squared at n - q degrees of freedom.
    """
    j = problem.free.index(name)
    positive = problem.model.log[j]
    quantile = float(special.stdtrit(max(problem.n - problem.q, 1), (1 + level) / 2))
    unit = scale(problem, minimum)
    cov, _ = covariance(problem, minimum)
    a = direction(problem, name)
    sd = float(np.sqrt(max(a @ cov @ a, 1e-300)))
    steps = quantile * np.array([0.25, 0.5, 0.75, 0.9, 1.0, 1.15, 1.4, 1.8, 2.5, 4, 8, 16])
    # Beyond a factor e^25 a coefficient is as good as zero or infinite.
    steps = np.unique(np.minimum(steps * sd, 25.0)) if positive else steps * sd
    shifts = np.concatenate([-steps[::-1], steps])[None]
    for _ in range(2):
        value, _ = held(problem, minimum, [name], shifts)
        rise = np.sqrt(np.maximum(2 * (value[0] - minimum.objective) / unit, 0))
        x = np.concatenate([shifts[0], [0.0]])
        t = np.concatenate([np.sign(shifts[0]) * rise, [0.0]])
        order = np.argsort(x)
        x, t = x[order], t[order]
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
    return Profile(name, np.asarray(natural), t, float(low), float(high))


def _crossing(x: np.ndarray, t: np.ndarray, level: float) -> float:
    """Where the signed root first passes `level`, walking outwards from the fit; else infinite."""
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
    """Free parameters that could be `factor` times larger or smaller at no real cost.

    The others are refitted; 'no real cost' is a likelihood ratio below the 95 % chi-square point.
    A parameter that may have either sign is moved by the width of its starting range instead.
    """
    names = list(problem.free)
    shifts = []
    for p, log in zip(names, problem.model.log, strict=True):
        region = problem.law.ranges[p]
        low, high = region.ends(problem.columns)
        size = np.log(factor) if log else high - low
        shifts.append([-size, size])
    value, _ = held(problem, minimum, names, np.array(shifts), limit=30)
    statistic = 2 * (value - minimum.objective) / max(scale(problem, minimum), 1e-300)
    limit = float(special.chdtri(1, 0.05))
    return tuple(p for p, s in zip(names, statistic, strict=True) if np.any(s < limit))
