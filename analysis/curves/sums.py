"""Exact sums over all steps of a run, from the pieces of its learning rates.

A sum over steps k of (lr_k - lr_(k-1)) g(lr_k, S1_s - S1_(k-1)) needs only the pieces on which the
learning rate changes. A piece is divided until the summand is smooth on each part (its nearest
singularity is at least as far away as the part is long); each part is summed by a quadrature rule
that is exact for polynomials over equally spaced points, so that sums of a few steps are exact and
longer ones have an error that falls geometrically with the number of nodes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from analysis.curves.rates import Rates

PRECISION = 1e-12
"""Bound of the relative error of each part of a sum."""

_LEAST = 1e-12
"""Smallest learning rate of a step relative to the peak; powers of 0 are not defined."""

_SHORT = 8
"""Parts of this many steps are summed step by step."""


@dataclass(frozen=True, eq=False)
class Nodes:
    """A sum over steps for each of several rows, as a weighted sum over nodes.

    The sum of row i is the sum of weight * g(lr, x) over the nodes that begin at starts[i].
    """

    n_rows: int
    row: np.ndarray
    """The row that each node belongs to, increasing."""
    lr: np.ndarray
    """lr_k of each node."""
    x: np.ndarray
    """S1_s - S1_(k-1) of each node: the learning rates from step k to the row's step."""
    weight: np.ndarray
    """Number of steps that the node stands for, times the change of the rate per step."""

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of `values`, one per node, for each row."""
        return np.bincount(self.row, values, self.n_rows)


def nodes(rates: Rates, steps: np.ndarray, precision: float = PRECISION) -> Nodes:
    """Return the nodes of sums over steps 1 to s for each s of `steps`."""
    steps = np.asarray(steps, float)
    start, end, lr, slope = _toward_zero(*rates.pieces())
    # One part per row and piece that began before the row's step.
    row, piece = np.nonzero(start[None, :] < steps[:, None])
    parts = _Parts(
        row, start[piece], np.minimum(end[piece], steps[row]), lr[piece], slope[piece],
        rates.cumulative(start)[piece], rates.cumulative(steps)[row],
    )  # fmt: skip
    done = []
    while len(parts.row):
        length = parts.end - parts.start
        last, first = parts.x(parts.end), parts.x(parts.start + 1)
        ready = (length <= _SHORT) | (first - last <= last)
        done.append(parts.at(ready))
        parts = parts.at(~ready).halves()
    return _placed(done, len(steps), precision, _LEAST * rates.peak)


@dataclass(frozen=True, eq=False)
class _Parts:
    """Runs of steps start + 1 to end, each within a piece and seen from one row."""

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    lr: np.ndarray
    """Learning rate at the start."""
    slope: np.ndarray
    before: np.ndarray
    """S1 at the start."""
    total: np.ndarray
    """S1 at the row's step."""

    def rate(self, k: np.ndarray) -> np.ndarray:
        return self.lr + self.slope * (k - self.start)

    def x(self, k: np.ndarray) -> np.ndarray:
        t = k - 1 - self.start
        return self.total - self.before - t * self.lr - self.slope * t * (t + 1) / 2

    def at(self, which: np.ndarray) -> _Parts:
        return _Parts(*(value[which] for value in vars(self).values()))

    def halves(self) -> _Parts:
        middle = np.floor((self.start + self.end) / 2)
        left = _Parts(self.row, self.start, middle, self.lr, self.slope, self.before, self.total)
        right = _Parts(
            self.row, middle, self.end, self.rate(middle), self.slope,
            self.total - self.x(middle + 1), self.total,
        )  # fmt: skip
        return _joined([left, right])


def _joined(parts: list[_Parts]) -> _Parts:
    return _Parts(
        *(np.concatenate(each) for each in zip(*(vars(p).values() for p in parts), strict=True))
    )


