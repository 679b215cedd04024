"""The learning curve of one run, its learning rates to the end, and how it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from analysis.curves.rates import Rates

FINISHED = "ok"
"""Status of a finished run."""
DIVERGED = "diverged"
"""Status of a run whose loss exploded."""
UNFINISHED = ("running", "cut off", "planned", "stopped", "failed", DIVERGED)
"""Statuses of the runs that have no final loss."""


@dataclass(frozen=True, kw_only=True)
class RunCurve:
    """One run: what was measured of it, and what it is to do until its last step."""

    run: str
    """Its name."""
    status: str
    step: np.ndarray
    """Increasing steps (1-based) at which the loss was measured."""
    loss: np.ndarray
    rates_of: Callable[[], Rates]
    """Returns the learning rates from its first step to its last, which take time to compute."""
    end: int
    """Its last step, if it trains to the end."""
    done: int
    """Steps trained so far; at least the last measured one."""
    warmup: int
    """Steps of warm-up; the losses within it are not used."""
    N: float | None = None
    """Parameters."""
    B: float | None = None
    """Tokens per step."""
    D: float | None = None
    """Tokens of the whole run."""
    flops_per_step: float | None = None
    seconds_per_step: float | None = None
    trunk: str | None = None
    """Equal for runs that share their first steps; None for a run that shares none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Columns of its row, such as n_layer and lr_peak."""

    @property
    def rates(self) -> Rates:
        """Learning rates from its first step to its last."""
        return self.rates_of()

    @property
    def finished(self) -> bool:
        return self.status == FINISHED

    @property
    def steps_left(self) -> int:
        return 0 if self.finished else max(0, self.end - self.done)

    @property
    def used(self) -> np.ndarray:
        """Mask of the points that a law is fitted to: after the warm-up."""
        return self.step > self.warmup

    def cut(self, step: int) -> RunCurve:
        """Return the run as it stood after `step` steps, as if it were still training."""
        kept = self.step <= step
        values = vars(self) | {
            "status": "running", "step": self.step[kept], "loss": self.loss[kept], "done": step
        }  # fmt: skip
        return RunCurve(**values)


@dataclass(frozen=True, kw_only=True)
class RunCurves:
    """The runs of a results folder or a table."""

    runs: Sequence[RunCurve]
    source: str
    notes: Sequence[str] = ()
    """Messages about rows left out and what was assumed, one line each."""

    @property
    def finished(self) -> list[RunCurve]:
        return [run for run in self.runs if run.finished]

    @property
    def unfinished(self) -> list[RunCurve]:
        return [run for run in self.runs if not run.finished]
