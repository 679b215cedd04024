"""The lower envelope of learning curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.fitting.status import Note
from analysis.frontiers.result import (
    Frontier,
    curvature_notes,
    data_ranges,
    exponent_notes,
    lost_resamples,
    straight_line,
)
from analysis.frontiers.smoothing import GRID, KNOTS, smoothed
from analysis.tables.conventions import counted, per_token
from scaling.errors import TableError

_TANGENTS = 1024
"""Slopes of the tangents whose upper hull is the envelope."""
_LOWEST = 16
"""Runs of one size whose tangents are compared first, at each slope."""
_CELLS = 1024
"""Cells of ln C whose lowest points rule out most of the others."""
_BATCH = 250
"""Number of resamples whose envelopes are in memory at once."""


def envelope(
    curves: pd.DataFrame,
    *,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Frontier:
    """Fit power laws to the lower envelope of learning curves.

    `curves` has one row per evaluation, with columns run_id, N, D, C and L. Each curve is smoothed
    by a cubic spline in log-log, with stiffness chosen by cross-validation, since the minimum of
    many noisy values is too low. The curves of a size are then replaced by their lower convex
    envelope, which joins the ends of decayed runs. Two neighbouring sizes cross where the optimum
    is their geometric mean, up to the third derivative of loss in ln N; a line through these
    crossings has neither the bias of the envelope's staircase nor its dependence on the ends. Where
    a size is best, the envelope touches L_opt: the line of L goes through the middles of these
    stretches.

    Source: Kaplan et al. 2020, Figs. 1 and 13; Hoffmann et al. 2022, section 3.1
    """
    curves, grid = smoothed(counted(curves, "N", "C", need=("run_id",)))
    sizes, x, loss, size_of_run = grid.sizes, grid.x, grid.loss, grid.size_of_run
    envelopes = _Envelopes(x, loss, size_of_run, len(sizes))
    (whole,) = envelopes(np.ones((1, len(size_of_run)), bool))
    winner = _winner(whole)
    marks = _marks(x, winner, whole.min(axis=0), sizes)
    if len(marks.crossings) < 2:
        raise TableError(
            f"the envelope needs three sizes that take turns in being best; of {len(sizes)} sizes "
            f"{len(marks.crossings) + 1} ever are (N = "
            f"{', '.join(f'{sizes[i]:.3g}' for i in np.unique(winner[winner >= 0]))}). "
            "Train the others longer or shorter, or add sizes between."
            + "".join(f" {note[0].upper()}{note[1:]}." for note in grid.left_out)
        )
    rng = np.random.default_rng(seed)
    runs = loss.shape[0]
    picked = rng.multinomial(runs, np.full(runs, 1 / runs), size=bootstrap) > 0
    flops_of = per_token(curves)
    centre = float(marks.crossings[:, 0].mean())
    rows = [_envelope_lines(marks, flops_of, centre)]
    for batch in np.array_split(picked, max(1, bootstrap // _BATCH)):
        for resampled in envelopes(batch):
            found = _marks(x, _winner(resampled), resampled.min(axis=0), sizes)
            rows.append(_envelope_lines(found, flops_of, centre))
    lines = {name: np.array([row[name] for row in rows]) for name in ("N", "D", "L")}
    both = np.concatenate([marks.crossings, marks.touches])
    kinds = ["crossing"] * len(marks.crossings) + ["touch"] * len(marks.touches)
    C, N = np.exp(both[:, 0]), both[:, 1]
    optima = pd.DataFrame({"C": C, "N": N, "D": C / flops_of(N), "L": np.exp(both[:, 2])})
    optima = optima.assign(kind=kinds).sort_values("C", ignore_index=True)
    status = (
        *grid.left_out,
        *lost_resamples(lines["N"], bootstrap),
        *exponent_notes(lines, level, f"{len(grid.runs)} runs in {len(sizes)} sizes"),
        *_notes(curves, sizes, winner, size_of_run),
        *curvature_notes(marks.touches[:, 0], marks.touches[:, 2]),
    )
    return Frontier(
        method="envelope", params="N", flops="6 N D", optima=optima,
        ranges=data_ranges(curves, optima), status=status, lines=lines, centre=centre, level=level,
        per_token=flops_of,
    )  # fmt: skip


def _notes(
    curves: pd.DataFrame, sizes: np.ndarray, winner: np.ndarray, size_of_run: np.ndarray
) -> Iterator[Note]:
    """Return what a reader should know about the data of an envelope."""
    never = [f"{sizes[i]:.3g}" for i in range(len(sizes)) if i not in set(winner)]
    if never:
        text = f"N = {', '.join(never)} is never best within the compute of the curves"
        yield Note("never_best", text)
    if np.bincount(size_of_run).max() == 1:
        yield Note(
            "one_run_per_size",
            "one run per size: earlier points of a run are above the loss that a schedule of their "
            "own length would reach, so the frontier of decayed runs lies lower",
        )
    if "B" in curves.columns and (curves.groupby("N")["B"].nunique() > 1).any():
        B = curves["B"]
        yield Note(
            "several_batch_sizes",
            f"runs of several batch sizes ({B.min():.4g} to {B.max():.4g} tokens) in one envelope: "
            "it takes the best, but batches far above the critical one spend more than C_min; see "
            "method kaplan, or analysis.critical_batch.adjusted",
        )


class _Envelopes:
    """Lower convex envelopes of each size's curves in log-log, for many resamples of runs at once.

    A sum of powers of C, as L is in D = C / (6 N) at fixed N, is convex in log-log. A decaying
    learning rate makes each run dip at its end, below where the longer runs of its size then are;
    the envelope joins these ends. It is the largest of the tangents below all chosen runs, at
    _TANGENTS slopes: each tangent of a union of curves is the lowest of the tangents of the curves.
    """

    def __init__(self, x: np.ndarray, loss: np.ndarray, size_of_run: np.ndarray, sizes: int):
        corners = [lower_hull(x[known], row[known]) for row, known in _thin(loss)]
        self.x = x
        self.runs_of_size = [np.flatnonzero(size_of_run == i) for i in range(sizes)]
        whole = [
            lower_hull(*(np.concatenate([corners[r][k] for r in runs]) for k in (0, 1)))
            for runs in self.runs_of_size
        ]
        slopes = np.concatenate([np.diff(v) / np.diff(u) for u, v in (*corners, *whole)])
        if not len(slopes):
            raise TableError(
                "the envelope needs longer learning curves: no run spans more than "
                f"{1 / GRID:.2g} of the compute of all (in ln C). Give evaluations further apart."
            )
        self.slopes = np.unique(np.quantile(slopes, np.linspace(0, 1, _TANGENTS)))
        self.tangents = np.array([(v - np.outer(self.slopes, u)).min(axis=1) for u, v in corners])
        self.ends = np.array([(u[0], u[-1]) for u, _ in corners])

    def __call__(self, picked: np.ndarray) -> np.ndarray:
        """Return ln L (resamples, sizes, c) of the runs in the mask `picked` (resamples, r).

        It is inf where a size has no data.
        """
        out = np.empty((len(picked), len(self.runs_of_size), len(self.x)))
        for i, runs in enumerate(self.runs_of_size):
            chosen, inverse = np.unique(picked[:, runs], axis=0, return_inverse=True)
            out[:, i] = self._of_size(runs, chosen)[inverse.ravel()]
        return out

    def _of_size(self, runs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Return ln L (k, c) of one size for masks of its runs, `chosen` (k, runs)."""
        low = np.where(chosen, self.ends[runs, 0], np.inf).min(axis=1)
        high = np.where(chosen, self.ends[runs, 1], -np.inf).max(axis=1)
        height = self._lowest(self.tangents[runs], chosen)
        height[~np.isfinite(low)] = 0.0
        # Tangents succeed each other in the order of their slopes.
        corner = -np.diff(height) / np.diff(self.slopes)
        width = len(self.x) + 1
        cell = np.ceil((corner - self.x[0]) / (self.x[1] - self.x[0]))
        cell = np.clip(cell, 0, width - 1).astype(int) + width * np.arange(len(chosen))[:, None]
        passed = np.bincount(cell.ravel(), minlength=width * len(chosen)).reshape(-1, width)
        at = np.cumsum(passed[:, :-1], axis=1)
        least = np.take_along_axis(height, at, axis=1) + self.slopes[at] * self.x
        inside = (self.x >= low[:, None]) & (self.x <= high[:, None])
        return np.where(inside, least, np.inf)

    @staticmethod
    def _lowest(tangents: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Return the least of the `chosen` (k, runs) tangents (runs, slopes) at each slope.

        Of many runs, the few lowest at each slope nearly always have a chosen one among them.
        """
        height = np.full((len(chosen), tangents.shape[1]), np.inf)
        if len(tangents) <= 2 * _LOWEST:
            candidates, bound = np.arange(len(tangents)), np.inf
        else:
            ranks = np.argpartition(tangents, _LOWEST, axis=0)
            candidates = np.unique(ranks[:_LOWEST])
            bound = np.take_along_axis(tangents, ranks[[_LOWEST]], axis=0)[0]
        some = tangents[candidates]
        for row, having in zip(height, chosen[:, candidates], strict=True):
            if having.any():
                some[having].min(axis=0, out=row)
        for k in np.flatnonzero((height > bound).any(axis=1) & chosen.any(axis=1)):
            height[k] = tangents[chosen[k]].min(axis=0)
        return height


def _thin(loss: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the row of each run, and the indices of at most KNOTS points where it has data."""
    for row in loss:
        known = np.flatnonzero(np.isfinite(row))
        yield row, known[np.linspace(0, len(known) - 1, min(KNOTS, len(known))).astype(int)]


def lower_hull(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the lower convex hull of points, by Andrew's monotone chain.

    Of many points, those above the hull of some of them are left out first.
    """
    if len(u) > 8 * _CELLS and np.ptp(u) > 0:
        cell = ((u - u.min()) / np.ptp(u) * (_CELLS - 1)).astype(int)
        falling = np.argsort(-v, kind="stable")
        least = np.full(_CELLS, -1)
        least[cell[falling]] = falling  # the last one of a cell is its least
        ends = np.flatnonzero((u == u.min()) | (u == u.max()))
        some = np.concatenate([least[least >= 0], ends])
        below = v <= np.interp(u, *lower_hull(u[some], v[some])) + 1e-12
        u, v = u[below], v[below]
    kept: list[tuple[float, float]] = []
    for x, y in sorted(zip(u.tolist(), v.tolist(), strict=True)):
        if kept and x == kept[-1][0]:
            continue
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (y1 - y0) * (x - x1) < (y - y1) * (x1 - x0):
                break
            kept.pop()
        kept.append((x, y))
    corners = np.array(kept).reshape(-1, 2)
    return corners[:, 0], corners[:, 1]


def _winner(envelopes: np.ndarray) -> np.ndarray:
    """Return the index of the size with the least loss at each ln C; -1 where none has data."""
    best = envelopes.argmin(axis=0)
    return np.where(np.isfinite(envelopes.min(axis=0)), best, -1)


class _Marks(NamedTuple):
    """Points of the envelope, as rows of ln C, N, ln L."""

    crossings: np.ndarray
    """Points where the best size changes, with N the geometric mean of both sizes."""
    touches: np.ndarray
    """Middles of the stretches of C over which a size is best."""


def _marks(x: np.ndarray, winner: np.ndarray, least: np.ndarray, sizes: np.ndarray) -> _Marks:
    """Find where the best size changes, and the middles of the stretches between.

    The stretch of each size is as long as the ln C at which it wins, in order of size, so that
    short alternations caused by noise at a crossing cancel.
    """
    on = winner >= 0
    x, least = x[on], least[on]
    wins = np.bincount(winner[on], minlength=len(sizes))
    best = np.flatnonzero(wins)
    ends = np.cumsum(wins[best])[:-1]
    u = (x[ends - 1] + x[ends]) / 2
    v = (u[:-1] + u[1:]) / 2
    between = np.sqrt(sizes[best][:-1] * sizes[best][1:])
    return _Marks(
        np.column_stack([u, between, np.interp(u, x, least)]),
        np.column_stack([v, sizes[best][1:-1], np.interp(v, x, least)]),
    )


def _envelope_lines(
    marks: _Marks, flops_of: Callable[[Any], Any], centre: float
) -> dict[str, np.ndarray]:
    """Return (intercept, slope) of ln N, ln D and ln L against ln C - centre."""
    x, N, _ = marks.crossings.T
    y, _, L = (marks.touches if len(marks.touches) >= 2 else marks.crossings).T
    return {
        "N": straight_line(x - centre, np.log(N))[0],
        "D": straight_line(x - centre, x - np.log(flops_of(N)))[0],
        "L": straight_line(y - centre, L)[0],
    }
