"""The command `inspect`: what a table holds, before anything is fitted."""

from __future__ import annotations

from pathlib import Path

from scaling.cli.arguments import column_map
from scaling.cli.options import Decimal, Json, Map, Rows, Strict, Where
from scaling.cli.output import show, show_json
from scaling.cli.tables import one_source


def inspect(
    runs: tuple[Path, ...],
    *,
    map: Map = (),
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
    json: Json = False,
) -> None:
    """Say what a table holds, allows and lacks, and which rows are odd.

    The first command to type on a table of your own. It names what each column was taken for and
    why, with ranges; the laws, frontier methods and figures that the table allows; what the others
    need; and rows that are most likely a mistake. Nothing is fitted for you to keep.

    Example: scaling inspect runs.csv
    Example: scaling inspect results/quickstart --json

    Args:
        runs: A results folder, a table (CSV, JSON, Parquet, Excel, ...), or runs of a tracker
            such as wandb:FOLDER; several files are one table.
    """
    import shutil

    from analysis.inspecting.inspect import inspect as inspect_table

    found = inspect_table(
        one_source(runs), map=column_map(map), where=where, strict=strict, rows=rows,
        decimal=decimal,
    )  # fmt: skip
    if json:
        show_json(found.record())
    else:
        show(found.text(max(60, shutil.get_terminal_size((100, 24)).columns)))
