"""The usual sets of runs, which a design is compared with at equal cost: grid, isoFLOP, ladder.

Each is made of the sizes that the design may choose from, within the same limits, and costs as much
of the budget as it can. Several shapes of each kind are offered; the comparison takes the best.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from analysis.planning.design_spec import Point
from scaling.config import ModelConfig

KINDS = {
    "optimal": "optimal design",
    "isoflop": "isoFLOP set",
    "ladder": "ladder",
    "grid": "plain grid",
}
"""Names of the compared sets for readers."""
_FEWEST_SIZES = 3
"""Sizes that an isoFLOP budget and a ladder have at least."""
_EQUAL = 0.9
"""A set must cost at least this fraction of what the most expensive one of its kind does."""
_SCALES = np.geomspace(0.3, 4, 28)
"""Factors on the compute of a set that are tried, to spend the budget."""

At = Callable[[ModelConfig, float], Point | None]
"""Returns the run of a model on about D tokens, or None if it is outside the limits."""


def alternatives(
    sizes: Sequence[tuple[ModelConfig, int]],
    at: At,
    room: float,
    most: int,
    optimum: Callable[[float], float],
) -> dict[str, list[list[Point]]]:
    """Return sets of runs of each kind that cost at most `room`, and nearly that if they can.

    sizes    models and their N, in order of N.
    most     maximum number of runs.
    optimum  N_opt as a function of C, on which isoFLOP sets are centred.
    """
    kinds = {
        "isoflop": _isoflop_sets(sizes, at, room, optimum),
        "ladder": _ladders(sizes, at, room, optimum),
        "grid": _grids(sizes, at, room),
    }
    found: dict[str, list[list[Point]]] = {}
    for kind, shapes in kinds.items():
        sets = []
        for shape in shapes:
            fitting = [
                points
                for scale in _SCALES
                if 0 < len(points := list(dict.fromkeys(shape(scale)))) <= most
                and sum(p.C for p in points) <= room
            ]
            if fitting:
                sets.append(max(fitting, key=lambda points: sum(p.C for p in points)))
        costs = [sum(p.C for p in points) for points in sets]
        found[kind] = [
            points for points, cost in zip(sets, costs, strict=True) if cost >= _EQUAL * max(costs)
        ]
    return found


def _nearest(sizes: Sequence[tuple[ModelConfig, int]], N: float) -> tuple[ModelConfig, int]:
    return min(sizes, key=lambda size: abs(np.log(size[1] / N)))


def _spread_about(runs: Sequence[Point], N: float, width: float, count: int) -> list[Point]:
    """Return `count` of the runs with sizes within `width` of N, evenly spread, or the nearest."""
    nearest = sorted(runs, key=lambda p: abs(np.log(p.N / N)))
    inside = [p for p in nearest if abs(np.log(p.N / N)) <= np.log(width) * 1.05]
    chosen = sorted(inside if len(inside) >= count else nearest[:count], key=lambda p: p.N)
    at = np.unique(np.linspace(0, len(chosen) - 1, count).round().astype(int)) if chosen else []
    return [chosen[i] for i in at]


def _isoflop_sets(
    sizes: Sequence[tuple[ModelConfig, int]],
    at: At,
    room: float,
    optimum: Callable[[float], float],
) -> Iterator[Callable[[float], list[Point]]]:
    """Yield budgets that are a factor apart, each with sizes spread about its optimum."""
    for budgets, each, apart, width in itertools.product((2, 3, 4), (3, 5, 7), (3, 10), (2, 4)):
        ratios = float(apart) ** -np.arange(budgets)
        top = room / (each * ratios.sum())

        def points(scale: float, ratios=ratios, top=top, each=each, width=width) -> list[Point]:
            found: list[Point] = []
            for C in scale * top * ratios:
                runs = [p for model, N in sizes if (p := at(model, C / (6 * N))) is not None]
                runs = _spread_about(runs, optimum(C), width, each)
                if len(runs) < _FEWEST_SIZES:
                    return []
                found += runs
            return found

        yield points


def _ladders(
    sizes: Sequence[tuple[ModelConfig, int]],
    at: At,
    room: float,
    optimum: Callable[[float], float],
) -> Iterator[Callable[[float], list[Point]]]:
    """Yield sizes that are a factor apart, each with D / N as at the optimum of the largest."""
    for rungs, apart in itertools.product((3, 4, 5, 6, 8), (1.5, 2, 3)):
        squares = float(apart) ** (-2.0 * np.arange(rungs))
        top = room / squares.sum()

        def points(scale: float, top=top, rungs=rungs, apart=apart) -> list[Point]:
            C = scale * top
            N = optimum(C)
            ratio = C / (6 * N**2)
            steps = N / float(apart) ** np.arange(rungs)
            models = dict.fromkeys(_nearest(sizes, size) for size in steps)
            runs = [p for model, n in models if (p := at(model, ratio * n)) is not None]
            return runs if len(runs) >= _FEWEST_SIZES else []

        yield points


def _grids(
    sizes: Sequence[tuple[ModelConfig, int]], at: At, room: float
) -> Iterator[Callable[[float], list[Point]]]:
    """Yield sizes x horizons from the smallest size up, without the cells outside the limits."""
    smallest = sizes[0][1]
    for side, reach in itertools.product((3, 4, 5, 6), (4, 16, 64)):
        models = dict.fromkeys(
            _nearest(sizes, N) for N in np.geomspace(smallest, reach * smallest, side)
        )

        def points(scale: float, models=models, side=side, reach=reach) -> list[Point]:
            largest = max(N for _, N in models)
            longest = scale * room / (2 * 6 * largest)
            horizons = np.geomspace(longest / reach, longest, side)
            cells = [at(model, D) for model, _ in models for D in horizons]
            found = [p for p in cells if p is not None]
            full = len({p.N for p in found}) >= 2 and len({p.D for p in found}) >= 2
            return found if full and len(found) >= 4 else []

        yield points
