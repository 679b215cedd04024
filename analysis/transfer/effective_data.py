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
from scipy.stats import t as student

from analysis.transfer.arms import Arms, arms
from scaling.errors import TableError

_DRAWS = 2000
_LEAST_CELLS = 4
"""Cells that a law of three parameters needs."""


@dataclass(frozen=True, kw_only=True)
class TransferLaw:
    """D_T = k D_F^alpha N^beta, with intervals."""

    k: float
    alpha: float
    beta: float
    intervals: dict[str, tuple[float, float]]
    """{'k', 'alpha', 'beta': (low, high)}."""
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

    @property
    def stable(self) -> float:
        """Fraction of the cells whose interval tells the sign of the transfer."""
        return float((self.cells["sign"] != "unclear").mean())

    def record(self) -> dict[str, object]:
        """Return all numbers as plain values."""
        law = None if self.law is None else vars(self.law)
        cells = self.cells.to_dict("records")
        own = {"level": self.level, "noise": self.noise, "stable": self.stable}
        return {"cells": cells, "law": law, "parents": list(self.parents), **own}


def effective_data(runs: pd.DataFrame, *, level: float = 0.9, seed: int = 0) -> Transfer:
    """Return the effective data transferred, and its law.

    runs: table with columns N, D, L, seed and init_run; unique_tokens, if the runs repeat data.
    level: of the intervals, which follow from the noise between seeds in both arms.

    D_E is interpolated in log D and log L along the losses from scratch, never extrapolated: a
    fine-tuned loss outside of them gives a bound and a note. Raises TableError for a table without
    both arms, or without a size that has two D_F from scratch.
    """
    both = arms(runs)
    generator = np.random.default_rng(seed)
    rows, draws = [], []
    for N, tuned in both.pretrained.groupby("N"):
        curve = _curve(both.scratch[both.scratch["N"] == N])
        if len(curve) < 2:
            continue
        for D_F, cell in tuned.groupby("D_F"):
            row, drawn = _cell(both, curve, float(D_F), cell, level, generator)
            rows.append({"N": int(N), **row})
            draws.append(drawn)
    if not rows:
        raise TableError(
            "no size N was trained from scratch with two amounts of data, which D_E is "
            "interpolated between."
        )
    cells = pd.DataFrame(rows).sort_values(["N", "D_F"], ignore_index=True)
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["N"], rows[i]["D_F"]))
    law = _law(cells, np.array([draws[i] for i in order]), level)
    return Transfer(cells=cells, law=law, level=level, noise=both.noise, parents=both.parents)


def _curve(scratch: pd.DataFrame) -> pd.DataFrame:
    """Return mean log L and number of seeds by D_F."""
    logs = scratch.assign(log_L=np.log(scratch["L"].astype(float)))
    found = logs.groupby("D_F")["log_L"].agg(["mean", "count"])
    return found.sort_index().reset_index()


def _cell(
    both: Arms,
    curve: pd.DataFrame,
    D_F: float,
    cell: pd.DataFrame,
    level: float,
    generator: np.random.Generator,
) -> tuple[dict[str, object], np.ndarray]:
    """Return the row of a cell, and draws of D_E / D_F (0 below the curve, inf above it)."""
    log_D, log_L = np.log(curve["D_F"].to_numpy(float)), curve["mean"].to_numpy(float)
    tuned = float(np.log(cell["L"].to_numpy(float)).mean())
    D_E = _data_for(log_D, log_L, tuned)
    scale = both.noise * np.sqrt(1 / curve["count"].to_numpy(float))
    shape = (_DRAWS, len(log_L))
    losses = log_L + scale * student.rvs(both.freedom, size=shape, random_state=generator)
    noise = both.noise / math.sqrt(len(cell))
    reached = tuned + noise * student.rvs(both.freedom, size=_DRAWS, random_state=generator)
    drawn = np.array(
        [_between(log_D, one, loss) for one, loss in zip(losses, reached, strict=True)]
    )
    if 0 < D_E < math.inf:  # what straight lines between the losses get wrong
        drawn *= D_E / _between(log_D, log_L, tuned)
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


def _data_for(log_D: np.ndarray, log_L: np.ndarray, loss: float) -> float:
    """Return the D at which a smooth curve reaches a log loss; inf or 0 if it lies outside."""
    linear = _between(log_D, log_L, loss)
    x, y = _falling(log_D, log_L)
    if not 0 < linear < math.inf or len(x) == 1:
        return linear
    return float(np.exp(PchipInterpolator(y[::-1], x[::-1])(loss)))


def _between(log_D: np.ndarray, log_L: np.ndarray, loss: float) -> float:
    """Return the same for straight lines between the points."""
    x, y = _falling(log_D, log_L)
    if loss < y[-1]:
        return math.inf
    return 0.0 if loss > y[0] else math.exp(np.interp(loss, y[::-1], x[::-1]))


def _falling(log_D: np.ndarray, log_L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points that are lower than all before; noise may make a curve rise."""
    keep = np.r_[True, log_L[1:] < np.minimum.accumulate(log_L)[:-1]]
    return log_D[keep], log_L[keep]


def _law(cells: pd.DataFrame, drawn: np.ndarray, level: float) -> TransferLaw | None:
    """Fit log D_T by least squares, and again to each draw."""
    known = (cells["D_T"] > 0).to_numpy()
    if known.sum() < _LEAST_CELLS or cells.loc[known, "N"].nunique() < 2:
        return None
    D_F, N = cells.loc[known, "D_F"].to_numpy(float), cells.loc[known, "N"].to_numpy(float)
    design = np.column_stack([np.ones(len(D_F)), np.log(D_F), np.log(N)])
    if np.linalg.matrix_rank(design) < 3:
        return None
    target = np.log(cells.loc[known, "D_T"].to_numpy(float))
    best = np.linalg.lstsq(design, target, rcond=None)[0]
    fits = []
    for each in drawn[known].T:
        good = np.isfinite(each) & (each > D_F)
        if good.sum() >= _LEAST_CELLS and np.linalg.matrix_rank(design[good]) == 3:
            drawn_target = np.log(each[good] - D_F[good])
            fits.append(np.linalg.lstsq(design[good], drawn_target, rcond=None)[0])
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
