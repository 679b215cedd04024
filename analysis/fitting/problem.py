"""One fitting problem: data, law and settings, and the residuals with their derivatives.

Shapes: n rows, G groups, q unknowns, S fits at once, B fits in total. Arrays over rows are (S, n).
Unknowns, gradients and Hessians have the batch last, (q, S) and (q, q, S), so that the small linear
algebra runs over contiguous batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from analysis.fitting.autodiff import Dual
from analysis.fitting.power_terms import Term, terms
from analysis.fitting.prior import Penalty, Prior
from analysis.laws import Law, LawError

SMALL = 25
"""With fewer runs, asymptotic formulas need corrections for the number of parameters. Percentile
intervals are too wide (too narrow if rows are clustered), so that "delta" is the default; its 95 %
intervals cover 97 % with 16 runs of 8 checkpoints (measured)."""
_ROWS_AT_ONCE = 32768
"""Elements of an (S, n) array that fit in a core's second-level cache."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """The data, law and settings of one fit; what varies between resamples is passed to `solve`."""

    law: Law
    columns: Mapping[str, np.ndarray]
    """Each input of the law, (n,) float."""
    target: np.ndarray
    """(n,) measured values."""
    weights: np.ndarray
    """(n,) non-negative."""
    groups: np.ndarray
    """(n,) integer group (run) of each row: the unit that a bootstrap draws."""
    fixed: Mapping[str, float]
    """Parameters held at a value."""
    on: str
    """'log' or 'raw': the residual is a difference of logarithms or of values."""
    shared: bool = False
    """Whether an error shared by the runs of one size widens the intervals."""
    prior: Prior | None = None
    strain: float = 0.0
    """The variance of a residual that weighs the prior against the rows."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.target)

    @property
    def free(self) -> tuple[str, ...]:
        """The fitted parameters."""
        return tuple(p for p in self.law.params if p not in self.fixed)

    @property
    def q(self) -> int:
        """Number of fitted parameters, and so of unknowns."""
        return len(self.free)

    @cached_property
    def y(self) -> np.ndarray:
        """The target (n,) on the scale of the residuals."""
        return np.log(self.target) if self.on == "log" else self.target

    @cached_property
    def model(self) -> PowerSumModel | GeneralModel:
        """The law as a function of the unknowns, with its derivatives."""
        found = terms(self.law, self.columns, self.fixed)
        return GeneralModel(self) if found is None else PowerSumModel(self, found)

    @cached_property
    def penalty(self) -> Penalty | None:
        """The prior's part of the objective; None without beliefs about a free parameter."""
        if self.prior is None or not self.prior.for_law(self.law, self.free):
            return None
        least = float(self.target.min())
        return Penalty(self.prior, self.law, self.free, self.model.log, least)

    def penalties(self, theta: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray | float:
        """Return what the prior adds to the objective (S,) at unknowns (q, S)."""
        if self.penalty is None:
            return 0.0
        return self.strain * self.penalty.value(self.model.natural(theta), shift)

    def add_prior(
        self, theta: np.ndarray, g: np.ndarray, H: np.ndarray, shift: np.ndarray | None
    ) -> None:
        """Add the prior's part to a gradient (q, S) and a Hessian (q, q, S), in place."""
        if self.penalty is None:
            return
        first, second = self.penalty.slopes(self.model.natural(theta), shift)
        rows = self.model.natural(np.eye(self.q))[self.penalty.index]
        g += self.strain * (rows.T @ first)
        H += self.strain * np.einsum("ti,tj,ts->ijs", rows, rows, second)

    def take(self, rows: np.ndarray) -> Problem:
        """Return the same problem on the rows with these indices."""
        return replace(
            self,
            columns={name: x[rows] for name, x in self.columns.items()},
            target=self.target[rows],
            weights=self.weights[rows],
            groups=np.unique(self.groups[rows], return_inverse=True)[1],
        )

    @property
    def slots(self) -> int:
        """Number of fits to advance at once."""
        return int(np.clip(_ROWS_AT_ONCE // self.n, 1, 512))

    def params(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Return natural parameters, {name: (B,)}, of unknowns (q, B), including fixed ones."""
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
        """Return the unknowns (q, 1) of one set of natural parameters."""
        u = [
            np.log(params[p]) if log else params[p]
            for p, log in zip(self.free, self.model.log, strict=True)
        ]
        return self.model.centred(np.array(u, float)[:, None])

    def ordered(self, theta: np.ndarray) -> np.ndarray:
        """Return unknowns (q, B) with exchangeable parameters (see Law) in rising order."""
        groups = [g for g in self.law.exchangeable if not set(g) & set(self.fixed)]
        if len(groups) < 2:
            return theta
        u = self.model.natural(theta).copy()
        index = np.array([[self.free.index(p) for p in g] for g in groups])
        order = np.argsort(u[index[:, 0]], axis=0, kind="stable")
        u[index] = np.take_along_axis(u[index], order[:, None], axis=0)
        return self.model.centred(u)

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """Return residuals (B, n) of unknowns (q, B)."""
        with np.errstate(all="ignore"):
            return self.model.value(theta) - self.y

    @cached_property
    def rounding(self) -> float:
        """Squared residual due to rounding alone."""
        return float((64 * np.finfo(float).eps * (self.unit + np.abs(self.y).max())) ** 2)

    @cached_property
    def unit(self) -> float:
        """The size of a residual that is not small: 1, or less if all raw values are smaller."""
        return 1.0 if self.on == "log" else float(np.clip(np.abs(self.y).max(), 1e-150, 1.0))

    def units(self) -> int:
        """Return the number of groups."""
        return int(self.groups.max()) + 1

    def few(self) -> bool:
        """Return whether each row is a run of its own and the runs are fewer than SMALL."""
        return self.units() == self.n < SMALL

    def per_group(self, rows: np.ndarray) -> np.ndarray:
        """Sum an array (B, n) over the rows of each group: (B, G)."""
        if self.units() == self.n:
            return rows[:, np.argsort(self.groups)]
        order = np.argsort(self.groups, kind="stable")
        starts = np.searchsorted(self.groups[order], np.arange(self.units()))
        return np.add.reduceat(rows[:, order], starts, axis=1)


def typical(problem: Problem, theta: np.ndarray, *, without: int = 0) -> float:
    """Return the median size of the residuals at unknowns (q, 1), weighted like the rows.

    without: how many of the smallest residuals to leave out. A fit of q unknowns passes close to q
        rows, whose residuals say nothing about the noise; that matters if rows are few.
    """
    size, w = np.abs(problem.residuals(theta)[0]), problem.weights
    if without:
        kept = np.argsort(size, kind="stable")[without:]
        size, w = size[kept], w[kept]
    if np.ptp(w) == 0:
        return float(np.median(size))
    order = np.argsort(size)
    total = np.cumsum(w[order]) / w.sum()
    middle = np.searchsorted(
        total, [0.5 - 1e-12, 0.5 + 1e-12]
    )  # two rows if the median falls between them
    return float(size[order[np.minimum(middle, len(w) - 1)]].mean())


def huber(r: np.ndarray, delta: float) -> np.ndarray:
    """Return Huber's rho(r): r^2 / 2 within delta, delta (|r| - delta / 2) beyond."""
    with np.errstate(all="ignore"):
        psi = np.clip(r, -delta, delta)
        return psi * (r - psi / 2)


# --- Models: the residual's value, gradient and Hessian -------------------------------------------


class PowerSumModel:
    """A law that is a sum of powers: log-sum-exp of terms that are linear in the unknowns.

    Inputs are centred term by term, so that a coefficient is the size of the term in the middle of
    the data rather than at N = 1. This lowers the condition number of the Hessian by about three
    decades.
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
        """Return phi_k (x) phi_l of each pair of terms as rows, and their places in the Hessian."""
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
        """Return the logs of coefficients, and exponents, (q, B) of the unknowns.

        The log of a coefficient is its unknown minus the mean slope times the exponent.
        """
        return self._unshift @ theta

    def centred(self, u: np.ndarray) -> np.ndarray:
        """Return the unknowns of natural values: the inverse of `natural`."""
        return self._shift @ u

    def _terms(self, theta: np.ndarray) -> list[np.ndarray]:
        return [np.exp(theta[i].T @ phi + offset) for i, phi, offset in self.blocks]

    def value(self, theta: np.ndarray) -> np.ndarray:
        """Return the law, or its log, (S, n) at unknowns (q, S)."""
        t = self._terms(theta)
        total = sum(t[1:], t[0])
        total = np.broadcast_to(total, (theta.shape[1], max(x.shape[1] for x in t)))
        return np.log(total) if self.on_log else total

    def evaluate(self, theta: np.ndarray, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the value (S, n), and its derivative with respect to the log of each term."""
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
        """Return gradient (q, S) and Hessian (q, q, S) of the objective.

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
    """Multiply phi (m, n) or (m, 1) with the transpose of weight (S, n): (m, S)."""
    if phi.shape[1] == 1 and weight.shape[1] != 1:
        return phi * weight.sum(1)
    return phi @ weight.T


class GeneralModel:
    """Any other law: its Jacobian comes from automatic differentiation, without second
    derivatives."""

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
        """Return the law, or its log, (S, n) at unknowns (q, S)."""
        values = dict(zip(self.free, self._natural(theta), strict=True))
        out = self._call({p: Dual(v, {}) for p, v in values.items()})
        out = np.asarray(out.value if isinstance(out, Dual) else out, float)
        return np.log(out) if self.on_log else out

    def evaluate(self, theta: np.ndarray, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the value (S, n) and its Jacobian, q arrays of that shape."""
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
        """Return gradient (q, S) and first-order Hessian (q, q, S) of the objective."""
        q = len(J)
        g = np.array([np.einsum("sn,sn->s", wpsi, d) for d in J])
        H = np.empty((q, q, wpsi.shape[0]))
        for j in range(q):
            hJ = h * J[j]
            for k in range(j, q):
                H[j, k] = H[k, j] = np.einsum("sn,sn->s", hJ, J[k])
        return g, H
