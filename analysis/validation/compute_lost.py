"""What nats cost in FLOPs: the compute that makes up for a higher loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy

from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.optimum import optimum_at
from analysis.laws import bottleneck, chinchilla, power
from analysis.tables.conventions import flops_6N
from scaling.errors import TableError

_UNREACHABLE = 1e12
"""A loss that takes more than this times the compute counts as out of reach."""


class Reference:
    """A law fitted to all runs of a table. It states losses in FLOPs; no advice comes from it."""

    def __init__(self, fitted: FitResult) -> None:
        self.fitted = fitted
        self._params = {p: np.array([v]) for p, v in fitted.params.items()}

    def loss(self, C: np.ndarray) -> np.ndarray:
        """Return the loss at each C: that of the best N at C = 6 N D for a law of N and D."""
        C = np.atleast_1d(C)
        if self.fitted.law.inputs == ("C",):
            return self.fitted.predict(C=C)
        return optimum_at(self.fitted.law, self._params, C, flops_6N)["L"][0]

    def extra_compute(self, C: float, nats: float) -> float:
        """Return the FLOPs beyond C that make up for a number of nats; see
        :func:`extra_compute`."""
        return extra_compute(self.loss, C, nats)


def reference_of(runs: pd.DataFrame) -> tuple[Reference | None, str]:
    """Return the reference of a table of N, D, C and L, or None and the reason.

    It is the law of N and D of lower AICc, chinchilla or bottleneck, or else a power law in C
    through the best run at each compute.
    """
    fits = []
    for law in (chinchilla, bottleneck):
        try:
            fits.append(fit(law, runs, bootstrap=0, cluster=None))
        except (FitError, TableError):  # too few runs
            continue
    if not fits:
        try:
            fits.append(_power_of_compute(runs))
        except (FitError, TableError) as error:
            return None, str(error)
    return Reference(min(fits, key=_aicc)), ""


def _aicc(fitted: FitResult) -> float:
    n, k = fitted.n, fitted.problem.q + 1
    error = max(float(np.mean(fitted.log_residuals**2)), 1e-16)
    return n * float(np.log(error)) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 0.5)


def _power_of_compute(runs: pd.DataFrame) -> FitResult:
    best = runs.sort_values("L", kind="stable").drop_duplicates("C").sort_values("C")
    best = best[best["L"] <= best["L"].cummin()]  # more compute with a higher loss is no frontier
    return fit(power("C"), best, bootstrap=0, cluster=None)


def extra_compute(loss: Callable[[np.ndarray], np.ndarray], C: float, nats: float) -> float:
    """Return the FLOPs beyond C with which a falling loss(C) makes up for a number of nats.

    0 for none, inf if no compute does, nan if the loss at C is unknown.
    """
    if nats <= 0:
        return 0.0
    goal = float(loss(np.array([C]))[0]) - nats

    def gap(u: float) -> float:
        return float(loss(np.array([C * np.exp(u)]))[0]) - goal

    high = float(np.log(_UNREACHABLE))
    far = gap(high)
    if not np.isfinite(far):
        return np.nan
    if far > 0:
        return np.inf
    return float(C * np.expm1(scipy.optimize.brentq(gap, 0.0, high, xtol=1e-12)))
