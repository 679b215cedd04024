"""Scaling laws fitted to tables of runs: laws, fits, intervals, frontiers, plans and figures.

Needs neither torch nor ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Functions that share their module's name are bound here, before anyone imports the module.
from analysis import laws, published
from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.frontier import frontier
from analysis.laws import Law, LawError, Range, law
from analysis.plan import plan, plans
from analysis.tables.load import load
from analysis.validate import validate

if TYPE_CHECKING:
    from analysis import figures

__distribution__ = "scaling-laws-lab"

__all__ = [
    "FitError",
    "FitResult",
    "Law",
    "LawError",
    "Range",
    "figures",
    "fit",
    "frontier",
    "law",
    "laws",
    "load",
    "plan",
    "plans",
    "published",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name == "figures":  # matplotlib takes longer to import than a law to fit
        return importlib.import_module("analysis.figures")
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
