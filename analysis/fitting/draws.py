"""Summaries of draws from a sampling distribution: central intervals and a robust spread."""

from __future__ import annotations

import numpy as np
import scipy

FAR = 1e250
"""A draw beyond this has overflowed: its parameter, or a quantity computed from it, is
unbounded."""


def central_interval(draws: np.ndarray, level: float) -> np.ndarray:
    """Return (low, high) along the last axis; infinite where it reaches draws that overflowed.

    A draw at which the quantity does not exist (nan) counts as overflowed upwards.
    """
    draws = np.clip(np.nan_to_num(draws, nan=1e300, posinf=1e300, neginf=-1e300), -1e300, 1e300)
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return np.where(np.abs(ends) > FAR, np.copysign(np.inf, ends), ends)


def spread(draws: np.ndarray) -> float:
    """Return the standard deviation, or half the central 68 % if a few distant draws dominate
    it."""
    one = float(scipy.special.ndtr(1.0))
    low, high = central_interval(draws, 2 * one - 1)
    with np.errstate(over="ignore", invalid="ignore"):
        sd, robust = float(np.std(draws, ddof=1)), float(high - low) / 2
    return sd if np.isfinite(sd) and sd <= 10 * robust else robust


def student_spread(draws: np.ndarray, freedom: float) -> float:
    """Return the standard error behind draws of Student's t, which may have no variance."""
    one = scipy.special.ndtr(1.0)
    with np.errstate(over="ignore", invalid="ignore"):  # draws may have overflowed
        left, right = np.quantile(draws, [1 - one, one])
        half = float(right - left) / 2
    return half / float(scipy.special.stdtrit(freedom, one))
