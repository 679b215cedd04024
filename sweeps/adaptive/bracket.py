"""The search for a minimum along one axis: bracket it, then narrow the bracket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_MOST_POINTS = 40
"""Points of one search at most; a search that converges needs far fewer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Minimum:
    """Where a search along an axis stands."""

    index: int | None
    """Index of the best point; None while a point has no loss yet."""
    inside: bool = False
    """Whether the points on both sides are worse."""


def bracket_minimum(
    points: list[T],
    losses_of: Callable[[list[T]], list[float | None]],
    *,
    beyond: Callable[[T, T], T | None],
    between: Callable[[T, T, T], tuple[bool, T] | None],
) -> tuple[list[T], Minimum]:
    """Add points to these ordered ones (at least two) until the best one is bracketed closely.

    `beyond(inner, end)` returns the next point after an end. `between(left, best, right)` returns
    whether to place a new point to the left of the best one, and the new point. Both return None
    if there is no such point. The result has all points in order; while one of them has no loss
    yet, the search waits for it.
    """
    points = list(points)
    while True:
        losses = losses_of(points)
        known = [L for L in losses if L is not None]
        if len(known) < len(points):
            return points, Minimum(None)
        i = min(range(len(points)), key=known.__getitem__)
        inside = 0 < i < len(points) - 1
        if len(points) >= _MOST_POINTS:
            return points, Minimum(i, inside)
        if inside:
            new = between(points[i - 1], points[i], points[i + 1])
            if new is None:
                return points, Minimum(i, True)
            points.insert(i if new[0] else i + 1, new[1])
        else:
            point = beyond(points[1 if i == 0 else i - 1], points[i])
            if point is None:
                return points, Minimum(i)
            points.insert(0 if i == 0 else i + 1, point)


def rounded(x: float) -> float:
    """Return `x` in three significant digits: equal on every machine, and easy to type."""
    return float(f"{x:.3g}")
