"""The runs that a design chooses from, and the plain grid that it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.planning.design_spec import Point
from analysis.planning.model_shape import suggest_model
from scaling.config import ModelConfig, RunConfig
from scaling.errors import ConfigError
from scaling.size import parameters

_SIZES = 12
"""Sizes to choose from."""
_HORIZONS = 13
"""Horizons to choose from at each size."""
_REACH = {"N": 4, "D": 4, "ratio": 1}
"""Upper end of a default range over the largest value of the data."""


def candidates(
    runs: pd.DataFrame,
    budget: float,
    *,
    models: Sequence[ModelConfig] | None,
    ranges: Mapping[str, tuple[float, float] | None],
    base: Mapping[str, Any],
) -> list[Point]:
    """Return the points in the ranges of N, D and D / N that cost at most half the budget.

    `ranges` are those of 'N', 'D' and 'ratio' (D / N); None stands for that of the runs so far,
    extended. `base` are the fields that all runs share. Raises ConfigError if a range is
    impossible or there is no such point.
    """
    runs = runs.assign(ratio=runs["D"] / runs["N"])
    ends = {name: _range(name, runs[name], given) for name, given in ranges.items()}
    if models is None:
        models = _models(runs, ends["N"], base)
    unit = base.get("batch_tokens", RunConfig().batch_tokens)
    points = []
    for model in models:
        N = parameters(model, 0).N
        for D in np.geomspace(*ends["D"], _HORIZONS):
            point = Point(model, N, float(max(round(D / unit), 1) * unit))
            if budget / 2 >= point.C and ends["ratio"][0] <= point.D / N <= ends["ratio"][1]:
                points.append(point)
    if not points:
        cheapest = 6 * min(parameters(m, 0).N for m in models) * ends["D"][0]
        raise ConfigError(
            f"budget={budget:.3g} FLOPs pays for no run: the smallest N and D take {cheapest:.3g}, "
            f"and one run may take half (with D / N from {ends['ratio'][0]:.3g} to "
            f"{ends['ratio'][1]:.3g}). Give more, or widen N, D or the ratio."
        )
    return list(dict.fromkeys(points))


def _range(name: str, values: pd.Series, given: tuple[float, float] | None) -> tuple[float, float]:
    low, high = given or (values.min(), _REACH[name] * values.max())
    if not 0 < low < high:
        raise ConfigError(f"{name}=({low:g}, {high:g}) must be a range: 0 < smallest < largest.")
    return float(low), float(high)


def _models(
    runs: pd.DataFrame, ends: tuple[float, float], base: Mapping[str, Any]
) -> list[ModelConfig]:
    """Return models of up to 12 sizes in this range of N.

    If all runs so far have one depth, so have these: sizes of one depth are compared with each
    other.
    """
    like = ModelConfig(
        **{k.removeprefix("model."): v for k, v in base.items() if k.startswith("model.")}
    )
    depths = np.unique(pd.to_numeric(runs.get("n_layer", pd.Series()), errors="coerce"))
    n_layer = int(depths[0]) if len(depths) == 1 and depths[0] >= 1 else None
    suggested = (suggest_model(N, model=like, n_layer=n_layer) for N in np.geomspace(*ends, _SIZES))
    models = list(dict.fromkeys(model for model in suggested if model is not None))
    low, high = ends[0] / 1.1, ends[1] * 1.1  # small models come in coarse steps
    return [model for model in models if low <= parameters(model, 0).N <= high] or models


def plain_grid(points: Sequence[Point], room: float, count: int) -> np.ndarray:
    """Return the indices of a plain grid among the points, of about `count` runs.

    It has about as many sizes as horizons, evenly spaced in logs from the smallest ones. The
    largest ones are as large as the FLOPs `room` allow.
    """
    sizes = np.unique([p.N for p in points])
    horizons = np.unique([p.D for p in points])
    index = {(p.N, p.D): i for i, p in enumerate(points)}
    best, spent = np.array([], int), 0.0
    side = max(2, round(math.sqrt(count)))
    for sides in {max(2, side - 1), side, side + 1}:
        for reach in np.linspace(0.1, 1, 91):
            axes = []
            for values in (sizes, horizons):
                at = np.linspace(0, reach * (len(values) - 1), sides).round().astype(int)
                axes.append(values[np.unique(at)])
            cells = [index.get((N, D)) for N in axes[0] for D in axes[1]]
            if None in cells:
                continue
            chosen = np.array(cells, int)
            cost = sum(points[i].C for i in chosen)
            if spent < cost <= room:
                best, spent = chosen, cost
    return best


def rate_checks(points: Sequence[Point], budget: float) -> tuple[tuple[Point, float], ...]:
    """Return (run, factor of the learning rate) for checks of the learning rate.

    The smallest and the largest size are trained at half and twice the rate, on the least data,
    for at most a fifth of the budget.
    """
    found: list[tuple[Point, float]] = []
    for N in (min(p.N for p in points), max(p.N for p in points)):
        point = min((p for p in points if p.N == N), key=lambda p: p.D)
        if 2 * point.C + sum(p.C for p, _ in found) <= budget / 5:
            found += [(point, 0.5), (point, 2.0)]
    return tuple(found)
