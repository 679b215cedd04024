"""Draws from the sampling distribution of a fit: bootstraps and the linearised (delta) method.

Rows that share a run are correlated, so every bootstrap here draws whole groups (runs). If each row
is its own group, this is the plain bootstrap.

Sources: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13 (pairs,
percentile); Wu 1986 and Cameron, Gelbach & Miller 2008 (wild, clustered).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy

from analysis.fitting.intervals import covariance, null_directions, root
from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem, huber, typical
from analysis.fitting.size_effect import SizeEffect, size_effect
from analysis.fitting.solver import Solutions, solve
from analysis.fitting.starts import chunks, evenly, spaced

METHODS = ("bootstrap", "residual", "wild", "delta")
_TRIES = 4
"""Number of starts from which a resample of few rows is solved again. On 15 fits to 10 to 25 rows,
12 found a lower minimum in 1.2 % more of the resamples at most."""
_FEW_ROWS = 60
"""With fewer rows, warm starts miss the minima of some resamples (1.2 % at 45 rows, 11 % at 15)."""
_KINK = 0.05
"""Resamples are fitted with a threshold of at least this many standard deviations of the residuals.
Least absolute deviations has a kink at every row, where Newton steps stall. Rounding the kinks off
this slightly does not change the distribution of the estimate."""
_MOST_TARGETS = 2**23
"""Number of simulated measurements held in memory at once."""


@dataclass(frozen=True)
class Draws:
    """Draws from the sampling distribution of the unknowns."""

    theta: np.ndarray
    """(q, B)."""
    method: str
    converged: float = 1.0
    """Fraction of the resamples that met the solver's tolerance."""
    rescued: int = 0
    """Number of resamples whose warm start ended above another resample's solution."""


