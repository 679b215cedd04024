"""Jobs: what one worker does at a time, the queue that hands them out, and their execution.

A job is one run, or several of one shape that are trained together (sweeps.pack). Both
executors, Ray's and the one in this process, take jobs from one :class:`Queue` and call
:func:`execute`. Importing this imports neither torch nor ray.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from scaling import count, table
from scaling.config import ConfigError, Execution, RunConfig, flatten
from scaling.files import open_to_append
from scaling.memory import out_of_memory
from sweeps.early_stopping import Halving
from sweeps.errors import StoreError, writing
from sweeps.result import Point, Row
from sweeps.store import Store

_LEASE_PATIENCE = 120.0
"""Seconds to wait for a worker that outlived its driver to let go of a run; NFSv4 keeps the locks of
a machine that died for 90."""

_STOP_CHECK_SECONDS = 0.2

_MERGE_SECONDS = 60.0
"""Seconds between merges into the table while runs finish."""


class _Stopped(Exception):
    """Training stopped because it was asked to; its checkpoint is written."""


@dataclass(frozen=True)
class Job:
    """Runs for one worker, and what they are expected to take."""

    runs: tuple[RunConfig, ...]
    seconds: float
    """Estimate for one worker; orders the queue."""
    slots: int = 1
    """How many of the runs train at once; the others wait for a place."""
    compile: bool = False
    """Train them compiled."""
    halving: float | None = None
    """Stop those early that are not among the best 1/halving of their family (sweeps.adaptive.halving)."""
    texts: Mapping[str, str] | None = field(default=None, compare=False)
    """What the call found the texts to be as it began (scaling.corpus.hashes): on others the runs are
    not trained."""

    def of(self, runs: Sequence[RunConfig]) -> Job:
        """Some of these runs as a job of their own."""
        share = self.seconds * len(runs) / len(self.runs)
        slots = max(1, min(self.slots, len(runs)))
        return replace(self, runs=tuple(runs), seconds=share, slots=slots)

    @property
    def id(self) -> str:
        return "-".join(run.run_id for run in self.runs)


@dataclass(frozen=True)
class Outcome:
    """How a run's stay with a worker ended. Plain data: it travels between processes."""

    run_id: str
    status: str
    """One of scaling.table.STATUSES: a result is stored. interrupted: a checkpoint is. busy: some other
    process holds the run. memory, error: lack of memory or other trouble that may pass."""
    error: str = ""
    L: float | None = None
    pid: int = 0
    started: float = 0.0
    ended: float = 0.0
    """Seconds of the worker's own clock, which never jumps."""


