"""The best run of each search of a learning rate or a batch size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.tables.numbers import parsed
from scaling.errors import TableError

_SAME = 0.01
"""Values that differ by less than this fraction are equal: D is rounded to whole steps."""
SEARCHED = "searched"
"""Key in the attrs of a table of best runs: the column that was searched."""


class Best(NamedTuple):
    """What :func:`best_of_searches` found."""

    kept: np.ndarray
    """(n,) which rows are best runs."""
    left_out: dict[str, int]
    """Number of the other rows, by reason."""
    remarks: dict[str, str]
    """What is doubtful, by a code."""


def is_searched(runs: pd.DataFrame) -> bool:
    """Return whether sizes were trained with several learning rates."""
    by = [n for n in ("N", "D") if n in runs.columns]
    return bool(by) and bool((runs.groupby(by)["lr_peak"].nunique() > 1).mean() > 0.3)


def best_of_searches(runs: pd.DataFrame, target: str, by: tuple[str, ...]) -> Best:
    """Return the best run of each search, the one with the lowest loss.

    A search is the rows that share the columns `by`, within a percent, and differ in `target`, such
    as the learning rate. If its best run has the smallest or largest value tried, there is no
    minimum, and it is left out; diverged runs count as values tried. Rows that share `by` with no
    other value are kept. Raises TableError if no search has its best run inside.
    """
    everything = np.ones(len(runs), bool)
    if runs.attrs.get(SEARCHED) == target or not len(runs):
        return Best(everything, {}, {})
    by = tuple(name for name in by if name in runs.columns)
    value = _floats(runs, target)
    loss = _floats(runs, "L") if "L" in runs.columns else np.full(len(runs), np.nan)
    status = runs["status"] if "status" in runs.columns else pd.Series("ok", runs.index)
    finished, ended = (status.isin(s).to_numpy(bool) for s in (("ok",), ("ok", "diverged")))
    measured = finished & np.isfinite(loss) & (loss > 0)
    codes = _codes(runs, by)
    kept, edges, single, unknown = np.zeros(len(runs), bool), [], 0, 0
    for code in np.unique(codes):
        rows = np.flatnonzero((codes == code) & ended)
        tried = np.unique(value[rows][np.isfinite(value[rows])])
        if len(tried) < 2:
            alone = rows[measured[rows]] if "L" in runs.columns else rows
            kept[alone] = True
            single += len(alone) > 0
        elif "L" not in runs.columns:
            kept[rows] = True
            unknown += 1
        elif measured[rows].any():
            done = rows[measured[rows]]
            best = done[np.argmin(loss[done])]
            kept[best] = tried[0] < value[best] < tried[-1]
            edges += [] if kept[best] else [best]
    if not kept.any() and edges:
        raise TableError(
            f"the best {target} at every {_and(by)} is the smallest or the largest tried, so none "
            f"of the {len(edges)} searches has a minimum. Add runs beyond these values."
        )
    left_out = {
        f"not the best {target} of their {_and(by)}": int((~kept & finished).sum()) - len(edges),
        f"best at the edge of the {target} tried": len(edges),
    }
    remarks = {}
    if edges:
        remarks["edge_of_search"] = (
            f"the best {target} of {len(edges)} searches is the smallest or largest tried, first "
            f"at {_place(runs, by, edges[0])}; they are left out: widen the search"
        )
    if single:
        remarks["not_searched"] = (
            f"{single} {'have' if single > 1 else 'has'} only one {target} per {_and(by)}: the fit "
            "assumes that it was tuned"
        )
    if unknown:
        remarks["no_loss"] = (
            f"{unknown} {_and(by)} have several {target} and there is no loss L to find the best: "
            "all are fitted"
        )
    return Best(kept, {reason: n for reason, n in left_out.items() if n}, remarks)


def _floats(runs: pd.DataFrame, name: str) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(runs[name]):
        return runs[name].to_numpy(float, na_value=np.nan)
    return parsed(runs[name]).to_numpy(float)


def _codes(runs: pd.DataFrame, by: tuple[str, ...]) -> np.ndarray:
    """Return the number of the search of each row (n,)."""
    groups = np.zeros((len(runs), len(by)))
    for j, name in enumerate(by):
        x = _floats(runs, name)
        order = np.argsort(x, kind="stable")
        with np.errstate(all="ignore"):
            rises = np.diff(x[order]) > _SAME * np.abs(x[order][:-1])
        groups[order, j] = np.concatenate([[0], np.cumsum(rises)])
    return np.unique(groups, axis=0, return_inverse=True)[1].reshape(-1)


def _place(runs: pd.DataFrame, by: tuple[str, ...], row: int) -> str:
    return ", ".join(f"{name}={_floats(runs, name)[row]:.4g}" for name in by)


def _and(names: tuple[str, ...]) -> str:
    return " and ".join(names)
