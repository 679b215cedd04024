"""One attempt of a command to train a run: start, reports, end, and what the end means."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from scaling.command_run import CommandRun
from scaling.execution import Execution
from scaling.training.result import GiveUp, Interrupted, Progress, Result
from scaling.units import clock
from sweeps.runner.ending import CommandError, Diverged, declared, failure, last_words, tail_of
from sweeps.runner.process import Ended, Process, Start, end_leftovers, environment, running
from sweeps.runner.reports import Report, ReportReader
from sweeps.runner.rows import row_of
from sweeps.runner.runner import WORK, Runner, filled
from sweeps.runner.several_nodes import Others, reached
from sweeps.runner.starting import (
    device_of,
    free_port,
    log_of,
    start_of,
    threads_of,
    values_of,
)

_LOOK_SECONDS = 0.2
"""Seconds between questions whether to stop."""

_READ_SECONDS = 0.5
"""Seconds between readings of the reports."""

_READING_SHARE = 20
"""Reading reports takes at most one of this many seconds."""


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions of the worker that an attempt reports to, or asks for a decision."""

    on_progress: Callable[[CommandRun, Progress], None]
    on_result: Callable[[Result], None]
    should_stop: Callable[[], bool]
    give_up: GiveUp | None = None


def train_command(
    run: CommandRun,
    *,
    runner: Runner,
    folder: Path,
    execution: Execution,
    log: Path,
    on_progress: Callable[[CommandRun, Progress], None],
    on_result: Callable[[Result], None],
    should_stop: Callable[[], bool],
    give_up: GiveUp | None = None,
    resumed: bool = False,
) -> None:
    """Train a run by its command, in `folder`/work, and pass its result to `on_result`.

    `resumed` says that there was an attempt before, whose processes are ended if they still live.
    Raises Interrupted after `should_stop` has asked for it; Preempted; CommandError for a failure
    that would repeat itself, MemoryError, and ChildProcessError for any other failure.
    """
    callbacks = Callbacks(
        on_progress=on_progress, on_result=on_result, should_stop=should_stop, give_up=give_up
    )
    _Attempt(run, runner, folder / WORK, execution, log, callbacks, resumed).train()