@dataclass
class Queue:
    """Jobs waiting and under way, most expensive first. Lives in the driver."""

    store: Store
    retries: int
    """How many more attempts a run gets whose worker died."""
    _waiting: list[tuple[float, int, Job]] = field(default_factory=list)
    running: dict[str, Job] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    """Of everything that ended in this session, oldest first."""
    stopping: bool = False
    fatal: ConfigError | StoreError | None = None
    """Why the sweep cannot go on: nothing more can be stored, or it was asked for what cannot be."""
    admits: Callable[[Job], bool] = lambda job: True
    """Whether the budget lets a job begin."""
    held_back: list[Job] = field(default_factory=list)
    """Jobs that the budget does not let begin."""
    on_finish: Callable[[Outcome], None] = lambda outcome: None
    """Told of every run as it finishes, however it ended."""
    _alone: list[Job] = field(default_factory=list)
    """Jobs that ran out of memory beside others: to be tried with nothing beside them."""
    _number: int = 0
    _next_merge: float = field(default_factory=lambda: time.monotonic() + _MERGE_SECONDS)

    def add(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            heapq.heappush(self._waiting, (-job.seconds, self._number, job))
            self._number += 1

    def take(self) -> Job | None:
        """The most expensive job that waits; None when none does, or none may start now."""
        if self.stopping or self.fatal or any(job in self._alone for job in self.running.values()):
            return None
        while self._waiting and not self.admits(self._waiting[0][2]):
            job = heapq.heappop(self._waiting)[2]
            if len(job.runs) > 1:
                self.add(job.of([run]) for run in job.runs)  # of some of them, perhaps
            else:
                self.held_back.append(job)
        if self._waiting:
            job = heapq.heappop(self._waiting)[2]
        elif self._alone and not self.running:
            job = self._alone[0]
        else:
            return None
        self.running[job.id] = job
        return job

    @property
    def exhausted(self) -> bool:
        """Nothing under way and nothing to hand out."""
        ended = self.stopping or self.fatal is not None or not (self._waiting or self._alone)
        return not self.running and ended

    def finish(self, job: Job, outcomes: list[Outcome]) -> None:
        """A worker has ended a job: note it, and let wait again what has not finished."""
        beside = self._leave(job)
        by_id = {run.run_id: run for run in job.runs}
        self._again(job, [by_id[o.run_id] for o in outcomes if o.status == "interrupted"])
        for outcome in outcomes:
            run = by_id[outcome.run_id]
            self._note(outcome)
            if outcome.status == "memory" and beside:
                self._alone.append(job.of([run]))
            elif outcome.status in ("memory", "error"):
                self._charge(run, job, outcome.error)
            elif outcome.status == "busy":
                folder = self.store.said(self.store.run_folder(run.run_id))
                self.fatal = StoreError(
                    f"{folder} is held by another process, and not let go in "
                    f"{_LEASE_PATIENCE:.0f} s. End that process, or wait for it."
                )
        self._merge_if_due()

    def crash(self, jobs: list[Job], error: str) -> None:
        """Workers died under these jobs.

        Where memory ran out beside other jobs it cannot be known whose fault that was: each is
        tried again on its own, later, and charged only if it dies there. Nor is it known whose
        fault the death of a pack was: its members' last attempts are made alone.
        """
        memory = out_of_memory(error)
        shared = memory and len(self.running) > 1
        for job in jobs:
            self._leave(job)
            left = []
            for run in job.runs:
                if finished := self.store.result(run.run_id):  # it died after storing its result
                    self._note(Outcome(run.run_id, finished.row["status"]))
                else:
                    left.append(run)
            if shared or (memory and len(left) > 1):
                self._alone += [job.of([run]) for run in left]
            elif len(left) == 1:
                self._charge(left[0], job, error)
            else:
                self._charge_pack(left, job, error)

    def release(self, job: Job) -> None:
        """A job's worker was ended for no fault of its own: it waits again."""
        self._leave(job)
        self._again(job, [run for run in job.runs if self.store.result(run.run_id) is None])

    def _again(self, job: Job, runs: list[RunConfig]) -> None:
        """What is left of a job waits again."""
        self.add([job.of(runs)] if runs else [])

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if outcome.status in table.STATUSES:
            self.on_finish(outcome)

    def _merge_if_due(self) -> None:
        """Now and then, so that a sweep under way can be fitted and plotted."""
        if (start := time.monotonic()) < self._next_merge or self.fatal:
            return
        try:
            self.store.merge()
        except StoreError as trouble:
            self.fatal = trouble
        end = time.monotonic()
        self._next_merge = end + max(_MERGE_SECONDS, 100 * (end - start))

    def _leave(self, job: Job) -> int:
        """A job is no longer under way; returns how many others are."""
        self.running.pop(job.id, None)
        if job in self._alone:
            self._alone.remove(job)
        return len(self.running)

    def _charge_pack(self, runs: list[RunConfig], job: Job, error: str) -> None:
        """Count an attempt of a pack that ended badly: together again, or each for the last time."""
        try:
            together = [run for run in runs if self.store.killed(run.run_id) < self.retries]
            for run in together:
                self.store.note(run.run_id, "killed", error=error)
            self._again(job, together)
            self.add(job.of([run]) for run in runs if run not in together)
        except StoreError as trouble:
            self.fatal = trouble

    def _charge(self, run: RunConfig, job: Job, error: str) -> None:
        """Count an attempt that ended badly; too many, and the run has failed."""
        try:
            self.store.note(run.run_id, "killed", error=error)
            deaths = self.store.killed(run.run_id)
            if deaths <= self.retries:
                if out_of_memory(error):
                    self._alone.append(job.of([run]))
                else:
                    self.add([job.of([run])])
                return
            self.store.log(run.run_id, error)
            said = f"{deaths} attempts ended badly; the last: {headline(error)}"
            self.store.finish(failed_row(run, said), [])
            self._note(Outcome(run.run_id, "failed", said))
        except StoreError as trouble:
            self.fatal = trouble


def headline(error: str) -> str:
    """The one line of an error that says most, without the folders of absolute paths.

    The last line of a traceback, the line about memory where that ran out, else the first. Names of
    our own and of Ray's exceptions are left out: their messages say it all.
    """
    lines = error.strip().splitlines() or ["no message"]
    if "Traceback (most recent call last)" in error:
        line = lines[-1]
    else:
        line = next((line.strip() for line in lines if out_of_memory(line)), lines[0])
    line = re.sub(r"^(?:scaling|sweeps|ray)\.[\w.]+: ", "", line)
    return re.sub(r"(?<![\w./])/(?:[^\s/'\":]+/)+", "", line)


def failed_row(run: RunConfig, error: str) -> Row:
    """The table's row of a run that has no loss: its sizes and what happened."""
    size = count.parameters(run.model, run.data.vocab_size)
    per_token = {
        name: count.flops_per_token(run.model, run.data.vocab_size, name)
        for name in count.CONVENTIONS
    }
    row: Row = {column.name: "" if column.dtype == "str" else None for column in table.COLUMNS}
    return (
        row
        | table.config_row(flatten(run))
        | {
            "run_id": run.run_id,
            "status": "failed",
            "N": size.N,
            "N_total": size.N_total,
            "D": run.D,
            "C": per_token["6N"] * run.D,
            "C_kaplan": per_token["kaplan"] * run.D,
            "C_chinchilla": per_token["chinchilla"] * run.D,
            "C_matmul": per_token["matmul"] * run.D,
            "B": run.batch_tokens,
            "S": run.S,
            "vocab_size": run.data.vocab_size,
            "error": error,
        }
    )


def execute(
    job: Job, store: Store, execution: Execution, should_stop: Callable[[], bool]
) -> list[Outcome]:
    """Train the runs of a job and store each result.

    Raises StoreError where it cannot be stored, ConfigError for a run that cannot be trained as
    asked: a mistake of the spec is no result.
    """
    execution = replace(execution, compile=job.compile)
    halving = Halving(store, job.halving) if job.halving else None
    packed = len(job.runs) > 1
    outcomes = _together(job, store, execution, should_stop, halving) if packed else []
    ended = {outcome.run_id for outcome in outcomes}
    for run in job.runs:
        if run.run_id not in ended:
            with writing(store.said(store.run_folder(run.run_id))):
                outcomes.append(_execute(run, store, execution, should_stop, halving, job.texts))
    return outcomes


def _together(
    job: Job,
    store: Store,
    execution: Execution,
    should_stop: Callable[[], bool],
    halving: Halving | None,
) -> list[Outcome]:
    """Train the runs of a job as one pack, and store each result as its run ends.

    Runs without an outcome are left for :func:`_execute`: the pack raised, and it is not known on
    whose account.
    """
    from scaling.corpus import CorpusError
    from scaling.train import Interrupted, Result, train_pack

    outcomes: list[Outcome] = []
    runs: dict[str, RunConfig] = {}
    begin = time.monotonic()

    def ended(run_id: str, status: str, error: str = "", L: float | None = None) -> None:
        nonlocal begin
        now = time.monotonic()  # spans of one worker do not overlap
        outcomes.append(Outcome(run_id, status, error, L, os.getpid(), begin, now))
        runs.pop(run_id, None)
        begin = now

    def keep(result: Result) -> None:
        row = result.row
        store.finish(row, result.curve, result.tests)
        store.note(row["run_id"], row["status"])
        ended(row["run_id"], row["status"], (row["error"] or "").strip(), row["L"])

    if should_stop():
        return [Outcome(run.run_id, "interrupted") for run in job.runs]
    with contextlib.ExitStack() as held:
        for run in job.runs:
            held.enter_context(writing(store.said(store.run_folder(run.run_id))))
            store.begin(run)
            if not held.enter_context(store.lease(run.run_id, patience=_LEASE_PATIENCE)):
                ended(run.run_id, "busy")
            elif finished := store.result(run.run_id):
                ended(run.run_id, finished.row["status"], L=finished.row["L"])
            else:
                runs[run.run_id] = run
        for run_id in runs:
            details = {"pack": len(runs), "slots": job.slots, "execution": vars(execution)}
            store.note(run_id, "start", pid=os.getpid(), **details)
        log = held.enter_context(_log(store, job.runs[0].run_id))
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                train_pack(
                    list(runs.values()),
                    slots=job.slots,
                    execution=execution,
                    folders=[store.run_folder(run_id) for run_id in runs],
                    on_progress=lambda run, progress: _report(store, run, progress),
                    on_result=keep,
                    should_stop=_now_and_then(should_stop),
                    give_up=halving,
                    texts=job.texts,
                )
        except Interrupted:
            for run_id in list(runs):
                store.note(run_id, "interrupted")
                ended(run_id, "interrupted")
        except (StoreError, CorpusError) as error:
            for run_id in runs:
                store.note(run_id, "refused", error=str(error))
            raise
        except Exception:
            store.check_writable()  # a full disk ends the sweep, not a run
            log.write(f"{traceback.format_exc()}each run is now tried alone.\n")
    return outcomes


def _log(store: Store, run_id: str) -> TextIO:
    path = store.run_folder(run_id) / "output.log"
    with writing(store.said(path)):
        return open_to_append(path)


def _report(store: Store, run: RunConfig, progress: Any) -> None:
    store.report_progress(run.run_id, vars(progress) | {"time": time.time()})


def _now_and_then(ask: Callable[[], bool]) -> Callable[[], bool]:
    """Training asks after every step, which may take less time than looking at the disk."""
    last, answer = 0.0, False

    def asked() -> bool:
        nonlocal last, answer
        if (now := time.monotonic()) - last > _STOP_CHECK_SECONDS:
            last, answer = now, ask()
        return answer

    return asked


def _execute(
    run: RunConfig,
    store: Store,
    execution: Execution,
    should_stop: Callable[[], bool],
    halving: Halving | None,
    texts: Mapping[str, str] | None,
) -> Outcome:
    started = time.monotonic()

    def outcome(status: str, error: str = "", L: float | None = None) -> Outcome:
        return Outcome(run.run_id, status, error, L, os.getpid(), started, time.monotonic())

    if should_stop():
        return outcome("interrupted")
    store.begin(run)
    with store.lease(run.run_id, patience=_LEASE_PATIENCE) as held:
        if not held:
            return outcome("busy")
        if finished := store.result(run.run_id):
            return outcome(finished.row["status"], L=finished.row["L"])
        store.note(run.run_id, "start", pid=os.getpid(), execution=vars(execution))
        with _log(store, run.run_id) as log:
            try:
                with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                    row, curve, tests = _train(run, store, execution, should_stop, halving, texts)
            except _Stopped:
                store.note(run.run_id, "interrupted")
                return outcome("interrupted")
            except OSError as error:
                store.check_writable()  # a full disk ends the sweep, not this run
                return outcome("error", f"{type(error).__name__}: {error}")
            except (ConfigError, StoreError) as error:
                store.note(run.run_id, "refused", error=str(error))
                raise
            except Exception as error:
                text = traceback.format_exc()
                if out_of_memory(error):
                    return outcome("memory", f"{type(error).__name__}: {error}")
                log.write(text)
                row, curve, tests = failed_row(run, headline(text)), [], []
        store.finish(row, curve, tests)
        store.note(run.run_id, row["status"])
        return outcome(row["status"], (row["error"] or "").strip(), row["L"])


def _train(
    run: RunConfig,
    store: Store,
    execution: Execution,
    should_stop: Callable[[], bool],
    halving: Halving | None,
    texts: Mapping[str, str] | None,
) -> tuple[Row, list[Point], list[Point]]:
    """Train, from the checkpoint where there is one. _Stopped when asked to stop."""
    from scaling.corpus import CorpusError
    from scaling.train import CHECKPOINT, Interrupted, train

    folder = store.run_folder(run.run_id)

    def attempt() -> tuple[Row, list[Point], list[Point]]:
        try:
            result = train(
                run,
                execution=execution,
                folder=folder,
                on_progress=lambda progress: _report(store, run, progress),
                should_stop=_now_and_then(should_stop),
                give_up=halving,
                texts=texts,
            )
        except Interrupted:
            raise _Stopped from None
        return result.row, result.curve, result.tests

    checkpoint = folder / CHECKPOINT
    if not checkpoint.exists():
        return attempt()
    try:
        return attempt()
    except (_Stopped, MemoryError, OSError, CorpusError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        # The checkpoint may be to blame: damaged, or another version's. From the start once.
        aside = store.set_aside(checkpoint) if checkpoint.exists() else checkpoint
        print(f"resuming failed ({error}); {aside.name} is kept, the run starts anew.")
        return attempt()
