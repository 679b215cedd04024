"""A run's result.json: its content, and the checks of a file from an untrusted source."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaling import jsonable
from scaling.columns import (
    COLUMNS,
    CONFIG_DEFAULTS,
    CURVE_COLUMNS,
    STATUSES,
    TEST_COLUMNS,
    config_row,
    is_command,
)
from scaling.command_run import CommandRun, Run
from scaling.config import RECIPE, RunConfig, fields_of, flatten
from scaling.errors import ConfigError
from scaling.optim_config import RULES
from scaling.run_progress import RUN_ID
from scaling.size import size_columns
from scaling.training.schedule import optimizer_columns
from sweeps.runner.command_row import command_row

FORMAT = 1
"""Version of result.json."""

Row = Mapping[str, Any]
"""{column: value} of one run."""

Point = dict[str, Any]
"""{column: value} of one evaluation or test."""


_SIZES = ("N", "D", "C", "B", "S")


_IN_WORDS = {
    str: "text",
    int: "a whole number below 2^63",
    float: "a number",
    bool: "true or false",
    list: "a list of numbers",
}


def _config_types() -> dict[str, tuple[type, ...]]:
    """Return {column: types} of the config fields; a learning rate may also be a rule."""
    found = {}
    for key, (hint, _) in fields_of().items():
        options = [t for t in typing.get_args(hint) if t is not type(None)] or [hint]
        plain = tuple(t for t in options if t in (int, float, bool, str))
        found[key.rpartition(".")[2]] = plain or (str,)
    return found


_OF_DTYPE = {"str": str, "int": int, "float": float, "bool": bool, "list": list}
_ROW: dict[str, tuple[type, ...]] = {c.name: (_OF_DTYPE[c.dtype],) for c in COLUMNS}
_ROW |= {name: types for name, types in _config_types().items() if name in _ROW}
_CURVE = {c.name: (_OF_DTYPE[c.dtype],) for c in CURVE_COLUMNS}
_TEST = {c.name: (_OF_DTYPE[c.dtype],) for c in TEST_COLUMNS}

_EMPTY: dict[str, Any] = {c.name: "" if c.dtype == "str" else None for c in COLUMNS}
_EMPTY |= CONFIG_DEFAULTS

EMPTY_OF_COMMAND: dict[str, Any] = {"run_id": "", "status": "", "error": "", "tag": ""}
EMPTY_OF_COMMAND |= dict.fromkeys((*_SIZES, "L"))
"""What the row of a run of a command has at least; fields of RunConfig mean nothing for it."""


class NewerFormat(ValueError):
    """A file was written by a newer version of this package."""


@dataclass(frozen=True)
class Finished:
    """A finished run as stored."""

    row: Row
    """Keys of scaling.columns.COLUMNS."""
    curve: list[Point]
    """Keys of scaling.columns.CURVE_COLUMNS."""
    tests: list[Point] = field(default_factory=list)
    """Keys of scaling.columns.TEST_COLUMNS."""


def is_run_id(name: object) -> bool:
    """Return whether `name` can be a run id, and so a folder name: a single plain word."""
    if not isinstance(name, str):
        return False
    if len(name) <= 128 and name.isalnum() and name.isascii():  # every id of this package
        return True
    return RUN_ID.fullmatch(name) is not None


def dump(row: Row, curve: Iterable[Point], tests: Iterable[Point]) -> bytes:
    """Return a result as the bytes of result.json; nan and infinity become null."""
    values = {"format": FORMAT, "recipe": RECIPE, "row": dict(row)}
    values |= {"curve": list(curve), "tests": list(tests)}
    return to_json(values)


def to_json(values: Any, indent: int | None = None) -> bytes:
    """Return plain JSON; values that JSON cannot represent become null or text."""
    return json.dumps(jsonable.finite(values), allow_nan=False, indent=indent, default=str).encode()


def from_json(data: bytes) -> Any:
    """Return the value of JSON text. Raises ValueError, also for text that is nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse(data: bytes, run_id: str) -> Finished:
    """Return the result in the bytes of a result.json.

    Raises ValueError with the first fault (a column, its value and what it must be), and
    NewerFormat for a file written by a newer version.
    """
    values = from_json(data)
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    format = values.get("format")
    if isinstance(format, bool) or not isinstance(format, int):
        raise ValueError(f"format={_short(format)} is not a whole number")
    if format > FORMAT:
        raise NewerFormat(f"format {format}, this one reads up to {FORMAT}")
    row = values.get("row")
    if not isinstance(row, dict):
        raise ValueError("it lacks a row")
    row = (EMPTY_OF_COMMAND if is_command(row) else _EMPTY) | _checked(row, _ROW)
    if row["run_id"] != run_id:
        raise ValueError(f"it belongs to run {_short(row['run_id'])}")
    if row["status"] not in STATUSES:
        raise ValueError(f"status={_short(row['status'])} is none of {', '.join(STATUSES)}")
    if fault := fault_of(row):
        raise ValueError(fault)
    return Finished(
        row,
        _points(values.get("curve"), _CURVE, "curve", run_id, needed=("S", "D")),
        _points(values.get("tests", []), _TEST, "tests", run_id, needed=("corpus",)),
    )


