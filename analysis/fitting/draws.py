"""Summaries of draws from a sampling distribution: central intervals and a robust spread."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import scipy

from analysis.fitting.checks import check_level

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


def parameter_intervals(
    draws: pd.DataFrame, params: Iterable[str], level: float
) -> dict[str, tuple[float, float]]:
    """Return {parameter: (low, high)} of the central interval of its column of draws."""
    check_level(level)
    ends = draws.quantile([(1 - level) / 2, (1 + level) / 2])
    return {p: (float(ends[p].iloc[0]), float(ends[p].iloc[1])) for p in params}


def open_interval(draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (low, high) along the first axis, where a draw without a value (nan) may lie anywhere.

    Leaving such draws out would favour one side: those of a noisy table have no optimum because
    their exponent is too small, and 90 % intervals of 9 runs then cover 77 % (measured). So they
    count as below the lower end and as above the upper one, and more of them than lie outside the
    interval leave it without ends. Without any draws, both ends are nan.
    """
    if not len(draws):
        return np.full(draws.shape[1:], np.nan), np.full(draws.shape[1:], np.nan)
    draws = np.moveaxis(draws, 0, -1)
    unknown = np.isnan(draws)
    low = central_interval(np.where(unknown, -np.inf, draws), level)[0]
    high = central_interval(np.where(unknown, np.inf, draws), level)[1]
    return low, high


def containing(
    value: np.ndarray | float, low: np.ndarray | float, high: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Return intervals that hold their estimates.

    If the draws lie to one side of the estimate, they are biased by more than their spread. Whether
    the truth lies on their side (as a percentile interval has it) or on the other (as a basic
    interval has it) is then unknown, so the interval is the hull of both: the percentile interval
    and its mirror image in the estimate, in logs if all are positive. It is never narrower than
    either, so that it covers at least as often.
    """
    value, low, high = np.broadcast_arrays(*(np.asarray(x, float) for x in (value, low, high)))
    outside = (value < low) | (value > high)
    if not outside.any():
        return low, high
    with np.errstate(all="ignore"):
        positive = (value > 0) & (low > 0)
        left = np.where(positive, value * (value / high), 2 * value - high)
        right = np.where(positive, value * (value / low), 2 * value - low)
    return (
        np.where(outside, np.fmin(low, left), low),
        np.where(outside, np.fmax(high, right), high),
    )


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
