"""The end of a benchmark: its figures on one line, and the goals that they miss."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def finish(
    found: Mapping[str, float], goals: Mapping[str, tuple[str, float]], *, check: bool
) -> None:
    """Print the figures {name: value} as key=value. With `check`, exit with 1 if a goal is missed.

    `goals` are {name: ('at least' or 'at most', value)}.
    """
    print(" ".join(f"{name}={value:.3g}" for name, value in found.items()))
    missed = [
        name
        for name, (kind, goal) in goals.items()
        if not (found[name] >= goal if kind == "at least" else found[name] <= goal)
    ]
    if check and missed:
        sys.exit(f"missed: {', '.join(missed)}")
