"""Fits that several figures share."""

from __future__ import annotations

import pandas as pd

from analysis import laws
from analysis.critical_batch import CriticalBatch, contours, critical_batch
from analysis.fitting.fit import fit as fit_law
from analysis.frontiers.envelope import envelope
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Frontier
from scaling.errors import TableError


def default_frontier(runs: pd.DataFrame, curves: pd.DataFrame | None) -> Frontier:
    if curves is None:
        return parametric(fit_law(laws.chinchilla, runs))
    return envelope(curves)


def bcrit(points: pd.DataFrame, critical: CriticalBatch | None = None) -> CriticalBatch:
    """`critical`, or that of these curves; with its law B_crit(L), or TableError."""
    critical = critical or critical_batch(contours(points))
    if critical.law is None:
        raise TableError("B_crit(L) takes contours at three losses or more.")
    return critical
