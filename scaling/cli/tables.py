"""Load the tables that a command works on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from scaling.cli.arguments import column_map
from scaling.cli.output import note
from scaling.errors import ConfigError


def one_source(paths: Sequence[Path]) -> Any:
    """Return the path if there is one, and the list of several, whose files are one table."""
    if not paths:
        raise ConfigError("give a results folder or a table, such as runs.csv.")
    return paths[0] if len(paths) == 1 else list(paths)


def selection(map: Sequence[str], where: str | None, strict: bool) -> dict[str, Any]:
    """Return the options that select the rows of a table, leaving out those that are not given."""
    given = {"map": column_map(map), "where": where, "strict": strict}
    return {name: value for name, value in given.items() if value}


def load_rows(
    paths: Sequence[Path],
    laws: Sequence[Any],
    *,
    map: Sequence[str] = (),
    where: str | None = None,
    strict: bool = False,
    rows: Literal["auto", "last", "all"] = "auto",
) -> Any:
    """Return the finished runs of a table, with the columns that `laws` use."""
    from analysis import load
    from analysis.tables.rows import finished

    need = [name for law in laws for name in (*law.inputs, law.target)]
    also = [name for law in laws if law.best_of for name in ("L", *law.best_of)]
    table = load(
        one_source(paths), map=column_map(map), need=need, also=also, mixed=True, where=where,
        strict=strict, rows=rows,
    )  # fmt: skip
    return _one_text(finished(_noted(table), table.attrs["source"]))


def load_runs_and_curves(
    paths: Sequence[Path],
    *,
    map: Sequence[str] = (),
    where: str | None = None,
    strict: bool = False,
    rows: Literal["auto", "last", "all"] = "auto",
    method: str = "all",
) -> tuple[Any, Any]:
    """Load a results folder or a table as (runs, curves).

    The runs are those of :func:`load_rows`. The curves are all evaluations of these runs, from
    curves.parquet or from the rows of a table in which a run_id occurs more than once; None if
    there are none.
    """
    from analysis import load
    from analysis.tables.rows import finished

    # A law that is fitted checks itself whether N and D look swapped; do not warn twice.
    need = ("N", "D", "C", "L") if method in ("parametric", "all") else None
    source, names = one_source(paths), column_map(map)
    options = {"map": names, "need": need, "mixed": True, "strict": strict}
    table = load(source, where=where, rows=rows, **options)
    runs = _one_text(finished(_noted(table), table.attrs["source"]))
    folder = isinstance(source, Path) and source.is_dir()
    if folder and not (source / "curves.parquet").exists():
        return runs, None
    if not folder and "run_id" not in runs.columns:
        return runs, None
    with warnings.catch_warnings():  # the rows left out have been stated
        warnings.simplefilter("ignore")
        curves = load(source, curves=True, where=None if folder else where, **options)
    curves = finished(curves, table.attrs["source"])
    curves = curves[curves["run_id"].isin(runs["run_id"])]
    return runs, curves if curves["run_id"].duplicated().any() else None


def _noted(table: Any) -> Any:
    """State the runs of a results folder that have not finished; `load` states other rows."""
    from analysis.tables.rows import in_words

    if "unfinished" in table.attrs and Path(table.attrs["source"]).is_dir():
        note(f"{table.attrs['source']}: {in_words(table)}.")
    return table


def _one_text(table: Any) -> Any:
    from analysis.tables.load import check_one_text

    check_one_text(table, table.attrs["source"])
    return table
