"""What one call of a sweep may spend."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from scaling import size
from scaling.config import RunConfig
from scaling.errors import ConfigError
from scaling.units import clock, si


def flops(run: RunConfig) -> float:
    """C = 6 N D of a run [FLOPs]."""
    return size.flops_per_token(run.model, run.data.vocab_size) * run.D


@dataclass
class Budget:
    """FLOPs (6 N D) and hours of wall clock. Runs are begun while both last; what is under way ends."""

    flops: float | None = None
    hours: float | None = None
    _begun: dict[str, float] = field(default_factory=dict)
    """{run_id: FLOPs} of the runs that were begun."""
    _start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for name in ("flops", "hours"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"budget_{name}={value} must be positive.")

    def __bool__(self) -> bool:
        """Whether there is a limit."""
        return self.flops is not None or self.hours is not None

    def admits(self, runs: Iterable[RunConfig]) -> bool:
        """Whether these may begin now; if so, they count as begun. A run that resumes counts once."""
        if self.hours is not None and time.monotonic() - self._start > 3600 * self.hours:
            return False
        new = {run.run_id: flops(run) for run in runs}
        if self.flops is not None and sum((self._begun | new).values()) > self.flops:
            return False
        self._begun |= new
        return True

    def __str__(self) -> str:
        limits = []
        if self.flops is not None:
            limits.append(f"{si(sum(self._begun.values()))} of {si(self.flops, 'FLOPs')}")
        if self.hours is not None:
            spent = clock(time.monotonic() - self._start)
            limits.append(f"{spent} of {clock(3600 * self.hours)}")
        return ", ".join(limits)
