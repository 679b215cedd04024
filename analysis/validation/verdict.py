"""The verdict on a law: objections from its own fit and backtest, and comparisons with rivals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from analysis import laws as known
from analysis.fitting.reference import matters
from analysis.fitting.result import FitResult
from analysis.fitting.status import CONVERGED
from analysis.laws import Law
from analysis.validation.goodness import curvature, lack_of_fit

_NARROW = 1.0
"""An exponent is poorly determined if its input (N, D, C, ...) spans fewer decades than this."""
_NOT_SIZES = ("L", "bits_per_byte", "error")
"""Inputs that need not span decades: all losses of language models lie within one decade."""
PURE_POWERS = (known.kaplan_N, known.kaplan_D, known.kaplan_C)
"""Published laws of one input without a floor: A / x^alpha in other parameters."""


def objections_to(whole: FitResult, backtest: pd.DataFrame, level: float) -> Iterator[str]:
    """Yield the evidence against the law from its own fit and backtest."""
    law, c = whole.law, whole.certificate
    for name in law.inputs:
        decades = float(np.log10(whole.runs[name].max() / whole.runs[name].min()))
        if decades < _NARROW and name not in _NOT_SIZES:
            purpose = "tell an exponent from a floor" if "E" in law.params else "know an exponent"
            yield f"{name} spans {decades:.2g} decades: too narrow to {purpose}"
    # A law with a floor claims the floor; a scale far from the data is open at no cost.
    if c.not_identified and ("E" in c.not_identified or matters(whole)):
        yield f"the data do not determine {', '.join(c.not_identified)}"
    if CONVERGED not in whole.status:
        yield "the fit did not converge"
    if c.wrong_sign:
        yield f"wrong sign of {', '.join(c.wrong_sign)}"
    p = lack_of_fit(whole)
    if p < 0.001:
        yield f"residuals follow the inputs (p = {p:.1g}): the form is wrong somewhere"
    if not len(backtest):
        yield "too few runs to hold any out"
    elif backtest["coverage"].notna().any():
        covered = float(np.average(backtest["coverage"], weights=backtest["n_held"]))
        noise = 2 * np.sqrt(level * (1 - level) / backtest["runs_held"].max())
        # Errors of one fit's predictions are correlated, so only a clear shortfall counts.
        if covered < level - 0.1 - noise:
            wider = float(np.median(backtest["inflation"]))
            yield (
                f"{100 * level:g} % intervals cover {100 * covered:.0f} % of larger runs: widen "
                f"them {wider:.2g} times when extrapolating"
            )


def compare_with_rivals(compared: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return objections from laws that both fit and predict better, and notes on mixed evidence."""
    objections, notes = [], []
    own = compared.iloc[0]
    for name, row in compared.iloc[1:].iterrows():
        aicc, held = row.get("aicc"), row.get("held_out")
        if pd.isna(aicc) or pd.isna(held):
            continue
        better_fit = aicc < own["aicc"] - 4
        better_held = held < 0.9 * own["held_out"]
        if better_fit and better_held:
            objections.append(
                f"{name} fits better (AICc {own['aicc'] - aicc:.3g} lower) and predicts "
                f"better ({100 * held:.2g} % against {100 * own['held_out']:.2g} %)"
            )
        elif better_fit or better_held:
            notes.append(
                f"{name} {'fits' if better_fit else 'predicts larger runs'} better but does "
                f"not {'predict larger runs' if better_fit else 'fit'} better: undetermined"
            )
    return objections, notes


def floor_note(whole: FitResult, names: Mapping[Law, str], compared: pd.DataFrame) -> list[str]:
    """Test for a floor in a law of one input: AICc and the curvature test, side by side."""
    law = whole.law
    if len(law.inputs) != 1 or law.target != "L":
        return []
    x = law.inputs[0]
    pure = next((name for each, name in names.items() if _is_pure_power(each)), None)
    floor = names.get(known.floor(x))
    if pure is None or floor is None:
        return []
    gain = float(compared["aicc"][pure] - compared["aicc"][floor])
    t, p = curvature(whole.problem.columns[x], whole.problem.target, whole.problem.groups)
    by_aicc, by_test = gain > 2, t > 0 and p < 0.05
    word = "undetermined"
    if by_aicc == by_test:
        word = "supported" if by_aicc else "not supported"
    curved = f"curvature t = {t:.2g} (p = {p:.2g})" if np.isfinite(t) else "curvature is not known"
    return [f"a floor is {word}: AICc gains {gain:.3g}, {curved}"]


def _is_pure_power(law: Law) -> bool:
    return law in PURE_POWERS or law == known.power(law.inputs[0])
