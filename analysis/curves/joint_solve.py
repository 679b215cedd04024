"""Fit of the law of curves and sizes by generalised least squares, with draws of its unknowns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from analysis.curves.effects import Basis, Block, CurveEffects, Whitening, estimate
from analysis.curves.size_law import Rows, SizeLaw

ROUNDS = 8
"""Most alternations of noise and law."""
TOLERANCE = 1e-3
"""Largest last change of an unknown, in units of its standard error, of a converged fit."""
THINNED = 40
"""Most points per trunk from which the noise is estimated; all points count for the law."""
REFIT_STEPS = 2
"""Steps with the law's own slopes of each draw."""
REACH = 6
"""Knots of the effects beyond the longest run: a factor sqrt(2)^REACH in tokens."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Measured losses of a sweep, and which rows share deviations."""

    law: SizeLaw
    rows: Rows
    log_loss: np.ndarray
    size: np.ndarray
    """Index of each row's size (n,)."""
    trunk: np.ndarray
    """Index of each row's trunk among those of its size (n,)."""
    trunks: tuple[tuple[object, ...], ...]
    """Names of the trunks of each size."""

    def basis(self, size: int) -> Basis:
        """Return the basis of the effects of one size."""
        log_T = np.log(self.rows.T[self.size == size])
        covered = Basis.covering(log_T, list(self.trunks[size]))
        return Basis(covered.low, covered.knots + REACH, covered.trunks)

    def blocks(self, z: np.ndarray) -> list[Block]:
        """Return the rows of each size with the effects on them; z sets what annealing takes."""
        annealed = self.law.excess(z, self.rows)
        found = []
        for i in range(len(self.trunks)):
            at = np.flatnonzero(self.size == i)
            basis = self.basis(i)
            Z = basis.design(np.log(self.rows.T[at]), self.trunk[at], annealed[at])
            found.append(Block(at, basis, Z, self.rows.rate[at]))
        return found


@dataclass(frozen=True, eq=False)
class Minimum:
    """A fit: its unknowns, noise and linear model at the minimum."""

    z: np.ndarray
    noise: CurveEffects
    whitenings: list[Whitening]
    residual: np.ndarray
    """ln L minus the law (n,)."""
    slopes: np.ndarray
    """Slopes of the law in the free unknowns (n, f)."""
    covariance: np.ndarray
    """Covariance of the free unknowns (f, f)."""
    objective: float
    likelihood: float
    """Negative logarithm of the restricted likelihood with the beliefs."""
    converged: bool


def solve(problem: Problem) -> Minimum:
    """Return the fit: the law and its noise in turns until neither changes."""
    z, noise = _start(problem), CurveEffects()
    law, free = problem.law, problem.law.free
    converged, likelihood = False, np.inf
    for _ in range(ROUNDS):
        blocks = problem.blocks(z)
        residual, slopes = _linear(problem, z)
        away = z[free] - law.center[free]
        noise, likelihood = estimate(
            _thinned(problem, blocks), residual, slopes, (away, law.precision), noise
        )
        whitenings = [Whitening.of(block, noise) for block in blocks]
        found, H, _ = minimise(problem, whitenings, z)
        moved = found[free] - z[free]
        z = found
        if moved @ H @ moved < TOLERANCE**2 * len(free):
            converged = True
            break
    blocks = problem.blocks(z)
    whitenings = [Whitening.of(block, noise) for block in blocks]
    z, H, objective = minimise(problem, whitenings, z)
    residual, slopes = _linear(problem, z)
    covariance = _inverse(H)
    return Minimum(
        z, noise, whitenings, residual, slopes, covariance, objective, likelihood, converged
    )


