"""Numbers as people write them: 1,400,000, 70M, 1.4T."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.tables.rows import used_rows
from scaling.errors import TableError

_NUMBER = re.compile(
    r"\s*([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[+-]?\d+)?)\s*([kmbgt]?)\s*", re.IGNORECASE
)
_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def to_numbers(table: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Convert columns of text to numbers, in place; raise TableError for a row that is not a
    number."""
    for name in names:
        if name not in table.columns or pd.api.types.is_numeric_dtype(table[name]):
            continue
        values = parsed(table[name])
        bad = used_rows(
            table.assign(**{name: table[name].where(values.isna() & table[name].notna())})
        )
        bad = bad[name].dropna()
        if len(bad):
            raise TableError(
                f"{where}: column {name!r} must be numbers: {len(bad)} of {len(table)} rows "
                f"{'is' if len(bad) == 1 else 'are'} not, first at row {bad.index[0]} "
                f"({name}={bad.iloc[0]!r}). Write numbers, such as 7e7 or 70M, or drop these rows."
            )
        table[name] = values.astype(float)


def parsed(column: pd.Series) -> pd.Series:
    """Convert text to numbers, including 1,400,000, 70M and 1.4T; nan if it is not a number."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    for row in np.flatnonzero(values.isna() & column.notna()):
        found = _NUMBER.fullmatch(str(column.iloc[row]))
        number = pd.to_numeric(found[1].replace(",", ""), errors="coerce") if found else np.nan
        values.iloc[row] = number * _SUFFIXES[found[2].lower()] if found else np.nan
    return values
