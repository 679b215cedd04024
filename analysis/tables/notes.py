"""Rows of a file that are no data: notes below the table, units, totals, the header once more."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.tables.numbers import parsed
from analysis.tables.several import FILE
from analysis.tables.written import is_missing
from scaling.column_words import expression, meaning
from scaling.errors import TableError
from scaling.mapping import option

_SUMMARIES = {
    "total", "totals", "sum", "mean", "means", "average", "avg", "median", "std", "stdev", "min",
    "max", "count", "summe", "gesamt", "mittelwert", "mittel", "moyenne", "somme", "media",
}  # fmt: skip
"""Words that begin a row which summarises those above."""
_NOTES, _TOTALS = "rows of text (notes, units or a header)", "rows of totals or means"


def without_notes(
    table: pd.DataFrame, mapped: Iterable[str], where: str
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows that are data, and the number of the others by reason.

    A row is no data if it has text or nothing where the other rows have numbers. At most a third
    of the rows are taken as such; otherwise the table is returned as it is.

    mapped: the columns and expressions that the user names.

    Raises TableError if the first row holds units that change the numbers, such as [M].
    """
    columns = [c for c in table.columns if c != FILE]
    texts = [c for c in columns if not _is_number(table[c])]
    if not texts or not table.columns.is_unique:
        return table, {}
    numbers = {c: _numbers(table[c], c in texts) for c in columns}
    numeric = [c for c in columns if _mostly(numbers[c], table[c])]
    if not numeric:
        return table, {}
    has_number = np.logical_or.reduce([numbers[c].notna().to_numpy() for c in numeric])
    words = [_words(table[c], numbers[c]) for c in numeric if c in texts]
    has_words = np.logical_or.reduce(words) if words else np.zeros(len(table), bool)
    single = table[columns].notna().sum(axis=1).to_numpy() <= 1
    notes = ~has_number & (has_words | single)
    totals = _totals(table, columns, numeric) & ~notes
    if 3 * (notes | totals).sum() > len(table) or not (notes | totals).any():
        return table, {}
    first = table[notes].head(1)
    if notes[0]:
        _check_units(first, numeric, list(mapped), where)
    counts = {_NOTES: int(notes.sum()), _TOTALS: int(totals.sum())}
    return table[~(notes | totals)].copy(), {reason: n for reason, n in counts.items() if n}


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _numbers(column: pd.Series, text: bool) -> pd.Series:
    return parsed(column) if text else column


def _mostly(numbers: pd.Series, column: pd.Series) -> bool:
    """Return whether most of what a column holds is numbers."""
    return bool(numbers.notna().sum() > 0.6 * column.notna().sum())


def _words(column: pd.Series, numbers: pd.Series) -> np.ndarray:
    """Return which cells hold text that is neither a number nor a word for a missing one."""
    words = (column.notna() & numbers.isna()).to_numpy(bool, copy=True)
    words[words] = [not (isinstance(v, str) and is_missing(v)) for v in column[words]]
    return words


def _totals(table: pd.DataFrame, columns: list, numeric: list) -> np.ndarray:
    """Return which of the last rows begin with a word such as total."""
    found = np.zeros(len(table), bool)
    for at in range(len(table) - 1, max(-1, len(table) - 5), -1):
        row = table.iloc[at]
        cells = [row[c] for c in columns if c == columns[0] or c in numeric]
        begins = [str(v).strip(" :*").casefold() for v in cells if isinstance(v, str)]
        if not set(begins) & _SUMMARIES:
            break
        found[at] = True
    return found


def _check_units(first: pd.DataFrame, numeric: list, mapped: list[str], where: str) -> None:
    """Raise TableError if a row holds units in which the numbers are not those of the symbols."""
    ways = {}
    for name in numeric:
        unit = first[name].iloc[0]
        plain, what = meaning(str(name)), meaning(f"{name} [{str(unit).strip('[]() ')}]")
        if plain is None or what is None or not isinstance(unit, str):
            continue
        changed = (plain.scale, plain.function) != (what.scale, what.function)
        if changed and not any(name in each and name != each for each in mapped):
            ways[expression(str(name), what)] = what.symbol
    if ways:
        units = ", ".join(f"{name}: {first[name].iloc[0]}" for name in numeric)
        raise TableError(
            f"{where}: the first row below the header holds units ({units}), not numbers. Say "
            f"{option(ways)}, and the row is left out."
        )
