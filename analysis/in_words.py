"""Numbers and intervals as text; what says nothing is put in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

ABSURD = 1e40
"""No quantity of a training run is as large: all the compute on earth is some 1e30 FLOPs a year."""

_VAST = 1e6
"""An interval over such a factor says that its quantity is not known."""

_NEGATIVE = re.compile(r"(?<![\w.)\]])-(?=\.?\d)|(?<=\de)-(?=\d)")
"""A hyphen that stands for a minus sign: before a number or its exponent, not between numbers."""


def cell(value: Any, form: str = ".4g") -> str:
    """Return an entry of a table in the format `form`: '-' for an unknown number, 'unbounded' for
    one that is infinite or of no sense, and other things as they are."""
    if not isinstance(value, float):
        return str(value)
    return "-" if np.isnan(value) else f"{value:{form}}" if abs(value) < ABSURD else "unbounded"


def interval(
    low: float, high: float, form: str | Callable[[float], str], *, vast: float | None = None
) -> str:
    """Return an interval in brackets, or in words; `form` formats its ends, or writes them.

    An end that is unknown, infinite or of no sense (ABSURD) is never printed as a number. 0 is no
    lower end of a positive quantity without an upper one, and an interval of positive numbers that
    spans a factor of `vast` is none; by default _VAST, for large numbers.
    """
    if np.isnan(low) or np.isnan(high):
        return "[no interval]"
    write = form if callable(form) else lambda end: f"{end:{form}}"
    below, above = low <= -ABSURD, high >= ABSURD
    wide = low > 0 and (high > vast * low if vast else high > max(_VAST * low, 1e3))
    if (wide and np.isfinite(high)) or (above and (below or low == 0)):
        return "[not identified]"
    if above:
        return "[not bounded]" if low >= ABSURD else f"[{write(low)}, not bounded above]"
    return f"[not bounded below, {write(high)}]" if below else f"[{write(low)}, {write(high)}]"


def typeset(text: str) -> str:
    """Return text with a minus sign (U+2212) for the hyphen before each number."""
    return _NEGATIVE.sub("\N{MINUS SIGN}", text)


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Return the lines of a table, given its cells; the columns in `left` are aligned there."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if k in left else text.rjust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def times(factor: float) -> str:
    """Return a factor with two digits, as it is read aloud: 3.4, 400 or 6.8 million."""
    if factor >= 1e15:
        return "more than 1,000 trillion"
    for name, unit in (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)):
        if factor >= unit:
            return f"{float(f'{factor / unit:.2g}'):,.4g} {name}"
    rounded = float(f"{factor:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
