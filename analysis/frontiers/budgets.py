"""Runs grouped by their compute: isoFLOP budgets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.frontiers.envelope import smoothed
from analysis.tables.conventions import per_token
from scaling.errors import TableError

_SLACK = 0.05
"""Runs whose C differ by less than this share a budget."""
_TOLERANCES = (_SLACK, 0.12, 0.3)
"""Tried in turn where C is only nearly the same within a budget."""
_COVERED = 0.95
"""Share of the runs that a tolerance must put into budgets for no wider one to be tried."""


_SAME = 0.02
"""Sizes that differ relatively by less are one size."""


_FEWEST = 4
"""Sizes that a budget needs before its minimum can be interior and its curvature known."""


def budget_of(budget: pd.DataFrame) -> float:
    """C of a budget: the geometric mean of its runs'."""
    return float(np.exp(np.log(budget["C"]).mean()))


def slices(curves: pd.DataFrame, budgets: int = 8) -> pd.DataFrame:
    """Cut learning curves at `budgets` values of C, as an isoFLOP table (N, D, C, L, run_id).

    Curves are smoothed as for the envelope; a size's loss is the best of its runs there. Budgets
    are spread over the C at which at least four sizes have data, without the outermost tenths.

    Source: Hoffmann et al. 2022, section 3.1; Porian et al. 2024
    """
    sizes, x, loss, of = smoothed(curves)
    have = sum(np.isfinite(loss[of == i]).any(axis=0) for i in range(len(sizes)))
    wide = x[np.asarray(have) >= _FEWEST]
    if not len(wide):
        raise TableError(f"no compute is reached by the curves of {_FEWEST} sizes: add sizes.")
    names = curves.sort_values("C")["run_id"].unique()
    rows = []
    for cut in np.quantile(wide, np.linspace(0.1, 0.9, budgets)):
        cell = int(np.argmin(np.abs(x - cut)))
        for i, N in enumerate(sizes):
            column = np.where(of == i, loss[:, cell], np.inf)
            best = int(np.argmin(column))
            if np.isfinite(column[best]):
                C = float(np.exp(x[cell]))
                rows.append((names[best], N, C, np.exp(column[best])))
    table = pd.DataFrame(rows, columns=["run_id", "N", "C", "L"])
    return table.assign(D=table["C"] / per_token(curves)(table["N"].to_numpy()))


def budgets_of(runs: pd.DataFrame, tolerance: float = _SLACK) -> list[pd.DataFrame]:
    """Runs by budget, in order of C, repeats of a size averaged; without those of too few sizes.

    A budget is a window of width ln(1 + tolerance) in ln C; the fullest is taken first, so that
    strays between budgets join none. TableError where repeats of a size differ in batch size.
    """
    return [budget for budget, _ in _windows(runs, tolerance)]


def _windows(runs: pd.DataFrame, tolerance: float) -> list[tuple[pd.DataFrame, pd.Index]]:
    """Budgets in order of C, and the rows of `runs` that each is made of."""
    order = runs.iloc[np.argsort(runs["C"].to_numpy(float), kind="stable")]
    chosen = []
    while len(order) >= _FEWEST:
        x = np.log(order["C"].to_numpy(float))
        end = np.searchsorted(x, x + np.log1p(tolerance) + 1e-12, side="right")
        count = end - np.arange(len(x))
        if count.max() < _FEWEST:
            break
        full = np.flatnonzero(count == count.max())
        start = full[np.argmin(x[end[full] - 1] - x[full])]
        inside = order.iloc[start : end[start]]
        order = order.drop(index=inside.index)
        budget = _one_a_size(inside)
        if len(budget) >= _FEWEST:
            chosen.append((budget, inside.index))
    return sorted(chosen, key=lambda one: budget_of(one[0]))


def _one_a_size(budget: pd.DataFrame) -> pd.DataFrame:
    """A budget in order of N, the repeats of a size averaged (in logs)."""
    budget = budget.sort_values("N", kind="stable")
    size = np.cumsum(np.diff(np.log(budget["N"]), prepend=-np.inf) > _SAME)
    if "B" in budget.columns:
        several = np.flatnonzero(budget["B"].groupby(size).nunique() > 1)
        if len(several):
            mixed = budget[size == several[0] + 1]
            B = ", ".join(f"{b:.4g}" for b in np.unique(mixed["B"]))
            raise TableError(
                f"the budget C = {budget_of(budget):.3g} has runs of N = {mixed['N'].iloc[0]:.3g} at "
                f"several batch sizes ({B}): an average of them is no minimum. Keep one batch size, "
                "or the best run of each size."
            )
    means = {c: np.exp(np.log(budget[c]).groupby(size).transform("mean")) for c in "NDCL"}
    return budget.assign(**means)[np.diff(size, prepend=0) > 0]


def budget_sets(
    runs: pd.DataFrame, tolerance: float | None
) -> tuple[list[pd.DataFrame], list[str]]:
    """Budgets, and what to say of the runs that are in none.

    Without a tolerance the least of _TOLERANCES that leaves hardly a run out, or, where none does,
    the one that leaves out the fewest.
    """
    best: list[pd.DataFrame] = []
    used, inside = 0.0, np.zeros(len(runs), bool)
    for width in _TOLERANCES if tolerance is None else (tolerance,):
        found = _windows(runs, width)
        rows = [runs.index.isin(index) for _, index in found]
        covered = np.any(rows, axis=0) if rows else np.zeros(len(runs), bool)
        if covered.sum() > 1.02 * inside.sum():
            best, used, inside = [budget for budget, _ in found], width, covered
        if covered.mean() >= _COVERED:
            break
    if not best:
        width = _TOLERANCES[-1] if tolerance is None else tolerance
        raise TableError(
            f"isoFLOP minima need budgets of at least {_FEWEST} sizes at one C (within "
            f"{width:.0%}); these {len(runs)} runs have none. Train an isoFLOP set, or use "
            "method='envelope'."
        )
    status = []
    if not inside.all():
        left = np.sort(runs["C"].to_numpy()[~inside])
        status.append(
            f"{len(left)} of {len(runs)} runs, C = {left[0]:.3g} to {left[-1]:.3g}, share no budget "
            f"of {_FEWEST} sizes (within {used:.0%}); not used"
        )
    return best, status
