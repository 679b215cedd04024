"""A number with its interval."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from analysis.fitting.draws import containing
from analysis.in_words import interval
from scaling.jsonable import finite


class Quantity(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval; one without an upper end is known too."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON; an end without sense is None, and `reason` says why."""
        out = finite(self._asdict())
        words = interval(self.low, self.high, ".4g").strip("[]")
        if words == "not identified":
            out |= {"low": None, "high": None}
        if "no" in words:
            out["reason"] = words.split(", ")[-1]
        return out


def quantity_of(draws: np.ndarray, level: float) -> Quantity:
    """Return a positive quantity with its interval.

    The first draw is the estimate and the rest its distribution. A draw without a value (nan) may
    lie anywhere, and the interval holds the estimate, as for :func:`interval_of` of a frontier.
    """
    value, rest = float(draws[0]), draws[1:]
    if not len(rest):
        return Quantity(value, math.nan, math.nan)
    unknown = np.isnan(rest)
    at = [round(q * (len(rest) - 1)) for q in ((1 - level) / 2, (1 + level) / 2)]
    low = np.sort(np.where(unknown, 0.0, rest))[at[0]]
    high = np.sort(np.where(unknown, np.inf, rest))[at[1]]
    low, high = containing(value, low, high)
    return Quantity(value, float(low), float(high))
