"""Effective data transferred (Hernandez et al. 2021, arXiv 2102.01293).

A pre-trained model that is fine-tuned on D_F tokens has some loss. D_E is the number of tokens with
which a model of the same size, trained from scratch, reaches it. The effective data transferred is
D_T = D_E - D_F (section 2.1), and its law is D_T = k D_F^alpha N^beta (eq. 1.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from analysis.transfer.arms import Arms, arms
from scaling.errors import TableError

_DRAWS = 2000
_STEPS = 25
"""Points of a smooth curve between two losses from scratch."""
_LEAST_CELLS = 4
"""Cells that a law of three parameters needs."""


@dataclass(frozen=True, kw_only=True)
class TransferLaw:
    """D_T = k D_F^alpha N^beta, with intervals."""

    k: float
    alpha: float
    beta: float
    intervals: dict[str, tuple[float, float]]
    """{'k', 'alpha', 'beta': (low, high)}, from the noise between seeds and from how far the cells
    lie from the law."""
    cells: int
    """Number of cells that it is fitted to: those whose D_T is positive and known."""
    rms: float
    """Root mean square of the residuals of log D_T."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What pre-training is worth at each N and D_F."""

    cells: pd.DataFrame
    """One row per N and D_F: seeds, L_scratch, L_pretrained, D_E, D_T, D_T_low, D_T_high, ratio
    (D_E / D_F), sign ('gain', 'loss', 'unclear') and note."""
    law: TransferLaw | None
    """None if too few cells have a positive D_T that is known."""
    level: float
    noise: float
    """Standard deviation of log L between seeds."""
    parents: tuple[str, ...]
    untuned: dict[str, tuple[int, int]]
    """{arm: (cells whose best learning rate is an end of those tried, all cells)}."""

    @property
    def stable(self) -> float:
        """Fraction of the cells whose interval tells the sign of the transfer."""
        return float((self.cells["sign"] != "unclear").mean())

    def record(self) -> dict[str, object]:
        """Return all numbers as plain values."""
        law = None if self.law is None else vars(self.law)
        cells = self.cells.to_dict("records")
        own = {"level": self.level, "noise": self.noise, "stable": self.stable}
        untuned = {arm: list(counts) for arm, counts in self.untuned.items()}
        return {
            "cells": cells, "law": law, "parents": list(self.parents), "untuned": untuned, **own
        }  # fmt: skip


def effective_data(runs: pd.DataFrame, *, level: float = 0.9, seed: int = 0) -> Transfer:
    """Return the effective data transferred, and its law.

    runs: table with columns N, D, L, seed and init_run; unique_tokens, if the runs repeat data.
    level: of the intervals, which follow from the noise between seeds in both arms.

    D_E is interpolated in log D and log L along the losses from scratch, never extrapolated: a
    fine-tuned loss outside of them gives a bound and a note. Raises TableError for a table without
    both arms, or without a size that has two D_F from scratch.
    """
    both = arms(runs)
    errors = _Errors(both, np.random.default_rng(seed))
    rows, draws = [], []
    for N, tuned in both.pretrained.groupby("N"):
        curve = _curve(both.scratch[both.scratch["N"] == N])
        if len(curve) < 2:
            continue
        smooth = _Smooth(curve["D_F"], errors.around(curve["mean"], curve["count"]))
        for D_F, cell in tuned.groupby("D_F"):
            row, drawn = _cell(curve, smooth, float(D_F), cell, level, errors)
            rows.append({"N": int(N), **row})
            draws.append(drawn)
    if not rows:
        raise TableError(
            "no size N was trained from scratch with two amounts of data, which D_E is "
            "interpolated between."
        )
    cells = pd.DataFrame(rows)
    law = _law(cells, np.array(draws), level, errors.generator)
    return Transfer(
        cells=cells, law=law, level=level, noise=both.noise, parents=both.parents,
        untuned=both.untuned,
    )  # fmt: skip


class _Errors:
    """Draws of mean log losses, as the noise between seeds would have them.

    The size of the noise is an estimate itself: one draw of it is shared by all losses of a draw,
    so that a difference of two losses follows Student's t.
    """

    def __init__(self, both: Arms, generator: np.random.Generator) -> None:
        self.generator = generator
        self.noise = both.noise * np.sqrt(both.freedom / generator.chisquare(both.freedom, _DRAWS))

    def around(self, log_L: pd.Series | float, seeds: pd.Series | int) -> np.ndarray:
        """Return n mean log losses, each over a number of seeds, and draws of them
        [1 + _DRAWS, n]."""
        means, scales = np.atleast_1d(log_L), 1 / np.sqrt(np.atleast_1d(seeds))
        normal = self.generator.standard_normal((_DRAWS, len(means)))
        return np.vstack([means, means + self.noise[:, None] * scales * normal])


class _Smooth:
    """Smooth curves of log L against log D through the losses [n, D] from scratch."""

    def __init__(self, D: pd.Series, log_L: np.ndarray) -> None:
        knots = np.log(D.to_numpy(float))
        steps = np.arange(_STEPS * (len(knots) - 1) + 1) / _STEPS
        self.log_D = np.interp(steps, np.arange(len(knots)), knots)
        self.log_L = PchipInterpolator(knots, log_L, axis=1)(self.log_D)

    def data_for(self, losses: np.ndarray) -> np.ndarray:
        """Return the D [n] at which each curve first reaches its log loss; inf where it does not,
        and 0 where it begins below."""
        each = np.arange(len(losses))
        reached = self.log_L <= losses[:, None]
        after = reached.argmax(axis=1)
        before = np.maximum(after - 1, 0)
        y_before, y_after = self.log_L[each, before], self.log_L[each, after]
        share = (y_before - losses) / np.where(y_before > y_after, y_before - y_after, 1)
        found = np.exp(self.log_D[before] + share * (self.log_D[after] - self.log_D[before]))
        found = np.where((after == 0) & (y_after < losses), 0.0, found)
        return np.where(reached.any(axis=1), found, math.inf)


