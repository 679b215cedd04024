"""The rules that a suite compares: which laws are fitted, how, and which of them predicts.

A new rule is one line in RULES.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import scipy

from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.held_out import HeldOut, held_out_tests
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import OPEN, determines
from analysis.laws import LawError
from analysis.validation.goodness import deviance
from analysis.validation.suite_cells import Cell, Predictive
from scaling.errors import ConfigError, TableError, did_you_mean

Selection = Literal["single", "aicc", "aicc_weights", "held_out", "median", "stacking"]

LAWS = ("chinchilla", "kaplan_ND", "bottleneck", "shared_exponent")
_DRAWS_OF_CHOICE = 200
"""Draws that decide whether runs determine a law with parameters that they leave open."""
_LEVEL = 0.9
"""Level of the interval from which the standard deviation of a prediction is taken."""
_NO_FIT = (FitError, TableError, LawError, FloatingPointError, np.linalg.LinAlgError)


@dataclass(frozen=True, kw_only=True)
class How:
    """How laws are fitted: options of :func:`analysis.fit`."""

    objective: str = "auto"
    delta: float | None = None
    on: str = "log"
    weights: str | None = None
    prior: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The options that differ from the defaults."""
        default = asdict(How())
        return {name: value for name, value in asdict(self).items() if value != default[name]}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A way to predict larger runs from smaller ones."""

    name: str
    laws: tuple[str, ...]
    how: How = How()
    selection: Selection = "single"

    @property
    def available(self) -> bool:
        """Whether this version can follow the rule."""
        if "auto" in self.laws:
            return importlib.util.find_spec("analysis.fitting.combination") is not None
        return self.how.prior is None or "prior" in inspect.signature(fit).parameters


WAYS: dict[str, How] = {
    "": How(),
    ":huber1e-3": How(objective="huber", delta=1e-3),
    ":ls": How(objective="ls"),
    ":lad": How(objective="lad"),
    ":raw": How(on="raw"),
    ":C": How(weights="C"),
    ":prior": How(prior="field"),
    ":prior+C": How(prior="field", weights="C"),
}
"""Fit rules by the ending that they give to a rule's name; '' is the default of `fit`."""

RULES: tuple[Rule, ...] = (
    Rule(name="power_C", laws=("power_C",)),
    *(Rule(name=law + end, laws=(law,), how=how) for end, how in WAYS.items() for law in LAWS),
    *(
        Rule(name=selection + end, laws=LAWS, how=WAYS[end], selection=selection)
        for end in ("", ":C", ":prior", ":prior+C")
        for selection in ("aicc", "aicc_weights", "held_out", "median", "stacking")
    ),
    Rule(name="auto", laws=("auto",)),
)
"""The rules by which defaults are chosen. `held_out` is the law that predicts the larger of the
runs fitted best, among those that the runs determine."""

BASELINE = "held_out"
"""The rule to which others are compared unless another is asked for."""


def rules_named(patterns: Sequence[str]) -> tuple[Rule, ...]:
    """Return the available rules whose names match one of the patterns, such as 'bottleneck*'.

    Raises ConfigError for a pattern that no rule matches.
    """
    known = [rule for rule in RULES if rule.available]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(rule.name, pattern) for rule in known):
            names = [rule.name for rule in known]
            raise ConfigError(
                f"no rule is called {pattern!r}.{did_you_mean(pattern, names)} "
                f"The rules: {', '.join(names)}."
            )
    return tuple(
        rule
        for rule in known
        if not patterns or any(fnmatch.fnmatchcase(rule.name, pattern) for pattern in patterns)
    )


class Fits:
    """Fits to the runs of one cell, each computed once for all rules."""

    def __init__(self, cell: Cell, bootstrap: int, seed: int) -> None:
        self.cell, self.bootstrap, self.seed = cell, bootstrap, seed
        self._fits: dict[tuple[str, How, int], Any] = {}
        self._tests: dict[tuple[tuple[str, ...], How], dict[str, HeldOut]] = {}

    def fit(self, law: str, how: How, bootstrap: int = 0) -> Any:
        """Return a fit, or raise the error of the first attempt."""
        key = (law, how, bootstrap)
        if key not in self._fits:
            warm = self._fits.get((law, how, 0), self._fits.get((law, How(), 0)))
            warm = {"warm": warm} if isinstance(warm, FitResult) else {}
            try:
                self._fits[key] = fit(
                    law,
                    self.cell.below,
                    bootstrap=bootstrap,
                    seed=self.seed,
                    **how.arguments,
                    **warm,
                )
            except _NO_FIT as error:
                self._fits[key] = error
        found = self._fits[key]
        if isinstance(found, Exception):
            raise found
        return found

    def fits(self, rule: Rule) -> dict[str, FitResult]:
        """Return the laws of a rule that can be fitted. Raises FitError if none can."""
        found, errors = {}, []
        for law in rule.laws:
            try:
                found[law] = self.fit(law, rule.how)
            except _NO_FIT as error:
                errors.append(error)
        if not found:
            raise errors[0]
        return found

    def tests(self, rule: Rule) -> dict[str, HeldOut]:
        """Return the tests of a rule's laws on the larger of the runs fitted."""
        key = (rule.laws, rule.how)
        if key not in self._tests:
            self._tests[key] = held_out_tests(self.fits(rule))
        return self._tests[key]


