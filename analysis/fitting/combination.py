"""The default law of N and D: one flexible form, fitted in two ways and chosen by a backtest.

:func:`analysis.laws.bottleneck` contains the other common laws of N and D: Chinchilla's (k = 1),
Kaplan's (no floor, k = 1 / beta), Kaplan's with a floor, and that of one shared exponent. So what a
choice of laws decides elsewhere is decided here by how the form is fitted:

* with the prior of the field, and rows weighted by C: best for few runs, and for models and data of
  the usual kinds;
* without a prior, and rows weighted by the root of C: best where the runs are many, or unlike those
  that the prior comes from.

Both are refitted to the smaller runs and predict the larger ones. The predicted loss is their
geometric mean, weighted by how well each predicted (stacking); draws of both, in proportion to the
weights, give the intervals of what follows from it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy

from analysis.arguments import expect_law_and_runs
from analysis.fitting.checks import FitError, check_level
from analysis.fitting.fit import IntervalMethod, fit, with_draws
from analysis.fitting.held_out import HeldOut, held_out_tests
from analysis.fitting.result import FitResult
from analysis.fitting.slow_term import slow_term
from analysis.laws import Law, bottleneck
from scaling.errors import TableError
from scaling.jsonable import finite

AUTO = "auto"
"""The name of the combined fit."""

MEMBERS: dict[str, dict[str, Any]] = {
    "bottleneck with prior": {"prior": "field", "weights": "C"},
    "bottleneck": {"weights": "C^0.5"},
}
"""The fits that are combined, by name, with the options of each."""

SHARPNESS = 2.0
"""Weights are proportional to the held-out error to minus this power."""
HANDICAP = 1.4
"""The held-out error of a fit with a prior counts this many times: where both predict about as
well, the runs themselves decide."""
_LEAST_ERROR = 1e-3
"""Held-out errors below this count as equal: they are noise."""

_FEWEST = 200
"""Least number of draws of each fit: its interval needs them, whatever its weight."""

Kind = Literal["statistical", "extrapolation"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Combination(FitResult):
    """Several fits to one table. As a FitResult it has the parameters of the fit of the largest
    weight, and draws from all of them."""

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
        """What the fit is called."""
        return AUTO

    @property
    def lead(self) -> str:
        """Name of the fit of the largest weight, whose parameters are shown."""
        return next(iter(self.laws))

    @property
    def errors(self) -> dict[str, float]:
        """{name: rms error of ln L on held-out larger runs}; nan if the runs are too few."""
        return {name: test.error for name, test in self.tests.items()}

    @functools.cached_property
    def test(self) -> HeldOut:
        """The test of the combined prediction on held-out larger runs."""
        lead = self.tests[self.lead]
        parts = [(w, self.tests[name]) for name, w in self.weights.items()]
        return HeldOut(
            errors={cut: np.sum([w * t.errors[cut] for w, t in parts], 0) for cut in lead.cuts},
            expected={cut: np.sum([w * t.expected[cut] for w, t in parts], 0) for cut in lead.cuts},
            sizes=lead.sizes,
            cuts=lead.cuts,
        )

    def predict(self, **columns: Any) -> np.ndarray:
        """Return the loss in nats per token at N and D (numbers or arrays that broadcast): the
        weighted geometric mean of the fits. Raises LawError for a missing or unknown column."""
        logs = [w * np.log(self.laws[name].predict(**columns)) for name, w in self.weights.items()]
        return np.exp(np.sum(logs, axis=0))

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
        below, above = 0.0, 0.0  # the errors of fits to the same runs go together
        with np.errstate(all="ignore"):
            for name, weight in self.weights.items():
                own = self.laws[name].predict(**columns)
                ends = self.laws[name].predict_interval(level, noise=noise, **columns)
                below = below + weight * np.log(own / ends[0])
                above = above + weight * np.log(ends[1] / own)
            if kind == "extrapolation":
                extra = scipy.special.ndtri((1 + level) / 2) * self.model_error(**columns)
                below, above = np.hypot(below, extra), np.hypot(above, extra)
        centre = self.predict(**columns)
        return centre * np.exp(-below), centre * np.exp(above)

    def model_error(self, **columns: Any) -> np.ndarray:
        """Return the standard deviation of ln L at N and D because no law is exactly right.

        It adds, in squares, the disagreement of the fits; the error of the combined prediction on
        held-out larger runs as far as noise does not explain it, in proportion to how much further
        than those runs the prediction reaches; and a slow term of the loss that no fit can see
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
        test, tested = self.test, 0.0
        if test.cuts:
            largest = np.max(self.problem.columns["N"] * self.problem.columns["D"])
            beyond = np.log(flat["N"] * flat["D"] / largest)
            tested = BACKTEST_FACTOR * test.excess * np.maximum(1.0, beyond / test.distance)
        lead = self.laws[self.lead]
        slow = SLOW_FACTOR * slow_term(lead.problem, lead.minimum, flat)
        return np.sqrt(apart + tested**2 + slow**2).reshape(shape)

    @property
    def answer(self) -> Law:
        """The combined prediction as a law without free parameters."""
        function = lambda N, D: self.predict(N=N, D=D)  # noqa: E731
        return Law(name=AUTO, function=function, inputs=("N", "D"), ranges={})

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


