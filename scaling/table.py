"""Results tables on disk: check, read and write what scaling/schema.py defines.

Needs pandas, never torch.
"""

from __future__ import annotations

import contextlib
import math
import re
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import fields_of
from scaling.errors import TableError
from scaling.files import EncodingError, check_regular, check_utf8
from scaling.schema import COLUMN_OF_WORD, COLUMNS, CURVE_COLUMNS, TEST_COLUMNS, Column

if TYPE_CHECKING:
    import pandas as pd


def missing_column(name: str, present: typing.Iterable[str]) -> str:
    """One sentence saying that a column is not there, with the likeliest one that is."""
    import difflib

    present = list(present)
    words = {c: "_".join(re.findall("[a-z0-9]+", str(c).lower())) for c in present}
    guess = next((c for c in present if COLUMN_OF_WORD.get(words[c]) == name), None)
    stem = {"L": "loss", "N": "param", "D": "token", "C": "flop"}.get(name)
    if guess is None and stem:  # final_loss, train_tokens, Training FLOP
        guess = next((c for c in present if stem in words[c]), None)
    if guess is None and len(name) > 2:
        guess = next(iter(difflib.get_close_matches(name, [str(c) for c in present], n=1)), None)
    hint = (
        f" Is it {guess!r}? Load with map={{{guess!r}: {name!r}}}, or --map '{guess}={name}'."
        if guess
        else ""
    )
    return f"the table has no column {name!r}; it has {', '.join(map(str, present))}.{hint}"


def check(runs: pd.DataFrame, *, need: typing.Iterable[str] = (), where: str = "") -> pd.DataFrame:
    """`runs` itself, if its columns are those `need` names and its measured numbers make sense.

    Every 'ok' row (every row where there is no status) must have a positive, finite L, N, D, C,
    B and S, as far as these columns exist, none beyond :data:`LARGEST`. Raises TableError otherwise,
    saying which and where.
    """
    import pandas as pd

    prefix = f"{where}: " if where else ""
    if len(runs) == 0:
        raise TableError(f"{prefix}the table is empty: no runs to use.")
    for name in need:
        if name not in runs.columns:
            raise TableError(prefix + missing_column(name, runs.columns))
    used = runs[runs["status"] == "ok"] if "status" in runs.columns else runs
    for name in ("N", "D", "C", "B", "S", "L"):
        if name not in used.columns:
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
                f"{used.index[first]} ({name}={used[name].iloc[first]}). Diverged runs belong in "
                "status='diverged'; drop them with runs[runs.status == 'ok']."
            )
    return runs


LARGEST = 1e100
"""Of any number that is computed with. Of larger ones, and of the inverse of those below 1 / LARGEST,
already the square overflows."""


def sensible(values: Any) -> Any:
    """Which numbers are positive and can be computed with: from 1 / LARGEST to LARGEST."""
    return (values >= 1 / LARGEST) & (values <= LARGEST)


def _beyond(value: float) -> str:
    """What to add where a number is positive and finite and still not sensible."""
    return f", from {1 / LARGEST:g} to {LARGEST:g}" if 0 < value < math.inf else ""


_DEFAULTS = {key.rpartition(".")[2]: default for key, (_, default) in fields_of().items()}


