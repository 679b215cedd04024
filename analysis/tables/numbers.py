"""Numbers as people write them: 1,400,000, 70M, 1.4T, 5.03 ± 0.004."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from decimal import Decimal
from numbers import Number

import numpy as np
import pandas as pd

from analysis.tables.rows import used_rows
from analysis.tables.separators import Column, both_readings, is_ambiguous
from analysis.tables.written import complaint
from scaling.errors import TableError


def to_numbers(table: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Convert columns of text to numbers, in place.

    The standard errors of numbers such as 5.03 ± 0.004 become the column NAME_stderr, unless the
    table has one. Raises TableError for a row that is not a number, or that may be two.
    """
    for name in names:
        if name not in table.columns or pd.api.types.is_numeric_dtype(table[name]):
            continue
        values, errors, texts = _parsed(table[name])
        words = table[name].notna() & values.isna() & ~table[name].map(_is_infinite)
        if texts and words.any():
            words &= ~table[name].isin(texts.missing)
        bad = used_rows(table.assign(**{name: table[name].where(words)}))[name].dropna()
        if len(bad):
            text = str(bad.iloc[0])
            if texts and is_ambiguous(found := texts.readings.get(text, {})):
                raise TableError(f"{where}: column {name!r}: {both_readings(text, found)}.")
            why = complaint(text)
            raise TableError(
                f"{where}: column {name!r} must be numbers: {len(bad)} of {len(table)} rows "
                f"{'is' if len(bad) == 1 else 'are'} not, first at row {bad.index[0]} "
                f"({name}={text!r}{f', {why}' if why else ''}). Write numbers, such as 7e7 or 70M, "
                "or drop these rows."
            )
        table[name] = values
        if errors.notna().any() and f"{name}_stderr" not in table.columns:
            table[f"{name}_stderr"] = errors


def parsed(column: pd.Series) -> pd.Series:
    """Convert text to numbers, including 1,400,000, 70M and 1.4T; nan if it is not a number, or
    not clearly one."""
    return _parsed(column)[0]


def _parsed(column: pd.Series) -> tuple[pd.Series, pd.Series, Column | None]:
    """Return the numbers of a column, their standard errors, and its texts if any are special."""
    if column.isna().all():  # as in learning curves, for the settings that runs do not name
        unknown = pd.Series(math.nan, column.index)
        return unknown, unknown.copy(), None
    column = column.astype(object)
    simple = column.map(_simple)
    values = pd.to_numeric(simple, errors="coerce").astype(float)
    values = values.where(np.isfinite(values))
    errors = pd.Series(math.nan, column.index)
    rest = (values.isna() & column.notna()).to_numpy(bool)
    if not rest.any():
        return values, errors, None
    texts = Column(column)
    decimal = texts.decided()
    if decimal == ",":  # then 1.400 is 1400
        rest = rest | column.map(lambda v: isinstance(v, str) and "." in v).to_numpy(bool)
    numbers = {t: texts.value(t, decimal) for t in texts.readings}
    left = column[rest]
    known = {t: n for t, n in numbers.items() if n}
    values[rest] = [known[t].value if _in(t, known) else math.nan for t in left]
    errors[rest] = [known[t].stderr if _in(t, known) else math.nan for t in left]
    return values, errors, texts


def _simple(value: object) -> object:
    """Return a finite number or a text, and nan for anything else: a list, an infinity, or an
    integer beyond floats."""
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        return math.nan
    return value if isinstance(value, str | Number | Decimal) else math.nan


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and math.isinf(value)


def _in(text: object, known: dict) -> bool:
    return isinstance(text, str) and text in known
