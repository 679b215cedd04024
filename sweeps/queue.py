"""Jobs, each of which is done by one worker, and the queue that assigns them.

A job is one run, or several of one pack key that train together (sweeps.packing), or several short
commands that run one after another. Both executors, on Ray and in this process, take jobs from one
:class:`Queue` and call :func:`sweeps.execute.execute`. Importing this module imports neither torch
nor ray.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace

from scaling.columns import STATUSES
from scaling.command_run import Run
from scaling.errors import ConfigError, out_of_memory
from sweeps.adaptive.forecast import Forecast
from sweeps.adaptive.protocols import CurveForecaster
from sweeps.errors import StoreError, headline
from sweeps.result import failed_row
from sweeps.runner.runner import Runner
from sweeps.store import Store

LEASE_PATIENCE = 120.0
"""Seconds to wait for a run's lock, which may be held by a worker that outlives its driver. NFSv4
keeps the locks of a dead machine for 90 s."""

_OF_A_GPU = re.compile(r"CUDA|CUBLAS|CUDNN|cuBLAS|cuDNN|NCCL|\bHIP\b")
"""Found in errors about the memory of a GPU, as opposed to that of its machine."""

_SHORT_SECONDS = 1.0
"""Commands that take less than this are run several per job, because a job costs some time."""

_BATCH_SECONDS = 3.0
"""Longest expected time of such a job."""

_RECENT = 50
"""Number of outcomes from which the time of the next commands is estimated."""
_REVISIT_PATIENCE = 1.0
"""Seconds to wait for a run that another driver of the same folder holds, at each later visit."""

_MERGE_SECONDS = 60.0
"""Seconds between merges into the table while runs finish, so that laws can be fitted to them."""


@dataclass(frozen=True)
class Shared:
    """How a job is shared with other drivers of the same folder."""

    retries: int
    """Number of further attempts for a run whose process died."""
    visits: int = 0
    """How often another driver held the run."""


@dataclass(frozen=True)
class Job:
    """Runs for one worker, and their expected time."""

    runs: tuple[Run, ...]
    seconds: float
    """Estimated seconds on one worker, by which the queue is ordered."""
    slots: int = 1
    """Number of runs that train at once; the others wait for a free slot in the pack."""
    _: KW_ONLY
    compile: bool = False
    """Whether to train with torch.compile."""
    halving: float | None = None
    """Stop a run early if it is not among the best 1/halving of its family
    (sweeps.adaptive.halving)."""
    win: float | None = None
    """With `halving`: stop a run early if it is less likely than this to end as the best."""
    forecast: Forecast | None = None
    """Stop runs whose end is known well enough for this question (sweeps.adaptive.forecast)."""
    forecaster: CurveForecaster | None = field(default=None, compare=False)
    """Forecasts for `win` and `forecast`; None for the default."""
    alone: bool = False
    """Train with nothing else on the GPU, because memory ran out beside other jobs."""
    shared: Shared | None = None
    """Set if other drivers work on the same folder: a run that one of them holds is visited
    again later."""
    texts: Mapping[str, str] | None = field(default=None, compare=False)
    """Hashes of the texts at the start of the sweep (scaling.data.corpus.hashes). The runs refuse
    to train on other texts."""

    runner: Runner | None = field(default=None, compare=False)
    """How the runs are trained, if by commands."""

    def of(self, runs: Sequence[Run]) -> Job:
        """Return a job of some of these runs, with their share of the time."""
        share = self.seconds * len(runs) / len(self.runs)
        slots = max(1, min(self.slots, len(runs)))
        return replace(self, runs=tuple(runs), seconds=share, slots=slots)

    @property
    def id(self) -> str:
        """The joined ids of the runs; for a single run, its id."""
        return "-".join(run.run_id for run in self.runs)

    @property
    def patience(self) -> float:
        """Seconds to wait for a run that another process holds."""
        if self.shared is None:
            return LEASE_PATIENCE
        return _REVISIT_PATIENCE if self.shared.visits else 0.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended on a worker. Plain data, which travels between processes."""

    run_id: str
    status: str
    """One of scaling.columns.STATUSES if a result is stored; interrupted if a checkpoint is stored;
    busy if another process holds the run; memory if memory ran out; error for any other, possibly
    temporary fault."""
    error: str = ""
    L: float | None = None
    _: KW_ONLY
    pid: int = 0
    started: float = 0.0
    ended: float = 0.0
    """Seconds on the worker's monotonic clock."""
    elsewhere: bool = False
    """Whether another driver of the folder has trained the run."""