def fault_of(row: Row) -> str:
    """Return why the loss of an 'ok' row cannot count, judging by the columns it has; '' if it
    can."""
    for name in (*_SIZES, "L") if row["status"] == "ok" else ():
        if name not in row:
            continue
        value = row[name]
        if value is None and name in ("B", "S") and is_command(row):
            continue  # a command need not say what a step is
        # The loss on a repetitive text may round to zero.
        good = (
            value is not None
            and math.isfinite(value)
            and (value > 0 or (name == "L" and value == 0))
        )
        if not good:
            return f"{name}={_short(value)} of an 'ok' run must be positive"
    return ""


def _checked(values: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> Point:
    """Return the values, each with a type that its column allows; nan and infinity become None.

    Columns from other versions are kept unchanged.
    """
    found: Point = {}
    for name, value in values.items():
        allowed = types.get(name)
        if value is None or allowed is None:
            found[name] = value
            continue
        kind = type(value)
        if kind is float and float in allowed:
            found[name] = value if math.isfinite(value) else None
        elif kind is str and str in allowed:
            found[name] = value if value.isascii() else _encodable(value)
        elif kind is int and (int in allowed or float in allowed) and -(2**63) <= value < 2**63:
            found[name] = value
        elif kind is float and int in allowed and value % 1 == 0 and abs(value) < 2**63:
            found[name] = int(value)
        elif (kind is bool and bool in allowed) or (
            kind is list and list in allowed and all(map(_is_number, value))
        ):
            found[name] = value
        else:
            what = " or ".join(_IN_WORDS[option] for option in allowed)
            raise ValueError(f"{name}={_short(value)} must be {what}")
    return found


def _points(
    points: Any,
    types: Mapping[str, tuple[type, ...]],
    what: str,
    run_id: str,
    needed: tuple[str, ...],
) -> list[Point]:
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ValueError(f"its {what} is not a list of points")
    found = [_checked(point, types) for point in points]
    for number, point in enumerate(found):
        if point.get("run_id") != run_id:
            raise ValueError(f"point {number} of its {what} belongs to another run")
        if absent := [name for name in needed if point.get(name) is None]:
            raise ValueError(f"point {number} of its {what} has no {absent[0]}")
    return found


def _encodable(value: str) -> str:
    """Escape lone surrogates, which come from names that are not UTF-8.

    JSON can represent them, but a file of UTF-8 text cannot.
    """
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}..."


def failed_row(run: Run, error: str) -> Row:
    """Return the row of a run without a loss: its config or keys, its sizes and what happened."""
    failure = {"run_id": run.run_id, "status": "failed", "error": error}
    if isinstance(run, CommandRun):
        return command_row(run) | failure
    return _EMPTY | config_row(flatten(run)) | _of_rules(run) | size_columns(run) | failure


def _of_rules(run: RunConfig) -> dict[str, Any]:
    """Return the columns of a failed run that rules give; empty ones if a rule is the failure."""
    try:
        return optimizer_columns(run)
    except ConfigError:
        return dict.fromkeys(RULES)
