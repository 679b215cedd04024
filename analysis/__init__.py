"""Scaling laws fitted to tables of runs: laws, fits, intervals, frontiers, plans and figures.

Needs neither torch nor ray.
"""

from __future__ import annotations

import importlib
from typing import Any

from analysis import laws
from analysis.fit import FitError, FitResult, fit
from analysis.laws import Law, LawError, Range, law

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
    "published",
    "validate",
]

_FUNCTIONS = ("frontier", "load", "plan", "validate")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    module = importlib.import_module(f"analysis.{name}")
    value = getattr(module, name) if name in _FUNCTIONS else module
    globals()[name] = value
    return value
