"""Learning curves in a table of any origin: one long table, or one file per run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.ends import Plan, planned
from analysis.curves.run_curve import RunCurves
from analysis.curves.segments import in_order
from analysis.tables import wandb
from analysis.tables.conditions import matching
from analysis.tables.derive import RULES
from analysis.tables.guess import name_columns
from analysis.tables.numbers import to_numbers
from analysis.tables.separators import localised
from analysis.tables.several import FILE, files_of, in_short, read_files, short_names
from analysis.tables.states import RUNNING, with_statuses, without_failures
from analysis.tables.tracked import open_sources, sources_of
from scaling.column_words import meaning
from scaling.config import RunConfig
from scaling.errors import TableError
from scaling.mapping import option
from scaling.table import missing_column

_RUN_WORDS = ("run", "run_id", "curve", "curve_id", "curve_name", "run_name", "name", "trial",
              "experiment", "exp", "job", "id")  # fmt: skip
"""Names of columns that may name the run of a row, the likeliest first."""
_STEP_WORDS = ("step", "_step", "global_step", "trainer/global_step")
"""Names of columns that count optimiser steps, of which the first is taken if there are others."""
_OF_A_RUN = ("N", "B", "D_total", "steps", "seed", "lr_peak", "step_seconds", "flops")
"""Columns that hold one number for each run, if they are there."""
STEPS = "steps"
"""Symbol of the column with the number of steps that a run is to have in all."""
_MOST_GUESSED = 1000
"""Most runs that a column may name which the user has not named."""


def read_table(
    source: Any,
    *,
    map: Mapping[str, str] | None = None,
    schedule: RunConfig | None = None,
    warmup: int | None = None,
    where: str | None = None,
    decimal: str | None = None,
) -> RunCurves:
    """Return the runs of a table of learning curves: step, loss and learning rate per row.

    map: {column: symbol}, with the symbols run, step (or S), loss (or L), lr, and N, B, steps for
        the parameters, the tokens per step and all the steps of a run. What is not mapped is
        guessed.
    schedule: the learning rates of the runs, as far as they were not logged.
    warmup: steps of linear warm-up from 0, where the rows of a run begin later.

    Raises TableError.
    """
    given, where_from, names = _opened(source, map or {}, decimal)
    table = _named(given, names, where_from)
    if where:
        table = matching(table, where, given=given, rules=RULES)
    table, _ = with_statuses(table, where_from)
    table = without_failures(table)
    to_numbers(table, [n for n in ("S", "L", "lr", *_OF_A_RUN) if n in table.columns], where_from)
    table = _with_runs(table, where_from)
    if "lr" not in table.columns and schedule is None:
        raise TableError(f"{where_from}: {_without_rates(table)}")
    found = _Rows.read(table, where_from)
    curves, notes = planned(found.plans, schedule, where_from, warmup)
    if not curves:
        raise TableError(f"{where_from}: no run has a loss after its warm-up; nothing to forecast.")
    return RunCurves(runs=curves, source=where_from, notes=[*found.notes, *notes])


def _opened(
    source: Any, names: Mapping[str, str], decimal: str | None
) -> tuple[pd.DataFrame, str, dict[str, str]]:
    """Return the table as it is, the name of its origin, and the map in our symbols."""
    if isinstance(source, pd.DataFrame):
        where = str(source.attrs.get("source", "the table"))
        table = localised(source.reset_index(drop=True), where, decimal)
    elif sources := sources_of(source):
        opened = open_sources(sources, names, curves=True)
        return opened.table, opened.source, {**opened.names, **names}
    else:
        given = [Path(p) for p in ([source] if isinstance(source, str | Path) else source)]
        where = str(given[0]) if len(given) == 1 else in_short(given)
        table = read_files([file for each in given for file in files_of(each)], decimal)
    plain = table.drop(columns=FILE, errors="ignore")
    if wandb.is_chart(plain):
        table = wandb.melt_chart(plain)
    ours = {"run": "run_id", "curve": "run_id", "step": "S", "loss": "L", "total_steps": STEPS}
    return table, where, {column: ours.get(symbol, symbol) for column, symbol in names.items()}


def _named(table: pd.DataFrame, names: dict[str, str], where: str) -> pd.DataFrame:
    """Return the table with the columns S, L, lr and run_id, mapped or guessed."""
    taken = {*names, *names.values()}
    if "S" not in taken and (column := _clear(table, "S", names)):
        names[column] = "S"
    if "L" not in taken and "loss" in table.columns and "loss" not in names:
        names["loss"] = "L"
    if "lr" not in {*names.values(), *table.columns} and (column := _rates_in(table, names)):
        names[column] = "lr"
    renamed, _ = name_columns(table, _identity_first(table, names), ("S", "L"), where, ours=False)
    if "S" not in renamed.columns and {"D", "B"} <= set(renamed.columns):
        to_numbers(renamed, ("D", "B"), where)
        renamed["S"] = renamed["D"] / renamed["B"]
    for symbol, shown in (("S", "step"), ("L", "loss")):
        if symbol not in renamed.columns:
            columns = [c for c in renamed.columns if c != FILE]
            text = missing_column(symbol, columns, shown)
            raise TableError(
                f"{where}: {text} A table of learning curves has a row per evaluation: "
                "say --map STEP=step,LOSS=loss,LR=lr with the names of its columns"
                + (
                    "; with 524288 tokens per step, --map 'tokens / 524288=step'."
                    if symbol == "S"
                    else "."
                )
            )
    return renamed


def _identity_first(table: pd.DataFrame, names: dict[str, str]) -> dict[str, str]:
    """Return the names without columns that bear their symbol already."""
    return {column: symbol for column, symbol in names.items() if column != symbol}


def _clear(table: pd.DataFrame, symbol: str, names: Mapping[str, str]) -> str | None:
    """Return the only column whose name says that it holds the symbol and that is not mapped."""
    if symbol in table.columns:
        return None
    known = [
        str(c) for c in table.columns
        if c != FILE and c not in names and (what := meaning(str(c))) and what.symbol == symbol
        and what.scale == 1 and not what.function
    ]  # fmt: skip
    best = [
        c for c in known if c.lower() in ("step", "_step", "global_step", "trainer/global_step")
    ]
    return best[0] if len(best) == 1 else known[0] if len(known) == 1 else None


def _rates_in(table: pd.DataFrame, names: Mapping[str, str]) -> str | None:
    """Return the column that holds the learning rate of each row, if one name says so."""
    found = [
        str(c) for c in table.columns
        if c != FILE and c not in names and (what := meaning(str(c))) and what.symbol == "lr_peak"
        and "peak" not in str(c).lower() and "max" not in str(c).lower()
    ]  # fmt: skip
    return found[0] if len(found) == 1 else None


def _with_runs(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the table with a run_id: as mapped, guessed, by file, or one run."""
    several = FILE in table.columns and table[FILE].nunique() > 1
    if "run_id" not in table.columns:
        column = next((c for c in _by_rank(table) if _names_runs(table, c)), None)
        if column is not None:
            table = table.assign(run_id=table[column])
        elif several:
            names = short_names(list(table[FILE].unique()))
            table = table.assign(run_id=table[FILE].map(names))
        else:
            only = Path(str(table[FILE].iloc[0])).stem if FILE in table.columns else "run"
            table = table.assign(run_id=only)
    if table["run_id"].isna().any():
        row = table.index[table["run_id"].isna()][0]
        raise TableError(
            f"{where}: row {row} does not say which run it is of: its run is empty. Fill it in, or "
            "leave such rows out with --where."
        )
    return table.assign(run_id=table["run_id"].map(str))


