"""Measured losses as a function of N at fixed compute: isoFLOP budgets, or a grid read across."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from analysis.frontiers.budgets import budget_of, budget_sets
from scaling.errors import TableError

FEWEST = 4
"""Fewest sizes at one compute."""
_TOLERANCE = 0.05
"""Relative difference of C within a budget whose losses are taken as they are."""
_ACROSS = 8
"""Number of computes at which a grid is read."""
_SAME_SIZE = 0.02
"""Sizes whose ln N differ by less than this are one."""


class ComputeTarget(NamedTuple):
    """The losses of several sizes at one compute."""

    C: float
    N: np.ndarray
    L: np.ndarray

    @property
    def best(self) -> int:
        """Index of the lowest loss."""
        return int(np.argmin(self.L))

    @property
    def interior(self) -> bool:
        """Whether the best run has neither the smallest nor the largest size."""
        return 0 < self.best < len(self.L) - 1

    def loss(self, N: float) -> float:
        """Return the loss of N parameters by Akima's cubics in ln N; at the ends outside."""
        inside = np.clip(N, self.N.min(), self.N.max())
        between = scipy.interpolate.Akima1DInterpolator(np.log(self.N), self.L)
        return float(between(np.log(inside)))


def compute_targets(runs: pd.DataFrame) -> list[ComputeTarget]:
    """Return the computes at which a table of N, D, C and L has four sizes or more, in order.

    These are its isoFLOP budgets. Without any, the losses of each size are interpolated along D
    (monotone cubics in logarithms) at computes that at least four sizes have runs on both sides
    of. No law is involved. A target whose best run is at the edge of the sizes is left out.
    """
    try:
        budgets, _ = budget_sets(runs, _TOLERANCE)
    except TableError:
        found = _across(runs)
    else:
        found = [
            ComputeTarget(budget_of(b), b["N"].to_numpy(float), b["L"].to_numpy(float))
            for b in budgets
        ]
    return [target for target in found if target.interior]


def _across(runs: pd.DataFrame) -> list[ComputeTarget]:
    """Read a grid of sizes and tokens at several computes."""
    ordered = runs.sort_values(["N", "D"], kind="stable")
    size = np.cumsum(np.diff(np.log(ordered["N"]), prepend=-np.inf) > _SAME_SIZE)
    lines = []
    for _, rows in ordered.groupby(size):
        rows = rows.groupby("C", as_index=False)[["N", "L"]].mean()
        if len(rows) >= 2:
            x, y = np.log(rows["C"].to_numpy(float)), np.log(rows["L"].to_numpy(float))
            line = scipy.interpolate.PchipInterpolator(x, y, extrapolate=False)
            lines.append((float(rows["N"].mean()), x, line))
    if len(lines) < FEWEST:
        return []
    ends = np.unique(np.concatenate([x for _, x, _ in lines]))
    reached = [u for u in ends if sum(x[0] <= u <= x[-1] for _, x, _ in lines) >= FEWEST]
    if len(reached) < 2:
        return []
    found = []
    for u in np.linspace(reached[0], reached[-1], _ACROSS):
        at = [(N, np.exp(float(line(u)))) for N, x, line in lines if x[0] <= u <= x[-1]]
        if len(at) >= FEWEST:
            N, L = map(np.array, zip(*at, strict=True))
            found.append(ComputeTarget(float(np.exp(u)), N, L))
    return found
