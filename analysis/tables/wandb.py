"""Tables exported from Weights & Biases: charts, and tables of runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from typing import Any

import pandas as pd

_BANDS = ("__MIN", "__MAX")
"""Endings of the metrics that bound the band of a line."""

_STEPS = ("step", "_step", "global_step", "trainer/global_step")
"""Names of an axis that counts optimiser steps, in lower case."""

_SETTING = re.compile(r"([^,:=]+?)\s*[:=]\s*([^,]*[^,\s])\s*(?:,\s*|$)")
_SETTINGS = re.compile(rf"(?:{_SETTING.pattern})+")


def is_chart(table: pd.DataFrame) -> bool:
    """Return whether this is a chart: a horizontal axis, then one column 'RUN - METRIC' per run."""
    names = [str(c) for c in table.columns]
    return len(names) > 1 and " - " not in names[0] and all(" - " in name for name in names[1:])


def melt_chart(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and point: run_id, the axis, and each metric.

    Runs that are grouped are named by their settings, as in 'n_params: 21000000, lr: 0.001'. Each
    setting becomes a column.
    """
    axis = table.columns[0]
    lines: dict[str, dict[str, pd.Series]] = {}
    for name in table.columns[1:]:
        run, _, metric = str(name).rpartition(" - ")
        if not metric.endswith(_BANDS):
            lines.setdefault(run, {})[metric] = table[name]
    metrics = list(dict.fromkeys(metric for found in lines.values() for metric in found))
    taken = {"run_id", str(axis), *metrics}
    rows = [
        pd.DataFrame(
            {"run_id": run, **_settings_of(run, lines, taken), axis: table[axis], **values}
        )
        for run, values in lines.items()
    ]
    if not rows:
        return table
    return pd.concat(rows, ignore_index=True).dropna(subset=metrics, how="all", ignore_index=True)


def _settings_of(run: str, runs: Iterable[str], taken: Set[str]) -> dict[str, Any]:
    """Return the settings in the name of a run, if all runs are named by the same ones."""
    found = [dict(_SETTING.findall(each)) for each in runs if _SETTINGS.fullmatch(each)]
    if len(found) < len(list(runs)) or any(each.keys() != found[0].keys() for each in found):
        return {}
    return {key: _number(value) for key, value in _SETTING.findall(run) if key not in taken}


def _number(text: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def kind_of_chart(table: pd.DataFrame) -> str:
    """Return what a table shows if it is a chart and not a table of runs, else ""."""
    if is_chart(table):
        return "a chart exported from Weights & Biases"
    if {str(c).strip().lower() for c in table.columns} == {"wall time", "step", "value"}:
        return "a curve exported from TensorBoard"
    return ""


def steps_of_axis(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column S to a chart over steps."""
    axis = next((c for c in table.columns if str(c).strip().lower() in _STEPS), None)
    if axis is None or "S" in table.columns:
        return table
    return table.assign(S=table[axis])


def what_a_chart_lacks(table: pd.DataFrame, absent: Sequence[str], chart: str) -> str:
    """Return the message for a chart without some of the columns that a law needs."""
    remedy = ""
    if "D" in absent and "S" in table.columns:
        axis = next((str(c) for c in table.columns if str(c).strip().lower() in _STEPS), "S")
        remedy = (
            f" Its axis counts steps: with 524288 tokens per step, say --map '{axis} * 524288=D'."
        )
    held = ", ".join(str(c) for c in table.columns if c != "S")
    return (
        f"{chart}: it holds {held} of its runs, and no {', '.join(absent)}. Export the table of "
        "runs (one row per run, with the columns of config and summary), or add the columns."
        f"{remedy}"
    )


def with_run_ids(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with ids that are words, and an exported table of runs with run_id."""
    if "run_id" in table.columns and table["run_id"].map(type).isin((list, dict)).any():
        return table.assign(run_id=table["run_id"].map(str))
    if "State" in table.columns and "run_id" not in table.columns:
        for name in ("ID", "Name"):
            if name in table.columns and table[name].is_unique:
                return table.assign(run_id=table[name])
    return table
