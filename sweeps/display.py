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

from scaling import notebook, progress, size
from scaling.command_run import Run
from scaling.text import printable
from scaling.units import clock, si
from sweeps.errors import headline
from sweeps.queue import Outcome, Queue
from sweeps.runner.speed import CommandSpeed
from sweeps.store import Store
from sweeps.tally import STOPPING, Count, Tally

_FIRST_LINE_SECONDS = 2.0
_TICK_SECONDS = 1.0
"""Seconds between counts where only plain lines are shown."""

_MAX_LINE_SECONDS = 300.0
"""Longest interval between plain lines. Intervals grow up to it, to keep the log of a long sweep
short."""

_LAST_LOSSES = 4
_LAST_FAILURES = 3

_MAX_ROWS = 20
"""Number of running jobs that the live display shows."""


def escaped(console: Console, text: object) -> str:
    """Return an untrusted text in a form that this console can show."""
    return printable(text, getattr(console.file, "encoding", None))


def say(console: Console, text: object) -> None:
    """Print text as it is, without markup, colour or added line breaks."""
    shown = escaped(console, text)
    with progress.other_output():
        console.print(shown, highlight=False, soft_wrap=True, markup=False, emoji=False)


class Display:
    """A context manager that shows the queue while an executor works on it."""

    def __init__(
        self,
        queue: Queue,
        store: Store,
        runs: dict[str, Run],
        seconds: dict[str, float],
        *,
        workers: int,
        console: Console,
        commands: CommandSpeed | None = None,
    ) -> None:
        """`runs` are all runs of the sweep; `seconds` are the estimates for the missing ones, and
        `commands` is the speed of the command that trains them, if one does."""
        self._queue, self._store, self._console = queue, store, console
        self._runs, self._workers = runs, workers
        self._tally = Tally(queue, store, runs, seconds, workers=workers, commands=commands)
        self.last: Count | None = None
        """The numbers at the end of the block."""
        self._end = threading.Event()
        self._lines: threading.Thread | None = None
        self._live: Live | None = None
        self._quiet = contextlib.ExitStack()
        self._file: Any = None
        """The console's own file; None if the console follows sys.stdout or sys.stderr."""

    def __enter__(self) -> Display:
        # A run in this process redirects sys.stdout to its log (sweeps.execute), where the display
        # does not belong. Assigning a console's file pins it; None lets it follow sys.stdout again.
        self._quiet.enter_context(progress.silent())
        file = self._console.file
        self._file = None if file in (sys.stdout, sys.stderr) else file
        self._console.file = file
        if not self._console.quiet and self._console.is_jupyter and notebook.active():
            lines = self._lines = threading.Thread(target=self._update_page, daemon=True)
            lines.start()
        elif self._console.is_terminal:
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
        self.last = self._tally.end()
        self._console.file = self._file
        self._quiet.close()

    # -------------------------------------------------------------- terminal

    def _render(self) -> Group:
        count = self._tally.count()
        head = Table.grid(padding=(0, 2))
        head.add_row(
            ProgressBar(total=count.C, completed=count.C_done, width=30),
            f"{count.percent:.0f}% of {si(count.C, count.unit)}",
            count.runs,
            self._left(count),
        )
        body = Table.grid(padding=(0, 2))
        finished = count.finished
        over = {outcome.run_id for outcome in finished}
        jobs = list(self._queue.running.values())
        for job in jobs[:_MAX_ROWS]:
            left = [run for run in job.runs if run.run_id not in over]
            reports = self._store.progress_of((run.run_id for run in left), one_job=True)
            body.add_row(*_cells([(run, reports.get(run.run_id)) for run in left]))
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
        return f"{_size_N(run)}D={si(run.D)} {ending}"

    # -------------------------------------------------------------- notebook

    def _update_page(self) -> None:
        shown = notebook.Shown()
        while not self._end.wait(_TICK_SECONDS):
            self._show_page(shown, self._tally.count())
        self._show_page(shown, self._tally.count(), over=True)

    def _show_page(self, shown: notebook.Shown, count: Count, *, over: bool = False) -> None:
        """Show a bar, the runs in progress and the last ones to finish, in place."""
        left = [] if over and not count.state else [self._left(count)]
        line = " · ".join((f"{count.percent:.0f}%", count.runs, *left))
        running = [] if over else [len(job.runs) for job in self._queue.running.values()]
        now = f"training {sum(running)} runs; " if running else ""
        recent = ", ".join(map(self._ended, count.finished[-_LAST_LOSSES:]))
        details = f"{now}last: {recent}" if recent else now.rstrip("; ")
        shown.show(notebook.bar(count.percent, line, "" if over else details), line)

    # -------------------------------------------------------------- plain lines

    def _print_lines(self) -> None:
        wait, seen, due = _FIRST_LINE_SECONDS, 0, time.monotonic() + _FIRST_LINE_SECONDS
        state = ""
        while not self._end.wait(min(_TICK_SECONDS, wait)):
            count = self._tally.count()
            if time.monotonic() < due and count.state == state:
                continue
            state = count.state
            finished = count.finished
            last = f"; last {self._ended(finished[-1])}" if len(finished) > seen else ""
            seen = len(finished)
            left = f"{self._left(count)}{last}"
            say(self._console, self._dot.join((f"{count.percent:3.0f}%", count.runs, left)))
            wait = min(_MAX_LINE_SECONDS, wait * 1.25)
            due = time.monotonic() + wait

    def _left(self, count: Count) -> str:
        """Return the time left, or what the sweep does other than train."""
        if count.state == STOPPING:
            return f"{count.state} (press Ctrl-C again to stop at once)"
        if count.state:
            return count.state
        workers = f"{self._workers} worker{'' if self._workers == 1 else 's'}"
        starting = "" if count.begun else f"; starting {workers}"
        left = "unknown until a run has finished"
        left = left if count.seconds is None else clock(count.seconds)
        return f"ETA {left}{starting}"


def _cells(runs: list[tuple[Run, dict[str, float] | None]]) -> list[str]:
    """Return the cells of a running job: its runs, fraction done, least loss and throughput."""
    if not runs:
        return ["  ending"]
    run, _ = runs[0]
    D = sorted({run.D for run, _ in runs})
    span = si(D[0]) if len(D) == 1 else f"{si(D[0])}..{si(D[-1])}"
    name = run.run_id if len(runs) == 1 else f"{run.run_id} and {len(runs) - 1} more"
    cells = [f"  {name}", _size_N(run).strip(), f"D={span}"]
    reports = [progress for _, progress in runs if progress]
    if not reports:
        return [*cells, "starting", "", ""]
    part = sum(report.get("D", 0) for report in reports) / sum(run.D for run, _ in runs)
    losses = [loss for report in reports if (loss := report.get("L") or report.get("L_train"))]
    rate = sum(report.get("tokens_per_second") or 0 for report in reports)
    cells.append(f"{100 * min(1.0, part):.0f}%")
    cells.append(f"L={min(losses):.3f}" if losses else "")
    return [*cells, f"{si(rate)} tokens/s" if rate else ""]


def _size_N(run: Run) -> str:
    """Return 'N=... ', or nothing if N is not known."""
    N = size.N_of(run)
    return "" if N is None else f"N={si(N)} "
