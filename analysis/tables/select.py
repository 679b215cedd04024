"""Select rows of tables: usable ones, the longest run per size, the lower edge of the loss."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaling.columns import COLUMNS
from scaling.errors import TableError
from scaling.table import check

_SAME = 0.08
"""Runs whose N differ by less than this fraction count as the same size."""

_DECAYING = ("cosine", "linear", "cosine-restarts")
"""Schedules whose rate falls all the way to the horizon."""

_PEAK_THEN_LOWER = ("wsd", "wsd-s", "step")
"""Schedules whose rate is lower than the peak only during a cooldown or after a drop."""


def lower_edge(runs: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return the runs that no run with at most as much `x` beats, one at each x.

    On a grid of N x D these are the runs with the most data at each N, or the most parameters at
    each D: their loss is limited by N or D alone (Kaplan et al. 2020, section 3).
    """
    order = runs.sort_values([x, "L"], kind="stable").drop_duplicates(x)
    best = order["L"].cummin()
    return order[order["L"] <= best]


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with status 'ok'. Raises TableError if N, D, C or L is missing."""
    check(table, need=("N", "D", "C", "L"))
    if "status" in table.columns:
        table = table[table["status"] == "ok"]
    if table.empty:
        raise TableError("no run has status 'ok': there is nothing to draw.")
    return table


def needed(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the usable rows of learning curves. Raises TableError for a table of runs."""
    if "run_id" not in curves.columns or not curves["run_id"].duplicated().any():
        raise TableError(
            "this figure needs learning curves: a results folder with curves.parquet, or a table "
            "with several rows for each run_id."
        )
    return usable(curves)


def of_steps(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the `settled` evaluations of curves, to which L(N, S) is fitted.

    Raises TableError if the learning rate decays over different horizons, since the loss during a
    decay depends on its horizon (in the paper all share one, section 5.2), or if nearly all
    evaluations lie within warm-ups and cooldowns.
    """
    decaying = curves["schedule"].isin(_DECAYING) if "schedule" in curves else None
    if decaying is not None and decaying.any():
        ends = curves.loc[decaying].groupby("run_id")["S"].max()
        if ends.max() > 1.02 * ends.min():
            raise TableError(
                "L(N, S) takes learning curves of one schedule: here the rate decays over "
                f"{ends.min():.4g} to {ends.max():.4g} steps, and the loss on the way is that of "
                "the schedule. Give all sizes one horizon, or train with optim.schedule = "
                "'constant' or 'wsd'."
            )
    late = settled(curves)
    if late["run_id"].value_counts().max() < 3:
        raise TableError(
            "L(N, S) takes three evaluations of a run between its warm-up and its cooldown, and no "
            "run has that many: raise eval.points."
        )
    return late


def sizes(N: pd.Series) -> pd.Series:
    """Return the size group of each run, as the median N of the group."""
    order = N.sort_values().astype(float)
    group = (order.div(order.shift(1)).fillna(1.0) > 1 + _SAME).cumsum()
    return order.groupby(group).transform("median").reindex(N.index)


def longest(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the curve of one run per size: the run with the most data and, of several, the
    best."""
    order = curves.sort_values(["N", "D_total", "L_final"], ascending=[True, False, True])
    return curves[curves["run_id"].isin(order.drop_duplicates("N")["run_id"])]


def joined(curves: pd.DataFrame, runs: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Return `curves` with the given columns of their runs."""
    more = [name for name in names if name not in curves.columns]
    return curves.merge(runs[["run_id", *more]], on="run_id", validate="many_to_one")


def with_trunks(curves: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return `curves` with the evaluations that other runs of the same trunk made on shared steps.

    Runs that differ only in their horizon may be branches of one trunk, which was trained once:
    `D_shared` are the tokens of a run that a longer one shares. Every evaluation of one branch
    there is one of the others too. Columns of the curves other than S, D, C, L are not adapted.
    """
    if not {"D_shared", "run_id"} <= set(runs.columns) or not (runs["D_shared"] > 0).any():
        return curves
    same = ["N", *(c.name for c in COLUMNS if c.is_config and c.name in runs.columns)]
    parts = [curves]
    for _, branches in runs.groupby(same, dropna=False):
        if len(branches) < 2 or not (branches["D_shared"] > 0).any():
            continue
        shared = branches.set_index("run_id")["D_shared"].astype(float)
        shared[branches.set_index("run_id")["D"].idxmax()] = np.inf  # the trunk itself
        known = curves[curves["run_id"].isin(shared.index)]
        known = known[known["D"] <= known["run_id"].map(shared)]
        for run_id, own in curves[curves["run_id"].isin(shared.index)].groupby("run_id"):
            others = known[(known["run_id"] != run_id) & (known["D"] <= shared[run_id])]
            parts.append(others[~others["D"].isin(own["D"])].assign(run_id=run_id))
    both = pd.concat(parts, ignore_index=True).drop_duplicates(["run_id", "D"])
    return both.sort_values(["run_id", "D"], ignore_index=True)


def settled(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the evaluations that a law of N and S describes.

    They lie after the warm-up of the learning rate and, under a schedule that keeps the peak,
    outside of cooldowns and before drops, since there the loss falls with the schedule more than
    with S. Curves without a learning rate are kept whole.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 5.2
    """
    if "lr" not in curves.columns or curves["lr"].isna().any():
        return curves
    at_peak = curves["lr"] >= 0.999 * curves.groupby("run_id")["lr"].transform("max")
    begins = curves["S"].where(at_peak).groupby(curves["run_id"]).transform("min")
    if "schedule" not in curves.columns:
        return curves[curves["S"] >= begins]
    cooled = curves["schedule"].isin(_PEAK_THEN_LOWER) & ~at_peak
    return curves[(curves["S"] >= begins) & ~cooled]
