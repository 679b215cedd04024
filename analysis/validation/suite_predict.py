"""The predictions of the rules of a suite: which laws predict a cell's larger runs, and what."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from analysis.fitting.checks import FitError
from analysis.fitting.combination import fit_or_combine as fit
from analysis.fitting.held_out import HeldOut, held_out_tests
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import OPEN, determines
from analysis.laws import LawError
from analysis.validation.goodness import deviance
from analysis.validation.suite_cells import Cell, Predictive, scores
from analysis.validation.suite_rules import How, Rule
from scaling.errors import TableError

_DRAWS_OF_CHOICE = 200
"""Draws that decide whether runs determine a law with parameters that they leave open."""
_LEVEL = 0.9
"""Level of the interval from which the standard deviation of a prediction is taken."""
_NO_FIT = (FitError, TableError, LawError, FloatingPointError, np.linalg.LinAlgError)


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
            options: dict[str, Any] = {"bootstrap": bootstrap, "seed": self.seed, **how.arguments}
            warm = self._fits.get((law, how, 0), self._fits.get((law, How(), 0)))
            if isinstance(warm, FitResult):
                options["warm"] = warm
            try:
                self._fits[key] = fit(law, self.cell.below, **options)
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


def score(
    cell: Cell, rules: Sequence[Rule], *, level: float, bootstrap: int, seed: int
) -> dict[Rule, dict[str, Any] | str]:
    """Return the law and the scores of each rule in a cell, or the reason why it has no fit."""
    fits = Fits(cell, bootstrap, seed)
    found: dict[Rule, dict[str, Any] | str] = {}
    L = cell.above["L"].to_numpy(float)
    for rule in rules:
        try:
            predictive = predict(rule, fits)
        except _NO_FIT as error:
            found[rule] = str(error)
        else:
            found[rule] = {"law": predictive.law} | scores(predictive, L, level)
    return found


def one_thread() -> None:
    """Keep the linear algebra of a worker to one thread, where threadpoolctl is installed."""
    if importlib.util.find_spec("threadpoolctl") is not None:
        importlib.import_module("threadpoolctl").threadpool_limits(1)