def _by_rank(table: pd.DataFrame) -> list[str]:
    lower = {str(c).lower(): str(c) for c in table.columns if c != FILE}
    return [lower[word] for word in _RUN_WORDS if word in lower]


def _names_runs(table: pd.DataFrame, column: str) -> bool:
    """Return whether the values of a column can tell runs apart: each has several rows."""
    values = table[column]
    counts = values.value_counts(dropna=False)
    return 0 < len(counts) <= _MOST_GUESSED and bool((counts > 1).any())


def _without_rates(table: pd.DataFrame) -> str:
    columns = [str(c) for c in table.columns if c not in (FILE, "run_id")]
    return (
        f"the runs have no learning rates: no column lr among {', '.join(columns)}. A law of "
        f"curves needs them. If a column holds them, say {option({'COLUMN': 'lr'})}; or give the "
        "schedule of the runs, such as --lr-schedule cosine:peak=3e-4,warmup=2000,steps=72000."
    )


@dataclass
class _Rows:
    """The rows of every run of a table, in order."""

    plans: list[Plan]
    notes: list[str]

    @classmethod
    def read(cls, table: pd.DataFrame, where: str) -> _Rows:
        plans, counts = [], {"without a loss": 0, "without a step": 0}
        repeated: dict[str, int] = {}
        replaced: dict[str, int] = {}
        for run, rows in table.groupby("run_id", sort=False):
            plan = _plan_of(str(run), rows, where, counts, repeated, replaced)
            if plan is not None:
                plans.append(plan)
        notes = [f"{n} rows {why} are left out" for why, n in counts.items() if n]
        if repeated:
            notes.append(f"{sum(repeated.values())} rows that repeat another are counted once")
        if replaced:
            names = ", ".join(list(replaced)[:3]) + (", ..." if len(replaced) > 3 else "")
            notes.append(
                f"{names}: resumed from an earlier step; {sum(replaced.values())} rows that were "
                "written again are replaced by the later ones"
            )
        return cls(plans, notes)


