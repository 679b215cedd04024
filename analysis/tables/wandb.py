"""Tables exported from Weights & Biases: charts, and tables of runs."""

from __future__ import annotations

import warnings

import pandas as pd

_STATUS = {
    "finished": "ok", "crashed": "failed", "failed": "failed", "killed": "failed",
    "preempted": "failed", "running": None, "pending": None, "preempting": None,
}  # fmt: skip
"""Status for each word in the column State; None for runs that have not ended."""


def is_chart(table: pd.DataFrame) -> bool:
    """Return whether this is a chart: a horizontal axis, then one column 'RUN - METRIC' per run."""
    names = [str(c) for c in table.columns]
    return len(names) > 1 and " - " not in names[0] and all(" - " in name for name in names[1:])


def melt_chart(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and step: run_id, the axis (Step as S), and each metric."""
    axis = table.columns[0]
    lines = {}
    for name in table.columns[1:]:
        run, _, metric = str(name).rpartition(" - ")
        if not metric.endswith(("__MIN", "__MAX")):  # the band of a line
            lines.setdefault(run, {})[metric] = table[name]
    rows = [
        pd.DataFrame({"run_id": run, "S" if axis == "Step" else axis: table[axis], **metrics})
        for run, metrics in lines.items()
    ]
    metrics = list(dict.fromkeys(metric for found in lines.values() for metric in found))
    return pd.concat(rows, ignore_index=True).dropna(subset=metrics, how="all", ignore_index=True)


def runs_table(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Add the columns `status` and `run_id` to an exported table of runs; leave others alone."""
    if "State" not in table.columns or "status" in table.columns:
        return table
    state = table["State"].astype(str).str.strip().str.lower()
    if not state.isin(list(_STATUS)).all():
        return table
    running = state.map(_STATUS).isna()
    if running.any():
        warnings.warn(
            f"{where}: {running.sum()} of {len(table)} runs have not ended "
            f"({', '.join(sorted(state[running].unique()))}); they are left out.",
            stacklevel=3,
        )
    table = table.assign(status=state.map(_STATUS))[~running].reset_index(drop=True)
    for name in ("ID", "Name"):
        if "run_id" not in table.columns and name in table.columns and table[name].is_unique:
            table["run_id"] = table[name]
    return table
