"""Event files of TensorBoard: scalars, and the hyperparameters of its HParams plugin.

A file is a sequence of records (length, CRC, data, CRC) with a Protocol Buffers Event each.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaling import files
from scaling.trackers.tracked_run import TrackedRun, by_step, last_values, plain_value
from scaling.trackers.wire import double, fields, part, parts, signed, single, text

_LENGTH, _CRC = 8, 4
_LONGEST = 1 << 28
"""Bytes of a record; a larger length is damage."""

_OF_FLOATS = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}
"""{dtype of a tensor: format of one number}."""


def is_event_file(path: Path) -> bool:
    """Return whether a file holds events of TensorBoard."""
    return ".tfevents." in path.name or path.name.endswith(".tfevents")


def read(folder: Path, found: list[Path]) -> list[TrackedRun]:
    """Return one run per folder that holds some of the files; later files count where they
    repeat steps."""
    folders: dict[Path, list[Path]] = {}
    for path in found:
        folders.setdefault(path.parent, []).append(path)
    runs = [_run(folder, each, paths) for each, paths in folders.items()]
    return sorted(runs, key=lambda run: (run.start, run.id))


def _run(folder: Path, own: Path, paths: list[Path]) -> TrackedRun:
    steps: dict[int, dict[str, Any]] = {}
    config: dict[str, Any] = _of_lightning(own / "hparams.yaml")
    start = 0.0
    for path in sorted(paths):
        for record in _records(files.read_bytes(path)):
            try:
                time = _add(record, steps, config)
            except ValueError:
                continue  # a damaged record loses only itself
            start = min(start or time, time)
    name = "" if own == folder else str(own.relative_to(folder))
    history = by_step(steps)
    return TrackedRun(
        id=name or own.name, name=name, config=config, summary=last_values(history),
        history=history, start=start,
    )  # fmt: skip


def _of_lightning(path: Path) -> dict[str, Any]:
    """Return the plain settings in the hparams.yaml that Lightning writes beside its events."""
    try:
        text = files.read_bytes(path).decode("utf-8", "replace") if path.is_file() else ""
    except OSError:
        return {}
    return {name: plain_value(value.strip("'\"")) for name, value in _SETTING.findall(text)}


_SETTING = re.compile(r"^([\w./-]+): +([^\s!&*{\[|>][^\n]*?) *$", re.MULTILINE)


def _records(data: bytes) -> Iterator[bytes]:
    """Yield the complete records of a file; the last one may still be written."""
    at = 0
    while at + _LENGTH + _CRC <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        at += _LENGTH + _CRC
        if size > _LONGEST or at + size > len(data):
            return
        yield data[at : at + size]
        at += size + _CRC


def _add(record: bytes, steps: dict[int, dict[str, Any]], config: dict[str, Any]) -> float:
    """Add the scalars of an event to its step, and return its time."""
    step, time, summary = 0, 0.0, b""
    for number, value in fields(record):
        if number == 1:
            time = double(value)
        elif number == 2:
            step = signed(value)
        elif number == 5 and isinstance(value, bytes):
            summary = value
    for each in parts(summary, 1):
        tag, scalar = text(part(each, 1)), _scalar(each)
        if tag.startswith("_hparams_/"):
            config |= _hyperparameters(each)
        elif tag and scalar is not None:
            steps.setdefault(step, {})[tag] = scalar
    return time


def _scalar(value: bytes) -> float | None:
    """Return the number of a summary's value: a simple one, or a tensor with one element."""
    for number, raw in fields(value):
        if number == 2:
            return single(raw)
        if number == 8 and isinstance(raw, bytes):
            return _of_tensor(raw)
    return None


def _of_tensor(tensor: bytes) -> float | None:
    dtype, content = 0, b""
    for number, raw in fields(tensor):
        if number == 1:
            dtype = signed(raw)
        elif number in (4, 5, 6) and isinstance(raw, bytes):
            content = raw
    format = _OF_FLOATS.get(dtype)
    if format is None or len(content) != struct.calcsize(format):
        return None
    return single(content) if format == "<f" else float(struct.unpack(format, content)[0])


def _hyperparameters(value: bytes) -> dict[str, Any]:
    """Return the hyperparameters in the metadata of a summary's value."""
    plugin = part(part(value, 9) or b"", 1) or b""
    session = part(part(plugin, 2) or b"", 3) or b""
    found: dict[str, Any] = {}
    for entry in parts(session, 1):
        name = text(part(entry, 1))
        for number, raw in fields(part(entry, 2) or b""):
            if number == 2:
                found[name] = double(raw)
            elif number == 3 and isinstance(raw, bytes):
                found[name] = text(raw)
            elif number == 4:
                found[name] = bool(raw)
    return found