def predict(rule: Rule, fits: Fits) -> Predictive:
    """Return the prediction of the larger runs by a rule. Raises FitError if it has none."""
    weights = {law: w for law, w in _SELECT[rule.selection](rule, fits).items() if w > 1e-6}
    runs = fits.cell.above
    means, scales = [], []
    for law in weights:
        result = fits.fit(law, rule.how, fits.bootstrap)
        x = {name: runs[name].to_numpy(float) for name in _inputs(result)}
        with np.errstate(all="ignore"):
            means.append(np.log(result.predict(**x)))
            low, high = result.predict_interval(_LEVEL, noise=True, **x)
            width = np.log(high) - np.log(low)
        scales.append(width / (2 * scipy.special.ndtri((1 + _LEVEL) / 2)))
    share = np.array(list(weights.values()))
    share = share / share.sum()
    logs = np.array(means)
    centre = np.median(logs, axis=0) if rule.selection == "median" else share @ logs
    if not np.isfinite(centre).all():
        raise FitError(f"{' and '.join(weights)} predict no finite loss")
    carry = sorted((law for law in weights if weights[law] >= 0.005), key=lambda law: -weights[law])
    return Predictive(
        law="+".join(carry), centre=centre, weights=share, means=logs, scales=np.array(scales)
    )


def _inputs(result: Any) -> tuple[str, ...]:
    """Return the inputs of a fit; a combination of laws takes N and D."""
    return result.law.inputs if isinstance(result, FitResult) else ("N", "D")


def _single(rule: Rule, fits: Fits) -> dict[str, float]:
    fits.fit(rule.laws[0], rule.how, fits.bootstrap)
    return {rule.laws[0]: 1.0}


def _median(rule: Rule, fits: Fits) -> dict[str, float]:
    return dict.fromkeys(fits.fits(rule), 1.0)


def _aicc(rule: Rule, fits: Fits) -> dict[str, float]:
    weights = _aicc_weights(rule, fits)
    return {max(weights, key=weights.__getitem__): 1.0}


def _aicc_weights(rule: Rule, fits: Fits) -> dict[str, float]:
    """Return exp(-AICc / 2) of each law, over the largest; equal weights with too few runs."""
    found = {}
    for law, result in fits.fits(rule).items():
        n, k = result.problem.units(), result.problem.q + 1
        if n > k + 1:
            found[law] = n * deviance(result) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    if not found:
        return _median(rule, fits)
    least = min(found.values())
    return {law: float(np.exp((least - aicc) / 2)) for law, aicc in found.items()}


def _held_out(rule: Rule, fits: Fits) -> dict[str, float]:
    """Return the law with the least held-out error among those that the runs determine.

    If the runs are too few to hold any out, AICc decides; if they determine none, all are
    candidates.
    """
    found, tests = fits.fits(rule), fits.tests(rule)
    if not next(iter(tests.values())).cuts:
        weights = _aicc_weights(rule, fits)
        order = sorted(weights, key=lambda law: -weights[law])
    else:
        order = sorted(found, key=lambda law: (tests[law].error, len(found[law].law.params)))
    for law in order:
        result = found[law]
        if {line.code for line in result.status} & set(OPEN):
            result = fits.fit(law, rule.how, _DRAWS_OF_CHOICE)
        if determines(result):
            return {law: 1.0}
    return {order[0]: 1.0}


def _stacking(rule: Rule, fits: Fits) -> dict[str, float]:
    """Return the weights with which the mean of ln L over the laws predicts the larger of the runs
    fitted best; equal ones if these are too few to hold any out.

    Each cut-off counts the same.
    """
    tests = fits.tests(rule)
    cuts = next(iter(tests.values())).cuts
    if not cuts:
        return _median(rule, fits)
    errors = np.concatenate([
        np.column_stack([test.errors[cut] for test in tests.values()])
        / np.sqrt(len(next(iter(tests.values())).errors[cut]))
        for cut in cuts
    ])  # fmt: skip
    strong = 1e3 * max(float(np.abs(errors).max()), 1e-12)  # holds the sum of weights at one
    design = np.vstack([errors, np.full(errors.shape[1], strong)])
    weights, _ = scipy.optimize.nnls(design, np.append(np.zeros(len(errors)), strong))
    return dict(zip(tests, weights, strict=True)) if weights.sum() > 0 else _median(rule, fits)


_SELECT: Mapping[str, Callable[[Rule, Fits], dict[str, float]]] = {
    "single": _single,
    "aicc": _aicc,
    "aicc_weights": _aicc_weights,
    "held_out": _held_out,
    "median": _median,
    "stacking": _stacking,
}
"""{selection: weights of the laws of a rule, given its fits}."""


def predictions_of(
    cell: Cell, rules: Sequence[Rule], *, bootstrap: int, seed: int
) -> dict[Rule, Predictive | str]:
    """Return the prediction of each rule for a cell, or the reason why it has none."""
    fits = Fits(cell, bootstrap, seed)
    found: dict[Rule, Predictive | str] = {}
    for rule in rules:
        try:
            found[rule] = predict(rule, fits)
        except _NO_FIT as error:
            found[rule] = str(error)
    return found


__all__ = ["BASELINE", "RULES", "How", "Rule", "predictions_of", "rules_named"]
