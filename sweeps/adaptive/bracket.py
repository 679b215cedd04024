"""The search for a minimum along one axis: bracket it, then narrow the bracket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_MOST_POINTS = 40
"""Of one search: far more than any needs that converges."""

T = TypeVar("T")


@dataclass(frozen=True)
class Minimum:
    """Where a search along an axis stands."""

    index: int | None
    """Of the best point; None while a point has no loss yet."""
    inside: bool = False
    """Points on both sides are worse."""


def bracket_minimum(
    points: list[T],
    losses_of: Callable[[list[T]], list[float | None]],
    *,
    beyond: Callable[[T, T], T | None],
    between: Callable[[T, T, T], tuple[bool, T] | None],
) -> tuple[list[T], Minimum]:
    """Go on from these ordered points (at least two) until the best one is bracketed closely.

    `beyond(inner, end)` is the next point after an end; `between(left, best, right)` one more
    between the best and a neighbour, with whether it is the left one. None where there is none.
    Returns all points in order; while one of them has no loss yet, the search waits for it.
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
    """To three digits: the same number on every machine, and one that can be typed."""
    return float(f"{x:.3g}")
