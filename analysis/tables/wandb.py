"""Tables exported from Weights & Biases: charts, and tables of runs."""

from __future__ import annotations

import pandas as pd


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


def with_run_ids(table: pd.DataFrame) -> pd.DataFrame:
    """Return an exported table of runs with the column run_id; other tables as they are."""
    if "State" in table.columns and "run_id" not in table.columns:
        for name in ("ID", "Name"):
            if name in table.columns and table[name].is_unique:
                return table.assign(run_id=table[name])
    return table
