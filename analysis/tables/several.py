"""Several files as one table: a list of paths, a folder of tables, or a pattern such as runs/*.csv.

Each row remembers its file until the columns are named, since a file's name may hold a value.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis.tables import wandb
from analysis.tables.beside import is_beside
from analysis.tables.containers import SUFFIXES, read_file, suffix_of, tables_in
from analysis.tables.rows import repeated
from analysis.tables.settings import is_settings, with_settings
from scaling.errors import TableError
from scaling.mapping import option

FILE = "\x1ffile"
"""Column with the file that a row is from. It leaves the table when its columns have their names;
no table has a column of this name."""

_OF_A_SWEEP = ("runs.csv", "manifest.json", "curves.parquet")
"""What the results folder of a sweep holds, finished or not."""
PLANS = "plans"
"""The folder beside a table that holds its predictions on record, which are no tables."""


def is_results_folder(path: str | Path) -> bool:
    """Return whether a path is the results folder of a sweep, finished or not."""
    path = Path(path)
    return path.is_dir() and any((path / name).exists() for name in _OF_A_SWEEP)


def files_of(path: str | Path) -> list[Path]:
    """Return the files that a path stands for: itself, those of a folder or an archive, or those of
    a pattern.

    Of a folder these are the tables in it, or else those in its subfolders, to three levels; if it
    holds tables of several formats, the most frequent format counts. A results folder, and a path
    that does not exist, stand for themselves.
    """
    path = Path(path)
    if path.is_dir() and not is_results_folder(path):
        return _tables_in(path) or [path]
    if len(inside := tables_in(path)) > 1:
        return [Path(f"{path}#{name}") for name in inside]
    if not path.exists() and any(sign in str(path) for sign in "*?["):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        if not found:
            raise TableError(f"{path} matches no file.")
        return found
    return [path]


def in_short(paths: Sequence[Path]) -> str:
    """Return the names of several paths, or their number if there are many."""
    if len(paths) <= 3:
        return ", ".join(map(str, paths))
    return f"{len(paths)} tables ({paths[0]}, ..., {paths[-1]})"


def _tables_in(folder: Path) -> list[Path]:
    for pattern in ("*", "*/*", "*/*/*", "*/*/*/*"):
        found = [p for p in sorted(folder.glob(pattern)) if p.is_file() and p.name[0] not in "._"]
        found = [p for p in found if p.parent == folder or p.parent.name != PLANS]
        found = [p for p in found if not is_beside(p)]
        found = [p for p in found if not is_settings(p)] or found
        kinds = {p: kind for p in found if (kind := suffix_of(p.name)) in SUFFIXES}
        if kinds:
            counts = Counter(kinds.values())
            most = max(counts, key=lambda kind: (counts[kind], -SUFFIXES.index(kind)))
            return [p for p, kind in kinds.items() if kind == most]
    return []


def check_names_once(table: pd.DataFrame, where: str) -> None:
    """Raise TableError if two columns have the same name."""
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise TableError(
            f"{where}: two columns are called {twice[0]!r}; which one is meant? Rename or remove "
            "one."
        )


def read_files(paths: Sequence[Path], decimal: str | None = None) -> pd.DataFrame:
    """Return the rows of all files in one table with all their columns, and :data:`FILE`.

    Raises TableError as :func:`read_file` does, and for a file that is given twice.
    """
    twice = [path for path, n in Counter(path.resolve() for path in paths).items() if n > 1]
    if twice:
        raise TableError(f"{twice[0]} is given twice; give each file once.")
    tables = [read_file(path, decimal) for path in paths]
    if len(tables) > 1:
        tables = [wandb.melt_chart(t) if wandb.is_chart(t) else t for t in tables]
    if len(tables) > 1:
        tables = with_settings(paths, tables)
    for path, table in zip(paths, tables, strict=True):
        check_names_once(table, str(path))
        table[FILE] = str(path)
    return pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]


def name_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a run_id from the files' names, if each file is one run.

    Each file is one run if there are several, none names its runs, and N is one number in each.
    """
    if FILE not in table.columns or "run_id" in table.columns or table[FILE].nunique() < 2:
        return table
    if "N" not in table.columns or (table.groupby(FILE)["N"].nunique(dropna=False) > 1).any():
        return table
    return table.assign(run_id=table[FILE].map(short_names(table[FILE].unique())))


