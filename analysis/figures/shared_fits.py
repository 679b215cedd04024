"""Default fits that several figures share."""

from __future__ import annotations

import pandas as pd

from analysis import laws
from analysis.critical_batch import CriticalBatch, contours, critical_batch
from analysis.fitting.fit import fit as fit_law
from analysis.frontiers.envelope import envelope
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Frontier


def default_frontier(runs: pd.DataFrame, curves: pd.DataFrame | None) -> Frontier:
    """Return the envelope of the curves or, without curves, the parametric frontier of the runs."""
    if curves is None:
        return parametric(fit_law(laws.chinchilla, runs))
    return envelope(curves)


def critical_batch_of(points: pd.DataFrame, critical: CriticalBatch | None = None) -> CriticalBatch:
    """Return `critical`, by default that of these curves. Raises TableError without a law
    B_crit(L)."""
    critical = critical or critical_batch(contours(points))
    critical.require_law()
    return critical
