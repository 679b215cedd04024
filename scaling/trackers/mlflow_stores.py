"""Stores of MLflow: a folder mlruns/ of text files, or a SQLite database."""

from __future__ import annotations

import contextlib
import math
import re
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scaling import files
from scaling.trackers.tracked_run import TrackedRun, by_step, last_values, plain_value

_SQLITE = b"SQLite format 3\x00"
_LARGEST = 1.7976931348623157e308
"""How a database stores infinity."""


def is_store_file(path: Path) -> bool:
    """Return whether a file is the meta.yaml of a run, or a database."""
    if path.name == "meta.yaml":
        return (path.parent / "metrics").is_dir() or (path.parent / "params").is_dir()
    if path.suffix not in (".db", ".sqlite", ".sqlite3"):
        return False
    try:
        with files.open_regular(path) as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def read(folder: Path, found: list[Path]) -> list[TrackedRun]:
    """Return the runs of all stores; deleted ones are left out."""
    runs: list[TrackedRun] = []
    for path in found:
        if path.name != "meta.yaml":
            runs += _of_database(path)
        elif (about := _settings(path)).get("lifecycle_stage") != "deleted":
            runs.append(_of_folder(path.parent, about))
    return sorted(runs, key=lambda run: (run.start, run.id))


# ------------------------------------------------------------------ text files


def _settings(path: Path) -> dict[str, str]:
    """Return {name: value} of the plain lines of a meta.yaml; nothing else in it is read."""
    text = files.read_bytes(path).decode("utf-8", "replace") if path.is_file() else ""
    return {name: value.strip("'\"") for name, value in _LINE.findall(text)}


_LINE = re.compile(r"^(\w+): *([^\s'\"!&*{\[][^\n]*|'[^'\n]*'|\"[^\"\n]*\") *$", re.MULTILINE)
_STATES = {"1": "running", "2": "scheduled", "3": "finished", "4": "failed", "5": "killed"}
"""States of runs as meta.yaml numbers them."""


def _of_folder(folder: Path, about: Mapping[str, str]) -> TrackedRun:
    config = {name: plain_value(text.strip()) for name, text in _texts(folder / "params")}
    tags = {name: text.strip() for name, text in _texts(folder / "tags")}
    steps: dict[int, dict[str, Any]] = {}
    start = math.inf
    for name, text in _texts(folder / "metrics"):
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # the last line may be half-written
                time, value, *step = line.split()
                at = int(step[0]) if step else 0
                steps.setdefault(at, {})[name] = float(value)
                start = min(start, float(time) / 1000)
    history = by_step(steps)
    return TrackedRun(
        id=folder.name,
        name=tags.get("mlflow.runName", ""),
        config=config,
        summary=last_values(history),
        history=history,
        start=start if math.isfinite(start) else 0.0,
        state=_STATES.get(about.get("status", ""), ""),
        labels=_labels(_settings(folder.parent / "meta.yaml").get("name"), tags),
    )


def _labels(experiment: object, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the experiment of a run, and the run that it is part of."""
    found = {"experiment": str(experiment or ""), "parent": tags.get("mlflow.parentRunId", "")}
    return {name: value for name, value in found.items() if value}


def _texts(folder: Path) -> Iterable[tuple[str, str]]:
    """Yield (name, text) of the files below a folder; a name may contain '/'."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError):
            text = files.read_bytes(path).decode("utf-8", "replace")
            yield path.relative_to(folder).as_posix(), text


# ------------------------------------------------------------------ databases


def _of_database(path: Path) -> list[TrackedRun]:
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=2.0)) as database:
            database.row_factory = sqlite3.Row
            names = _experiments(database)
            return [_of_row(database, dict(row), names) for row in database.execute(_RUNS)]
    except sqlite3.Error as error:
        raise ValueError(f"{path.name} is no database of MLflow ({error})") from None


_RUNS = "SELECT * FROM runs WHERE lifecycle_stage != 'deleted'"
_EXPERIMENTS = "SELECT experiment_id, name FROM experiments"
_TAGS = "SELECT key, value FROM tags WHERE run_uuid = ?"
_METRICS = (
    "SELECT key, value, step, is_nan FROM metrics WHERE run_uuid = ? ORDER BY step, timestamp"
)


def _experiments(database: sqlite3.Connection) -> dict[Any, Any]:
    """Return {id: name} of the experiments, if the database has any."""
    with contextlib.suppress(sqlite3.Error):
        return {row[0]: row[1] for row in database.execute(_EXPERIMENTS)}
    return {}


def _of_row(
    database: sqlite3.Connection, row: Mapping[str, Any], experiments: Mapping[Any, Any]
) -> TrackedRun:
    run_id, start = row["run_uuid"], row["start_time"]
    params = database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,))
    config = {str(key): plain_value(str(value)) for key, value in params}
    steps: dict[int, dict[str, Any]] = {}
    for key, value, step, is_nan in database.execute(_METRICS, (run_id,)):
        if isinstance(value, int | float) and isinstance(step, int):
            steps.setdefault(step, {})[str(key)] = math.nan if is_nan else _finite(value)
    history = by_step(steps)
    return TrackedRun(
        id=str(run_id),
        name=str(row.get("name") or ""),
        config=config,
        summary=last_values(history),
        history=history,
        start=start / 1000 if isinstance(start, int | float) else 0.0,
        state=str(row.get("status") or "").lower(),
        labels=_labels(experiments.get(row.get("experiment_id")), _tags(database, run_id)),
    )


def _tags(database: sqlite3.Connection, run_id: Any) -> dict[str, str]:
    with contextlib.suppress(sqlite3.Error):
        return {str(k): str(v) for k, v in database.execute(_TAGS, (run_id,))}
    return {}


def _finite(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= _LARGEST else float(value)
