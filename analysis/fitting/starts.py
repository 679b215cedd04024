"""Starting points: a grid in the nonlinear parameters; the linear ones are solved for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from analysis.fitting.autodiff import Dual
from analysis.fitting.problem import Problem, huber

_RANKED = 4096
"""Maximum number of starting points to keep."""
_RANKED_ROWS = 512
"""Maximum number of rows by which starting points are ranked."""


def starts(problem: Problem, seed: int, *, count: int | None = None) -> np.ndarray:
    """Return unknowns (q, M) to start from: a grid in the nonlinear parameters.

    Parameters in which the law is linear are found by non-negative least squares of the relative
    residuals at every point of the grid (variable projection).
    """
    linear = linear_parameters(problem, seed)
    rest = [p for p in problem.free if p not in linear]
    grid = _grid(problem, rest, seed, count)
    if not linear:
        return problem.model.centred(unknowns_of(problem, grid))
    M = len(next(iter(grid.values()))) if rest else 1
    few = problem
    if problem.n > _RANKED_ROWS:
        few = problem.take(np.random.default_rng(seed).permutation(problem.n)[:_RANKED_ROWS])
    found, misfit = np.empty((len(linear), M)), np.empty(M)
    for part in chunks(M, max(1, 2**20 // few.n)):
        found[:, part], misfit[part] = _coefficients(
            few, linear, {p: v[part] for p, v in grid.items()}, part.stop - part.start
        )
    u = unknowns_of(problem, grid | dict(zip(linear, found, strict=True)))
    best = np.argsort(misfit, kind="stable")[:_RANKED]
    return problem.ordered(problem.model.centred(u[:, best]))


def _coefficients(
    problem: Problem, linear: list[str], grid: Mapping[str, np.ndarray], M: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best linear parameters (K, M) at M points of the grid, and their misfit (M,)."""
    columns = [problem.columns[name] for name in problem.law.inputs]
    values = {p: Dual(v[:, None], {}) for p, v in grid.items()} | dict(problem.fixed)
    values |= {p: Dual(np.ones((M, 1)), {k: 1.0}) for k, p in enumerate(linear)}
    with np.errstate(all="ignore"):
        out = problem.law(*columns, **values)
        shape = (M, problem.n)
        parts = [np.broadcast_to(out.partials[k], shape) for k in range(len(linear))]
        return _non_negative(parts, np.broadcast_to(out.value, shape) - sum(parts), problem)


def unknowns_of(problem: Problem, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the free parameters as an array (q, M), positive coefficients as logarithms."""
    rows = []
    for p, log in zip(problem.free, problem.model.log, strict=True):
        rows.append(np.log(values[p]) if log else values[p])
    return np.array(rows, float)


def evenly(count: int, d: int, seed: int) -> np.ndarray:
    """Return points (count, d) that fill the unit cube evenly, shifted by the seed.

    They are multiples modulo 1 of the powers of 1 / phi_d, phi_d the real root of x^(d + 1) = x + 1
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
    """Return a full grid in one or two dimensions, a quasirandom sequence in more."""
    d = len(names)
    if d == 0:
        return {}
    if count is None:
        most = 20480 if len(problem.law.exchangeable) > 1 else 4096
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


def linear_parameters(problem: Problem, seed: int) -> list[str]:
    """Find the positive free parameters in which the law is jointly linear, by its derivatives."""
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
    """Return positive coefficients (K, M) that minimise sum_i w_i ((X c)_i / L_i - 1)^2.

    Returns the minima (M,) too. Every support is tried. A coefficient that is best at zero starts
    small instead, since its logarithm must be free to fall.
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
    # A coefficient that is best at zero gets 0.1 % of the loss.
    floor = 1e-3 / np.maximum(np.mean(np.array(parts) / problem.target, axis=2).T, 1e-300)
    return np.where(best > 0, best, floor).T, np.einsum("mn,mn,n->m", t, t, w) + value


def ranked(problem: Problem, theta: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return `theta` (q, M) sorted by the objective, best first, and the objectives (M,)."""
    values = np.full(theta.shape[1], np.inf)
    for part in chunks(theta.shape[1], problem.slots):
        rho = huber(problem.residuals(theta[:, part]), delta)
        total = rho @ problem.weights + problem.penalties(theta[:, part])
        values[part] = np.nan_to_num(total, nan=np.inf)
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    return theta[:, order], values[order]


def chunks(total: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `total`."""
    return (slice(i, min(i + size, total)) for i in range(0, total, size))


def spaced(theta: np.ndarray, count: int) -> np.ndarray:
    """Select `count` columns of the sorted `theta` (q, M): half the best, half spread out."""
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
