"""Successive halving (sweeps.adaptive.halving) of the runs that train in a store.

A trial of Ray Tune is a job here, perhaps of many arms that train side by side, so that Tune's own
scheduler has nothing to stop. The arms decide where they train, through `give_up` of
scaling.training.train.train_pack, which both executors call. What they passed is in the store:

    rungs/<family>/<run_id>.json    {"passed": [[S, L, whether it went on], ...]}

written atomically before anything follows from it. An arm that comes to a rung again, resumed from
an older checkpoint, keeps to what was decided. A record that is torn, or that a full disk did not
take, is as if the arm had not come by: nothing is lost but a comparison. What became of an arm is
told by its result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.config import RunConfig
from scaling.files import check_inside, read_bytes, write_atomic
from sweeps.adaptive.families import family
from sweeps.adaptive.halving import Arm, rungs, verdict
from sweeps.errors import writing
from sweeps.result import Row, from_json, is_run_id
from sweeps.store import Store


@dataclass(frozen=True)
class Halving:
    """Compares the arms that train in a store; what :data:`scaling.training.train.GiveUp` asks for."""

    store: Store
    eta: float
    """One in so many goes on."""

    def __call__(self, measured: Sequence[tuple[RunConfig, Sequence[Row]]]) -> dict[str, str]:
        """{run_id: why} of those that stop here. Arms of one pack come to a rung together, and each
        is compared with all of them. Raises StoreError where another's result cannot be read."""
        came: list[tuple[RunConfig, int, Arm]] = []
        for run, curve in measured:
            if (S := curve[-1]["S"]) in rungs(run):
                arm = self._read(self._path(run)) or Arm()
                arm.passed = _passed(run, curve) | arm.passed
                self._write(run, arm)
                came.append((run, S, arm))
        stops: dict[str, str] = {}
        for run, S, arm in came:
            L, went_on = arm.passed[S]
            if went_on is None:
                beside = {r.run_id: other for r, _, other in came if family(r) == family(run)}
                why = verdict(run.run_id, S, self._arms(run) | beside, self.eta)
                arm.passed[S] = (L, not why)
                self._write(run, arm)
            else:
                why = "" if went_on else f"at step {S} it was worse than others, as found before"
            if why:
                stops[run.run_id] = why
        return stops

    def prepare(self, runs: Mapping[str, RunConfig], rows: Mapping[str, Row]) -> None:
        """Before a sweep of `runs`, {run_id: run}, that have results in `rows`: leave in the store the
        records of these runs and no others, those of finished arms that trained elsewhere, or
        without, among them. Raises StoreError."""
        there = {path.stem: path for path in (self.store.folder / "rungs").glob("*/*.json")}
        with writing(self.store.said(self.store.folder / "rungs")):
            for run_id in there.keys() - runs.keys():  # nobody is to wait for these
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
            with writing(self.store.said(self._path(run))):
                self._save(run, Arm(_passed(run, result.curve), status))

    # ---------------------------------------------------------------- records

    def _path(self, run: RunConfig) -> Path:
        arms = hashlib.sha256(repr(family(run)).encode()).hexdigest()[:12]
        return self.store.folder / "rungs" / arms / f"{run.run_id}.json"

    def _arms(self, run: RunConfig) -> dict[str, Arm]:
        """The arms of a run's family of which there are records, with what became of them."""
        arms: dict[str, Arm] = {}
        for path in self._path(run).parent.glob("*.json"):
            if is_run_id(path.stem) and (arm := self._read(path)):
                if self.store.has_result(path.stem) and (found := self.store.result(path.stem)):
                    arm.status = found.row["status"]
                arms[path.stem] = arm
        return arms

    @staticmethod
    def _read(path: Path) -> Arm | None:
        """A record; None where there is none that can be read."""
        try:
            values = from_json(read_bytes(path))
            passed = {int(S): (float(L), goes_on) for S, L, goes_on in values["passed"]}
            finite = all(math.isfinite(L) for L, _ in passed.values())
            return Arm(passed, str(values.get("status", ""))) if finite else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return None

    def _write(self, run: RunConfig, arm: Arm) -> None:
        with contextlib.suppress(OSError):  # a comparison less, nothing worse
            self._save(run, arm)

    def _save(self, run: RunConfig, arm: Arm) -> None:
        path = self._path(run)
        check_inside(path, self.store.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        passed = [[S, *point] for S, point in sorted(arm.passed.items())]
        values = {"passed": passed} | ({"status": arm.status} if arm.status else {})
        write_atomic(path, json.dumps(values).encode())


def _passed(run: RunConfig, curve: Iterable[Row]) -> dict[int, tuple[float, bool | None]]:
    """Of a curve, what was measured at the run's rungs."""
    return {
        p["S"]: (p["L"], None)
        for p in curve
        if p["S"] in rungs(run) and p["L"] is not None and math.isfinite(p["L"])
    }
