"""Forms of the accuracy on one task: fitted to some runs, they predict others.

A form of the loss needs the loss of the runs that it predicts; a form of N and D does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.laws import (
    Law,
    LawError,
    accuracy_C,
    accuracy_ND,
    accuracy_of_loss,
    downstream_error,
)
from scaling.errors import TableError

_TINY = 1e-9
"""Level of guessing of tasks whose answer cannot be guessed."""
_RISE = 2.197
"""The sigmoid rises from 10 % to 90 % of its height within this over k on both sides of L_half."""
_INSIDE = 3
"""Runs within that rise that make a slope more than a guess."""


@dataclass(frozen=True)
class Form:
    """A law of the accuracy and the columns that it needs."""

    name: str
    law: Law
    loss: str | None
    """The column with the loss: L, that of the test text, or nll, that of the right answers of the
    task. None for a law of N and D."""
    source: str

    @property
    def steps(self) -> int:
        """Laws in a row that take N and D to the accuracy."""
        return 1 if self.loss is None else 2


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("sigmoid of task loss", accuracy_of_loss, "nll", "Bhagia et al. 2024"),
        Form("sigmoid of L", accuracy_of_loss, "L", "Bhagia et al. 2024, with the test loss"),
        Form("exponential of L", downstream_error, "L", "Gadre et al. 2024"),
        Form("log accuracy in C", accuracy_C, None, "arXiv 2512.08894"),
        Form("log accuracy in N and D", accuracy_ND, None, "arXiv 2512.08894"),
    )
}
"""Every form by name. The level of guessing is held in all of them: the last two describe the share
of what is above it."""


@dataclass(frozen=True)
class FittedForm:
    """A form fitted to the scores of some runs on one task."""

    form: Form
    result: FitResult = field(repr=False)
    chance: float
    ceiling_held: bool = False
    """Whether the ceiling is held at 1, as the scores do not determine it."""

    def predict(
        self, columns: Mapping[str, Any], params: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Return the accuracy at columns (the loss of the form, or N and D); nan if out of range.

        params  draws of the parameters instead of the fitted ones.
        """
        law = self.form.law
        at = {name: columns[self.form.loss or name] for name in law.inputs}
        with np.errstate(all="ignore"):
            y = np.asarray(law.predict(params or self.result.params, **at), float)
        if law.target == "error":
            y = 1 - y
        elif self.form.loss is None:
            y = self.chance + (1 - self.chance) * y
        return np.clip(y, 0.0, 1.0)

    @property
    def residuals(self) -> np.ndarray:
        """Measured minus fitted accuracy of each run."""
        runs = self.result.runs
        return runs["value"].to_numpy(float) - self.predict(runs)

    @property
    def r2(self) -> float:
        """The share of the variance among the runs that the form explains."""
        y = self.result.runs["value"].to_numpy(float)
        spread = float(np.sum((y - y.mean()) ** 2))
        return 1 - float(np.sum(self.residuals**2)) / spread if spread else np.nan

    @property
    def degenerate(self) -> str:
        """Why the fit cannot be trusted beyond the runs; empty if there is no sign of it."""
        params, found = self.result.params, self.result.certificate
        if self.form.law is accuracy_of_loss:
            x = self.result.runs[self.form.loss].to_numpy(float)
            half, k = params["L_half"], params["k"]
            inside = int(np.sum(np.abs(x - half) < _RISE / k))
            if inside < _INSIDE and x.min() < half < x.max():
                number = f"{inside} of {len(x)} runs {'lies' if inside == 1 else 'lie'} within it"
                return f"degenerate fit: a step of slope k = {k:.3g} per nat; {number}"
        loose = [p for p in (*found.undetermined, *found.at_bound) if p in self.result.problem.free]
        if loose:
            return f"degenerate fit: these runs do not determine {', '.join(dict.fromkeys(loose))}"
        return ""

    @property
    def certificate(self) -> str:
        """The evidence about the minimum in a few words."""
        found = self.result.certificate
        words = f"minimum reached from {found.share:.0%} of {found.starts} starts"
        return words if found.gap is None else f"{words}, the next {found.gap:.2g} higher"


def fit_form(
    form: Form, rows: pd.DataFrame, *, bootstrap: int = 0, warm: FittedForm | None = None
) -> FittedForm | None:
    """Fit a form to the scores of one task; None if these runs do not allow it.

    warm  An earlier fit of the form, which saves time.
    """
    chance = float(rows["chance"].iloc[0])
    if form.loss is not None:
        rows = rows.assign(L=rows[form.loss]) if form.loss != "L" else rows
    above = (rows["value"] - chance) / (1 - chance)
    share = above if form.loss is None else rows["value"]
    rows = rows.assign(accuracy=share, error=1 - rows["value"])
    if form.law is accuracy_of_loss:
        return _sigmoid(form, rows, max(chance, _TINY), bootstrap, warm)
    fixed = {"eps": 1 - chance} if form.law is downstream_error else {}
    result = _fit(form, rows, fixed, bootstrap, warm)
    return None if result is None else FittedForm(form, result, chance)


def _sigmoid(
    form: Form, rows: pd.DataFrame, chance: float, bootstrap: int, warm: FittedForm | None
) -> FittedForm | None:
    """Fit the sigmoid with a free ceiling, or with one held at 1 if the runs do not determine it or
    ask for more."""
    if warm is None or not warm.ceiling_held:
        result = _fit(form, rows, {"floor": chance}, bootstrap, warm)
        if result is not None and _sound(result):
            return FittedForm(form, result, chance)
        warm = None
    result = _fit(form, rows, {"floor": chance, "ceiling": 1.0}, bootstrap, warm)
    return None if result is None else FittedForm(form, result, chance, ceiling_held=True)


def _sound(result: FitResult) -> bool:
    found = result.certificate
    loose = {*found.undetermined, *found.not_identified, *found.at_bound}
    return "ceiling" not in loose and result.params["ceiling"] <= 1


def _fit(
    form: Form,
    rows: pd.DataFrame,
    fixed: Mapping[str, float],
    bootstrap: int,
    warm: FittedForm | None,
) -> FitResult | None:
    earlier = None
    if warm is not None and set(warm.result.problem.free) == set(form.law.params) - set(fixed):
        earlier = warm.result
    try:
        return fit(
            form.law, rows, on="raw", fixed=fixed, bootstrap=bootstrap, cluster=None, warm=earlier
        )
    except (FitError, TableError, LawError):
        return None
