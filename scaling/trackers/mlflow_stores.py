"""Stores of MLflow: a folder mlruns/ of text files, or a SQLite database."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scaling import files
from scaling.trackers.tracked_run import TrackedRun, by_step, last_values

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
        runs += [_of_folder(path.parent)] if path.name == "meta.yaml" else _of_database(path)
    return sorted(runs, key=lambda run: (run.start, run.id))


# ------------------------------------------------------------------ text files


def _of_folder(folder: Path) -> TrackedRun:
    config = {name: number(text.strip()) for name, text in _texts(folder / "params")}
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
    )


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
            return [_of_row(database, *row) for row in database.execute(_RUNS)]
    except sqlite3.Error as error:
        raise ValueError(f"{path.name} is no database of MLflow ({error})") from None


_RUNS = "SELECT run_uuid, name, start_time FROM runs WHERE lifecycle_stage != 'deleted'"
_METRICS = (
    "SELECT key, value, step, is_nan FROM metrics WHERE run_uuid = ? ORDER BY step, timestamp"
)


def _of_row(database: sqlite3.Connection, run_id: Any, name: Any, start: Any) -> TrackedRun:
    params = database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,))
    config = {str(key): number(str(value)) for key, value in params}
    steps: dict[int, dict[str, Any]] = {}
    for key, value, step, is_nan in database.execute(_METRICS, (run_id,)):
        if isinstance(value, int | float) and isinstance(step, int):
            steps.setdefault(step, {})[str(key)] = math.nan if is_nan else _finite(value)
    history = by_step(steps)
    return TrackedRun(
        id=str(run_id),
        name=str(name or ""),
        config=config,
        summary=last_values(history),
        history=history,
        start=start / 1000 if isinstance(start, int | float) else 0.0,
    )


def _finite(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= _LARGEST else float(value)


def number(text: str) -> bool | int | float | str:
    """Return what a parameter that is stored as text was."""
    if text in ("True", "False"):
        return text == "True"
    for parse in (int, float):
        with contextlib.suppress(ValueError):
            return parse(text)
    return text
