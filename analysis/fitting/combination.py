"""The default law of N and D: one flexible form, fitted in two ways and chosen by a backtest.

:func:`analysis.laws.bottleneck` contains the other common laws of N and D: Chinchilla's (k = 1),
Kaplan's (no floor, k = 1 / beta), Kaplan's with a floor, and that of one shared exponent. So what a
choice of laws decides elsewhere is decided here by how the form is fitted:

* with the prior of the field, and rows weighted by C: best for few runs, and for models and data of
  the usual kinds;
* without a prior, and rows weighted by the root of C: best where the runs are many, or unlike those
  that the prior comes from.

Both are refitted to the smaller runs and predict the larger ones. The one that predicts better gives
the answer; the draws of both, in proportion to how well they predict, give its intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy

from analysis.fitting.checks import FitError, check_level
from analysis.fitting.fit import AUTO, fit
from analysis.fitting.held_out import HeldOut, held_out_tests
from analysis.fitting.result import FitResult
from analysis.fitting.slow_term import slow_term
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
class Combination(FitResult):
    """Several fits to one table. As a FitResult it is the fit of the largest weight, with draws
    from all of them."""

    laws: dict[str, FitResult] = field(repr=False)
    """The fits by name, that of the largest weight first."""
    weights: dict[str, float]
    """Weight of each fit; they sum to 1."""
    tests: dict[str, HeldOut] = field(repr=False)
    """Tests of each on held-out larger runs."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Reason why a member could not be fitted, by its name."""

    @property
    def name(self) -> str:
        """Name of the fit that gives the answer."""
        return next(iter(self.laws))

    @property
    def errors(self) -> dict[str, float]:
        """{name: rms error of ln L on held-out larger runs}; nan if the runs are too few."""
        return {name: test.error for name, test in self.tests.items()}

    @property
    def test(self) -> HeldOut:
        """The test of the fit that gives the answer."""
        return self.tests[self.name]

    def predict_interval(
        self,
        level: float = 0.95,
        *,
        noise: bool = False,
        kind: Kind = "extrapolation",
        **columns: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (low, high) of the loss at N and D, each of the columns' common shape.

        kind   'statistical': the law is right, and only the noise of the runs is unknown.
               'extrapolation': the law may be wrong, too. See :meth:`model_error`.
        noise  the interval is that of one new run, which includes the residuals of the fits.
        """
        check_level(level)
        lead = self.laws[self.name]
        low, high = lead.predict_interval(level, noise=noise, **columns)
        if kind == "statistical":
            return low, high
        z = float(scipy.special.ndtri((1 + level) / 2))
        centre = self.predict(**columns)
        extra = z * self.model_error(**columns)
        with np.errstate(all="ignore"):
            below = np.hypot(np.log(centre / low), extra)
            above = np.hypot(np.log(high / centre), extra)
        return centre * np.exp(-below), centre * np.exp(above)

    def model_error(self, **columns: Any) -> np.ndarray:
        """Return the standard deviation of ln L at N and D because no law is exactly right.

        It adds, in squares, the disagreement of the fits, the error of the fit that gives the
        answer on held-out larger runs, and a slow term of the loss that no fit can see
        (:mod:`analysis.fitting.slow_term`).
        """
        columns = {name: np.asarray(x, float) for name, x in columns.items()}
        shape = np.broadcast_shapes(*(x.shape for x in columns.values()))
        flat = {name: np.broadcast_to(x, shape).reshape(-1) for name, x in columns.items()}
        centre = self.predict(**flat)
        apart = sum(
            self.weights[name] * np.log(each.predict(**flat) / centre) ** 2
            for name, each in self.laws.items()
        )
        tested = np.zeros_like(centre)
        if self.test.cuts:
            tested += _BACKTEST * self.test.error
        lead = self.laws[self.name]
        slow = _SLOW * slow_term(lead.problem, lead.minimum, flat)
        return np.sqrt(apart + tested**2 + slow**2).reshape(shape)

    @property
    def sentence(self) -> str:
        """Which fits carry the answer, in one line, with their weights and held-out errors."""
        return "; ".join(
            f"{name}: weight {weight:.2f}"
            + ("" if np.isnan(error := self.errors[name]) else f", held-out error {error:.2%}")
            for name, weight in self.weights.items()
        )

    def record(self, level: float = 0.95) -> dict[str, Any]:
        """Return everything as plain values for JSON; numbers that are not finite become None."""
        members = {
            name: {
                "weight": self.weights[name],
                "held_out": self.errors[name],
                "law": each.law.name,
                "loss": each.loss,
                "params": each.params,
                "prior_share": each.informed,
            }
            for name, each in self.laws.items()
        }
        return super().record(level) | finite({"laws": members, "skipped": self.skipped})

    def text(self, level: float = 0.95) -> str:
        """Return the summary of the fit that gives the answer, after the line on all of them."""
        return f"{AUTO}: {self.sentence}\n{super().text(level)}"


_BACKTEST = 1.2
"""Factor from the error on held-out runs to the standard deviation of the model's error. Chosen
with the suite: held-out runs of a table reach less far than what it is asked for."""
_SLOW = 0.6
"""Factor from the largest error by a slow term to its standard deviation: an interval of 90 % then
just covers the largest."""


def fit_members(
    runs: pd.DataFrame, *, bootstrap: int, seed: int = 0, **options: Any
) -> tuple[dict[str, FitResult], dict[str, str]]:
    """Return the fits of MEMBERS by name, and why others could not be fitted."""
    fits: dict[str, FitResult] = {}
    skipped: dict[str, str] = {}
    for name, own in MEMBERS.items():
        try:
            fits[name] = fit(bottleneck, runs, bootstrap=bootstrap, seed=seed, **options, **own)
        except (FitError, TableError) as error:
            skipped[name] = str(error)
    if not fits:
        raise FitError(next(iter(skipped.values())))
    return fits, skipped


def combined(
    fits: Mapping[str, FitResult], tests: Mapping[str, HeldOut], skipped: Mapping[str, str]
) -> Combination:
    """Combine fits of one law to the same runs, weighted by their held-out errors."""
    errors = {name: max(test.error, _LEAST_ERROR) for name, test in tests.items()}
    raw = {name: 1.0 if np.isnan(tests[name].error) else errors[name] ** -SHARPNESS for name in fits}
    total = sum(raw.values())
    order = sorted(fits, key=lambda name: -raw[name])
    weights = {name: raw[name] / total for name in order}
    lead = fits[order[0]]
    own = {f.name: getattr(lead, f.name) for f in fields(FitResult)}
    return Combination(
        **own | {"samples": _mixed(fits, weights)},
        laws={name: fits[name] for name in order},
        weights=weights,
        tests={name: tests[name] for name in order},
        skipped=dict(skipped),
    )


def _mixed(fits: Mapping[str, FitResult], weights: Mapping[str, float]) -> pd.DataFrame:
    """Return draws from all fits in proportion to their weights, as many as one fit has."""
    count = max(len(each.samples) for each in fits.values())
    parts, taken = [], 0.0
    for name, weight in weights.items():
        draws = fits[name].samples
        ends = round(count * taken), round(count * min(taken + weight, 1.0))
        taken += weight
        parts.append(draws.iloc[: ends[1] - ends[0]])
    return pd.concat(parts, ignore_index=True)


def combine(
    runs: pd.DataFrame, *, bootstrap: int = 1000, seed: int = 0, **options: Any
) -> Combination:
    """Fit, test and combine the members; runs need columns N, D and L.

    Raises FitError if none can be fitted.
    """
    fits, skipped = fit_members(runs, bootstrap=bootstrap, seed=seed, **options)
    return combined(fits, held_out_tests(fits), skipped)
