"""The two arms of a transfer experiment: runs from random weights and runs from trained ones.

Both are trained on D_F tokens of the new distribution. Of the learning rates of an arm, the best
one counts, so that neither arm suffers from a badly chosen rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.tables.objectives import begun_from_weights, check_one_objective
from scaling.errors import TableError

_CELL = ["N", "D_F"]
"""Columns that tell the cells of an arm apart."""

_RATES = ("lr_peak", "lr", "lr_embedding")


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Losses of both arms, one row per N, D_F and seed."""

    scratch: pd.DataFrame
    """Columns N, D_F, seed, L, at_end (:func:`at_best_rate`): runs from random weights."""
    pretrained: pd.DataFrame
    """The same of runs that began from trained weights."""
    noise: float
    """Standard deviation of log L between seeds, pooled over all cells of both arms."""
    freedom: int
    """Degrees of freedom of the noise."""
    parents: tuple[str, ...]
    """Runs that the pre-trained arm began from."""

    @property
    def untuned(self) -> dict[str, tuple[int, int]]:
        """{arm: (cells whose best learning rate is an end of those tried, all cells)}."""
        parts = {"scratch": self.scratch, "pretrained": self.pretrained}
        at_end = {arm: part.groupby(_CELL)["at_end"].first() for arm, part in parts.items()}
        return {arm: (int(cells.sum()), len(cells)) for arm, cells in at_end.items()}


def arms(runs: pd.DataFrame) -> Arms:
    """Return the two arms in a table of runs.

    A run belongs to the pre-trained arm if `init_run` names its parent. D_F is `unique_tokens`,
    the size of the data set that a run may repeat, or else D. Raises TableError if an arm is
    missing, if no cell has two seeds, and if the arms differ in their test text.
    """
    if "init_run" not in runs:
        raise TableError(
            "no column init_run tells which runs began from trained weights; `scaling sweep "
            "transfer` trains both arms."
        )
    ok = runs[runs["status"] == "ok"] if "status" in runs else runs
    check_one_objective(ok, one_task=True)
    if "classes" in ok and ok["classes"].notna().any():
        raise TableError(
            "the runs are classifiers, whose data are labelled excerpts and not tokens; "
            "`scaling figure classification` compares their arms."
        )
    used = ok.assign(D_F=_data_size(ok), seed=ok.get("seed", 0))
    _check_one_test(used)
    begun = begun_from_weights(used)
    for arm, rows in (("from random weights", used[~begun]), ("from trained weights", used[begun])):
        if rows.empty:
            raise TableError(f"no run {arm} (init_run); a comparison needs both arms.")
    scratch, pretrained = (
        at_best_rate(rows, _CELL)[[*_CELL, "seed", "L", "at_end"]]
        for rows in (used[~begun], used[begun])
    )
    noise, freedom = _pooled([scratch, pretrained])
    return Arms(
        scratch=scratch,
        pretrained=pretrained,
        noise=noise,
        freedom=freedom,
        parents=tuple(sorted(used.loc[begun, "init_run"].astype(str).unique())),
    )


def _data_size(runs: pd.DataFrame) -> pd.Series:
    D = runs["D"].astype(float)
    if "unique_tokens" not in runs:
        return D
    return pd.to_numeric(runs["unique_tokens"]).astype(float).fillna(D)


def _check_one_test(runs: pd.DataFrame) -> None:
    for name in ("corpus", "tokenizer", "test_tokens"):
        if name in runs and (number := runs[name].nunique(dropna=False)) > 1:
            raise TableError(
                f"the runs have {number} values of {name}: losses of the two arms would not "
                f"compare. Choose one with --where."
            )


def at_best_rate(runs: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """Return the runs of each cell, one per seed, at the learning rate with the lowest mean L over
    seeds.

    `cell` names the columns that tell cells apart. Of the rates of a cell, those with the most
    seeds compete. Of several runs with the same rate and seed, the lowest counts. The column
    `at_end` says whether the rate is the lowest or highest of its cell, so that one beyond it may
    be better; it is False where no column has the rate as a number.
    """
    rated = [*cell, *(name for name in _RATES if name in runs)]
    runs = runs.loc[runs.groupby([*rated, "seed"], dropna=False)["L"].idxmin()]
    losses = runs.groupby(rated, dropna=False)["L"]
    means = runs.assign(mean=losses.transform("mean"), seeds=losses.transform("size"))
    means = means[means["seeds"] == means.groupby(cell)["seeds"].transform("max")]
    best = means.loc[means.groupby(cell)["mean"].idxmin(), rated]
    numbers = [name for name in rated[len(cell) :] if pd.api.types.is_numeric_dtype(runs[name])]
    at_end = pd.Series(False, runs.index)
    if numbers:
        rate = runs[numbers[0]]
        rates = runs.groupby(cell)[numbers[0]]
        at_end = (rate == rates.transform("min")) | (rate == rates.transform("max"))
    return runs.assign(at_end=at_end).merge(best, on=rated)


def _pooled(parts: Sequence[pd.DataFrame]) -> tuple[float, int]:
    """Return the pooled standard deviation of log L between seeds, and its degrees of freedom."""
    squares, freedom = 0.0, 0
    for part in parts:
        for _, cell in part.groupby(_CELL):
            logs = np.log(cell["L"].to_numpy(float))
            squares += float(((logs - logs.mean()) ** 2).sum())
            freedom += len(logs) - 1
    if not freedom:
        raise TableError(
            "no N and D_F was trained with two seeds, so the noise of a loss is not known; train "
            "at least two (axes.seed)."
        )
    return float(np.sqrt(squares / freedom)), freedom
