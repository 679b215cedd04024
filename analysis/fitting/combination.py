"""The default prediction of losses: fits of one flexible law, combined by how well they predict.

:func:`analysis.laws.bottleneck` contains the other common laws of N and D: Chinchilla's (k = 1),
Kaplan's (no floor, k = 1 / beta), Kaplan's with a floor, and that of one shared exponent. It is
fitted twice, in the ways that predict held-out larger runs best over published and own sweeps
(results/LOG.md): with the prior of the field and rows weighted by C, and without a prior and rows
weighted by the root of C. The first wins where the runs are few or the data are those of usual
models, the second where they are not. A backtest on the user's own runs weighs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy

from analysis.fitting.checks import FitError, check_level
from analysis.fitting.fit import fit
from analysis.fitting.held_out import HeldOut, held_out_tests
from analysis.fitting.result import FitResult
from analysis.laws import bottleneck
from scaling.errors import TableError
from scaling.jsonable import finite

MEMBERS: dict[str, dict[str, Any]] = {
    "bottleneck with prior": {"prior": "field", "weights": "C"},
    "bottleneck": {"weights": "C^0.5"},
}
"""The fits that are combined, by name, with the options of each."""

SHARPNESS = 4.0
"""Weights are proportional to the held-out error to minus this power."""
_LEAST_ERROR = 1e-3
"""Held-out errors below this count as equal: they are noise."""

Kind = Literal["statistical", "extrapolation"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Combination:
    """Several fits to one table, weighted by how well each predicts its larger runs."""

    laws: dict[str, FitResult]
    """The fits by name, that of the largest weight first."""
    weights: dict[str, float]
    """Weight of each fit in the prediction; they sum to 1."""
    tests: dict[str, HeldOut] = field(repr=False)
    """Tests of each on held-out larger runs."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Reason why a member could not be fitted, by its name."""

    @property
    def first(self) -> FitResult:
        """The fit of the largest weight."""
        return next(iter(self.laws.values()))

    @property
    def errors(self) -> dict[str, float]:
        """{name: rms error of ln L on held-out larger runs}; nan if the runs are too few."""
        return {name: test.error for name, test in self.tests.items()}

    @property
    def error(self) -> float:
        """The rms error of ln L of the combined prediction on held-out larger runs, averaged over
        the cut-offs; nan if the runs are too few."""
        off = self._combined_errors()
        return float(np.mean([np.sqrt(np.mean(e**2)) for e in off])) if off else np.nan

    def predict(self, **columns: Any) -> np.ndarray:
        """Return the predicted loss in nats per token at N and D (numbers or arrays that
        broadcast): the weighted geometric mean of the fits."""
        logs = [w * np.log(self.laws[name].predict(**columns)) for name, w in self._carrying()]
        return np.exp(np.sum(logs, axis=0))

    def predict_interval(
        self,
        level: float = 0.95,
        *,
        kind: Kind = "extrapolation",
        noise: bool = False,
        **columns: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (low, high) of the loss at N and D, each of the columns' common shape.

        kind   'statistical': the law is right, and only the noise of the runs is unknown.
               'extrapolation': the law may be wrong. This adds the disagreement of the fits and
               the error that the combination made on held-out larger runs.
        noise  the interval is that of one new run, which includes the residuals of the fits.
        """
        check_level(level)
        z = float(scipy.special.ndtri((1 + level) / 2))
        centre = np.log(self.predict(**columns))
        below, above = np.zeros_like(centre), np.zeros_like(centre)
        for name, w in self._carrying():
            low, high = self.laws[name].predict_interval(level, noise=noise, **columns)
            own = np.log(self.laws[name].predict(**columns))
            with np.errstate(all="ignore"):
                below, above = below + w * (own - np.log(low)), above + w * (np.log(high) - own)
        if kind == "extrapolation":
            extra = (z * self._model_error(columns)) ** 2
            below, above = np.sqrt(below**2 + extra), np.sqrt(above**2 + extra)
        return np.exp(centre - below), np.exp(centre + above)

    def _carrying(self) -> list[tuple[str, float]]:
        return [(name, w) for name, w in self.weights.items() if w > 0]

    def _combined_errors(self) -> list[np.ndarray]:
        cuts = next(iter(self.tests.values())).cuts
        return [
            sum(w * self.tests[name].errors[cut] for name, w in self._carrying()) for cut in cuts
        ]

    def _model_error(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Return the standard deviation of ln L because no law is exactly right."""
        logs = {name: np.log(fit.predict(**columns)) for name, fit in self.laws.items()}
        centre = np.log(self.predict(**columns))
        apart = sum(self.weights[name] * (logs[name] - centre) ** 2 for name in logs)
        error = self.error
        return np.sqrt(apart + (0.0 if np.isnan(error) else error) ** 2)

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return finite(
            {
                "laws": {
                    name: {
                        "weight": self.weights[name],
                        "held_out": self.errors[name],
                        "formula": result.law.formula,
                        "loss": result.loss,
                        "params": result.params,
                        "informed": result.informed,
                    }
                    for name, result in self.laws.items()
                },
                "held_out": self.error,
                "skipped": self.skipped,
            }
        )

    def __str__(self) -> str:
        parts = [
            f"{name} (weight {self.weights[name]:.2g}"
            + ("" if np.isnan(error) else f", missed larger runs by {100 * error:.2g} %")
            + ")"
            for name, error in self.errors.items()
        ]
        return f"auto: {'; '.join(parts)}"


def combine(runs: pd.DataFrame, *, bootstrap: int = 1000, seed: int = 0) -> Combination:
    """Fit the members to runs with columns N, D and L, test them on held-out larger runs, and
    weigh them by their errors. Raises FitError if none can be fitted."""
    fits: dict[str, FitResult] = {}
    skipped: dict[str, str] = {}
    for name, options in MEMBERS.items():
        try:
            fits[name] = fit(bottleneck, runs, bootstrap=bootstrap, seed=seed, **options)
        except (FitError, TableError) as error:
            skipped[name] = str(error)
    if not fits:
        raise FitError(next(iter(skipped.values())))
    tests = held_out_tests(fits)
    errors = {name: max(test.error, _LEAST_ERROR) for name, test in tests.items()}
    raw = {name: 1.0 if np.isnan(e) else e**-SHARPNESS for name, e in errors.items()}
    total = sum(raw.values())
    order = sorted(fits, key=lambda name: -raw[name])
    return Combination(
        laws={name: fits[name] for name in order},
        weights={name: raw[name] / total for name in order},
        tests={name: tests[name] for name in order},
        skipped=skipped,
    )
