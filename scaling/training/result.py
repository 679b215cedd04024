"""What training reports, returns, and asks of its caller. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling.config import RunConfig
from scaling.errors import Interrupted as Interrupted


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int
    steps: int
    D: int
    L: float | None
    """Last held-out loss [nats/token]."""
    L_train: float | None
    """Mean training loss since the last evaluation [nats/token]."""
    tokens_per_second: float
    stored: int = 0
    """Tokens whose training the checkpoint holds."""
    curve: Sequence[tuple[int, float, float | None]] = ()
    """(step, held-out loss, learning rate) of each evaluation so far."""


@dataclass(frozen=True)
class Result:
    """A finished run."""

    config: RunConfig
    row: dict[str, Any]
    """One row of the results table; keys are names in scaling.columns.COLUMNS."""
    curve: list[dict[str, Any]]
    """One entry per evaluation; keys are names in scaling.columns.CURVE_COLUMNS."""
    tests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """One entry per distribution that the finished model was measured on; keys are names in
    scaling.columns.TEST_COLUMNS."""

    @property
    def status(self) -> str:
        return self.row["status"]


GiveUp = Callable[[Sequence[tuple[RunConfig, Sequence[dict[str, Any]]]]], Mapping[str, str]]
"""Called with runs that were just evaluated and their curves so far (points as in Result.curve).
Returns {run_id: reason} for the runs that should end now."""


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions of the caller that a training loop reports to, or asks for a decision."""

    on_progress: Callable[[RunConfig, Progress], None] | None = None
    """Called about twice a second, and after every evaluation and checkpoint."""
    on_result: Callable[[Result], None] | None = None
    """Called as each run ends."""
    should_stop: Callable[[], bool] | None = None
    """Called after every step; True writes checkpoints and raises Interrupted."""
    give_up: GiveUp | None = None
    """Called after every evaluation except a run's last."""
