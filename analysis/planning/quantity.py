"""A number with its interval."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

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
        """Return plain numbers, ready for JSON."""
        return finite(self._asdict())


def quantity_of(draws: np.ndarray, level: float) -> Quantity:
    """The first draw is the estimate and the rest its distribution; unknown draws count as inf."""
    rest = np.sort(np.where(np.isnan(draws[1:]), np.inf, draws[1:]))
    if not len(rest):
        return Quantity(float(draws[0]), math.nan, math.nan)
    low, high = (rest[round(q * (len(rest) - 1))] for q in ((1 - level) / 2, (1 + level) / 2))
    return Quantity(float(draws[0]), float(low), float(high))
