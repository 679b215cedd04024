"""The tables of a suite of backtests: files, results folders, and suite files that list tables.

A suite file is TOML with one entry per source::

    [[table]]
    group = "porian2024"                     # tables of one group count as one in the summary
    path = "porian2024/isoflop_points.csv"   # relative to the root, or to this file
    map = { n = "N", t = "D", flops = "C", loss = "L" }
    where = "val == 'val'"                   # rows to use
    split = ["dataset", "hparams"]           # one table for each combination of values
    losses = ["loss_c4", "loss_code"]        # one table for each of these columns as L
    best = true                              # of runs with equal N and D, only the best
    name = "porian"                          # default: the group
"""

from __future__ import annotations

import hashlib
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.tables.load import load
from analysis.tables.rows import finished
from analysis.tables.several import is_results_folder
from scaling import files
from scaling.errors import ConfigError, TableError, did_you_mean
from scaling.table import sensible

_NUMBERS = ("N", "D", "C", "L")
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".feather", ".xlsx")
"""Suffixes of the tables that are taken from a folder."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SuiteTable:
    """One table of (N, D, C, L), to be split into smaller and larger runs."""

    name: str
    group: str
    """The source: tables of one group count as one in the summary."""
    runs: pd.DataFrame = field(repr=False)

    @property
    def content(self) -> str:
        """A hash of the numbers, which does not depend on the names of the table and its file."""
        known = [name for name in (*_NUMBERS, "run_id") if name in self.runs.columns]
        return hashlib.sha256(self.runs[known].to_csv(index=False).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a suite file; the module's docstring has an example."""

    group: str
    path: str
    map: Mapping[str, str] = field(default_factory=dict)
    where: str | None = None
    split: Sequence[str] = ()
    losses: Sequence[str] = ()
    best: bool = False
    name: str = ""


_KINDS = {"map": dict, "split": list, "losses": list, "best": bool}
"""Types of the values of an entry; the others are text."""


def tables_of(
    sources: Sequence[str | Path | pd.DataFrame],
    *,
    root: str | Path | None = None,
    **selection: Any,
) -> tuple[list[SuiteTable], dict[str, str]]:
    """Return the tables of files, folders, suite files or DataFrames, and why others are skipped.

    root: the folder to which the paths in suite files are relative; those that do not exist there
        are relative to the suite file.
    selection: passed to :func:`analysis.load` for tables that no suite file describes.

    A folder that is not a results folder stands for the tables and results folders in it.
    """
    found: list[SuiteTable] = []
    skipped: dict[str, str] = {}
    for source in sources:
        if not isinstance(source, str | Path):
            name = str(source.attrs.get("source", f"table {len(found) + 1}"))
            _add(found, skipped, name, lambda s=source, n=name: [_table(n, n, s, **selection)])
        elif Path(source).suffix == ".toml":
            for entry in entries(Path(source)):
                name = entry.name or entry.group
                _add(found, skipped, name, lambda e=entry, s=source: _tables(e, _place(e, s, root)))
        else:
            paths = _paths(Path(source))
            if not paths:
                skipped[str(source)] = "no table and no results folder is in this folder"
            for path in paths:
                name = str(path)
                _add(found, skipped, name, lambda p=path, n=name: [_table(n, n, p, **selection)])
    return _named_once(found), skipped


def _named_once(tables: list[SuiteTable]) -> list[SuiteTable]:
    """Return the tables with later ones of a name that is taken numbered."""
    taken: Counter[str] = Counter()
    found = []
    for table in tables:
        taken[table.name] += 1
        again = taken[table.name] > 1
        found.append(replace(table, name=f"{table.name} ({taken[table.name]})") if again else table)
    return found


def _add(found: list[SuiteTable], skipped: dict[str, str], name: str, read: Any) -> None:
    """Append the tables that `read` returns, or state under `name` why there are none."""
    try:
        found += read()
    except (TableError, ConfigError) as error:
        skipped[name] = str(error)


def _paths(path: Path) -> list[Path]:
    """Return the tables and results folders in a folder, or the path itself if it is one."""
    if not path.is_dir() or is_results_folder(path):
        return [path]
    inside = [each for each in sorted(path.iterdir()) if not each.name.startswith(".")]
    return [each for each in inside if is_results_folder(each) or each.suffix.lower() in _TABLES]


