"""The runs that a design chooses from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_CLOSE = 1.5
"""A set of given points takes one of about the D that it needs: within this factor."""
_ROUNDING = 1 + 1e-9
_REACH = {"N": 4, "D": 4, "ratio": 1}
"""Upper end of a default range over the largest value of the data."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The points to choose from, and the limits that other runs of the same sizes keep as well."""

    points: list[Point]
    sizes: list[tuple[ModelConfig, int]]
    """Models and their N, in order of N."""
    horizons: tuple[float, float]
    """Smallest and largest D."""
    ratio: tuple[float, float]
    """Smallest and largest D / N."""
    dearest: float
    """FLOPs of one run at most."""
    unit: int
    """Tokens of a batch, of which D is a multiple."""
    free: bool
    """Whether D may lie between those of the points."""

    def at(self, model: ModelConfig, D: float) -> Point | None:
        """Return the run of a model on about D tokens, or None if it is outside the limits."""
        if not self.free:
            same = [p for p in self.points if p.model == model]
            point = min(same, key=lambda p: abs(math.log(p.D / D)))
            return point if abs(math.log(point.D / D)) < math.log(_CLOSE) else None
        N = next(N for each, N in self.sizes if each == model)
        point = Point(model, N, float(max(round(D / self.unit), 1) * self.unit))
        inside = self.horizons[0] / _ROUNDING <= D <= self.horizons[1] * _ROUNDING
        return point if inside and self._allowed(point) else None

    def _allowed(self, point: Point) -> bool:
        return self.dearest >= point.C and self.ratio[0] <= point.D / point.N <= self.ratio[1]

    @classmethod
    def among(cls, points: Sequence[Point]) -> Candidates:
        """Return given points as candidates: no other run is allowed."""
        sizes = sorted({p.model: p.N for p in points}.items(), key=lambda size: size[1])
        ends = min(p.D for p in points), max(p.D for p in points)
        return cls(
            points=list(points), sizes=sizes, horizons=ends, ratio=(0, math.inf), unit=1,
            dearest=max(p.C for p in points), free=False,
        )  # fmt: skip

    @classmethod
    def within(
        cls,
        runs: pd.DataFrame,
        budget: float,
        *,
        models: Sequence[ModelConfig] | None,
        ranges: Mapping[str, tuple[float, float] | None],
        base: Mapping[str, Any],
    ) -> Candidates:
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
        sizes = sorted(((model, parameters(model, 0).N) for model in models), key=lambda s: s[1])
        found = cls(
            points=[], sizes=sizes, horizons=ends["D"], ratio=ends["ratio"], dearest=budget / 2,
            unit=unit, free=True,
        )  # fmt: skip
        horizons = np.geomspace(*ends["D"], _HORIZONS)
        cells = [found.at(model, D) for model, _ in sizes for D in horizons]
        found.points.extend(dict.fromkeys(p for p in cells if p is not None))
        if not found.points:
            cheapest = 6 * sizes[0][1] * ends["D"][0]
            raise ConfigError(
                f"budget={budget:.3g} FLOPs pays for no run: the smallest N and D take "
                f"{cheapest:.3g}, and one run may take half (with D / N from "
                f"{ends['ratio'][0]:.3g} to {ends['ratio'][1]:.3g}). Give more, or widen N, D or "
                "the ratio."
            )
        return found


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
