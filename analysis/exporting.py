"""Tables written as files of other tools: CSV, Parquet, Excel, LaTeX, Markdown and others.

The suffix of a file sets its format. Files of data hold every column at full precision; printed
tables (.tex, .md) hold the columns that a paper shows, with four digits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.tables.derive import derive
from analysis.tables.load import load
from analysis.tables.several import is_results_folder
from scaling import run_folders
from scaling.abilities.table import read as read_scores
from scaling.command_run import CommandRun
from scaling.errors import ConfigError, TableError, did_you_mean
from scaling.extras import require
from scaling.files import write_atomic
from scaling.jsonable import finite
from scaling.table import read_tests

Table = Literal["runs", "curves", "tests", "tasks"]
"""The tables of results: final rows of runs, learning curves, test losses by position and
distribution, scores of tasks."""

_PRINTED = (
    "run_id", "tag", "N", "D", "C", "B", "S", "lr_peak", "L", "L_stderr", "accuracy", "n_layer",
    "d_model", "seed", "task", "shots", "metric", "value", "stderr", "distribution",
)  # fmt: skip
"""Columns of a printed table, where the table has them; the keys of a command follow."""

_NUMBERS = ("N", "D", "C", "B", "S", "lr_peak")
"""Columns that are read as numbers from a table of another origin."""

_RESULTS = ("runs.csv", "curves.parquet", "tests.parquet", "tasks.parquet", "manifest.json")
"""Files of a results folder that no export replaces."""

_MOST_ROWS, _MOST_COLUMNS = 1_048_576, 16_384
"""Size of a sheet of Excel."""


def export(
    source: Any,
    out: str | Path,
    *,
    table: Table = "runs",
    columns: Sequence[str] = (),
    **selection: Any,
) -> Path:
    """Write a table of results to the file `out`, in the format of its suffix; return the file.

    source     A results folder or a table, as `analysis.load` takes it.
    table      Which of the tables of results.
    columns    The columns to write, in this order. Default: all; of a printed table, the main ones.
    selection  The arguments map, where, strict, rows and decimal of `analysis.load`.

    Raises ConfigError for a suffix that is not known, and TableError for a table or column that
    the results do not have.
    """
    path = Path(out)
    write = _writer(path)
    _check_no_source(path, source)
    found = _read(source, table, **selection)
    main = (*_PRINTED, *_keys(source)) if path.suffix in _PRINT else ()
    content = write(_chosen(found, columns, str(_name(source)), main))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content, sync=False)
    return path


# ------------------------------------------------------------------ reading


def _read(source: Any, table: Table, **selection: Any) -> pd.DataFrame:
    folder = Path(source) if isinstance(source, str | Path) else None
    ours = folder is not None and is_results_folder(folder)
    if table in ("runs", "curves"):
        if table == "curves":
            selection.pop("rows", None)  # every evaluation counts
        found = load(
            source, curves=table == "curves", need=() if ours else ("L",), also=_NUMBERS,
            mixed=True, **selection,
        )  # fmt: skip
        if not ours:
            derive(found, None, str(_name(source)))
        return found
    if folder is None or not ours:
        raise TableError(f"{_name(source)}: only the results folder of a sweep has {table}.")
    runs = load(folder, need=(), mixed=True, **selection)
    found = read_tests(folder) if table == "tests" else read_scores(folder)
    found = found[found["run_id"].isin(runs["run_id"])] if len(found) else found
    if not len(found):
        made = "`scaling eval` writes them" if table == "tasks" else "its spec asked for none"
        raise TableError(f"{folder} has no {table}; {made}.")
    return found


def _keys(source: Any) -> list[str]:
    """Return the keys of the command that trained the runs of a results folder, if one did, as far
    as they tell runs apart and say more than D, B and lr_peak."""
    if not (isinstance(source, str | Path) and is_results_folder(Path(source))):
        return []
    runs = [r for r in run_folders.configs(source).values() if isinstance(r, CommandRun)]
    values: dict[str, set[Any]] = {}
    for run in runs:
        for key in run.keys.keys() - {"tokens", "batch_tokens", run.lr}:
            values.setdefault(key, set()).add(run.keys[key])
    return sorted(key for key, found in values.items() if len(found) > 1)


def _chosen(
    table: pd.DataFrame, columns: Sequence[str], where: str, main: Sequence[str]
) -> pd.DataFrame:
    """Return the columns to write: those given; else those of `main` that hold anything; else all.

    Raises TableError for one that the table does not have.
    """
    for name in columns:
        if name not in table.columns:
            known = [str(each) for each in table.columns]
            raise TableError(f"{where} has no column {name!r}.{did_you_mean(name, known)}")
    if columns:
        return table[list(columns)]
    names = [c for c in dict.fromkeys(main) if c in table.columns and table[c].notna().any()]
    return table[names] if names else table


def _name(source: Any) -> Any:
    if isinstance(source, str | Path):
        return source
    return "the table" if isinstance(source, pd.DataFrame) else source[0]


def _check_no_source(path: Path, source: Any) -> None:
    """Raise ConfigError if the file is one of those that the table is read from."""
    files = [source] if isinstance(source, str | Path) else source
    files = [] if isinstance(files, pd.DataFrame) else [Path(each) for each in files]
    inside = path.name in _RESULTS and is_results_folder(path.parent)
    if inside or any(each.exists() and path.exists() and path.samefile(each) for each in files):
        raise ConfigError(f"--out {path} is a file of the results; give another name.")


# ------------------------------------------------------------------ writing


def _writer(path: Path) -> Callable[[pd.DataFrame], bytes]:
    suffix = path.suffix
    if suffix not in _WRITERS:
        raise ConfigError(
            f"--out {path}: the suffix sets the format; it can be {', '.join(_WRITERS)}."
        )
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; give a file in it, such as {path}/runs.csv.")
    if suffix == ".xlsx":
        require("openpyxl")
    return _WRITERS[suffix]


def _csv(table: pd.DataFrame) -> bytes:
    return _flat(table).to_csv(index=False).encode()


def _tsv(table: pd.DataFrame) -> bytes:
    return _flat(table).to_csv(index=False, sep="\t").encode()


def _json(table: pd.DataFrame) -> bytes:
    return (json.dumps(_records(table), indent=1, default=str, allow_nan=False) + "\n").encode()


def _jsonl(table: pd.DataFrame) -> bytes:
    lines = (json.dumps(row, default=str, allow_nan=False) for row in _records(table))
    return "".join(f"{line}\n" for line in lines).encode()


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): None if _empty(value) else finite(value) for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    plain = _flat(table)
    plain.attrs = {}  # notes of the reader, which need not be JSON
    plain.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _xlsx(table: pd.DataFrame) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    if len(table) >= _MOST_ROWS or table.shape[1] > _MOST_COLUMNS:
        raise ConfigError(
            f"{len(table)} rows and {table.shape[1]} columns do not fit on a sheet of Excel "
            f"({_MOST_ROWS - 1} rows, {_MOST_COLUMNS} columns); write a .parquet or a .csv."
        )
    book = Workbook(write_only=True)
    sheet = book.create_sheet("table")
    sheet.freeze_panes = "A2"

    def cell(value: Any) -> Any:
        if _empty(value):
            return None
        if isinstance(value, str):  # a text that begins with = is no formula
            made = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("�", value))
            made.data_type = "s"
            return made
        return finite(value)

    plain = _flat(table)
    for row in (plain.columns.map(str), *plain.itertuples(index=False, name=None)):
        sheet.append([cell(value) for value in row])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _latex(table: pd.DataFrame) -> bytes:
    from analysis.latex import tabular

    return tabular(_flat(table).reset_index(drop=True)).encode()


def _markdown(table: pd.DataFrame) -> bytes:
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    lines = [
        [_escaped(str(name)) for name in table.columns],
        ["---:" if each else "---" for each in numeric],
        *([_digits(value) for value in row] for row in _flat(table).itertuples(index=False)),
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).encode()


_WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    ".csv": _csv, ".tsv": _tsv, ".json": _json, ".jsonl": _jsonl, ".parquet": _parquet,
    ".xlsx": _xlsx, ".tex": _latex, ".md": _markdown,
}  # fmt: skip
"""Writers by suffix."""

_PRINT = (".tex", ".md")
"""Suffixes of printed tables."""


# ------------------------------------------------------------------ cells


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with cells that every format has: numbers, truth values and texts."""
    flat = table.copy()
    flat.columns = [str(name) for name in table.columns]
    for position, kind in enumerate(table.dtypes):
        if pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
            continue
        column = table.iloc[:, position]
        kinds = {type(value) for value in column if not _empty(value)}
        if not kinds <= {str} and not (kinds and _all_numbers(kinds)):
            texts = [None if _empty(value) else _text(value) for value in column]
            flat.isetitem(position, pd.Series(texts, index=table.index, dtype=object))
    return flat


def _all_numbers(kinds: Iterable[type]) -> bool:
    return all(issubclass(kind, int | float | np.number) and kind is not bool for kind in kinds)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple | np.ndarray):
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        return json.dumps(finite(plain), default=str)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _empty(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _digits(value: Any) -> str:
    """Return a cell of Markdown: integers in full, other numbers with four digits."""
    if _empty(value):
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return _escaped(str(value))


def _escaped(text: str) -> str:
    """Escape a text that Markdown would take for markup or for the end of a cell."""
    for mark in "\\|`*_<":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
