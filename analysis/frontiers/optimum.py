"""N and D of least loss at fixed compute, under a law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from analysis.fitting.combination import Combination
from analysis.fitting.result import FitResult
from analysis.laws import Law
from analysis.tables.conventions import flops_6N


def optimum_at(
    law: Law,
    params: dict[str, np.ndarray],
    C: np.ndarray,
    flops_of: Callable[[Any], Any],
    served: float = 0.0,
) -> dict[str, np.ndarray]:
    """Return N, D and L of least loss at C, (n,) or (resamples, n), for each set of parameters.

    `flops_of` gives the FLOPs per token at N parameters. Values are nan where there is no optimum:
    an extreme draw may have a negative exponent or overflow.
    """
    p = {name: np.asarray(value, float)[:, None] for name, value in params.items()}
    if law.optimum is not None and flops_of is flops_6N and not served:
        N = law.optimum(C, **{name: p[name] for name in law.params})
    else:
        N = minimise_over_size(law, p, C, flops_of, served)
    with np.errstate(all="ignore"):
        D = (C - 2 * N * served) / flops_of(N)
        best = {"N": N, "D": D, "L": _predict(law, p, N, D)}
        lost = ~np.all([np.isfinite(v) & (v > 0) for v in best.values()], axis=0)
    return {name: np.where(lost, np.nan, value) for name, value in best.items()}


def minimise_over_size(
    law: Law,
    p: dict[str, np.ndarray],
    C: np.ndarray,
    flops_of: Callable[[Any], Any],
    served: float = 0.0,
) -> np.ndarray:
    """Return N of least loss at each C by grids of ln N that close in on the minimum.

    The first grid reaches from N = 1 to D = 1. Values are nan where the law is nowhere finite.
    """
    columns = {name: value[:, :, None] for name, value in p.items()}

    def loss(N: np.ndarray) -> np.ndarray:
        D = (C[..., None] - 2 * N * served) / flops_of(N)
        return _predict(law, columns, N, np.where(D > 0, D, np.nan))

    rows = max((len(v) for v in p.values()), default=1)
    low = np.zeros((rows, C.shape[-1]))
    high = np.broadcast_to(np.log(np.maximum(C / 6, 2.0)), low.shape)
    grid = np.linspace(0, 1, 33)
    known = np.ones_like(low, bool)
    for _ in range(5):
        u = low[:, :, None] + (high - low)[:, :, None] * grid
        v = loss(np.exp(u))
        known &= np.isfinite(v).any(axis=2)
        best = np.argmin(np.where(np.isfinite(v), v, np.inf), axis=2)
        take = (
            np.take_along_axis(u, np.clip(best + k, 0, 32)[:, :, None], 2)[:, :, 0] for k in (-1, 1)
        )
        low, high = take
    # The parabola through three points about the minimum is more exact than any of them.
    u = (low + high)[:, :, None] / 2 + 1e-3 * np.array([-1, 0, 1])
    left, mid, right = np.moveaxis(loss(np.exp(u)), 2, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        bend = left - 2 * mid + right
        shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0.0)
    return np.where(known, np.exp(u[:, :, 1] + 1e-3 * np.clip(shift, -1, 1)), np.nan)


def _predict(law: Law, params: dict[str, np.ndarray], N: Any, D: Any) -> np.ndarray:
    columns = {"N": N, "D": D}
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        return np.asarray(law(*(columns[name] for name in law.inputs), **params), float)


def optima_of(
    result: FitResult, C: np.ndarray, flops_of: Callable[[Any], Any], served: float = 0.0
) -> dict[str, np.ndarray]:
    """Return N, D and L of least loss at C by a fitted law: (1 + resamples, n), the estimate first.

    C is (n,), or (1 + resamples, n) with a compute for each resample.
    """
    values = optimum_at(result.law, parameter_draws(result), C, flops_of, served)
    if not isinstance(result, Combination):
        return values
    answer = optimum_at(result.answer, {}, C if C.ndim == 1 else C[:1], flops_of, served)
    return {name: np.concatenate([answer[name], v[1:]]) for name, v in values.items()}


def parameter_draws(result: FitResult) -> dict[str, np.ndarray]:
    """Return draws of each parameter of the law: (1 + resamples,), the estimate first."""
    return {
        name: np.concatenate([[result.params[name]], result.samples[name].to_numpy(float)])
        for name in result.law.params
    }
