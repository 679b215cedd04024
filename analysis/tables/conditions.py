"""Select rows by a condition, such as "D > 1e9"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from analysis.tables.numbers import parsed
from analysis.tables.several import FILE
from scaling.columns import COLUMNS
from scaling.errors import TableError

Rule = tuple[str, tuple[tuple[str, ...], str, Callable[[pd.DataFrame], pd.Series]]]
"""A column, and the columns, formula and function that give its value."""
_NUMERIC = {column.name for column in COLUMNS if column.dtype in ("int", "float")}
_LABELS = {"seed", "data_seed"}
"""Columns of numbers that other tables may fill with words."""


def matching(
    table: pd.DataFrame,
    where: str,
    *,
    given: pd.DataFrame | None = None,
    rules: Iterable[Rule] = (),
) -> pd.DataFrame:
    """Return the rows that satisfy a condition, such as "D > 1e9" or "D == D.max()".

    It sees the columns of the table, those of `given` (the table before its columns were renamed,
    with the same index), and those that `rules` derive. Text that is a number is one. Finished
    rows are judged among themselves, so that "D == D.max()" is about them, and so are the others.

    Raises TableError if it is not a condition on the rows, or if no finished row is left.
    """
    # In a locale that is not UTF-8, Python passes the bytes of other characters as surrogates.
    where = where.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    view = _view(table, where, given, rules)
    own = _columns(table, given)
    finished = pd.Series(True, table.index)
    if "status" in table.columns and "status" not in _names(where):
        finished = table["status"].eq("ok")
    kept = pd.Series(False, table.index)
    for part in (finished, ~finished):
        if part.any():
            kept[part] = _satisfied(view[part], where, own)
    if not kept[finished].any():
        count = int(finished.sum())
        raise TableError(f"--where {where!r} leaves an empty table: none of {count} rows match.")
    return table[kept]


def quantities_beside(table: pd.DataFrame, wanted: Iterable[str]) -> None:
    """Convert the other columns of quantities, which no law needs, to numbers, in place: what is
    not a number is missing."""
    for name in (_NUMERIC - _LABELS - set(wanted)) & set(table.columns):
        if not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = parsed(table[name])


def _columns(table: pd.DataFrame, given: pd.DataFrame | None) -> str:
    """Return the columns as the file names them, and then those that have other names here."""
    own = [str(name) for name in (table if given is None else given).columns if name != FILE]
    named = [str(name) for name in table.columns if str(name) not in own and name != FILE]
    return ", ".join(own) + (f"; named here: {', '.join(named)}" if named else "")


def _satisfied(view: pd.DataFrame, where: str, columns: str) -> np.ndarray:
    try:
        found = view.eval(where)
        if not isinstance(found, pd.Series) or not pd.api.types.is_bool_dtype(found):
            raise TypeError("it is not true or false for each row")
    except Exception as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise TableError(
            f"--where {where!r} is not a condition on the rows ({why}). Compare columns, as in "
            f"'D > 1e9' or 'D == D.max()'; the columns are {columns}."
        ) from None
    return found.fillna(False).to_numpy(bool)


def _view(
    table: pd.DataFrame, where: str, given: pd.DataFrame | None, rules: Iterable[Rule]
) -> pd.DataFrame:
    """Return the columns that a condition may name, with numbers where text is a number."""
    if given is not None:
        more = [name for name in given.columns if name not in table.columns]
        table = pd.concat([table, given.loc[table.index, more]], axis=1)
    names = _names(where)
    rules = list(rules)
    sources = {name for target, (inputs, *_) in rules if target in names for name in inputs}
    second = {name for target, (inputs, *_) in rules if target in sources for name in inputs}
    view = table.copy()
    for name in names | sources | second:
        if name in view.columns and not pd.api.types.is_numeric_dtype(view[name]):
            view[name] = _numbers(view[name], name)
    for _ in range(2):
        for target, (inputs, _formula, value) in rules:
            derivable = target not in view.columns and all(n in view.columns for n in inputs)
            if derivable and target in names | sources:
                view[target] = value(view)
    return view


def _names(where: str) -> set[str]:
    return {quoted or plain for quoted, plain in re.findall(r"`([^`]+)`|(\w+)", where)}


def _numbers(column: pd.Series, name: str) -> pd.Series:
    """Return a column of text as numbers if it holds mostly numbers, and as it is otherwise."""
    if isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_datetime64_any_dtype(
        column
    ):
        return column
    values = parsed(column)
    mostly = name in _NUMERIC or values.notna().sum() * 2 > column.notna().sum()
    return values if mostly and values.notna().any() else column
