"""Runs of a tracker as two tables with the tracker's own columns: runs, and their evaluations.

An evaluation is an entry of a history that has the loss. Counters that other entries hold, such as
the tokens, are interpolated to its step; if steps are consecutive, and for everything else, the
last value before it counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.importing.joined import is_number, joined
from analysis.importing.sources import read
from scaling.column_words import meaning
from scaling.mapping import in_expression
from scaling.trackers import TrackedRun, kind_and_place

_COUNTERS = ("S", "D", "C")
_OURS = ("run_id", "status", "name", "test_set")
_STATUS = {
    "": "ok", "finished": "ok", "running": "unfinished", "scheduled": "unfinished",
    "pending": "unfinished", "preempting": "unfinished", "queued": "unfinished",
}  # fmt: skip
"""Status of the states that mean another word here; the others stay as they are."""
_NOTHING = (np.array([], int), np.array([], float))
_CELLS = 5_000_000
"""Cells of a table of evaluations up to which it has every setting of its runs."""


@dataclass
class Tracked:
    """The runs of a source, each once."""

    source: str
    runs: list[TrackedRun]
    notes: list[str] = field(default_factory=list)
    """What was joined or assumed, in words."""
    _series: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    @classmethod
    def read(cls, source: str) -> Tracked:
        """Read a source. Raises TableError if there is none, or nothing in it can be read."""
        kind, _ = kind_and_place(source)
        runs, notes = joined(kind, read(source))
        problems = [run for run in runs if run.labels.get("problem")]
        if problems:
            first = problems[0]
            damaged = "files are damaged" if len(problems) > 1 else "file is damaged"
            notes.append(
                f"{len(problems)} {damaged} (first: {first.name or first.id}: "
                f"{first.labels['problem']})"
            )
        return cls(source, runs, notes)

    # -------------------------------------------------------------- what there is

    @cached_property
    def metrics(self) -> Counter[str]:
        """Number of the runs whose history has each metric."""
        return Counter(name for run in self.runs for name in self.series(run))

    def series(self, run: TrackedRun) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return {metric: entries of the history that have it, its values there}."""
        found = self._series.get(id(run))
        if found is None:
            found = self._series[id(run)] = _series(run.history)
        return found

    @cached_property
    def settings(self) -> Counter[str]:
        """Number of the runs that have each setting."""
        return Counter(name for run in self.runs for name in run.config)

    @cached_property
    def totals(self) -> Counter[str]:
        """Number of the runs with each number that only their summaries have."""
        return Counter(
            name
            for run in self.runs
            for name, value in run.summary.items()
            if is_number(value) and name not in self.metrics and not name.startswith("_")
        )

    @cached_property
    def step(self) -> str:
        """The column that counts steps: a metric of that meaning, or the tracker's own count."""
        known = {name: what for name in self.metrics if (what := meaning(name)) is not None}
        steps = [name for name, what in known.items() if what.symbol == "S" and what.scale == 1]
        if steps:
            return max(steps, key=lambda name: (self.metrics[name], known[name].rank, name))
        return "step" if any("step" in row for run in self.runs for row in run.history) else ""

    def values(self, name: str) -> np.ndarray:
        """Return the last value of a metric, or the total, of each run that has it."""
        found = [_last(run, name) for run in self.runs]
        return np.array([value for value in found if value is not None], float)

    # -------------------------------------------------------------- tables

    def final(self, losses: Sequence[str]) -> pd.DataFrame:
        """Return a row per run: its settings, and all metrics at its last evaluation."""
        rows = []
        for run in self.runs:
            at = self._evaluations(run, losses)
            where = at[-1:] or [len(run.history) - 1][: len(run.history)]
            values = {name: run.summary.get(name) for name in self.totals}
            columns = self._columns(run, where, last=True)
            values |= {name: column[0] for name, column in columns if len(column)}
            rows.append(self._about(run, losses) | self._settings(run) | values)
        return pd.DataFrame(rows)

    def evaluations(self, losses: Sequence[str], keep: str = "") -> pd.DataFrame:
        """Return a row per evaluation, with the settings of its run.

        Of many evaluations only those settings are kept whose names mean something, or that the
        text `keep` names.
        """
        places = [self._evaluations(run, losses) for run in self.runs]
        number = sum(map(len, places))
        everything = number * len(self.settings) <= _CELLS
        names = [n for n in self.settings if everything or n in keep or meaning(n) is not None]
        tables = []
        for run, at in zip(self.runs, places, strict=True):
            if not at:
                continue
            constant = self._about(run, losses) | self._settings(run, names)
            columns = dict(self._columns(run, at, last=False))
            tables.append(pd.DataFrame({**{k: [v] * len(at) for k, v in constant.items()},
                                        **columns}))  # fmt: skip
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def _about(self, run: TrackedRun, losses: Sequence[str]) -> dict[str, Any]:
        about = {"run_id": run.id, "name": run.name, "status": self.status(run, losses)}
        return about | dict(run.labels)

    def status(self, run: TrackedRun, losses: Sequence[str]) -> str:
        """Return how a run ended: its state, or 'diverged' if its last loss is not finite."""
        training = [
            name for name in self.metrics
            if (what := meaning(name)) is not None and what.symbol == "L"
        ]  # fmt: skip
        for name in dict.fromkeys((*losses, *training)):
            _, values = self.series(run).get(name, _NOTHING)
            if not len(values) and is_number(run.summary.get(name)):
                values = np.array([run.summary[name]], float)
            exploded = len(values) and not math.isfinite(values[-1])
            if exploded and (name in losses or np.isfinite(values).any()):
                return "diverged"
        state = run.state.lower()
        return _STATUS.get(state, state)

    def _settings(self, run: TrackedRun, names: Iterable[str] | None = None) -> dict[str, Any]:
        taken = {*_OURS, *run.labels, *self.metrics}
        found = {}
        for name in self.settings if names is None else names:
            value = run.config.get(name)
            named = f"config.{name}" if name in taken else name
            found[named] = value if isinstance(value, int | float | str) else _text(value)
        return found

    def _evaluations(self, run: TrackedRun, losses: Sequence[str]) -> list[int]:
        """Return which entries of a history have one of the losses."""
        series = self.series(run)
        return sorted({int(k) for name in losses for k in series.get(name, _NOTHING)[0]})

    def _columns(
        self, run: TrackedRun, at: Sequence[int], *, last: bool
    ) -> Iterable[tuple[str, np.ndarray]]:
        """Yield the values of each metric at some entries of a history."""
        steps = np.array([row.get("step", math.nan) for row in run.history], float)
        x = steps if np.isfinite(steps).all() else np.arange(len(steps), dtype=float)
        calls = len(x) > 2 and bool((np.diff(x) == 1).all())  # entries are calls, not steps
        if self.step == "step":
            yield "step", steps[list(at)]
        for name in self.metrics:
            places, values = self.series(run).get(name, _NOTHING)
            what = meaning(name)
            if what is not None and what.symbol in _COUNTERS and not what.function:
                if calls:
                    yield name, _before(np.array(at, int), places, values, exact=False)
                else:
                    yield name, interpolated(x[list(at)], x[places], values)
            elif what is not None and what.symbol == "lr_peak" and last:
                if not self._has_peak:
                    seen = (
                        values[: np.searchsorted(x[places], x[at[-1]], "right")] if at else values
                    )
                    yield name, np.array([seen.max() if len(seen) else math.nan] * len(at))
            else:
                exact = not last and not (what is not None and what.symbol == "lr_peak")
                yield name, _before(np.array(at, int), places, values, exact=exact)

    @cached_property
    def _has_peak(self) -> bool:
        return any(
            what.symbol == "lr_peak"
            for name in self.settings
            if (what := meaning(name)) is not None
        )


