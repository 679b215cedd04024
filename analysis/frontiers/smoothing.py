"""Learning curves, smoothed onto a common grid of compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.fitting.status import Note
from scaling.errors import TableError

GRID = 512
"""Number of points in log C at which learning curves are compared."""
KNOTS = 32
"""Number of points to which the spline of a curve is fitted; more are averaged."""
_FEWEST = 5
"""Least number of points of a spline; between fewer, lines are straight."""
_BATCH = 256
"""Number of curves smoothed at once."""


class Smoothed(NamedTuple):
    """Learning curves on a common grid of ln C."""

    sizes: np.ndarray
    """(g,) the sizes."""
    x: np.ndarray
    """(c,) ln C."""
    loss: np.ndarray
    """(r, c) ln L of each run; inf where it has no data."""
    size_of_run: np.ndarray
    """(r,) index of each run's size."""
    runs: np.ndarray
    """(r,) the run_id of each row."""
    left_out: tuple[Note, ...]
    """What was left out."""


def smoothed(curves: pd.DataFrame) -> tuple[pd.DataFrame, Smoothed]:
    """Smooth learning curves onto a common grid of ln C.

    Returns the evaluations used, and the grid. Of several evaluations at the same C, as a resumed
    run writes, the last counts. A run with fewer than two distinct evaluations is no curve and is
    left out; so is a size without any other run. Raises TableError if no run is left.
    """
    order = curves.sort_values("C", kind="stable").drop_duplicates(["run_id", "C"], keep="last")
    few = order.groupby("run_id")["C"].transform("size") < 2
    used = order[~few]
    if used.empty:
        raise TableError(
            "the envelope needs learning curves; here no run has two evaluations at different C. "
            "Give a table with several rows along each run, or use another method."
        )
    left_out = tuple(_left_out(order[few], used))
    sizes = np.unique(used["N"])
    x = np.linspace(np.log(used["C"].min()), np.log(used["C"].max()), GRID)
    owner, runs = pd.factorize(used["run_id"])
    by_run = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[by_run], np.arange(len(runs)))
    points = np.split(np.log(used[["C", "L"]].to_numpy(float)[by_run]), starts[1:])
    loss = np.full((len(runs), GRID), np.inf)
    knots: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for run, (u, v) in enumerate(each.T for each in points):
        inside = (x >= u[0]) & (x <= u[-1])
        if not inside.any():  # shorter than a cell of the grid
            inside = np.arange(GRID) == np.argmin(np.abs(x - u.mean()))
        loss[run, inside] = np.interp(x[inside], u, v)
        if len(u) >= _FEWEST:
            u, v = _thinned(u, v)
            knots.setdefault(len(u), []).append((run, u, v))
    for alike in knots.values():
        for first in range(0, len(alike), _BATCH):
            some, u, v = map(np.array, zip(*alike[first : first + _BATCH], strict=True))
            at = np.clip(x, u[:, :1], u[:, -1:])
            known = np.isfinite(loss[some])
            loss[some] = np.where(known, _splines(u, v, at), np.inf)
    size_of_run = np.searchsorted(sizes, used["N"].to_numpy()[by_run[starts]])
    return used, Smoothed(sizes, x, loss, size_of_run, np.array(runs, object), left_out)


def _left_out(few: pd.DataFrame, used: pd.DataFrame) -> Iterator[Note]:
    """Say which runs and sizes are left out for having fewer than two evaluations."""
    if few.empty:
        return
    runs = few["run_id"].unique()
    shown = ", ".join(map(str, runs[:3])) + (", ..." if len(runs) > 3 else "")
    text = f"{len(runs)} of {len(runs) + used['run_id'].nunique()} runs ({shown}) "
    text += "has one evaluation only" if len(runs) == 1 else "have one evaluation only"
    lost = np.setdiff1d(few["N"], used["N"])
    if len(lost):
        text += f", among them all of N = {', '.join(f'{N:.3g}' for N in lost)}"
    yield Note("runs_left_out", f"{text}; not used in the envelope")


def _splines(u: np.ndarray, v: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Fit a natural cubic smoothing spline to each row of v at u (b, n >= 5); return its values
    (b, c) at `at`, between the ends of u.

    Generalised cross-validation chooses the stiffness. In the basis of Demmler and Reinsch, the
    residuals are the coefficients times s / (1 + s), where s is the stiffness times an eigenvalue,
    so that all stiffnesses are tried at once.

    Source: Craven and Wahba 1979; Green and Silverman 1994, sections 2.1 to 2.3
    """
    h, n = np.diff(u), u.shape[1]
    Q, R = np.zeros((len(u), n, n - 2)), np.zeros((len(u), n - 2, n - 2))
    inner = np.arange(n - 2)
    Q[:, inner, inner], Q[:, inner + 2, inner] = 1 / h[:, :-1], 1 / h[:, 1:]
    Q[:, inner + 1, inner] = -1 / h[:, :-1] - 1 / h[:, 1:]
    R[:, inner, inner] = (h[:, :-1] + h[:, 1:]) / 3
    R[:, inner[1:], inner[:-1]] = R[:, inner[:-1], inner[1:]] = h[:, 1:-1] / 6
    bend = np.linalg.solve(R, Q.transpose(0, 2, 1))  # second derivatives at the inner knots
    eigen, basis = np.linalg.eigh(Q @ bend)
    eigen[:, :2] = 0.0  # straight lines have no penalty
    z = np.einsum("bij,bi->bj", basis, v)
    stiffness = np.geomspace(1e-3, 1e5, 97) / np.median(eigen[:, 2:], axis=1)[:, None]
    s = stiffness[:, :, None] * eigen[:, None]
    left = s / (1 + s)
    score = ((left * z[:, None]) ** 2).sum(axis=2) / left.sum(axis=2) ** 2
    best = np.take_along_axis(left, np.argmin(score, axis=1)[:, None, None], axis=1)[:, 0]
    value = np.einsum("bij,bj->bi", basis, z * (1 - best))
    second = np.pad(np.einsum("bij,bj->bi", bend, value), ((0, 0), (1, 1)))
    i = np.array([np.searchsorted(row, x, side="right") for row, x in zip(u, at, strict=True)]) - 1
    i = np.clip(i, 0, n - 2)
    take = np.take_along_axis
    wide, after = take(h, i, axis=1), at - take(u, i, axis=1)
    before = wide - after
    line = (before * take(value, i, axis=1) + after * take(value, i + 1, axis=1)) / wide
    curve = (1 + before / wide) * take(second, i, axis=1)
    curve += (1 + after / wide) * take(second, i + 1, axis=1)
    return line - after * before * curve / 6


def _thinned(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbouring points down to at most KNOTS, keeping both ends."""
    if len(u) <= KNOTS:
        return u, v
    inner = np.linspace(u[0], u[-1], KNOTS - 1)[1:-1]
    cell = np.concatenate([[-1], np.searchsorted(inner, u[1:-1]), [KNOTS]])
    _, cell, count = np.unique(cell, return_inverse=True, return_counts=True)
    return np.bincount(cell, u) / count, np.bincount(cell, v) / count
