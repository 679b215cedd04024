"""Noise of the curves of a sweep: slow deviations of sizes and of runs, and noise of points.

The residual of ln L is the sum of

- a slow deviation of the size (the misfit of the law), and one of the trunk (a run, or the runs
  that share their first steps): each is linear in ln T between knots a factor sqrt(2) apart, its
  values at the knots an autoregression of first order;
- a constant of the trunk (its seed);
- a share of what annealing takes away, one for each size;
- noise of single points, which grows with the learning rate.

The deviations are random effects with normal distributions. Their sizes are found by restricted
maximum likelihood together with weak beliefs, and the effects themselves by the best linear
unbiased prediction, so that what is known of a run carries over to its end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

SPACING = 0.5 * np.log(2.0)
"""Distance of neighbouring knots in ln T."""


@dataclass(frozen=True)
class CurveEffects:
    """Standard deviations of ln L, and the length of the autoregressions in ln T."""

    white: float = 0.0015
    jitter: float = 0.004
    """Noise of a point at the peak learning rate."""
    offset: float = 0.002
    misfit: float = 0.003
    """Slow deviation of a size."""
    drift: float = 0.002
    """Slow deviation of a trunk."""
    length: float = 1.5
    annealing: float = 0.02
    """Deviation of what annealing takes away, relative to it."""

    @classmethod
    def from_logs(cls, h: np.ndarray) -> CurveEffects:
        """Return the noise whose values have the logarithms h."""
        return cls(*np.exp(h).tolist())

    def logs(self) -> np.ndarray:
        """Return the logarithms of all values."""
        return np.log(list(vars(self).values()))

    def point_variance(self, rate: np.ndarray) -> np.ndarray:
        """Return the variance of single points at rates in units of the peak."""
        return self.white**2 + (self.jitter * rate) ** 2


BELIEF_SPREAD = np.array([0.7, 0.7, 1.0, 0.7, 1.0, 0.6, 1.0])
"""Standard deviations of the beliefs about the logarithms; the means are the defaults above."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Columns of the effects of one size: its knots, its annealing, then each trunk's."""

    low: float
    """ln T of the first knot."""
    knots: int
    trunks: tuple[object, ...]

    @classmethod
    def covering(cls, log_T: np.ndarray, trunks: list[object]) -> Basis:
        """Return the basis for rows between the least and the largest ln T."""
        low = float(log_T.min())
        return cls(low, int(np.ceil((log_T.max() - low) / SPACING)) + 2, tuple(trunks))

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.knots + 1 + len(self.trunks) * (self.knots + 1)

    def design(self, log_T: np.ndarray, trunk: np.ndarray, annealed: np.ndarray) -> np.ndarray:
        """Return the effect of each column on each row (n, size)."""
        at = (log_T - self.low) / SPACING
        left = np.clip(np.floor(at).astype(int), 0, self.knots - 2)
        part = np.clip(at - left, 0, 1)
        rows = np.arange(len(at))
        hats = np.zeros((len(at), self.knots))
        hats[rows, left], hats[rows, left + 1] = 1 - part, part
        Z = np.zeros((len(at), self.size))
        Z[:, : self.knots], Z[:, self.knots] = hats, -annealed
        for j in range(len(self.trunks)):
            own = trunk == j
            start = self.knots + 1 + j * (self.knots + 1)
            Z[own, start : start + self.knots] = hats[own]
            Z[own, start + self.knots] = 1.0
        return Z

    def precision(self, noise: CurveEffects) -> tuple[np.ndarray, float]:
        """Return the inverse covariance of the effects, and the log determinant of it."""
        rho = np.exp(-SPACING / noise.length)
        chain = np.diag(np.r_[1.0, np.full(max(self.knots - 2, 0), 1 + rho**2), 1.0])
        i = np.arange(self.knots - 1)
        chain[i, i + 1] = chain[i + 1, i] = -rho
        chain /= 1 - rho**2
        log_chain = -(self.knots - 1) * np.log1p(-(rho**2))
        P = np.zeros((self.size, self.size))
        P[: self.knots, : self.knots] = chain / noise.misfit**2
        P[self.knots, self.knots] = noise.annealing**-2.0
        log_det = log_chain - 2 * self.knots * np.log(noise.misfit) - 2 * np.log(noise.annealing)
        for j in range(len(self.trunks)):
            s = self.knots + 1 + j * (self.knots + 1)
            e = s + self.knots
            P[s:e, s:e], P[e, e] = chain / noise.drift**2, noise.offset**-2.0
            log_det += log_chain - 2 * self.knots * np.log(noise.drift) - 2 * np.log(noise.offset)
        return P, float(log_det)


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of one size."""

    rows: np.ndarray
    """Their indices."""
    basis: Basis
    Z: np.ndarray
    rate: np.ndarray


@dataclass(frozen=True, eq=False)
class Whitening:
    """The inverse V^-1 of the covariance of one block, as D^-1 - D^-1 Z M^-1 Z' D^-1."""

    block: Block
    inverse: np.ndarray
    """1 / D (n,)."""
    factor: np.ndarray
    """Lower triangular factor of M = P + Z' D^-1 Z."""
    log_det: float
    """ln |V|."""

    @classmethod
    def of(cls, block: Block, noise: CurveEffects) -> Whitening:
        """Return the whitening of a block under a noise."""
        P, log_P = block.basis.precision(noise)
        inverse = 1 / noise.point_variance(block.rate)
        factor = np.linalg.cholesky(P + block.Z.T @ (inverse[:, None] * block.Z))
        log_det = 2 * np.log(np.diag(factor)).sum() - log_P - np.log(inverse).sum()
        return cls(block, inverse, factor, float(log_det))

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return left' V^-1 right for the block's rows of left (n, a) and right (n, b)."""
        weighted = self.inverse[:, None] * right
        b = solve_triangular(self.factor, self.block.Z.T @ weighted, lower=True)
        if left is right:
            return left.T @ weighted - b.T @ b
        other = self.block.Z.T @ (self.inverse[:, None] * left)
        return left.T @ weighted - solve_triangular(self.factor, other, lower=True).T @ b

    def effects(self, values: np.ndarray) -> np.ndarray:
        """Return the predicted effects for residuals `values` (n, b) of the block."""
        return cho_solve((self.factor, True), self.block.Z.T @ (self.inverse[:, None] * values))

    def effects_covariance(self) -> np.ndarray:
        """Return the covariance of the effects about their prediction, the law being known."""
        return cho_solve((self.factor, True), np.eye(len(self.factor)))


def estimate(
    blocks: list[Block],
    residual: np.ndarray,
    slopes: np.ndarray,
    prior: tuple[np.ndarray, np.ndarray],
    start: CurveEffects,
) -> tuple[CurveEffects, float]:
    """Return the noise of greatest restricted likelihood and its negative logarithm.

    blocks: The rows by size.
    residual: ln L minus the law at the current unknowns (n,).
    slopes: Slopes of the law there (n, f).
    prior: Distance of the unknowns from their beliefs (f,) and the beliefs' inverse
        covariance (f, f).
    start: Where the search begins.
    """
    away, precision = prior
    center = CurveEffects().logs()
    both = np.column_stack([residual, slopes])

    def objective(h: np.ndarray) -> float:
        noise = CurveEffects.from_logs(np.clip(h, center - 6, center + 6))
        total, S = 0.0, np.zeros((both.shape[1], both.shape[1]))
        for block in blocks:
            white = Whitening.of(block, noise)
            part = both[block.rows]
            S += white.product(part, part)
            total += white.log_det
        H = S[1:, 1:] + precision
        g = S[1:, 0] - precision @ away
        factor = cho_factor(H, lower=True)
        quadratic = S[0, 0] + away @ precision @ away - g @ cho_solve(factor, g)
        log_H = 2 * np.log(np.diag(factor[0])).sum()
        away_h = np.sum(((h - center) / BELIEF_SPREAD) ** 2)
        return 0.5 * float(total + log_H + quadratic + away_h)

    limits = {"maxiter": 40, "ftol": 1e-6}
    found = minimize(objective, start.logs(), method="L-BFGS-B", options=limits)
    return CurveEffects.from_logs(np.clip(found.x, center - 6, center + 6)), float(found.fun)
