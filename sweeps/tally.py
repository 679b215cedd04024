"""What a sweep has done and what it still takes, while an executor works on its queue."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from scaling import size
from scaling.columns import STATUSES
from scaling.command_run import CommandRun, Run
from scaling.training.pack_key import pack_key
from sweeps.errors import StoreError
from sweeps.estimate import Estimate, Pace, remove, seconds_left
from sweeps.queue import Job, Outcome, Queue
from sweeps.runner.speed import CommandSpeed
from sweeps.runner.times import CommandTimes
from sweeps.store import Store

_RECORD_SECONDS = 2.0
"""Shortest interval between records of the estimate."""

_RECORD_SHARE = 100
"""Writing records takes at most one of this many seconds."""

_LEAST_PART = 0.01
"""Fraction of a run that counts as untrained at least, while it has not ended."""

BUDGET_SPENT = "the budget is spent: the last runs are finishing"
STOPPING = "stopping: writing checkpoints"


@dataclass(frozen=True, kw_only=True)
class Count:
    """A sweep at one moment."""

    C_done: float
    """FLOPs of the finished runs and of the trained parts of the others; tokens if the sizes of
    the runs are not known."""
    C: float
    """FLOPs, or tokens, of all runs."""
    unit: str
    """Unit of C as it follows a number (:func:`scaling.size.unit_of`)."""
    seconds: float | None
    """Estimated wall-clock seconds left; None while nothing is known of the time of a command."""
    runs: str
    """Number of runs finished, in words."""
    state: str
    """BUDGET_SPENT, STOPPING or empty."""
    begun: bool
    """Whether a worker has trained yet."""
    finished: tuple[Outcome, ...]
    """How runs ended, in the order seen."""

    @property
    def percent(self) -> float:
        """Percentage of C that is done."""
        return 100 * self.C_done / self.C if self.C else 100.0


class Tally:
    """Counts a sweep's runs, and records the estimate of the time left."""

    def __init__(
        self,
        queue: Queue,
        store: Store,
        runs: dict[str, Run],
        seconds: dict[str, float],
        *,
        workers: int,
        commands: CommandSpeed | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`runs` are all runs of the sweep; `seconds` are the estimates for the missing ones.

        Both grow in an adaptive sweep. `commands` is the speed of the command that trains the runs,
        as far as it is known; None for our own trainer.
        """
        self._queue, self._store, self._workers, self._clock = queue, store, workers, clock
        self._runs, self._seconds = runs, seconds
        self._pace = Pace()
        self._times = None if commands is None else CommandTimes(commands)
        self._timed = 0
        """Number of outcomes whose time was noted."""
        self._begun = False
        self._known: dict[str, Outcome] = {}
        """{run_id: outcome} of the runs that have finished."""
        self._C: dict[str, float] = {}
        """{run_id: FLOPs, or tokens} of the runs."""
        self._keys: dict[str, Hashable] = {}
        """{run_id: pack key} of the missing runs."""
        self._stored: dict[str, float] = {}
        """{run_id: fraction that its checkpoint holds} of the runs that do not train now."""
        self._stale: dict[str, float | None] = {}
        """{run_id: time of the last report} when that checkpoint was looked at."""
        self._reporting: set[str] = set()
        """Runs that a worker has reported on since it took them."""
        self._done: dict[str, float] = {}
        """{run_id: fraction trained} when last counted."""
        self._running: dict[str, Job] = {}
        """Running jobs when last counted."""
        self._counted = self._recorded = clock()
        self._record_interval = 0.0
        self._lock = threading.Lock()
        self.count()

    # -------------------------------------------------------------- counting

    def count(self) -> Count:
        """Return the numbers of this moment, and record the estimate from time to time."""
        with self._lock:  # a live display counts in a thread
            return self._count()

    def _count(self) -> Count:
        running = dict(self._queue.running)
        finished = self._finished(running)
        over = {outcome.run_id for outcome in finished}
        done = self._fractions(running, over)
        self._observe(running, done)
        jobs = self._jobs(running, over, done)
        known = self._times is None or self._times.speed.samples > 0
        missing = self._seconds.keys() - over
        for run_id, run in list(self._runs.items()):
            if run_id not in self._C:
                self._C[run_id] = size.work_of(run)
        C_done = sum(C for run_id, C in self._C.items() if run_id not in missing)
        C_done += sum(done[run_id] * self._C[run_id] for run_id in missing & self._C.keys())
        words = f"{len(self._runs) - len(missing)}/{len(self._runs)} runs"
        for status in STATUSES[1:]:
            if number := sum(outcome.status == status for outcome in finished):
                words += f", {number} {status}"
        state = BUDGET_SPENT if self._queue.held_back else ""
        state = STOPPING if self._queue.stopping else state
        self._record(jobs if known else [], state)
        return Count(
            C_done=C_done,
            C=sum(self._C.values()),
            unit=size.unit_of(self._runs.values()),
            seconds=seconds_left(jobs, done, self._workers) if known or not jobs else None,
            runs=words,
            state=state,
            begun=self._begun,
            finished=tuple(finished),
        )

    def end(self) -> Count:
        """Return the last numbers; record the last estimate, or remove it if no run is missing."""
        self._record_interval = 0.0
        last = self.count()
        if not self._seconds.keys() - self._known.keys():
            remove(self._store)
        return last

    def _finished(self, running: dict[str, Job]) -> list[Outcome]:
        """Return how runs ended, in the order seen, including those of a pack that still trains."""
        packs = [job for job in running.values() if len(job.runs) > 1]
        for run_id in (run.run_id for job in packs for run in job.runs):
            if run_id in self._known or not self._store.has_result(run_id):
                continue
            with contextlib.suppress(StoreError):  # the driver reports it
                if result := self._store.result(run_id):
                    row = result.row
                    outcome = Outcome(run_id, row["status"], row["error"] or "", row["L"])
                    self._known[run_id] = outcome
        for outcome in self._queue.outcomes:
            if outcome.status in STATUSES:
                self._known.setdefault(outcome.run_id, outcome)
        return list(self._known.values())

    def _fractions(self, running: dict[str, Job], over: set[str]) -> dict[str, float]:
        """Return {run_id: fraction trained} of the runs that were missing at the start.

        A run that does not train now counts with what its checkpoint holds.
        """
        for id, job in self._running.items():
            for run in job.runs if id not in running else ():
                self._stored.pop(run.run_id, None)
        new = [id for id in list(self._seconds) if id not in self._stored and id not in over]
        last = self._store.progress_of(new)
        reports = {}
        for job in running.values():
            ids = [run.run_id for run in job.runs if run.run_id not in over]
            reports |= self._store.progress_of(ids, one_job=True)
        done = {}
        self._reporting.clear()
        for run_id in list(self._seconds):
            D = self._runs[run_id].D
            if run_id in over:
                done[run_id] = 1.0
                continue
            if run_id not in self._stored:
                own = last.get(run_id, {})
                self._stored[run_id] = self._store.fraction_done(
                    run_id, D, running=False, report=own
                )
                self._stale[run_id] = own.get("time")
            done[run_id] = self._stored[run_id]
            report = reports.get(run_id)
            # Until a worker that resumes a run reports, the last report may be ahead of it.
            if report and (
                self._stale[run_id] is None or report.get("time") != self._stale[run_id]
            ):
                done[run_id] = min(1.0, report.get("D", 0.0) / D)
                self._reporting.add(run_id)
        return done

    # -------------------------------------------------------------- the time left

    def _observe(self, running: dict[str, Job], done: dict[str, float]) -> None:
        """Compare the time since the last count with what was trained in it."""
        now = self._clock()
        elapsed, self._counted = now - self._counted, now
        if self._times is not None:
            self._observe_commands(self._times, done, now)
            return
        trained = {
            run_id: max(0.0, part - self._done[run_id]) * self._seconds[run_id]
            for run_id, part in done.items()
            if run_id in self._done
        }
        before, self._running, self._done = self._running, running, done
        if not self._begun:  # Ray and its workers take some seconds to start
            self._begun = any(trained.values())
            return
        by_key: dict[Hashable, tuple[float, float]] = {}
        for id, job in running.items():
            if id in before:
                key = self._key(job.runs[0].run_id)
                seconds, work = by_key.get(key, (0.0, 0.0))
                work += sum(trained.get(run.run_id, 0.0) for run in job.runs)
                by_key[key] = seconds + elapsed, work
        busy = min(self._workers, len(before.keys() | running.keys()))
        self._pace.observe(elapsed * busy, sum(trained.values()), by_key, elapsed=elapsed)

    def _observe_commands(self, times: CommandTimes, done: dict[str, float], now: float) -> None:
        outcomes, self._timed = self._queue.outcomes[self._timed :], len(self._queue.outcomes)
        for outcome in outcomes:
            run = self._runs[outcome.run_id]
            if outcome.status == "ok" and isinstance(run, CommandRun):
                times.ended(run, outcome.ended - outcome.started)
        found = {run_id: self._runs[run_id] for run_id in self._reporting}
        running = {id: run for id, run in found.items() if isinstance(run, CommandRun)}
        times.observe(running, done, now)
        self._begun |= bool(running or self._timed)

    def _key(self, run_id: str) -> Hashable:
        if run_id not in self._keys:
            run = self._runs[run_id]
            self._keys[run_id] = None if isinstance(run, CommandRun) else pack_key(run)
        return self._keys[run_id]

    def _whole(self, run_id: str, done: dict[str, float]) -> float:
        """Return the seconds of a whole run, of which the part that is not done has yet to pass."""
        run = self._runs[run_id]
        if self._times is None or not isinstance(run, CommandRun):
            return self._seconds[run_id] * self._pace.factor(self._key(run_id))
        left = self._times.seconds_left(run, self._counted)
        return left / max(_LEAST_PART, 1 - done.get(run_id, 0.0))

    def _jobs(
        self, running: dict[str, Job], over: set[str], done: dict[str, float]
    ) -> list[dict[str, float]]:
        """Return {run_id: corrected seconds} of the missing runs of each job."""
        missing = self._seconds.keys() - over
        jobs = []
        for job in (*running.values(), *self._queue.waiting):
            own = missing & {run.run_id for run in job.runs}
            jobs.append(own)
            missing -= own
        jobs += [{run_id} for run_id in missing]  # between two states of the queue
        return [{run_id: self._whole(run_id, done) for run_id in job} for job in jobs if job]

    def _record(self, jobs: list[dict[str, float]], state: str) -> None:
        now = self._clock()
        if now - self._recorded < self._record_interval:
            return
        Estimate(workers=self._workers, jobs=jobs, state=state).write(self._store)
        self._recorded = self._clock()
        took = self._recorded - now
        self._record_interval = max(_RECORD_SECONDS, _RECORD_SHARE * took)
