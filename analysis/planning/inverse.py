"""From a requested N, D or L to the compute at which a frontier has this optimum."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from analysis.frontiers.result import Frontier
from scaling.errors import ConfigError

_REACHES = (5.0, 20.0, 60.0, 150.0)
"""Half-widths in ln C around the data that are searched in turn."""


_FAR = 1e3
"""Logarithm that stands for those of 0 and infinity."""


def compute_for(front: Frontier, name: str, value: float) -> float:
    """Return the C at which the optimum has this value of `name`: 'N', 'D' or 'L'.

    Raises ConfigError if there is none.
    """

    def off(log_C: float) -> float:
        ratio = float(front.draws(math.exp(log_C))[name][0, 0]) / value
        if 0 < ratio < math.inf:
            return math.log(ratio)
        return math.nan if math.isnan(ratio) else math.copysign(_FAR, ratio - 1)

    middle = 0.5 * sum(math.log(end) for end in front.ranges["C"])
    for reach in _REACHES:
        low, high = max(middle - reach, math.log(6.0)), middle + reach
        if off(low) * off(high) <= 0:
            return math.exp(float(brentq(off, low, high, xtol=1e-10)))
    if name == "L":
        floor = front.draws(math.exp(middle + _REACHES[-1]))["L"][0, 0]
        raise ConfigError(
            f"L={value:g} nats/token is out of reach: this frontier ({source_of(front)}) tends to "
            f"{floor:.4g} however much compute is spent. Ask for a higher loss."
        )
    raise ConfigError(f"{name}={value:g} is optimal at no compute that this frontier covers.")


def compute_draws(front: Frontier, name: str, value: float, C: float) -> np.ndarray:
    """Return the C of every resample, (1 + resamples,); the first is the estimate `C`.

    It is infinite if a resample does not reach the value within a factor of 1e5 of `C`.
    """
    x = math.log(C) + np.linspace(-12, 12, 49)
    with np.errstate(divide="ignore"):
        paths = np.log(front.draws(np.exp(x))[name])
    sign = -1.0 if name == "L" else 1.0
    goal = sign * math.log(value)
    draws = np.full(len(paths), np.inf)
    for i, path in enumerate(sign * paths):
        if np.isfinite(path).all() and path[-1] >= goal:
            draws[i] = math.exp(np.interp(goal, np.maximum.accumulate(path), x))
    draws[0] = C
    return draws


def source_of(front: Frontier) -> str:
    """Return the method, law and convention of a frontier in words."""
    what = front.fit.name if front.fit is not None else "power laws"
    return f"{front.method} frontier, {what} ({front.convention})"