def ordered(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table in schema order, with schema dtypes; sorted by N, D, run_id.

    A field of the config that a row lacks is younger than the row, which was made with its default.
    """
    import pandas as pd

    names = [c.name for c in COLUMNS]
    complete = [{k: v for k, v in _DEFAULTS.items() if k in names} | row for row in rows]
    kind = {"str": "str", "int": "Int64", "float": "float64", "bool": "boolean"}
    kinds = {c.name: kind[c.dtype] for c in COLUMNS}
    try:
        table = pd.DataFrame(complete, columns=names).astype(kinds)
    except UnicodeEncodeError:  # a file's name that is not UTF-8, in an error
        complete = [{k: _encodable(v) for k, v in row.items()} for row in complete]
        table = pd.DataFrame(complete, columns=names).astype(kinds)
    return table.sort_values(["N", "D", "run_id"], ignore_index=True)


def _encodable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def read(folder: str | Path) -> pd.DataFrame:
    """The table of a results folder (``runs.csv``), completed to today's columns: fields of the
    config that are younger than the table have their defaults, measured columns are empty.
    TableError where there is no table."""
    import pandas as pd

    folder = Path(folder)
    path = folder / "runs.csv" if folder.is_dir() else folder
    if not path.exists():
        what = "has no runs.csv" if folder.is_dir() else "is not there"
        raise TableError(
            f"{folder} {what}. Give the folder of a sweep that has run, such as results/quickstart "
            "(`scaling sweep SPEC` makes one)."
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
    if "run_id" not in table.columns:  # not one of ours
        return table
    _, header = next(_lines(path), (0, []))
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise TableError(f"{path}: two columns are called {twice!r}; remove one.")
    _identified(table, path)
    there = [column for column in COLUMNS if column.name in table.columns]
    table = table.assign(**{c.name: _typed(table[c.name], c, path) for c in there})
    names = [c.name for c in COLUMNS]
    younger = [name for name in names if name not in table.columns]
    table = table.assign(**{name: _DEFAULTS.get(name) for name in younger})
    return table[names + [name for name in table.columns if name not in names]]


def _identified(table: pd.DataFrame, path: Path) -> None:
    """Raise TableError where a row has no run_id, or another row's."""
    lacking = table["run_id"].isna() | (table["run_id"].str.strip() == "")
    if lacking.any():
        raise TableError(
            f"{path}: line {_line(path, int(lacking.argmax()))} has no run_id. Every row is a run and has "
            "one; remove the line."
        )
    twice = table["run_id"].duplicated(keep=False)
    if twice.any():
        run_id = table["run_id"][twice].iloc[0]
        same = table[table["run_id"] == run_id]
        rows = (table["run_id"] == run_id).to_numpy().nonzero()[0][:5]
        lines = [_line(path, int(row)) for row in rows]
        said = "are equal" if len(same.drop_duplicates()) == 1 else "differ"
        raise TableError(
            f"{path}: lines {', '.join(map(str, lines))} are of one run, run_id={run_id!r}, and "
            f"{said}. A run has one row; remove the others."
        )


def _typed(values: pd.Series, column: Column, path: Path) -> pd.Series:
    """A column of our own as its type. Raises TableError where a number is none."""
    import pandas as pd

    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if column.dtype == "str" or (not numeric and column.name in ("N", "D", "C", "B", "S", "L")):
        return values  # load reads these as people write them, such as 1,400,000
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
    """The line of a CSV file on which a row of its table ends: text in it may have several."""
    ends = [end for end, cells in _lines(path) if cells]
    return ends[row + 1] if row + 1 < len(ends) else row + 2


def _lines(path: Path) -> typing.Iterator[tuple[int, list[str]]]:
    """(number of its last line, cells) of each row of a CSV file, as far as it can be read."""
    import csv

    with open(path, newline="", encoding="utf-8-sig") as file, contextlib.suppress(csv.Error):
        rows = csv.reader(file)
        for cells in rows:
            yield rows.line_num, cells


def read_curves(folder: str | Path) -> pd.DataFrame:
    """The learning curves of a results folder (``curves.parquet``), joined to nothing."""
    return _read_parquet(Path(folder) / "curves.parquet", "learning curves")


_LATER = ("L_train", "lr", "grad_norm", "update_norm", "B_noise", "B_noise_norm")
"""Columns that a table of an earlier version may lack."""


def _read_parquet(path: Path, what: str) -> pd.DataFrame:
    """One of :data:`POINTS`. TableError where it is not there, is damaged, or holds anything else."""
    import pandas as pd

    if not path.exists():
        raise TableError(f"{path} is not there: this result has no {what}.")
    try:
        check_regular(path)
        table = pd.read_parquet(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes pyarrow and pandas raise many things
        said = str(error).partition("\n")[0] or type(error).__name__
        raise TableError(f"{path} cannot be read as parquet: {said}.") from None
    for column in POINTS[path.name][0]:
        if column.name in table.columns:
            _check_points(table[column.name], column, path)
        elif column.name not in _LATER:
            raise TableError(f"{path}: {missing_column(column.name, table.columns)}")
    return table


def _check_points(values: pd.Series, column: Column, path: Path) -> None:
    """Raise TableError where a column of :data:`POINTS` is of another type."""
    import numpy as np
    import pandas as pd

    said = values.dropna()
    if column.dtype == "str":
        kind, fine = "text", said.map(lambda value: isinstance(value, str)).all()
        fine = fine and len(said) == len(values)
    elif column.dtype == "list":
        numbers = (np.ndarray, list)
        kind, fine = (
            "lists of numbers",
            said.map(
                lambda value: isinstance(value, numbers) and np.asarray(value).dtype.kind in "iuf"
            ).all(),
        )
    else:
        number = pd.api.types.is_numeric_dtype(said) and not pd.api.types.is_bool_dtype(said)
        kind, fine = "numbers", number or not len(said)
    if not fine:
        raise TableError(
            f"{path}: column {column.name!r} must be {kind}, not {values.dtype}. Remove the file: the "
            "next `scaling sweep` writes it anew from runs/."
        )


def read_tests(folder: str | Path) -> pd.DataFrame:
    """The final test losses of a results folder (``tests.parquet``): by distribution and by position
    in the context. TableError where there are none."""
    return _read_parquet(Path(folder) / "tests.parquet", "test losses by position")


POINTS: dict[str, tuple[tuple[Column, ...], str]] = {
    "curves.parquet": (CURVE_COLUMNS, "S"),
    "tests.parquet": (TEST_COLUMNS, "corpus"),
}
"""Tables of several rows a run: their columns, and what orders the rows of one run."""


def points(name: str, *parts: pd.DataFrame | list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of one of :data:`POINTS`, put together in schema order."""
    import pandas as pd

    columns, order = POINTS[name]
    names = [c.name for c in columns]
    tables = [pd.DataFrame(part, columns=names) for part in parts if len(part)]
    joined = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)
    return joined.sort_values(["run_id", order], ignore_index=True)


def read_points(folder: str | Path, name: str) -> pd.DataFrame:
    """One of :data:`POINTS` of a results folder; empty where there is none."""
    path = Path(folder) / name
    return points(name, _read_parquet(path, name) if path.is_file() else [])


def write(
    folder: str | Path,
    rows: list[dict[str, Any]],
    curves: list[dict[str, Any]],
    tests: list[dict[str, Any]] | None = None,
) -> None:
    """Write ``runs.csv``, ``curves.parquet`` and ``tests.parquet``, each atomically."""
    tables = {"curves.parquet": curves, "tests.parquet": tests or []}
    write_points(folder, rows, {name: points(name, part) for name, part in tables.items()})


_LINE_END = "\r\n\0"


def write_points(
    folder: str | Path, rows: list[dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> None:
    """As :func:`write`, with {name: table} of :data:`POINTS`."""
    import os

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Cells with characters of the line's end are quoted: "\r" too, at which a reader would end the line.
    text = ordered(rows).to_csv(index=False, lineterminator=_LINE_END).replace(_LINE_END, "\n")
    (folder / "runs.csv.tmp").write_text(text, "utf-8", newline="")
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.tmp", index=False)
    for name in ("runs.csv", *tables):
        os.replace(folder / f"{name}.tmp", folder / name)
