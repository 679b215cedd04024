"""Which figures runs allow: the columns that the registry names, and conditions that can be tested
without drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from analysis.figures.registry import FIGURES, lacking
from analysis.fitting.fit import why_not
from analysis.frontiers.budgets import slices
from analysis.inspecting.reading import Reading
from analysis.laws.registry import LAWS
from analysis.tables.conventions import counted
from analysis.tables.searches import best_of_searches
from analysis.tables.select import lower_edge, sizes
from analysis.tables.states import RUNNING
from scaling.abilities.table import read as read_scores
from scaling.errors import TableError
from scaling.table import read_tests

_WITH_LAWS = {
    "kaplan4": ("kaplan_ND",), "kaplan9": ("kaplan_ND",), "contours": ("chinchilla",),
    "deviation": ("chinchilla",), "holdout": ("chinchilla",), "profile": ("chinchilla",),
    "kaplan15": ("chinchilla",),
}  # fmt: skip
"""Laws that a figure fits to all runs."""
_OF_EDGES = {"kaplan1": ("kaplan_D", "kaplan_N"), "kaplan23": ("kaplan_D", "kaplan_N")}
"""Laws of one variable that a figure fits to the lower edge of the runs."""
_COMPARED = {"kaplan7": ("family",), "kaplan17": ("n_repeat",)}
"""Columns in which the runs of a figure have to differ."""


def why_no_figure(
    reading: Reading, runs: pd.DataFrame, no_method: Mapping[str, str]
) -> dict[str, str]:
    """Return why each figure cannot be drawn, as far as it can be told; "" if it can.

    no_method: why each method finds no frontier, by its name.
    """
    filled = [*runs.columns[runs.notna().any()], *_beside(reading)]
    reasons = {}
    for name, drawing in FIGURES.items():
        if absent := lacking(drawing, filled, reading.curves):
            reasons[name] = f"needs {', '.join(absent)}"
        else:
            reasons[name] = _reason(name, reading, runs, no_method)
    return reasons


def _reason(name: str, reading: Reading, runs: pd.DataFrame, no_method: Mapping[str, str]) -> str:
    for law in _WITH_LAWS.get(name, ()):
        if reason := why_not(law, runs):
            return reason
    for law in _OF_EDGES.get(name, ()):
        if reason := why_not(law, lower_edge(runs, LAWS[law].inputs[0])):
            return reason
    for column in _COMPARED.get(name, ()):
        if runs[column].nunique() < 2:
            return f"needs runs that differ in {column}"
    if name == "isoflop":
        return no_method.get("isoflop", "")
    if name == "frontier":
        return no_method.get("parametric", "") if len(no_method) == 4 else ""
    check = _CHECKS.get(name)
    return check(reading, runs) if check else ""


def _beside(reading: Reading) -> list[str]:
    """Return the names of the tables of tests and tasks of a results folder that hold rows."""
    folder = Path(reading.given) if isinstance(reading.given, str | Path) else None
    if not reading.ours or folder is None or not folder.is_dir():
        return []
    measured = (folder / "tests.parquet").is_file() and len(read_tests(folder))
    return [*(["tests"] if measured else []), *(["tasks"] if len(read_scores(folder)) else [])]


# ------------------------------------------------------------------ conditions of single figures


def _unfinished(reading: Reading, runs: pd.DataFrame) -> str:
    if reading.curves is None:
        return "needs learning curves"
    states = reading.named.get("status", pd.Series(dtype=object))
    return "" if states.eq(RUNNING).any() else "all runs have finished"


def _other_corpora(reading: Reading, runs: pd.DataFrame) -> str:
    tests = read_tests(reading.given)
    own = tests["run_id"].map(runs.set_index("run_id")["corpus"])
    other = (tests["corpus"] != own) & own.notna()
    return "" if other.any() else "needs runs measured on another corpus (config eval.others)"


def _depths(reading: Reading, runs: pd.DataFrame) -> str:
    depths = runs.assign(size=sizes(runs["N"])).groupby("size")["n_layer"].nunique()
    if depths.max() < 2:
        return "needs runs of one size (N within 8 %) that differ in depth"
    return _other_corpora(reading, runs)


def _schedules(reading: Reading, runs: pd.DataFrame) -> str:
    if reading.curves is None or "lr" not in reading.curves.columns:
        return "needs learning rates along the curves (column lr)"
    kinds = runs.groupby(["N", "D"])["schedule"].nunique()
    return "" if kinds.max() > 1 else "needs runs of one size and horizon that differ in schedule"


def _several_epochs(reading: Reading, runs: pd.DataFrame) -> str:
    repeated = runs["D_unique"] < 0.99 * runs["D"]
    if not repeated.any():
        return "needs runs of several epochs (D_unique below D)"
    return "needs runs of one epoch too" if repeated.all() else ""


def _searched(reading: Reading, runs: pd.DataFrame) -> str:
    if runs.groupby("N")["lr_peak"].nunique().max() < 3:
        return "needs three learning rates of one size"
    try:
        best_of_searches(runs, "lr_peak", ("N", "D"))
    except TableError as error:
        return str(error)
    return ""


def _parametrisations(reading: Reading, runs: pd.DataFrame) -> str:
    base = runs["mup_base_width"]
    return "needs runs with and without muP (mup_base_width)" if base.notna().all() else ""


def _tagged(reading: Reading, runs: pd.DataFrame) -> str:
    shapes = runs["tag"].isin(("feed_forward", "aspect", "heads"))
    return "" if shapes.any() else "needs runs tagged feed_forward, aspect or heads"


def _ladder(reading: Reading, runs: pd.DataFrame) -> str:
    if runs["N"].max() < 4 * runs["N"].min() or runs["N"].nunique() < 3:
        return "needs three sizes over a factor of 4"
    curves = reading.curves
    if curves is None or curves["run_id"].value_counts().max() < 3:
        return "needs three evaluations of each run"
    return ""


def _slices(reading: Reading, runs: pd.DataFrame) -> str:
    if reading.curves is None:
        return ""
    try:
        slices(counted(reading.curves, "N", "C", need=("run_id",)))
    except TableError as error:
        return str(error)
    return ""


_CHECKS: dict[str, Callable[[Reading, pd.DataFrame], str]] = {
    "forecast": _unfinished, "kaplan8": _other_corpora, "kaplan24": _depths,
    "kaplan22": _schedules, "kaplan16": _several_epochs, "kaplanD1": _searched,
    "kaplan11": _slices,
    "mup": _parametrisations, "kaplan5": _tagged, "collapse": _ladder,
}  # fmt: skip
