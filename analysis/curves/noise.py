"""How measured curves differ from a fitted law: noise of points, and the law's own misfit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.curves.read import Curve

STRETCHES = 5
"""Number of independent deviations from the law along one run: logging more often does not make a
law of few parameters more certain."""

DROP = 0.14
"""Standard deviation of the factor by which what a decay brings differs from the law, under a
schedule that was not fitted. With GROWTH it was chosen on the curves of Luo et al. 2025 with 25 and
100 million parameters, where runs three times longer than the fitted ones lie within 90 % intervals
at 91 to 93 % of their points."""

GROWTH = 0.1
"""Relative growth of the misfit for each factor e beyond the longest fitted run."""

_NORMAL = 1.4826
"""Standard deviation of a normal variable over its median absolute value."""


@dataclass(frozen=True)
class CurveNoise:
    """Standard deviations of log losses around a law fitted to some curves.

    Besides these, an interval holds the covariance of the law's parameters. It grows fast beyond
    the fitted runs, since deviations are taken to last whole stretches of a run.
    """

    white: float
    """Noise of single points: measured between neighbours."""
    misfit: float
    """Slow deviations along a run: noise between runs, and the law's own error."""
    correlation: float
    """Correlation of the deviations of neighbouring points."""
    longest: float
    """The last step of the longest fitted run."""
    drop: float = DROP
    """Relative standard deviation of what the decay of the learning rate brings."""

    def variance(self, step: np.ndarray, drop: np.ndarray) -> np.ndarray:
        """Return the variance of the log loss at steps, where decays brought a share `drop`."""
        beyond = np.log(np.maximum(step / self.longest, 1.0))
        misfit = self.misfit * (1 + GROWTH * beyond)
        return self.white**2 + misfit**2 + (self.drop * drop) ** 2


def estimate(curves: list[Curve], residuals: np.ndarray, parameters: int) -> CurveNoise:
    """Return the noise of log residuals, in the order of the points of `curves`."""
    parts = np.split(residuals, np.cumsum([c.n for c in curves])[:-1])
    between = np.concatenate([np.diff(r) for r in parts])
    # Medians: a few points after the warm-up and after a jump are further from any law.
    white = float(_NORMAL * np.median(np.abs(between)) / np.sqrt(2)) if len(between) else 0.0
    lost = len(residuals) / max(len(residuals) - parameters, 1)
    total = (_NORMAL * float(np.median(np.abs(residuals)))) ** 2 * lost
    white = min(white, float(np.sqrt(total)))
    before = np.concatenate([r[:-1] for r in parts])
    after = np.concatenate([r[1:] for r in parts])
    square = float(before @ before)
    correlation = float(np.clip(before @ after / square, 0, 1)) if square else 0.0
    longest = max(float(c.step[-1]) for c in curves)
    return CurveNoise(white, float(np.sqrt(max(total - white**2, 0.0))), correlation, longest)