def repeated_rows(given: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """Return which rows of `table` repeat an earlier one, in whichever file, as they were `given`.

    If each file is a run of its own, only a whole file repeats another: two runs may well share a
    rounded loss.
    """
    given = given.loc[table.index]
    if FILE not in table.columns or table[FILE].nunique() < 2:
        return repeated(given.drop(columns=FILE, errors="ignore"))
    files = table[FILE]
    more = [name for name in table.columns if name not in (*given.columns, "run_id")]
    compared = given.drop(columns=FILE, errors="ignore").join(table[more])  # N of a file's name
    again = repeated(compared, files)
    if "run_id" not in given.columns and "run_id" in table.columns:
        runs = table["run_id"].groupby(files).nunique(dropna=False)
        if (runs == 1).all():
            within = repeated(compared.assign(**{FILE: files}), files)
            return within | again.groupby(files).transform("all")
    return again


def short_names(files: Sequence[str]) -> dict[str, str]:
    """Return {file: its name without suffix}, with as many folders as it takes to be unique."""
    parts = {file: Path(file).parts for file in files}
    for n in range(1, max(map(len, parts.values())) + 1):
        names = {file: "/".join(p[-n:]) for file, p in parts.items()}
        names = {file: name.removesuffix(Path(name).suffix) for file, name in names.items()}
        if len(set(names.values())) == len(files):
            return names
    return {file: file for file in files}


def check_complete(table: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    """Raise TableError if a file lacks a column of `columns` that other files have."""
    if FILE not in table.columns or table[FILE].nunique() < 2:
        return
    for name in columns:
        if name not in table.columns:
            continue
        filled = table[name].notna().groupby(table[FILE]).any()
        if filled.any() and not filled.all():
            lacking = filled.index[~filled]
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise TableError(
                f"{where}: {lacking[0]}{more} of {len(filled)} files has no value in column "
                f"{name!r}, which {filled.index[filled][0]} has. Map each file's own column, or "
                "leave the file out."
            )


def check_named(
    table: pd.DataFrame, columns: Sequence[str], mapped: Iterable[str], where: str
) -> None:
    """Raise TableError with a pattern if a column is missing that the files' names may hold, or
    those of their folders.

    mapped: the left sides of --map; a number that one of them takes is not proposed again.
    """
    if FILE not in table.columns or table[FILE].nunique() < 2:
        return
    name = next((name for name in columns if name not in table.columns), None)
    if name is None or any(each.startswith("{path:") for each in mapped):
        return
    files = list(table[FILE].unique())
    pattern = _of_names([Path(file).name for file in files], len(files))
    pattern = pattern or _of_names([Path(file).parent.name for file in files], len(files))
    if not pattern:
        return
    own = [str(c) for c in table.columns if c != FILE and c not in _SYMBOLS]
    raise TableError(
        f"{where}: {len(files)} files have no column {name!r}; they have {', '.join(own)}. Is it "
        f"in their names? Say {option({pattern: str(name)})}."
    )


def _of_names(names: Sequence[str], files: int) -> str:
    """Return a pattern for a number in names that tells the files apart; '' if there is none."""
    numbers = [_NUMBER.findall(name) for name in names]
    for place in range(min(map(len, numbers))):
        words = {found[place][0] for found in numbers}
        values = {found[place][1] for found in numbers}
        if len(words) == 1 and len(values) == files:
            digits = r"\d+" if all(value.isdigit() for value in values) else r"[\d.]*\d[a-zA-Z]?"
            return f"{{path:{words.pop()}({digits})}}"
    return ""


_SYMBOLS = ("N", "D", "C", "L", "S", "B")
_NUMBER = re.compile(r"([a-zA-Z]*[_=-]?)(\d+(?:\.\d+)?[kKmMbBgGtT]?)(?![a-zA-Z0-9])")
