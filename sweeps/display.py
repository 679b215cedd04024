"""The display of a running sweep: live in a terminal, an occasional line elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scaling import size
from scaling.columns import STATUSES
from scaling.config import RunConfig
from scaling.text import printable
from scaling.units import clock, si
from sweeps.errors import StoreError, headline
from sweeps.queue import Outcome, Queue
from sweeps.store import Store

_FIRST_LINE_SECONDS = 5.0
_MAX_LINE_SECONDS = 300.0
"""Longest interval between plain lines. Intervals grow up to it, to keep the log of a long sweep
short."""

_LAST_LOSSES = 4
_LAST_FAILURES = 3

_MAX_ROWS = 20
"""Number of running jobs that the live display shows."""

_ETA_PRIOR_SECONDS = 30.0
"""Weight of the estimated speed relative to the observed one, in seconds of every worker."""


def escaped(console: Console, text: object) -> str:
    """Return an untrusted text in a form that this console can show."""
    return printable(text, getattr(console.file, "encoding", None))


def say(console: Console, text: object) -> None:
    """Print text as it is, without markup, colour or added line breaks."""
    shown = escaped(console, text)
    console.print(shown, highlight=False, soft_wrap=True, markup=False, emoji=False)


def eta(done: float, elapsed: float, remaining: float, workers: int) -> float:
    """Return the seconds left.

    `done` and `remaining` are amounts of work, in estimated seconds of one worker. The observed
    speed corrects the estimate.
    """
    rate = (done + _ETA_PRIOR_SECONDS * workers) / (elapsed + _ETA_PRIOR_SECONDS)
    return remaining / rate


class Display:
    """A context manager that shows the queue while an executor works on it."""

    def __init__(
        self,
        queue: Queue,
        store: Store,
        runs: dict[str, RunConfig],
        seconds: dict[str, float],
        *,
        workers: int,
        console: Console,
    ) -> None:
        """`runs` are all runs of the sweep; `seconds` are the estimates for the missing ones."""
        self._queue, self._store, self._workers, self._console = queue, store, workers, console
        self._runs = runs
        self._C: dict[str, float] = {}
        """{run_id: FLOPs} of the runs."""
        self._known: dict[str, Outcome] = {}
        """{run_id: outcome} of the runs that have finished."""
        self._seconds = seconds
        self._start = time.monotonic()
        self._end = threading.Event()
        self._lines: threading.Thread | None = None
        self._live: Live | None = None
        self._resumed = self._fractions_done()
        """{run_id: fraction done before this session}."""
        self._file: Any = None
        """The console's own file; None if the console follows sys.stdout or sys.stderr."""

    def __enter__(self) -> Display:
        # A run in this process redirects sys.stdout to its log (sweeps.execute), where the display
        # does not belong. Assigning a console's file pins it; None lets it follow sys.stdout again.
        file = self._console.file
        self._file = None if file in (sys.stdout, sys.stderr) else file
        self._console.file = file
        if self._console.is_terminal:
            live = self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=2,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            live.start()
        else:
            lines = self._lines = threading.Thread(target=self._print_lines, daemon=True)
            lines.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        if self._live:
            self._live.stop()
        if self._lines:
            self._lines.join()
        self._console.file = self._file

    # -------------------------------------------------------------- the numbers

    def _fractions_done(self) -> dict[str, float]:
        """Return {run_id: fraction done} of each run that has a worker."""
        fractions = {}
        for job in list(self._queue.running.values()):
            for run in job.runs:
                if progress := self._store.progress(run.run_id):
                    fractions[run.run_id] = min(1.0, progress.get("D", 0) / run.D)
        return fractions

    def _finished(self) -> list[Outcome]:
        """Return how runs ended, in the order seen, including those of a pack that still trains."""
        packs = [job for job in list(self._queue.running.values()) if len(job.runs) > 1]
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

    def _state(self, finished: list[Outcome]) -> tuple[float, float, float, str]:
        """Return FLOPs done, FLOPs in total, seconds left, and the counts in words."""
        for run_id, run in list(self._runs.items()):  # the runs of an adaptive sweep grow
            if run_id not in self._C:
                self._C[run_id] = size.flops_of(run)
        over = {outcome.run_id for outcome in finished}
        under_way = {r: part for r, part in self._fractions_done().items() if r not in over}
        missing = self._seconds.keys() - over
        done_C = sum(C for run_id, C in self._C.items() if run_id not in missing)
        done_C += sum(part * self._C[run_id] for run_id, part in under_way.items())
        for run_id, part in under_way.items():
            self._resumed.setdefault(run_id, part)  # done before this session, or just now
        now = sum(self._seconds[run_id] for run_id in over & self._seconds.keys())
        now += sum(part * self._seconds.get(run_id, 0) for run_id, part in under_way.items())
        remaining = sum(self._seconds[r] * (1 - under_way.get(r, 0.0)) for r in missing)
        before = sum(
            part * self._seconds.get(run_id, 0.0) for run_id, part in self._resumed.items()
        )
        elapsed = time.monotonic() - self._start
        seconds = eta(max(0.0, now - before), elapsed, remaining, self._workers)
        words = f"{len(self._runs) - len(missing)}/{len(self._runs)} runs"
        for status in STATUSES[1:]:
            if number := sum(outcome.status == status for outcome in finished):
                words += f", {number} {status}"
        return done_C, sum(self._C.values()), seconds, words

    # -------------------------------------------------------------- terminal

    def _render(self) -> Group:
        finished = self._finished()
        done, total, seconds, words = self._state(finished)
        head = Table.grid(padding=(0, 2))
        state = f"ETA {clock(seconds)}"
        if self._queue.held_back:
            state = "the budget is spent: the last runs are finishing"
        if self._queue.stopping:
            state = "stopping: writing checkpoints (press Ctrl-C again to stop at once)"
        head.add_row(
            ProgressBar(total=total, completed=done, width=30),
            f"{100 * done / total:.0f}% of {si(total, 'FLOPs')}",
            words,
            state,
        )
        body = Table.grid(padding=(0, 2))
        over = {outcome.run_id for outcome in finished}
        jobs = list(self._queue.running.values())
        for job in jobs[:_MAX_ROWS]:
            left = [run for run in job.runs if run.run_id not in over]
            body.add_row(*_cells([(run, self._store.progress(run.run_id)) for run in left]))
        if len(jobs) > _MAX_ROWS:
            body.add_row(f"  and {len(jobs) - _MAX_ROWS} more jobs")
        failed = [outcome for outcome in finished if outcome.status == "failed"]
        errors = [
            Text(
                escaped(self._console, f"  {o.run_id} failed: {headline(o.error)}"),
                "red",
                overflow="ellipsis",
            )
            for o in failed[-_LAST_FAILURES:]
        ]
        recent = Text(self._dot.join(map(self._ended, finished[-_LAST_LOSSES:])), "dim")
        return Group(head, body, *errors, recent)

    @property
    def _dot(self) -> str:
        return " - " if self._console.options.ascii_only else " · "

    def _ended(self, outcome: Outcome) -> str:
        run = self._runs[outcome.run_id]
        ok = outcome.status == "ok" and outcome.L is not None
        ending = f"L={outcome.L:.4f}" if ok else outcome.status
        return f"N={si(size.parameters_of(run).N)} D={si(run.D)} {ending}"

    # -------------------------------------------------------------- plain lines

    def _print_lines(self) -> None:
        wait, seen = _FIRST_LINE_SECONDS, 0
        while not self._end.wait(wait):
            finished = self._finished()
            done, total, seconds, words = self._state(finished)
            last = f"; last {self._ended(finished[-1])}" if len(finished) > seen else ""
            seen = len(finished)
            cells = f"{100 * done / total:3.0f}%", words, f"ETA {clock(seconds)}{last}"
            say(self._console, self._dot.join(cells))
            wait = min(_MAX_LINE_SECONDS, wait * 1.25)


def _cells(runs: list[tuple[RunConfig, dict[str, float] | None]]) -> list[str]:
    """Return the cells of a running job: its runs, fraction done, least loss and throughput."""
    if not runs:
        return ["  ending"]
    run, _ = runs[0]
    N = size.parameters_of(run).N
    D = sorted({run.D for run, _ in runs})
    span = si(D[0]) if len(D) == 1 else f"{si(D[0])}..{si(D[-1])}"
    name = run.run_id if len(runs) == 1 else f"{run.run_id} and {len(runs) - 1} more"
    cells = [f"  {name}", f"N={si(N)}", f"D={span}"]
    reports = [progress for _, progress in runs if progress]
    if not reports:
        return [*cells, "starting", "", ""]
    part = sum(report.get("D", 0) for report in reports) / sum(run.D for run, _ in runs)
    losses = [loss for report in reports if (loss := report.get("L") or report.get("L_train"))]
    rate = sum(report.get("tokens_per_second") or 0 for report in reports)
    cells.append(f"{100 * min(1.0, part):.0f}%")
    cells.append(f"L={min(losses):.3f}" if losses else "")
    return [*cells, f"{si(rate)} tokens/s"]
