"""Check, read and write the results tables of scaling/columns.py. Needs pandas but never torch."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.column_words import expression, likely_meaning, meaning
from scaling.columns import (
    ALWAYS,
    COLUMNS,
    CONFIG_DEFAULTS,
    CURVE_COLUMNS,
    IN_WORDS,
    TEST_COLUMNS,
    Column,
    is_command,
)
from scaling.errors import TableError, nearest
from scaling.files import EncodingError, check_regular, check_utf8, replacing
from scaling.mapping import alternatives, in_expression, option

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 1e100
"""Largest number used in computations; the smallest is its inverse. Beyond these, even squares
overflow."""

POINTS: dict[str, tuple[tuple[Column, ...], str]] = {
    "curves.parquet": (CURVE_COLUMNS, "S"),
    "tests.parquet": (TEST_COLUMNS, "corpus"),
}
"""Tables with several rows per run: their columns, and the column that orders the rows of a run."""

_SIZES = ("N", "D", "C", "B", "S", "L")
"""Columns that must be positive wherever a row is 'ok'."""

_ASKED = ("N", "D", "C", "L")
"""Columns that a table of another origin must have, whatever it calls them."""

_ADDED_LATER = ("L_train", "lr", "grad_norm", "update_norm", "B_noise", "B_noise_norm")
"""Columns of :data:`POINTS` that a table of an earlier version may lack."""

_LINE_END = "\r\n\0"
"""Line end, which no cell contains. pandas quotes a cell that holds any of its characters, and
readers end a line at an unquoted "\\r" too."""


# ------------------------------------------------------------------ checks


def missing_column(name: str, present: Iterable[str], symbol: str = "") -> str:
    """Return a message that a column is missing, with the most likely columns that are present.

    symbol: what --map calls the column, if that is not its name.
    """
    present = [str(c) for c in present]
    known = {c: what for c in present if (what := meaning(c)) is not None and what.symbol == name}
    highest = max((what.rank for what in known.values()), default=())
    likely = [c for c, what in known.items() if what.rank == highest][:3]
    ways = [expression(c, known[c]) for c in likely]
    if not likely:
        known = {c: what for c in present if (what := likely_meaning(c)) is not None}
        likely = [c for c, what in known.items() if what.symbol == name][:3]
        ways = [expression(c, known[c]) for c in likely]
    if not likely and len(name) > 2 and (near := nearest(name, present)):
        likely = ways = [near]
    hint = (
        f" Is it {' or '.join(map(repr, likely))}? Say {alternatives(ways, symbol or name)}."
        if likely
        else ""
    )
    what = ""
    if not hint and name in _ASKED:
        what = f" ({IN_WORDS[name]})"
        hint = f" Say which it is: --map COLUMN={symbol or name}."
        steps = [c for c in present if (known := meaning(c)) is not None and known.symbol == "S"]
        if name == "D" and steps:
            product = option({f"65536*{in_expression(steps[-1])}": symbol or name})
            hint = f"{hint[:-1]}, or {product} if each step takes 65536 tokens, for example."
    return f"the table has no column {name!r}{what}; it has {', '.join(present)}.{hint}"


def check(runs: pd.DataFrame, *, need: Iterable[str] = (), where: str = "") -> pd.DataFrame:
    """Return `runs` itself if it has the columns in `need` and its measured numbers make sense.

    In every 'ok' row (in every row, if there is no status), those of N, D, C, B, S and L that are
    in `need` (that exist, if nothing is needed) must be positive, finite and not beyond
    :data:`LARGEST`. Otherwise raises TableError, which names the column and the row.
    """
    import pandas as pd

    prefix = f"{where}: " if where else ""
    if len(runs) == 0:
        raise TableError(f"{prefix}the table is empty: no runs to use.")
    need = tuple(need)
    for name in need:
        if name not in runs.columns:
            raise TableError(prefix + missing_column(name, runs.columns))
    used = runs[runs["status"] == "ok"] if "status" in runs.columns else runs
    for name in _SIZES:
        if name not in used.columns or (need and name not in need):
            continue
        values = pd.to_numeric(used[name], errors="coerce").to_numpy(float, na_value=math.nan)
        bad = ~sensible(values)
        if bad.any():
            unit = next(c.unit for c in COLUMNS if c.name == name)
            first = int(bad.argmax())
            raise TableError(
                f"{prefix}column {name!r} must be positive and finite [{unit}]"
                f"{_beyond(values[first])}: {bad.sum()} of "
                f"{len(used)} rows {'is' if bad.sum() == 1 else 'are'} not, first at row "
                f"{used.index[first]} ({name}={used[name].iloc[first]}). "
                f"{remedy(name, values)}"
            )
    return runs


def remedy(name: str, values: Any) -> str:
    """Return how a command leaves out rows whose value is not a positive, sensible number."""
    column = name if name.isidentifier() else f"`{name}`"
    low = f"{1 / LARGEST:g}" if ((values > 0) & (values < 1 / LARGEST)).any() else "0"
    inside = f"{column} > {low}"
    if (values > LARGEST).any():
        inside = f"{low} < {column} < {LARGEST:g}"
    return f'Leave such rows out with --where "{inside}".'


def sensible(values: Any) -> Any:
    """Return a mask of the numbers that are positive and safe to compute with: 1 / LARGEST to
    LARGEST."""
    return (values >= 1 / LARGEST) & (values <= LARGEST)


def _beyond(value: float) -> str:
    """Return an addition to the message for numbers that are positive and finite, but not
    sensible."""
    return f", from {1 / LARGEST:g} to {LARGEST:g}" if 0 < value < math.inf else ""


# ------------------------------------------------------------------ runs.csv


def ordered(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a table with the columns and dtypes of the schema, sorted by N, D and run_id.

    A row that lacks a config field is older than the field, and was trained with its default. Rows
    of runs of a command have columns of their own, after those of the schema, and of the schema
    only the columns that some row fills.
    """

    of_command = any(is_command(row) for row in rows)
    own: list[str] = []
    if of_command:
        filled = {name for row in rows for name, value in row.items() if value not in (None, "")}
        names = [c.name for c in COLUMNS if c.name in filled | ALWAYS]
        own = sorted(filled - {c.name for c in COLUMNS})
        complete = rows
    else:
        names = [c.name for c in COLUMNS if c.name != "command"]
        complete = [CONFIG_DEFAULTS | row for row in rows]
    kind = {"str": "str", "int": "Int64", "float": "float64", "bool": "boolean"}
    kinds = {c.name: kind[c.dtype] for c in COLUMNS if c.name in names}
    try:
        table = _table(complete, names, own).astype(kinds)
    except UnicodeEncodeError:  # a file name in an error may not be UTF-8
        complete = [{k: _encodable(v) for k, v in row.items()} for row in complete]
        table = _table(complete, names, own).astype(kinds)
    return table.sort_values(["N", "D", "run_id"], ignore_index=True)


