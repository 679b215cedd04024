"""Successive halving (sweeps.adaptive.halving) of the runs that train in a store.

An arm is a run of a learning-rate search. Here a trial of Ray Tune is a job, possibly of many arms
that train together, so Tune's own scheduler cannot stop a single arm. The decision is made where an
arm trains, through `give_up` of scaling.training.train.train_pack, which both executors call. The
store has a record of each arm:

    rungs/<family>/<run_id>.json    {"passed": [[S, L, whether it continued], ...]}

It is written atomically before a decision takes effect. An arm that reaches a rung again, resumed
from an older checkpoint, keeps the earlier decision. If a record is damaged, or could not be
written to a full disk, the arm counts as not having reached its rungs: only a comparison is lost.
How an arm ended is in its result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.command_run import CommandRun, Run
from scaling.files import check_inside, read_bytes, write_atomic
from sweeps.adaptive.families import family
from sweeps.adaptive.halving import Arm, hopeless, rungs, verdict
from sweeps.adaptive.protocols import CurveForecaster, default_forecaster
from sweeps.errors import headline, writing
from sweeps.result import Point, Row, from_json, is_run_id
from sweeps.store import Store


@dataclass(frozen=True)
class Halving:
    """A :data:`scaling.training.result.GiveUp` that compares the arms that train in a store."""

    store: Store
    eta: float
    """One arm in `eta` continues."""
    win: float | None = None
    """If given, forecasts decide: an arm continues if it wins with at least this probability."""
    forecaster: CurveForecaster | None = None
    """Forecasts how arms end; None for the default, which is loaded when first needed."""

    def __call__(self, measured: Sequence[tuple[Run, Sequence[Point]]]) -> dict[str, str]:
        """Return {run_id: reason} of the arms that stop here, given each arm's curve so far.

        Arms of one pack reach a rung together, and each is compared with all of them. Raises
        StoreError if the result of another arm cannot be read.
        """
        arrived: list[tuple[Run, int, Arm]] = []
        for run, curve in measured:
            if (S := _rung_at(run, curve)) is not None:
                arm = self._read(self._path(run)) or Arm()
                arm.passed = _passed(run, curve) | arm.passed
                self._write(run, arm)
                arrived.append((run, S, arm))
        stops: dict[str, str] = {}
        curves = {run.run_id: list(curve) for run, curve in measured}
        for run, S, arm in arrived:
            L, continued = arm.passed[S]
            if continued is None:
                beside = {r.run_id: other for r, _, other in arrived if family(r) == family(run)}
                reason = self._verdict(run, S, self._arms(run) | beside, curves)
                arm.passed[S] = (L, not reason)
                self._write(run, arm)
            else:
                reason = (
                    "" if continued else f"at step {S} it was worse than others, as found before"
                )
            if reason:
                stops[run.run_id] = reason
        return stops

    def prepare(self, runs: Mapping[str, Run], rows: Mapping[str, Row]) -> None:
        """Prepare the records for a sweep of `runs`, {run_id: run}, with the results in `rows`.

        Afterwards the store has records of these runs only. Among them are finished arms that
        trained elsewhere or without halving, if others of their family are still to train. Raises
        StoreError.
        """
        there = {path.stem: path for path in (self.store.folder / "rungs").glob("*/*.json")}
        with writing(self.store.shown(self.store.folder / "rungs")):
            for run_id in there.keys() - runs.keys():  # no arm may be compared with these
                self.store.remove([there[run_id]])
        open_ = {family(run) for run_id, run in runs.items() if run_id not in rows}
        lacking = [
            run_id
            for run_id in runs.keys() & rows.keys()
            if not (run_id in there and self.store.has_result(run_id))
            and family(runs[run_id]) in open_
        ]
        for result in self.store.results(lacking) if lacking else ():
            run, status = runs[result.row["run_id"]], result.row["status"]
            with writing(self.store.shown(self._path(run))):
                self._save(run, Arm(_passed(run, result.curve), status))

    def _verdict(
        self, run: Run, S: int, arms: Mapping[str, Arm], curves: Mapping[str, list[Point]]
    ) -> str:
        """Return why an arm stops at the rung S, or an empty string; `curves` are those at hand."""
        if self.win is None:
            return verdict(run.run_id, S, arms, self.eta)
        alive = [run_id for run_id, arm in arms.items() if arm.status in ("", "ok")]
        ended = {r for r in alive if arms[r].status == "ok"}
        found = {f.row["run_id"]: f.curve for f in self.store.results(ended)} if ended else {}
        at_rungs = {
            r: [{"S": step, "L": L} for step, (L, _) in sorted(arms[r].passed.items())]
            for r in alive
        }
        known = {**at_rungs, **curves, **found}
        try:
            forecaster = self.forecaster or default_forecaster()
            probabilities = forecaster.win_probabilities(
                {r: known[r] for r in sorted(alive)}, run.S or S
            )
        except Exception as error:  # an error of a fit must not cost an arm
            print(headline(f"no forecast: {type(error).__name__}: {error}"))  # into output.log
            return ""
        return hopeless(run.run_id, S, arms, self.eta, win=self.win, probabilities=probabilities)

    # ---------------------------------------------------------------- records

    def _path(self, run: Run) -> Path:
        arms = hashlib.sha256(repr(family(run)).encode()).hexdigest()[:12]
        return self.store.folder / "rungs" / arms / f"{run.run_id}.json"

    def _arms(self, run: Run) -> dict[str, Arm]:
        """Return the recorded arms of a run's family and how they ended."""
        arms: dict[str, Arm] = {}
        for path in self._path(run).parent.glob("*.json"):
            if is_run_id(path.stem) and (arm := self._read(path)):
                if self.store.has_result(path.stem) and (found := self.store.result(path.stem)):
                    arm.status = found.row["status"]
                arms[path.stem] = arm
        return arms

    @staticmethod
    def _read(path: Path) -> Arm | None:
        """Return a record; None if it is missing or cannot be read."""
        try:
            values = from_json(read_bytes(path))
            passed = {int(S): (float(L), continued) for S, L, continued in values["passed"]}
            finite = all(math.isfinite(L) for L, _ in passed.values())
            return Arm(passed, str(values.get("status", ""))) if finite else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return None

    def _write(self, run: Run, arm: Arm) -> None:
        with contextlib.suppress(OSError):  # only a comparison is lost
            self._save(run, arm)

    def _save(self, run: Run, arm: Arm) -> None:
        path = self._path(run)
        check_inside(path, self.store.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        passed = [[S, *point] for S, point in sorted(arm.passed.items())]
        values = {"passed": passed} | ({"status": arm.status} if arm.status else {})
        write_atomic(path, json.dumps(values).encode())


def _rung_at(run: Run, curve: Sequence[Point]) -> int | None:
    """Return the rung that a run has reached with the last point of its curve; None if none."""
    if not isinstance(run, CommandRun):
        return S if (S := curve[-1]["S"]) in rungs(run) else None
    before = _passed(run, curve[:-1])
    return max((S for S in _passed(run, curve) if S not in before), default=None)


def _passed(run: Run, curve: Iterable[Point]) -> dict[int, tuple[float, bool | None]]:
    """Return {S: (L, None)} of the points of a curve that are at the run's rungs.

    The point of a command at a rung is the first that it reports from there on, before its end.
    """
    if isinstance(run, CommandRun):
        points = sorted((p for p in curve if _is_finite(p.get("L"))), key=lambda p: p["S"])
        first = {S: next((p for p in points if p["S"] >= S), None) for S in rungs(run)}
        return {
            S: (p["L"], None) for S, p in first.items() if p is not None and p["S"] < (run.S or 0)
        }
    return {p["S"]: (p["L"], None) for p in curve if p["S"] in rungs(run) and _is_finite(p["L"])}


def _is_finite(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)
