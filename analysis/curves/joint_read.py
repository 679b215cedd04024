"""Curves of a sweep as rows of the law of curves and sizes: sizes, batches, trunks."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.rates import Rates, config_of
from analysis.curves.read import Columns, Curve, read_curves
from analysis.curves.size_law import Rows, joined
from analysis.curves.sums import nodes
from scaling.errors import TableError, did_you_mean

PRECISION = 1e-6
"""Relative error of the sums over steps, far below the noise of a loss."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SweepCurves:
    """The points of all runs that a fit uses, each measured loss once."""

    rows: Rows
    log_loss: np.ndarray
    run: np.ndarray
    """Run of each row (n,)."""
    size: np.ndarray
    """Index of each row's size (n,)."""
    trunk: np.ndarray
    """Index of each row's trunk among those of its size (n,)."""
    sizes: tuple[float, ...]
    trunks: tuple[tuple[Hashable, ...], ...]
    """Trunks of each size."""
    trunk_of: dict[Any, Hashable]
    """Trunk of each run."""
    rates: dict[Any, Rates]
    N: dict[Any, float]
    batch: dict[Any, float]
    notes: tuple[str, ...]


def rows_of(N: float, rates: Rates, step: np.ndarray, batch: float) -> Rows:
    """Return rows of one run of N parameters at some steps, with `batch` tokens per step."""
    step = np.asarray(step, float)
    peak = rates.peak
    if peak <= 0:
        raise TableError("all learning rates of a run are 0: its law has no scale.")
    start = np.flatnonzero(rates.steps >= rates.warmup)
    start = start[start >= int(np.argmax(rates.lr >= peak * (1 - 1e-9)))]
    after = Rates(rates.steps[start], rates.lr[start])  # the rate rises to its peak unseen
    found = nodes(after, step, PRECISION)
    scale = batch / peak
    return Rows(
        np.full(len(step), float(N)),
        rates.cumulative(step) * scale,
        np.full(len(step), float(batch)),
        rates.at(step) / peak,
        found.row,
        -found.weight / peak,
        found.x * scale,
    )


def read_sweep(
    curves: pd.DataFrame,
    columns: Columns,
    *,
    runs: pd.DataFrame | None = None,
    N: str = "N",
    batch: str = "B",
    tokens: str = "D",
    trunk: str | None = None,
    warmup: int | None = None,
    rates: Mapping[Any, Rates] | None = None,
    fit_on: Collection[Any] | None = None,
    after: float = 2.0,
) -> SweepCurves:
    """Return the points of a sweep's curves, from a long table or from a results folder's two.

    Raises TableError for tables that cannot be used as they are.
    """
    notes: list[str] = []
    if runs is not None:
        curves, rates, trunk_of = _with_runs(curves, runs, columns, rates, notes)
    else:
        trunk_of = {}
        if trunk is not None:
            _need(curves, trunk, "trunk", columns)
            trunk_of = dict(curves.groupby(columns.run)[trunk].first())
    _need(curves, N, "number of parameters", columns)
    if batch not in curves.columns and tokens not in curves.columns:
        raise TableError(
            f"the curves have neither a column {batch!r} (tokens per step) nor {tokens!r} (tokens "
            "so far): the law of curves and sizes counts tokens. Give one of them."
        )
    sizes = _of_run(curves, columns.run, N)
    usable = curves[curves[columns.step] > 0]
    per_step = (
        _of_run(curves, columns.run, batch)
        if batch in curves.columns
        else (usable[tokens] / usable[columns.step]).groupby(usable[columns.run]).last().to_dict()
    )
    found, more = read_curves(curves, columns, warmup=warmup, rates=rates, fit_on=fit_on)
    found, early = _after(found, after)
    if early:
        notes.append(
            f"{early} early rows left out: before {after:g} times the warm-up the loss follows no "
            "power law."
        )
    return _gathered(found, sizes, per_step, trunk_of, [*more, *notes])


