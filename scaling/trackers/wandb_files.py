"""Offline runs of Weights & Biases: .wandb files, which are logs of Protocol Buffers records.

The log has the format of LevelDB's: blocks of 32 KiB, whose records have a header of 7 bytes (CRC,
length, type) and are split at the ends of blocks.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaling import files
from scaling.trackers.tracked_run import TrackedRun, with_unreadable
from scaling.trackers.wire import double, fields, part, parts, signed, text

_MAGIC = b":W&B"
_HEADER, _BLOCK, _RECORD = 7, 1 << 15, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_CRC = {kind: zlib.crc32(bytes([kind])) for kind in (_FULL, _FIRST, _MIDDLE, _LAST)}
"""The checksum of a part is that of its type and its payload."""

_HISTORY, _SUMMARY, _CONFIG, _RUN, _EXIT = 2, 3, 5, 17, 18
"""Fields of a Record."""
_LABELS = {2: "entity", 3: "project", 6: "group", 7: "job_type", 12: "sweep"}
"""Fields of a RunRecord that say what the run is filed under."""

_STEPS = ("step", "global_step", "trainer/global_step", "train/global_step", "iter", "iteration")
"""Names under which people log their own count of steps; W&B's own counts calls of log()."""


def is_run_file(path: Path) -> bool:
    """Return whether a file is an offline run."""
    return path.suffix == ".wandb"


def read(folder: Path, found: list[Path]) -> list[TrackedRun]:
    """Return the runs in some files. Raises ValueError if none of them can be read."""
    runs: list[TrackedRun] = []
    errors: dict[str, str] = {}
    for path in found:
        try:
            runs.append(_run(path))
        except (OSError, ValueError) as error:
            errors[_id(path)] = f"{path.name}: {error}"
    return sorted(with_unreadable(runs, errors), key=lambda run: (run.start, run.id))


def _id(path: Path) -> str:
    return path.stem.removeprefix("run-")


def _run(path: Path) -> TrackedRun:
    data = files.read_bytes(path)
    if not data.startswith(_MAGIC):
        raise ValueError("it is not a file of W&B")
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    about = {"id": _id(path), "name": "", "state": "unfinished"}
    labels: dict[str, str] = {}
    start, damaged = 0.0, 0
    for record in _records(data):
        try:
            if record is None:
                raise ValueError
            for number, value in fields(record):
                if not isinstance(value, bytes):
                    continue
                if number == _HISTORY:
                    history.append(_row(value))
                elif number == _SUMMARY:
                    summary |= _items(value, 1)
                elif number == _CONFIG:
                    config |= _items(value, 1)
                elif number == _EXIT:
                    about["state"] = _end(value)
                elif number == _RUN:
                    about["id"] = text(part(value, 1)) or about["id"]
                    about["name"] = text(part(value, 8)) or about["name"]
                    start = _time(part(value, 17)) or start
                    labels |= _labels(value)
                    for given in parts(value, 4):
                        config |= _items(given, 1)
                    for given in parts(value, 5):
                        summary |= _items(given, 1)
        except ValueError:
            damaged += 1  # a damaged record loses only itself
    if damaged:
        labels["problem"] = f"{damaged} damaged record{'s' if damaged > 1 else ''} left out"
    config, summary = _without_own(config), _without_own(summary)
    return TrackedRun(
        id=about["id"], name=about["name"], config=config, summary=summary, history=history,
        start=start, state=about["state"], labels=labels,
    )  # fmt: skip


def _records(data: bytes) -> Iterator[bytes | None]:
    """Yield the complete records of a log, None for a damaged part; the last one may still be
    written."""
    at, whole = _HEADER, b""
    while at + _RECORD <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _RECORD:
            at += left
            continue
        size = int.from_bytes(data[at + 4 : at + 6], "little")
        kind = data[at + 6]
        payload = data[at + _RECORD : at + _RECORD + size]
        if kind == 0 and size == 0:  # padding
            at += left
            continue
        if size > left - _RECORD:  # a damaged header: go on with the next block
            at += left
            yield None
            continue
        if len(payload) < size:
            return
        crc = int.from_bytes(data[at : at + 4], "little")
        at += _RECORD + size
        if kind not in _CRC or zlib.crc32(payload, _CRC[kind]) != crc:
            whole = b""
            yield None
            continue
        if kind == _FULL:
            yield payload
        elif kind == _FIRST:
            whole = payload
        elif kind in (_MIDDLE, _LAST):
            whole += payload
            if kind == _LAST:
                yield whole
                whole = b""


def _row(record: bytes) -> dict[str, Any]:
    """Return one entry of a history, with its step as 'step'."""
    row = _items(record, 1)
    step = part(record, 2)
    for number, value in fields(step or b""):
        if number == 1:
            row.setdefault("_step", signed(value))
    return with_step(row, row.pop("_step", None))


def with_step(row: dict[str, Any], counted: object) -> dict[str, Any]:
    """Return an entry of a history with its step: the one that people log, or W&B's own count."""
    own = next((row[name] for name in _STEPS if isinstance(row.get(name), int | float)), counted)
    return {"step": own} | row if isinstance(own, int | float) else row


def _items(record: bytes, number: int) -> dict[str, Any]:
    """Return {key: value} of the items in a field; keys of inner objects are joined by '.'."""
    found: dict[str, Any] = {}
    for item in parts(record, number):
        key, nested, value = "", [], None
        for field, raw in fields(item):
            if field == 1 and isinstance(raw, bytes):
                key = text(raw)
            elif field == 2 and isinstance(raw, bytes):
                nested.append(text(raw))
            elif (known := _value(field, raw)) is not None:
                value = known
        name = key or ".".join(nested)
        if name:
            found |= _flat(name, value)
    return found


def _without_own(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without those that W&B keeps for itself."""
    return {name: value for name, value in values.items() if name.split(".")[0] != "_wandb"}


def _value(field: int, raw: int | bytes) -> Any:
    """Return the value of an item: JSON, or a typed value of newer versions."""
    if field == 4:
        return bool(raw)
    if field == 5:
        return signed(raw)
    if field == 6:
        return double(raw)
    if field == 7 and isinstance(raw, bytes):
        return text(raw)
    if field in (8, 16) and isinstance(raw, bytes):
        written = text(raw)
        try:
            value = json.loads(written) if written[:1] not in _DIGITS else _number(written)
        except (ValueError, RecursionError):
            return None
        return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
    return None


_DIGITS = frozenset("-0123456789")


def _number(written: str) -> Any:
    """Return a number as JSON writes it; faster than its parser."""
    try:
        return int(written)
    except ValueError:
        return float(written)


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    if "_type" in value:  # a histogram, an image, an artifact
        return {}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(f"{name}.{key}", inner)
    return found


def _end(record: bytes) -> str:
    """Return the state that W&B shows for the exit code of a run."""
    code = next((signed(v) for n, v in fields(record) if n == 1), 0)
    return "finished" if code == 0 else "failed"


def _labels(record: bytes) -> dict[str, str]:
    found = {
        _LABELS[n]: text(v) for n, v in fields(record) if n in _LABELS and isinstance(v, bytes)
    }
    return {name: value for name, value in found.items() if value}


def _time(stamp: bytes | None) -> float:
    """Return a Timestamp in seconds."""
    return float(next((signed(v) for n, v in fields(stamp or b"") if n == 1), 0))
