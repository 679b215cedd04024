"""Scaling laws fitted to tables of runs: laws, fits, intervals, frontiers, plans and figures.

Needs neither PyTorch nor Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from analysis import laws, published

# This function shares the name of its module, so it must be bound before the module is imported.
from analysis.critical_batch import contours, critical_batch
from analysis.fitting.checks import FitError
from analysis.fitting.combination import fit_or_combine as fit
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import choose
from analysis.frontiers.frontier import frontier
from analysis.laws import Law, LawError, Range, law
from analysis.tables.load import load
from analysis.validation.validate import validate

if TYPE_CHECKING:
    from analysis import figures
    from analysis.abilities.tasks import macro_error, task_laws
    from analysis.comparison.compare import compare
    from analysis.comparison.speedup import effective_speedup
    from analysis.curves.best_schedule import best_schedule
    from analysis.curves.collapse import collapse
    from analysis.curves.fit import CurveFit, fit_curves
    from analysis.curves.forecast import forecast
    from analysis.data_limits import data_rule
    from analysis.inspecting.inspect import inspect
    from analysis.planning.design import design
    from analysis.planning.plan import plan
    from analysis.planning.plans import plans
    from analysis.reporting.html import report
    from analysis.reporting.summary import summarise
    from analysis.transfer.effective_data import effective_data
    from analysis.validation.loss_relation import relate_losses
    from analysis.validation.predictability import predictability
    from analysis.validation.regret import regret
    from analysis.validation.suite import backtest

__distribution__ = "scaling-laws-lab"

__all__ = [
    "CurveFit",
    "FitError",
    "FitResult",
    "Law",
    "LawError",
    "Range",
    "backtest",
    "best_schedule",
    "choose",
    "collapse",
    "compare",
    "contours",
    "critical_batch",
    "data_rule",
    "design",
    "effective_data",
    "effective_speedup",
    "figures",
    "fit",
    "fit_curves",
    "forecast",
    "frontier",
    "inspect",
    "law",
    "laws",
    "load",
    "macro_error",
    "plan",
    "plans",
    "predictability",
    "published",
    "regret",
    "relate_losses",
    "report",
    "summarise",
    "task_laws",
    "validate",
]


_LAZY = {
    "CurveFit": "analysis.curves.fit",
    "backtest": "analysis.validation.suite",
    "best_schedule": "analysis.curves.best_schedule",
    "collapse": "analysis.curves.collapse",
    "compare": "analysis.comparison.compare",
    "data_rule": "analysis.data_limits",
    "design": "analysis.planning.design",
    "fit_curves": "analysis.curves.fit",
    "effective_data": "analysis.transfer.effective_data",
    "effective_speedup": "analysis.comparison.speedup",
    "forecast": "analysis.curves.forecast",
    "inspect": "analysis.inspecting.inspect",
    "macro_error": "analysis.abilities.tasks",
    "plan": "analysis.planning.plan",
    "plans": "analysis.planning.plans",
    "predictability": "analysis.validation.predictability",
    "relate_losses": "analysis.validation.loss_relation",
    "regret": "analysis.validation.regret",
    "report": "analysis.reporting.html",
    "summarise": "analysis.reporting.summary",
    "task_laws": "analysis.abilities.tasks",
}
"""Functions that are imported on first use, and their modules."""


def __getattr__(name: str) -> Any:
    if name == "figures":  # importing matplotlib takes longer than fitting a law
        return importlib.import_module("analysis.figures")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
