"""Rename the columns of a table, and compute those that an expression gives."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from analysis.tables.numbers import to_numbers
from scaling.errors import TableError
from scaling.table import missing_column


def rename(table: pd.DataFrame, names: Mapping[str, str], where: str) -> pd.DataFrame:
    """Rename columns and evaluate expressions as given by `map`."""
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise TableError(
            f"{where}: two columns are called {twice[0]!r}; which one is meant? Rename or remove "
            "one."
        )
    made = {}
    for old, new in names.items():
        if old not in table.columns:
            made[old] = _evaluated(table, old, where)
        rivals = [name for name in names if names[name] == new]
        if len(rivals) > 1:
            raise TableError(
                f"{where}: map gives {len(rivals)} columns the name {new!r}: "
                f"{', '.join(rivals)}. Keep one of them."
            )
        if new in table.columns and new not in names:
            raise TableError(
                f"{where}: map={{{old!r}: {new!r}}} would hide the column {new!r} that is there "
                f"already; rename that one too, say map={{{new!r}: '{new}_old'}}."
            )
    return table.assign(**made).rename(columns=dict(names))


def _evaluated(table: pd.DataFrame, expression: str, where: str) -> pd.Series:
    """Evaluate an expression of columns, such as 1e6 * params_M."""
    mentioned = [quoted or plain for quoted, plain in re.findall(r"`([^`]+)`|(\w+)", expression)]
    words = [word for word in table.columns if str(word) in mentioned]
    if expression.isidentifier() or not words:
        raise TableError(f"{where}: {missing_column(expression, table.columns)} (named in map)")
    numbers = table.copy()
    to_numbers(numbers, words, where)
    try:
        return pd.Series(numbers.eval(expression), table.index, dtype=float)
    except Exception as error:
        raise TableError(
            f"{where}: map: {expression!r} is neither a column nor an expression of columns "
            f"({str(error).partition(chr(10))[0]}). Write names that are not plain words in "
            "`backticks`."
        ) from None
