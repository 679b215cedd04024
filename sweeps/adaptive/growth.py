"""The runs of an adaptive sweep so far, which the searches add to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from scaling.command_run import Run
from sweeps.adaptive.interval import DueRound
from sweeps.result import Row


@dataclass(kw_only=True)
class Growth:
    """The runs of an adaptive sweep, as far as its results determine them."""

    runs: dict[str, Run] = field(default_factory=dict)
    """{run_id: run} of the spec's runs and the added ones, finished or not."""
    notes: list[str] = field(default_factory=list)
    """Where each search stands, one line each."""
    due: DueRound | None = None
    """The round of designed runs to be decided now, if any."""
    unfinished: set[str] = field(default_factory=set)
    """Ids of runs that were stopped early and must be trained to the end: all of them if the spec
    no longer has `halving` or `forecast`; and the most promising one of a family whose better arms
    were lost after it had been stopped."""

    def add(self, runs: Iterable[Run]) -> None:
        """Add runs; those that are there already stay as they are."""
        for run in runs:
            self.runs.setdefault(run.run_id, run)


def loss_of(row: Row | None) -> float | None:
    """Return the final loss of a run; None if it has not finished.

    The loss is infinite if the run diverged, failed or was stopped early.
    """
    if row is None:
        return None
    L = row.get("L")
    return float(L) if row["status"] == "ok" and L is not None else math.inf
