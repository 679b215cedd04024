"""Load the runs of a results folder or a table together with their learning curves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tables.beside import has_curves
from analysis.tables.load import load
from analysis.tables.rows import Evaluations
from scaling.table import read_curves
from scaling.trackers import is_source


def load_runs_and_curves(
    path: Any, *, where: str | None = None, rows: Evaluations = "auto", **options: Any
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the runs of `path`, and all evaluations of these runs; None if there are none.

    The evaluations come from curves.parquet or, for a table in which a run_id occurs more than
    once, from its rows. The arguments are those of :func:`load`.
    """
    runs = load(path, where=where, rows=rows, **options)
    folder = isinstance(path, str | Path) and (Path(path) / "runs.csv").is_file()
    if folder and not (Path(path) / "curves.parquet").is_file():
        return runs, None
    if "run_id" not in runs.columns or not len(runs):
        return runs, None
    if folder and not len(read_curves(Path(path))):  # of a command that reports no curves
        return runs, None
    of_runs = folder or has_curves(path) or is_source(path)
    with warnings.catch_warnings():  # those of the runs
        warnings.simplefilter("ignore", UserWarning)
        options["mixed"] = True
        chosen = {"of": runs} if of_runs else {"where": where}
        curves = load(path, curves=True, **chosen, **options)
    if folder:
        return runs, curves
    return runs, curves if curves["run_id"].duplicated().any() else None
