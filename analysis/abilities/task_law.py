"""The law of one task: the form chosen, the verdict, and predictions with chained intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.abilities.forms import FittedForm, Form, fit_form
from analysis.abilities.scores import at_chance, item_noise, seed_noise, title
from analysis.abilities.steps import LossStep
from analysis.abilities.trial import Trial, Tried, try_forms
from analysis.fitting.checks import check_level
from analysis.planning.quantity import Quantity
from analysis.validation.predictability import MIN_RUNS, predictability
from scaling.jsonable import finite

DRAWS = 4000
"""Draws of a predicted accuracy."""
_BOOTSTRAP = 200
"""Draws of the parameters of the form chosen."""

Code = Literal["predictable", "emerging", "at_chance", "unpredictable", "degenerate", "too_few"]


@dataclass(frozen=True)
class Alternative:
    """A form fitted to the scores of a task, how it did on held-out runs, and its loss."""

    fitted: FittedForm
    tried: Tried
    step: LossStep | None

    def predict(self, N: float, D: float) -> float:
        """Return the accuracy at N and D."""
        at: dict[str, Any] = {"N": N, "D": D, "C": 6.0 * N * D}
        if self.step is not None:
            at[self.step.column] = self.step.law.predict(N=N, D=D)
        return float(self.fitted.predict(at))

    def draws(self, N: float, D: float, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return `count` draws of the accuracy at N and D that the form gives."""
        at: dict[str, Any] = {"N": np.full(count, N), "D": np.full(count, D)}
        at["C"] = 6.0 * at["N"] * at["D"]
        if self.step is not None:
            at[self.step.column] = self.step.draws(N, D, count, rng)
        samples = self.fitted.result.samples
        params: Mapping[str, Any] = self.fitted.result.params
        if len(samples):
            picked = samples.iloc[rng.integers(0, len(samples), count)]
            params = {p: picked[p].to_numpy(float) for p in picked.columns}
        p = self.fitted.predict(at, params)
        return np.where(np.isfinite(p), p, self.predict(N, D))

    def unexplained(self, noise: float) -> float:
        """Return the standard deviation around the form, beyond `noise`: of held-out runs, and of
        those it was fitted to."""
        missed = self.tried.given_loss
        model = max(missed**2 - noise**2, 0) if np.isfinite(missed) else 0.0
        residuals = self.fitted.residuals
        freedom = max(len(residuals) - len(self.fitted.result.problem.free), 1)
        return (model + max(float(np.sum(residuals**2)) / freedom - noise**2, 0)) ** 0.5


