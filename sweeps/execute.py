"""Execution of a job in the process that trains it: its runs one by one, or as a pack."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TextIO

from scaling.config import RunConfig
from scaling.errors import ConfigError, out_of_memory
from scaling.execution import Execution
from scaling.files import open_to_append
from sweeps.early_stopping import Halving
from sweeps.errors import StoreError, headline, writing
from sweeps.queue import LEASE_PATIENCE, Job, Outcome
from sweeps.result import Point, Row, failed_row
from sweeps.store import Store

_STOP_CHECK_SECONDS = 0.2


class _Stopped(Exception):
    """Training stopped because it was asked to; its checkpoint is written."""


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
    from scaling.errors import CorpusError
    from scaling.training.train import Interrupted, Result, train_pack

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
            if not held.enter_context(store.lease(run.run_id, patience=LEASE_PATIENCE)):
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
    with store.lease(run.run_id, patience=LEASE_PATIENCE) as held:
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
    from scaling.errors import CorpusError
    from scaling.training.checkpoint import CHECKPOINT
    from scaling.training.train import Interrupted, train

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
