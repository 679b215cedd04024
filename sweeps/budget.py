"""Limits on the compute and time that one call of a sweep may spend."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from scaling import size
from scaling.command_run import Run
from scaling.errors import ConfigError
from scaling.units import clock, si


@dataclass(kw_only=True)
class SweepBudget:
    """Limits on FLOPs (6 N D) and on hours of wall-clock time.

    Runs start while neither limit is reached; a run that has started is trained to its end.
    """

    flops: float | None = None
    hours: float | None = None
    _started: dict[str, float] = field(default_factory=dict)
    """FLOPs of the runs that have started, by run id."""
    _start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for name in ("flops", "hours"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"budget_{name}={value} must be positive.")

    def __bool__(self) -> bool:
        """Return whether there is a limit."""
        return self.flops is not None or self.hours is not None

    def admits(self, runs: Iterable[Run]) -> bool:
        """Return whether these runs may start now. If so, they count as started; a resumed run
        counts once."""
        if self.hours is not None and time.monotonic() - self._start > 3600 * self.hours:
            return False
        new = {run.run_id: size.flops_of(run) for run in runs}
        if self.flops is not None and sum((self._started | new).values()) > self.flops:
            return False
        self._started |= new
        return True

    def covers(self, flops: float, seconds: float) -> bool:
        """Return whether the limits are at least this high; nan, for unknown, is not above one."""
        return not (
            (self.flops is not None and flops > self.flops)
            or (self.hours is not None and seconds > 3600 * self.hours)
        )

    def __str__(self) -> str:
        limits = []
        if self.flops is not None:
            limits.append(f"{si(sum(self._started.values()))} of {si(self.flops, 'FLOPs')}")
        if self.hours is not None:
            spent = clock(time.monotonic() - self._start)
            limits.append(f"{spent} of {clock(3600 * self.hours)}")
        return ", ".join(limits)
