"""Which laws, frontier methods and figures a table allows, and what the others lack."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis.figures.registry import FIGURES, lacking
from analysis.fitting.fit import fit
from analysis.fitting.fit import why_not as why_no_fit
from analysis.fitting.result import FitResult
from analysis.frontiers.frontier import METHODS
from analysis.frontiers.frontier import why_not as why_no_frontier
from analysis.inspecting.reading import Reading
from analysis.laws.law import Law
from analysis.laws.registry import LAWS
from analysis.tables.derive import derivable
from analysis.tables.rows import used_rows
from analysis.tables.select import lower_edge
from analysis.tables.states import RUNNING
from scaling.abilities.table import read as read_scores

_SAMPLE = 250
"""Most rows of the quick fit."""
_TO_COMPARE = {
    "kaplan7": "family", "kaplan17": "n_repeat", "kaplanD1": "lr_peak", "mup": "lr_peak",
    "kaplan22": "schedule", "kaplan24": "n_layer", "kaplan9": "D_unique", "kaplan16": "D_unique",
}  # fmt: skip
"""Columns in which the runs of a figure have to differ."""
_LINES = {"kaplan1": ("kaplan_D", "kaplan_N"), "kaplan23": ("kaplan_D", "kaplan_N")}
"""Laws of one variable that a figure fits to the lower edge of the runs."""


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
    present = derivable([*reading.named.columns, *reading.symbols.values()])
    for name, law in LAWS.items():
        reason = _why_no_law(reading, law, present)
        if reason:
            found.no_law[name] = reason
        else:
            found.laws.append(name)
    if reading.runs is None:
        why = "the table has to load first."
        found.no_method = dict.fromkeys(METHODS, why)
        found.no_figure = dict.fromkeys(FIGURES, why)
        return found
    runs = used_rows(reading.runs)
    if "chinchilla" in found.laws:
        found.quick = quick_fit(runs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        methods = why_no_frontier(runs, reading.curves, found.quick)
    found.no_method = {name: _short(why) for name, why in methods.items() if why}
    found.methods = [name for name in methods if not methods[name]]
    for name in FIGURES:
        if reason := _why_no_figure(reading, runs, found, name):
            found.no_figure[name] = reason
        else:
            found.figures.append(name)
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
    return _short(runs if isinstance(runs, str) else why_no_fit(law, runs))


def _why_no_figure(reading: Reading, runs: pd.DataFrame, found: Allowed, name: str) -> str:
    """Return why a figure cannot be drawn, as far as it can be told without drawing it."""
    drawing = FIGURES[name]
    if absent := lacking(drawing, [*runs.columns, *_beside(reading)], reading.curves):
        return f"needs {', '.join(absent)}"
    if drawing.takes_choice and found.quick is None:
        return "needs a law of N and D: " + (found.no_law.get("chinchilla") or "none can be fitted")
    if name == "isoflop":
        return found.no_method.get("isoflop", "")
    if name == "forecast":
        states = reading.named.get("status", pd.Series(dtype=object))
        if reading.curves is None:
            return "needs learning curves"
        return "" if states.eq(RUNNING).any() else "all runs have finished"
    column = _TO_COMPARE.get(name)
    if column and column in runs.columns and runs[column].nunique(dropna=False) < 2:
        return f"needs runs that differ in {column}"
    for law in _LINES.get(name, ()):
        variable = LAWS[law].inputs[0]
        if reason := why_no_fit(law, lower_edge(runs, variable)):
            return _short(reason)
    return ""


def _beside(reading: Reading) -> list[str]:
    """Return the names of the tables of tests and tasks of a results folder that hold rows."""
    folder = reading.given if isinstance(reading.given, str | Path) else None
    if not reading.ours or folder is None or not Path(folder).is_dir():
        return []
    found = ["tests"] if (Path(folder) / "tests.parquet").is_file() else []
    return [*found, *(["tasks"] if len(read_scores(folder)) else [])]


def _needs(names: list[str]) -> str:
    return f"needs {', '.join(names)}"


def _short(reason: str) -> str:
    """Return a reason without the list of all columns of the table."""
    return reason.partition("; it has ")[0]


def grouped(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Return {reason: names}, in the order of the names."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return groups