BACKTEST_FACTOR = 1.3
"""Factor from the error on held-out runs to the standard deviation of the model's error, chosen
with the suite."""
SLOW_FACTOR = 0.6
"""Factor from the largest error by a slow term to its standard deviation: an interval of 90 % then
just covers the largest."""


def fit_members(
    runs: pd.DataFrame, *, seed: int = 0, **options: Any
) -> tuple[dict[str, FitResult], dict[str, str]]:
    """Return the fits of MEMBERS by name, without draws, and why others could not be fitted.

    Raises the error of the first if none can be fitted.
    """
    fits: dict[str, FitResult] = {}
    skipped: dict[str, str] = {}
    first: Exception | None = None
    for name, own in MEMBERS.items():
        try:
            settings: dict[str, Any] = {**options, "bootstrap": 0, **own}
            fits[name] = fit(bottleneck, runs, seed=seed, **settings)
        except (FitError, TableError) as error:
            first = first or error
            skipped[name] = str(error)
    if first is not None and not fits:
        raise first
    return fits, skipped


def combined(
    fits: Mapping[str, FitResult],
    tests: Mapping[str, HeldOut],
    skipped: Mapping[str, str],
    *,
    bootstrap: int,
    intervals: IntervalMethod = "auto",
    seed: int = 0,
) -> Combination:
    """Combine the fits of `fit_members`, weighted by their held-out errors, and add their draws."""
    weights = _weights(fits, tests)
    drawn = {
        name: with_draws(
            fits[name],
            min(bootstrap, max(_FEWEST, round(bootstrap * weight))),
            intervals=intervals,
            seed=seed,
        )
        for name, weight in weights.items()
    }
    lead = next(iter(drawn.values()))
    own = {f.name: getattr(lead, f.name) for f in fields(FitResult)}
    return Combination(
        **own | {"samples": _mixed(drawn, weights, bootstrap)},
        laws=drawn,
        weights=weights,
        tests={name: tests[name] for name in weights},
        skipped=dict(skipped),
    )


def _weights(fits: Mapping[str, FitResult], tests: Mapping[str, HeldOut]) -> dict[str, float]:
    """Return the weight of each fit, the largest first; equal ones without held-out runs."""
    raw = {}
    for name, result in fits.items():
        error = max(tests[name].error, _LEAST_ERROR)
        if result.problem.penalty is not None:
            error *= HANDICAP
        raw[name] = 1.0 if np.isnan(tests[name].error) else error**-SHARPNESS
    total = sum(raw.values())
    return {name: raw[name] / total for name in sorted(raw, key=lambda name: -raw[name])}


def _mixed(fits: Mapping[str, FitResult], weights: Mapping[str, float], count: int) -> pd.DataFrame:
    """Return `count` draws from the fits in proportion to their weights."""
    parts, taken = [], 0.0
    for name, weight in weights.items():
        ends = round(count * taken), round(count * min(taken + weight, 1.0))
        taken += weight
        parts.append(fits[name].samples.iloc[: ends[1] - ends[0]])
    return pd.concat(parts, ignore_index=True)


def combine(
    runs: pd.DataFrame, *, bootstrap: int = 1000, seed: int = 0, **options: Any
) -> Combination:
    """Fit, test and combine the members; runs need columns N, D and L.

    Raises FitError or TableError if none can be fitted.
    """
    fits, skipped = fit_members(runs, seed=seed, **options)
    tests = held_out_tests(fits)
    intervals = options.get("intervals", "auto")
    return combined(fits, tests, skipped, bootstrap=bootstrap, intervals=intervals, seed=seed)


@functools.wraps(fit)
def fit_or_combine(law: Law | str, runs: pd.DataFrame, **options: Any) -> FitResult:
    """Fit a law, or the combination called 'auto'; see :func:`analysis.fitting.fit.fit`."""
    if not isinstance(law, str) or law != AUTO:
        return fit(law, runs, **options)
    expect_law_and_runs("fit", law, runs)
    for name in ("fixed", "weights", "prior", "warm"):
        if options.pop(name, None) is not None:
            raise FitError(f"{name} is for one law; {AUTO} chooses it. Name a law instead.")
    return combine(runs, **options)
