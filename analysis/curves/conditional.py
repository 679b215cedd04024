"""The law's prediction of a run, given the points of the run itself.

ln(loss) at the points of a run and at its end are jointly normal: the law predicts their mean, and
their covariance is that of the law's draws (its uncertainty), of what differs between runs, and of
the noise along a run, which fades over a length, and of each evaluation. Conditioning on the
measured points gives the end, and the innovations by which :mod:`analysis.curves.departure` tests
whether the run follows the law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular

_LEAST = 1e-6
"""Smallest standard deviation of one evaluation [ln loss]."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations of ln(loss) around the law."""

    between: float
    """Between runs: the whole curve of one lies higher or lower."""
    along: float
    """Along a run, with a correlation that fades."""
    length: float
    """ln(step) over which this correlation falls to 1/e."""
    point: float
    """Of each evaluation, independent."""

    def covariance(self, step: np.ndarray) -> np.ndarray:
        """Return the covariance of ln(loss) at these steps, without that of each evaluation."""
        s = np.log(step)
        apart = np.abs(s[:, None] - s[None, :])
        return self.between**2 + self.along**2 * np.exp(-apart / max(self.length, 1e-9))


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """The end of a run given its points."""

    mean: float
    """ln(loss) at the end."""
    sd: float
    innovations: np.ndarray
    """Standardised error of predicting each point from those before it."""


def condition(
    step: np.ndarray,
    log_loss: np.ndarray,
    end: float,
    mean: np.ndarray,
    draws: np.ndarray,
    noise: Noise,
) -> Conditional:
    """Return the distribution of ln(loss) at the end of a run, given its measured points.

    mean: the law's ln(loss) at each step and, last, at the end; draws [n, points + 1]: the same for
    draws of the law's parameters.
    """
    steps = np.append(step, end)
    spread = np.cov(draws, rowvar=False) if len(draws) > 1 else np.zeros((len(steps),) * 2)
    cov = np.atleast_2d(spread) + noise.covariance(steps)
    point = max(noise.point, _LEAST) ** 2
    n = len(step)
    if not n:
        return Conditional(
            mean=float(mean[-1]), sd=float(np.sqrt(cov[-1, -1] + point)), innovations=np.array([])
        )
    root = cholesky(cov[:n, :n] + point * np.eye(n), lower=True)
    z = solve_triangular(root, log_loss - mean[:n], lower=True)
    gain = solve_triangular(root, cov[:n, n], lower=True)
    variance = cov[n, n] - gain @ gain + point
    return Conditional(
        mean=float(mean[n] + gain @ z),
        sd=float(np.sqrt(max(variance, point))),
        innovations=z,
    )