def _plan_of(
    run: str,
    rows: pd.DataFrame,
    where: str,
    counts: dict[str, int],
    repeated: dict[str, int],
    replaced: dict[str, int],
) -> Plan | None:
    """Return one run's rows in order; None if it has no loss. Counts the rows left out."""
    lacking = ~np.isfinite(rows["S"].to_numpy(float)) | (rows["S"].to_numpy(float) < 0)
    counts["without a step"] += int(lacking.sum())
    rows = rows[~lacking]
    loss = rows["L"].to_numpy(float)
    step = rows["S"].to_numpy(float)
    measured = np.isfinite(loss) & (loss > 0) & (step > 0)
    last = step[measured].max() if measured.any() else -math.inf
    lr = rows["lr"].to_numpy(float) if "lr" in rows.columns else np.full(len(rows), np.nan)
    ahead = ~measured & (step > last) & np.isfinite(lr) if measured.any() else ~measured & False
    counts["without a loss"] += int((~measured & ~ahead & (step > 0)).sum())
    if not measured.any():
        return None
    at = np.flatnonzero(measured)
    order = in_order(run, step[at], loss[at], where)
    if order.repeated:
        repeated[run] = order.repeated
    if order.replaced:
        replaced[run] = order.replaced
    at = at[order.kept]
    logged = np.isfinite(lr[at])
    coming = np.flatnonzero(ahead)
    coming = coming[np.unique(step[coming], return_index=True)[1]]
    status = str(rows["status"].iloc[-1]) if "status" in rows.columns else ""
    return Plan(
        run=run,
        status="running" if status == RUNNING else status,
        step=step[at],
        loss=loss[at],
        lr_step=step[at][logged],
        lr=lr[at][logged],
        coming_step=step[coming],
        coming_lr=lr[coming],
        constants={name: _one(run, rows[name], where) for name in _present(rows)},
    )


def _present(rows: pd.DataFrame) -> list[str]:
    return [name for name in _OF_A_RUN if name in rows.columns]


def _one(run: str, values: pd.Series, where: str) -> float | None:
    """Return the one number that a column holds for a run. Raises TableError if there are two."""
    numbers = values.to_numpy(float)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    if len(numbers) > 1 and values.name in ("N", "seed"):
        raise TableError(
            f"{where}: {run!r} is the name of two runs: its rows have {values.name}="
            f"{numbers[0]:g} and {values.name}={numbers[1]:g}. Name the column that tells them "
            "apart with --map COLUMN=run."
        )
    return float(numbers[0]) if len(numbers) == 1 else None
