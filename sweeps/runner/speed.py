"""Estimates of the time of commands, from runs that have finished and from steps that are reported.

A run takes  t = a + b D + c C  seconds, or a + b D if N is not known: its start and end, its tokens
and its FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from scaling import size
from scaling.command_run import CommandRun

_START_SECONDS = 2.0
"""Typical a [s], until runs of several sizes tell; never more than half of the time."""

_OF_TOKENS = 1 / 3
"""Typical share of b D in the rest of the time, if N is known: small models do not use a device as
well as large ones."""

_PRIOR = 0.2
"""Weight of the typical shares against that of a measurement."""

_GUESS_PER_FLOP, _GUESS_PER_TOKEN = 1e-10, 1e-4
"""Rates [s] that order runs while nothing is known of their time."""

_MOST_SAMPLES = 2000


class Sample(NamedTuple):
    """Work of a command, and the seconds that it took."""

    part: float
    """Fraction of a run; less than 1 between two reports, which does not contain its start."""
    D: float
    C: float
    """nan if N is not known."""
    seconds: float


class CommandSpeed:
    """A predictor of the time of a command from sizes."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.measured = tuple(samples)

    @property
    def samples(self) -> int:
        """Number of measurements behind the prediction; with 0 it only serves to order runs."""
        return len(self.measured)

    def seconds(self, run: CommandRun) -> float:
        """Return the expected seconds of a run."""
        D, C = float(run.D), size.flops_of(run)
        if not self.measured:
            rate = _GUESS_PER_TOKEN if run.N is None else _GUESS_PER_FLOP
            return _START_SECONDS + rate * size.work_of(run)
        if math.isnan(C) or not self._by_size:
            a, b = self._by_tokens
            return a + b * D
        a, b, c = self._by_size
        return a + b * D + c * C

    @cached_property
    def _by_tokens(self) -> list[float]:
        """a and b."""
        return _fit([(s.part, s.D, s.seconds) for s in self.measured])

    @cached_property
    def _by_size(self) -> list[float]:
        """a, b and c; empty if no sample has C."""
        known = [s for s in self.measured if not math.isnan(s.C)]
        return _fit([tuple(s) for s in known]) if known else []


def speed_of(rows: Iterable[Mapping[str, Any]]) -> CommandSpeed:
    """Return the speed that the finished runs among the rows of a table show."""
    samples = []
    for row in rows:
        D, C, seconds = (_positive(row.get(name)) for name in ("D", "C", "seconds"))
        if row.get("status") == "ok" and D and seconds:
            samples.append(Sample(1, D, C or math.nan, seconds))
    return CommandSpeed(samples)


def _fit(samples: list[tuple[float, ...]]) -> list[float]:
    """Fit the coefficients to (part, D, ..., seconds) by least squares, none negative."""
    import numpy as np
    from scipy.optimize import nnls

    part, *rates, seconds = np.array(samples[:: 1 + len(samples) // _MOST_SAMPLES], float).T
    # A unit of each feature takes the typical time, so that the coefficients are shares of it. A
    # weak prior on the shares decides what the samples do not.
    typical = float(np.mean(seconds / part))
    units = np.array([1.0, *(float(np.mean(rate / part)) for rate in rates)])
    share = min(0.5, _START_SECONDS / typical)
    parts = (1.0,) if len(rates) == 1 else (_OF_TOKENS, 1 - _OF_TOKENS)
    shares = np.array([share, *((1 - share) * part for part in parts)])
    # The start of long runs is known to be short, in proportion to it.
    weights = _PRIOR * np.array([1 / share, *(1.0 for _ in rates)])
    features = np.stack([part == 1, *rates], axis=1) / units * typical
    # Errors count relative to the typical time of a size, not to the time that was measured: else
    # short runs would count most where sizes do not explain the times.
    scale = features @ shares
    design = np.concatenate([features / scale[:, None], np.diag(weights)])
    target = np.concatenate([seconds / scale, weights * shares])
    return [float(x) for x in nnls(design, target)[0] * typical / units]


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value > 0 else None
