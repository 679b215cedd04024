"""Execution of a job in the process that trains it.

The runs of a job train as one pack; a single run is a pack of one. When a pack raises, it is not
known which run is to blame, so each remaining run trains again as a pack of one.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from scaling.columns import STATUSES
from scaling.command_run import CommandRun, Run
from scaling.errors import ConfigError, CorpusError, out_of_memory
from scaling.execution import Execution
from scaling.files import open_to_append
from scaling.training.result import GiveUp, Interrupted, Progress, Result
from sweeps.early_stopping import Halving
from sweeps.errors import StoreError, headline, writing
from sweeps.forecast_stopping import ForecastStopping
from sweeps.job_reports import JobReports, on_shared_storage
from sweeps.queue import Job, Outcome, charge
from sweeps.result import Point, Row, failed_row
from sweeps.runner.attempt import train_command
from sweeps.runner.ending import CommandError, Preempted
from sweeps.runner.runner import WORK
from sweeps.runner.starting import shown
from sweeps.sharing import look_anew
from sweeps.store import Store

_STOP_CHECK_SECONDS = {"local": 0.2, "shared": 1.0}
"""Seconds between looks for the file that stops workers, by the kind of storage."""

_BATCH_SECONDS = 6.0
"""Seconds after which a job of several commands returns those that have not begun."""

_BRIEF_SECONDS, _MOST_BRIEF = 60.0, 20
"""A command that is preempted within this time [s], this often in a row, counts as failing."""

_DIED = "its process died"
"""Error of an attempt of another driver of the folder that ended without a word."""


def execute(
    job: Job, store: Store, execution: Execution, should_stop: Callable[[], bool]
) -> list[Outcome]:
    """Train the runs of a job, store each result when its run ends, and return the outcomes.

    Raises StoreError if a result cannot be stored, and ConfigError for a run that cannot be trained
    as configured: a mistake in the spec is not a result, so it ends the sweep.
    """
    if job.runner is not None:
        return _one_after_another(job, store, execution, should_stop)
    execution = replace(execution, compile=job.compile)
    outcomes = _Attempt(job, store, execution, should_stop).train()
    ended = {outcome.run_id for outcome in outcomes}
    for run in job.runs:
        if run.run_id not in ended:
            outcomes += _Attempt(job.of([run]), store, execution, should_stop).train()
    return outcomes


def _one_after_another(
    job: Job, store: Store, execution: Execution, should_stop: Callable[[], bool]
) -> list[Outcome]:
    """Run the commands of a job. Those that would begin late are returned as interrupted.

    Several are short: their results reach the disk together, before they are returned.
    """
    outcomes: list[Outcome] = []
    start = time.monotonic()
    for run in job.runs:
        if outcomes and time.monotonic() - start > _BATCH_SECONDS:
            outcomes.append(Outcome(run.run_id, "interrupted"))
        else:
            attempt = _Attempt(job.of([run]), store, execution, should_stop)
            attempt.sync = len(job.runs) == 1
            outcomes += attempt.train()
    if len(job.runs) > 1:
        store.sync_results(o.run_id for o in outcomes if o.status in STATUSES)
    return outcomes


class _Attempt:
    """One attempt to train the runs of a job as a pack."""

    def __init__(
        self, job: Job, store: Store, execution: Execution, should_stop: Callable[[], bool]
    ) -> None:
        self._job, self._store, self._execution = job, store, execution
        self._should_stop = should_stop
        shared = on_shared_storage(store.folder)
        self._stop = _rate_limited(
            should_stop, _STOP_CHECK_SECONDS["shared" if shared else "local"]
        )
        self._open: dict[str, Run] = {}
        """{run_id: run} of the runs whose lease is held and which have not ended."""
        self._outcomes: list[Outcome] = []
        self.sync = True
        """Whether each result is on the disk before the next run begins."""
        self._resumed = False
        """Whether a command has begun before."""
        self._last_end = time.monotonic()

    def train(self) -> list[Outcome]:
        """Train the runs, from their checkpoints if there are any, and return their outcomes.

        A run without an outcome must train again alone, because the pack raised.
        """
        if self._should_stop():
            return [Outcome(run.run_id, "interrupted") for run in self._job.runs]
        with contextlib.ExitStack() as held:
            for run in self._job.runs:
                self._hold(run, held)
            if not self._open:
                return self._outcomes
            self._note_start()
            log = held.enter_context(self._log(next(iter(self._open))))
            self._reports = JobReports(self._store, list(self._open))
            try:
                with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                    self._train(log)
            finally:
                finished = all(outcome.status in STATUSES for outcome in self._outcomes)
                self._reports.end(finished=finished and not self._open)
        return self._outcomes

    def _hold(self, run: Run, held: contextlib.ExitStack) -> None:
        """Create a run's folder and hold its lease until `held` closes."""
        run_id, shared = run.run_id, self._job.shared
        held.enter_context(writing(self._store.shown(self._store.run_folder(run_id))))
        if not held.enter_context(self._store.lease(run_id, patience=self._job.patience)):
            self._end(run_id, "busy")
            return
        folder = self._store.begin(run)
        if shared:
            look_anew(folder)
        if finished := self._store.result(run_id):
            row = finished.row
            self._end(run_id, row["status"], L=row["L"], elsewhere=shared is not None)
        elif (
            shared
            and self._store.died(run_id)
            and (reason := charge(self._store, run, _DIED, shared.retries))
        ):
            self._end(run_id, "failed", reason)
        else:
            self._open[run_id] = run

    def _note_start(self) -> None:
        pack = {"pack": len(self._open), "slots": self._job.slots} if len(self._open) > 1 else {}
        if (runner := self._job.runner) is not None:
            run = next(iter(self._open.values()))
            assert isinstance(run, CommandRun)
            self._resumed = self._store.has_begun(run.run_id)
            words = shown(run, runner, self._store.run_folder(run.run_id), self._execution)
            self._store.note(run.run_id, "start", pid=os.getpid(), command=words)
            return
        for run_id in self._open:
            details = pack | {"execution": vars(self._execution)}
            self._store.note(run_id, "start", pid=os.getpid(), **details)

    def _log(self, run_id: str) -> TextIO:
        path = self._store.run_folder(run_id) / "output.log"
        with writing(self._store.shown(path)):
            return open_to_append(path)

    def _train(self, log: TextIO) -> None:
        if self._job.runner is not None:
            self._run_command(log)
            return
        from scaling.run_progress import CHECKPOINT
        from scaling.training.train import train_pack

        runs: list[Any] = list(self._open.values())
        folders = [self._store.run_folder(run.run_id) for run in runs]
        resumed = any((folder / CHECKPOINT).exists() for folder in folders)
        start_anew = False
        try:
            train_pack(
                runs,
                slots=self._job.slots,
                execution=self._execution,
                folders=folders,
                on_progress=self._report,
                on_result=self._keep_result,
                should_stop=self._asked_to_stop,
                give_up=self._give_up(),
                texts=self._job.texts,
            )
        except Interrupted:
            for run_id in list(self._open):
                self._store.note(run_id, "interrupted")
                self._end(run_id, "interrupted")
        except (StoreError, CorpusError) as error:
            self._note_refused(error)
            raise
        except Exception as error:
            if len(runs) > 1:
                self._store.check_writable()  # a full disk ends the sweep, not a run
                log.write(f"{traceback.format_exc()}each run is now tried alone.\n")
            else:
                checkpoint = folders[0] / CHECKPOINT if resumed else None
                start_anew = self._blame(runs[0], error, checkpoint, log)
        if start_anew:  # after the handler, where the exception still holds the tensors of the step
            self._train(log)

    def _run_command(self, log: TextIO) -> None:
        run, runner = next(iter(self._open.values())), self._job.runner
        assert isinstance(run, CommandRun) and runner is not None
        folder = self._store.run_folder(run.run_id)
        if not self._resumed and (folder / WORK).exists():
            aside = self._store.set_aside(folder / WORK)
            log.write(
                f"[{WORK} was there before the run began, perhaps written by the command of "
                f"another run; it is kept as {aside.name}, and nothing in it counts]\n"
            )
            log.flush()
        try:
            train_command(
                run,
                runner=runner,
                folder=folder,
                execution=self._execution,
                log=folder / "output.log",
                on_progress=self._report,
                on_result=self._keep_result,
                should_stop=self._asked_to_stop,
                give_up=self._give_up(),
                resumed=self._resumed,
            )
        except Preempted as error:
            self._store.note(run.run_id, "preempted", seconds=time.monotonic() - self._last_end)
            if self._is_often_preempted(run.run_id):
                self._end(run.run_id, "error", f"preempted {_MOST_BRIEF} times ({error})")
            else:
                self._end(run.run_id, "interrupted")
        except Interrupted:
            self._store.note(run.run_id, "interrupted")
            self._end(run.run_id, "interrupted")
        except StoreError:
            raise
        except CommandError as error:
            self._store.check_writable()  # a full disk ends the sweep, not this run
            self._keep(failed_row(run, str(error)), [], [])
        except Exception as error:
            self._blame(run, error, None, log)

    def _is_often_preempted(self, run_id: str) -> bool:
        brief = 0
        for event in self._store.attempts(run_id):
            brief = 0 if event.get("event") == "retry" else brief
            seconds = event.get("seconds")
            if event.get("event") == "preempted" and isinstance(seconds, int | float):
                brief += seconds < _BRIEF_SECONDS
        return brief > _MOST_BRIEF

    def _give_up(self) -> GiveUp | None:
        """Return what stops runs of the job early, if anything does."""
        job = self._job
        if job.forecast:
            return ForecastStopping(self._store, job.forecast, job.forecaster)
        if job.halving:
            return Halving(self._store, job.halving, job.win, job.forecaster)
        return None

    def _blame(self, run: Run, error: Exception, checkpoint: Path | None, log: TextIO) -> bool:
        """End a run whose training raised. Return True if it must start anew instead, because it
        had resumed from `checkpoint`, which may be damaged or from another version."""
        reason = f"{type(error).__name__}: {error}"
        if self._job.runner is not None and isinstance(error, ChildProcessError):
            reason = str(error)
        if isinstance(error, OSError):
            self._store.check_writable()  # a full disk ends the sweep, not this run
            self._end(run.run_id, "error", reason)
        elif out_of_memory(error):
            self._end(run.run_id, "memory", reason)
        elif checkpoint is not None:
            aside = self._store.set_aside(checkpoint) if checkpoint.exists() else checkpoint
            log.write(f"resuming failed ({error}); {aside.name} is kept, the run starts anew.\n")
            return True
        elif isinstance(error, ConfigError):
            self._note_refused(error)
            raise error
        else:
            log.write(trace := traceback.format_exc())
            self._keep(failed_row(run, headline(trace)), [], [])
        return False

    def _note_refused(self, error: Exception) -> None:
        for run_id in self._open:
            with contextlib.suppress(StoreError):  # the first error is more informative
                self._store.note(run_id, "refused", error=str(error))

    def _report(self, run: Run, progress: Progress) -> None:
        self._reports.add(run.run_id, vars(progress) | {"time": time.time()})

    def _asked_to_stop(self) -> bool:
        """Called after every step, when all runs of a pack have reported."""
        self._reports.write_if_due()
        return self._stop()

    def _keep_result(self, result: Result) -> None:
        self._keep(result.row, result.curve, result.tests)

    def _keep(self, row: Row, curve: Sequence[Point], tests: Sequence[Point]) -> None:
        """Store the result of a run that has ended."""
        if self.sync:
            self._store.finish(row, curve, tests)
        else:
            self._store.finish(row, curve, tests, sync=False)
        self._store.note(row["run_id"], row["status"])
        self._end(row["run_id"], row["status"], (row["error"] or "").strip(), row["L"])

    def _end(
        self,
        run_id: str,
        status: str,
        error: str = "",
        L: float | None = None,
        *,
        elsewhere: bool = False,
    ) -> None:
        now = time.monotonic()  # the spans of one worker must not overlap
        outcome = Outcome(
            run_id,
            status,
            error,
            L,
            pid=os.getpid(),
            started=self._last_end,
            ended=now,
            elsewhere=elsewhere,
        )
        self._outcomes.append(outcome)
        self._open.pop(run_id, None)
        self._last_end = now


def _rate_limited(ask: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """Return `ask`, called at most once per `seconds`.

    Training asks after every step, and a step may take less time than a disk access.
    """
    last, answer = 0.0, False

    def asked() -> bool:
        nonlocal last, answer
        if (now := time.monotonic()) - last > seconds:
            last, answer = now, ask()
        return answer

    return asked
