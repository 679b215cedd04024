"""Which row moves the answer of a fit most: refits without each of the rows that could.

Source: Cook & Weisberg 1982, Residuals and Influence in Regression, chapter 3.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem
from analysis.fitting.reference import ahead
from analysis.fitting.solver import gradients, solve

SUSPECTS = 12
"""Rows that are refitted to find the one that moves the answer most."""
PREDICTION = "prediction"
"""Column of the change of ln of the target, predicted for the next larger run (see
:func:`analysis.fitting.reference.ahead`)."""


def without_each(problem: Problem, minimum: Minimum, rows: np.ndarray) -> np.ndarray:
    """Return the unknowns (q, len(rows)) of fits that each leave out one row.

    They start at the minima of the whole fit and keep its threshold.
    """
    single = replace(problem, groups=np.arange(problem.n))
    counts = np.ones((len(rows), problem.n), np.int64)
    counts[np.arange(len(rows)), rows] = 0
    best = np.full(len(rows), np.inf)
    theta = np.repeat(minimum.theta, len(rows), 1)
    for k in range(min(2, minimum.basins.shape[1])):
        start = np.repeat(minimum.basins[:, [k]], len(rows), 1)
        found = solve(single, start, minimum.delta, counts=counts, limit=60)
        better = found.objective < best
        theta[:, better], best[better] = found.theta[:, better], found.objective[better]
    return theta


def suspects(problem: Problem, minimum: Minimum, count: int) -> np.ndarray:
    """Return positions of the rows that could move a fit most, most suspicious first.

    A row moves a linearised prediction by its clipped residual times its pull on that prediction;
    rows of the largest residuals and leverages are added, since one step says little about them.
    """
    r, w = problem.residuals(minimum.theta)[0], problem.weights
    J = gradients(problem, minimum.theta) * np.sqrt(w)[:, None]
    size = np.linalg.norm(J, axis=0) + 1e-300
    half = np.linalg.pinv(J / size)
    leverage = np.minimum(np.sum((J / size) * half.T, axis=1), 1 - 1e-9)
    psi = np.clip(r, -minimum.delta, minimum.delta) * np.sqrt(w)
    pull = (_slope(problem, minimum) / size) @ half
    step = np.nan_to_num(np.abs(pull * psi) / (1 - leverage))
    orders = [np.argsort(-x, kind="stable") for x in (step, np.abs(r), leverage)]
    ranked = np.stack(orders, 1).ravel()
    _, first = np.unique(ranked, return_index=True)
    return ranked[np.sort(first)][:count]


def _slope(problem: Problem, minimum: Minimum) -> np.ndarray:
    """Return the derivative (q,) of the log of the prediction with respect to the unknowns."""
    step = 1e-5
    moved = minimum.theta + step * np.concatenate([np.eye(problem.q), -np.eye(problem.q)], 1)
    ahead, behind = np.split(_predicted(problem, problem.params(moved)), 2)
    return (ahead - behind) / (2 * step)


def _predicted(problem: Problem, params: dict[str, np.ndarray]) -> np.ndarray:
    """Return the log of the prediction (B,) for parameters {name: (B,)}."""
    point = {name: np.array([[x]]) for name, x in ahead(problem.columns).items()}
    with np.errstate(all="ignore"):
        return np.log(np.ravel(problem.law.predict(params, **point)))


def table(
    problem: Problem, minimum: Minimum, index: pd.Index, rows: np.ndarray | None = None
) -> pd.DataFrame:
    """Return the change of each parameter and of the prediction without each row.

    rows: positions of the rows; None for all. A parameter's change is without minus with the row;
    that of the prediction is in nats, the change of its logarithm. Rows are in order of the
    latter's size.
    """
    rows = np.arange(problem.n) if rows is None else rows
    theta = np.concatenate([minimum.theta, without_each(problem, minimum, rows)], 1)
    params = problem.params(theta)
    y = _predicted(problem, params)
    out = pd.DataFrame({p: params[p][1:] - params[p][0] for p in problem.free}, index=index[rows])
    out[PREDICTION] = y[1:] - y[0]
    order = np.argsort(-np.abs(np.nan_to_num(out[PREDICTION], nan=np.inf)), kind="stable")
    return out.iloc[order]
