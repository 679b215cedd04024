"""Minimise a law's robust misfit over many starts, or many resamples of the rows, at once.

Everything is batched: S fits advance together, and a finished fit hands its slot to the next one.
Each takes damped Newton steps on sum_i w_i rho(r_i), with r the residual of the log (or raw) loss
and rho least squares or Huber's function. The Hessian blends two exact ones: lam = 0 is Newton's,
lam = 1 that of iteratively reweighted least squares, which is always positive definite.

Shapes: n rows, q unknowns, S fits at once, B fits in all. Arrays over rows are (S, n); unknowns,
gradients and Hessians keep the batch last, (q, S) and (q, q, S), so that the small linear algebra
runs over contiguous batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from analysis.dual import Dual
from analysis.laws import Law, LawError
from analysis.powers import Term, terms

STEP = 2.5
"""Longest step in any unknown: a factor e^2.5 in a coefficient."""
LAD = 1e-9
"""Huber threshold that stands for zero: least absolute deviations, times this number."""
TOLERANCE = 1e-12
"""Stop when a full step would lower the objective by less than this fraction."""
_ROWS_AT_ONCE = 32768
"""Elements of an (S, n) array: about what stays in a core's second-level cache."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The data, law and settings of one fit; what varies between resamples is passed to solve."""

    law: Law
    columns: Mapping[str, np.ndarray]
    """Each input of the law, (n,) float."""
    target: np.ndarray
    """(n,) measured values."""
    weights: np.ndarray
    """(n,) non-negative."""
    groups: np.ndarray
    """(n,) integer group of each row: the unit that a bootstrap draws."""
    fixed: Mapping[str, float]
    on: str
    """'log' or 'raw': what the residual is a difference of."""

    @property
    def n(self) -> int:
        return len(self.target)

    @property
    def free(self) -> tuple[str, ...]:
        return tuple(p for p in self.law.params if p not in self.fixed)

    @property
    def q(self) -> int:
        return len(self.free)

    @cached_property
    def y(self) -> np.ndarray:
        """(n,) the target on the scale of the residuals."""
        return np.log(self.target) if self.on == "log" else self.target

    @cached_property
    def model(self) -> Powers | General:
        found = terms(self.law, self.columns, self.fixed)
        return General(self) if found is None else Powers(self, found)

    def take(self, rows: np.ndarray) -> Problem:
        """The same problem on some of the rows (their indices)."""
        return replace(
            self,
            columns={name: x[rows] for name, x in self.columns.items()},
            target=self.target[rows],
            weights=self.weights[rows],
            groups=np.unique(self.groups[rows], return_inverse=True)[1],
        )

    @property
    def slots(self) -> int:
        return int(np.clip(_ROWS_AT_ONCE // self.n, 1, 512))

    def params(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Natural parameters, {name: (B,)}, of unknowns (q, B); fixed ones included."""
        u = dict(zip(self.free, self.model.natural(theta), strict=True))
        log = dict(zip(self.free, self.model.log, strict=True))
        with np.errstate(over="ignore", under="ignore"):
            return {
                p: np.full(theta.shape[1:], float(self.fixed[p]))
                if p in self.fixed
                else (np.exp(u[p]) if log[p] else u[p])
                for p in self.law.params
            }

    def theta(self, params: Mapping[str, float]) -> np.ndarray:
        """Unknowns (q, 1) of one set of natural parameters."""
        u = [
            np.log(params[p]) if log else params[p]
            for p, log in zip(self.free, self.model.log, strict=True)
        ]
        return self.model.centred(np.array(u, float)[:, None])

    def ordered(self, theta: np.ndarray) -> np.ndarray:
        """Unknowns (q, B) with parameters that may trade places (Law.alike) in rising order."""
        groups = [g for g in self.law.alike if not set(g) & set(self.fixed)]
        if len(groups) < 2:
            return theta
        u = self.model.natural(theta).copy()
        index = np.array([[self.free.index(p) for p in g] for g in groups])
        order = np.argsort(u[index[:, 0]], axis=0, kind="stable")
        u[index] = np.take_along_axis(u[index], order[:, None], axis=0)
        return self.model.centred(u)

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """(B, n) of unknowns (q, B)."""
        with np.errstate(all="ignore"):
            return self.model.value(theta) - self.y

    @cached_property
    def rounding(self) -> float:
        """The squared residual that rounding alone leaves."""
        return float((64 * np.finfo(float).eps * (1 + np.abs(self.y).max())) ** 2)

    def units(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1

    def per_group(self, rows: np.ndarray) -> np.ndarray:
        """Sums (B, G) over the rows of each group of an array (B, n)."""
        if self.units() == self.n:
            return rows[:, np.argsort(self.groups)]
        order = np.argsort(self.groups, kind="stable")
        starts = np.searchsorted(self.groups[order], np.arange(self.units()))
        return np.add.reduceat(rows[:, order], starts, axis=1)


def typical(problem: Problem, theta: np.ndarray) -> float:
    """Median size of the residuals at unknowns (q, 1), weighted as the rows are."""
    size, w = np.abs(problem.residuals(theta)[0]), problem.weights
    if np.ptp(w) == 0:
        return float(np.median(size))
    order = np.argsort(size)
    total = np.cumsum(w[order]) / w.sum()
    middle = np.searchsorted(total, [0.5 - 1e-12, 0.5 + 1e-12])  # two rows where it falls between
    return float(size[order[np.minimum(middle, len(w) - 1)]].mean())


def huber(r: np.ndarray, delta: float) -> np.ndarray:
    """rho(r): r^2 / 2 within delta, delta (|r| - delta / 2) beyond."""
    with np.errstate(all="ignore"):
        psi = np.clip(r, -delta, delta)
        return psi * (r - psi / 2)


# --- Models: the residual's value, gradient and Hessian -------------------------------------------


class Powers:
    """A law that is a sum of powers: log-sum-exp of terms that are linear in the unknowns.

    Inputs are centred term by term, so that a coefficient is the term's size amid the data rather
    than at N = 1: the conditioning of the Hessian drops by some three decades.
    """

    def __init__(self, problem: Problem, terms: list[Term]) -> None:
        self.on_log = problem.on == "log"
        free = problem.free
        q = len(free)
        coefficient = {p for t in terms for p in t.coefficients}
        self.log = [p in coefficient for p in free]
        # natural u = unmix theta: subtracting a column's mean from an exponent's slope moves
        # that mean times the exponent into the coefficient.
        shift = np.eye(q)
        self.blocks: list[tuple[np.ndarray, np.ndarray, Any]] = []
        owner: dict[str, int] = {}
        for k, t in enumerate(terms):
            for p in t.coefficients:
                owner[p] = -1 if p in owner else k
        for k, t in enumerate(terms):
            own = [p for p in t.coefficients if owner[p] == k]
            index = [free.index(p) for p in (*t.coefficients, *t.exponents)]
            slopes = [np.full(problem.n, c) for c in t.coefficients.values()]
            for p, slope in t.exponents.items():
                slope = np.broadcast_to(np.asarray(slope, float), (problem.n,))
                if own:
                    mean = float(np.mean(slope))
                    slope = slope - mean
                    shift[free.index(own[0]), free.index(p)] += mean / t.coefficients[own[0]]
                slopes.append(slope)
            offset = np.asarray(t.offset, float)
            phi = np.array(slopes) if slopes else np.zeros((0, problem.n))
            if phi.size and np.ptp(phi, axis=1).max() == 0 and np.ptp(offset) == 0:
                phi, offset = phi[:, :1], offset.reshape(-1)[:1]  # a constant term, like E
            self.blocks.append((np.array(index, int), phi, offset))
        self._shift = shift
        self._unshift = np.linalg.inv(shift)
        self._pairs = self._products()
        self._q = q

    def _products(self) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
        """For each pair of terms: phi_k (x) phi_l as rows, and where they go in a flat Hessian."""
        out = []
        for k, l in itertools.combinations_with_replacement(range(len(self.blocks)), 2):
            (ik, pk, _), (il, pl, _) = self.blocks[k], self.blocks[l]
            if not (len(ik) and len(il)):
                continue
            a, b = np.meshgrid(range(len(ik)), range(len(il)), indexing="ij")
            keep = (a <= b) if k == l else np.ones_like(a, bool)
            a, b = a[keep], b[keep]
            out.append((k, l, pk[a] * pl[b], np.stack([ik[a], il[b]])))
        return out

    def natural(self, theta: np.ndarray) -> np.ndarray:
        """(q, B) logs of coefficients, and exponents, of the unknowns.

        A coefficient is theta - mean slope x exponent.
        """
        return self._unshift @ theta

    def centred(self, u: np.ndarray) -> np.ndarray:
        return self._shift @ u

    def _terms(self, theta: np.ndarray) -> list[np.ndarray]:
        return [np.exp(theta[i].T @ phi + offset) for i, phi, offset in self.blocks]

    def value(self, theta: np.ndarray) -> np.ndarray:
        """(S, n) the law, or its log, at unknowns (q, S)."""
        t = self._terms(theta)
        total = sum(t[1:], t[0])
        total = np.broadcast_to(total, (theta.shape[1], max(x.shape[1] for x in t)))
        return np.log(total) if self.on_log else total

    def evaluate(self, theta: np.ndarray, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Value (S, n), and each term's d value / d log term."""
        t = self._terms(theta)
        total = np.zeros((theta.shape[1], n))
        for x in t:
            total += x
        if not self.on_log:
            return total, t
        inverse = 1 / total
        return np.log(total, out=total), [x * inverse for x in t]

    def system(
        self, p: list[np.ndarray], wpsi: np.ndarray, h: np.ndarray, c: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (q, S) and Hessian (q, q, S).

        `h` multiplies the outer product of the residual's gradient, `c` its second derivative.
        """
        S = len(wpsi)
        g = np.zeros((self._q, S))
        H = np.zeros((self._q, self._q, S))
        v = h - c if self.on_log else h
        vp = [v * x for x in p]
        for (index, phi, _), x in zip(self.blocks, p, strict=True):
            if len(index):
                g[index] += _rows_times(phi, wpsi * x)
        for k, l, product, (i, j) in self._pairs:
            weight = (vp[k] + c) * p[k] if k == l else vp[k] * p[l]
            block = _rows_times(product, weight)
            for row, i_, j_ in zip(block, i, j, strict=True):
                H[i_, j_] += row
                if i_ != j_:
                    H[j_, i_] += row
                elif k != l:  # one exponent shared by two terms: both halves land on the diagonal
                    H[i_, i_] += row
        return g, H


def _rows_times(phi: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """phi (m, n) or (m, 1) against weight (S, n): (m, S)."""
    if phi.shape[1] == 1 and weight.shape[1] != 1:
        return phi * weight.sum(1)
    return phi @ weight.T


class General:
    """Any other law: its Jacobian by forward-mode derivatives, without second derivatives."""

    def __init__(self, problem: Problem) -> None:
        self.law, self.on_log = problem.law, problem.on == "log"
        self.columns = [problem.columns[name] for name in problem.law.inputs]
        self.fixed = dict(problem.fixed)
        self.free = problem.free
        self.log = [problem.law.ranges[p].positive for p in self.free]

    def natural(self, theta: np.ndarray) -> np.ndarray:
        return theta

    def centred(self, u: np.ndarray) -> np.ndarray:
        return u

    def _call(self, values: Mapping[str, Any]) -> Any:
        try:
            return self.law(*self.columns, **values, **self.fixed)
        except (TypeError, ValueError, AttributeError) as error:
            raise LawError(
                f"law {self.law.name} cannot be evaluated on arrays of parameters ({error}). Use "
                "numpy functions of whole arrays: np.exp and np.log rather than math, np.where "
                "rather than if, np.maximum, np.minimum and np.clip rather than max and min."
            ) from error

    def _natural(self, theta: np.ndarray) -> list[np.ndarray]:
        return [
            np.exp(t)[:, None] if log else t[:, None]
            for t, log in zip(theta, self.log, strict=True)
        ]

    def value(self, theta: np.ndarray) -> np.ndarray:
        values = dict(zip(self.free, self._natural(theta), strict=True))
        out = self._call({p: Dual(v, {}) for p, v in values.items()})
        out = np.asarray(out.value if isinstance(out, Dual) else out, float)
        return np.log(out) if self.on_log else out

    def evaluate(self, theta: np.ndarray, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Value (S, n) and its Jacobian, q arrays that broadcast to it."""
        x = self._natural(theta)
        duals = {
            p: Dual(v, {j: v if log else 1.0})
            for j, (p, v, log) in enumerate(zip(self.free, x, self.log, strict=True))
        }
        out = self._call(duals)
        if not isinstance(out, Dual):
            raise LawError(f"law {self.law.name} does not depend on its parameters.")
        J = [out.partials.get(j, 0.0) for j in range(len(self.free))]
        shape = (theta.shape[1], n)
        value = np.broadcast_to(out.value, shape)
        if self.on_log:
            inverse = 1 / value
            J = [d * inverse for d in J]
            value = np.log(value)
        return value, [np.broadcast_to(d, shape) for d in J]

    def system(
        self, J: list[np.ndarray], wpsi: np.ndarray, h: np.ndarray, c: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (q, S) and the first-order Hessian (q, q, S)."""
        q = len(J)
        g = np.array([np.einsum("sn,sn->s", wpsi, d) for d in J])
        H = np.empty((q, q, wpsi.shape[0]))
        for j in range(q):
            hJ = h * J[j]
            for k in range(j, q):
                H[j, k] = H[k, j] = np.einsum("sn,sn->s", hJ, J[k])
        return g, H


# --- The solver -----------------------------------------------------------------------------------


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


# --- Where to start -------------------------------------------------------------------------------


def starts(problem: Problem, seed: int, *, count: int | None = None) -> np.ndarray:
    """Unknowns (q, M) worth starting from: a grid over what is nonlinear, the rest solved for.

    Parameters that the law is linear in are found by non-negative least squares of the relative
    residuals at every point of the grid (variable projection).
    """
    linear = _linear(problem, seed)
    rest = [p for p in problem.free if p not in linear]
    grid = _grid(problem, rest, seed, count)
    if not linear:
        return problem.model.centred(_to_u(problem, grid))
    M = len(next(iter(grid.values()))) if rest else 1
    few = problem
    if problem.n > _RANKED_ROWS:
        few = problem.take(np.random.default_rng(seed).permutation(problem.n)[:_RANKED_ROWS])
    found, misfit = np.empty((len(linear), M)), np.empty(M)
    for part in chunks(M, max(1, 2**20 // few.n)):
        found[:, part], misfit[part] = _coefficients(
            few, linear, {p: v[part] for p, v in grid.items()}, part.stop - part.start
        )
    u = _to_u(problem, grid | dict(zip(linear, found, strict=True)))
    best = np.argsort(misfit, kind="stable")[:_RANKED]
    return problem.ordered(problem.model.centred(u[:, best]))


_RANKED = 4096
"""Starting points that are kept, where more were tried."""
_RANKED_ROWS = 512
"""Rows that decide which."""


def _coefficients(
    problem: Problem, linear: list[str], grid: Mapping[str, np.ndarray], M: int
) -> tuple[np.ndarray, np.ndarray]:
    """The linear parameters (K, M) at M points of the grid, and the misfit (M,) they leave."""
    columns = [problem.columns[name] for name in problem.law.inputs]
    values = {p: Dual(v[:, None], {}) for p, v in grid.items()} | dict(problem.fixed)
    values |= {p: Dual(np.ones((M, 1)), {k: 1.0}) for k, p in enumerate(linear)}
    with np.errstate(all="ignore"):
        out = problem.law(*columns, **values)
        shape = (M, problem.n)
        parts = [np.broadcast_to(out.partials[k], shape) for k in range(len(linear))]
        return _non_negative(parts, np.broadcast_to(out.value, shape) - sum(parts), problem)


def _to_u(problem: Problem, values: Mapping[str, np.ndarray]) -> np.ndarray:
    rows = []
    for p, log in zip(problem.free, problem.model.log, strict=True):
        rows.append(np.log(values[p]) if log else values[p])
    return np.array(rows, float)


def evenly(count: int, d: int, seed: int) -> np.ndarray:
    """(count, d) points that fill the unit cube evenly, shifted by the seed.

    Multiples modulo 1 of the powers of 1 / phi_d, phi_d the real root of x^(d + 1) = x + 1
    (Roberts 2018, The unreasonable effectiveness of quasirandom sequences).
    """
    phi = 2.0
    for _ in range(60):
        phi = (1 + phi) ** (1 / (d + 1))
    shift = np.random.default_rng(seed).random(d)
    steps = np.arange(1, count + 1)[:, None] * phi ** -np.arange(1.0, d + 1)
    return (shift + steps) % 1.0


def _grid(
    problem: Problem, names: list[str], seed: int, count: int | None
) -> dict[str, np.ndarray]:
    """A full grid in one or two dimensions, an even sequence in more."""
    d = len(names)
    if d == 0:
        return {}
    if count is None:
        most = 20480 if len(problem.law.alike) > 1 else 4096
        count = {1: 64, 2: 256, 3: 1024, 4: 4096}.get(d, most)
    if d <= 2:
        side = max(2, round(count ** (1 / d)))
        axis = (np.arange(side) + 0.5) / side
        unit = np.stack([a.ravel() for a in np.meshgrid(*[axis] * d, indexing="ij")], 1)
    else:
        unit = evenly(count, d, seed)
    out = {}
    for j, p in enumerate(names):
        region = problem.law.ranges[p]
        low, high = region.ends(problem.columns)
        if region.positive:
            out[p] = np.exp(np.log(low) + unit[:, j] * np.log(high / low))
        else:
            out[p] = low + unit[:, j] * (high - low)
    return out


def _linear(problem: Problem, seed: int) -> list[str]:
    """The positive free parameters that the law is jointly linear in, found by derivatives."""
    names = [p for p in problem.free if problem.law.ranges[p].positive]
    columns = [problem.columns[name] for name in problem.law.inputs]
    rng = np.random.default_rng(seed)
    rest = {p: v[:, None] for p, v in _grid(problem, list(problem.free), seed, 16).items()}
    while names:
        slopes = []
        for _ in range(2):
            values: dict[str, Any] = {p: Dual(v, {}) for p, v in rest.items()}
            for j, p in enumerate(names):
                values[p] = Dual(rest[p] * rng.uniform(0.5, 2, rest[p].shape), {j: 1.0})
            try:
                with np.errstate(all="ignore"):
                    out = problem.law(*columns, **values, **problem.fixed)
            except (TypeError, ValueError, AttributeError):
                return []
            if not isinstance(out, Dual):
                return []
            shape = (len(next(iter(rest.values()))), problem.n)
            slopes.append(
                [np.broadcast_to(out.partials.get(j, 0.0), shape) for j in range(len(names))]
            )
        kept = [
            p
            for p, a, b in zip(names, *slopes, strict=True)
            if np.allclose(a, b, rtol=1e-9, atol=0, equal_nan=True) and np.any(a != 0)
        ]
        if kept == names:
            return names
        names = kept
    return []


def _non_negative(
    parts: list[np.ndarray], offset: np.ndarray, problem: Problem
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (K, M), positive, that minimise sum_i w_i ((X c)_i / L_i - 1)^2; the minima (M,).

    Every support is tried. A coefficient that is best at zero starts small instead: its logarithm
    must be free to fall.
    """
    K, M = len(parts), len(parts[0])
    X = np.array(parts) / problem.target
    t = 1 - offset / problem.target
    w = problem.weights
    gram = np.einsum("kmn,lmn,n->mkl", X, X, w, optimize=True)
    moment = np.einsum("kmn,mn,n->mk", X, t, w, optimize=True)
    scale = np.sqrt(np.einsum("mkk->mk", gram)) + 1e-300
    gram, moment = gram / (scale[:, :, None] * scale[:, None, :]), moment / scale
    best, value = np.zeros((M, K)), np.zeros(M)
    for size in range(1, K + 1):
        for support in itertools.combinations(range(K), size):
            s = list(support)
            ridge = gram[np.ix_(range(M), s, s)] + 1e-12 * np.eye(size)
            with np.errstate(all="ignore"):
                ok = np.isfinite(ridge).all((1, 2)) & np.isfinite(moment[:, s]).all(1)
                c = np.zeros((M, size))
                c[ok] = np.linalg.solve(ridge[ok], moment[ok][:, s, None])[..., 0]
            gain = -np.einsum("mk,mk->m", c, moment[:, s])
            win = ok & (c > 0).all(1) & (gain < value)
            value[win] = gain[win]
            best[win] = 0.0
            best[np.ix_(win, s)] = c[win]
    best = best / scale
    # 0.1 % of the loss, for a coefficient that is best at zero
    floor = 1e-3 / np.maximum(np.mean(np.array(parts) / problem.target, axis=2).T, 1e-300)
    return np.where(best > 0, best, floor).T, np.einsum("mn,mn,n->m", t, t, w) + value


def ranked(problem: Problem, theta: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """`theta` (q, M) sorted by the objective, best first, and the objectives (M,)."""
    values = np.full(theta.shape[1], np.inf)
    for part in chunks(theta.shape[1], problem.slots):
        rho = huber(problem.residuals(theta[:, part]), delta)
        values[part] = np.nan_to_num(rho @ problem.weights, nan=np.inf)
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    return theta[:, order], values[order]


def chunks(total: int, size: int) -> Iterator[slice]:
    return (slice(i, min(i + size, total)) for i in range(0, total, size))


def spaced(theta: np.ndarray, count: int) -> np.ndarray:
    """`count` columns of `theta` (q, M), best first: half the best ones, half spread out."""
    M = theta.shape[1]
    if count >= M:
        return theta
    spread = np.std(theta, axis=1, keepdims=True) + 1e-12
    x = theta / spread
    chosen = list(range(count // 2))
    distance = np.min(
        [np.sum((x - x[:, [c]]) ** 2, 0) for c in chosen] or [np.full(M, np.inf)], axis=0
    )
    while len(chosen) < count:
        c = int(np.argmax(distance))
        chosen.append(c)
        distance = np.minimum(distance, np.sum((x - x[:, [c]]) ** 2, 0))
    return theta[:, chosen]


# --- The global fit -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Minimum:
    """The global minimum of one problem and what else was found on the way."""

    theta: np.ndarray
    """(q, 1)."""
    objective: float
    """sum_i w_i rho(r_i)."""
    delta: float
    basins: np.ndarray
    """(q, K) distinct local minima, best first."""
    objectives: np.ndarray
    """(K,) their objectives."""
    pool: np.ndarray
    """(q, M) starting points, best first."""
    starts: int
    share: float
    """Fraction of the starts that reached the best objective."""
    converged: bool


SAME = 1e-6
"""Relative difference of objectives below which two minima count as one."""


def minimise(
    problem: Problem,
    objective: str,
    delta: float | None,
    seed: int,
    warm: np.ndarray | None = None,
) -> Minimum:
    """The global minimum of the objective 'huber', 'ls' or 'lad'.

    `warm` (q, K) are minima of a similar problem, tried first; a third of the starts then do.

    `delta` None ties Huber's threshold to the scale of the residuals: 1.345 times 1.4826 times
    their median size (95 % efficient under Gaussian noise), found as a fixed point.
    """
    if problem.n > _MANY_ROWS:
        thin = problem.take(np.random.default_rng(seed).permutation(problem.n)[: _MANY_ROWS // 2])
        rough = minimise(thin, objective, delta, seed, warm)
        return _polish(problem, rough, thin, objective, delta)
    pool = starts(problem, seed, count=None if warm is None else 128)
    pool, _ = ranked(problem, pool, np.inf)
    if pool.shape[1] == 0:
        raise FloatingPointError("not finite at any starting point")
    count = 24 if isinstance(problem.model, Powers) else 48
    # Starts are ranked by least absolute deviations, which no outlier dominates.
    pool, _ = ranked(problem, pool, max(typical(problem, pool[:, :1]), 1e-9) * 1e-2)
    if warm is None:
        first = spaced(pool, count)
    else:
        first = np.concatenate([warm[:, :8], spaced(pool, count // 3)], 1)
    threshold, found = _search(problem, first, objective, delta)
    for _ in problem.law.alike if warm is None else ():
        better = _exchanged(problem, found, threshold, seed)
        if better is None:
            break
        first = np.concatenate([better, first], 1)
        threshold, found = _search(problem, first, objective, delta)
    return _minimum(problem, threshold, found, pool, first.shape[1])


def _search(
    problem: Problem, first: np.ndarray, objective: str, delta: float | None
) -> tuple[float, Solutions]:
    """Huber's threshold that the objective means, and the minima reached from each start."""
    if objective == "huber" and delta is None:
        return _tied(problem, first)
    threshold = LAD if objective == "lad" else np.inf if delta is None else delta
    return threshold, _continue(problem, first, threshold)


def _exchanged(problem: Problem, found: Solutions, delta: float, seed: int) -> np.ndarray | None:
    """Unknowns (q, K) lower than what was found, by looking for one break at a time.

    Sharp breaks between two rows are local minima. One group of parameters that may trade places
    is sought on a grid, what is linear solved for again, and the rest held; None where that finds
    nothing lower.
    """
    best = int(np.argmin(found.objective))
    if found.objective[best] <= 100 * problem.rounding * problem.weights.sum():
        return None
    at = {p: float(v[0]) for p, v in problem.params(found.theta[:, [best]]).items()}
    linear = _linear(problem, seed)
    tried = []
    for group in problem.law.alike:
        kept = {p: v for p, v in at.items() if p not in (*linear, *group)}
        part = replace(problem, fixed={**kept, **problem.fixed})
        if not part.q:
            continue
        pool, _ = ranked(part, starts(part, seed), delta)
        tried.append(_to_u(problem, part.params(pool[:, :6])))
    if not tried:
        return None
    start = problem.model.centred(np.concatenate(tried, 1))
    again = _continue(problem, start, delta)
    lower = again.objective < found.objective[best] * (1 - SAME)
    return again.theta[:, lower] if lower.any() else None


def _minimum(
    problem: Problem, threshold: float, found: Solutions, pool: np.ndarray, count: int
) -> Minimum:
    """Sort what the first `count` solutions, and any further ones, found."""
    order = np.argsort(found.objective, kind="stable")
    top = int(order[0])
    best = float(found.objective[top])
    if not np.isfinite(best):
        raise FloatingPointError("not finite anywhere the fit went")
    # A last solve to full tolerance, should the search have been cut short.
    last = solve(problem, found.theta[:, [top]], threshold, limit=500)
    # Objectives of exact fits are rounding: residuals below 1e-9 are all alike.
    tiny = 1e-9 * (1 + np.abs(problem.y).max())
    slack = SAME * best + tiny * min(tiny, threshold) * float(problem.weights.sum())
    basins = [top]
    for i in order:
        if found.converged[i] and found.objective[i] > found.objective[basins[-1]] + 100 * slack:
            basins.append(int(i))
    return Minimum(
        last.theta,
        float(last.objective[0]),
        threshold,
        found.theta[:, basins],
        found.objective[basins],
        pool,
        count,
        float(np.mean(found.objective[:count] <= best + slack)),
        bool(last.converged[0]),
    )


_MANY_ROWS = 4000
"""Above this, basins are looked for in a random half as many rows, then refined in all."""


def _polish(
    problem: Problem, rough: Minimum, thin: Problem, objective: str, delta: float | None
) -> Minimum:
    """Minimise over all rows from the basins of some of them."""
    here = problem.model.centred(thin.model.natural(rough.basins[:, :4]))
    threshold, found = _search(problem, here, objective, delta)
    pool = problem.model.centred(thin.model.natural(rough.pool[:, :8]))
    fine = _minimum(problem, threshold, found, pool, here.shape[1])
    return replace(fine, starts=rough.starts, share=rough.share)


_GLOBAL = 60
"""Iterations a start may spend, ..."""

_PATIENT = 240
"""... and as many more where hardly any arrived by then: on a surface that is all valley."""


def _tied(problem: Problem, first: np.ndarray) -> tuple[float, Solutions]:
    """Huber's threshold and the fit at the fixed point of one as a function of the other."""
    rough = solve(problem, first[:, : max(6, first.shape[1] // 3)], np.inf, limit=30)
    theta = rough.theta[:, [int(np.argmin(rough.objective))]]
    delta = np.inf
    found = rough
    for _ in range(3):  # the best basin may change with the threshold
        for _ in range(30):
            tied = max(1.345 * 1.4826 * typical(problem, theta), 1e-9)
            if abs(tied - delta) <= 1e-9 * tied:
                break
            delta = tied
            theta = solve(problem, theta, delta).theta
        found = _continue(problem, np.concatenate([first, theta], 1), delta)
        best = int(np.argmin(found.objective))
        if found.objective[best] >= found.objective[-1] * (1 - 1e-9):
            break
        theta, delta = found.theta[:, [best]], np.inf
    return delta, found


def _continue(problem: Problem, theta: np.ndarray, delta: float) -> Solutions:
    """Minimise from each start, lowering the threshold by stages where it is small.

    From afar a small threshold is least absolute deviations, with a kink at every row.
    """
    for stage in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        if stage > 3 * delta:
            theta = solve(problem, theta, stage, limit=_GLOBAL).theta
    found = solve(problem, theta, delta, limit=_GLOBAL)
    if found.converged.mean() >= 0.25:
        return found
    return solve(problem, found.theta, delta, limit=_PATIENT)
