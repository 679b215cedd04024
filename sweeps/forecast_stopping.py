"""Stopping on forecasts (sweeps.adaptive.forecast) of the runs that train in a store.

As with halving (sweeps.early_stopping), the decision is made where a run trains, through `give_up`
of scaling.training.train.train_pack. The store has a record of each run of the sweep:

    forecasts/<run_id>.json    its config, its evaluations so far, and the decisions made on it

The driver writes the records before anything trains; from then on only the process that holds a
run's lease writes to its record, atomically and before a decision takes effect. A run that reaches
an evaluation again, resumed from an older checkpoint, keeps the decision made there for the same
question. If a record is damaged, or could not be written to a full disk, the run counts as not
begun until its next evaluation: only a comparison is lost. How a run ended is in its result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scaling import size
from scaling.config import RunConfig, canonical, from_dict
from scaling.files import check_inside, read_bytes, write_atomic
from sweeps.adaptive.candidates import as_recorded
from sweeps.adaptive.forecast import CurveSoFar, Decision, Forecast, decision_steps, flops_left
from sweeps.adaptive.protocols import CurveForecaster, default_forecaster
from sweeps.errors import headline, writing
from sweeps.result import Point, from_json, is_run_id, to_json
from sweeps.store import Store

_KEPT = ("S", "D", "L", "L_train", "lr")
"""Columns of an evaluation that a record keeps."""


@dataclass
class _Record:
    """What is known of a run."""

    run: RunConfig
    points: list[Point] = field(default_factory=list)
    decisions: dict[int, tuple[bool, str, dict[str, Any]]] = field(default_factory=dict)
    """{S: (stops, reason, numbers and the question)}."""


@dataclass(frozen=True)
class ForecastStopping:
    """A :data:`scaling.training.result.GiveUp` that stops runs whose end is known well enough."""

    store: Store
    options: Forecast
    forecaster: CurveForecaster | None = None
    """Fits the curves; None for the default, which is loaded when first needed."""

    def __call__(self, measured: Sequence[tuple[RunConfig, Sequence[Point]]]) -> dict[str, str]:
        """Return {run_id: reason} of the runs that stop here, given each run's curve so far."""
        decided: dict[str, tuple[bool, str, dict[str, Any]]] = {}
        due: dict[str, tuple[int, _Record]] = {}
        for run, curve in measured:
            record = self._read(self._path(run.run_id)) or _Record(run)
            record.points = [{k: p[k] for k in _KEPT if k in p} for p in curve]
            self._write(record)
            S = curve[-1]["S"]
            if S not in decision_steps(run, self.options.after):
                continue
            if flops_left(run, S) < self.options.worth * self._flops:
                continue
            made = record.decisions.get(S)
            if made and made[2].get("question") == self._question:
                decided[run.run_id] = made
            else:
                due[run.run_id] = S, record
        if due:
            found = self._decide(due.keys(), [(run, curve) for run, curve in measured])
            for run_id, (S, record) in due.items():
                stops, reason, numbers = found.get(run_id, (False, "no decision", {}))
                made = stops, reason, {**numbers, "question": self._question}
                record.decisions[S] = decided[run_id] = made
                self._write(record)
        return {run_id: reason for run_id, (stops, reason, _) in decided.items() if stops}

    def prepare(self, runs: Mapping[str, RunConfig]) -> None:
        """Write a record of each of the sweep's `runs` that has none, and remove other records.

        Raises StoreError.
        """
        folder = self.store.folder / "forecasts"
        there = {path.stem: path for path in folder.glob("*.json")}
        with writing(self.store.shown(folder)):
            self.store.remove(there[run_id] for run_id in there.keys() - runs.keys())
            for run_id in runs.keys() - there.keys():
                self._save(_Record(runs[run_id]))

    @cached_property
    def _flops(self) -> float:
        """FLOPs of all runs of the sweep."""
        paths = (self.store.folder / "forecasts").glob("*.json")
        return sum(size.flops_of(r.run) for path in paths if (r := self._read(path)))

    @property
    def _question(self) -> dict[str, Any]:
        return dataclasses.asdict(self.options)

    def _decide(
        self, due: Iterable[str], measured: Sequence[tuple[RunConfig, Sequence[Point]]]
    ) -> Mapping[str, Decision]:
        """Ask the forecaster. If it fails, its error is the reason why the runs continue."""
        curves = self._curves(measured)
        try:
            forecaster = self.forecaster or default_forecaster()
            return forecaster.decide_ends(self.options, curves, list(due))
        except Exception as error:  # an error of a fit must not cost a run
            reason = headline(f"no forecast: {type(error).__name__}: {error}")
            print(reason)  # into the run's output.log
            return {run_id: (False, reason, {}) for run_id in due}

    def _curves(self, measured: Sequence[tuple[RunConfig, Sequence[Point]]]) -> list[CurveSoFar]:
        """Return all runs of the sweep: finished, under way, and not yet begun."""
        here = {run.run_id: CurveSoFar(run=run, points=list(curve)) for run, curve in measured}
        known: dict[str, CurveSoFar] = {}
        for path in sorted((self.store.folder / "forecasts").glob("*.json")):
            if record := self._read(path):
                known[path.stem] = CurveSoFar(run=record.run, points=record.points)
        others = known.keys() - here.keys()
        for found in self.store.results(others) if others else ():
            run_id, status = found.row["run_id"], found.row["status"]
            known[run_id] = CurveSoFar(run=known[run_id].run, points=found.curve, status=status)
        known |= here
        return [known[run_id] for run_id in sorted(known)]

    # ---------------------------------------------------------------- records

    def _path(self, run_id: str) -> Path:
        return self.store.folder / "forecasts" / f"{run_id}.json"

    @staticmethod
    def _read(path: Path) -> _Record | None:
        """Return a record; None if it is missing or cannot be read."""
        try:
            values = from_json(read_bytes(path))
            run = from_dict(values["config"] | {"tag": values["tag"]})
            if not is_run_id(path.stem) or run.run_id != path.stem:
                return None
            points = [dict(point) for point in values["points"]]
            if not all(math.isfinite(point["S"] + point["L"]) for point in points):
                return None
            decisions = {
                int(S): (bool(stops), str(reason), dict(numbers))
                for S, stops, reason, numbers in values["decisions"]
            }
            return _Record(run, points, decisions)
        except (
            OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError
        ):  # fmt: skip
            return None

    def _write(self, record: _Record) -> None:
        with contextlib.suppress(OSError):  # only a comparison is lost
            self._save(record)

    def _save(self, record: _Record) -> None:
        path = self._path(record.run.run_id)
        check_inside(path, self.store.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        run = as_recorded(record.run)
        decisions = [[S, *made] for S, made in sorted(record.decisions.items())]
        values = {"config": canonical(run), "tag": run.tag, "points": record.points}
        write_atomic(path, to_json(values | {"decisions": decisions}))
