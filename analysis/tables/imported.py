"""Import runs into a table of our own columns, with the evaluations of its runs beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.importing.choose import ALL
from analysis.tables.beside import curves_file, record_file
from analysis.tables.conditions import matching
from analysis.tables.derive import RULES, derive
from analysis.tables.guess import Guess, announce, name_columns
from analysis.tables.names import lacking
from analysis.tables.numbers import to_numbers
from analysis.tables.objectives import check_one_vocabulary
from analysis.tables.rows import chosen, of_final_rows, used_rows, with_loss
from analysis.tables.runs_and_curves import load_runs_and_curves
from analysis.tables.states import RUNNING, with_statuses
from analysis.tables.tracked import Opened, open_sources, sources_of
from scaling.column_words import meaning
from scaling.errors import ConfigError, TableError
from scaling.files import replacing
from scaling.jsonable import finite
from scaling.mapping import option
from scaling.table import check

_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
_NEED = ("N", "D", "C", "L", "run_id")
_FIRST = ("run_id", "name", "test_set", "status", "N", "D", "C", "B", "S", "L", "lr_peak")
_POINTS = ("run_id", "test_set", "S", "D", "C", "L", "lr")
UNFINISHED = "unfinished"
"""Status in an imported table of runs that have no end."""


@dataclass(frozen=True)
class Imported:
    """What was imported, and how it was read."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    record: dict[str, Any]
    """Source, choices, --map, conversions and counts, as they are written beside the table."""

    def write(self, out: Path) -> list[Path]:
        """Write the table and the files beside it, all or none; return their paths."""
        paths = [out, record_file(out)]
        paths += [curves_file(out)] if len(self.curves) else []
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(*paths) as (table, record, *points):
            _write(self.runs, table, out.suffix.lower())
            record.write_text(json.dumps(finite(self.record), indent=1) + "\n", encoding="utf-8")
            for path in points:
                self.curves.to_parquet(path, index=False)
        if not len(self.curves):
            curves_file(out).unlink(missing_ok=True)  # those of an earlier import
        return paths


def check_out(out: Path) -> None:
    """Raise ConfigError if a table cannot be written under this name."""
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--out {out}: the table is one of {', '.join(_SUFFIXES)}.")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file in it.")


def import_runs(
    source: str,
    *,
    map: Mapping[str, str] | None = None,
    loss: str | None = None,
    rows: str = "last",
    where: str | None = None,
    decimal: str | None = None,
) -> Imported:
    """Return the runs of a source, all with their status, and their evaluations.

    source: runs of a tracker, such as 'wandb:FOLDER', or a table.
    The other arguments are those of :func:`analysis.load`. Raises TableError as it does.
    """
    of_final_rows(rows)  # raises ConfigError if there is no such choice
    names = dict(map or {})
    if not sources_of(source):
        return _of_table(source, names, loss, rows, where, decimal)
    opened = open_sources([source], names, need=_NEED, loss=loss)
    runs, found, derived = _named(opened, where)
    _check_runs(runs, opened, loss)
    announce(runs, found, derived, source)
    points = _points(open_sources([source], names, need=_NEED, curves=True, loss=loss), runs)
    runs, left_out, why = _rows(runs, points, rows)
    record = {
        "source": source, "rows": rows, "evaluation": why or "the last of each run",
        "loss": loss, "where": where, "map": {**found.given, **found.names},
        "option": option({**found.given, **found.names}), "notes": list(dict.fromkeys(found.notes)),
        "derived": derived, "left_out": left_out, "statuses": _counts(runs),
        "evaluations": len(points),
    }  # fmt: skip
    return Imported(_ordered(runs, _FIRST), points, record)


def _of_table(
    source: str,
    names: Mapping[str, str],
    loss: str | None,
    rows: str,
    where: str | None,
    decimal: str | None,
) -> Imported:
    """Return the runs of a table; rows that do not count are left out, and counted."""
    if loss == ALL:
        raise ConfigError("--loss all is for runs of a tracker; name a column of the table.")
    names = {**names, **({loss: "L"} if loss else {})}
    rows = "auto" if rows == "last" else rows
    runs, curves = load_runs_and_curves(
        source, map=names, where=where, rows=rows, mixed=True, decimal=decimal
    )
    guessed = runs.attrs.get("guessed", {})
    record = {
        "source": source, "rows": rows, "evaluation": runs.attrs.get("evaluations", ""),
        "loss": loss, "where": where, "map": {**names, **guessed},
        "option": option({**names, **guessed}), "notes": [], "derived": runs.attrs["derived"],
        "left_out": runs.attrs.get("left_out", {}), "statuses": _counts(runs),
        "evaluations": 0 if curves is None else len(curves),
    }  # fmt: skip
    points = pd.DataFrame() if curves is None else _ordered(curves, _POINTS)
    return Imported(_ordered(runs, _FIRST), points, record)


