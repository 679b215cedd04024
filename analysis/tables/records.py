"""Tables from JSON: lists of records, columns, records by name, and any of them wrapped."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.tables.histories import with_points
from scaling.column_words import meaning
from scaling.columns import COLUMNS
from scaling.errors import TableError

_WRAPPERS = ("runs", "data", "results", "records", "rows", "experiments", "trials", "table")
"""Keys under which files keep their records."""

_NAMES = {c.name.lower() for c in COLUMNS}

_PARTS = ("train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev",
          "holdout", "held_out", "heldout", "fit", "extrapolation")  # fmt: skip
"""Keys, in lower case, of the parts into which runs are split."""

_DEEPEST = 6
"""Levels of wrapping that are opened."""


def table_of(text: str, part: str | None, source: str) -> pd.DataFrame:
    """Return the table of a JSON text, or of one JSON value per line; nested names have dots.

    part: the key of the records, where a file has several.

    Raises json.JSONDecodeError if the text is not JSON, and TableError if it is no table.
    """
    value = _named(_parsed(text, source))
    if part is not None:
        for key in part.split("."):
            if not isinstance(value, dict) or key not in value:
                raise TableError(f"{source}: it has no key {part!r}{_keys(value)}.")
            value = value[key]
    table = _table(value, source, _DEEPEST)
    if table is None:
        raise TableError(
            f"{source} is JSON, but not a table: give a list of objects, one per run{_keys(value)}."
        )
    return flattened(table)


def flattened(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose cells of objects have become columns with dotted names, and whose
    histories have become rows.

    A text such as "{'val_loss': 3.1}" is an object too: tables of W&B's API hold them.
    """
    if not table.columns.is_unique:
        return table
    table = table.assign(**_objects(table))
    nested = [
        at for at in range(table.shape[1])
        if pd.api.types.is_object_dtype(table.iloc[:, at])
        and any(isinstance(v, dict) for v in table.iloc[:, at])
    ]  # fmt: skip
    if nested:
        flat = pd.json_normalize(table.to_dict("records"), sep=".")
        table = flat.set_axis(table.index)
    return with_points(table)


