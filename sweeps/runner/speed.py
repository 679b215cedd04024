"""Estimates of the time of commands, from the runs of the table that have finished.

A run takes  t = a + b C  seconds, or a + b D if N is not known: its start and end, and its work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scaling import size
from scaling.command_run import CommandRun

_GUESS_PER_FLOP = 1e-10
_GUESS_PER_TOKEN = 1e-4
"""Seconds of a CPU core with a small model, used if no run has finished."""

_START_SECONDS = 1.0
"""Seconds to start a command, until runs of several sizes tell."""

_MOST_SAMPLES = 2000


@dataclass(frozen=True)
class CommandSpeed:
    """A predictor of the time of a command from sizes."""

    start: float = _START_SECONDS
    """a [s]."""
    per_flop: float = _GUESS_PER_FLOP
    """b [s], of runs whose N is known."""
    per_token: float = _GUESS_PER_TOKEN
    """b [s], of the others."""
    samples: int = 0
    """Number of finished runs behind the prediction; with 0 it is a guess."""

    def seconds(self, run: CommandRun) -> float:
        """Return the expected seconds of a run."""
        rate = self.per_token if run.N is None else self.per_flop
        return self.start + rate * size.work_of(run)


def speed_of(rows: Iterable[Mapping[str, Any]]) -> CommandSpeed:
    """Return the speed that the finished runs among the rows of a table show."""
    flops, tokens = [], []
    for row in rows:
        if row.get("status") != "ok":
            continue
        seconds, C, D = (_positive(row.get(name)) for name in ("seconds", "C", "D"))
        if seconds and C:
            flops.append((C, seconds))
        if seconds and D:
            tokens.append((D, seconds))
    if not (flops or tokens):
        return CommandSpeed()
    start, per_flop = _line(flops, _GUESS_PER_FLOP)
    start_by_tokens, per_token = _line(tokens, _GUESS_PER_TOKEN)
    return CommandSpeed(
        start if flops else start_by_tokens,
        per_flop,
        per_token,
        samples=max(len(flops), len(tokens)),
    )


def _line(samples: list[tuple[float, float]], guess: float) -> tuple[float, float]:
    """Fit  t = a + b x  by relative least squares, neither of them negative."""
    if not samples:
        return _START_SECONDS, guess
    samples = samples[:: max(1, len(samples) // _MOST_SAMPLES)]
    # Minimise the sum of ((a + b x - t) / t)^2.
    n = float(len(samples))
    aa = sum(1 / t**2 for _, t in samples)
    ab = sum(x / t**2 for x, t in samples)
    bb = sum(x**2 / t**2 for x, t in samples)
    at, bt = sum(1 / t for _, t in samples), sum(x / t for x, t in samples)
    determinant = aa * bb - ab**2
    if n > 1 and determinant > 1e-9 * aa * bb:
        a, b = (at * bb - bt * ab) / determinant, (aa * bt - ab * at) / determinant
        if a >= 0 and b >= 0:
            return a, b
        if b < 0:
            return at / aa, 0.0
    return 0.0, bt / bb


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value > 0 else None