def _toward_zero(
    start: np.ndarray, end: np.ndarray, lr: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Divide pieces that approach zero, where powers of the rate are not smooth."""
    out = []
    while len(start):
        first, last = lr + slope, lr + slope * (end - start)
        ready = (end - start <= _SHORT) | (np.abs(last - first) <= np.minimum(first, last))
        out.append(tuple(v[ready] for v in (start, end, lr, slope)))
        start, end, lr, slope = (v[~ready] for v in (start, end, lr, slope))
        middle = np.floor((start + end) / 2)
        start, end, lr, slope = (
            np.concatenate([start, middle]), np.concatenate([middle, end]),
            np.concatenate([lr, lr + slope * (middle - start)]), np.concatenate([slope, slope]),
        )  # fmt: skip
    if not out:
        return start, end, lr, slope
    return tuple(np.concatenate(each) for each in zip(*out, strict=True))  # type: ignore[return-value]


def _placed(done: list[_Parts], n_rows: int, precision: float, least: float) -> Nodes:
    """Place the nodes of parts that are smooth enough; `least` is the least rate of a node."""
    parts = _joined(done) if done else _Parts(*(np.empty(0) for _ in range(7)))
    length = parts.end - parts.start
    last, first = parts.x(parts.end), parts.x(parts.start + 1)
    low = np.minimum(parts.rate(parts.start + 1), parts.rate(parts.end))
    change = np.abs(parts.slope) * np.maximum(length - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = 1 + 2 * np.minimum(last / (first - last), low / change)
    # The error falls as rho^(-2n), rho the sum of the half-axes of the ellipse of analyticity.
    rho = distance + np.sqrt(np.maximum(distance**2 - 1, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.ceil(-np.log(precision) / (2 * np.log(rho)))
    n = np.where((length <= _SHORT) | ~(n < length), length, np.maximum(n, 1)).astype(int)
    out = []
    for count in np.unique(n):
        chosen = parts.at(n == count)
        sizes, which = np.unique(length[n == count].astype(int), return_inverse=True)
        rules = [rule(int(size), int(count)) for size in sizes]
        k = chosen.start[:, None] + np.array([r[0] for r in rules])[which]
        weight = chosen.slope[:, None] * np.array([r[1] for r in rules])[which]
        t = k - 1 - chosen.start[:, None]
        lr = chosen.lr[:, None] + chosen.slope[:, None] * (t + 1)
        x = (
            (chosen.total - chosen.before)[:, None]
            - t * chosen.lr[:, None]
            - chosen.slope[:, None] * t * (t + 1) / 2
        )
        row = np.broadcast_to(chosen.row[:, None], k.shape)
        out.append((row.ravel(), lr.ravel(), x.ravel(), weight.ravel()))
    if not out:
        return Nodes(n_rows, np.empty(0, int), np.empty(0), np.empty(0), np.empty(0))
    row, lr, x, weight = (np.concatenate(each) for each in zip(*out, strict=True))
    order = np.argsort(row, kind="stable")
    x = np.where(x < least, 0.0, x)  # no training since: the difference of two sums is rounding
    return Nodes(
        n_rows, row[order].astype(int), np.maximum(lr[order], least), x[order], weight[order]
    )  # fmt: skip


@functools.lru_cache(maxsize=100_000)
def rule(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights that sum polynomials of degree < 2 count over 1, ..., size exactly.

    They are the Gauss rule of equally spaced points: eigenvalues of the Jacobi matrix of the
    discrete Chebyshev (Gram) polynomials.
    """
    if count >= size:
        return np.arange(1.0, size + 1), np.ones(size)
    j = np.arange(1, count)
    off = np.sqrt(j**2 * (size**2 - j**2) / (4.0 * (4.0 * j**2 - 1)))
    at, vectors = np.linalg.eigh(np.diag(off, 1) + np.diag(off, -1)) if count > 1 else (
        np.zeros(1), np.ones((1, 1))
    )  # fmt: skip
    return at + (size + 1) / 2, size * vectors[0] ** 2
