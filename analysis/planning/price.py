"""The price of a model size other than the best one, at the same loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from analysis.frontiers.result import Frontier
from analysis.planning.quantity import Quantity, quantity_of
from scaling.errors import ConfigError

FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Multiples of the best size whose price a plan states (Kaplan et al. 2020, Fig. 12)."""


_MOST = 100.0
"""A price beyond this factor is not stated in numbers: nobody would pay it."""
_FACTOR = 11.0
"""From here on (+1000 %) a price is stated as a factor."""


class Deviation(NamedTuple):
    """A size other than the best one, trained until its loss is the plan's."""

    factor: float
    """N over N_opt."""
    compute: Quantity
    """C over the plan's C; infinite if no amount of data reaches that loss."""
    D: float


def deviation(
    front: Frontier, *, N: float, D: float, factor: float, level: float = 0.95
) -> Deviation:
    """Return the compute for the loss of (N, D) with factor x N parameters, over that of (N, D).

    It is infinite if no amount of data reaches the loss. Raises ConfigError unless the frontier is
    that of a law of N and D.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), Fig. 12
    """
    if front.fit is None:
        raise ConfigError(f"the price of another size needs a law of N and D, not {front.method}.")
    ratio, tokens = _same_loss(front, N, D, factor)
    return Deviation(factor, quantity_of(ratio, level), float(tokens[0]))


def price_over_least(front: Frontier, *, C: float, factor: float, level: float = 0.95) -> Quantity:
    """Return the compute for the least loss at C with factor x N_opt parameters, over C.

    Every set of parameters has its own N_opt and loss, so that no price is below 1. Raises
    ConfigError unless the frontier is that of a law of N and D.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), Fig. 12
    """
    if front.fit is None:
        raise ConfigError(f"the price of another size needs a law of N and D, not {front.method}.")
    best = front.draws(C)
    ratio, _ = _same_loss(front, best["N"][:, 0], best["D"][:, 0], factor)
    value, low, high = quantity_of(np.maximum(ratio, 1.0), level)
    return Quantity(value, max(low, 1.0), high)  # a draw without an optimum counts as 0 in `low`


def loss_over_best(
    front: Frontier, *, N: float, D: float, factor: float, level: float = 0.95
) -> Quantity:
    """Return the loss with factor x N parameters at the compute of (N, D), over that of (N, D).

    The fewer or more tokens follow from the compute; the ratio is nan if none are left. Raises
    ConfigError unless the frontier is that of a law of N and D.
    """
    if front.fit is None:
        raise ConfigError(f"the loss of another size needs a law of N and D, not {front.method}.")
    of_tokens = front.per_token(N) * D + 2 * N * front.served - 2 * factor * N * front.served
    tokens = of_tokens / front.per_token(factor * N)
    if tokens <= 0:
        return Quantity(math.nan, math.nan, math.nan)
    losses = _losses(front)
    with np.errstate(all="ignore"):
        ratio = losses(factor * N, tokens) / losses(N, D)
        ratio[0] = float(front.fit.predict(N=factor * N, D=tokens)) / float(
            front.fit.predict(N=N, D=D)
        )
    return quantity_of(ratio, level)


def deviations(front: Frontier, N: float, D: float, level: float) -> Iterator[Deviation]:
    """Yield the compute for the same loss at other sizes; nothing without a law of N and D."""
    if front.fit is None:
        return
    for factor in FACTORS:
        yield deviation(front, N=N, D=D, factor=factor, level=level)


def _same_loss(front: Frontier, N: Any, D: Any, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return C / C_opt and D at factor x N, for every set of parameters, by bisection in ln D.

    N and D are numbers, or have an entry for each set.
    """
    assert front.fit is not None
    loss, rows = _losses(front), len(front.fit.samples) + 1
    goal = loss(N, np.full(rows, D))
    low, high = np.full(rows, np.log(D) - 30), np.full(rows, np.log(D) + 60)
    with np.errstate(over="ignore"):  # a draw's optimum may lie far out
        reachable = loss(factor * N, np.exp(high)) < goal
        for _ in range(60):
            middle = (low + high) / 2
            enough = loss(factor * N, np.exp(middle)) <= goal
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        tokens = np.where(reachable, np.exp(high), np.inf)
    compute = front.per_token(factor * N) * tokens + 2 * factor * N * front.served
    return compute / (front.per_token(N) * D + 2 * N * front.served), tokens


def _losses(front: Frontier) -> Callable[[Any, Any], np.ndarray]:
    """Return the loss of every set of parameters as a function of N and D."""
    assert front.fit is not None
    law, samples = front.fit.law, front.fit.samples
    params = {
        p: np.concatenate([[front.fit.params[p]], samples[p].to_numpy(float)]) for p in law.params
    }

    def loss(n: Any, d: Any) -> np.ndarray:
        columns = {"N": np.broadcast_to(n, np.shape(d)), "D": d}
        with np.errstate(all="ignore"):  # a draw may lie far out
            return np.asarray(law(*(columns[k] for k in law.inputs), **params), float)

    return loss


def deviation_line(d: Deviation) -> str:
    """Return the price of another size in words."""
    name = f"{d.factor:g} x N"
    value, low, high = d.compute
    if math.isinf(value):
        return f"{name:<9} no amount of data reaches this loss"
    if math.isnan(value):
        return f"{name:<9} not known"
    tokens = f", D = {d.D:.3g}" if value <= _MOST else ""
    return f"{name:<9} {_ratio(value)} compute {_spread(low, high)}{tokens}"


def deviation_record(d: Deviation) -> dict[str, Any]:
    """Return the price of another size for JSON: what is beyond sense is None, with the reason."""
    value, low, high = (x if _sensible(x) else None for x in d.compute)
    compute: dict[str, Any] = {"value": value, "low": low, "high": high}
    if None in compute.values():
        compute["reason"] = f"{deviation_line(d).removeprefix(f'{d.factor:g} x N').strip()}"
    return {"factor": d.factor, "compute": compute, "D": None if value is None else d.D}


def _sensible(ratio: float) -> bool:
    return 1 / _MOST <= ratio <= _MOST


def _spread(low: float, high: float) -> str:
    if math.isnan(low) or math.isnan(high):
        return "[no interval]"
    if low < 1 / _MOST and high > _MOST:
        return "[not identified]" if math.isfinite(high) else "[not known, unreachable]"
    return f"[{_ratio(low)}, {_ratio(high)}]"


def _ratio(ratio: float) -> str:
    """Return a ratio of computes in words: a percentage, a factor, or a limit."""
    if math.isinf(ratio):
        return "unreachable"
    if not _sensible(ratio):
        return f"more than {_MOST:.0f}x" if ratio > 1 else f"less than 1/{_MOST:.0f}"
    return f"{ratio - 1:+.1%}" if ratio < _FACTOR else f"{ratio:.3g}x"
