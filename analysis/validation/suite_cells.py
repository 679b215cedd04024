"""The cells of a suite: the smaller runs of a table, the larger ones, and how well a prediction
of the larger ones does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy

from analysis.fitting.held_out import rms
from analysis.validation.suite_tables import SuiteTable

LEAST = 8
"""Fewest runs to fit: two more than the most parameters of a law of N and D."""
FEWEST_VALUES = 2
"""Fewest different N, and D, among the runs to fit: with one, no law of both is determined."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cell:
    """The runs of a table up to a cut-off, and those above it."""

    table: SuiteTable
    axis: str
    """C, N or D: the column that is extrapolated."""
    factor: float
    """The largest value of the axis over the cut-off."""
    below: pd.DataFrame = field(repr=False)
    """The runs to fit: those with at most the largest value over the factor."""
    above: pd.DataFrame = field(repr=False)
    """The runs to predict."""


def cells_of(
    table: SuiteTable, axes: Sequence[str], factors: Sequence[float]
) -> tuple[list[Cell], str]:
    """Return the cells that a table allows, and why there is none if so.

    A cell needs LEAST runs below the cut-off, of at least two N and two D, and one above it. Where
    a gap in the runs gives several factors the same split, it counts once, at the largest of them.
    """
    runs = table.runs
    for name in ("N", "D"):
        if runs[name].nunique() < FEWEST_VALUES:
            return [], f"all {len(runs)} runs have one {name} ({runs[name].iloc[0]:.4g})"
    if len(runs) <= LEAST:
        return [], f"it has {len(runs)} runs; {LEAST} to fit and one to predict are needed"
    found: list[Cell] = []
    for axis in axes:
        size = runs[axis]
        if "run_id" in runs.columns:  # a run is held out as a whole
            size = size.groupby(runs["run_id"]).transform("max")
        split = -1
        for factor in sorted(factors, reverse=True):
            low = size <= size.max() / factor * (1 + 1e-9)
            below, above = runs[low], runs[~low]
            varied = min(below[name].nunique() for name in ("N", "D"))
            enough = len(below) >= LEAST and varied >= FEWEST_VALUES and len(above)
            if enough and len(below) != split:  # else it is the split of a larger factor
                split = len(below)
                found.append(Cell(table=table, axis=axis, factor=factor, below=below, above=above))
    reach = runs[axes[0]].max() / runs[axes[0]].min()
    least = " and ".join(f"{factor:g}" for factor in (min(factors), max(factors)))
    found.sort(key=lambda cell: (axes.index(cell.axis), cell.factor))
    return found, "" if found else (
        f"no cut-off leaves {LEAST} runs of two N and two D below it: its {len(runs)} runs span a "
        f"factor of {reach:.3g} in {axes[0]}, and the factors asked for lie between {least}"
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictive:
    """What a rule predicts for ln L of several runs: a centre, and a mixture of normals."""

    law: str
    """The law, or the laws, that carry the prediction."""
    centre: np.ndarray
    """(n,) predicted ln L."""
    weights: np.ndarray
    """(k,) weights of the members of the mixture."""
    means: np.ndarray
    """(k, n) predicted ln L of each member."""
    scales: np.ndarray
    """(k, n) standard deviations; NaN where a member gives no interval."""

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the central interval of ln L, (low, high)."""
        tail = (1 - level) / 2
        return self._quantile(tail), self._quantile(1 - tail)

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return the log of the predictive density at ln L = y."""
        with np.errstate(all="ignore"):
            z = (y - self.means) / self.scales
            each = -0.5 * z**2 - np.log(self.scales * np.sqrt(2 * np.pi))
            return scipy.special.logsumexp(each, b=self.weights[:, None], axis=0)

    def _quantile(self, p: float) -> np.ndarray:
        """Return the quantile of the mixture by bisection between those of its members."""
        each = self.means + scipy.special.ndtri(p) * self.scales
        low, high = each.min(axis=0), each.max(axis=0)
        if len(self.weights) == 1:
            return low
        for _ in range(60):
            middle = (low + high) / 2
            with np.errstate(all="ignore"):
                share = self.weights @ scipy.special.ndtr((middle - self.means) / self.scales)
            low, high = np.where(share < p, middle, low), np.where(share < p, high, middle)
        return np.where(np.isnan(each).any(axis=0), np.nan, (low + high) / 2)


def scores(predictive: Predictive, L: np.ndarray, level: float) -> dict[str, Any]:
    """Return how well a prediction does.

    rms and bias are those of ln(measured / predicted), the bias positive if measured above
    predicted; coverage is the share of runs inside the interval of `level`, width the median of
    ln(high / low), log_score the mean log density of ln L.
    """
    y = np.log(L)
    off = y - predictive.centre
    row: dict[str, Any] = {"rms": rms(off), "bias": float(off.mean())}
    low, high = predictive.interval(level)
    if np.isfinite(high - low).all():
        row["coverage"] = float(np.mean((y >= low) & (y <= high)))
        row["width"] = float(np.median(high - low))
        row["log_score"] = float(np.mean(predictive.log_density(y)))
    return row | {"n": len(y)}
