"""A trial of the forms: fitted to the smaller runs, they predict the accuracy of the larger ones
from N and D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.abilities.forms import FORMS, FittedForm, Form, fit_form
from analysis.abilities.steps import LossStep, product, shared_cuts
from analysis.fitting.held_out import rms

_ALIKE = 1.15
"""Errors within this factor of the least one count as equal: then the form that comes first in
FORMS is taken, whose loss is closest to the task."""
_DRAWS = 2000
"""Number of bootstrap draws of the runs held out."""
_USEFUL = 0.1
"""Least skill of a form that is worth its name, with that confidence."""
_CONFIDENCE = 0.95
"""One-sided confidence that a form beats the best constant."""


@dataclass(frozen=True)
class Tried:
    """One form, and how well it predicted the larger runs."""

    fitted: FittedForm
    """The form fitted to all runs."""
    error: float
    """Held-out error: the rms of measured minus predicted accuracy from N and D, averaged over the
    cut-offs; nan without any."""
    given_loss: float
    """The same error if the loss of the larger runs is known: that of the second step alone."""
    constant: float
    """The held-out error of the best constant: the level of guessing, or the mean or the latest
    fifth of the smaller runs."""
    skill: float
    """1 - (error / that of the best constant)^2, over all runs held out: 1 is perfect, 0 no better
    than the constant."""
    skill_low: float
    """Lower end of its one-sided 95 % interval, by a bootstrap over runs."""

    @property
    def skilled(self) -> bool:
        """Whether the form is better than every constant on larger runs, and not by noise."""
        return self.skill_low > _USEFUL


@dataclass(frozen=True)
class Trial:
    """All forms that could be fitted to a task."""

    tried: Mapping[str, Tried] = field(repr=False)
    chosen: Tried | None
    """The form with the least held-out error among those whose fit is not degenerate."""

    def alike(self, noise: float) -> list[Tried]:
        """Return the forms that held-out runs do not tell from the chosen one: their errors exceed
        the least by no more than `noise`, the standard deviation of a score, in quadrature."""
        if self.chosen is None:
            return []
        tested = [each for each in _sound(self.tried).values() if np.isfinite(each.error)]
        least = min((each.error for each in tested), default=np.nan)
        others = [each for each in tested if each.error <= np.hypot(least, noise)]
        return [self.chosen, *(each for each in others if each is not self.chosen)]

    @property
    def errors(self) -> dict[str, float]:
        """Held-out error by form."""
        return {name: each.error for name, each in self.tried.items()}


def try_forms(
    rows: pd.DataFrame,
    steps: Mapping[str, LossStep | None],
    *,
    forms: Sequence[Form] = tuple(FORMS.values()),
) -> Trial:
    """Fit every form to the scores of a task, and test it on held-out larger runs.

    rows   scores of one task, one row per run.
    steps  the laws of the losses L and nll at N and D, fitted to these rows.
    """
    cuts = shared_cuts(rows, steps)
    tried = {}
    for form in forms:
        if form.loss is not None and steps.get(form.loss) is None:
            continue
        fitted = fit_form(form, rows)
        if fitted is not None:
            step = None if form.loss is None else steps[form.loss]
            tried[form.name] = _tried(fitted, rows, step, cuts)
    return Trial(tried, _choice(tried))


def _tried(
    fitted: FittedForm, rows: pd.DataFrame, step: LossStep | None, cuts: Sequence[float]
) -> Tried:
    """Refit a form below each cut-off, and compare its predictions above with the scores."""
    errors, known, squares = [], [], []
    size = product(rows)
    for cut in cuts:
        seen, held = rows[size <= cut], rows[size > cut]
        below = fit_form(fitted.form, seen, warm=fitted) if len(seen) > 3 else None
        if below is None:
            continue
        at: dict[str, np.ndarray | pd.Series] = {name: held[name] for name in ("N", "D", "C")}
        y = held["value"].to_numpy(float)
        if step is not None:
            at[step.column] = step.held_out(cut).reindex(held.index).to_numpy(float)
            known.append(rms(y - below.predict({step.column: held[step.column]})))
        off = y - below.predict(at)
        if np.isfinite(off).all():
            errors.append(rms(off))
            columns = [off, *(y - value for value in _constants(seen))]
            squares.append(pd.DataFrame(np.transpose(columns) ** 2, held.index))
    if not errors:
        return Tried(fitted, np.nan, np.nan, np.nan, np.nan, np.nan)
    error = float(np.mean(errors))
    given = float(np.mean(known)) if known else error
    constant = np.mean([np.sqrt(each.mean()[1:]) for each in squares], axis=0).min()
    by_run = pd.concat(squares).groupby(level=0).mean().to_numpy()
    return Tried(fitted, error, given, float(constant), *_skill(by_run))


def _skill(squares: np.ndarray) -> tuple[float, float]:
    """Return the skill and the lower end of its interval, from squared errors: a row for each run
    held out, a column for the form and one for each constant."""
    drawn = np.random.default_rng(0).integers(0, len(squares), (_DRAWS, len(squares)))
    draws = np.vstack([squares.mean(axis=0)[None], squares[drawn].mean(axis=1)])
    skills = 1 - draws[:, 0] / np.maximum(draws[:, 1:].min(axis=1), 1e-300)
    return float(skills[0]), float(np.quantile(skills[1:], 1 - _CONFIDENCE))


def _constants(seen: pd.DataFrame) -> tuple[float, ...]:
    """Return the constants that a form must beat."""
    y = seen.sort_values("C", kind="stable")["value"].to_numpy(float)
    latest = y[-max(3, len(y) // 5) :]
    return float(seen["chance"].iloc[0]), float(y.mean()), float(latest.mean())


def _choice(tried: Mapping[str, Tried]) -> Tried | None:
    """Return the form to use; None if none could be fitted."""
    if not tried:
        return None
    tested = [each for each in _sound(tried).values() if np.isfinite(each.error)]
    if not tested:
        return next(iter(_sound(tried).values()))
    least = min(each.error for each in tested)
    return next(each for each in tested if each.error <= _ALIKE * least)


def _sound(tried: Mapping[str, Tried]) -> Mapping[str, Tried]:
    """Return the forms whose fit is not degenerate; all of them if every one is."""
    return {n: each for n, each in tried.items() if not each.fitted.degenerate} or tried
