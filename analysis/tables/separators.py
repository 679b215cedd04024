"""Which mark is decimal in the numbers of a table: 5,035 is 5.035 in one file and 5035 in another.

A file follows one convention. A number that can be read in only one way is evidence of it:
5,0348 and 0,123 have a decimal comma, 1,400,000 and 3.5 a decimal point. What no number of the
file decides is left as text, and refused when the column is used. A point is decimal unless the
file shows a decimal comma.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from analysis.tables.written import SUFFIXES, Number, is_missing, written
from scaling.errors import TableError

Decimals = dict[str, Number]
"""The reading of one text by decimal mark."""

_SAMPLE = 200
"""Cells of a long column that are tried before all are."""

_SIMPLE = re.compile(
    r"([+-]?)([1-9]\d{0,2}(?=[.,]\d{3}[.,])|\d+)"
    r"(?:([.,]?)((?<=[.,])\d+|)|((?:,\d{3}){2,}|(?:\.\d{3}){2,}))"
    r" ?([kKmMbBgGtT]?)"
)
"""A number without exponent, with at most one mark or several groups of digits."""

_SPACED = re.compile(r"\d[\s_'’]\d{3}(?!\d)")
"""A group of three digits after a mark that is never decimal."""

_OTHER = re.compile(r"[^\W\d_eE]|[±(/^×*·]")
"""What a plain number does not contain."""

_MARKS = {",": ",", "comma": ",", ".": ".", "point": "."}


class Column:
    """The texts of a column, with the number that each is by either decimal mark."""

    def __init__(self, values: pd.Series):
        typed = isinstance(values.dtype, pd.StringDtype)
        cells = values.dropna().unique() if typed else values
        texts = list(dict.fromkeys(t for t in cells.tolist() if isinstance(t, str)))
        self.missing: set[str] = set()
        self.readings: dict[str, Decimals] = {}
        self.words = len(texts)
        sample = texts[:: max(1, len(texts) // _SAMPLE)]
        if len(texts) > 5 * _SAMPLE and not any(readings(t) for t in sample):
            return
        for text in texts:
            if found := readings(text):
                self.readings[text] = found
            elif is_missing(text):
                self.missing.add(text)
        self.words -= len(self.readings) + len(self.missing)

    @property
    def is_numeric(self) -> bool:
        """Whether most texts are numbers."""
        return bool(self.readings) and self.words <= len(self.readings)

    @functools.cached_property
    def proven(self) -> set[str]:
        """The decimal marks that single numbers prove."""
        return {next(iter(r)) for t, r in self.readings.items() if len(r) == 1 and marked(t)}

    @functools.cached_property
    def ambiguous(self) -> list[str]:
        """The texts that are two different numbers."""
        return [t for t, r in self.readings.items() if is_ambiguous(r)]

    @property
    def is_spaced(self) -> bool:
        """Whether digits are grouped by a mark that is never decimal, as in 1 400 000."""
        return any(_SPACED.search(t) for t in self.readings)

    def decided(self) -> str | None:
        """Return the decimal mark that this column alone shows, or None."""
        proven = self.proven
        if len(proven) == 1:
            return next(iter(proven))
        if not proven and _padded(self.ambiguous, list(self.readings)):
            return "."
        return None

    def value(self, text: str, decimal: str | None) -> Number | None:
        """Return the number that a text is, or None if it is none or more than one."""
        found = self.readings.get(text)
        if not found:
            return None
        if not is_ambiguous(found):
            return next(iter(found.values()))
        if decimal is None and "," not in text:
            decimal = "."
        return None if decimal is None else found[decimal]


def readings(text: str) -> Decimals:
    """Return the number that a text is by each decimal mark; {} if it is not a number."""
    found = _SIMPLE.fullmatch(text)
    if found:  # most numbers are; the full grammar takes ten times as long
        return _simple(*found.groups())
    if not marked(text):
        number = written(text, ".")
        return {".": number, ",": number} if number else {}
    both = {mark: written(text, mark) for mark in (".", ",")}
    return {mark: number for mark, number in both.items() if number}


def _simple(sign: str, whole: str, mark: str, digits: str, groups: str, unit: str) -> Decimals:
    """Return the readings of a number by its parts, which `_SIMPLE` finds."""
    factor = float(f"{sign}1") * SUFFIXES[unit.lower()]
    if groups:
        number = Number(float((whole + groups).replace(groups[0], "")) * factor)
        return {"," if groups[0] == "." else ".": number}
    if not mark:
        number = Number(float(whole) * factor)
        return {".": number, ",": number}
    found = {mark: Number(float(f"{whole}.{digits}") * factor)}
    if len(digits) == 3 and len(whole) <= 3 and not whole.startswith("0"):
        found["," if mark == "." else "."] = Number(float(whole + digits) * factor)
    return found


def marked(text: str) -> bool:
    return "." in text or "," in text


def is_ambiguous(found: Decimals) -> bool:
    return len(found) == 2 and not _same(found["."], found[","])


def both_readings(text: str, found: Decimals) -> str:
    """Return a sentence with both readings of an ambiguous number, and what decides."""
    return (
        f"{text!r} is {found[','].value:.10g} with a decimal comma and {found['.'].value:.10g} "
        "with a decimal point, and no number of the table shows which is meant. Add --decimal "
        "comma or --decimal point"
    )


def localised(
    table: pd.DataFrame,
    source: str,
    decimal: str | None = None,
    *,
    likely: str | None = None,
    quoted: bool = False,
    reread: Callable[[Sequence[int]], pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Convert the numbers of text columns whose separators the table as a whole explains.

    A column of plain numbers becomes numeric. In other columns that are mostly numbers, those with
    a decimal comma or groups of digits are rewritten; text stays as it is.

    decimal: the decimal mark that the user gave, for numbers that are ambiguous.
    likely: the decimal mark to assume if no number proves one.
    quoted: whether the file may hold numbers in quotes without a meaning, as JSON does.
    reread: returns columns, by position, as the text that the file holds. Without it, columns
        that are numeric already have no decimal mark of their own.
    """
    if decimal is not None and decimal not in _MARKS:
        raise TableError(f"--decimal {decimal!r} is not a decimal mark: give comma or point.")
    decimal = _MARKS[decimal] if decimal else None
    columns: dict[int, Column] = {}
    for at in range(table.shape[1]):
        values = table.iloc[:, at]
        if _is_text(values) and (found := Column(values)).is_numeric:
            columns[at] = found
    commas = any("," in t for c in columns.values() for t in c.readings)
    points = any(c.proven == {","} for c in columns.values())
    raw: dict[int, pd.Series] = {}
    proven: set[str] = set()
    if reread and (commas or points or decimal == ","):
        floats = [at for at in range(table.shape[1]) if _is_float(table.iloc[:, at])]
        texts = reread(floats) if floats else pd.DataFrame()
        for place, at in enumerate(floats):
            values = texts.iloc[:, place].set_axis(table.index)
            if _has_decimal_point(values):
                proven.add(".")
            else:
                raw[at] = values
                columns[at] = Column(values)
    if not columns:
        return table
    proven = proven.union(*(c.proven for c in columns.values()))
    shared = next(iter(proven)) if len(proven) == 1 else likely if not proven else None
    spaced = any(c.is_spaced for c in columns.values())
    said: dict[str, list[str]] = {}
    new: dict[int, pd.Series] = {}
    for at, column in columns.items():
        own = column.proven
        chosen = next(iter(own)) if len(own) == 1 else decimal or column.decided() or shared
        if chosen is None and spaced and all("," in t for t in column.ambiguous):
            chosen = ","  # what groups digits in 1 400 000 leaves the comma to be decimal
        values = raw.get(at, table.iloc[:, at])
        _check_weak(column, chosen, proven, source, table.columns[at])
        if at in raw and chosen != ",":
            continue  # pandas has read it with a decimal point
        if decimal is None and (read := _decided_elsewhere(column, chosen)):
            said.setdefault(str(chosen), []).append(f"{table.columns[at]}: {read}")
        new[at] = _converted(values, column, chosen, quoted)
    for mark, columns_read in said.items():
        _say(source, mark, columns_read)
    if not new:
        return table
    parts = [new.get(at, table.iloc[:, at]) for at in range(table.shape[1])]
    result = pd.concat(parts, axis=1)
    result.columns, result.attrs = table.columns, table.attrs
    return result