def _table(rows: list[dict[str, Any]], names: list[str], own: list[str]) -> pd.DataFrame:
    """Return rows as a table; whole numbers in columns of a command stay whole beside gaps."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=names)
    if not own:
        return table
    cells = {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in own}
    return pd.concat([table, pd.DataFrame(cells)], axis="columns")


def _encodable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def read(folder: str | Path) -> pd.DataFrame:
    """Return the table of a results folder (``runs.csv``) with all columns of the schema.

    If columns were added to the schema after the table was written, config columns hold their
    defaults and measured ones are empty; a table of runs of a command stays as it is. Raises
    TableError if there is no table.
    """
    import pandas as pd

    folder = Path(folder)
    path = folder / "runs.csv" if folder.is_dir() else folder
    if not path.exists():
        what = "has no runs.csv" if folder.is_dir() else "does not exist"
        raise TableError(
            f"{folder} {what}. Give the folder of a finished sweep, such as results/quickstart "
            "(`scaling sweep SPEC` writes one)."
        )
    dtypes = {c.name: "str" for c in COLUMNS if c.dtype == "str"}
    try:
        check_utf8(path)
        table = pd.read_csv(path, dtype=dtypes, low_memory=False)
    except EncodingError as error:
        raise TableError(f"{path} is {error}.") from None
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise TableError(f"{path} is not a table: {error}.") from None
    if "run_id" not in table.columns:  # a table from elsewhere
        return table
    _, header = next(_lines(path), (0, []))
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise TableError(f"{path}: two columns are called {twice!r}; remove one.")
    _check_run_ids(table, path)
    present = [column for column in COLUMNS if column.name in table.columns]
    table = table.assign(**{c.name: _typed(table[c.name], c, path) for c in present})
    names = [c.name for c in COLUMNS]
    if "command" in table.columns and table["command"].notna().any():
        return table  # what a command did not report has no default
    absent = [name for name in names if name not in table.columns]
    table = table.assign(**{name: CONFIG_DEFAULTS.get(name) for name in absent})
    return table[names + [name for name in table.columns if name not in names]]


def _check_run_ids(table: pd.DataFrame, path: Path) -> None:
    """Raise TableError if a row has no run_id, or the same one as another row."""
    lacking = table["run_id"].isna() | (table["run_id"].str.strip() == "")
    if lacking.any():
        raise TableError(
            f"{path}: line {_line(path, int(lacking.argmax()))} has no run_id. Every row is a run "
            "and has one; remove the line."
        )
    twice = table["run_id"].duplicated(keep=False)
    if twice.any():
        run_id = table["run_id"][twice].iloc[0]
        same = table[table["run_id"] == run_id]
        rows = (table["run_id"] == run_id).to_numpy().nonzero()[0][:5]
        lines = [_line(path, int(row)) for row in rows]
        relation = "are equal" if len(same.drop_duplicates()) == 1 else "differ"
        raise TableError(
            f"{path}: lines {', '.join(map(str, lines))} belong to the same run, "
            f"run_id={run_id!r}, and {relation}. A run has one row; remove the others."
        )


def _typed(values: pd.Series, column: Column, path: Path) -> pd.Series:
    """Return a column converted to its type. Raises TableError for a value of another type."""
    import pandas as pd

    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if column.dtype == "str" or (not numeric and column.name in _SIZES):
        return values  # analysis.load reads numbers as people write them, such as 1,400,000
    if column.dtype == "bool":
        bad, kind = values.notna() & ~values.isin([True, False, "True", "False"]), "True or False"
    elif pd.api.types.is_bool_dtype(values):
        bad, kind = values.notna(), "a number"
    else:
        numbers = pd.to_numeric(values, errors="coerce")
        bad, kind = values.notna() & numbers.isna(), "a number"
        if column.dtype == "int":
            bad, kind = bad | numbers.isin([math.inf, -math.inf]), "a finite number"
        values = values if bad.any() else numbers
    if bad.any():
        row = int(bad.argmax())
        raise TableError(
            f"{path}: column {column.name!r} must be {kind}, but line {_line(path, row)} has "
            f"{column.name}={values.iloc[row]}. Correct it, or remove the line."
        )
    return values


def _line(path: Path, row: int) -> int:
    """Return the line of a CSV file on which a row ends; a row may span several lines."""
    ends = [end for end, cells in _lines(path) if cells]
    return ends[row + 1] if row + 1 < len(ends) else row + 2


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its last line, cells) of each readable row of a CSV file."""
    with open(path, newline="", encoding="utf-8-sig") as file, contextlib.suppress(csv.Error):
        rows = csv.reader(file)
        for cells in rows:
            yield rows.line_num, cells


