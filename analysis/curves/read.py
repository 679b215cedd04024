"""Learning curves of a table, run by run: checked, in the order of steps, with learning rates."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.rates import Rates
from analysis.curves.segments import in_order
from scaling.errors import TableError, did_you_mean

_DIFFERENT = 0.01
"""Relative difference of two learning rates of one step that rounding does not explain."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The learning curve of one run after its warm-up."""

    run: Any
    step: np.ndarray
    loss: np.ndarray
    rates: Rates
    rows: np.ndarray
    """Index labels of the rows in the table."""

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.step)


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table of curves."""

    run: str
    step: str
    lr: str
    loss: str


def read_curves(
    curves: pd.DataFrame,
    columns: Columns,
    *,
    warmup: int | None = None,
    rates: Mapping[Any, Rates] | None = None,
    fit_on: Collection[Any] | None = None,
) -> tuple[list[Curve], list[str]]:
    """Return the curves of a table, and notes on rows that were dropped or put in order.

    Raises TableError for a table that cannot be used as it is.
    """
    _check_columns(curves, columns, rates is not None)
    notes: list[str] = []
    if fit_on is not None:
        curves = _chosen(curves, columns.run, fit_on)
    table = _numeric(curves, columns, notes)
    found = []
    for run, rows in table.groupby(columns.run, sort=False):
        rows = _in_order(run, rows, columns, notes)
        found.append(_curve(run, rows, columns, warmup, rates, notes))
    early = sum(np.count_nonzero(c.step <= c.rates.warmup) for c in found)
    if early:
        notes.append(f"{early} rows of the warm-up are left out: the laws hold after it.")
        found = [_after_warmup(c) for c in found]
    empty = [c.run for c in found if not c.n]
    if empty:
        notes.append(f"{_several('run', empty)} without a point after warm-up left out.")
    return [c for c in found if c.n], notes


def _check_columns(curves: Any, columns: Columns, has_rates: bool) -> None:
    if not isinstance(curves, pd.DataFrame):
        raise TableError(
            f"curves must be a DataFrame with one row per logged step, not {type(curves).__name__}."
        )
    for meaning, name in vars(columns).items():
        if name in curves.columns or (meaning == "lr" and has_rates):
            continue
        if meaning == "lr":
            raise TableError(
                f"the curves have no column {name!r} of learning rates.{_near(name, curves)} The "
                "loss at a step depends on all rates until then: name the column that logs them "
                "(lr), or give the rates of each run (rates)."
            )
        raise TableError(
            f"the curves have no column {name!r} ({meaning}).{_near(name, curves)} "
            f"They have {', '.join(map(str, curves.columns))}."
        )
    if not len(curves):
        raise TableError("the table of curves has no rows.")


def _near(name: str, curves: pd.DataFrame) -> str:
    return did_you_mean(name, map(str, curves.columns))


def _chosen(curves: pd.DataFrame, run: str, fit_on: Collection[Any]) -> pd.DataFrame:
    """Return the rows of the runs to fit."""
    names = [fit_on] if isinstance(fit_on, str) else list(fit_on)
    known = set(curves[run])
    for name in names:
        if name not in known:
            near = did_you_mean(str(name), map(str, known))
            raise TableError(f"fit_on: no run is called {name!r} in the column {run}.{near}")
    return curves[curves[run].isin(names)]


def _numeric(curves: pd.DataFrame, columns: Columns, notes: list[str]) -> pd.DataFrame:
    """Return the rows whose step, rate and loss are numbers that can be used."""
    names = [columns.step, columns.loss] + [columns.lr] * (columns.lr in curves.columns)
    table = curves[[columns.run, *names]].copy()
    for name in names:
        numbers = pd.to_numeric(table[name], errors="coerce")
        bad = numbers.isna() & table[name].notna()
        if bad.any():
            where = table.index[bad][0]
            raise TableError(
                f"column {name}, row {where}: {table.loc[where, name]!r} is not a number."
            )
        table[name] = numbers.astype(float)
    if columns.lr in names and table[columns.lr].isna().all():
        raise TableError(
            f"the column {columns.lr} is empty: the laws need the learning rate of each row, or "
            "the rates of each run (rates)."
        )
    missing = table[[columns.run, *names]].isna().any(axis=1)
    unusable = ~missing & (~np.isfinite(table[names]).all(axis=1) | (table[columns.loss] <= 0))
    if missing.any():
        notes.append(f"{missing.sum()} rows with missing values (NaN) dropped.")
    if unusable.any():
        notes.append(f"{unusable.sum()} rows whose loss is not positive and finite dropped.")
    table = table[~missing & ~unusable]
    if not len(table):
        raise TableError("no row has a step, a learning rate and a loss.")
    steps = table[columns.step]
    odd = (steps != steps.round()) | (steps < 0)
    if odd.any():
        where = table.index[odd][0]
        raise TableError(
            f"column {columns.step}, row {where}: {steps[where]:g} is not a step, a whole number "
            "from 0."
        )
    return table


def _in_order(run: Any, rows: pd.DataFrame, columns: Columns, notes: list[str]) -> pd.DataFrame:
    """Return the rows by step, each step once; later rows of a resumed run replace earlier ones."""
    rows = rows[~rows.drop(columns=columns.run).duplicated()]
    step = rows[columns.step].to_numpy()
    if (np.diff(step) > 0).all():
        return rows
    if len(np.unique(step)) == len(step):
        notes.append(f"run {run}: rows were not in the order of steps; sorted.")
        return rows.sort_values(columns.step)
    remedy = (
        f"Give each run an id of its own in the column {columns.run}, or leave one of them out."
    )
    _refuse_two_rates(run, rows, columns, remedy)
    try:
        ordered = in_order(str(run), step, rows[columns.loss].to_numpy(), "curves")
    except TableError as error:
        raise TableError(f"{str(error).partition(' Name the column')[0]} {remedy}") from None
    if ordered.replaced:
        notes.append(
            f"run {run}: resumed from an earlier step; {ordered.replaced} rows that were written "
            "again are replaced by the later ones."
        )
    return rows.iloc[ordered.kept]


def _refuse_two_rates(run: Any, rows: pd.DataFrame, columns: Columns, remedy: str) -> None:
    """Raise TableError if rows of one step have different learning rates."""
    if columns.lr not in rows:
        return
    rates = rows.groupby(columns.step)[columns.lr].agg(["min", "max"])
    off = rates.index[rates["max"] - rates["min"] > _DIFFERENT * rates["max"]]
    if len(off):
        low, high = rates.loc[off[0]]
        raise TableError(
            f"curves: {run!r} is the name of two runs: at step {off[0]:g} its learning rate "
            f"(column {columns.lr}) is both {low:.4g} and {high:.4g}. {remedy}"
        )


def _curve(
    run: Any,
    rows: pd.DataFrame,
    columns: Columns,
    warmup: int | None,
    rates: Mapping[Any, Rates] | None,
    notes: list[str],
) -> Curve:
    """Return the curve of one run with its learning rates."""
    step, loss = rows[columns.step].to_numpy(), rows[columns.loss].to_numpy()
    logged = rows[columns.lr].to_numpy() if columns.lr in rows else None
    if rates is None:
        assert logged is not None
        try:
            own = Rates.from_logged(step, logged, warmup)
        except TableError as error:
            raise TableError(f"run {run}: {error}") from None
        if warmup is None:
            _say_start(run, step, own, notes)
        if not own.cumulative(step[-1]) > 0:
            raise TableError(f"run {run}: its learning rate (column {columns.lr}) is 0 throughout.")
        return Curve(run, step, loss, own, rows.index.to_numpy())
    if run not in rates:
        raise TableError(f"rates: no learning rates are given for run {run!r}.")
    own = rates[run]
    if logged is not None:
        _check_schedule(run, step, logged, own, columns)
    return Curve(run, step, loss, own, rows.index.to_numpy())


def _say_start(run: Any, step: np.ndarray, rates: Rates, notes: list[str]) -> None:
    """Note where the rates before a run's first row are a guess that may matter."""
    if rates.warmup or step[0] <= 0.01 * step[-1]:
        return
    notes.append(
        f"run {run}: rows begin at step {step[0]:g}; the learning rate before is taken to be "
        "constant. Give warmup if it rose from 0."
    )


def _check_schedule(
    run: Any, step: np.ndarray, logged: np.ndarray, rates: Rates, columns: Columns
) -> None:
    """Raise TableError if given rates are not those that were logged."""
    given = rates.at(step)
    off = np.abs(given - logged) > _DIFFERENT * np.maximum(np.abs(logged), np.abs(given))
    if np.count_nonzero(off) > 0.02 * len(step):
        i = int(np.flatnonzero(off)[0])
        raise TableError(
            f"run {run}: the schedule does not match the logged learning rates: at step "
            f"{step[i]:g} it gives {given[i]:.4g}, the column {columns.lr} has {logged[i]:.4g} "
            f"({np.count_nonzero(off)} of {len(step)} rows differ). Leave out rates to use the "
            "logged ones, or correct the schedule."
        )


def _after_warmup(curve: Curve) -> Curve:
    kept = curve.step > curve.rates.warmup
    return Curve(curve.run, curve.step[kept], curve.loss[kept], curve.rates, curve.rows[kept])


def _several(word: str, names: list[Any]) -> str:
    shown = ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{word}{'s' if len(names) > 1 else ''} {shown}"
