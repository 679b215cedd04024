"""Default fits that several figures share."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.critical_batch import CriticalBatch, contours, critical_batch
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import Choice, choose
from analysis.frontiers.envelope import envelope
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Comparison, Frontier
from analysis.laws import Law


def known_fit(fits: Iterable[FitResult], law: Law) -> FitResult | None:
    """Return the fit of a law if `fits` has it, with draws for its intervals."""
    return next((f for f in fits if type(f) is FitResult and f.law == law and len(f.samples)), None)


def known_frontier(compared: Comparison | None, method: str) -> Frontier | None:
    """Return the frontier by a method if `compared` has it."""
    return None if compared is None else compared.fronts.get(method)


def default_frontier(
    runs: pd.DataFrame, curves: pd.DataFrame | None, compared: Comparison | None = None
) -> Frontier:
    """Return the envelope of the curves or, without curves, the frontier of the law chosen; from
    `compared` if that has it."""
    known = known_frontier(compared, "parametric" if curves is None else "envelope")
    if known is not None:
        return known
    if curves is None:
        return parametric(chosen(runs))
    return envelope(curves)


def chosen(runs: pd.DataFrame, choice: Choice | None = None) -> FitResult:
    """Return the fitted law of N and D to use: that of `choice`, by default chosen from `runs`."""
    return choose(runs, alone=True).first if choice is None else choice.first


def critical_batch_of(points: pd.DataFrame, critical: CriticalBatch | None = None) -> CriticalBatch:
    """Return `critical`, by default that of these curves. Raises TableError without a law
    B_crit(L)."""
    critical = critical or critical_batch(contours(points))
    critical.require_law()
    return critical
