"""Which row moves the answer of a fit most: refits without each of the rows that could.

Source: Cook & Weisberg 1982, Residuals and Influence in Regression, chapter 3.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem
from analysis.fitting.solver import gradients, solve

SUSPECTS = 8
"""Rows that are refitted to find the one that moves the answer most."""
AHEAD = 10.0
"""Compute of the prediction whose change is reported, as a multiple of the largest run's."""
PREDICTION = "prediction"
"""Column of the change of the prediction: ln of the target."""


def reference(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the inputs of the prediction: those of the largest run, at AHEAD times its compute.

    N and D are scaled alike, C by AHEAD; all other inputs are those of the largest run.
    """
    both = "N" in columns and "D" in columns
    if both:
        size = columns["N"] * columns["D"]
    else:
        size = next(columns[n] for n in (*("C", "N", "D"), *columns) if n in columns)
    top = int(np.argmax(size))
    out = {name: float(x[top]) for name, x in columns.items()}
    if "C" in out:
        out["C"] *= AHEAD
    for name in {"N", "D"} & set(out):
        out[name] *= np.sqrt(AHEAD) if both or "C" not in out else 1.0
    return out


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

    A row moves a linearised fit by its leverage times its clipped residual; rows of the largest
    residuals and leverages are added, since one step says little about them.
    """
    r, w = problem.residuals(minimum.theta)[0], problem.weights
    J = gradients(problem, minimum.theta) * np.sqrt(w)[:, None]
    basis = np.linalg.svd(J / (np.linalg.norm(J, axis=0) + 1e-300), full_matrices=False)[0]
    leverage = np.minimum(np.sum(basis**2, axis=1), 1 - 1e-9)
    psi = np.abs(np.clip(r, -minimum.delta, minimum.delta)) * np.sqrt(w)
    step = psi * np.sqrt(leverage) / (1 - leverage)
    orders = [np.argsort(-x, kind="stable") for x in (step, np.abs(r), leverage)]
    ranked = np.stack(orders, 1).ravel()
    _, first = np.unique(ranked, return_index=True)
    return ranked[np.sort(first)][:count]


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
    point = {name: np.array([[x]]) for name, x in reference(dict(problem.columns)).items()}
    with np.errstate(all="ignore"):
        y = np.log(np.ravel(problem.law.predict(params, **point)))
    out = pd.DataFrame({p: params[p][1:] - params[p][0] for p in problem.free}, index=index[rows])
    out[PREDICTION] = y[1:] - y[0]
    order = np.argsort(-np.abs(np.nan_to_num(out[PREDICTION], nan=np.inf)), kind="stable")
    return out.iloc[order]
