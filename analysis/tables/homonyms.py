"""Columns that are called like a symbol but hold something else, such as D for a width."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.tables.conversions import conversions, numbers_in
from scaling.column_words import meaning
from scaling.errors import TableError
from scaling.mapping import option

_POSSIBLE = {"N": (1e3, 1e14), "D": (1e5, 1e15), "C": (1e9, 1e29)}
"""Ranges in which the median of a column lies that is the symbol, one by one."""
_PLAUSIBLE = {"N": (1e4, 1e13), "D": (1e6, 1e14), "C": (1e12, 1e28), "L": (0.3, 20.0)}
"""Ranges in which the median of another column lies that is the symbol instead."""


def check_symbols(table: pd.DataFrame, symbols: Iterable[str], where: str) -> None:
    """Raise TableError if a column that is called like a symbol cannot be it, and another can.

    Such are a column D for the width and a column L for the layers, beside tokens and loss.
    """
    for symbol in sorted(set(symbols) & set(_PLAUSIBLE)):
        values = numbers_in(table[symbol])
        values = values[np.isfinite(values)]
        if not len(values) or not _is_other(symbol, values):
            continue
        rivals = [text for column in table.columns for text in _readings(table, column, symbol)]
        if not rivals:
            continue
        low, high = (f"{end:.6g}" for end in (values.min(), values.max()))
        span = low if low == high else f"{low} to {high}"
        ways = " or ".join(
            option({rival: symbol, symbol: f"{symbol}_column"}) for rival in rivals[:3]
        )
        raise TableError(
            f"{where}: the column {symbol!r} holds {span}, which can hardly be {symbol}; is it "
            f"{' or '.join(map(repr, rivals[:3]))}? Say {ways}."
        )


def _is_other(symbol: str, values: np.ndarray) -> bool:
    """Return whether values are most likely not those of a symbol."""
    if symbol == "L":  # layers, rather than losses
        return bool((values == np.round(values)).all() and np.median(values) >= 2)
    low, high = _POSSIBLE[symbol]
    return not low <= float(np.median(values)) <= high


def _readings(table: pd.DataFrame, column: str, symbol: str) -> list[str]:
    """Return the plausible ways to read another column as the symbol; its best if it has any."""
    what = meaning(str(column)) if column != symbol else None
    if what is None or what.symbol != symbol:
        return []
    values = numbers_in(table[column])
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return []
    middle, (low, high) = float(np.median(positive)), _PLAUSIBLE[symbol]
    if what.function or what.scale != 1:
        return [text for text, _ in conversions(what, column, middle)][:1]
    return [column] if low <= middle <= high else []
