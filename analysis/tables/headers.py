"""Headers of two rows, of which the first names groups of columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from scaling.column_words import meaning
from scaling.columns import COLUMNS

_NAMES = {column.name for column in COLUMNS}


def below_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose header only names groups of columns, with its first row as the header.

    It is one if its cells are words and more of them are names that are known than in the header,
    as below merged cells of a workbook, or where pandas wrote a header of several levels. Names
    that occur twice are joined to their group, as in 'val loss'.
    """
    if len(table) < 2:
        return table
    first = [str(v).strip() if isinstance(v, str) else "" for v in table.iloc[0]]
    header = ["" if str(c).startswith("Unnamed:") else str(c).strip() for c in table.columns]
    words = sum(map(bool, first)) == int(table.iloc[0].notna().sum())
    if not words or _known(first) <= _known(header):
        return table
    groups = pd.Series(header).replace("", None).ffill().fillna("").tolist()
    counts = Counter(first)
    names = [
        own if counts[own] == 1 else " ".join(filter(None, (group, own))) or str(column)
        for own, group, column in zip(first, groups, table.columns, strict=True)
    ]
    body = table.iloc[1:].reset_index(drop=True)
    columns = {at: _numbers(body.iloc[:, at]) for at in range(body.shape[1])}
    return pd.DataFrame(columns).set_axis(names, axis=1)


def _known(names: Iterable[str]) -> int:
    return sum(name in _NAMES or meaning(name) is not None for name in names if name)


def _numbers(column: pd.Series) -> pd.Series:
    """Return a column, as numbers if all of its cells are."""
    try:
        numbers: Any = pd.to_numeric(column)
    except (ValueError, TypeError):
        return column
    return numbers
