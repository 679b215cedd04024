"""IsoFLOP budgets: runs grouped by their compute."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.fitting.status import Note
from analysis.frontiers.smoothing import smoothed
from analysis.tables.conventions import per_token
from scaling.errors import TableError

_TOLERANCES = (0.05, 0.12, 0.3)
"""Relative differences of C within a budget, tried in this order."""
_COVERED = 0.95
"""Fraction of the runs in budgets above which no wider tolerance is tried."""
_BETTER = 1.02
"""A wider tolerance is used if it puts this many times as many runs into budgets."""
_SAME_SIZE = 0.02
"""Sizes whose ln N differ by less than this count as one."""
_FEWEST = 4
"""Number of sizes that a budget needs for an interior minimum and its curvature."""


def budget_of(budget: pd.DataFrame) -> float:
    """Return the C of a budget: the geometric mean over its runs."""
    return float(np.exp(np.log(budget["C"]).mean()))


def slices(curves: pd.DataFrame, budgets: int = 8) -> pd.DataFrame:
    """Cut learning curves at `budgets` values of C, as an isoFLOP table (N, D, C, L, run_id).

    Curves are smoothed as for the envelope; the loss of a size is the best of its runs at that C.
    Budgets are spread over the C at which at least four sizes have data, without the outermost
    tenths.

    Source: Hoffmann et al. 2022, section 3.1; Porian et al. 2024
    """
    curves, grid = smoothed(curves)
    sizes, x, loss, size_of_run = grid.sizes, grid.x, grid.loss, grid.size_of_run
    count = sum(np.isfinite(loss[size_of_run == i]).any(axis=0) for i in range(len(sizes)))
    shared = x[np.asarray(count) >= _FEWEST]
    if not len(shared):
        raise TableError(f"no compute is reached by the curves of {_FEWEST} sizes: add sizes.")
    rows = []
    for cut in np.quantile(shared, np.linspace(0.1, 0.9, budgets)):
        cell = int(np.argmin(np.abs(x - cut)))
        for i, N in enumerate(sizes):
            column = np.where(size_of_run == i, loss[:, cell], np.inf)
            best = int(np.argmin(column))
            if np.isfinite(column[best]):
                C = float(np.exp(x[cell]))
                rows.append((grid.runs[best], N, C, np.exp(column[best])))
    table = pd.DataFrame(rows, columns=["run_id", "N", "C", "L"])
    return table.assign(D=table["C"] / per_token(curves)(table["N"].to_numpy()))


def budgets_of(runs: pd.DataFrame, tolerance: float = _TOLERANCES[0]) -> list[pd.DataFrame]:
    """Group runs by budget, in order of C, averaging repeats of a size.

    A budget is a window of width ln(1 + tolerance) in ln C with at least four sizes. The fullest
    window is taken first, so that stray runs between budgets join none. Raises TableError if
    repeats of a size differ in batch size.
    """
    return [budget for budget, _ in _windows(runs, tolerance)]


def _windows(runs: pd.DataFrame, tolerance: float) -> list[tuple[pd.DataFrame, np.ndarray]]:
    """Return budgets in order of C, each with the places of its rows in `runs`."""
    order = np.argsort(runs["C"].to_numpy(float), kind="stable")
    x = np.log(runs["C"].to_numpy(float)[order])
    chosen = []
    while len(order) >= _FEWEST:
        end = np.searchsorted(x, x + np.log1p(tolerance) + 1e-12, side="right")
        count = end - np.arange(len(x))
        if count.max() < _FEWEST:
            break
        full = np.flatnonzero(count == count.max())
        start = full[np.argmin(x[end[full] - 1] - x[full])]
        inside = slice(start, end[start])
        budget = _averaged(runs, order[inside])
        if budget is not None:
            chosen.append((budget, order[inside]))
        order, x = np.delete(order, inside), np.delete(x, inside)
    return sorted(chosen, key=lambda pair: budget_of(pair[0]))


def _averaged(runs: pd.DataFrame, places: np.ndarray) -> pd.DataFrame | None:
    """Return the budget of the runs at `places` in order of N, with repeats of a size averaged (in
    logs); None if it has too few sizes."""
    N = runs["N"].to_numpy(float)[places]
    by_size = np.argsort(N, kind="stable")
    places, N = places[by_size], N[by_size]
    size = np.cumsum(np.diff(np.log(N), prepend=-np.inf) > _SAME_SIZE)
    if "B" in runs.columns:
        B = runs["B"].to_numpy(float)[places]
        different = np.unique(np.column_stack([size, B])[~np.isnan(B)], axis=0)[:, 0]
        several = different[1:][np.diff(different) == 0]
        if len(several):
            mixed = size == several[0]
            listed = ", ".join(f"{b:.4g}" for b in np.unique(B[mixed]))
            raise TableError(
                f"the budget C = {budget_of(runs.iloc[places]):.3g} has runs of N = "
                f"{N[mixed][0]:.3g} at several batch sizes ({listed}), whose average is not a "
                "minimum. Keep one batch size, or the best run of each size."
            )
    if size[-1] < _FEWEST:
        return None
    budget, count = runs.iloc[places], np.bincount(size)
    logs = {c: np.log(budget[c].to_numpy(float)) for c in "NDCL"}
    means = {
        c: np.exp(np.bincount(size, v)[size] / count[size]) if count.max() > 1 else np.exp(v)
        for c, v in logs.items()
    }
    return budget.assign(**means)[np.diff(size, prepend=0) > 0]


def budget_sets(
    runs: pd.DataFrame, tolerance: float | None
) -> tuple[list[pd.DataFrame], list[Note]]:
    """Group runs by budget; return the budgets, and notes on runs that belong to none.

    Without a tolerance, the smallest of _TOLERANCES that covers nearly all runs is used or, if none
    does, the one that covers most.
    """
    best: list[pd.DataFrame] = []
    used, inside = 0.0, np.zeros(len(runs), bool)
    widths = _TOLERANCES if tolerance is None else (tolerance,)
    for width in widths:
        found = _windows(runs, width)
        covered = np.zeros(len(runs), bool)
        for _, places in found:
            covered[places] = True
        if covered.sum() > _BETTER * inside.sum():
            best, used, inside = [budget for budget, _ in found], width, covered
        if covered.mean() >= _COVERED:
            break
    if not best:
        raise TableError(
            f"isoFLOP minima need budgets of at least {_FEWEST} sizes at one C (within "
            f"{widths[-1]:.0%}); these {len(runs)} runs have none. Train an isoFLOP set, or use "
            "the method 'envelope'."
        )
    status = []
    if not inside.all():
        left = np.sort(runs["C"].to_numpy()[~inside])
        text = (
            f"{len(left)} of {len(runs)} runs, C = {left[0]:.3g} to {left[-1]:.3g}, share no "
            f"budget of {_FEWEST} sizes (within {used:.0%}); not used"
        )
        status.append(Note("runs_left_out", text))
    return best, status