def _objects(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the columns of text in which every cell is an object of JSON or Python."""
    found = {}
    for name in table.columns:
        cells = table[name].dropna()
        if not all(isinstance(v, str) and v.lstrip().startswith("{") for v in cells.head(1)):
            continue
        values = cells.map(_object)
        if len(values) and values.map(lambda value: isinstance(value, dict)).all():
            found[name] = values.reindex(table.index)
    return found


def _object(text: Any) -> Any:
    """Return the value of a text of JSON, or of a dict that Python printed; None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(re.sub(r"(?<=: )(?:nan|-?inf)(?=[,}])", "None", text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _keys(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return ""
    return f"; its keys are {', '.join(map(str, list(value)[:12]))}"


def _parsed(text: str, source: str) -> Any:
    """Return the value of a JSON text; a list of them if there are several, as one per line.

    A last line that is cut short, as of a run that was killed, is left out with a warning.
    """
    decoder, values, at = json.JSONDecoder(), [], _start(text, 0)
    while at < len(text) or not values:
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            if len(values) < 2 or "\n" in text[at:].strip():
                raise
            line = text.count("\n", 0, at) + 1
            warnings.warn(f"{source}: line {line}, the last, is cut short: left out.", stacklevel=6)
            break
        values.append(value)
        at = _start(text, end)
    return values[0] if len(values) == 1 else values


def _start(text: str, at: int) -> int:
    """Return where the next value of a text begins."""
    found = re.compile(r"\S").search(text, at)
    return found.start() if found else len(text)


def _named(value: Any) -> Any:
    """Return a value in which lists of {"key": ..., "value": ...} are objects, as MLflow's are."""
    if isinstance(value, dict):
        return {key: _named(v) for key, v in value.items()}
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        return value
    keys = [v["key"] for v in value if {"key", "value"} <= v.keys() and isinstance(v["key"], str)]
    if value and len(keys) == len(value) == len(set(keys)):
        return {v["key"]: _named(v["value"]) for v in value}
    return [_named(v) for v in value]


def _table(value: Any, source: str, depth: int) -> pd.DataFrame | None:
    if isinstance(value, list):
        return _from_list(value)
    if not isinstance(value, dict) or not value or not depth:
        return None
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return pd.DataFrame(value["data"], columns=value["columns"])
    if (found := _from_columns(value)) is not None:
        return found
    if all(isinstance(v, dict) for v in value.values()):
        return _from_dicts(value, source, depth)
    wrapped = {key: v for key, v in value.items() if _holds_records(v)}
    _check_one_list(wrapped, source)
    preferred = [key for key in _WRAPPERS if key in wrapped]
    if len(wrapped) == 1 or preferred:
        chosen = preferred[0] if preferred else next(iter(wrapped))
        table = _table(wrapped[chosen], source, depth - 1)
        if table is None or chosen in _WRAPPERS or isinstance(wrapped[chosen], dict):
            return table
        return _with_settings(table, {k: v for k, v in value.items() if k != chosen})
    if wrapped and all(key in wrapped and isinstance(v, list) for key, v in value.items()):
        return _from_list([{"run_id": key, **row} for key, rows in wrapped.items() for row in rows])
    if wrapped:
        raise TableError(_several(wrapped, source))
    return _from_list([value])  # one run


def _check_one_list(lists: Mapping[str, Any], source: str) -> None:
    """Raise TableError if several of the lists are tables of runs, not the curve of one run each.

    Their keys are parts of a data set, or two of them hold records of different sizes.
    """
    parts = [key for key in lists if str(key).lower() in _PARTS]
    if len(lists) > 1 and (len(parts) == len(lists) or sum(map(_has_sizes, lists.values())) > 1):
        raise TableError(_several(lists, source))


def _several(lists: Mapping[str, Any], source: str) -> str:
    return (
        f"{source} holds several lists of records, {', '.join(map(str, lists))}: name one, as in "
        f"{' or '.join(repr(f'{source}#{key}') for key in list(lists)[:2])}."
    )


def _has_sizes(value: Any) -> bool:
    """Return whether records hold models of several sizes."""
    rows = value.values() if isinstance(value, dict) else value
    flat = [row for row in rows if isinstance(row, dict)]
    names = dict.fromkeys(str(key) for row in flat for key in row)
    sizes = [name for name in names if (what := meaning(name)) is not None and what.symbol == "N"]
    return any(len({repr(row.get(name)) for row in flat}) > 1 for name in sizes)


def _holds_records(value: Any) -> bool:
    """Return whether a value is records: a list of objects, or objects with the same keys."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(v, dict) for v in value)
    if not isinstance(value, dict) or not value:
        return False
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return True
    inner = list(value.values())
    if len(inner) > 1 and all(isinstance(v, dict) for v in inner) and _alike(inner):
        return True
    if len(inner) == 1 and isinstance(inner[0], dict | list):
        return _holds_records(inner[0])
    return any(_holds_records(value[key]) for key in _WRAPPERS if key in value)


def _with_settings(table: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return the points of a run, {"config": ..., "history": [...]}, with the run's settings."""
    (flat,) = pd.json_normalize(dict(settings), sep=".").to_dict("records")
    single = {k: v for k, v in flat.items() if not isinstance(v, list) and k not in table.columns}
    return table.assign(**single)


def _from_list(rows: Sequence[Any]) -> pd.DataFrame | None:
    if rows and all(isinstance(row, dict) for row in rows):
        if any(isinstance(v, dict) for row in rows for v in row.values()):
            return pd.json_normalize(list(rows), sep=".")
        return pd.DataFrame(list(rows))
    lists = bool(rows) and all(isinstance(row, list) for row in rows)
    if lists and len(rows) > 1 and all(isinstance(name, str) for name in rows[0]):
        return pd.DataFrame(list(rows[1:]), columns=rows[0])
    return None


def _from_columns(value: Mapping[str, Any]) -> pd.DataFrame | None:
    """Return the table of lists of one length, with single values repeated; None if it is none."""
    lists = {key: v for key, v in value.items() if isinstance(v, list)}
    scalars = [v for v in value.values() if not isinstance(v, list | dict)]
    lengths = {len(v) for v in lists.values()}
    flat = all(not isinstance(x, dict | list) for v in lists.values() for x in v)
    named = len(lists) > 1 or (len(lists) == 1 and not scalars)
    if not named or len(lengths) != 1 or not flat or len(lists) + len(scalars) != len(value):
        return None
    return pd.DataFrame(value)


def _from_dicts(value: Mapping[str, dict], source: str, depth: int) -> pd.DataFrame | None:
    """Return the table of objects by name: records, columns by row, or one wrapped value."""
    inner = list(value.values())
    if all(map(_holds_records, inner)):
        _check_one_list(value, source)
    if all(_is_flat(v) for v in inner) and _are_columns(value):
        columns = pd.DataFrame({key: pd.Series(v) for key, v in value.items()})
        return columns.reset_index(drop=True)
    if len(inner) == 1 or not _alike(inner):
        wrapped = [key for key, v in value.items() if _holds_records(v)]
        if len(wrapped) == 1:
            return _table(value[wrapped[0]], source, depth - 1)
        if len(inner) > 1:
            return _from_list([value])  # one run: {"config": ..., "summary": ...}
    named = "run_id" if not any("run_id" in v for v in inner) else "key"
    return _from_list([{named: key, **v} for key, v in value.items()])


def _is_flat(value: Mapping[str, Any]) -> bool:
    return not any(isinstance(v, dict | list) for v in value.values())


def _are_columns(value: Mapping[str, dict]) -> bool:
    """Return whether the outer keys are the columns, as pandas writes a table."""
    inner = {key for v in value.values() for key in v}
    if inner and inner == {str(n) for n in range(len(inner))}:
        return True
    return sum(map(_is_name, value)) > sum(map(_is_name, inner))


def _is_name(key: Any) -> bool:
    """Return whether a key is the name of a column that is known."""
    return str(key).lower() in _NAMES or meaning(str(key)) is not None


def _alike(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether objects share at least half of their keys."""
    keys = [set(row) for row in rows]
    shared, every = set.intersection(*keys), set.union(*keys)
    return 2 * len(shared) >= len(every) > 0
