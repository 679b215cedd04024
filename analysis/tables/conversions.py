"""Expressions of a column in our units: parameters and tokens one by one, losses in nats per token.

A name says millions, PF-days, a logarithm, a perplexity; the values decide what it leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.tables.numbers import parsed
from scaling.column_words import BASES, Meaning, expression, meaning
from scaling.mapping import option

_PLAUSIBLE = {"N": (1e3, 1e13), "D": (1e5, 1e14), "C": (1e9, 1e28)}
"""Ranges in which the median of a column lies that counts one by one."""
_LIKELY = {"N": (1e5, 3e12), "D": (1e6, 1e14), "C": (1e12, 1e27), "L": (1.0, 12.0)}
"""Narrower ranges, to tell the base of a logarithm."""


def numbers_in(column: pd.Series) -> np.ndarray:
    """Return the numbers of a column, nan where there is none."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(float, na_value=np.nan)
    return parsed(column).to_numpy(float)


def conversions(what: Meaning, column: str, middle: float) -> list[tuple[str, str]]:
    """Return (expression, note) of each way to read a column whose median is `middle`."""
    if what.symbol == "L":
        return _losses(what, column, middle)
    symbol, kind = what.symbol, f"{column!r} counts {what.kind} parameters" if what.kind else ""
    if what.function:
        bases = ("log10", "log") if what.function == "log?" else (what.function,)
        low, high = _LIKELY.get(symbol, (0.0, np.inf))
        values = {
            expression(column, replace(what, function=base)): _power(base, middle) for base in bases
        }
        likely = [text for text, value in values.items() if low <= what.scale * value <= high]
        return [(text, kind) for text in likely or values]
    low, high = _PLAUSIBLE.get(symbol, (0.0, np.inf))
    if what.scale != 1:
        if low <= middle <= high and what.scale * middle > high:
            return [(column, f"{column!r} is taken one by one, as its values are that large")]
        return [(expression(column, what), kind)]
    if symbol in ("N", "D") and middle < low:  # in millions or billions, and nothing says which
        likely_low, likely_high = _LIKELY[symbol]
        units = [unit for unit in (1e6, 1e9) if likely_low <= unit * middle <= likely_high]
        texts = [expression(column, replace(what, scale=unit)) for unit in units]
        return [(text, kind) for text in texts or [column]]
    return [(column, kind)]


def _losses(what: Meaning, column: str, middle: float) -> list[tuple[str, str]]:
    """Return (expression, note) of each way to read a column of losses."""
    kind = f"{column!r} is a training loss" if what.kind == "training" else ""
    if what.function == "log?":
        low, high = _LIKELY["L"]
        values = {column: middle} | {
            expression(column, replace(what, function=base)): _power(base, middle)
            for base in ("log", "log10")
        }
        likely = [text for text, value in values.items() if low <= value <= high]
        return [(text, kind) for text in likely or values]
    if what.function in ("log2?", "log10?"):
        low, high = _LIKELY["L"]
        base = what.function.rstrip("?")
        ways = {
            (expression(column, what), _note(what, column)): math.log(BASES[base]) * middle,
            (expression(column, replace(what, function=base)), kind): _power(base, middle),
        }
        return [way for way, value in ways.items() if low <= value <= high] or list(ways)
    note = _note(what, column)
    return [(expression(column, what), "; ".join(filter(None, (note, kind))))]


def _power(base: str, exponent: float) -> float:
    """Return the number whose logarithm is `exponent`; infinity if it is beyond all use."""
    return BASES[base] ** exponent if abs(exponent) < 200 else math.inf


def _note(what: Meaning, column: str) -> str:
    """Return what a loss in another unit than nats per token is; "" if it needs no conversion.

    A loss in bits per byte stays as it is: it would take the bytes per token to convert it.
    """
    unit = {
        "perplexity": "is a perplexity, whose logarithm is the loss",
        "perplexity of text": "is a perplexity of words or bytes: its logarithm is not in nats "
        "per token",
        "log10 perplexity": "is the logarithm of a perplexity to base 10",
        "log2 perplexity": "is the logarithm of a perplexity to base 2",
        "bits": "is in bits per token (1 bit = 0.6931 nats)",
        "log2?": "is taken in bits per token (1 bit = 0.6931 nats)",
        "log10?": "is taken as a loss in base 10 (1 digit = 2.3026 nats)",
    }.get(what.function)
    return f"{column!r} {unit}" if unit else ""


def convert_losses(table: pd.DataFrame, names: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return `names` with a perplexity or bits per token that is mapped to L converted to nats, and
    a note about it."""
    converted, notes = {}, []
    for column, symbol in names.items():
        what = meaning(column) if symbol == "L" and column in table.columns else None
        note = _note(what, column) if what and what.symbol == "L" else ""
        if what and note and (what.function != "perplexity" or _at_least_one(table[column])):
            column = expression(column, what)
            notes.append(f"{note}: taken as by {option({column: 'L'})}")
        converted[column] = symbol
    return converted, "; ".join(notes)


def _at_least_one(column: pd.Series) -> bool:
    """Return whether numbers can be perplexities."""
    values = numbers_in(column)
    return not (values[np.isfinite(values)] < 1).any()
