"""The price of a model size other than the best one, at the same loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from analysis.fitting.intervals import interval
from analysis.frontiers.result import Frontier
from analysis.planning.quantity import Quantity, quantity_of
from scaling.errors import ConfigError

FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Multiples of the best size whose price a plan states (Kaplan et al. 2020, Fig. 12)."""


class Deviation(NamedTuple):
    """A size other than the best one, trained until its loss is the plan's."""

    factor: float
    """N over N_opt."""
    compute: Quantity
    """C over the plan's C; infinite if no amount of data reaches that loss."""
    D: float


def price(front: Frontier, *, N: float, D: float, factor: float, level: float = 0.95) -> Quantity:
    """Return the compute for the loss of (N, D) with factor x N parameters, over that of (N, D).

    It is infinite if no amount of data reaches the loss. Raises ConfigError unless the frontier is
    that of a law of N and D.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), Fig. 12
    """
    if front.fit is None:
        raise ConfigError(f"the price of another size needs a law of N and D, not {front.method}.")
    return quantity_of(_same_loss(front, N, D, factor)[0], level)


def deviations(front: Frontier, N: float, D: float, level: float) -> Iterator[Deviation]:
    """Yield the compute for the same loss at other sizes; nothing without a law of N and D."""
    if front.fit is None:
        return
    for factor in FACTORS:
        ratio, tokens = _same_loss(front, N, D, factor)
        yield Deviation(factor, quantity_of(ratio, level), float(tokens[0]))


def _same_loss(front: Frontier, N: float, D: float, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return C / C_opt and D at factor x N, for every set of parameters, by bisection in ln D."""
    assert front.fit is not None
    law, samples = front.fit.law, front.fit.samples
    params = {
        p: np.concatenate([[front.fit.params[p]], samples[p].to_numpy(float)]) for p in law.params
    }

    def loss(n: float, d: Any) -> np.ndarray:
        columns = {"N": np.full(np.shape(d), n), "D": d}
        with np.errstate(all="ignore"):  # a draw may lie far out
            return np.asarray(law(*(columns[k] for k in law.inputs), **params), float)

    rows = len(samples) + 1
    goal = loss(N, np.full(rows, D))
    low, high = np.full(rows, math.log(D) - 30), np.full(rows, math.log(D) + 60)
    reachable = loss(factor * N, np.exp(high)) < goal
    for _ in range(60):
        middle = (low + high) / 2
        enough = loss(factor * N, np.exp(middle)) <= goal
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    tokens = np.where(reachable, np.exp(high), np.inf)
    compute = float(front.per_token(factor * N)) * tokens + 2 * factor * N * front.served
    return compute / (float(front.per_token(N)) * D + 2 * N * front.served), tokens


def deviation_line(d: Deviation) -> str:
    """Return the price of another size in words."""
    name = f"{d.factor:g} x N"
    if not math.isfinite(d.compute.value):
        return f"{name:<9} no amount of data reaches this loss"
    low, high = d.compute.low - 1, d.compute.high - 1
    if math.isinf(high):
        spread = f"[{'unreachable' if math.isinf(low) else f'{low:+.1%}'}, unreachable]"
    else:
        spread = interval(low, high, "+.1%")
    return f"{name:<9} {d.compute.value - 1:+.1%} compute {spread}, D = {d.D:.3g}"