def _converted(values: pd.Series, column: Column, decimal: str | None, quoted: bool) -> pd.Series:
    """Return a column of numbers, or of text in which numbers have a decimal point."""
    numbers = {t: column.value(t, decimal) for t in column.readings}
    foreign = {t for t, n in numbers.items() if n and _is_foreign(t, n, column.readings[t])}
    all_plain = not column.words and all(n and _is_plain(t) for t, n in numbers.items())
    if all_plain and (foreign or column.missing or quoted):
        known: dict[Any, Any] = {t: n.value for t, n in numbers.items() if n}
        known |= dict.fromkeys(column.missing, math.nan)
        if not foreign and not column.missing:
            return pd.to_numeric(values)
        return pd.to_numeric(
            values.astype(object).map(lambda v: known[v] if isinstance(v, str) else v)
        )
    new = {t: _text(numbers[t]) for t in foreign}
    if not new:
        return values
    return values.astype(object).map(lambda v: new.get(v, v) if isinstance(v, str) else v)


def _text(number: Number | None) -> str:
    if number is None:
        return ""
    error = "" if math.isnan(number.stderr) else f" ± {number.stderr!r}"
    return f"{number.value!r}{error}"


def _is_plain(text: str) -> bool:
    """Return whether a number has no suffix and no error, only digits, marks and an exponent."""
    return not _OTHER.search(text)