def _place(entry: Entry, suite: str | Path, root: str | Path | None) -> Path:
    """Return where the table of an entry is. Raises TableError if it is nowhere."""
    folders = [Path(suite).parent, *([] if root is None else [Path(root)])]
    for folder in reversed(folders):
        if (folder / entry.path).exists():
            return folder / entry.path
    places = " and ".join(str(folder) for folder in folders)
    raise TableError(f"{entry.path} does not exist in {places}; --root names the folder of tables.")


def entries(suite: Path) -> list[Entry]:
    """Return the entries of a suite file. Raises ConfigError for a mistake in it."""
    try:
        content = tomllib.loads(files.read_text(suite))
    except OSError as error:
        raise ConfigError(f"{suite}: {error.strerror or error}.") from error
    except (files.EncodingError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{suite} is not a suite file in TOML: {error}.") from error
    rows = content.pop("table", [])
    if content or not isinstance(rows, list) or not rows:
        other = f" (found {', '.join(content)})" if content else ""
        raise ConfigError(f"{suite}: a suite file consists of entries [[table]]{other}.")
    return [_entry(row, f"{suite}, table {i}") for i, row in enumerate(rows, 1)]


def _entry(row: Any, where: str) -> Entry:
    known = [each.name for each in fields(Entry)]
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: {row!r:.80} is not an entry [[table]].")
    for key, value in row.items():
        if key not in known:
            raise ConfigError(
                f"{where}: there is no key {key!r}; the keys are {', '.join(known)}."
                f"{did_you_mean(key, known)}"
            )
        kind = _KINDS.get(key, str)
        parts = value.values() if isinstance(value, dict) else value
        if not isinstance(value, kind) or (
            kind in (dict, list) and not all(isinstance(each, str) for each in parts)
        ):
            words = {dict: "a table of texts", list: "a list of texts", bool: "true or false"}
            raise ConfigError(
                f"{where}: {key} = {value!r:.80} must be {words.get(kind, 'a text')}."
            )
    for key in ("group", "path"):
        if not row.get(key):
            raise ConfigError(f"{where}: {key} is missing.")
    return Entry(**row)


def _tables(entry: Entry, path: Path) -> list[SuiteTable]:
    """Return the tables of an entry: one for each loss and each combination of split values."""
    found = []
    for loss in entry.losses or [""]:
        renamed = dict(entry.map) | ({loss: "L"} if loss else {})
        runs = _read(path, map=renamed, where=entry.where)
        for values, part in _split(runs, list(entry.split), str(path)):
            words = [entry.name or entry.group, *values, *([loss] if loss else [])]
            found.append(_made("/".join(words), entry.group, part, best=entry.best))
    return found


def _split(
    runs: pd.DataFrame, by: list[str], where: str
) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    for name in by:
        if name not in runs.columns:
            raise TableError(f"{where}: there is no column {name!r} to split by.")
    if not by:
        yield (), runs
        return
    for values, part in runs.groupby(by, sort=True, dropna=False):
        yield tuple(map(str, values)), part


def _table(name: str, group: str, source: Any, **selection: Any) -> SuiteTable:
    return _made(name, group, _read(source, **selection))


def _read(source: Any, **selection: Any) -> pd.DataFrame:
    """Return the finished runs of a table, without remarks about its columns and rows."""
    chosen = {name: value for name, value in selection.items() if value}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = load(source, need=("N", "D", "L"), also=("C",), mixed=True, **chosen)
    return finished(runs, str(source) if isinstance(source, str | Path) else "the table")


def _made(name: str, group: str, runs: pd.DataFrame, *, best: bool = False) -> SuiteTable:
    """Return a table with the columns that laws use; C = 6 N D unless the table states it."""
    if best:
        runs = runs.loc[runs.groupby(["N", "D"])["L"].idxmin()]
    known = [each for each in (*_NUMBERS, "run_id") if each in runs.columns]
    runs = runs[known].reset_index(drop=True)
    runs = runs.astype({each: float for each in _NUMBERS if each in known})
    if "C" not in known or not sensible(runs["C"].to_numpy(float, na_value=np.nan)).all():
        runs["C"] = 6 * runs["N"] * runs["D"]
    return SuiteTable(name=name, group=group, runs=runs)
