"""Numbers, spans of time and amounts of memory as text, and numbers as people write them."""

from __future__ import annotations

import contextlib
import re

_SI = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_COUNTS = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3))
_BYTES = (("GB", 1e9), ("MB", 1e6))


_WRITTEN = re.compile(
    r"(?P<number>[+-]?(?:\d{1,3}(?:(?P<sign>[, _])\d{3})(?:(?P=sign)\d{3})*|\d+)?(?:\.\d*)?"
    r"(?:e[+-]?\d+)?)\s*(?P<prefix>k|m|b|g|t|p|e|z)?\s*"
    r"(?P<unit>pf-?days?|flops?|params?|parameters|tokens?)?",
    re.IGNORECASE,
)
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18,
             "z": 1e21}  # fmt: skip
PF_DAY = 1e15 * 86_400
"""FLOPs in one PF-day (Kaplan et al. 2020, section 1.3: 8.64e19)."""


def number(text: str) -> float:
    """Return the number that a text writes: 2e12, 1,000,000, 7B, 1.5 T or 10 PF-days.

    Raises ValueError if it is not a number.
    """
    with contextlib.suppress(ValueError):
        return float(text)  # includes inf and 1_000
    match = _WRITTEN.fullmatch(text.strip())
    if match is None or not re.search(r"^[+-]?\.?\d", match["number"]):
        raise ValueError(f"{text!r} is not a number, such as 7e9, 7B or 7,000,000,000")
    value = float(re.sub("[, _]", "", match["number"]))
    pf_days = (match["unit"] or "").lower().startswith("pf")
    return value * _PREFIXES[(match["prefix"] or "").lower()] * (PF_DAY if pf_days else 1.0)


def si(value: float, unit: str = "") -> str:
    """Return a number in three digits with its SI prefix, such as 1.25M or 312TFLOP/s."""
    return f"{_scaled(value, _SI)}{unit}"


def count(value: float) -> str:
    """Return a number of parameters or tokens as the literature writes it, such as 70B or 1.4T."""
    return _scaled(value, _COUNTS)


def data_size(number: float) -> str:
    """Return a number of bytes in MB or GB, such as 1.25 GB."""
    name, scale = _BYTES[0] if number >= _BYTES[0][1] else _BYTES[1]
    return f"{number / scale:.3g} {name}"


def clock(seconds: float) -> str:
    """Return seconds as 42s, 3m05s, 2h10m or 3d04h."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3600:02d}h"


def _scaled(value: float, prefixes: tuple[tuple[str, float], ...]) -> str:
    for prefix, scale in prefixes:
        if abs(value) >= 0.9995 * scale:  # which rounds to 1 of this prefix
            return f"{value / scale:.3g}{prefix}"
    return f"{value:.3g}"
