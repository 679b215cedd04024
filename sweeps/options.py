"""The options of one call of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from scaling.execution import Execution
from sweeps.budget import Budget


@dataclass(frozen=True)
class Call:
    """How a call of :meth:`Sweep.run` trains."""

    workers: int
    """As asked for; fewer may run."""
    in_process: bool
    address: str | None
    retries: int
    packs: bool
    execution: Execution
    budget: Budget
