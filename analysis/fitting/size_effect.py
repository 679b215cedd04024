"""An error that all runs of one size share, such as a learning rate that suits it less well.

Residuals are r = u_N + e: u_N has variance tau^2 and is the same for all rows of one N, e differs
from run to run. More rows of the same sizes then determine a law less well than their number
suggests. tau^2 comes from a one-way analysis of variance of the residuals, with the degrees of
freedom that the law's own parameters take from each stratum.

Sources: Henderson 1953, Estimation of Variance and Covariance Components (method 3); Searle,
Casella & McCulloch 1992, Variance Components, chapter 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import scipy

from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem, typical
from analysis.fitting.solver import gradients

SIGNIFICANT = 0.05
"""Largest p value of the F test at which an effect of the size is taken to be there."""
_MOST_SIZES = 400
"""With more sizes, hardly any has rows enough to tell its error from that of a run."""

_KNOWN: WeakKeyDictionary[Problem, tuple[Minimum, SizeEffect | None]] = WeakKeyDictionary()
"""The estimate at the last minimum of each problem: every interval of a fit needs it."""


@dataclass(frozen=True, eq=False)
class SizeEffect:
    """The error shared by the rows of one size."""

    sd: float
    """tau, on the scale of the residuals."""
    p: float
    """p value of the F test of no effect."""
    freedom: float
    """Degrees of freedom of tau^2: sizes, minus parameters that the sizes determine."""
    sizes: np.ndarray
    """(n,) number of the size of each row."""

    def draws(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return errors (count, n), equal for rows of one size.

        tau itself is uncertain: each draw scales it as the variance estimate of `freedom` degrees
        of freedom varies, which makes the errors Student's t.
        """
        scale = np.sqrt(self.freedom / rng.chisquare(self.freedom, (count, 1)))
        errors = rng.standard_normal((count, int(self.sizes.max()) + 1)) * scale
        return self.sd * errors[:, self.sizes]

    def covariance(self, J: np.ndarray, w: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """Return the covariance (q, q) that the effect adds to the unknowns.

        J: (n, q) slopes of the residuals. w: (n,) weights. inverse: (q, q) of J' W J.
        """
        score = [np.bincount(self.sizes, column * w) for column in J.T]
        moved = inverse @ np.array(score)
        return self.sd**2 * moved @ moved.T


_LEAST = 0.5
"""Least share of the variance of the residuals; that of `checkpoints_as_runs`."""


def size_effect(problem: Problem, minimum: Minimum) -> SizeEffect | None:
    """Return the error shared by the rows of one size; None unless it is significant and makes up
    at least half of their variance.

    A smaller one is left to the intervals of the literature, which know of none: in the runs of
    Besiroglu et al. 2024 it makes up 0.43. Sizes are the values of N. There must be several runs of
    one size, and more sizes than parameters that they determine.
    """
    if not problem.shared:
        return None
    at, found = _KNOWN.get(problem, (None, None))
    if at is not minimum:
        found = estimate(problem, minimum)
        _KNOWN[problem] = minimum, found
    if found is None or found.p >= SIGNIFICANT:
        return None
    total = (1.4826 * typical(problem, minimum.theta)) ** 2
    return found if found.sd**2 >= _LEAST * total else None


def estimate(problem: Problem, minimum: Minimum) -> SizeEffect | None:
    """Return tau with its F test, whatever its significance; None if the rows cannot tell."""
    if "N" not in problem.columns:
        return None
    _, sizes = np.unique(problem.columns["N"], return_inverse=True)
    G = int(sizes.max()) + 1
    if G < 3 or min(_MOST_SIZES, 0.7 * problem.units()) < G:
        return None
    with np.errstate(all="ignore"):
        J = gradients(problem, minimum.theta)
        bound = 3 * 1.4826 * typical(problem, minimum.theta)
        r = np.clip(problem.residuals(minimum.theta)[0], -bound, bound)
    if not np.isfinite(J).all() or bound**2 <= 100 * problem.rounding:
        return None
    root = np.sqrt(problem.weights)
    basis, size, _ = np.linalg.svd(
        J * root[:, None] / (np.linalg.norm(J, axis=0) + 1e-300), full_matrices=False
    )
    basis = basis[:, size > 1e-7 * size[0]]
    between = _Stratum(sizes, root)
    within = _Stratum(_nested(sizes, problem.groups), root)
    r = root * r
    r = r - basis @ (basis.T @ r)
    Z = np.zeros((problem.n, G))
    Z[np.arange(problem.n), sizes] = root
    Z -= basis @ (basis.T @ Z)
    # Sums of squares, their degrees of freedom, and what a unit tau^2 adds to each.
    square, freedom, added = (
        np.array([first, second - first])
        for first, second in (
            (between.square(r), within.square(r)),
            (G - between.square(basis), within.groups - within.square(basis)),
            (between.square(Z), within.square(Z)),
        )
    )
    if freedom[0] < 0.9 or freedom[1] < 3 or square[1] <= 0:
        return None
    F = square[0] / freedom[0] / (square[1] / freedom[1])
    p = float(scipy.special.fdtrc(freedom[0], freedom[1], F))
    # Two equations: the sum of squares of each stratum is added tau^2 + freedom sigma^2.
    determinant = added[0] * freedom[1] - added[1] * freedom[0]
    tau2 = (square[0] * freedom[1] - square[1] * freedom[0]) / max(determinant, 1e-300)
    return SizeEffect(float(np.sqrt(max(tau2, 0.0))), p, float(freedom[0]), sizes)


def _nested(sizes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the number of each row's run within its size."""
    pairs = np.stack([sizes, groups], 1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


class _Stratum:
    """Projection on the weighted means of groups of rows."""

    def __init__(self, codes: np.ndarray, root: np.ndarray) -> None:
        self.codes, self.root = codes, root
        self.groups = int(codes.max()) + 1
        self.weight = np.bincount(codes, root**2)
        self.order = np.argsort(codes, kind="stable")
        self.starts = np.searchsorted(codes[self.order], np.arange(self.groups))

    def square(self, x: np.ndarray) -> float:
        """Return the sum of squares of the projection of x (n,) or (n, k)."""
        rows = np.atleast_2d(x.T) * self.root
        sums = np.add.reduceat(rows[:, self.order], self.starts, axis=1)
        return float(np.sum(sums**2 / self.weight))