@dataclass
class _Attempt:
    """An attempt under way."""

    run: CommandRun
    runner: Runner
    work: Path
    execution: Execution
    log: Path
    callbacks: Callbacks
    resumed: bool
    _evaluations: int = 0
    """Number of evaluations that `give_up` has seen."""
    _first_D: float | None = None
    """Tokens at the first report, from which the speed is measured."""
    _ending: str = ""
    """Why the command was asked to end: 'interrupted', 'timeout', 'stopped', 'diverged', or 'node'
    if it has failed on another node."""
    _reason: str = ""
    _tail_log: Path | None = None
    """Log of the node on which the command failed first."""
    _log_start: int = 0
    """Size of the log before this attempt."""
    _started: float = field(default_factory=time.monotonic)

    def train(self) -> None:
        """Run the command to its end, and say how it ended."""
        if self.resumed and (left := end_leftovers(self.run.run_id, self.work)):
            print(f"[ended {_processes(left)} of an earlier attempt]", flush=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self._log_start = _size(self.log)
        reader = ReportReader(self.run, self.runner.results, self.work, self.log)
        address, nodes = reached(self.runner.nodes)
        others = Others(nodes, self.runner.grace_seconds)
        try:
            first, *rest = self._starts(address)
        except ValueError as error:  # the folder of the run cannot be quoted
            raise CommandError(f"the command cannot be written: {error}") from None
        self._started = time.monotonic()
        try:
            with running(first) as process:
                try:
                    others.begin(rest)
                    ended = self._follow(process, others, reader)
                finally:
                    others.finish(0.0 if process.ended is None else None)
        except OSError as error:
            raise self._refused(error) from None
        if ended.others:
            print(
                f"[the command left {_processes(ended.others)} behind, which were ended; a command "
                "must not end before everything that it has started]",
                flush=True,
            )
        self._conclude(process, ended, reader)

    # ------------------------------------------------------------ start

    def _starts(self, address: str) -> list[Start]:
        """Return what to start on each node."""
        texts = (*self.run.command, *self.runner.env.values())
        port = free_port(address) if any("{master_port" in text for text in texts) else 0
        starts = []
        for rank in range(self.runner.nodes):
            values = values_of(self.run, self.runner, self.work, self.execution, rank)
            values |= {"master_addr": address, "master_port": port}
            log = log_of(self.log, rank)
            starts.append(start_of(self.run, self.runner, values, log, resumed=self.resumed))
        own = {"OMP_NUM_THREADS": str(threads_of(self.runner, self.execution))} | environment()
        starts[0] = replace(starts[0], env=own | dict(starts[0].env))
        return starts

    def _refused(self, error: OSError) -> Exception:
        """Return the error to raise if the command could not be started."""
        if isinstance(error, ChildProcessError):
            end_leftovers(self.run.run_id, self.work)
            return error
        program = filled(self.run.command[0], values_of(
            self.run, self.runner, self.work, self.execution
        ))  # fmt: skip
        if not self.runner.workdir.is_dir():
            return CommandError(f"workdir = {str(self.runner.workdir)!r} is not a folder")
        if error.errno == errno.ENOENT:
            return CommandError(
                f"the command {program!r} was not found; give its path, relative to workdir = "
                f"{str(self.runner.workdir)!r}, or add its folder to PATH"
            )
        if error.errno in (errno.EACCES, errno.ENOEXEC):
            return CommandError(
                f"the command {program!r} cannot be executed ({error.strerror}); name its "
                "interpreter, as in 'python train.py', or make it executable"
            )
        if error.errno in (errno.EAGAIN, errno.ENOMEM):
            return ChildProcessError(f"the command did not start: {error.strerror}")
        return CommandError(f"the command {program!r} did not start: {error.strerror or error}")

    # ------------------------------------------------------------ while it runs

    def _follow(self, process: Process, others: Others, reader: ReportReader) -> Ended:
        """Wait for the end of the command. Reads its reports and decides whether it continues."""
        interval, read_at = _READ_SECONDS, time.monotonic() + _READ_SECONDS
        beside: Ended | None = None
        timeout = self.runner.timeout_seconds
        while (ended := process.wait(_LOOK_SECONDS)) is None:
            now = time.monotonic()
            if not self._ending:
                if self.callbacks.should_stop():
                    self._end(process, "interrupted")
                elif process.seen:
                    self._end(process, "diverged", process.seen)
                elif timeout is not None and now - self._started > timeout:
                    self._end(process, "timeout")
            if now >= read_at:
                if not self._ending and (failed := others.failed()):
                    rank, beside = failed
                    self._tail_log = log_of(self.log, rank)
                    self._end(process, "node")
                self._report(process, reader.read())
                interval = max(_READ_SECONDS, _READING_SHARE * (time.monotonic() - now))
                read_at = time.monotonic() + interval
        if beside is not None:
            return beside
        if ended.code == 0:  # the last ones may take a moment
            deadline = time.monotonic() + self.runner.grace_seconds
            while others.running and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
        if ended.code == 0 and (failed := others.failed()):
            self._tail_log = log_of(self.log, failed[0])
            return failed[1]
        return ended

    def _end(self, process: Process, why: str, reason: str = "") -> None:
        self._ending, self._reason = why, reason
        process.end(self.runner.grace_seconds)

    def _report(self, process: Process, report: Report) -> None:
        """Pass on what the command has reported so far."""
        evaluations = [p for p in report.curve if _finite(p.get("L"))]
        last = report.curve[-1] if report.curve else {}
        step = report.step
        D = float(step * (self.run.batch_tokens or 0)) or last.get("D", 0.0)
        if self._first_D is None:
            self._first_D = D
        rate = max(0.0, D - self._first_D) / max(1e-9, time.monotonic() - self._started)
        progress = Progress(
            step=step,
            steps=self.run.S or 0,
            D=round(D),
            L=evaluations[-1]["L"] if evaluations else None,
            L_train=last.get("L_train"),
            tokens_per_second=rate,
            curve=[(int(p["S"]), p["L"], p.get("lr")) for p in evaluations],
        )
        self.callbacks.on_progress(self.run, progress)
        if reason := self._given_up(evaluations):
            self._end(process, "stopped", reason)

    def _given_up(self, evaluations: Sequence[dict[str, float]]) -> str:
        """Return why the run is to stop early; '' if it is not."""
        give_up, seen = self.callbacks.give_up, self._evaluations
        self._evaluations = max(seen, len(evaluations))
        if give_up is None or self._ending:
            return ""
        for number in range(seen, len(evaluations)):
            curve = evaluations[: number + 1]
            if self.run.S is not None and curve[-1]["S"] >= self.run.S:
                return ""
            asked: Any = [(self.run, curve)]
            if reason := give_up(asked).get(self.run.run_id):
                return reason
        return ""

    # ------------------------------------------------------------ its end

    def _conclude(self, process: Process, ended: Ended, reader: ReportReader) -> None:
        """Store the result, or raise what the end of the command means."""
        if not ended.asked and self._ending != "node":
            self._ending = ""  # it ended by itself just before
        if self._ending in ("stopped", "diverged"):
            self._keep(reader.read(), self._ending, self._reason)
        elif self._ending == "node":
            self._raise(ended, reader)
        elif self._ending == "timeout" and self._is_complete(reader.read()):
            print(
                f"[the command had reported its result and was ended after "
                f"{clock(self.runner.timeout_seconds or 0)} (timeout_hours)]",
                flush=True,
            )
            self._finish(ended, reader)
        elif self._ending and not (ended.code == 0 and self._is_complete(reader.read())):
            if self._ending == "interrupted":
                raise Interrupted
            raise CommandError(
                f"the command had not ended after {clock(self.runner.timeout_seconds or 0)} "
                f"(timeout_hours){last_words(self._tail())}"
            )
        elif process.seen:
            self._keep(reader.read(), "diverged", process.seen)
        elif ended.code == 0 and declared(self.runner.failures, 0) is None:
            self._finish(ended, reader)
        else:
            self._raise(ended, reader)

    def _finish(self, ended: Ended, reader: ReportReader) -> None:
        """Store the result of a command that has ended well."""
        try:
            report = reader.finish()
        except ValueError as error:
            headline, end, rest = str(error).partition("\n")
            if ended.others:
                headline += f" It also left {_processes(ended.others)} behind, now ended."
            raise CommandError(headline + end + rest) from None
        self._keep(report, "ok", "")

    def _is_complete(self, report: Report) -> bool:
        """Return whether the run had reached its end when its command was asked to end.

        A command that ends well on SIGTERM may have reported the loss of a part of the run.
        """
        final, S = report.final, self.run.S
        if not _finite(final.get("L")):
            return False
        step = report.step if report.L_step is None else report.L_step
        if S is not None and step:
            return step >= S
        D = final.get("D")
        return _finite(D) and "D" in report.stated and D >= self.run.D

    def _raise(self, ended: Ended, reader: ReportReader) -> None:
        """Raise what the exit code and the end of the output mean."""
        report = reader.read()
        error = failure(ended, self.runner.failures, self._tail())
        L = report.final.get("L")
        exploded = isinstance(L, float) and not math.isfinite(L)
        undeclared = declared(self.runner.failures, ended.code) is None
        if isinstance(error, Diverged) or (exploded and undeclared):
            self._keep(report, "diverged", str(error))
        else:
            raise error

    def _keep(self, report: Report, status: str, error: str) -> None:
        """Store the result."""
        seconds = time.monotonic() - self._started
        device = device_of(self.runner, self.execution)
        try:
            row, curve, tests = row_of(
                self.run, report, seconds=seconds, device=device, status=status, error=error
            )
        except ValueError as contradiction:
            raise CommandError(str(contradiction)) from None
        result: Any = Result(self.run, dict(row), list(curve), list(tests))  # type: ignore[arg-type]
        self.callbacks.on_result(result)

    def _tail(self) -> list[str]:
        """Return the last lines that this attempt has printed."""
        if self._tail_log:
            return tail_of(self._tail_log)
        return tail_of(self.log, self._log_start)


def _processes(number: int) -> str:
    return f"{number} process{'' if number == 1 else 'es'}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _finite(value: object) -> TypeGuard[float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value)
