"""Load the tables that a command works on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.cli.arguments import column_map


def load_rows(
    path: Path,
    pairs: Sequence[str],
    where: str | None,
    laws: Sequence[Any],
    decimal: str | None = None,
) -> Any:
    """Return the finished runs of a table, with the columns that `laws` and `where` use."""
    from analysis import load
    from analysis.tables.load import check_one_text
    from analysis.tables.rows import matching
    from scaling.errors import TableError

    need = [name for law in laws for name in (*law.inputs, law.target)]
    need += [name for name in ("N", "D", "C", "B", "S") if name in re.findall(r"\w+", where or "")]
    everything = load(path, map=column_map(pairs), need=need, mixed=True, decimal=decimal)
    table = everything
    if "status" in table.columns:
        table = table[table.status == "ok"]
    if table.empty:
        counts = everything.status.value_counts().items()
        found = ", ".join(f"{n} {word}" for word, n in counts)
        raise TableError(f"{path}: no row has status 'ok' ({found}): nothing to fit.")
    if not where:
        check_one_text(table, str(path))
        return table
    kept = matching(table, where)
    check_one_text(kept, str(path))
    return kept


def load_runs_and_curves(
    path: Path, pairs: Sequence[str], where: str | None = None, method: str = "all"
) -> tuple[Any, Any]:
    """Load a results folder or a table as (table, curves).

    A folder gives its runs, and its learning curves or None. A table gives its rows and None; if a
    run_id occurs more than once, the rows are points of learning curves. The condition `where`
    selects runs of a folder, and rows of a table.
    """
    from analysis import load
    from analysis.tables.rows import matching

    names = column_map(pairs)
    # A law that is fitted checks itself whether N and D look swapped; do not warn twice.
    need = ("N", "D", "C", "L") if method in ("parametric", "all") else None
    runs = load(path, map=names, need=need)
    folder = path.is_dir() and (path / "curves.parquet").exists()
    repeated = "run_id" in runs.columns and runs["run_id"].duplicated().any()
    if not (folder or repeated):
        return (matching(runs, where) if where else runs), None
    curves = load(path, map=names, curves=True, need=need)
    if where and folder:
        runs = matching(runs, where)
        curves = curves[curves["run_id"].isin(runs["run_id"])]
    elif where:
        curves = matching(curves, where)
    return (runs, curves) if folder else (curves, None)
