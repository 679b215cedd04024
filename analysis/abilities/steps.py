"""The first step from N and D to an accuracy: the loss, by the default law of N and D.

The second step is a form of the accuracy in that loss (:mod:`analysis.abilities.forms`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy

from analysis.fitting.checks import FitError
from analysis.fitting.combination import Combination, combine
from analysis.laws import LawError
from scaling.errors import TableError

_ONE_SIGMA = float(2 * scipy.special.ndtr(1) - 1)
"""Level of an interval of one standard deviation to both sides."""
_MOST_CUTS = 3
"""Cut-offs in compute at which larger runs are held out: the first, the last and one between."""


@dataclass(frozen=True)
class LossStep:
    """A loss as a function of N and D: of the test text, or of the right answers of a task."""

    column: str
    law: Combination = field(repr=False)

    @property
    def cuts(self) -> tuple[float, ...]:
        """Cut-offs in N D above which runs were held out."""
        return self.law.test.cuts

    def held_out(self, cut: float) -> pd.Series:
        """Return the loss predicted for the runs above a cut-off by the law of those below, by the
        index of the rows that were fitted."""
        runs = self.law.runs
        held = product(runs) > cut
        measured = runs.loc[held, "L"].to_numpy(float)
        predicted = measured / np.exp(self.law.test.errors[cut])
        return pd.Series(predicted, runs.index[held])

    def draws(self, N: float, D: float, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return draws of the loss of one new run at N and D, from the interval that allows for the
        law's being wrong."""
        centre = float(self.law.predict(N=N, D=D))
        low, high = self.law.predict_interval(_ONE_SIGMA, noise=True, N=N, D=D)
        below, above = np.log(centre / float(low)), np.log(float(high) / centre)
        z = rng.standard_normal(count)
        return centre * np.exp(z * np.where(z > 0, above, below))


def loss_step(rows: pd.DataFrame, column: str, *, seed: int = 0) -> LossStep | None:
    """Fit the loss in a column to N and D; None if these runs do not allow it."""
    table = rows[["N", "D"]].assign(L=rows[column])
    try:
        return LossStep(column, combine(table, bootstrap=0, seed=seed))
    except (FitError, TableError, LawError):
        return None


def product(rows: pd.DataFrame) -> np.ndarray:
    """Return N D of each row, as a float: integers may be too large."""
    return rows["N"].to_numpy(float) * rows["D"].to_numpy(float)


def shared_cuts(rows: pd.DataFrame, steps: Mapping[str, LossStep | None]) -> list[float]:
    """Return the cut-offs in N D at which forms are tested: those of all the first steps."""
    known = [set(step.cuts) for step in steps.values() if step is not None and step.cuts]
    if known:
        cuts = sorted(set.intersection(*known))
    else:
        size = product(rows)
        values = np.unique(np.quantile(size, (0.4, 0.6, 0.8), method="lower"))
        cuts = [float(cut) for cut in values if (size > cut).any()]
    if len(cuts) <= _MOST_CUTS:
        return cuts
    return [cuts[round(k * (len(cuts) - 1) / (_MOST_CUTS - 1))] for k in range(_MOST_CUTS)]