def interpolated(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a counter at some steps, along straight lines; beyond its ends, at the pace of its
    first or last part."""
    good = np.isfinite(y)
    x, y = x[good], y[good]
    if not len(x):
        return np.full(len(at), math.nan)
    found = np.interp(at, x, y)
    if len(x) > 1 and x[-1] > x[-2]:
        later = at > x[-1]
        found[later] = y[-1] + (at[later] - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2])
    earlier = at < x[0]
    if x[0] > 0:
        found[earlier] = at[earlier] * y[0] / x[0]
    return found


def _before(at: np.ndarray, places: np.ndarray, values: np.ndarray, *, exact: bool) -> np.ndarray:
    """Return the last value up to each of some entries; only that of the entry itself if exact."""
    if not len(places):
        return np.full(len(at), math.nan)
    index = np.searchsorted(places, at, "right") - 1
    known = index >= 0
    if exact:
        known &= places[index] == at
    return np.where(known, values[index], math.nan)


def _series(history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    places: dict[str, list[int]] = {}
    values: dict[str, list[float]] = {}
    for at, row in enumerate(history):
        for name, value in row.items():
            if type(value) is float or is_number(value):
                places.setdefault(name, []).append(at)
                values.setdefault(name, []).append(value)
    return {
        name: (np.array(places[name], int), np.array(values[name], float))
        for name in places
        if name != "step" and not name.startswith("_")
    }


def _last(run: TrackedRun, name: str) -> float | None:
    for row in reversed(run.history):
        if is_number(row.get(name)):
            return float(row[name])
    value = run.summary.get(name)
    return float(value) if isinstance(value, int | float) and is_number(value) else None


def _text(value: Any) -> str | None:
    return None if value is None or value == [] or value == {} else str(value)


def names_in(expression: str, columns: Iterable[str]) -> list[str]:
    """Return the columns that an expression of --map names."""
    return [
        name for name in columns
        if name == expression or in_expression(name) in _words(expression)
    ]  # fmt: skip


def _words(expression: str) -> set[str]:
    import re

    return set(re.findall(r"`[^`]*`|[^\W\d]\w*", expression))


def labelled(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of several test sets as one, with the column test_set."""
    return pd.concat(
        [table.assign(test_set=name) for name, table in tables.items()], ignore_index=True
    )
