"""The driver of one call of a sweep: its queue, executor, signal handling and summary."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from rich.console import Console

from scaling import size
from scaling.columns import STATUSES
from scaling.command_run import Run
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.units import clock
from sweeps.adaptive.families import configs_of
from sweeps.budget import SweepBudget
from sweeps.checks import prepare
from sweeps.display import Display, say
from sweeps.early_stopping import Halving
from sweeps.errors import BudgetSpent, Stopped, StoreError, headline
from sweeps.execute import execute
from sweeps.forecast_stopping import ForecastStopping
from sweeps.manifest import Session
from sweeps.on_ray.cluster import joined
from sweeps.options import SweepOptions
from sweeps.queue import Outcome, Queue, Shared, busy_and_idle
from sweeps.requested import RequestedRuns
from sweeps.result import Finished, Row
from sweeps.runner.runner import Runner
from sweeps.sharing import Hold
from sweeps.spec import Spec
from sweeps.store import Store
from sweeps.sweep_plan import Planner, SweepPlan, seconds_per_run, workers_phrase
from sweeps.tally import Count

_GRACE_SECONDS = 6.0
"""Seconds that workers have to write their checkpoints after Ctrl-C."""

_MOST_FAILURES = 3
"""Number of failed runs listed at the end."""


class Driver:
    """Trains the missing runs of a sweep and the runs that their results call for."""

    def __init__(
        self,
        *,
        spec: Spec,
        store: Store,
        requested: RequestedRuns,
        planner: Planner,
        options: SweepOptions,
        budget: SweepBudget,
        console: Console,
        on_finish: Callable[[Finished], None] | None,
        resume: str,
    ) -> None:
        """`resume` tells the user how to continue if the call ends before the sweep does."""
        self._spec, self._store = spec, store
        self._requested, self._planner = requested, planner
        self._options, self._budget = options, budget
        self._execution = spec.executed(options.execution)
        self._console, self._on_finish, self._resume = console, on_finish, resume
        self._queue = Queue(
            store,
            options.retries,
            admits=lambda job: budget.admits(job.runs),
            on_finish=self._ended,
        )
        self._known: dict[str, Row] = {}
        """Results so far, by run id."""
        self._last: Count | None = None
        """What was done when training ended."""
        self._hashes: dict[str, str] = {}
        """Hashes of the texts of this call, by name."""

    def train(self, plan: SweepPlan, rows: Mapping[str, Row]) -> None:
        """Train the missing runs of `plan`, given the results `rows` by run id.

        Raises ConfigError, StoreError, Stopped and BudgetSpent as :meth:`sweeps.Sweep.run` does.
        """
        if not self._options.join:
            self._store.check_writable()
        with self._store.drive(share=self._options.join) as hold:
            with hold.writing():
                session = self._begin(plan, rows, hold)
            self._announce(hold)
            self._fill_queue(rows)
            interrupted = self._execute()
            if self._queue.fatal is not None:
                with contextlib.suppress(StoreError), hold.writing():  # a full disk prevents these
                    self._store.merge()
                    session.end(self._queue)
                raise self._queue.fatal
            with hold.writing():
                self._store.merge()
                say_messages(self._store, self._console)
                session.note_sizes(self._plan.runs.values())
                session.end(self._queue)
            self._summarise(session.seconds)
            self._check_complete(interrupted)

    # -------------------------------------------------------------- before training

    def _begin(self, plan: SweepPlan, rows: Mapping[str, Row], hold: Hold) -> Session:
        """Prepare the folder, the texts and the plan. Use only while all of the folder is held."""
        if self._options.join:
            self._store.check_writable()
        if not hold.others:
            self._store.remove_leftovers()
        self._hashes = self._prepared(plan.missing, rows)
        self._plan = plan
        if self._options.compile or not self._options.join:
            self._plan = self._planner.measured(plan, rows)
        if self._options.join:
            self._store.stop_file = hold.stop_file
            self._queue.writing = partial(hold.writing, wait=False)
            self._queue.stand_by = hold.stand_by
        return Session(
            spec=self._spec,
            store=self._store,
            hashes=self._hashes,
            plan=self._plan,
            options=self._options,
        )

    def _prepared(
        self,
        runs: Mapping[str, Run],
        rows: Mapping[str, Row],
        recorded: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Check the runs and their texts, and return the hashes of the texts."""
        execution, name = self._execution, self._spec.name
        return prepare(
            name, self._store, runs.values(), rows, execution, recorded, runner=self._spec.runner
        )

    def _announce(self, hold: Hold) -> None:
        """Print what is to be trained. Raise ConfigError if the budget lets nothing start."""
        plan, budget = self._plan, self._budget
        where = "in this process"
        if not self._options.in_process:
            where = workers_phrase(plan.workers, "on")
        if self._options.join:
            number = len(hold.others)
            where += f", beside {number} other process{'' if number == 1 else 'es'}"
        self._say(
            f"{self._spec.name}: {len(plan.missing)} of {len(plan.runs)} runs to train, "
            f"{plan.amount}, {where}, {plan.time}{f'; {plan.stored}' if plan.stored else ''}"
        )
        for line in plan.precision_hints():
            self._say(line)
        least = min(map(size.flops_of, plan.missing.values()))
        if budget.flops is not None and least > budget.flops:
            raise ConfigError(
                f"budget_flops={budget.flops:g} is less than the cheapest run takes, "
                f"{least:.3g} FLOPs."
            )
        if not budget.covers(plan.flops, plan.wall_seconds):
            self._say(
                "the budget does not cover all of these runs; once it is spent, the same command "
                "continues with the rest"
            )

    def _fill_queue(self, rows: Mapping[str, Row]) -> None:
        plan = self._plan
        self._store.forget(plan.stopped_early)
        self._known = {
            run_id: row for run_id, row in rows.items() if run_id not in plan.stopped_early
        }
        if self._spec.halving:
            Halving(self._store, self._spec.halving).prepare(plan.runs, self._known)
        self._prepare_forecasts()
        shared = Shared(self._options.retries) if self._options.join else None
        self._queue.add(replace(job, texts=self._hashes, shared=shared) for job in plan.jobs)

    def _prepare_forecasts(self) -> None:
        """Record which runs the sweep has, if runs may be stopped on forecasts."""
        if self._spec.forecast:
            ForecastStopping(self._store, self._spec.forecast).prepare(configs_of(self._plan.runs))

    # -------------------------------------------------------------- training

    def _execute(self) -> bool:
        """Process the queue; return whether it was interrupted without waiting for workers."""
        plan = self._plan
        display = Display(
            self._queue,
            self._store,
            plan.runs,
            plan.seconds,
            workers=plan.workers,
            console=self._console,
            commands=plan.costs.commands,
        )
        with interruptible(self._stop, grace_seconds(self._spec.runner)):
            try:
                with display:
                    if self._options.in_process:
                        run_here(self._queue, self._execution)
                    else:
                        self._run_on_ray()
            except KeyboardInterrupt:
                return True
            finally:
                self._last = display.last
        return False

    def _run_on_ray(self) -> None:
        with joined(self._options.address):
            from sweeps.on_ray.tune import run_on_ray  # once the process has joined the cluster

            workers = self._plan.workers
            run_on_ray(
                self._queue, workers=workers, execution=self._execution, runner=self._spec.runner
            )

    def _stop(self) -> None:
        """Make workers write their checkpoints and end."""
        self._queue.stopping = True
        if not self._options.in_process:
            self._store.stop_file.touch()

    def _ended(self, outcome: Outcome) -> None:
        """Pass on the result of a run, and queue the runs that it calls for."""
        grows = self._spec.searches is not None
        if not (self._on_finish or grows):
            return
        result = self._store.result(outcome.run_id)
        if result is None:  # it was damaged and set aside, with a message
            return
        self._known[outcome.run_id] = result.row
        if self._on_finish:
            self._on_finish(result)
        if grows:
            self._grow()

    def _grow(self) -> None:
        """Queue the runs that the results so far call for and that the plan does not contain yet.

        The texts of earlier runs must not have changed.
        """
        plan, known = self._plan, self._known
        try:
            growth = self._requested.growth(known, record=True)
            new = {run_id: run for run_id, run in growth.runs.items() if run_id not in plan.runs}
            if new:
                self._hashes |= self._prepared(new, known, self._hashes)
            self._store.forget(growth.unfinished)
            plan.runs.update(new)
            if new or growth.unfinished:
                self._prepare_forecasts()
        except (ConfigError, StoreError) as error:
            self._queue.fatal = error
            return
        for run_id in growth.unfinished:
            del known[run_id]
        asked = new | {run_id: plan.runs[run_id] for run_id in growth.unfinished}
        missing = [run for run_id, run in asked.items() if run_id not in known]
        jobs = self._planner.jobs(missing, plan.costs, plan.workers) if missing else []
        plan.seconds.update(seconds_per_run(jobs))
        self._queue.add(replace(job, texts=self._hashes) for job in jobs)

    # -------------------------------------------------------------- after training

    def _summarise(self, wall_seconds: float) -> None:
        """Print what has finished, what failed, where the table is, and where the searches
        stand."""
        queue, store = self._queue, self._store
        ended = {outcome.run_id: outcome for outcome in queue.outcomes}.values()
        states = [outcome.status for outcome in ended if not outcome.elsewhere]
        counts = [f"{states.count(s)} {s}" for s in STATUSES if states.count(s)]
        line = f"{', '.join(counts) or 'nothing finished'} in {clock(wall_seconds)}"
        if number := len(ended) - len(states):
            line += f"; {number} by other processes"
        busy, idle, jobs = busy_and_idle(queue)
        if jobs > 1:
            line += f"; workers idle between jobs {100 * idle / (busy + idle):.1f}%"
        self._say(line)
        failed = [outcome for outcome in queue.outcomes if outcome.status == "failed"]
        for outcome in failed[:_MOST_FAILURES]:
            log = store.shown(store.run_folder(outcome.run_id) / "output.log")
            self._say(f"  {outcome.run_id} failed: {headline(outcome.error)} ({log})")
        self._say(f"table: {store.shown(store.folder / 'runs.csv')}")
        if left := sum(len(job.runs) for job in queue.left_to_others):
            what = "1 run is" if left == 1 else f"{left} runs are"
            self._say(
                f"{what} left, which other processes train; this one is not needed any more "
                f"(`scaling status {store.shown(store.folder)}` shows them)"
            )
        for line in self._requested.growth(self._known).notes if self._spec.searches else ():
            self._say(line)

    def _check_complete(self, interrupted: bool) -> None:
        """Raise Stopped or BudgetSpent if runs are left."""
        if self._queue.stopping or interrupted:
            done = f" at {self._last.percent:.0f}%" if self._last else ""
            raise Stopped(f"stopped{done}; finished runs and checkpoints are kept. {self._resume}")
        if self._queue.held_back:
            left = sum(len(job.runs) for job in self._queue.held_back)
            raise BudgetSpent(
                f"the budget is spent ({self._budget}): {left} runs are left. {self._resume}"
            )

    def _say(self, text: str) -> None:
        say(self._console, text)


