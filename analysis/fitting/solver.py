"""Minimise a law's robust misfit over many starts, or many resamples of the rows, at once.

Everything is batched: S fits advance together, and a finished fit hands its slot to the next one.
Each takes damped Newton steps on sum_i w_i rho(r_i), with r the residual of the log (or raw) loss
and rho least squares or Huber's function. The Hessian blends two exact ones: lam = 0 is Newton's,
lam = 1 that of iteratively reweighted least squares, which is always positive definite.

Shapes are those of :mod:`analysis.fitting.problem`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.fitting.problem import General, Problem

STEP = 2.5
"""Longest step in any unknown: a factor e^2.5 in a coefficient."""


TOLERANCE = 1e-12
"""Stop when a full step would lower the objective by less than this fraction."""


@dataclass(frozen=True)
class Solutions:
    """B minimisations: unknowns (q, B), objective (B,), whether each met the tolerance (B,)."""

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    iterations: int
    """Batched iterations spent in all."""


def solve(
    problem: Problem,
    theta: np.ndarray,
    delta: float,
    *,
    counts: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    hold: np.ndarray | None = None,
    limit: int = 200,
) -> Solutions:
    """Minimise from each column of `theta` (q, B).

    counts: (B, G) how often each fit sees each group; None for once.
    targets: (B, n) the measured values of each fit on the residual's scale; None for the table's.
    hold: (q, B) one direction a fit; a . theta keeps its starting value (a profile).
    delta: Huber's threshold in units of the residual; infinity is least squares.
    """
    with np.errstate(all="ignore"):
        found = _solve(problem, theta, delta, counts, targets, hold, limit)
    return found if hold is not None else replace(found, theta=problem.ordered(found.theta))


def _solve(
    problem: Problem,
    theta0: np.ndarray,
    delta: float,
    counts: np.ndarray | None,
    targets: np.ndarray | None,
    hold: np.ndarray | None,
    limit: int,
) -> Solutions:
    model, n = problem.model, problem.n
    q, total = theta0.shape
    out, objective = np.array(theta0, float), np.full(total, np.inf)
    converged = np.zeros(total, bool)
    base = problem.weights
    rows_are_groups = problem.units() == n and np.array_equal(problem.groups, np.arange(n))
    unit = bool(np.all(base == 1))

    def weights(which: np.ndarray) -> np.ndarray:
        if counts is None:
            return np.broadcast_to(base, (len(which), n))
        w = counts[which]
        w = w if rows_are_groups else w[:, problem.groups]
        return w.astype(float) if unit else w * base

    def measured(which: np.ndarray) -> np.ndarray:
        return problem.y[None] if targets is None else targets[which]

    S = min(problem.slots, total)
    index = np.arange(S)
    queue = S
    w, y = np.array(weights(index)), np.array(measured(index))
    rounding = problem.rounding * base.sum()  # an exact fit has no other objective: stop there too
    # Rounding of y moves an objective F by as much: |psi| sums to at most sqrt(2 F sum w).
    blur = 4 * np.finfo(float).eps * np.abs(problem.y).max() * np.sqrt(2 * base.sum())
    current = theta0[:, index].astype(float)
    trial = current.copy()
    F, predicted = np.full(S, np.inf), np.zeros(S)
    lam, mu = np.full(S, 0.3), np.zeros(S)
    g, H = np.zeros((q, S)), np.zeros((q, q, S))
    age = np.zeros(S, int)
    iterations = 0
    while len(index):
        iterations += 1
        value, parts = model.evaluate(trial, n)
        r = value - y
        psi = np.clip(r, -delta, delta)
        wpsi = w * psi
        new = np.einsum("sn,sn->s", wpsi, r - psi / 2)
        drop = F - new
        with_rounding = 1e-14 * F + np.where(np.isfinite(F), blur * np.sqrt(F) + rounding, 0.0)
        better = np.isfinite(new) & (~np.isfinite(F) | (drop >= 1e-4 * predicted - with_rounding))
        gain = np.where(np.isfinite(F), drop / np.maximum(predicted, 1e-300), 0.3)
        gain = np.where(predicted <= 1e2 * with_rounding, 1.0, gain)

        F = np.where(better, new, F)
        current = np.where(better, trial, current)
        age += 1
        lam = np.where(better & (gain > 0.6), lam * 0.1, np.where(gain > 0.25, lam * 0.5, lam))
        lam = np.where(better, lam, np.minimum(1.0, 6 * lam + 1e-3))
        lam[lam < 1e-3] = 0.0
        mu = np.where(better, np.where(gain > 0.5, mu * 0.1, mu), np.maximum(10 * mu, 1e-3))
        mu[mu < 1e-6] = 0.0

        blend = lam[:, None]
        if np.isinf(delta):
            h = w
        else:
            size = np.abs(r)
            h = np.where(size <= delta, w, w * (blend * delta) / size)
        gradient, hessian = model.system(parts, wpsi, h, (1 - blend) * wpsi)
        if hold is not None:
            _hold(gradient, hessian, hold[:, index])
        if better.all():
            g, H = gradient, hessian
        else:
            g[:, better], H[:, :, better] = gradient[:, better], hessian[:, :, better]
        step, slope, damping = _step(H, g, mu)
        predicted = -slope / 2 + damping
        done = (predicted <= TOLERANCE * F + rounding) & (lam <= 0.02) & (mu <= 1e-3)
        # A fit whose steps have shrunk to rounding without meeting the tolerance is given up.
        lost = (age >= limit) | ~np.isfinite(F) | (mu > 1e12)
        trial = current + step

        if (done | lost).any():
            over = np.flatnonzero(done | lost)
            which = index[over]
            # Within the tolerance a last Newton step only sharpens the parameters; a long one comes
            # of a Hessian that knows nothing (no row within a tiny threshold).
            sharpens = done[over] & (np.abs(step[:, over]).max(0) < 1e-2)
            out[:, which] = np.where(sharpens, trial[:, over], current[:, over])
            objective[which], converged[which] = F[over], done[over]
            fresh = min(len(over), total - queue)
            into, over = over[:fresh], over[fresh:]
            if fresh:
                incoming = np.arange(queue, queue + fresh)
                queue += fresh
                index[into], w[into] = incoming, weights(incoming)
                if targets is not None:
                    y[into] = measured(incoming)
                trial[:, into] = current[:, into] = theta0[:, incoming]
                F[into], predicted[into], lam[into], mu[into], age[into] = np.inf, 0, 0.3, 0, 0
            if len(over):
                keep = np.ones(len(index), bool)
                keep[over] = False
                index, w, F, predicted = index[keep], w[keep], F[keep], predicted[keep]
                lam, mu, age = lam[keep], mu[keep], age[keep]
                y = y[keep] if targets is not None else y
                trial, current = trial[:, keep], current[:, keep]
                g, H = g[:, keep], H[:, :, keep]
    return Solutions(out, objective, converged, iterations)


def _hold(g: np.ndarray, H: np.ndarray, a: np.ndarray) -> None:
    """Make Newton steps keep a . theta: no slope along a, and a very stiff Hessian."""
    a = a / np.sqrt(np.einsum("is,is->s", a, a))
    g -= a * np.einsum("is,is->s", a, g)
    stiff = 1e8 * np.abs(np.einsum("iis->is", H)).max(0)
    H += stiff * a[:, None] * a[None, :]


def _step(
    H: np.ndarray, g: np.ndarray, mu: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Damped Newton step s (q, S), its slope g.s (S,) and mu s'Ds / 2 (S,).

    Batched LDL' of the Hessian scaled to a unit diagonal; a pivot that is not positive is
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
        for j in range(i + 1, q):
            factor = A[j, i] / pivot
            A[j, i + 1 :] -= factor * A[i, i + 1 :]
            x[j] -= factor * x[i]
    for i in range(q - 1, -1, -1):
        x[i] -= np.einsum("js,js->s", A[i, i + 1 :], x[i + 1 :])
        x[i] /= A[i, i]
    damping = mu * np.einsum("is,is->s", x, x) / 2
    step = x / scale
    shrink = np.minimum(1.0, STEP / np.maximum(np.abs(step).max(0), 1e-300))
    slope = np.einsum("is,is->s", g, step) * shrink
    return step * shrink, slope, damping * shrink


def gradients(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Jacobian (n, q) of the residuals at unknowns (q, 1)."""
    model = problem.model
    with np.errstate(all="ignore"):
        _, parts = model.evaluate(theta, problem.n)
    if isinstance(model, General):
        return np.array([d[0] for d in parts]).T
    J = np.zeros((problem.n, problem.q))
    for (index, phi, _), p in zip(model.blocks, parts, strict=True):
        for j, slope in zip(index, phi, strict=True):
            J[:, j] += p[0] * slope
    return J
