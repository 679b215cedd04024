"""Offline runs of trackers, as (config, summary, history).

Nothing of a stranger's is executed: no pickle, no code, no artifacts. Files of W&B and TensorBoard
are read by their packages; MLflow's stores are text files or SQLite and need no package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class TrackerError(ValueError):
    """The run of a tracker cannot be read; the message says why and what to do."""


@dataclass(frozen=True)
class TrackedRun:
    """One run of a tracker."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def read(tracker: str, path: Path) -> list[TrackedRun]:
    """Return the runs in a folder."""
    raise TrackerError(f"{tracker} cannot be read")


def stamps(path: Path) -> object:
    """Return what changes if the files of a tracker change."""
    return None
