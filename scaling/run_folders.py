"""The runs in a results folder that its tables do not hold yet: results not merged, runs under way.

A sweep keeps each run in runs/<run_id>/: config.json from its start, its report with its curve so
far while it trains (scaling.run_progress), and result.json once it has ended. Needs neither torch
nor sweeps; the folder may come from an untrusted source, so damaged files are skipped and counted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scaling import files, run_progress
from scaling.command_run import Run
from scaling.config import fields_of, from_dict
from scaling.errors import ConfigError
from scaling.recorded_run import from_recorded


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run that has begun and has no result."""

    config: Run
    running: bool
    """Whether a process trains it now."""
    step: int = 0
    """Steps done, as reported last."""
    curve: list[tuple[int, float, float | None]] = field(default_factory=list)
    """(step, held-out loss, learning rate) of its evaluations so far."""
    tokens_per_second: float | None = None


@dataclass
class RunFolders:
    """What the folders of runs hold."""

    ended: list[tuple[dict[str, Any], list[dict[str, Any]]]] = field(default_factory=list)
    """(row, curve) of the runs that have ended."""
    open: dict[str, OpenRun] = field(default_factory=dict)
    """{run_id: run} of those that have not."""
    damaged: list[str] = field(default_factory=list)
    """Files that cannot be read."""


def read(folder: str | Path, merged: Collection[str] = ()) -> RunFolders:
    """Return the runs of a results folder, except those whose ids are `merged` into its table."""
    found = RunFolders()
    runs = Path(folder) / "runs"
    try:
        with os.scandir(runs) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        return found
    for run_id in sorted(names):
        if run_id not in merged and run_progress.RUN_ID.fullmatch(run_id):
            _add(found, runs / run_id, run_id)
    reports = run_progress.read(runs, found.open)
    for run_id, run in found.open.items():
        found.open[run_id] = _with_report(run, reports.get(run_id, {}))
    return found


def configs(folder: str | Path) -> dict[str, Run]:
    """Return {run_id: config} of the runs that have begun and whose folders are still there."""
    found = {}
    for path in sorted((Path(folder) / "runs").glob("*/config.json")):
        values = files.read_object(path)
        if values is not None and (config := _config(values)) is not None:
            found[path.parent.name] = config
    return found


def _add(found: RunFolders, folder: Path, run_id: str) -> None:
    path = folder / "result.json"
    if path.exists():
        values = files.read_object(path)
        row, curve = (values or {}).get("row"), (values or {}).get("curve")
        if isinstance(row, dict) and isinstance(curve, list) and row.get("run_id") == run_id:
            found.ended.append((row, [point for point in curve if isinstance(point, dict)]))
        else:
            found.damaged.append(f"{run_id}/{path.name}")
        return
    path = folder / "config.json"
    if not path.exists():
        return
    config = _config(files.read_object(path) or {})
    if config is None or config.run_id != run_id:
        found.damaged.append(f"{run_id}/{path.name}")
        return
    found.open[run_id] = OpenRun(config=config, running=files.locked(folder / "lock"))


def _with_report(run: OpenRun, report: Mapping[str, Any]) -> OpenRun:
    last = run.config.S or math.inf  # of a command whose batch is not known
    return replace(
        run,
        step=int(min(_number(report.get("step")) or 0, last)),
        curve=_curve(report.get("curve"), last),
        tokens_per_second=_number(report.get("tokens_per_second")) or None,
    )


def _config(values: Mapping[str, Any]) -> Run | None:
    if "command" in values:
        return from_recorded(values)
    try:
        return from_dict({key: values[key] for key in fields_of() if key in values})
    except ConfigError:
        return None


def _curve(points: Any, last: float) -> list[tuple[int, float, float | None]]:
    """Return the points of a progress report that are numbers, in order of their steps."""
    found = {}
    for point in points if isinstance(points, list) else ():
        if not (isinstance(point, list) and len(point) == 3):
            continue
        step, loss, lr = map(_number, point)
        if step and loss and step <= last:
            found[int(step)] = (int(step), loss, lr)
    return [found[step] for step in sorted(found)]


def _number(value: Any) -> float | None:
    """Return a number that is finite and not negative; else None."""
    if type(value) not in (int, float) or not 0 <= value < 2**63 or not math.isfinite(value):
        return None
    return float(value)
