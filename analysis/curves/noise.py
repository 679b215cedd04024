"""How measured curves differ from a fitted law: noise along a run, misfit, and their growth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.curves.read import Curve

STRETCHES = 5
"""Number of independent deviations from the law along one run: logging more often does not make a
law of few parameters more certain."""


@dataclass(frozen=True)
class CurveNoise:
    """Standard deviations of log losses around a law fitted to some curves."""

    white: float
    """Noise of single points: measured between neighbours."""
    misfit: float
    """Slow deviations of whole stretches of a run: noise between runs, and the law's own error."""
    correlation: float
    """Correlation of the slow deviations of neighbouring points."""
    longest: float
    """Largest sum of learning rates S1 among the fitted points."""

    def variance(self, S1: np.ndarray) -> np.ndarray:
        """Return the variance of the log loss of points at sums of learning rates S1."""
        beyond = np.log(np.maximum(S1 / self.longest, 1.0))
        return self.white**2 + self.misfit**2 * (1 + beyond) ** 2


def estimate(curves: list[Curve], residuals: np.ndarray, freedom: int) -> CurveNoise:
    """Return the noise of log residuals, in the order of the points of `curves`."""
    parts = np.split(residuals, np.cumsum([c.n for c in curves])[:-1])
    steps = np.concatenate([np.diff(r) for r in parts])
    # Neighbours differ by white noise alone; the median keeps jumps of the rate out.
    white = float(np.median(np.abs(steps)) / 0.6745 / np.sqrt(2)) if len(steps) else 0.0
    independent = sum(min(c.n, STRETCHES) for c in curves)
    total = float(np.mean(residuals**2)) * independent / max(independent - freedom, 1)
    slow = max(total - white**2, 0.0)
    products = [float(np.mean(r[1:] * r[:-1])) for r in parts if len(r) > 1]
    correlation = float(np.clip(np.mean(products) / slow, 0, 1)) if slow and products else 0.0
    longest = max(float(c.rates.cumulative(c.step[-1])) for c in curves)
    return CurveNoise(white, float(np.sqrt(slow)), correlation, longest)
