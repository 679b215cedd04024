"""Conversion of values to what JSON can represent."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """Return `value` in a form that JSON can represent; floats that are not finite become None.

    Dictionaries, lists and tuples are converted recursively; numpy and torch scalars become
    numbers.
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "item") and not isinstance(value, str):
        return finite(value.item())  # numpy and torch scalars
    return value