# ------------------------------------------------------------------ tables of points


def read_curves(folder: str | Path) -> pd.DataFrame:
    """Return the learning curves of a results folder (``curves.parquet``), not joined to the runs.

    Raises TableError if there are none.
    """
    return _read_parquet(Path(folder) / "curves.parquet", "learning curves")


def read_tests(folder: str | Path) -> pd.DataFrame:
    """Return the final test losses of a results folder (``tests.parquet``).

    The losses are given by distribution and by position in the context. Raises TableError if there
    are none.
    """
    return _read_parquet(Path(folder) / "tests.parquet", "test losses by position")


def read_points(folder: str | Path, name: str) -> pd.DataFrame:
    """Return one of the :data:`POINTS` tables of a results folder; empty if there is none."""
    path = Path(folder) / name
    return points(name, _read_parquet(path, name) if path.is_file() else [])


def points(name: str, *tables: pd.DataFrame | list[dict[str, Any]]) -> pd.DataFrame:
    """Return the concatenated rows of one of the :data:`POINTS` tables, in schema order."""
    import pandas as pd

    columns, order = POINTS[name]
    names = [c.name for c in columns]
    filled = [pd.DataFrame(table, columns=names) for table in tables if len(table)]
    joined = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=names)
    return joined.sort_values(["run_id", order], ignore_index=True)