def _gathered(
    curves: list[Curve],
    sizes: dict[Any, float],
    per_step: dict[Any, float],
    trunk_of: dict[Any, Hashable],
    notes: list[str],
) -> SweepCurves:
    """Return the rows of curves, grouped by size and trunk; shared steps of a trunk count once."""
    distinct = tuple(sorted({float(sizes[c.run]) for c in curves}))
    trunks: dict[float, list[Hashable]] = {s: [] for s in distinct}
    seen: set[tuple] = set()
    parts, size, trunk, run, loss, shared = [], [], [], [], [], 0
    for c in curves:
        N, name = float(sizes[c.run]), trunk_of.get(c.run, c.run)
        if not N > 0 or not per_step[c.run] > 0:
            raise TableError(
                f"run {c.run}: N = {N:g} and {per_step[c.run]:g} tokens per step; both must be "
                "more than 0."
            )
        keys = [(N, name, s, x) for s, x in zip(c.step, c.loss, strict=True)]
        new = np.array([key not in seen for key in keys], bool)
        seen.update(keys)
        shared += int((~new).sum())
        if name not in trunks[N]:
            trunks[N].append(name)
        parts.append(rows_of(N, c.rates, c.step[new], per_step[c.run]))
        n = int(new.sum())
        size += [distinct.index(N)] * n
        trunk += [trunks[N].index(name)] * n
        run += [c.run] * n
        loss.append(np.log(c.loss[new]))
    if shared:
        notes.append(f"{shared} rows of steps that runs share with others are counted once.")
    if not parts:
        raise TableError("no run has a point after its warm-up.")
    return SweepCurves(
        rows=joined(parts), log_loss=np.concatenate(loss), run=np.array(run, object),
        size=np.array(size), trunk=np.array(trunk), sizes=distinct,
        trunks=tuple(tuple(trunks[s]) for s in distinct),
        trunk_of={c.run: trunk_of.get(c.run, c.run) for c in curves},
        rates={c.run: c.rates for c in curves}, N={c.run: float(sizes[c.run]) for c in curves},
        batch={c.run: float(per_step[c.run]) for c in curves}, notes=tuple(notes),
    )  # fmt: skip


def _after(curves: list[Curve], after: float) -> tuple[list[Curve], int]:
    """Return curves without rows before `after` times the warm-up, and the number of those."""
    kept, early = [], 0
    for c in curves:
        late = c.step >= after * c.rates.warmup
        early += int((~late).sum())
        if late.any():
            kept.append(Curve(c.run, c.step[late], c.loss[late], c.rates, c.rows[late]))
    return kept, early


def _with_runs(
    curves: pd.DataFrame,
    runs: pd.DataFrame,
    columns: Columns,
    rates: Mapping[Any, Rates] | None,
    notes: list[str],
) -> tuple[pd.DataFrame, Mapping[Any, Rates], dict[Any, Hashable]]:
    """Join the curves of a results folder with the configs of its runs."""
    from scaling.training.pack_key import trunk

    _need(runs, columns.run, "run", columns)
    if runs[columns.run].duplicated().any():
        twice = runs[columns.run][runs[columns.run].duplicated()].iloc[0]
        raise TableError(f"runs: two rows have the id {twice!r} in the column {columns.run}.")
    own = runs[runs[columns.run].isin(curves[columns.run])]
    absent = curves[~curves[columns.run].isin(own[columns.run])]
    if len(absent):
        notes.append(f"{absent[columns.run].nunique()} curves without a row in runs left out.")
    found, trunks = dict(rates or {}), {}
    for row in own.to_dict("records"):
        config = config_of(row)
        if row[columns.run] not in found:
            found[row[columns.run]] = Rates.from_config(config)
        trunks[row[columns.run]] = hash(trunk(config))
    both = curves.drop(columns=[c for c in ("N", "B") if c in curves]).merge(
        own[[columns.run, "N", "B"]], on=columns.run
    )
    return both, found, trunks


def _of_run(curves: pd.DataFrame, run: str, column: str) -> dict[Any, float]:
    """Return the one value of a column for each run."""
    values = curves.groupby(run)[column]
    spread = values.nunique()
    if (spread > 1).any():
        name = spread.index[spread > 1][0]
        shown = ", ".join(f"{x:g}" for x in values.get_group(name).unique()[:3])
        raise TableError(f"run {name}: the column {column} has several values ({shown}).")
    return values.first().to_dict()


def _need(table: pd.DataFrame, column: str, meaning: str, columns: Columns) -> None:
    if column not in table.columns:
        near = did_you_mean(column, map(str, table.columns))
        raise TableError(f"there is no column {column!r} ({meaning}).{near}")