def _curve(scratch: pd.DataFrame) -> pd.DataFrame:
    """Return mean log L and number of seeds by D_F."""
    logs = scratch.assign(log_L=np.log(scratch["L"].astype(float)))
    found = logs.groupby("D_F")["log_L"].agg(["mean", "count"])
    return found.sort_index().reset_index()


def _cell(
    curve: pd.DataFrame,
    smooth: _Smooth,
    D_F: float,
    cell: pd.DataFrame,
    level: float,
    errors: _Errors,
) -> tuple[dict[str, object], np.ndarray]:
    """Return the row of a cell, and draws of D_E (0 below the curve, inf above it).

    `smooth` has the curve and draws of it, the same for all cells of a size.
    """
    tuned = float(np.log(cell["L"].to_numpy(float)).mean())
    D_E, *draws = smooth.data_for(errors.around(tuned, len(cell))[:, 0])
    drawn = np.array(draws)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    at = curve.loc[curve["D_F"] == D_F, "mean"]
    row = {
        "D_F": D_F,
        "seeds": len(cell),
        "L_scratch": math.exp(at.iloc[0]) if len(at) else math.nan,
        "L_pretrained": math.exp(tuned),
        "D_E": D_E if 0 < D_E < math.inf else math.nan,
        "D_T": D_E - D_F if 0 < D_E < math.inf else math.nan,
        "D_T_low": low - D_F,
        "D_T_high": high - D_F,
        "ratio": D_E / D_F if 0 < D_E < math.inf else math.nan,
        "sign": "gain" if low > D_F else "loss" if high < D_F else "unclear",
        "note": _note(D_E, curve),
    }
    return row, drawn


def _note(D_E: float, curve: pd.DataFrame) -> str:
    if math.isinf(D_E):
        return f"better than any run from scratch: D_E > {curve['D_F'].iloc[-1]:.3g}"
    if D_E == 0:
        return f"worse than all runs from scratch: D_E < {curve['D_F'].iloc[0]:.3g}"
    return ""


def _law(
    cells: pd.DataFrame, drawn: np.ndarray, level: float, generator: np.random.Generator
) -> TransferLaw | None:
    """Fit log D_T by least squares, and again to each of the draws [n, _DRAWS] of D_E."""
    known = (cells["D_T"] > 0).to_numpy()
    if known.sum() < _LEAST_CELLS or cells.loc[known, "N"].nunique() < 2:
        return None
    D_F, N = cells.loc[known, "D_F"].to_numpy(float), cells.loc[known, "N"].to_numpy(float)
    design = np.column_stack([np.ones(len(D_F)), np.log(D_F), np.log(N)])
    if np.linalg.matrix_rank(design) < 3:
        return None
    target = np.log(cells.loc[known, "D_T"].to_numpy(float))
    best = np.linalg.lstsq(design, target, rcond=None)[0]
    D_T = drawn[known] - D_F[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        targets = np.where(np.isfinite(D_T) & (D_T > 0), np.log(D_T), math.nan)
    targets += _scatter(design, target, targets, generator)
    fits = []
    for each in targets.T:
        good = np.isfinite(each)
        if good.sum() >= _LEAST_CELLS and np.linalg.matrix_rank(design[good]) == 3:
            fits.append(np.linalg.lstsq(design[good], each[good], rcond=None)[0])
    ends = np.full((2, 3), math.nan)
    if len(fits) > _DRAWS / 2:
        ends = np.quantile(np.array(fits), [(1 - level) / 2, (1 + level) / 2], axis=0)
    residuals = target - design @ best
    return TransferLaw(
        k=math.exp(best[0]),
        alpha=float(best[1]),
        beta=float(best[2]),
        intervals={
            "k": (math.exp(ends[0, 0]), math.exp(ends[1, 0])),
            "alpha": (float(ends[0, 1]), float(ends[1, 1])),
            "beta": (float(ends[0, 2]), float(ends[1, 2])),
        },
        cells=int(known.sum()),
        rms=float(np.sqrt(np.mean(residuals**2))),
    )


def _scatter(
    design: np.ndarray, target: np.ndarray, drawn: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return draws [n, _DRAWS] of how far log D_T lies from the law beyond what noise explains.

    The residuals have a variance; that of the draws [n, _DRAWS], which is due to noise, is
    subtracted.
    """
    n, parameters = design.shape
    if n == parameters:
        return np.zeros_like(drawn)
    residual = np.eye(n) - design @ np.linalg.pinv(design)
    by_noise = residual @ np.nan_to_num(drawn - target[:, None])
    excess = np.sum((residual @ target) ** 2) - np.mean(np.sum(by_noise**2, axis=0))
    size = np.sqrt(max(0.0, excess) / generator.chisquare(n - parameters, _DRAWS))
    return size * generator.standard_normal(drawn.shape)
