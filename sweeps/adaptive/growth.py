"""The runs of an adaptive sweep so far, which the searches add to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from scaling.config import RunConfig
from sweeps.adaptive.interval import Due
from sweeps.result import Row


@dataclass
class Growth:
    """The runs of an adaptive sweep as far as its results design them."""

    runs: dict[str, RunConfig] = field(default_factory=dict)
    """{run_id: run}: those of the spec and those that were added, finished or not."""
    said: list[str] = field(default_factory=list)
    """Where each search stands, a line each."""
    due: Due | None = None
    """What the next round of designed runs may choose from, where it is to be decided now."""
    unfinished: set[str] = field(default_factory=set)
    """Those of the runs that were stopped early and are asked for to their end: all where the spec
    has no `halving` any more; and the most promising of a family, where what it was stopped for
    was lost later."""

    def add(self, runs: Iterable[RunConfig]) -> None:
        for run in runs:
            self.runs.setdefault(run.run_id, run)


def loss_of(row: Row | None) -> float | None:
    """Of a finished run; infinite where it diverged, failed or was stopped early, None where it has
    not finished."""
    if row is None:
        return None
    L = row.get("L")
    return float(L) if row["status"] == "ok" and L is not None else math.inf