def _is_foreign(text: str, number: Number, found: Decimals) -> bool:
    """Return whether a text is read as another number, or none, where the point is decimal."""
    if "," in text:
        return True
    if "." not in text:
        return not text.strip().isascii() or any(mark in text.strip() for mark in " _'")
    return "." not in found or not _same(found["."], number)


def _padded(ambiguous: Sequence[str], texts: Sequence[str]) -> bool:
    """Return whether 1,000 stands beside 2000: no one writes 1 with three decimals there."""
    zeros = any(t.strip().endswith("0") and "," in t for t in ambiguous)
    long = any(t.strip().isdigit() and len(t.strip()) > 3 for t in texts)
    return zeros and long and all("," in t for t in ambiguous)


def _check_weak(
    column: Column, decimal: str | None, proven: set[str], source: str, name: object
) -> None:
    """Refuse 1.400 in a table that has decimal commas in one column and points in another."""
    if decimal is None and len(proven) == 2 and not column.proven:
        weak = [t for t in column.ambiguous if "," not in t]
        if weak:
            said = both_readings(weak[0], column.readings[weak[0]])
            raise TableError(
                f"{source}: column {str(name)!r}: {said} (other columns have both marks)."
            )


def _decided_elsewhere(column: Column, decimal: str | None) -> str:
    """Return a reading that only other columns decide and that multiplies by 1000, or ""."""
    if decimal is None or column.decided() == decimal:
        return ""
    mark = {".": ",", ",": "."}[decimal]
    grouped = [t for t in column.ambiguous if mark in t]
    if not grouped:
        return ""
    return f"{grouped[0]} is read as {column.readings[grouped[0]][decimal].value:.10g}"


def _say(source: str, decimal: str, read: Sequence[str]) -> None:
    mark, other = ("point", "comma") if decimal == "." else ("comma", "point")
    warnings.warn(
        f"{source}: {', '.join(read)}, as other columns have a decimal {mark}. If that is wrong, "
        f"add --decimal {other}.",
        stacklevel=4,
    )


def _has_decimal_point(values: pd.Series) -> bool:
    """Return whether a column that pandas could read has a point that cannot group digits."""
    grouped = values.str.fullmatch(r"\s*[+-]?(?:[1-9][0-9]{0,2}\.[0-9]{3}|[0-9]+)\s*", na=True)
    return bool((values.str.contains(".", regex=False, na=False) & ~grouped).any())


def _same(a: Number, b: Number) -> bool:
    errors = a.stderr == b.stderr or (math.isnan(a.stderr) and math.isnan(b.stderr))
    return a.value == b.value and errors


def _is_text(values: pd.Series) -> bool:
    return pd.api.types.is_object_dtype(values) or isinstance(
        values.dtype, pd.StringDtype | pd.CategoricalDtype
    )


def _is_float(values: pd.Series) -> bool:
    return pd.api.types.is_float_dtype(values)
