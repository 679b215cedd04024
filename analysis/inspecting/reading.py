"""Read a table as far as it can be read: what its columns mean, which rows count, and what the
commands refuse it for."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.laws.registry import LAWS
from analysis.tables import wandb
from analysis.tables.containers import read_file
from analysis.tables.conversions import numbers_in
from analysis.tables.derive import derivable
from analysis.tables.doubts import SearchesMixed
from analysis.tables.guess import ColumnsGuessed, complete, name_columns
from analysis.tables.load import load, opened
from analysis.tables.objectives import of_one_vocabulary
from analysis.tables.rows import Evaluations, RowsLeftOut, in_words, used_rows
from analysis.tables.runs_and_curves import load_runs_and_curves
from analysis.tables.several import FILE, name_runs
from analysis.tables.states import with_statuses
from analysis.tables.tracked import open_sources, sources_of, undecided
from scaling.column_words import meaning
from scaling.columns import COLUMNS, CURVE_COLUMNS
from scaling.errors import TableError
from scaling.table import sensible

OWN = {column.name for column in (*COLUMNS, *CURVE_COLUMNS)}
"""Names of columns in tables of ours."""
NEEDED = ("N", "D", "L")
"""Columns without which no law of loss, size and data can be fitted."""
_OTHERS = (
    "C", "B", "S", "lr_peak", "n_layer", "d_model", "d_ff", "n_head", "n_kv_head", "vocab_size",
    "n_ctx", "seed", "L_stderr", "run_id",
)  # fmt: skip
"""Columns that are looked for as well."""


@dataclass(kw_only=True)
class Reading:
    """A table, and what could be read of it."""

    source: str
    given: Any
    """The table as the user named it."""
    options: dict[str, Any]
    """The arguments map, where, strict, rows and decimal of `load`."""
    opened: pd.DataFrame
    """The table as it is written."""
    rows: pd.DataFrame
    """The same, a chart as rows."""
    ours: bool
    """Whether it is made of results folders alone."""
    named: pd.DataFrame
    """All rows, with the columns that were recognised under their symbols."""
    names: dict[str, str] = field(default_factory=dict)
    """{column or expression: symbol} of what was guessed."""
    given_names: dict[str, str] = field(default_factory=dict)
    """{column or expression: symbol} of what the user gave."""
    settled: dict[str, str] = field(default_factory=dict)
    """{column or expression: symbol} of what a tracker settles."""
    remarks: list[str] = field(default_factory=list)
    """Conversions and conventions of the guess."""
    unclear: dict[str, str] = field(default_factory=dict)
    """{symbol: why it is not known}."""
    refused: str = ""
    """Why commands refuse the table as it is; "" if they take it."""
    remedy: str = ""
    """A condition with which they take it."""
    runs: pd.DataFrame | None = None
    """The runs that the commands use; None if they refuse the table."""
    curves: pd.DataFrame | None = None
    """Their learning curves, if there are any."""
    doubts: list[str] = field(default_factory=list)
    """Warnings of the loader about the whole table."""
    left_out: str = ""
    """Which rows count and which do not, in words."""
    tables: dict[tuple[str, ...], pd.DataFrame | str] = field(default_factory=dict)
    """{columns: the runs loaded for them, or why they cannot be loaded}."""

    @property
    def symbols(self) -> dict[str, str]:
        """{column or expression: symbol} of all that was recognised, what the user gave first."""
        return {**self.given_names, **self.names}

    @property
    def where(self) -> str | None:
        """The condition of the user together with the remedy."""
        asked = self.options.get("where")
        if not self.remedy:
            return asked
        return f"({asked}) and {self.remedy}" if asked else self.remedy

    @property
    def closed(self) -> bool:
        """Whether the commands refuse the runs of a tracker, whatever columns they need."""
        return bool(self.refused and not self.remedy and sources_of(self.given))

    @property
    def option(self) -> str:
        """The remedy as an option of the command line."""
        return f"--where {shlex.quote(self.where or '')}" if self.remedy else ""

    def load(self, columns: tuple[str, ...]) -> pd.DataFrame | str:
        """Return the finished runs with these columns, as a fit loads them; or why not."""
        if self.runs is not None and {*columns} <= {*self.runs.columns}:
            return used_rows(self.runs)
        if columns not in self.tables:
            self.tables[columns] = self._loaded(columns)
        return self.tables[columns]

    def _loaded(self, columns: tuple[str, ...]) -> pd.DataFrame | str:
        source = self.given if self.ours else self.opened
        names = {**self.settled, **self.options["map"]}
        options = {**self.options, "where": self.where, "map": names}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = load(source, need=columns, mixed=True, **options)
        except (TableError, ArithmeticError, MemoryError) as error:
            return self.short(error)
        return found if len(used_rows(found)) else "no run has finished."

    def short(self, error: object) -> str:
        """Return a message without the name of the table at its beginning."""
        return str(error).removeprefix(f"{self.source}: ")


def read(
    given: Any,
    *,
    map: Mapping[str, str] | None = None,
    where: str | None = None,
    strict: bool = False,
    rows: Evaluations = "auto",
    decimal: str | None = None,
) -> Reading:
    """Read a table as far as possible. Raises TableError if there is none."""
    options: dict[str, Any] = {
        "map": dict(map or {}), "where": where, "strict": strict, "rows": rows, "decimal": decimal
    }  # fmt: skip
    with recorded() as heard:
        sources = sources_of(given)
        start = _of_sources(given, sources, options) if sources else _opened(given, options)
        table, as_rows, source, ours, refused = start[:5]
    table.attrs["source"] = source
    _check_is_table(as_rows, source)
    reading = Reading(
        source=source, given=given, options=options, opened=table, rows=as_rows, ours=ours,
        named=as_rows, refused=refused, settled=start[5], remarks=start[6],
    )  # fmt: skip
    if not as_rows.columns.is_unique:
        return reading
    _name(reading)
    if not refused:
        _load(reading)
    if reading.refused and not reading.remedy and (condition := _condition(reading)):
        _retry(reading, condition)
    reading.doubts = list(dict.fromkeys([*map_texts(heard, reading), *reading.doubts]))
    return reading


def map_texts(heard: list[warnings.WarningMessage], reading: Reading) -> list[str]:
    """Return the texts of warnings, but for those that are reported elsewhere."""
    elsewhere = (ColumnsGuessed, RowsLeftOut, SearchesMixed)
    texts = [reading.short(w.message) for w in heard if not issubclass(w.category, elsewhere)]
    return list(dict.fromkeys(texts))


@contextmanager
def recorded() -> Iterator[list[warnings.WarningMessage]]:
    """Collect warnings instead of showing them."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield heard


