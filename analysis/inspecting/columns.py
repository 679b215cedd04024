"""What each column of a table was taken for, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.inspecting.reading import OWN, Reading
from analysis.tables.conversions import numbers_in
from analysis.tables.several import FILE
from scaling.column_words import Meaning, meaning
from scaling.columns import COLUMNS, CURVE_COLUMNS, IN_WORDS
from scaling.mapping import in_expression
from scaling.units import count

_UNITS = {column.name: column.unit for column in (*CURVE_COLUMNS, *COLUMNS)} | {
    "B": "tokens per step", "n_ctx": "tokens", "D/N": "tokens per parameter"
}  # fmt: skip
_FUNCTIONS = {
    "perplexity": "a perplexity, whose logarithm is the loss",
    "bits": "bits per token (1 bit = 0.6931 nats)",
    "bits_per_byte": "bits per byte, which are kept: nats per token need the bytes per token",
    "log10": "a logarithm to base 10", "log2": "a logarithm to base 2", "log": "a logarithm",
    "log?": "a logarithm",
}  # fmt: skip
_COUNTED = ("N", "N_total", "D", "D_unique", "D_total", "B", "S")
"""Columns written as the literature writes numbers of parameters and tokens, such as 70B."""
OUR_SYMBOL = "it is called by our symbol"
_AMBIGUOUS = ("lr", "bits_per_byte")
"""Columns of ours whose names mean something else in other tables."""
_MOSTIN_WORDS = 5
"""Number of different values of a text column that are listed."""


@dataclass(frozen=True, kw_only=True)
class ColumnUse:
    """A column of the file and its meaning."""

    name: str
    means: str | None
    """Symbol or name in the schema of the tables; None if nothing uses the column."""
    unit: str | None
    low: Any
    """Smallest value in that unit; None if it holds no numbers."""
    high: Any
    shown: str
    """The range, or the values of a column of text, in words."""
    why: str

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        span = None if self.low is None else [self.low, self.high]
        return {
            "name": self.name, "means": self.means, "unit": self.unit, "range": span,
            "shown": self.shown, "why": self.why,
        }  # fmt: skip


def describe(reading: Reading) -> list[ColumnUse]:
    """Return the meaning, unit, range and reason of each column of the file, in its order."""
    hidden = {FILE, *(["S"] if axis_of_steps(reading) else [])}
    return [_described(reading, at) for at, c in enumerate(reading.rows.columns) if c not in hidden]


def axis_of_steps(reading: Reading) -> str | None:
    """Return the axis of a chart that became S; None if the table is no chart of steps."""
    if "S" not in reading.rows.columns or "S" in reading.opened.columns:
        return None
    S = reading.rows["S"]
    return next((str(c) for c in reading.rows if c != "S" and reading.rows[c].equals(S)), None)


def _described(reading: Reading, at: int) -> ColumnUse:
    name = str(reading.rows.columns[at])
    values = reading.rows.iloc[:, at]
    symbol, expression = _use(reading, name)
    if symbol is None:
        why, means = _unused(reading, name)
        low, high, shown = _span(values, means or name)
        unit = _UNITS.get(means or "") or None
        return ColumnUse(
            name=name, means=means, unit=unit, low=low, high=high, shown=shown, why=why
        )
    converted = reading.named[symbol] if symbol in reading.named.columns else values
    low, high, shown = _span(converted, symbol)
    return ColumnUse(
        name=name, means=symbol, unit=_unit(name, symbol), low=low, high=high, shown=shown,
        why=_why(reading, name, symbol, expression),
    )  # fmt: skip


def _unit(name: str, symbol: str) -> str | None:
    """Return the unit of a symbol; losses in bits per byte are kept in it."""
    what = meaning(name)
    if symbol == "L" and what is not None and what.function == "bits_per_byte":
        return "bits/byte"
    return _UNITS.get(symbol) or None


def _use(reading: Reading, name: str) -> tuple[str | None, str]:
    """Return the symbol that a column is used for, and the expression in which it is."""
    if name in reading.symbols:
        return reading.symbols[name], name
    if name == axis_of_steps(reading):
        return "S", name
    once = reading.named.columns.is_unique
    if once and name in OWN and name in reading.named.columns and name not in _AMBIGUOUS:
        return name, name
    for expression, symbol in reading.symbols.items():
        if expression not in reading.rows.columns and _mentions(expression, name):
            return symbol, expression
    return None, ""


def _mentions(expression: str, name: str) -> bool:
    quoted = in_expression(name)
    if quoted.startswith("`"):
        return quoted in expression or expression.startswith("{" + name + ":")
    return bool(re.search(rf"(?<![\w.`]){re.escape(name)}(?![\w.`(])", expression))


def _why(reading: Reading, name: str, symbol: str, expression: str) -> str:
    """Return why a column is taken for a symbol."""
    formula = f"{symbol} = {expression}" if expression != name else ""
    if expression in reading.given_names:
        return f"--map says so{f': {formula}' if formula else ''}"
    if name == symbol:
        return OUR_SYMBOL
    what = meaning(name)
    text = _says(what) if what is not None else "its values tell runs apart"
    others = _rivals(reading, name, symbol)
    parts = [text, formula, f"preferred to {others}" if others else ""]
    told = what is not None and (what.function or what.kind)
    parts += [n for n in reading.remarks if n.startswith(f"{name!r} ") and not told]
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _says(what: Meaning) -> str:
    """Return what a name says, in words."""
    kind = {"held-out": "held-out ", "training": "training ", "total": "all ",
            "non-embedding": "non-embedding ", "active": "active "}.get(what.kind, "")  # fmt: skip
    words = f"{kind}{IN_WORDS.get(what.symbol, what.symbol)}"
    unit = f" in units of {what.scale:g}" if what.scale != 1 else ""
    function = _FUNCTIONS.get(what.function, what.function)
    return f"its name says {words}{unit}{f', {function}' if function else ''}"


def _rivals(reading: Reading, name: str, symbol: str) -> str:
    """Return the other columns whose names say the same symbol, in short."""
    found = [
        repr(str(c)) for c in reading.rows.columns
        if c not in (name, FILE) and (m := meaning(str(c))) is not None and m.symbol == symbol
        and not _use(reading, str(c))[0]
    ]  # fmt: skip
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


def _unused(reading: Reading, name: str) -> tuple[str, str | None]:
    """Return why a column is not used under a symbol, and what it means nevertheless."""
    if name.lower() in ("status", "state") or _is_state(reading, name):
        return "tells how runs ended; only finished runs count", "status"
    what = meaning(name)
    if what is None:
        return "not used", None
    says, symbol = _says(what), what.symbol
    chosen = next((c for c, s in reading.symbols.items() if s == symbol), None)
    if symbol in reading.rows.columns:
        chosen = symbol
    if chosen is not None:
        return f"not used: {says}, but {symbol} is taken from {chosen!r}", None
    if symbol in reading.unclear:
        return f"{says}; which column or unit is meant is not clear: see missing", None
    if not values_of(reading, name).notna().any():
        return f"{says}, but it is empty", None
    return f"not used: {says}", None


def values_of(reading: Reading, name: str) -> pd.Series:
    """Return the values of a column; the first of those that share its name."""
    return reading.rows.iloc[:, list(map(str, reading.rows.columns)).index(name)]


def _is_state(reading: Reading, name: str) -> bool:
    """Return whether the status of the rows follows from this column."""
    if "status" not in reading.named.columns or name in reading.named.columns:
        return name == "status"
    return False


def _span(values: pd.Series, symbol: str) -> tuple[Any, Any, str]:
    """Return the smallest and the largest number of a column, and both in words."""
    try:
        numbers = numbers_in(values)
    except (TypeError, ValueError, ArithmeticError):
        numbers = np.array([])
    if symbol == "run_id":
        return None, None, f"{values.nunique()} runs"
    if pd.api.types.is_bool_dtype(values) or not _mostly_numbers(numbers, values):
        return None, None, _listed(values)
    finite = numbers[np.isfinite(numbers)]
    low, high = float(finite.min()), float(finite.max())
    whole = low.is_integer() and high.is_integer() and max(-low, high) < 1e6
    write = "{:.3g}".format
    if symbol in _COUNTED and low >= 0:
        write = count
    elif whole:
        write = "{:.0f}".format
    first, last = write(low), write(high)
    return _plain(low), _plain(high), first if first == last else f"{first} to {last}"


def _plain(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _mostly_numbers(numbers: np.ndarray, values: pd.Series) -> bool:
    return bool(np.isfinite(numbers).sum() > 0.5 * max(1, int(values.notna().sum())))


def _listed(values: pd.Series) -> str:
    """Return the values of a column of text with their numbers, if there are few."""
    texts = values.dropna().map(str)
    counts = texts.value_counts()
    if not len(counts):
        return "empty"
    if len(counts) > _MOSTIN_WORDS:
        return f"{len(counts)} values, such as {texts.iloc[0]}"
    return ", ".join(f"{n} {text}" for text, n in counts.items())