def say_messages(store: Store, console: Console) -> None:
    """Print the messages that the store has collected."""
    for message in store.messages:
        say(console, message)
    store.messages.clear()


def run_here(queue: Queue, execution: Execution) -> None:
    """Execute one job after another in this process, without Ray."""
    while job := queue.take():
        try:
            queue.finish(job, execute(job, queue.store, execution, lambda: queue.stopping))
        except (ConfigError, StoreError) as error:
            queue.fatal = error
            queue.release(job)


def grace_seconds(runner: Runner | None) -> float:
    """Return the seconds that workers have to end after Ctrl-C, and their commands, if any."""
    return _GRACE_SECONDS + (runner.grace_seconds if runner else 0.0)


@contextlib.contextmanager
def interruptible(stop: Callable[[], None], grace: float = _GRACE_SECONDS) -> Iterator[None]:
    """Call `stop` on the first Ctrl-C or SIGTERM, and let the block end by itself.

    A second Ctrl-C, or the end of the grace period [seconds], raises KeyboardInterrupt in the
    block. A second SIGTERM does not: Slurm may send it to every process of a job, and the job's
    script passes on its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(grace, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    stopping = False

    def handle(number: int, frame: object) -> None:
        nonlocal stopping
        if stopping and number == signal.SIGTERM:
            return
        if stopping:
            raise KeyboardInterrupt
        stopping = True
        timer.start()
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