_Start = tuple[pd.DataFrame, pd.DataFrame, str, bool, str, dict[str, str], list[str]]
"""A table, the same as rows, its source, whether it is ours, why it is refused, the columns that
its tracker settles, and remarks."""


def _of_sources(given: Any, sources: list[str], options: Mapping[str, Any]) -> _Start:
    """Return the runs of a tracker, and why their columns are not clear."""
    try:
        found = open_sources(sources, options["map"])
    except TableError as error:
        if len(sources) > 1:
            raise
        table, source = undecided(sources[0]), sources[0]
        return table, table, source, False, str(error).removeprefix(f"{source}: "), {}, []
    settled = {name: s for name, s in found.names.items() if name not in options["map"]}
    return found.table, found.table, found.source, False, "", settled, found.notes


def _opened(given: Any, options: Mapping[str, Any]) -> _Start:
    """Return what `opened` does, and why a results folder is no table of runs although its file
    can be read."""
    kept = {name: options[name] for name in ("map", "decimal")}
    try:
        return (*opened(given, **kept), "", {}, [])
    except TableError as error:
        if not isinstance(given, str | Path):
            raise
        path = Path(given)
        inside = path / "runs.csv" if path.is_dir() else path
        if not inside.is_file():
            raise
        table = read_file(inside, options["decimal"])
        return table, table, str(given), False, str(error).removeprefix(f"{inside}: "), {}, []


def _check_is_table(rows: pd.DataFrame, source: str) -> None:
    """Raise TableError for text that has neither numbers nor a known name in its header."""
    plain = plain_rows(rows)
    names = [str(c) for c in plain.columns]
    known = any(meaning(name) is not None or name in OWN for name in names)
    numbers = any(np.isfinite(numbers_in(plain.iloc[:, at])).any() for at in range(len(names)))
    if not known and not numbers:
        shown = ", ".join(map(repr, names[:3]))
        raise TableError(
            f"{source} holds no table of runs: its header is {shown}, and no column holds numbers."
        )


# ------------------------------------------------------------------ columns


