"""Load the tables that a command works on."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scaling.cli.arguments import column_map
from scaling.cli.output import note
from scaling.errors import ConfigError


def one_source(paths: Sequence[Path]) -> Any:
    """Return the path if there is one, and the list of several, whose files are one table."""
    if not paths:
        raise ConfigError("give a results folder or a table, such as runs.csv.")
    return paths[0] if len(paths) == 1 else list(paths)


def selection(
    map: Sequence[str],
    where: str | None,
    strict: bool,
    rows: str,
    decimal: str | None,
) -> dict[str, Any]:
    """Return the options that select the rows of a table, leaving out those that are not given."""
    given = {
        "map": column_map(map), "where": where, "strict": strict, "decimal": decimal, "rows": rows
    }  # fmt: skip
    return {name: value for name, value in given.items() if value}


def load_rows(
    paths: Sequence[Path],
    laws: Sequence[Any],
    *,
    map: Sequence[str] = (),
    where: str | None = None,
    strict: bool = False,
    rows: str = "auto",
    decimal: str | None = None,
    also: Sequence[str] = (),
) -> Any:
    """Return the finished runs of a table, with the columns that `laws` use, and those of `also`
    that it has."""
    from analysis import load
    from analysis.tables.rows import RowsLeftOut, finished

    need = [name for law in laws for name in (*law.inputs, law.target)]
    also = [*also, *(name for law in laws if law.best_of for name in ("L", *law.best_of))]
    with _without_warnings(RowsLeftOut):
        table = load(
            one_source(paths), map=column_map(map), need=need, also=also, mixed=True, where=where,
            strict=strict, rows=rows, decimal=decimal,
        )  # fmt: skip
    runs = finished(_noted(table), table.attrs["source"])
    # To the law of a search, the values at which runs diverged were tried too.
    return _one_text(table if any(law.best_of for law in laws) else runs)


def load_runs_and_curves(
    paths: Sequence[Path],
    *,
    map: Sequence[str] = (),
    where: str | None = None,
    strict: bool = False,
    rows: str = "auto",
    decimal: str | None = None,
    method: str = "all",
    quiet: bool = False,
) -> tuple[Any, Any]:
    """Load a results folder or a table as (runs, curves).

    The runs are those of :func:`load_rows`; the curves are all their evaluations, or None. With
    `quiet`, the rows left out are not stated.
    """
    from analysis.tables import runs_and_curves
    from analysis.tables.rows import RowsLeftOut, finished, used_rows

    # A law that is fitted checks itself whether N and D look swapped; do not warn twice.
    need = ("N", "D", "C", "L") if method in ("parametric", "all") else None
    with _without_warnings(UserWarning if quiet else RowsLeftOut):
        table, curves = runs_and_curves.load_runs_and_curves(
            one_source(paths), map=column_map(map), where=where, strict=strict, rows=rows,
            need=need, mixed=True, decimal=decimal,
        )  # fmt: skip
    table = table if quiet else _noted(table)
    runs = _one_text(finished(table, table.attrs["source"]))
    return runs, None if curves is None else used_rows(curves)


@contextlib.contextmanager
def _without_warnings(kind: type[Warning]) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kind)
        yield


def _noted(table: Any) -> Any:
    """State in one line which rows count and which are left out."""
    from analysis.tables.rows import in_words, used_rows

    if (text := in_words(table)) and len(used_rows(table)):
        note(f"{table.attrs['source']}: {text}.")
    return table


def _one_text(table: Any) -> Any:
    from analysis.tables.load import check_one_text

    check_one_text(table, table.attrs["source"])
    return table
