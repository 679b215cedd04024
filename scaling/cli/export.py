"""The command that writes tables for other tools and hands runs to trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scaling.cli.options import Decimal, Map, Rows, Strict, Where
from scaling.cli.output import show
from scaling.cli.tables import one_source, selection
from scaling.errors import ConfigError


def export(
    results: tuple[Path, ...],
    *,
    out: Path | None = None,
    table: Literal["runs", "curves", "tests", "tasks"] = "runs",
    columns: tuple[str, ...] = (),
    to: Literal["tensorboard", "wandb", "mlflow"] | None = None,
    again: bool = False,
    map: Map = (),
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
) -> None:
    """Write a table as a file for other tools, or export runs to a tracker.

    Example: scaling export results/quickstart --out runs.xlsx
    Example: scaling export results/quickstart --to tensorboard

    Args:
        results: A results folder, or a table of runs; several files are one table.
        out: Output file. Its suffix sets the format: .csv, .tsv, .json, .jsonl, .parquet or .xlsx
            for data, .tex (booktabs) or .md for print.
        table: Table to write: the final rows of the runs, the learning curves, the test losses by
            position and distribution (tests), or the scores of tasks.
        columns: Columns to write, such as N,D,L. Default: all; of a printed table, the main ones.
        to: Tracker to export the finished runs of a sweep to, instead of writing a table. Each
            needs the extra of its name, as in pip install 'scaling-laws-lab[wandb]'.
        again: With --to, also export runs that were exported before.
    """
    if (out is None) == (to is None):
        raise ConfigError(
            "`scaling export` needs --out, a file such as runs.xlsx, or --to, a tracker such as "
            "tensorboard" + ("; leave one of them out." if out is not None else ".")
        )
    chosen = selection(map, where, strict, rows, decimal)
    source = one_source(results)
    if to is not None:
        given = {"table": table != "runs", "columns": columns}
        given |= {name: name in chosen and name != "rows" for name in ("map", "where", "decimal")}
        given |= {"strict": strict, "rows": rows != "auto"}
        if unused := [f"--{name}" for name, value in given.items() if value]:
            raise ConfigError(f"{', '.join(unused)} needs --out; --to exports every finished run.")
        _to_tracker(source, to, again)
        return
    if again:
        raise ConfigError("--again needs --to; --out replaces the file in any case.")
    assert out is not None  # the other choice, as checked above
    from analysis.exporting import export as write

    names = [name.strip() for words in columns for name in words.split(",") if name.strip()]
    show(write(source, out, table=table, columns=names, **chosen))


def _to_tracker(source: Path | list[Path], to: str, again: bool) -> None:
    from sweeps.export import export as export_to
    from sweeps.folder_status import status as status_of
    from sweeps.store import Store

    if isinstance(source, list):
        raise ConfigError("--to exports one results folder; give one.")
    status_of(source)  # raises if this is not the folder of a sweep
    show(f"{export_to(Store(source), to, again=again)} runs exported to {to}")
