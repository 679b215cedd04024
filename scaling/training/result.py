"""What training reports and returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling.config import RunConfig


class Interrupted(Exception):
    """Training stopped because it was asked to; its checkpoint is written."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    steps: int
    D: int
    L: float | None
    """Last held-out loss [nats/token]."""
    L_train: float | None
    """Mean training loss since the last evaluation [nats/token]."""
    tokens_per_second: float


@dataclass(frozen=True)
class Result:
    """A finished run."""

    config: RunConfig
    row: dict[str, Any]
    """One row of the results table; keys are names of scaling.schema.COLUMNS."""
    curve: list[dict[str, Any]]
    """One entry an evaluation; keys are names of scaling.schema.CURVE_COLUMNS."""
    tests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """One entry a distribution that the finished model was measured on; keys are names of
    scaling.schema.TEST_COLUMNS."""

    @property
    def status(self) -> str:
        return self.row["status"]


GiveUp = Callable[[Sequence[tuple[RunConfig, Sequence[dict[str, Any]]]]], Mapping[str, str]]
"""Asked as runs have been measured, with each of them and its curve so far (points as in
Result.curve): {run_id: why} of those that are to end here."""