@dataclass
class Queue:
    """Waiting and running jobs.

    The most expensive are assigned first, so that no worker is idle at the end; but the cheapest if
    runs stop on forecasts, because cheap runs teach the law that spares expensive ones.
    """

    store: Store
    retries: int
    """Number of further attempts for a run whose worker died."""
    _waiting: list[tuple[tuple[int, bool, float], int, Job]] = field(default_factory=list)
    running: dict[str, Job] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    """Outcomes of runs in this session, oldest first."""
    stopping: bool = False
    """Whether to assign no more jobs."""
    fatal: ConfigError | StoreError | None = None
    """Why the sweep must end: a result cannot be stored, or the spec has a mistake."""
    admits: Callable[[Job], bool] = lambda job: True
    """Returns whether the budget lets a job begin."""
    held_back: list[Job] = field(default_factory=list)
    """Jobs that the budget does not allow to begin."""
    on_finish: Callable[[Outcome], None] = lambda outcome: None
    """Called with every run that has finished, with or without a loss."""
    workers_per_gpu: int = 0
    """Number of workers that share a GPU: 1 if each has its own, 0 if they train on CPUs."""
    workers: int = 0
    """Number of workers that take jobs; 0 without Ray, where a job costs nothing."""
    writing: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(True)
    """Holds the merged table; yields False if another driver of the folder holds it."""
    stand_by: Callable[[], bool] = lambda: True
    """Returns whether to wait for runs that other drivers of the folder hold."""
    left_to_others: list[Job] = field(default_factory=list)
    """Jobs that other drivers of the folder hold and this one does not wait for."""
    _alone: list[Job] = field(default_factory=list)
    """Jobs for which the machine ran out of memory while others ran; they are tried again with
    nothing else running."""
    _number: int = 0
    _next_merge: float = field(default_factory=lambda: time.monotonic() + _MERGE_SECONDS)

    def add(self, jobs: Iterable[Job]) -> None:
        """Add jobs that wait for a worker."""
        for job in jobs:
            first = job.seconds if job.forecast else -job.seconds
            visits = job.shared.visits if job.shared else 0
            heapq.heappush(self._waiting, ((visits, job.alone, first), self._number, job))
            self._number += 1

    def take(self) -> Job | None:
        """Return the waiting job that comes first; None if no job waits or may start."""
        if self.stopping or self.fatal or any(job in self._alone for job in self.running.values()):
            return None
        self._leave_to_others()
        while self._waiting and not self.admits(self._waiting[0][2]):
            job = heapq.heappop(self._waiting)[2]
            if len(job.runs) > 1:
                self.add(job.of([run]) for run in job.runs)  # the budget may admit some of them
            else:
                self.held_back.append(job)
        if self._waiting:
            job = self._with_others(heapq.heappop(self._waiting)[2])
        elif self._alone and not self.running:
            job = self._alone[0]
        else:
            return None
        self.running[job.id] = job
        return job

    def _with_others(self, job: Job) -> Job:
        """Return a job together with those that wait after it, if they are short commands.

        The time of each is that of the last ones. The jobs shorten towards the end of the sweep, so
        that all workers end at about the same time.
        """
        if job.runner is None or job.alone or job.shared or not self.workers:
            return job
        spans = [o.ended - o.started for o in self.outcomes[-_RECENT:] if o.status in STATUSES]
        mean = sum(spans) / len(spans) if spans else _SHORT_SECONDS
        if mean >= _SHORT_SECONDS:
            return job
        share = math.ceil((1 + len(self._waiting)) / (2 * self.workers))
        number = min(share, int(_BATCH_SECONDS / max(mean, 0.01)))
        runs, seconds = list(job.runs), job.seconds
        while len(runs) < number and self._waiting:
            other = self._waiting[0][2]
            if other.runner is None or other.alone or not self.admits(other):
                break
            heapq.heappop(self._waiting)
            runs += other.runs
            seconds += other.seconds
        return replace(job, runs=tuple(runs), seconds=seconds)

    def _leave_to_others(self) -> None:
        """Drop the first jobs if other drivers have finished them; or all, if other drivers hold
        them and another one stands by."""
        while self._waiting and (shared := self._waiting[0][2].shared):
            job = self._waiting[0][2]
            (run,) = job.runs
            if self.store.has_result(run.run_id) and (found := self.store.result(run.run_id)):
                heapq.heappop(self._waiting)
                row = found.row
                self._note(Outcome(run.run_id, row["status"], L=row["L"], elsewhere=True))
                continue
            if shared.visits and not self.stand_by():
                self.left_to_others += [job for _, _, job in self._waiting]
                self._waiting.clear()
            return

    @property
    def waiting(self) -> list[Job]:
        """Jobs that wait for a worker, in no order, including those that the budget holds back."""
        return [job for _, _, job in list(self._waiting)] + list(self._alone) + list(self.held_back)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is running and nothing is left to assign."""
        ended = self.stopping or self.fatal is not None or not (self._waiting or self._alone)
        return not self.running and ended

    def finish(self, job: Job, outcomes: list[Outcome]) -> None:
        """Record the outcomes of a job that a worker has ended; unfinished runs wait again."""
        beside = self._leave(job)
        by_id = {run.run_id: run for run in job.runs}
        self._again(job, [by_id[o.run_id] for o in outcomes if o.status == "interrupted"])
        for outcome in outcomes:
            run = by_id[outcome.run_id]
            self._note(outcome)
            if outcome.status == "memory" and self._may_blame_others(job, outcome.error, beside):
                self._try_alone([job.of([run])], outcome.error)
            elif outcome.status in ("memory", "error"):
                self._charge(run, job, outcome.error)
            elif outcome.status == "busy" and job.shared:
                self._visit_later(job.of([run]), job.shared)
            elif outcome.status == "busy":
                folder = self.store.shown(self.store.run_folder(run.run_id))
                self.fatal = StoreError(
                    f"{folder} is held by another process, which did not release it within "
                    f"{LEASE_PATIENCE:.0f} s. End that process, or wait for it."
                )
        self._merge_if_due()

    def crash(self, jobs: list[Job], error: str) -> None:
        """Record that the workers of these jobs died.

        If memory ran out while several jobs shared it, it is not known which one is to blame: each
        is tried again later, alone on its GPU or, for the memory of the machine, with nothing else
        running; only a death there counts as an attempt. Nor is it known which run of a pack is to
        blame: each makes its last attempt alone.
        """
        memory, beside = out_of_memory(error), len(self.running) - 1
        for job in jobs:
            shared = memory and self._may_blame_others(job, error, beside)
            self._leave(job)
            left = []
            for run in job.runs:
                if finished := self.store.result(run.run_id):  # it died after storing its result
                    self._note(Outcome(run.run_id, finished.row["status"]))
                else:
                    left.append(run)
            if job.runner is not None:  # one after another, so it is known which one had begun
                begun = [run for run in left if self._has_begun(run)] or left[:1]
                self._again(job, [run for run in left if run not in begun])
                left = begun
            if shared or (memory and len(left) > 1):
                self._try_alone([job.of([run]) for run in left], error)
            elif len(left) == 1:
                self._charge(left[0], job, error)
            else:
                self._charge_pack(left, job, error)

    def release(self, job: Job) -> None:
        """Return a job to the queue whose worker ended through no fault of the job."""
        self._leave(job)
        self._again(job, [run for run in job.runs if self.store.result(run.run_id) is None])

    def _again(self, job: Job, runs: list[Run]) -> None:
        """Return the remaining runs of a job to the queue."""
        if job.runner is not None:
            self.add(job.of([run]) for run in runs)
        else:
            self.add([job.of(runs)] if runs else [])

    def _has_begun(self, run: Run) -> bool:
        """Return whether a run was under way when its worker died."""
        return [e.get("event") for e in self.store.attempts(run.run_id)][-1:] == ["start"]

    def _visit_later(self, job: Job, shared: Shared) -> None:
        self.add([replace(job, shared=replace(shared, visits=shared.visits + 1))])

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if outcome.status in STATUSES and not outcome.elsewhere:
            self.on_finish(outcome)

    def _merge_if_due(self) -> None:
        """Merge from time to time, so that a running sweep can be fitted and plotted."""
        if (start := time.monotonic()) < self._next_merge or self.fatal:
            return
        try:
            with self.writing() as held:
                if held:
                    self.store.merge()
        except StoreError as trouble:
            self.fatal = trouble
        end = time.monotonic()
        self._next_merge = end + max(_MERGE_SECONDS, 100 * (end - start))

    def _leave(self, job: Job) -> int:
        """Record that a job is no longer running, and return the number of other running jobs."""
        self.running.pop(job.id, None)
        if job in self._alone:
            self._alone.remove(job)
        return len(self.running)

    def _may_blame_others(self, job: Job, error: str, beside: int) -> bool:
        """Return whether other jobs, of which `beside` were running, may have taken the memory that
        a job lacked."""
        if self._of_a_gpu(error) and (job.alone or self.workers_per_gpu == 1):
            return False
        return beside > 0

    def _try_alone(self, jobs: list[Job], error: str) -> None:
        """Let jobs that lacked memory wait until they have all of it: that of one GPU, or else of
        all machines."""
        if self._of_a_gpu(error):
            self.add(replace(job, alone=self.workers_per_gpu > 1) for job in jobs)
        else:
            self._alone += jobs

    def _of_a_gpu(self, error: str) -> bool:
        return self.workers_per_gpu > 0 and _OF_A_GPU.search(error) is not None

    def _charge_pack(self, runs: list[Run], job: Job, error: str) -> None:
        """Count a failed attempt of a pack: its runs train together again, or alone for the last
        time."""
        try:
            together = [run for run in runs if self.store.killed(run.run_id) < self.retries]
            for run in together:
                self.store.note(run.run_id, "killed", error=error)
            self._again(job, together)
            self.add(job.of([run]) for run in runs if run not in together)
        except StoreError as trouble:
            self.fatal = trouble

    def _charge(self, run: Run, job: Job, error: str) -> None:
        """Count a failed attempt of a run; after too many, the run has failed."""
        try:
            if job.shared is None:
                reason = charge(self.store, run, error, self.retries)
            else:
                with self.store.lease(run.run_id) as held:
                    if not held or self.store.result(run.run_id):  # another driver took it over
                        self._visit_later(job.of([run]), job.shared)
                        return
                    reason = charge(self.store, run, error, self.retries)
            if reason:
                self._note(Outcome(run.run_id, "failed", reason))
            elif out_of_memory(error):
                self._try_alone([job.of([run])], error)
            else:
                self.add([job.of([run])])
        except StoreError as trouble:
            self.fatal = trouble


def charge(store: Store, run: Run, error: str, retries: int) -> str:
    """Count a failed attempt of a run. After too many, store it as failed and return the reason."""
    store.note(run.run_id, "killed", error=error)
    deaths = store.killed(run.run_id)
    if deaths <= retries:
        return ""
    store.log(run.run_id, error)
    reason = headline(error)
    reason = f"{deaths} attempts ended badly; the last: {reason}" if deaths > 1 else reason
    store.finish(failed_row(run, reason), [])
    return reason


def busy_and_idle(queue: Queue) -> tuple[float, float, int]:
    """Return the seconds that workers trained, the seconds between jobs, and the number of jobs."""
    by_worker: dict[int, list[tuple[float, float]]] = {}
    for outcome in queue.outcomes:
        if outcome.pid:
            by_worker.setdefault(outcome.pid, []).append((outcome.started, outcome.ended))
    busy = idle = 0.0
    for spans in by_worker.values():
        spans.sort()
        busy += sum(end - start for start, end in spans)
        idle += sum(b[0] - a[1] for a, b in itertools.pairwise(spans))
    return busy, idle, sum(map(len, by_worker.values()))
