"""The law that runs are designed under."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import choose
from analysis.planning.optimal_design import gradient_of, target_function
from scaling.errors import ConfigError

LEAST_GRADIENT = 1e-3
"""A target whose gradient in the logarithm of every parameter is below this is a constant."""


def best_law(runs: pd.DataFrame, target: str, *, bootstrap: int = 400, seed: int = 0) -> FitResult:
    """Fit the law of N and D that predicts the larger runs best among those that have the target.

    If none has it, the best law of all is returned, and a design under it raises ConfigError.
    """
    choice = choose(runs, bootstrap=bootstrap, seed=seed, alone=True)
    fitted = next((each for each in choice.fits.values() if _has(each, target)), choice.first)
    if len(fitted.samples):
        return fitted
    return fit(fitted.law, runs, bootstrap=bootstrap, seed=seed)


def _has(result: FitResult, target: str) -> bool:
    """Whether the target depends on the parameters of the law."""
    law = result.law
    if target in ("L", "N"):
        return True
    try:
        aim = target_function(law, f"ln {target}" if target in law.params else target)
    except ConfigError:
        return False
    params = {name: np.array([value]) for name, value in result.params.items()}
    gradient = gradient_of(lambda p: aim(p)[:, None], params)
    return bool(np.isfinite(gradient).all() and np.abs(gradient).max() >= LEAST_GRADIENT)
