"""Regret of the learning rate and batch size that smaller searches advise."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy

from analysis.validation.compute_lost import Reference

_SAME = 0.01
"""N or D that differ by less than this fraction are equal."""
_SPREAD = 0.05
"""Searches whose ln N and ln D differ by less are at one place."""
_FEWEST = 3
"""Fewest values of a setting in a search."""
_NAMES = {"lr_peak": "lr", "B": "B"}


class _Search(NamedTuple):
    """The runs of one N and D at several settings."""

    N: float
    D: float
    settings: np.ndarray
    """(n, settings) logarithms."""
    L: np.ndarray

    @property
    def C(self) -> float:
        return 6.0 * self.N * self.D

    @property
    def best(self) -> int:
        return int(np.argmin(self.L))

    @property
    def interior(self) -> bool:
        """Whether the best run is at the edge of no setting."""
        at = self.settings[self.best]
        return bool(((at > self.settings.min(0)) & (at < self.settings.max(0))).all())


def settings_regret(
    runs: pd.DataFrame, reference: Reference | None, cuts: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the regret of learning rates and batch sizes, and why there is none.

    Two rules are judged: a power law of N and D (of those that vary) through the best settings of
    the searches below a cut-off in C ('power law'), and the best setting of the largest of them
    ('same as the largest').
    """
    names = _searched(runs)
    if not names:
        return [], ["lr and B: the table has no searches (rows of one N and D that differ in them)"]
    decision = " and ".join(_NAMES[name] for name in names)
    searches = [search for search in _searches(runs, names) if search.interior]
    if len(searches) < 2:
        return [], [
            f"{decision}: {len(searches)} searches have their best run inside the values tried; "
            "two are needed"
        ]
    rows = []
    order = sorted({search.C for search in searches})
    at = np.unique(np.linspace(0, len(order) - 2, min(cuts, len(order) - 1)).round().astype(int))
    for cut in (order[k] for k in at):
        small = [search for search in searches if cut >= search.C]
        for target in (search for search in searches if cut < search.C):
            for rule, advice in _advised(small, target).items():
                rows += _judged(rule, decision, names, cut, small, target, advice, reference)
    return rows, []


def _searched(runs: pd.DataFrame) -> list[str]:
    """Return the settings over which the table has searches, both or one."""
    cells = runs.groupby(_cells(runs))
    found = []
    for name in _NAMES:
        if name in runs.columns and runs[name].gt(0).all():
            several = cells[name].nunique() >= _FEWEST
            if several.sum() >= 2:
                found.append(name)
    return found


def _cells(runs: pd.DataFrame) -> np.ndarray:
    """Return the number of the (N, D) of each row; values within a percent are equal."""
    codes = []
    for name in ("N", "D"):
        x = np.log(runs[name].to_numpy(float))
        order = np.argsort(x, kind="stable")
        code = np.empty(len(x), int)
        code[order] = np.cumsum(np.diff(x[order], prepend=x[order][:1]) > _SAME)
        codes.append(code)
    return codes[0] * (codes[1].max() + 1) + codes[1]


def _searches(runs: pd.DataFrame, names: list[str]) -> list[_Search]:
    found = []
    for _, cell in runs.groupby(_cells(runs)):
        means = cell.groupby(names, as_index=False)["L"].mean()
        if (means[names].nunique() >= _FEWEST).all():
            x = np.log(means[names].to_numpy(float))
            N, D = (float(np.exp(np.log(cell[c]).mean())) for c in ("N", "D"))
            found.append(_Search(N, D, x, means["L"].to_numpy(float)))
    return found


def _advised(small: list[_Search], target: _Search) -> dict[str, np.ndarray]:
    """Return the logarithms of the advised settings by each rule."""
    largest = max(small, key=lambda search: search.C)
    out = {"same as the largest": largest.settings[largest.best]}
    x = np.log([[search.N, search.D] for search in small])
    y = np.array([search.settings[search.best] for search in small])
    centre = x.mean(axis=0)
    _, size, axes = np.linalg.svd(x - centre, full_matrices=False)
    axes = axes[size > _SPREAD]  # along which the searches vary: one, if D follows N
    at = np.log([target.N, target.D]) - centre
    aside = at - axes.T @ (axes @ at)  # along which they do not, and the rule knows nothing
    if len(axes) and np.abs(aside).max() < _SPREAD and len(small) > len(axes) + 1:
        design = np.column_stack([np.ones(len(x)), (x - centre) @ axes.T])
        slopes = np.linalg.lstsq(design, y, rcond=None)[0]
        out["power law"] = np.concatenate([[1.0], axes @ at]) @ slopes
    return out


def _judged(
    rule: str,
    decision: str,
    names: list[str],
    cut: float,
    small: list[_Search],
    target: _Search,
    advice: np.ndarray,
    reference: Reference | None,
) -> list[dict[str, Any]]:
    """Return one row, or none if the loss at the advice is not known."""
    inside = np.clip(advice, target.settings.min(0), target.settings.max(0))
    loss = _between(target.settings, target.L, inside)
    if loss is None:
        return []
    best = float(target.L[target.best])
    nats = max(loss - best, 0.0)
    values, at_best = np.exp(advice), np.exp(target.settings[target.best])
    return [
        {
            "rule": rule,
            "decision": decision,
            "cut": cut,
            "n_fit": sum(len(search.L) for search in small),
            "C": target.C,
            "factor": target.C / cut,
            "advice": _plain(values),
            "best": _plain(at_best),
            "L_best": best,
            "nats": nats,
            "flops": np.nan if reference is None else reference.extra_compute(target.C, nats),
            "at_least": bool(np.any(inside != advice)),
        }
    ]


def _plain(values: np.ndarray) -> Any:
    """Return one number, or several as text such as '0.001, 5e+05'."""
    return float(values[0]) if len(values) == 1 else ", ".join(f"{v:.3g}" for v in values)


def _between(x: np.ndarray, L: np.ndarray, at: np.ndarray) -> float | None:
    """Return the loss at settings between those tried, by Akima's cubics in their logarithms.

    With two settings, the first is interpolated at each value of the second, among the values at
    which the runs lie on both sides, and then the second. None if there are too few of these.
    """
    if x.shape[1] == 1:
        order = np.argsort(x[:, 0])
        return float(scipy.interpolate.Akima1DInterpolator(x[order, 0], L[order])(at[0]))
    seconds, losses = [], []
    for second in np.unique(x[:, 1]):
        rows = x[:, 1] == second
        u = x[rows, 0]
        if rows.sum() >= 2 and u.min() <= at[0] <= u.max():
            value = _between(x[rows, :1], L[rows], at[:1])
            if value is not None:
                seconds.append(second)
                losses.append(value)
    if len(seconds) < 2 or not min(seconds) <= at[1] <= max(seconds):
        return None
    return _between(np.array(seconds)[:, None], np.array(losses), at[1:])
