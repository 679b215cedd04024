"""Laws of all tasks of a results folder, and the accuracies that they predict for a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.abilities.scores import (
    at_chance,
    by_task,
    is_accuracy,
    load_scores,
    one_context,
    title,
)
from analysis.abilities.steps import LossStep, loss_step
from analysis.abilities.task_law import TaskLaw, task_law
from analysis.fitting.checks import check_level
from analysis.in_words import aligned, interval
from analysis.planning.quantity import Quantity
from scaling import progress, units
from scaling.errors import ConfigError, TableError
from scaling.jsonable import finite
from scaling.table import sensible


@dataclass(frozen=True)
class Abilities(Sequence[TaskLaw]):
    """The laws of the tasks of a results folder, one for each task and number of shots."""

    laws: tuple[TaskLaw, ...]
    other: tuple[str, ...] = ()
    """Tasks without an accuracy, such as the loss of repeated text, which have no law here."""

    def __len__(self) -> int:
        return len(self.laws)

    def __getitem__(self, index: Any) -> Any:
        """Return the law at a position, or of the task with this name or title."""
        if isinstance(index, str):
            return next(each for each in self.laws if index in (each.title, each.task))
        return self.laws[index]

    def predict(self, N: float, D: float, level: float = 0.95) -> AbilityPrediction:
        """Predict the accuracy of a run of N parameters and D tokens on the predictable tasks."""
        check_level(level)
        for name, value in (("N", N), ("D", D)):
            if not sensible(value) or value < 1:
                raise ConfigError(f"{name}={value} must be a number of at least 1.")
        found = {
            each.title: each.interval(float(N), float(D), level)
            for each in self.laws
            if each.predictable
        }
        return AbilityPrediction(
            N=float(N), D=float(D), level=level, accuracy=found, left_out=self._left_out()
        )

    def _left_out(self) -> dict[str, list[str]]:
        """Return the titles of tasks without a prediction, by the reason in words."""
        groups: dict[str, list[str]] = {}
        for each in self.laws:
            if not each.predictable:
                groups.setdefault(_REASONS[each.code], []).append(each.title)
        return groups

    def summary(self) -> pd.DataFrame:
        """Return one row per task and number of shots."""
        names = (
            "task", "shots", "runs", "best", "chance", "form", "error", "noise", "r2", "ceiling",
            "code",
        )  # fmt: skip
        return pd.DataFrame([{name: getattr(each, name) for name in names} for each in self.laws])

    def record(self) -> list[dict[str, Any]]:
        """Return plain values for JSON."""
        return [each.record() for each in self.laws]

    def __str__(self) -> str:
        return table(self)


_REASONS = {
    "at_chance": "at chance",
    "emerging": "emerging",
    "unpredictable": "not predictable",
    "degenerate": "degenerate fit",
    "too_few": "too few runs",
}
"""Why a task has no prediction, by the code of its verdict."""


@dataclass(frozen=True, kw_only=True)
class AbilityPrediction:
    """The accuracies predicted for one run."""

    N: float
    D: float
    level: float
    accuracy: dict[str, Quantity]
    """{task: accuracy with its interval} of predictable tasks."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """{reason: tasks} of the others."""

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return finite(
            {
                "N": self.N,
                "D": self.D,
                "level": self.level,
                "accuracy": {name: q._asdict() for name, q in self.accuracy.items()},
                "left_out": self.left_out,
            }
        )

    @property
    def brief(self) -> str:
        """The accuracies in one line."""
        return ", ".join(
            f"{name} {q.value:.2f} {interval(q.low, q.high, '.2f')}"
            for name, q in self.accuracy.items()
        )

    @property
    def others(self) -> str:
        """The tasks without a prediction in one line; empty if there are none."""
        return "; ".join(f"{why}: {', '.join(names)}" for why, names in self.left_out.items())

    @property
    def heading(self) -> str:
        """What is predicted, in a line."""
        return (
            f"accuracy on tasks of one new run of {units.count(self.N)} parameters on "
            f"{units.count(self.D)} tokens ({self.level:.0%} intervals)"
        )

    def __str__(self) -> str:
        width = max(map(len, self.accuracy), default=0)
        lines = [
            f"  {name:<{width}}  {q.value:.3f} {interval(q.low, q.high, '.3f')}"
            for name, q in self.accuracy.items()
        ]
        return "\n".join([self.heading, *lines, *([f"  {self.others}"] if self.others else [])])


def task_laws(
    results: Path | str | pd.DataFrame,
    *,
    tasks: Sequence[str] | None = None,
    where: str | None = None,
    seed: int = 0,
) -> Abilities:
    """Fit the laws of the tasks of a results folder, and judge which can be predicted.

    results  A folder with tasks.parquet (`scaling eval` makes it), or the table of `load_scores`.
    tasks    Names of the tasks; by default all that have an accuracy.
    where    A condition that selects runs, such as "N < 1e6".

    For each task and number of shots, several forms are fitted and compared by how well those
    fitted to the smaller runs predict the larger ones from N and D; see
    :mod:`analysis.abilities.forms`. Scores at chance are not fitted.

    Raises TableError if there are no scores, or none of a task that is named.
    """
    scores = _scores(results, where)
    if tasks is not None:
        known = list(dict.fromkeys(scores["task"]))
        for name in tasks:
            if name not in known:
                raise TableError(f"there are no scores of task {name!r}, only {', '.join(known)}.")
        scores = scores[scores["task"].isin(list(tasks))]
    shared: dict[tuple, LossStep | None] = {}
    found = []
    for task, shots, rows in by_task(scores):
        with progress.part(f"fitting {title(task, shots)}"):
            found.append(_law(task, shots, rows, shared, seed))
    accuracies = is_accuracy(scores)
    other = tuple(dict.fromkeys(scores.loc[~accuracies, "task"]))
    if not found:
        raise TableError(f"no task has an accuracy, only {', '.join(other)}; evaluate others.")
    return Abilities(tuple(found), other)


def _scores(results: Path | str | pd.DataFrame, where: str | None) -> pd.DataFrame:
    if isinstance(results, str | Path):
        return load_scores(results, where=where)
    return results


def _law(
    task: str, shots: int, rows: pd.DataFrame, shared: dict[tuple, LossStep | None], seed: int
) -> TaskLaw:
    """Return the law of one task; `shared` keeps the laws of L, the same for all tasks of the same
    runs."""
    if at_chance(rows):
        return task_law(task, shots, rows, {}, seed=seed)
    runs = tuple(rows["run_id"])
    if runs not in shared:
        shared[runs] = loss_step(rows, "L", seed=seed)
    steps = {"L": shared[runs], "nll": loss_step(rows, "nll", seed=seed)}
    return task_law(task, shots, rows, steps, seed=seed)


@dataclass(frozen=True, kw_only=True)
class MacroError:
    """The mean accuracy over tasks of the largest runs, predicted without them."""

    runs: pd.DataFrame = field(repr=False)
    """One row per run held out: run_id, N, D, C, measured and predicted macro accuracy."""
    tasks: tuple[str, ...]
    """The tasks averaged: those that the smaller runs make predictable."""

    @property
    def error(self) -> float:
        """Mean of |measured - predicted| over the runs held out."""
        return float((self.runs["measured"] - self.runs["predicted"]).abs().mean())

    def __str__(self) -> str:
        return (
            f"macro accuracy over {len(self.tasks)} tasks of the {len(self.runs)} runs with the "
            f"most compute, predicted without them: off by {self.error:.4f}"
        )


def macro_error(
    results: Path | str | pd.DataFrame,
    *,
    held: int = 3,
    tasks: Sequence[str] | None = None,
    shots: int = 0,
    where: str | None = None,
    seed: int = 0,
) -> MacroError:
    """Predict the mean accuracy over tasks of the `held` runs with the most compute, by laws fitted
    to all others.

    The runs are those of the most common context length. Tasks that the others do not make
    predictable are left out. Raises TableError if none is left.
    """
    scores = _scores(results, where)
    scores = one_context(scores[is_accuracy(scores) & (scores["shots"] == shots)])
    if tasks is not None:
        scores = scores[scores["task"].isin(list(tasks))]
    size = scores.drop_duplicates("run_id").nlargest(held, "C")
    largest = scores["run_id"].isin(size["run_id"])
    if not largest.any() or largest.all():
        raise TableError(f"no runs are left beside the {held} with the most compute.")
    laws = {each.task: each for each in task_laws(scores[~largest], seed=seed) if each.predictable}
    if not laws:
        raise TableError(f"without the {held} runs with the most compute, no task is predictable.")
    rows = []
    for run_id, group in scores[largest & scores["task"].isin(list(laws))].groupby("run_id"):
        N, D = float(group["N"].iloc[0]), float(group["D"].iloc[0])
        predicted = [laws[task].predict(N, D) for task in group["task"]]
        rows.append(
            {
                "run_id": run_id,
                "N": N,
                "D": D,
                "C": 6 * N * D,
                "measured": float(group["value"].mean()),
                "predicted": float(np.mean(predicted)),
            }
        )
    return MacroError(runs=pd.DataFrame(rows).sort_values("C"), tasks=tuple(laws))


def table(found: Abilities, prediction: AbilityPrediction | None = None) -> str:
    """Return the laws as a table in text, with the predicted accuracies if they are given."""
    head = ["task", "runs", "best", "chance", "form", "held out", "noise", "R2", "verdict"]
    rows = [head if prediction is None else [*head, "predicted"]]
    for each in found.laws:
        numbers = [f"{each.error:.3f}", f"{each.noise:.3f}", f"{each.r2:.2f}"]
        cells = [
            each.title, str(each.runs), f"{each.best:.3f}", f"{each.chance:.3g}", each.form or "-",
            *("-" if number == "nan" else number for number in numbers),
            _REASONS.get(each.code, each.code),
        ]  # fmt: skip
        if prediction is not None:
            q = prediction.accuracy.get(each.title)
            cells.append("-" if q is None else f"{q.value:.3f} {interval(q.low, q.high, '.3f')}")
        rows.append(cells)
    lines = aligned(rows, left={0, 4, 8, 9})
    for each in found.laws:
        if each.code in ("degenerate", "too_few"):
            lines.append(f"! {each}")
    if found.other:
        lines.append(f"without an accuracy: {', '.join(found.other)}")
    return "\n".join(lines)
