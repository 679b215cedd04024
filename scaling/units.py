"""Numbers, spans of time and amounts of memory as text."""

from __future__ import annotations

_SI = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_COUNTS = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3))
_BYTES = (("GB", 1e9), ("MB", 1e6))


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
