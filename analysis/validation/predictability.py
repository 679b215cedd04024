"""Judge whether downstream tasks can be predicted from the loss: :func:`predictability`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.arguments import expect
from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.laws import Law, LawError, accuracy_of_loss, loss_to_loss, resolve
from scaling import progress
from scaling.errors import TableError
from scaling.jsonable import finite
from scaling.table import missing_column

MIN_RUNS = 15
"""Runs that a verdict needs."""
_BANDS = 4
"""Number of bands of rising quality that are predicted, each from all worse runs."""
_BEGIN = 0.4
"""Share of the runs, from the highest loss on, that predict the first band."""
_DRAWS = 2000
"""Number of bootstrap draws of the held-out runs."""
_CONFIDENCE = 0.95
"""One-sided confidence that a verdict needs."""
_SIGNIFICANT = 3.0
"""Standard errors from the level of guessing that count as a difference."""

Code = Literal["predictable", "emerging", "at_chance", "unpredictable", "too_few"]


@dataclass(frozen=True, kw_only=True)
class TaskVerdict:
    """Whether the loss predicts one task, judged on runs that the law has not seen."""

    task: str
    code: Code
    text: str
    """The verdict in plain words."""
    runs: int
    """Runs with both a loss and a score."""
    held_out: int
    """Runs that were predicted."""
    error: float
    """Root mean square error of the law on them."""
    constant: str
    """The best constant: 'chance', 'the mean' or 'the latest runs' (the best fifth so far)."""
    constant_error: float
    """Root mean square error of that constant on the same runs."""
    skill: float
    """1 - (error / constant_error)^2: 1 is perfect, 0 no better than the constant."""
    skill_low: float
    """Lower end of its one-sided 95 % interval."""
    chance: float | None
    """Accuracy of guessing; None if not known."""

    @property
    def predictable(self) -> bool:
        """Whether a law of the loss beats every constant out of sample."""
        return self.code == "predictable"

    def __str__(self) -> str:
        return f"{self.task}: {self.text}"


@dataclass(frozen=True)
class Predictability(Sequence[TaskVerdict]):
    """The verdicts of :func:`predictability`, one per task."""

    verdicts: tuple[TaskVerdict, ...]

    def __len__(self) -> int:
        return len(self.verdicts)

    def __getitem__(self, index: Any) -> Any:
        """Return the verdict at a position, or of the task with this name."""
        if isinstance(index, str):
            return next(each for each in self.verdicts if each.task == index)
        return self.verdicts[index]

    def summary(self) -> pd.DataFrame:
        """Return one row per task."""
        return pd.DataFrame([asdict(each) for each in self.verdicts])

    def record(self) -> list[dict[str, Any]]:
        """Return plain values for JSON."""
        return [finite(asdict(each)) for each in self.verdicts]

    def __str__(self) -> str:
        return "\n".join(map(str, self.verdicts))


def predictability(
    runs: pd.DataFrame,
    tasks: Sequence[str] | Mapping[str, float | None],
    *,
    loss: str = "L",
    law: Law | str | None = None,
    seed: int = 0,
) -> Predictability:
    """Judge for each task whether its score can be predicted from the loss of smaller runs.

    runs: one row per run of one family (one data set, one recipe).
    tasks: columns with scores: accuracies between 0 and 1, or losses on the task. A mapping gives
        the accuracy of guessing, such as {"hellaswag": 0.25}; None if it is not known.
    loss: the column with the loss; its best form is the loss on the right answers of the task.
    law: a law of L alone, or of L_0 for task losses. None is `accuracy_of_loss` for scores between
        0 and 1, `loss_to_loss` for others. A straight line in the loss competes with it: each band
        is predicted by the one of the two that missed the band before it by less.
    seed: seeds the fits and the bootstrap.

    The runs are sorted by loss. Those with the highest losses predict the next ones, in four bands
    of falling loss, so each run is predicted from worse runs only. The law must beat the best
    constant: chance, the mean of the runs seen so far, and the mean of the latest fifth of them. A
    task is called predictable if the lower end of the 95 % bootstrap interval of its skill is above
    zero. Otherwise it is "at chance" (the scores do not differ from guessing), "emerging" (they do
    in the best runs only, and the runs before did not foretell it) or "unpredictable".

    Raises TableError if a column is missing.
    """
    call = "predictability(runs, tasks)"
    expect(call, "runs", runs, pd.DataFrame)
    if isinstance(tasks, str):
        tasks = [tasks]
    chances: dict[str, float | None] = (
        dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
    )
    if not chances:
        raise TableError(f"{call}: no task is given; name the columns with the scores.")
    for column in (loss, *chances):
        if column not in runs:
            raise TableError(missing_column(column, runs))
    form = None if law is None else resolve(law)
    if form is not None and len(form.inputs) != 1:
        raise LawError(f"{call}: the law {form.name} needs {form.inputs}, not the loss alone.")
    verdicts = []
    for task, chance in chances.items():
        progress.step(f"judging {task}")
        x, y = (pd.to_numeric(runs[c], errors="coerce").to_numpy(float) for c in (loss, task))
        known = np.isfinite(x) & np.isfinite(y)
        order = np.argsort(-x[known], kind="stable")
        verdicts.append(_judge(task, x[known][order], y[known][order], chance, form, seed))
    return Predictability(tuple(verdicts))


def _judge(
    task: str, x: np.ndarray, y: np.ndarray, chance: float | None, law: Law | None, seed: int
) -> TaskVerdict:
    """Return the verdict on one task, whose runs are sorted by falling loss."""
    n = len(x)
    if n < MIN_RUNS:
        return _verdict(task, "too_few", n, chance=chance)
    law = law or (accuracy_of_loss if y.min() >= 0 and y.max() <= 1 else loss_to_loss)
    begin, rng = round(_BEGIN * n), np.random.default_rng(seed)
    trial = np.arange(begin // 2, begin)
    """Predicted only to choose between line and law for the first band."""
    rules: dict[str, list[np.ndarray]] = {}
    better = "line"
    bands = np.array_split(np.arange(begin, n), _BANDS)
    for band in (trial, *bands):
        seen = slice(0, band[0])
        found = {
            "line": _line(x[seen], y[seen], x[band]),
            "law": _of_law(law, x[seen], y[seen], x[band], chance, seed),
        }
        usable = np.isfinite(found["law"]).all()
        if band is not trial:
            rules.setdefault("law", []).append(found[better if usable else "line"])
            for name, value in _constants(y[seen], chance):
                rules.setdefault(name, []).append(np.full(len(band), value))
        missed = {name: np.sum((y[band] - each) ** 2) for name, each in found.items()}
        better = "law" if usable and missed["law"] <= missed["line"] else "line"
    errors = {name: (y[begin:] - np.concatenate(parts)) ** 2 for name, parts in rules.items()}
    of_law = errors.pop("law")
    constant = min(errors, key=lambda name: errors[name].mean())
    drawn = rng.integers(0, n - begin, (_DRAWS, n - begin))
    with np.errstate(all="ignore"):
        skills = 1 - of_law[drawn].mean(axis=1) / np.min(
            [each[drawn].mean(axis=1) for each in errors.values()], axis=0
        )
        skill = 1 - of_law.mean() / errors[constant].mean()
    low = float(np.nanquantile(skills, 1 - _CONFIDENCE)) if np.isfinite(skills).any() else np.nan
    begins = _begins_to_rise(y, bands, chance)
    foretold = (
        begins is None or of_law[begins - begin].mean() < errors[constant][begins - begin].mean()
    )
    code = _why_not(y, chance, begins is not None) if not (low > 0 and foretold) else "predictable"
    return _verdict(
        task,
        code,
        n,
        chance=chance,
        held_out=n - begin,
        error=float(np.sqrt(of_law.mean())),
        constant=constant,
        constant_error=float(np.sqrt(errors[constant].mean())),
        skill=float(skill),
        skill_low=low,
    )


def _constants(y: np.ndarray, chance: float | None) -> Iterator[tuple[str, float]]:
    """Yield the constants that a law must beat, by name."""
    if chance is not None:
        yield "chance", chance
    yield "the mean", float(y.mean())
    yield "the latest runs", float(y[-max(3, len(y) // 5) :].mean())


def _line(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    centre = x.mean()
    slope = np.sum((x - centre) * (y - y.mean())) / max(np.sum((x - centre) ** 2), 1e-300)
    found = y.mean() + slope * (at - centre)
    return np.clip(found, 0, 1) if y.min() >= 0 and y.max() <= 1 else found


def _of_law(
    law: Law,
    x: np.ndarray,
    y: np.ndarray,
    at: np.ndarray,
    chance: float | None,
    seed: int,
) -> np.ndarray:
    """Return the predictions of a fitted law; nan if it cannot be fitted."""
    column = law.inputs[0]
    fixed = {"floor": chance} if chance is not None and "floor" in law.params else {}
    table = pd.DataFrame({column: x, law.target: y})
    try:
        found = fit(
            law, table, objective="huber", on="raw", fixed=fixed, bootstrap=0, cluster=None,
            seed=seed,
        )  # fmt: skip
        return np.asarray(found.predict(**{column: at}), float)
    except (FitError, TableError, LawError):
        return np.full(len(at), np.nan)


def _level(y: np.ndarray, chance: float | None) -> tuple[np.ndarray, float, float]:
    """Return the worse half of the scores, the level of guessing, and its standard error.

    Without a known chance, the mean of that half stands for it.
    """
    worse = y[: len(y) // 2]
    if chance is not None:
        return worse, chance, 0.0
    return worse, float(worse.mean()), float(worse.std(ddof=1) / np.sqrt(len(worse)))


def _above(y: np.ndarray, noise: float, level: float, stderr: float) -> float:
    """Return by how many standard errors the mean of `y` is above a level."""
    spread = np.hypot(max(noise, float(y.std(ddof=1))) / np.sqrt(len(y)), stderr)
    return float((y.mean() - level) / max(spread, 1e-12))


def _begins_to_rise(
    y: np.ndarray, bands: list[np.ndarray], chance: float | None
) -> np.ndarray | None:
    """Return the band in which the score leaves the level of guessing.

    None if it never does, if the worse half of the runs is not at that level, or drifts.
    """
    worse, level, stderr = _level(y, chance)
    noise = float(worse.std(ddof=1))
    half = len(worse) // 2
    at_level = abs(_above(worse, noise, level, 0.0)) < _SIGNIFICANT
    drift = abs(worse[half:].mean() - worse[:half].mean()) / max(
        noise * (4 / len(worse)) ** 0.5, 1e-12
    )
    if not at_level or drift > _SIGNIFICANT:
        return None
    return next((b for b in bands if _above(y[b], noise, level, stderr) > _SIGNIFICANT), None)


def _why_not(y: np.ndarray, chance: float | None, rises: bool) -> Code:
    """Return why a task is not predictable: 'at_chance', 'emerging' or 'unpredictable'."""
    if rises:
        return "emerging"
    worse, level, stderr = _level(y, chance)
    best, noise = y[len(y) // 2 :], float(worse.std(ddof=1))
    near = all(abs(_above(part, noise, level, stderr)) < _SIGNIFICANT for part in (worse, best))
    return "at_chance" if near and chance is not None else "unpredictable"


_WORDS: dict[Code, str] = {
    "predictable": "predictable: a law of the loss misses unseen better runs by {error:.3g}, the "
    "best constant ({constant}) by {constant_error:.3g} (skill {skill:.2f}, at least {low:.2f})",
    "emerging": "emerging: {level} in runs with a higher loss, above it only in the best; the runs "
    "before the rise did not foretell it (skill {skill:.2f} over all unseen runs)",
    "at_chance": "at chance: no run differs from guessing ({chance}), so these runs cannot say "
    "when it rises",
    "unpredictable": "not predictable: no law of the loss beats a constant ({constant}) on unseen "
    "better runs (error {error:.3g} against {constant_error:.3g}, skill {skill:.2f})",
    "too_few": "no verdict: {runs} runs have both a loss and a score; {least} are needed",
}


def _verdict(
    task: str,
    code: Code,
    runs: int,
    *,
    chance: float | None,
    held_out: int = 0,
    error: float = np.nan,
    constant: str = "",
    constant_error: float = np.nan,
    skill: float = np.nan,
    skill_low: float = np.nan,
) -> TaskVerdict:
    text = _WORDS[code].format(
        error=error, constant=constant, constant_error=constant_error, skill=skill, low=skill_low,
        chance=chance, runs=runs, least=MIN_RUNS, level="flat" if chance is None else "at chance",
    )  # fmt: skip
    return TaskVerdict(
        task=task, code=code, text=text, runs=runs, held_out=held_out, error=error,
        constant=constant, constant_error=constant_error, skill=skill, skill_low=skill_low,
        chance=chance,
    )  # fmt: skip