def _shares(count: int, parts: int) -> list[int]:
    """Split a count into nearly equal parts."""
    return [count // parts + (k < count % parts) for k in range(parts)]


@dataclass(frozen=True, kw_only=True)
class TaskLaw:
    """What the scores of a ladder of runs say about one task at one number of shots."""

    task: str
    shots: int
    metric: str
    code: Code
    text: str
    """The verdict in plain words."""
    runs: int
    items: int
    """Items of a measurement."""
    chance: float
    best: float
    """Accuracy of the run with the most compute."""
    noise: float
    """Standard deviation of a score that no law can explain: over items, and over seeds as far as
    runs were repeated."""
    between_seeds: float = 0.0
    """The part of the noise that is between runs that differ in their seed only."""
    ceiling: float
    """The largest R2 that this noise allows."""
    trial: Trial | None = field(default=None, repr=False)
    fitted: FittedForm | None = field(default=None, repr=False)
    """The form chosen, with draws; None if there is none, as for a task at chance."""
    step: LossStep | None = field(default=None, repr=False)
    """The law of the loss that the form needs; None for a law of N and D."""
    alike: tuple[Alternative, ...] = field(default=(), repr=False)
    """Other forms, which held-out runs do not tell from it; they share in predictions."""

    @property
    def title(self) -> str:
        return title(self.task, self.shots)

    @property
    def predictable(self) -> bool:
        return self.code == "predictable"

    @property
    def form(self) -> str:
        """Name of the form chosen; empty if there is none."""
        return "" if self.fitted is None else self.fitted.form.name

    @property
    def chosen(self) -> Tried | None:
        return None if self.trial is None else self.trial.chosen

    @property
    def error(self) -> float:
        """Held-out error of the form from N and D; nan if there is none."""
        return np.nan if self.chosen is None else self.chosen.error

    @property
    def r2(self) -> float:
        """R2 of the second step over all runs; nan without a form."""
        return np.nan if self.fitted is None else self.fitted.r2

    @property
    def members(self) -> tuple[Alternative, ...]:
        """The form chosen and those alike, which weigh the same in a prediction."""
        if self.fitted is None or self.chosen is None:
            return ()
        return Alternative(self.fitted, self.chosen, self.step), *self.alike

    def predict(self, N: float, D: float) -> float:
        """Return the accuracy expected of a run of N parameters and D tokens: the mean over
        :attr:`members`; nan without a form."""
        if not self.members:
            return np.nan
        return float(np.mean([each.predict(N, D) for each in self.members]))

    def draws(self, N: float, D: float, *, items: int | None = None, seed: int = 0) -> np.ndarray:
        """Return draws of the accuracy that one new run of N parameters and D tokens will score.

        Each member of :attr:`members` makes an equal share of them: draws of the loss go through
        draws of the form, if it has any. What the form missed of held-out runs, the scatter of runs
        around it, and the noise over seeds and over `items` (those of the task) are added.
        """
        if not self.members:
            return np.full(DRAWS, np.nan)
        rng = np.random.default_rng(seed)
        n = items or self.items
        drawn = []
        for member, count in zip(self.members, _shares(DRAWS, len(self.members)), strict=True):
            p = member.draws(N, D, count, rng)
            item = np.sqrt((n * p + 1) * (n * (1 - p) + 1) / n) / (n + 2)  # not 0 at p = 0 or 1
            around = np.hypot(member.unexplained(self.noise), self.between_seeds)
            drawn.append(p + np.hypot(item, around) * rng.standard_normal(count))
        return np.clip(np.concatenate(drawn), 0.0, 1.0)

    def interval(
        self, N: float, D: float, level: float = 0.95, *, items: int | None = None
    ) -> Quantity:
        """Return the accuracy predicted for one new run, with the interval of its measurement."""
        check_level(level)
        centre = self.predict(N, D)
        if self.fitted is None:
            return Quantity(centre, np.nan, np.nan)
        ends = np.quantile(self.draws(N, D, items=items), [(1 - level) / 2, (1 + level) / 2])
        return Quantity(centre, min(float(ends[0]), centre), max(float(ends[1]), centre))

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = (
            "task", "shots", "metric", "code", "text", "runs", "items", "chance", "best", "noise",
            "form", "error", "r2",
        )  # fmt: skip
        out: dict[str, Any] = {name: getattr(self, name) for name in names}
        out["r2_ceiling"] = self.ceiling
        out["errors"] = {} if self.trial is None else self.trial.errors
        if self.fitted is not None:
            out["params"] = self.fitted.result.params
            out["ceiling_held"] = self.fitted.ceiling_held
            out["certificate"] = self.fitted.result.certificate.record()
        if self.chosen is not None:
            for name in ("given_loss", "constant", "skill", "skill_low"):
                out[name] = getattr(self.chosen, name)
        return finite(out)

    def __str__(self) -> str:
        return f"{self.title}: {self.text}"


def task_law(
    task: str,
    shots: int,
    rows: pd.DataFrame,
    steps: Mapping[str, LossStep | None],
    *,
    seed: int = 0,
) -> TaskLaw:
    """Choose the form of one task and judge whether it predicts larger runs.

    rows   its scores, one row per run.
    steps  laws of the losses that the forms may use, by column.
    """
    y = rows["value"].to_numpy(float)
    seeds = float(seed_noise(rows))
    noise = float(np.hypot(np.sqrt(np.mean(item_noise(rows) ** 2)), seeds))
    variance = float(y.var())
    about: dict[str, Any] = {
        "task": task,
        "shots": shots,
        "metric": str(rows["metric"].iloc[0]),
        "runs": len(rows),
        "items": int(rows["n"].median()),
        "chance": float(rows["chance"].iloc[0]),
        "best": float(rows.loc[rows["C"].idxmax(), "value"]),
        "noise": noise,
        "between_seeds": seeds,
        "ceiling": max(1 - noise**2 / variance, 0.0) if variance else 0.0,
    }
    if at_chance(rows):
        return TaskLaw(**about, code="at_chance", text=_chance_words(rows, about["chance"]))
    trial = try_forms(rows, steps)
    chosen = trial.chosen
    if chosen is None:
        return TaskLaw(**about, code="too_few", text=f"no form can be fitted to {len(rows)} runs")
    form = chosen.fitted.form
    fitted = fit_form(form, rows, bootstrap=_BOOTSTRAP, warm=chosen.fitted) or chosen.fitted
    step = _step(form, steps)
    code, text = _verdict(chosen, rows, seed)
    alike = tuple(
        Alternative(each.fitted, each, _step(each.fitted.form, steps))
        for each in trial.alike(noise)[1:]
    )
    return TaskLaw(
        **about, code=code, text=text, trial=trial, fitted=fitted, step=step, alike=alike
    )


def _step(form: Form, steps: Mapping[str, LossStep | None]) -> LossStep | None:
    """Return the law of the loss that a form needs; None for a law of N and D."""
    return None if form.loss is None else steps[form.loss]


def _chance_words(rows: pd.DataFrame, chance: float) -> str:
    best = rows.loc[rows["L"].idxmin()]
    return (
        f"at chance: the best run scores {best['value']:.3f} +- {best['stderr']:.3f}, guessing "
        f"{chance:.3g}"
    )


def _verdict(chosen: Tried, rows: pd.DataFrame, seed: int) -> tuple[Code, str]:
    """Return the verdict from the trial of the forms; if it is not that the task is predictable,
    :func:`analysis.predictability` says why."""
    fitted, form = chosen.fitted, chosen.fitted.form
    tested = (
        f"{form.name} misses larger runs by {chosen.error:.3f}, the best constant by "
        f"{chosen.constant:.3f}"
    )
    if len(rows) < MIN_RUNS:
        few = f"no verdict: {len(rows)} runs; {MIN_RUNS} are needed"
        return "too_few", f"{few}. {fitted.degenerate}".rstrip(". ")
    if fitted.degenerate:
        return "degenerate", f"not predictable: {fitted.degenerate}"
    if chosen.skilled:
        return "predictable", f"predictable: {tested} (skill at least {chosen.skill_low:.2f})"
    loss = form.loss or "L"
    chance = float(rows["chance"].iloc[0])
    judged = predictability(rows[["value", loss]], {"value": chance}, loss=loss, seed=seed)["value"]
    if judged.code == "emerging":
        return "emerging", "emerging: above chance in the best runs only, and not foretold"
    if judged.predictable:
        return "unpredictable", f"predictable from the loss, but not from N and D: {tested}"
    return "unpredictable", f"not predictable: {tested}"