def minimise(
    problem: Problem,
    whitenings: list[Whitening],
    z: np.ndarray,
    shift: np.ndarray | None = None,
    prior_shift: np.ndarray | None = None,
    limit: int = 60,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (unknowns, Hessian (f, f), objective) of the least generalised sum of squares.

    problem: The measured losses.
    whitenings: The covariance of each size's rows.
    z: Where the search begins.
    shift: Added to the measured ln L (n,), for refits of other samples.
    prior_shift: Added to the centres of the beliefs (f,).
    limit: Most steps.
    """
    law, free = problem.law, problem.law.free
    center = law.center[free] + (0.0 if prior_shift is None else prior_shift)

    def state(z: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        residual, slopes = _linear(problem, z)
        if shift is not None:
            residual = residual + shift
        S = product(whitenings, np.column_stack([residual, slopes]))
        away = z[free] - center
        value = S[0, 0] + away @ law.precision @ away
        return float(value), S[1:, 1:] + law.precision, S[1:, 0] - law.precision @ away

    damping = 1e-4
    value, H, g = state(z)
    for _ in range(limit):
        step = np.linalg.solve(H + damping * np.diag(np.diag(H)), g)
        step *= min(1.0, 1.5 / max(np.abs(step).max(), 1e-300))
        trial = z.copy()
        trial[free] += step
        with np.errstate(all="ignore"):
            new, new_H, new_g = state(trial)
        if np.isfinite(new) and new <= value:
            done = value - new < 1e-7 * max(value, 1.0)
            z, value, H, g, damping = trial, new, new_H, new_g, max(damping / 5, 1e-9)
            if done:
                break
        else:
            damping *= 10
            if damping > 1e8:
                break
    return z, H, value


def product(whitenings: list[Whitening], values: np.ndarray) -> np.ndarray:
    """Return values' V^-1 values (b, b) for columns of values (n, b)."""
    total = np.zeros((values.shape[1], values.shape[1]))
    for white in whitenings:
        part = values[white.block.rows]
        total += white.product(part, part)
    return total


def draws(
    problem: Problem, minimum: Minimum, n: int, seed: int, limit: int = REFIT_STEPS
) -> np.ndarray:
    """Return draws of the unknowns (n, q): fits of resampled noise and beliefs.

    Each minimises the sum of squares for measured losses with other noise and beliefs with other
    centres. It starts from the minimum of the linear model of the fit and takes `limit` steps with
    the law's own slopes.
    """
    rng = np.random.default_rng(seed)
    law, free = problem.law, problem.law.free
    noise = np.zeros((n, len(problem.rows)))
    G = np.empty_like(minimum.slopes)  # V^-1 times the slopes
    for white in minimum.whitenings:
        block = white.block
        G[block.rows] = _solved(white, minimum.slopes[block.rows])
        P, _ = block.basis.precision(minimum.noise)
        unit = rng.standard_normal((block.basis.size, n))
        effects = solve_triangular(np.linalg.cholesky(P).T, unit)
        points = rng.standard_normal((n, len(block.rows))) / np.sqrt(white.inverse)
        noise[:, block.rows] = (block.Z @ effects).T + points
    beliefs = rng.standard_normal((n, len(free))) @ np.linalg.cholesky(law.precision).T
    moved = np.linalg.solve(law.precision, beliefs.T).T
    found = np.tile(minimum.z, (n, 1))
    found[:, free] += (noise @ G + beliefs) @ minimum.covariance
    for i in range(n):
        found[i] = minimise(problem, minimum.whitenings, found[i], noise[i], moved[i], limit=limit)[
            0
        ]
    return found


def _thinned(problem: Problem, blocks: list[Block]) -> list[Block]:
    """Return the blocks with at most THINNED points per trunk, evenly spaced in ln T."""
    found = []
    for block in blocks:
        kept = []
        trunk, log_T = problem.trunk[block.rows], np.log(problem.rows.T[block.rows])
        for j in range(len(block.basis.trunks)):
            own = np.flatnonzero(trunk == j)
            own = own[np.argsort(log_T[own], kind="stable")]
            if len(own) > THINNED:
                near = np.searchsorted(
                    log_T[own], np.linspace(log_T[own[0]], log_T[own[-1]], THINNED)
                )
                own = own[np.unique(np.minimum(near, len(own) - 1))]
            kept.append(own)
        some = np.sort(np.concatenate(kept))
        found.append(Block(block.rows[some], block.basis, block.Z[some], block.rate[some]))
    return found


def _solved(white: Whitening, values: np.ndarray) -> np.ndarray:
    """Return V^-1 values (n, b) for the rows of one block."""
    return white.inverse[:, None] * (values - white.block.Z @ white.effects(values))


def _start(problem: Problem) -> np.ndarray:
    """Return the best of a few fits with independent noise."""
    law, free = problem.law, problem.law.free
    simple = [
        Whitening.of(
            Block(np.arange(len(problem.rows)), Basis(0.0, 2, ()), np.zeros((len(problem.rows), 3)),
                  problem.rows.rate),
            CurveEffects(white=0.004, jitter=0.004),
        )
    ]  # fmt: skip
    best = (np.inf, law.center)
    for steepness in (0.0, 0.7):
        z = law.center.copy()
        moved = np.intersect1d([3, 4], free)
        z[moved] += steepness
        found, _, value = minimise(problem, simple, z)
        best = min(best, (value, found), key=lambda pair: pair[0])
    if not len(free):
        return law.center.copy()
    return best[1]


def _linear(problem: Problem, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the residuals ln L - law and the law's slopes."""
    law, slopes = problem.law.log_loss_and_slopes(z, problem.rows)
    return problem.log_loss - law, slopes


def _inverse(H: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.diag(H))
    return np.linalg.inv(H / np.outer(scale, scale)) / np.outer(scale, scale)