def _named(opened: Opened, where: str | None) -> tuple[pd.DataFrame, Guess, dict[str, str]]:
    """Return the runs with our columns, what was guessed, and what was derived."""
    source = opened.source
    table, found = name_columns(opened.table, opened.names, _NEED, source, ours=False)
    opened.settle(found)
    table, reasons = with_statuses(table, source)
    going, failed = table["status"].eq(RUNNING), table["status"].eq("failed")
    table["status"] = table["status"].mask(going, UNFINISHED).mask(failed, reasons)
    if where:
        table = matching(table, where, given=opened.table, rules=RULES)
    to_numbers(table, ("N", "D", "C", "L", "B", "S"), source)
    derived = derive(table, None, source)
    for name in _NEED:
        if name not in table.columns:
            raise TableError(f"{source}: {lacking(name, opened.table)}")
    return table, found, derived


def _check_runs(runs: pd.DataFrame, opened: Opened, loss: str | None) -> None:
    """Raise TableError if no run has finished, none has a loss, or their losses do not compare."""
    counts = ", ".join(f"{n} {word}" for word, n in _counts(runs).items())
    if not len(used_rows(runs)):
        raise TableError(f"{opened.source}: no run has finished ({counts}): nothing to import.")
    kept, _ = with_loss(runs, opened.source, strict=False)
    check(kept, need=("N", "D", "L"), where=opened.source)
    check_one_vocabulary(runs.drop(columns="test_set") if loss == ALL else runs, opened.source)


def _points(opened: Opened, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the evaluations of the runs, in our columns and with the tracker's metrics."""
    if not len(opened.table):
        return pd.DataFrame()
    lr = [c for c in opened.table.columns if (w := meaning(str(c))) and w.symbol == "lr_peak"]
    rates = opened.table[lr].copy()
    table, _ = name_columns(opened.table, opened.names, _NEED, opened.source, ours=False)
    table = table[table["run_id"].isin(runs["run_id"])].copy()
    to_numbers(table, ("N", "D", "C", "L", "B", "S"), opened.source)
    derive(table, None, opened.source)
    varying = [c for c in lr if rates[c].groupby(opened.table["run_id"]).nunique().max() > 1]
    if varying and "lr" not in table.columns:
        table["lr"] = pd.to_numeric(rates[varying[0]], errors="coerce")
    numbers = table.select_dtypes("number").columns
    steady = table.groupby("run_id")[list(numbers)].nunique().max() <= 1
    kept = [c for c in table.columns if c in _POINTS or (c in numbers and not steady[c])]
    table = _ordered(table[[c for c in kept if c != "lr_peak"]], _POINTS)
    return table.sort_values(["run_id", *[c for c in ("test_set", "S") if c in table]],
                             kind="stable", ignore_index=True)  # fmt: skip


def _rows(
    runs: pd.DataFrame, points: pd.DataFrame, rows: str
) -> tuple[pd.DataFrame, dict[str, int], str]:
    """Return the runs at the evaluations that `rows` chooses, the number of those without one, and
    the choice in words."""
    if of_final_rows(rows) or not len(points):
        return runs, {}, ""
    keys = [name for name in ("run_id", "test_set") if name in points.columns]
    states = runs.set_index(keys)["status"]
    index = pd.MultiIndex.from_frame(points[keys]) if len(keys) > 1 else points["run_id"]
    table = points.assign(status=states.reindex(index).to_numpy())
    picked, left_out, why = chosen(table[table["L"].notna()], rows)
    picked = used_rows(picked).set_index(keys)
    own = pd.MultiIndex.from_frame(runs[keys]) if len(keys) > 1 else pd.Index(runs["run_id"])
    ok = (runs["status"] == "ok").to_numpy()
    runs = runs.copy()
    for name in ("L", "D", "S", "C"):
        if name in picked.columns:
            runs[name] = np.where(ok, picked[name].reindex(own), runs[name])
    lacking = ok & ~own.isin(picked.index)
    return runs[~lacking].copy(), {k: n for k, n in left_out.items() if lacking.any()}, why


def _counts(runs: pd.DataFrame) -> dict[str, int]:
    if "status" not in runs.columns:
        return {"ok": len(runs)}
    return {str(word): int(n) for word, n in runs["status"].value_counts().items()}


def _ordered(table: pd.DataFrame, first: tuple[str, ...]) -> pd.DataFrame:
    """Return a table with our columns before the tracker's, without empty ones."""
    table = table.dropna(axis="columns", how="all")
    ours = [name for name in first if name in table.columns]
    return table[[*ours, *(name for name in table.columns if name not in ours)]]


def _write(table: pd.DataFrame, path: Path, suffix: str) -> None:
    mixed = [c for c in table.columns if table[c].dtype == object]
    if suffix == ".parquet":
        text = {c: table[c].map(lambda value: None if pd.isna(value) else str(value))
                for c in mixed}  # fmt: skip
        table.assign(**text).to_parquet(path, index=False)
    elif suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
