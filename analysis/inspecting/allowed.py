"""Which laws, frontier methods and figures a table allows, and what the others lack."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import pandas as pd

from analysis.figures.registry import FIGURES
from analysis.fitting.fit import fit
from analysis.fitting.fit import why_not as why_no_fit
from analysis.fitting.result import FitResult
from analysis.frontiers.frontier import METHODS
from analysis.frontiers.frontier import why_not as why_no_frontier
from analysis.inspecting.figures import why_no_figure
from analysis.inspecting.reading import Reading
from analysis.laws.law import Law
from analysis.laws.registry import LAWS
from analysis.tables.derive import derivable
from analysis.tables.rows import used_rows

LOAD_FIRST = "the table has to load first"
"""Reason why a table that the commands refuse allows no frontier and no figure, and a tracker's
runs no law."""
_SAMPLE = 150
"""Most rows of the quick fit."""


@dataclass(kw_only=True)
class Allowed:
    """What a table allows, and the reasons why it does not allow the rest."""

    laws: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    no_law: dict[str, str] = field(default_factory=dict)
    no_method: dict[str, str] = field(default_factory=dict)
    no_figure: dict[str, str] = field(default_factory=dict)
    quick: FitResult | None = None
    """A fit of Chinchilla's law without intervals to a part of the rows; None if there is none."""


def allowed(reading: Reading) -> Allowed:
    """Ask the laws, the methods and the registry of figures."""
    found = Allowed()
    if reading.closed:
        found.no_law = dict.fromkeys(LAWS, LOAD_FIRST)
        found.no_method = dict.fromkeys(METHODS, LOAD_FIRST)
        found.no_figure = dict.fromkeys(FIGURES, LOAD_FIRST)
        return found
    present = derivable([*reading.named.columns, *reading.symbols.values()])
    for name, law in LAWS.items():
        reason = _why_no_law(reading, law, present)
        if reason:
            found.no_law[name] = reason
        else:
            found.laws.append(name)
    if reading.runs is None:
        found.no_method = dict.fromkeys(METHODS, LOAD_FIRST)
        found.no_figure = dict.fromkeys(FIGURES, LOAD_FIRST)
        return found
    runs = used_rows(reading.runs)
    if "chinchilla" in found.laws:
        found.quick = quick_fit(runs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        methods = why_no_frontier(runs, reading.curves, found.quick)
    found.no_method = {name: _short(why) for name, why in methods.items() if why}
    found.methods = [name for name in methods if not methods[name]]
    figures = why_no_figure(reading, runs, found.no_method)
    found.no_figure = {name: _short(why) for name, why in figures.items() if why}
    found.figures = [name for name in figures if not figures[name]]
    return found


def quick_fit(runs: pd.DataFrame) -> FitResult | None:
    """Fit Chinchilla's law without intervals to at most :data:`_SAMPLE` rows of `runs`."""
    if len(runs) > _SAMPLE:
        runs = runs.sample(_SAMPLE, random_state=0).sort_index()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fit("chinchilla", runs, bootstrap=0)
    except (ValueError, ArithmeticError):
        return None


def _why_no_law(reading: Reading, law: Law, present: set[str]) -> str:
    """Return why a law cannot be fitted, in short; "" if it can."""
    columns = (*law.inputs, law.target)
    absent = [name for name in columns if name not in present]
    if absent:
        return _needs(absent)
    runs = reading.load(tuple(dict.fromkeys((*columns, *(("L",) if law.best_of else ())))))
    if isinstance(runs, str):
        runs = reading.load(columns) if law.best_of else runs
    if isinstance(runs, str):
        return _short(runs)
    if len(runs) <= len(law.params):
        return f"needs {len(law.params) + 1} rows at least; the table has {len(runs)}"
    return _short(why_no_fit(law, runs))


def _needs(names: list[str]) -> str:
    return f"needs {', '.join(names)}"


def _short(reason: str) -> str:
    """Return a reason without the list of all columns of the table."""
    return reason.partition("; it has ")[0]
