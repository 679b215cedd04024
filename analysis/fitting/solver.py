"""Minimise the robust misfit of a law for many starts, or many resamples of the rows, at once.

Everything is batched: S fits advance together, and a finished fit hands its slot to the next one.
Each fit takes damped Newton steps on sum_i w_i rho(r_i), where r is the residual of the (log or
raw) loss and rho is half the square or Huber's function. The Hessian blends two exact ones:
lam = 0 gives Newton's, lam = 1 that of iteratively reweighted least squares, which is always
positive definite. mu is Levenberg's damping.

The shapes are those of :mod:`analysis.fitting.problem`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.fitting.problem import GeneralModel, Problem

LONGEST_STEP = 2.5
"""Longest step in any unknown: a factor e^2.5 in a coefficient."""

TOLERANCE = 1e-12
"""A fit has converged when a full step would lower the objective by less than this fraction."""

_FIRST_LAM = 0.3


@dataclass(frozen=True)
class Solutions:
    """B minimisations: unknowns (q, B), objective (B,), whether each met the tolerance (B,)."""

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    iterations: int
    """Total number of batched iterations."""


def solve(
    problem: Problem,
    theta: np.ndarray,
    delta: float,
    *,
    counts: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    hold: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    limit: int = 200,
) -> Solutions:
    """Minimise from each column of `theta` (q, B).

    delta: Huber's threshold in units of the residual; infinity is least squares.
    counts: (B, G) how often each fit sees each group; None for once.
    targets: (B, n) the measured values of each fit on the scale of the residuals; None for those
        of the table.
    hold: (q, B) a direction a for each fit; a . theta keeps its starting value (for profiles).
    shift: (T, B) by how much each fit moves the centres of the prior's T beliefs.
    limit: iterations after which a fit is given up.
    """
    with np.errstate(all="ignore"):
        found = _Batch(problem, theta, delta, counts, targets, hold, shift, limit).run()
    return found if hold is not None else replace(found, theta=problem.ordered(found.theta))


class _Batch:
    """Fits that advance together in S slots, and the queue of those that wait for a slot.

    An iteration accepts or rejects the points proposed last, proposes the next ones, and retires
    finished fits. The last axis of unknowns and the first axis of rows is the slot.
    """

    def __init__(
        self,
        problem: Problem,
        theta: np.ndarray,
        delta: float,
        counts: np.ndarray | None,
        targets: np.ndarray | None,
        hold: np.ndarray | None,
        shift: np.ndarray | None,
        limit: int,
    ) -> None:
        self.problem, self.delta, self.limit = problem, delta, limit
        self.counts, self.targets, self.hold = counts, targets, hold
        self.shift = shift
        n, base = problem.n, problem.weights
        self.rows_are_groups = problem.units() == n and np.array_equal(problem.groups, np.arange(n))
        self.unit_weights = bool(np.all(base == 1))
        # The objective of an exact fit is rounding error: stop there too.
        self.rounding = problem.rounding * base.sum()
        # Rounding y changes an objective F by this much: |psi| sums to at most sqrt(2 F sum w).
        self.blur = 4 * np.finfo(float).eps * np.abs(problem.y).max() * np.sqrt(2 * base.sum())

        q, total = theta.shape
        self.start = theta
        self.out = Solutions(
            np.array(theta, float), np.full(total, np.inf), np.zeros(total, bool), 0
        )
        S = self.queue = min(problem.slots, total)  # `queue` is the next fit to get a slot
        self.fit = np.arange(S)  # which fit each slot works on
        self.w, self.y = np.array(self._weights(self.fit)), np.array(self._measured(self.fit))
        self.current = theta[:, self.fit].astype(float)
        self.trial = self.current.copy()
        self.F, self.predicted = np.full(S, np.inf), np.zeros(S)
        self.lam, self.mu = np.full(S, _FIRST_LAM), np.zeros(S)
        self.gradient, self.hessian = np.zeros((q, S)), np.zeros((q, q, S))
        self.age = np.zeros(S, int)

    def run(self) -> Solutions:
        iterations = 0
        while len(self.fit):
            iterations += 1
            self._accept()
            self._retire(self._propose())
        return replace(self.out, iterations=iterations)

    def _weights(self, fits: np.ndarray) -> np.ndarray:
        if self.counts is None:
            return np.broadcast_to(self.problem.weights, (len(fits), self.problem.n))
        w = self.counts[fits]
        w = w if self.rows_are_groups else w[:, self.problem.groups]
        return w.astype(float) if self.unit_weights else w * self.problem.weights

    def _measured(self, fits: np.ndarray) -> np.ndarray:
        return self.problem.y[None] if self.targets is None else self.targets[fits]

    def _shift(self) -> np.ndarray | None:
        return None if self.shift is None else self.shift[:, self.fit]

    def _accept(self) -> None:
        """Evaluate the trial points and move to those that lower the objective (Armijo's rule)."""
        delta = self.delta
        value, parts = self.problem.model.evaluate(self.trial, self.problem.n)
        r = value - self.y
        psi = np.clip(r, -delta, delta)
        wpsi = self.w * psi
        new = np.einsum("sn,sn->s", wpsi, r - psi / 2)
        new = new + self.problem.penalties(self.trial, self._shift())
        F, predicted, lam, mu = self.F, self.predicted, self.lam, self.mu
        drop = F - new
        slack = 1e-14 * F + np.where(np.isfinite(F), self.blur * np.sqrt(F) + self.rounding, 0.0)
        better = np.isfinite(new) & (~np.isfinite(F) | (drop >= 1e-4 * predicted - slack))
        gain = np.where(np.isfinite(F), drop / np.maximum(predicted, 1e-300), 0.3)
        gain = np.where(predicted <= 1e2 * slack, 1.0, gain)

        self.F = np.where(better, new, F)
        self.current = np.where(better, self.trial, self.current)
        self.age += 1
        lam = np.where(better & (gain > 0.6), lam * 0.1, np.where(gain > 0.25, lam * 0.5, lam))
        lam = np.where(better, lam, np.minimum(1.0, 6 * lam + 1e-3))
        lam[lam < 1e-3] = 0.0
        mu = np.where(better, np.where(gain > 0.5, mu * 0.1, mu), np.maximum(10 * mu, 1e-3))
        mu[mu < 1e-6] = 0.0
        self.lam, self.mu = lam, mu
        self._differentiate(parts, r, wpsi, better)

    def _differentiate(
        self, parts: list[np.ndarray], r: np.ndarray, wpsi: np.ndarray, better: np.ndarray
    ) -> None:
        """Update gradient and blended Hessian where the trial point was accepted."""
        blend = self.lam[:, None]
        if np.isinf(self.delta):
            h = self.w
        else:
            size = np.abs(r)
            h = np.where(size <= self.delta, self.w, self.w * (blend * self.delta) / size)
        gradient, hessian = self.problem.model.system(parts, wpsi, h, (1 - blend) * wpsi)
        self.problem.add_prior(self.trial, gradient, hessian, self._shift())
        if self.hold is not None:
            _hold(gradient, hessian, self.hold[:, self.fit])
        if better.all():
            self.gradient, self.hessian = gradient, hessian
        else:
            self.gradient[:, better] = gradient[:, better]
            self.hessian[:, :, better] = hessian[:, :, better]

    def _propose(self) -> np.ndarray:
        """Set the next trial points, a damped Newton step away; return the steps (q, S)."""
        step, slope, damping = _newton_step(self.hessian, self.gradient, self.mu)
        self.predicted = -slope / 2 + damping
        self.trial = self.current + step
        return step

    def _retire(self, step: np.ndarray) -> None:
        """Store the fits that are done or given up; refill their slots, or close them."""
        done = (
            (self.predicted <= TOLERANCE * self.F + self.rounding)
            & (self.lam <= 0.02)
            & (self.mu <= 1e-3)
        )
        # A fit whose steps have shrunk to rounding without meeting the tolerance is given up.
        lost = (self.age >= self.limit) | ~np.isfinite(self.F) | (self.mu > 1e12)
        if not (done | lost).any():
            return
        over = np.flatnonzero(done | lost)
        fits = self.fit[over]
        # Within the tolerance, a last Newton step only refines the parameters. A long step comes
        # from a Hessian without information (no row within a tiny threshold).
        sharpens = done[over] & (np.abs(step[:, over]).max(0) < 1e-2)
        self.out.theta[:, fits] = np.where(sharpens, self.trial[:, over], self.current[:, over])
        self.out.objective[fits], self.out.converged[fits] = self.F[over], done[over]
        waiting = self.start.shape[1] - self.queue
        self._refill(over[:waiting])
        self._close(over[waiting:])

    def _refill(self, slots: np.ndarray) -> None:
        if not len(slots):
            return
        fits = np.arange(self.queue, self.queue + len(slots))
        self.queue += len(slots)
        self.fit[slots], self.w[slots] = fits, self._weights(fits)
        if self.targets is not None:
            self.y[slots] = self._measured(fits)
        self.trial[:, slots] = self.current[:, slots] = self.start[:, fits]
        self.F[slots], self.predicted[slots], self.age[slots] = np.inf, 0, 0
        self.lam[slots], self.mu[slots] = _FIRST_LAM, 0

    def _close(self, slots: np.ndarray) -> None:
        if not len(slots):
            return
        keep = np.ones(len(self.fit), bool)
        keep[slots] = False
        for name in ("fit", "w", "F", "predicted", "lam", "mu", "age"):
            setattr(self, name, getattr(self, name)[keep])
        if self.targets is not None:
            self.y = self.y[keep]
        for name in ("trial", "current", "gradient", "hessian"):
            setattr(self, name, getattr(self, name)[..., keep])


def _hold(g: np.ndarray, H: np.ndarray, a: np.ndarray) -> None:
    """Make Newton steps keep a . theta, in place: no slope along a, and a very stiff Hessian."""
    a = a / np.sqrt(np.einsum("is,is->s", a, a))
    g -= a * np.einsum("is,is->s", a, g)
    stiff = 1e8 * np.abs(np.einsum("iis->is", H)).max(0)
    H += stiff * a[:, None] * a[None, :]


def _newton_step(
    H: np.ndarray, g: np.ndarray, mu: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the damped Newton step s (q, S), its slope g.s (S,) and mu s'Ds / 2 (S,).

    Batched LDL' of the Hessian scaled to a unit diagonal. A pivot that is not positive is
    replaced, which turns a direction of negative curvature into one of descent.
    """
    q = len(g)
    diagonal = np.abs(np.einsum("iis->is", H))
    scale = np.sqrt(np.maximum(diagonal, 1e-14 * diagonal.max(0) + 1e-300))
    A = H / (scale[:, None] * scale)
    x = -g / scale
    for i in range(q):
        A[i, i] += mu
    for i in range(q):
        pivot = A[i, i]
        A[i, i] = pivot = np.where(pivot < 1e-9, np.maximum(-pivot, 0.01), pivot)
        factor = A[i + 1 :, i] / pivot
        A[i + 1 :, i + 1 :] -= factor[:, None] * A[i, i + 1 :]
        x[i + 1 :] -= factor * x[i]
    for i in range(q - 1, -1, -1):
        x[i] -= np.einsum("js,js->s", A[i, i + 1 :], x[i + 1 :])
        x[i] /= A[i, i]
    damping = mu * np.einsum("is,is->s", x, x) / 2
    step = x / scale
    shrink = np.minimum(1.0, LONGEST_STEP / np.maximum(np.abs(step).max(0), 1e-300))
    slope = np.einsum("is,is->s", g, step) * shrink
    return step * shrink, slope, damping * shrink


def prior_rows(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Return rows (T, q) whose Gram matrix is the Hessian of the prior's part at (q, 1)."""
    if problem.penalty is None:
        return np.zeros((0, problem.q))
    _, second = problem.penalty.slopes(problem.model.natural(theta))
    rows = problem.model.natural(np.eye(problem.q))[problem.penalty.index]
    return np.sqrt(problem.strain * second) * rows


def gradients(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Return the Jacobian (n, q) of the residuals at unknowns (q, 1)."""
    model = problem.model
    with np.errstate(all="ignore"):
        _, parts = model.evaluate(theta, problem.n)
    if isinstance(model, GeneralModel):
        return np.array([d[0] for d in parts]).T
    J = np.zeros((problem.n, problem.q))
    for (index, phi, _), p in zip(model.blocks, parts, strict=True):
        for j, slope in zip(index, phi, strict=True):
            J[:, j] += p[0] * slope
    return J