def draw(problem: Problem, minimum: Minimum, method: str, count: int, seed: int) -> Draws:
    """Return `count` draws by one of METHODS.

    'bootstrap' resamples groups; 'residual' resamples residuals over rows and 'wild' flips their
    signs group by group, both around the fitted law; 'delta' draws from the multivariate t
    distribution of the linearised fit.
    """
    if method == "delta":
        return _delta(problem, minimum, count, seed)
    rng = np.random.default_rng(seed)
    minimum = _rounded(problem, minimum)
    starts = _spread(problem, minimum, count, rng)
    effect = size_effect(problem, minimum)
    if method == "bootstrap" and effect is not None:
        return _bootstrap_with(problem, minimum, starts, effect, rng)
    if method == "bootstrap":
        return _bootstrap(problem, minimum, starts, rng)
    fitted = problem.model.value(minimum.theta)[0]
    r = (problem.y - fitted) * np.sqrt(problem.n / max(problem.n - problem.q, 1))
    parts = []
    for part in chunks(count, max(1, _MOST_TARGETS // problem.n)):
        B = part.stop - part.start
        if method == "residual":
            noise = rng.choice(r - np.average(r, weights=problem.weights), (B, problem.n))
        else:
            noise = rng.choice([-1.0, 1.0], (B, problem.units()))[:, problem.groups]
            noise *= r
        noise += fitted
        if effect is not None:
            noise += effect.draws(B, rng)
        parts.append(_refit(problem, minimum, noise, starts[:, part]))
    theta = np.concatenate([theta for theta, _ in parts], 1)
    return Draws(theta, method, float(np.mean(np.concatenate([ok for _, ok in parts]))))


def _rounded(problem: Problem, minimum: Minimum) -> Minimum:
    """Return the minimum with a threshold at which resamples can be fitted (see _KINK)."""
    spread = 1.4826 * typical(problem, minimum.theta)
    if minimum.delta >= _KINK * spread:
        return minimum
    found = solve(problem, minimum.basins, _KINK * spread)
    order = np.argsort(found.objective, kind="stable")
    return replace(
        minimum,
        theta=found.theta[:, order[:1]],
        objective=float(found.objective[order[0]]),
        delta=_KINK * spread,
        basins=found.theta[:, order],
        objectives=found.objective[order],
    )


def _spread(problem: Problem, minimum: Minimum, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return starts (q, count): the minimum, spread along directions that the data leave open."""
    null = null_directions(problem, minimum)
    if not null.shape[1]:
        return np.repeat(minimum.theta, count, 1)
    null = null / np.abs(null).max(0)
    return minimum.theta + null @ rng.uniform(-3, 3, (null.shape[1], count))


def _refit(
    problem: Problem,
    minimum: Minimum,
    targets: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray | None = None,
    shift: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return unknowns (q, B) for the rows of targets (B, n), and whether each fit converged."""
    B = len(targets)
    best = None
    rivals = np.flatnonzero(minimum.objectives[1:3] < 2 * minimum.objective) + 1
    for k in (0, *rivals):
        start = starts if k == 0 else np.repeat(minimum.basins[:, [k]], B, 1)
        found = solve(problem, start, minimum.delta, targets=targets, counts=counts, shift=shift)
        if best is None:
            best = found
        else:
            win = found.objective < best.objective
            best = Solutions(
                np.where(win, found.theta, best.theta),
                np.minimum(found.objective, best.objective),
                np.where(win, found.converged, best.converged),
                best.iterations + found.iterations,
            )
    assert best is not None
    return best.theta, best.converged


def resamples(problem: Problem, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each group is drawn (B, G); draws with too few rows are repeated."""
    G = problem.units()
    sizes = np.bincount(problem.groups, minlength=G)
    need = min(problem.q + 1, problem.n)
    counts = np.zeros((count, G), np.uint16 if G > 1000 else np.int64)
    for part in chunks(count, max(1, 2**21 // G)):
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


def _bootstrap(
    problem: Problem, minimum: Minimum, start: np.ndarray, rng: np.random.Generator
) -> Draws:
    counts = resamples(problem, start.shape[1], rng)
    shift = _shift(problem, start.shape[1], rng)
    found = solve(problem, start, minimum.delta, counts=counts, shift=shift)
    theta, value = found.theta.copy(), found.objective.copy()
    converged = found.converged.copy()
    if problem.n < _FEW_ROWS:
        pool = np.concatenate([minimum.basins, spaced(minimum.pool, 128)], 1)
        pooled = _pooled(problem, pool, minimum.delta, counts, shift)
        _restart(problem, minimum.delta, counts, shift, pool, pooled, theta, value, converged)
    rescued = 0
    for _ in range(5):
        better = _beaten(problem, minimum, counts, shift, theta, value, rng)
        if not len(better):
            break
        rescued += len(better)
        which, source = better.T
        moved = None if shift is None else shift[:, which]
        again = solve(problem, theta[:, source], minimum.delta, counts=counts[which], shift=moved)
        win = again.objective < value[which]
        theta[:, which[win]] = again.theta[:, win]
        value[which[win]] = again.objective[win]
        converged[which[win]] = again.converged[win]
        if not win.any():
            break
    return Draws(theta, "bootstrap", float(converged.mean()), rescued)


def _shift(problem: Problem, count: int, rng: np.random.Generator) -> np.ndarray | None:
    """Return shifts (T, count) of the prior's centres: a draw from the posterior resamples these as
    it does the rows. None without a prior."""
    return None if problem.penalty is None else problem.penalty.draw(count, rng)


def _bootstrap_with(
    problem: Problem,
    minimum: Minimum,
    start: np.ndarray,
    effect: SizeEffect,
    rng: np.random.Generator,
) -> Draws:
    """Resample groups, and add an error per size to the targets of each resample."""
    counts = resamples(problem, start.shape[1], rng)
    parts = []
    for part in chunks(start.shape[1], max(1, _MOST_TARGETS // problem.n)):
        targets = problem.y + effect.draws(part.stop - part.start, rng)
        shift = _shift(problem, part.stop - part.start, rng)
        parts.append(_refit(problem, minimum, targets, start[:, part], counts[part], shift))
    theta = np.concatenate([theta for theta, _ in parts], 1)
    return Draws(theta, "bootstrap", float(np.mean(np.concatenate([ok for _, ok in parts]))))


def _restart(
    problem: Problem,
    delta: float,
    counts: np.ndarray,
    shift: np.ndarray | None,
    pool: np.ndarray,
    pooled: np.ndarray,
    theta: np.ndarray,
    value: np.ndarray,
    converged: np.ndarray,
) -> None:
    """Solve resamples again from the best few of a pool of starts (q, M), whose objectives are
    `pooled` (B, M); keep improvements in place."""
    best = np.argsort(pooled, axis=1)[:, :_TRIES]
    for k in range(best.shape[1]):
        found = solve(problem, pool[:, best[:, k]], delta, counts=counts, shift=shift, limit=40)
        win = found.objective < value * (1 - 1e-9)
        theta[:, win], value[win] = found.theta[:, win], found.objective[win]
        converged[win] = found.converged[win]


def _pooled(
    problem: Problem,
    theta: np.ndarray,
    delta: float,
    counts: np.ndarray,
    shift: np.ndarray | None,
) -> np.ndarray:
    """Return the objectives (B, M) of B resamples at unknowns (q, M)."""
    F = counts @ _misfit(problem, theta, delta).T
    return F if shift is None else F + _strains(problem, theta, shift)


def _strains(problem: Problem, theta: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the prior's part (B, M) at unknowns (q, M), its centres shifted by (T, B)."""
    M, B = theta.shape[1], shift.shape[1]
    each = problem.penalties(np.tile(theta, B), np.repeat(shift, M, 1))
    return np.nan_to_num(np.reshape(each, (B, M)), nan=1e30, posinf=1e30)


def _misfit(problem: Problem, theta: np.ndarray, delta: float) -> np.ndarray:
    """Return weighted rho summed over each group (M, G), for unknowns (q, M)."""
    parts = []
    for part in chunks(theta.shape[1], problem.slots):
        rho = huber(problem.residuals(theta[:, part]), delta) * problem.weights
        rho = np.nan_to_num(problem.per_group(rho), nan=1e30, posinf=1e30)
        parts.append(np.minimum(rho, 1e30).astype(np.float32))
    return np.concatenate(parts)


def _beaten(
    problem: Problem,
    minimum: Minimum,
    counts: np.ndarray,
    shift: np.ndarray | None,
    theta: np.ndarray,
    value: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return (K, 2): resamples that another resample's solution beats, and that other resample.

    A basin found by one resample is a candidate for all. One matrix product evaluates 512
    candidates on every resample.
    """
    B = len(value)
    candidates = np.arange(B) if B <= 512 else rng.choice(B, 512, replace=False)
    misfit = _misfit(problem, theta[:, candidates], minimum.delta).T
    out = []
    for part in chunks(B, max(1, 2**22 // max(problem.units(), 512))):
        F = counts[part].astype(np.float32) @ misfit
        if shift is not None:
            F = F + _strains(problem, theta[:, candidates], shift[:, part])
        best = np.argmin(F, axis=1)
        lowest = F[np.arange(len(F)), best]
        # Single precision is used only for screening: solutions within 1e-4 lie in the same basin.
        lost = np.flatnonzero(lowest < value[part] * (1 - 1e-4))
        out.append(np.stack([lost + part.start, candidates[best[lost]]], 1))
    return np.concatenate(out)


def _delta(problem: Problem, minimum: Minimum, count: int, seed: int) -> Draws:
    cov, freedom = covariance(problem, minimum)
    # Evenly spread draws and their mirror images give closer quantiles than independent draws.
    u = evenly((count + 1) // 2, problem.q + 1, seed)
    u = np.clip(u, 1e-9, 1 - 1e-9)
    z = scipy.special.ndtri(u[:, :-1])
    z *= np.sqrt(freedom / scipy.special.chdtri(freedom, u[:, -1:]))
    z = np.concatenate([z, -z])[:count]
    return Draws(minimum.theta + root(cov) @ z.T, "delta")
