"""Evaluate the runs of a results folder on tasks, and record what is new in tasks.parquet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling import progress, weights
from scaling.abilities import in_context, local, table
from scaling.abilities.item import Task
from scaling.abilities.names import check_names
from scaling.abilities.predictor import Predictor, predictor
from scaling.abilities.prompts import Sheet, sheet
from scaling.abilities.pseudo import check_pairs, masked_predictor, refusal
from scaling.abilities.score import score
from scaling.abilities.tasks import tasks_of
from scaling.data.corpus import prepare
from scaling.errors import ConfigError
from scaling.weights import Weights, check_no_classifier

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    table: pd.DataFrame
    """The rows of tasks.parquet that were asked for, new or known before."""
    new: int
    """Number of (run, task, shots) that were evaluated now."""
    runs: list[dict[str, Any]]
    """The runs with weights: rows of the results table."""


def evaluate(
    results: Path | str,
    tasks: Iterable[str],
    *,
    shots: Iterable[int] = (0,),
    files: Iterable[Path] = (),
    run: str | None = None,
    again: bool = False,
    device: str = "cpu",
) -> Evaluated:
    """Evaluate the runs of a results folder, or one run in its own folder, on tasks.

    Each pair of run and task is evaluated after each number of `shots`; tasks without examples
    only without. What tasks.parquet has is not evaluated anew, except with `again`. `run` selects
    one run by its id or the beginning of it. Raises WeightsError if no run has weights, and
    ConfigError for tasks that do not fit the runs, before anything is evaluated.
    """
    results, shots = Path(results), sorted(set(shots))
    names = list(dict.fromkeys(tasks))
    check_names(names)
    own = [local.task_of(Path(file)) for file in files]
    _check_different(own)
    folders = weights.find(results, run)
    found = table.read(results)
    done = set() if again else table.evaluated(found)
    sheets = Sheets(names, own, shots)
    wanted: list[tuple[Path, Wanted]] = []
    asked: set[tuple[str, str, str, int]] = set()
    runs = []
    for number, folder in enumerate(folders, 1):  # so that what does not fit fails at once
        progress.step("reading the runs", f"{number} of {len(folders)}")
        loaded = weights.load(folder, device)
        runs.append(loaded.row | {"run_id": loaded.run.run_id})
        keys = sheets.keys(loaded)
        asked |= set(keys)
        if left := [key for key in keys if key not in done]:
            sheets.check(loaded, left)
            wanted.append((folder, left))
    for number, (folder, left) in enumerate(wanted, 1):
        loaded = weights.load(folder, device)
        run_id = loaded.run.run_id
        doing = f"evaluating run {run_id} ({number} of {len(wanted)})"
        table.update(results, run_id, sheets.rows(loaded, left, doing))
    found = table.read(results)
    mine = [
        key in asked for key in found[list(table.EVALUATION)].itertuples(index=False, name=None)
    ]
    return Evaluated(found[mine].reset_index(drop=True), sum(len(k) for _, k in wanted), runs)


Wanted = list[tuple[str, str, str, int]]
"""(run_id, task, version, shots) to evaluate."""


class Sheets:
    """The questions for each tokenizer and context, made once for all runs that share them."""

    def __init__(self, names: list[str], own: list[Task], shots: Sequence[int]) -> None:
        self._windows_asked = "in_context" in names
        self._names = [name for name in names if name != "in_context"]
        self._own, self._shots = own, shots
        self._tasks: dict[tuple[str, int | None], list[Task]] = {}
        self._sheets: dict[tuple, Sheet] = {}
        self._windows: dict[tuple, tuple[Any, str]] = {}

    def keys(self, loaded: Weights) -> Wanted:
        """Return what is asked of a run."""
        run_id = loaded.run.run_id
        keys = [(run_id, t.name, t.version, n) for t, n in self._pairs(loaded)]
        if self._windows_asked:
            keys.append((run_id, "in_context", self._windows_of(loaded)[1], 0))
        return keys

    def check(self, loaded: Weights, left: Wanted) -> None:
        """Raise ConfigError if a task does not fit the context of a run."""
        check_no_classifier(loaded, "do tasks of text")
        if loaded.run.model.masked:
            name = f"run {loaded.run.run_id}"
            if any(task == "in_context" for _, task, _, _ in left):
                raise ConfigError(refusal("task 'in_context' asks for the next token", name))
            wanted = {key[1:] for key in left}
            for task, n in self._pairs(loaded):
                if (task.name, task.version, n) in wanted:
                    check_pairs(task, n, name)
        self._sheet(loaded, left)

    def rows(self, loaded: Weights, left: Wanted, doing: str) -> list[dict[str, Any]]:
        """Evaluate a run on what is left, and return the rows."""
        rows: list[dict[str, Any]] = []
        if made := self._sheet(loaded, left):
            for scores in score(_predictor(loaded), (), questions=made, doing=doing):
                rows += scores.rows()
        if any(task == "in_context" for _, task, _, _ in left):
            progress.step(doing, "in_context")
            rows += in_context.context_loss(loaded, *self._windows_of(loaded)).rows()
        return rows

    def _pairs(self, loaded: Weights) -> list[tuple[Task, int]]:
        data = loaded.run.data
        text = data.corpus, data.max_bytes
        if text not in self._tasks:
            made = tasks_of(data, self._names) if self._names else []
            self._tasks[text] = [*made, *self._own]
        return [
            (task, n)
            for task in self._tasks[text]
            for n in (self._shots if task.separator is not None else (0,))
        ]

    def _sheet(self, loaded: Weights, left: Wanted) -> Sheet | None:
        """Return the questions of what is left to ask a run; None if there are none."""
        wanted = {key[1:] for key in left}
        pairs = [(t, n) for t, n in self._pairs(loaded) if (t.name, t.version, n) in wanted]
        if not pairs:
            return None
        model = _predictor(loaded)
        key = (
            model.tokenizer,
            model.n_ctx,
            model.continued is None,
            *((t.version, t.name, n) for t, n in pairs),
        )
        if key not in self._sheets:
            progress.step("making the prompts")
            self._sheets[key] = sheet(pairs, model)
        return self._sheets[key]

    def _windows_of(self, loaded: Weights) -> tuple[Any, str]:
        data, n_ctx = loaded.run.data, loaded.run.model.n_ctx
        if (data, n_ctx) not in self._windows:
            name = f"run {loaded.run.run_id}"
            files = prepare(data)
            self._windows[data, n_ctx] = in_context.windows_of(files.test, n_ctx, name)
        return self._windows[data, n_ctx]


def _predictor(loaded: Weights) -> Predictor:
    return masked_predictor(loaded) if loaded.run.model.masked else predictor(loaded)


def _check_different(own: Sequence[Task]) -> None:
    names = [task.name for task in own]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two files of --file are named {name!r}; rename one of them.")
