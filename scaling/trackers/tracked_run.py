"""A run as a tracker recorded it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One run of a tracker: its settings, its last numbers, and its numbers by step."""

    id: str
    name: str = ""
    """Name that people gave it; for TensorBoard, the folder relative to the one that was read."""
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per step in order, each with 'step' if the tracker counts steps."""
    start: float = 0.0
    """Time of its start, in seconds since 1970; 0 if unknown."""
    state: str = ""
    """How it ended, in the tracker's word, such as 'finished'; 'unfinished' if it has no end;
    'unreadable' if its file is damaged; '' if the tracker keeps no states."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What it is filed under: project, group, experiment, ..."""


def with_unreadable(runs: list[TrackedRun], errors: Mapping[str, str]) -> list[TrackedRun]:
    """Return the runs, and an empty one for each {id: reason} of those that cannot be read.

    Raises ValueError with the reasons if there is no other run.
    """
    if not runs:
        raise ValueError("; ".join(errors.values()))
    lost = [
        TrackedRun(id=id, state="unreadable", labels={"problem": reason})
        for id, reason in errors.items()
    ]
    return [*runs, *lost]


def by_step(steps: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return {step: values} as a history."""
    return [{"step": step, **steps[step]} for step in sorted(steps)]


def last_values(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the last value of each name in a history, without the step."""
    found: dict[str, Any] = {}
    for row in history:
        found |= {name: value for name, value in row.items() if name != "step"}
    return found


def plain_value(text: str) -> bool | int | float | str:
    """Return what a parameter that is stored as text was."""
    if text in ("True", "False"):
        return text == "True"
    for parse in (int, float):
        with contextlib.suppress(ValueError):
            return parse(text)
    return text
