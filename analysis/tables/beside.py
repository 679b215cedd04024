"""Files beside an imported table: the evaluations of its runs, and how it was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.tables.containers import read_file, suffix_of
from scaling.errors import TableError
from scaling.table import missing_column

_CURVES, _RECORD = ".curves.parquet", ".import.json"


def curves_file(table: Path) -> Path:
    """Return where the evaluations of the runs of an imported table are."""
    return table.with_name(_stem(table) + _CURVES)


def record_file(table: Path) -> Path:
    """Return where it is written how a table was imported."""
    return table.with_name(_stem(table) + _RECORD)


def _stem(table: Path) -> str:
    suffix = suffix_of(table.name)
    return table.name[: table.name.lower().rindex(suffix)] if suffix else table.name


def is_beside(path: Path) -> bool:
    """Return whether a file belongs to an imported table and is no table of its own."""
    return path.name.endswith((_CURVES, _RECORD))


def has_curves(path: Any) -> bool:
    """Return whether a path is an imported table with the evaluations of its runs beside it."""
    if not isinstance(path, str | Path) or not Path(path).is_file() or is_beside(Path(path)):
        return False
    return curves_file(Path(path)).is_file()


def with_evaluations(path: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per evaluation of the runs of an imported table, with the columns of its run."""
    points = read_file(curves_file(path))
    for name in ("run_id", "D", "L"):
        for table, file in ((runs, path), (points, curves_file(path))):
            if name not in table.columns:
                raise TableError(f"{file}: {missing_column(name, table.columns)}")
    keys = [name for name in ("run_id", "test_set") if name in runs.columns]
    points = points.assign(run_id=points["run_id"].astype(str))
    of_run = runs.drop(columns=[c for c in points.columns if c in runs.columns and c not in keys])
    of_run = of_run.assign(run_id=runs["run_id"].astype(str), D_total=runs["D"], L_final=runs["L"])
    joined = points.merge(of_run, on=keys, how="inner", validate="many_to_one")
    if joined.empty:
        raise TableError(f"{path}: no evaluation in {curves_file(path).name} is of these runs.")
    return joined[joined["L"].notna()].reset_index(drop=True)