def _read_parquet(path: Path, what: str) -> pd.DataFrame:
    """Return one of the :data:`POINTS` tables. Raises TableError if it is missing or damaged."""
    import pandas as pd

    if not path.exists():
        raise TableError(f"{path} does not exist: this result has no {what}.")
    try:
        check_regular(path)
        table = pd.read_parquet(path)
    except MemoryError:
        raise
    except Exception as error:  # pyarrow and pandas raise many types for a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TableError(f"{path} cannot be read as parquet: {reason}.") from None
    for column in POINTS[path.name][0]:
        if column.name in table.columns:
            _check_points(table[column.name], column, path)
            if column.dtype == "float" and table[column.name].isna().all():
                table[column.name] = math.nan  # parquet has no type for a column without any value
        elif column.name not in _ADDED_LATER:
            raise TableError(f"{path}: {missing_column(column.name, table.columns)}")
    return table


def _check_points(values: pd.Series, column: Column, path: Path) -> None:
    """Raise TableError if a column of a :data:`POINTS` table has the wrong type."""
    import pandas as pd

    given = values.dropna()
    if column.dtype == "str":
        kind = "text"
        good = len(given) == len(values) and pd.api.types.infer_dtype(given) in ("string", "empty")
    elif column.dtype == "list":
        kind, good = "lists of numbers", given.map(_is_list_of_numbers).all()
    else:
        number = pd.api.types.is_numeric_dtype(given) and not pd.api.types.is_bool_dtype(given)
        kind, good = "numbers", number or not len(given)
    if not good:
        raise TableError(
            f"{path}: column {column.name!r} must be {kind}, not {values.dtype}. Remove the file: "
            "the next `scaling sweep` rewrites it from runs/."
        )


def _is_list_of_numbers(value: Any) -> bool:
    import numpy as np

    return isinstance(value, np.ndarray | list) and np.asarray(value).dtype.kind in "iuf"


# ------------------------------------------------------------------ writing


def write(
    folder: str | Path,
    rows: list[dict[str, Any]],
    curves: list[dict[str, Any]],
    tests: list[dict[str, Any]] | None = None,
) -> None:
    """Write ``runs.csv``, ``curves.parquet`` and ``tests.parquet``, each atomically."""
    tables = {"curves.parquet": curves, "tests.parquet": tests or []}
    write_points(folder, rows, {name: points(name, table) for name, table in tables.items()})


def write_points(
    folder: str | Path, rows: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    """Write as :func:`write` does, given the :data:`POINTS` tables as {name: table}."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = ordered(rows).to_csv(index=False, lineterminator=_LINE_END).replace(_LINE_END, "\n")
    with replacing(*(folder / name for name in ("runs.csv", *tables))) as (first, *others):
        first.write_text(text, "utf-8", newline="")
        for path, table in zip(others, tables.values(), strict=True):
            table.to_parquet(path, index=False)
