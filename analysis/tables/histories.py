"""Histories of runs that a cell of a table holds, as lists of points or of numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from scaling.column_words import meaning

_IDS = ("run_id", "id", "name", "run", "run_name", "key")
"""Columns that name the run of a history; the first that tells the runs apart counts."""


def with_points(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per point of runs whose loss is in their histories, with the run's settings.

    A history is a list of objects, {"history": [{"step": 1, "loss": 9.0}, ...]}, or a list of
    numbers for each quantity, {"step": [1, ...], "loss": [9.0, ...]}. A table with a loss for each
    run is returned as it is.
    """
    if not len(table) or not table.columns.is_unique:
        return table
    lists = {name: table[name].map(_as_list) for name in table if _is_list(table[name].iloc[0])}
    names = [name for name in table.columns if name not in lists]
    if not lists or _has_loss(names):
        return table
    numbers = {name: column for name, column in lists.items() if _holds(column, _is_number)}
    points = {name: column for name, column in lists.items() if _holds(column, _is_object)}
    points = {n: c for n, c in points.items() if _has_loss(key for v in c for p in v for key in p)}
    if _has_loss(numbers):
        loss = next(name for name in numbers if _has_loss([name]))
        alike = [n for n in numbers if numbers[n].map(len).equals(numbers[loss].map(len))]
        named = _with_ids(table, names).assign(**{name: numbers[name] for name in alike})
        return named.explode(alike, ignore_index=True).infer_objects()
    if len(points) != 1:
        return table
    ((name, column),) = points.items()
    long = _with_ids(table, names)[["run_id", *names]].assign(**{name: column})
    long = long.loc[:, ~long.columns.duplicated()].explode(name, ignore_index=True)
    flat = pd.json_normalize(list(long[name]), sep=".")
    settings = long.drop(columns=[c for c in long if c == name or c in flat.columns])
    return pd.concat([settings, flat], axis=1)


def _with_ids(table: pd.DataFrame, names: list[Any]) -> pd.DataFrame:
    """Return the table with a run_id for each of its rows."""
    ids = next((n for n in _IDS if n in names and table[n].map(str).is_unique), None)
    numbers = pd.Series(np.arange(len(table)), table.index).map(str)
    return table.assign(run_id=numbers if ids is None else table[ids].map(str))


def _has_loss(names: Iterable[Any]) -> bool:
    known = (meaning(str(name)) for name in dict.fromkeys(names))
    return any(what is not None and what.symbol == "L" for what in known)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | np.ndarray)


def _as_list(value: Any) -> list:
    return list(value) if _is_list(value) else []


def _holds(column: pd.Series, kind: Any) -> bool:
    """Return whether every cell is a list of one kind that is not empty."""
    return all(len(value) and all(map(kind, value)) for value in column)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float | np.number) and value is not True)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)
