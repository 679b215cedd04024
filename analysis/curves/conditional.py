"""The law's prediction of a run, given the points of the run itself.

ln(loss) at the points of a run and at its end are jointly normal: the law predicts their mean, and
their covariance is that of the law's parameters, of the noise along a run, which fades over
a length, of deviations that last the whole run, and of each evaluation. Conditioning on the
measured points gives the end, and the innovations by which :mod:`analysis.curves.departure` tests
whether the run follows the law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular

_LEAST = 1e-6
"""Smallest standard deviation of one evaluation [ln loss]."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How ln(loss) of a run differs from the law at its points and, last, at its end."""

    point: float
    """Standard deviation of each evaluation, independent."""
    along: np.ndarray
    """Standard deviation along the run at each of them, with a correlation that fades."""
    length: float
    """ln(step) over which this correlation falls to 1/e."""
    factors: Sequence[np.ndarray] = ()
    """Effects at each of them of deviations that last the whole run, such as of its level."""

    def covariance(self, step: np.ndarray) -> np.ndarray:
        """Return the covariance of ln(loss) at these steps, without that of each evaluation."""
        s = np.log(step)
        fades = np.exp(-np.abs(s[:, None] - s[None, :]) / self.length)
        cov = np.outer(self.along, self.along) * fades
        return cov + sum(np.outer(each, each) for each in self.factors)


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """Later losses of a run given its points."""

    mean: np.ndarray
    """ln(loss) at each later step."""
    sd: np.ndarray
    innovations: np.ndarray
    """Standardised error of predicting each point from those before it."""


def condition(
    step: np.ndarray,
    log_loss: np.ndarray,
    later: np.ndarray,
    mean: np.ndarray,
    covariance: np.ndarray,
    noise: Noise,
) -> Conditional:
    """Return the distribution of ln(loss) at later steps of a run, given its measured points.

    mean: the law's ln(loss) at each point and at the later steps; covariance: that of these by the
    law's parameters. `noise` is for the same steps.
    """
    n = len(step)
    cov = covariance + noise.covariance(np.concatenate([step, later]))
    point = max(noise.point, _LEAST) ** 2
    root = cholesky(cov[:n, :n] + point * np.eye(n), lower=True) if n else np.empty((0, 0))
    z = solve_triangular(root, log_loss - mean[:n], lower=True) if n else np.empty(0)
    gain = solve_triangular(root, cov[:n, n:], lower=True) if n else np.empty((0, len(later)))
    variance = np.diag(cov)[n:] - (gain**2).sum(axis=0)
    return Conditional(
        mean=mean[n:] + gain.T @ z,
        sd=np.sqrt(np.maximum(variance, 0.0) + point),
        innovations=z,
    )