def _name(reading: Reading) -> None:
    """Find the meaning of every column, each symbol on its own if some are unclear."""
    rows, source = reading.rows, reading.source
    given = {**reading.settled, **reading.options["map"]}
    table = wandb.with_run_ids(rows)
    try:
        named, found = name_columns(table, given, (*NEEDED, "C"), source, ours=reading.ours)
        mapped = {c: symbol for c, symbol in found.given.items() if c not in reading.settled}
        names = {c: s for c, s in found.given.items() if c in reading.settled} | dict(found.names)
        remarks = [*reading.remarks, *found.notes]
    except TableError:
        names, remarks, mapped = {}, [], _usable_map(reading, table)
        named = table
    wanted = dict.fromkeys((*NEEDED, *_OTHERS, *(n for law in LAWS.values() for n in law.inputs)))
    if not reading.ours:
        for symbol in wanted:
            if symbol in {*names.values(), *mapped.values(), *table.columns}:
                continue
            known = {**mapped, **names}
            try:
                found = complete(table, known, [symbol], source)
            except TableError as error:
                if symbol in NEEDED:
                    reading.unclear[symbol] = reading.short(error)
                continue
            new = {name: s for name, s in found.names.items() if s not in known.values()}
            names |= new
            remarks += found.notes if new else []
    reading.names, reading.given_names, reading.remarks = names, mapped, _unique(remarks)
    named = _named(reading, table, {**mapped, **names}, named)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            named, _ = with_statuses(name_runs(wandb.with_run_ids(named)), source)
    except TableError as error:
        reading.unclear["status"] = reading.short(error)
    reading.named = named


def _named(
    reading: Reading, table: pd.DataFrame, names: Mapping[str, str], otherwise: pd.DataFrame
) -> pd.DataFrame:
    """Return the table with its columns named, leaving out names that cannot be evaluated."""
    try:
        return name_columns(table, names, (), reading.source, ours=reading.ours)[0]
    except TableError:
        kept = {}
        for column, symbol in names.items():
            try:
                name_columns(table, {**kept, column: symbol}, (), reading.source, ours=True)
                kept[column] = symbol
            except TableError as error:
                reading.unclear.setdefault(symbol, reading.short(error))
        if not kept:
            return otherwise
        return name_columns(table, kept, (), reading.source, ours=True)[0]


def _usable_map(reading: Reading, table: pd.DataFrame) -> dict[str, str]:
    """Return the pairs of the user's map that the table allows; note why the others are not."""
    good: dict[str, str] = {}
    for column, symbol in reading.options["map"].items():
        try:
            name_columns(table, {**good, column: symbol}, (), reading.source, ours=True)
            good[column] = symbol
        except TableError as error:
            reading.unclear[symbol] = reading.short(error)
    return good


# ------------------------------------------------------------------ rows


def _load(reading: Reading) -> None:
    """Load the runs and curves as every command does, or note why they are refused."""
    whole = reading.ours or bool(sources_of(reading.given))
    source = reading.given if whole else reading.opened
    options = {**reading.options, "where": reading.where}
    try:
        with recorded() as heard:
            runs, curves = load_runs_and_curves(source, mixed=True, **options)
    except (TableError, ArithmeticError, MemoryError) as error:
        reading.refused = reading.short(error)
        return
    reading.runs, reading.curves = runs, None if curves is None else used_rows(curves)
    reading.doubts = map_texts(heard, reading)
    reading.left_out = in_words(runs)
    if not len(used_rows(runs)):
        reading.refused, reading.runs, reading.curves = "no run has finished.", None, None


def _retry(reading: Reading, condition: str) -> None:
    """Load with a condition that leaves out rows that no command takes."""
    refused, reading.remedy = reading.refused, condition
    reading.refused = ""
    _load(reading)
    if reading.refused:
        reading.remedy = ""
    reading.refused = refused
    reading.tables.clear()


def _condition(reading: Reading) -> str:
    """Return a condition that leaves out the rows whose size or loss is no positive number, and
    those of a tracker with another vocabulary."""
    parts = []
    used = used_rows(reading.named)
    for name in (*NEEDED, "C"):
        if name not in used.columns:
            continue
        values = numbers_in(used[name])
        if len(values) and not sensible(values).all() and sensible(values).any():
            parts.append(f"{name} > 0")
    vocabulary = of_one_vocabulary(used) if sources_of(reading.given) else ""
    return " and ".join([*parts, vocabulary] if vocabulary else parts)


def missing_symbols(reading: Reading) -> dict[str, str]:
    """Return {symbol: why it is missing} of the columns that laws of loss need."""
    present = derivable([*reading.named.columns, *reading.symbols.values()])
    reasons = {}
    for symbol in NEEDED:
        if symbol in reading.unclear:
            reasons[symbol] = reading.unclear[symbol]
        elif symbol not in present:
            found = reading.load((symbol,))
            reasons[symbol] = found if isinstance(found, str) else ""
    if reading.closed:
        return {"L": reading.refused} if reasons.get("L") else {}
    return {symbol: reason for symbol, reason in reasons.items() if reason}


def plain_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the column that holds the files of its rows."""
    return table.drop(columns=FILE, errors="ignore")


def _unique(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))
