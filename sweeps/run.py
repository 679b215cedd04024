"""A sweep: what its spec asks for, less what the store holds, trained, stored and merged."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scaling import count, table
from scaling.config import ConfigError, DataConfig, Execution, RunConfig
from scaling.schedule import shape
from sweeps import estimate, own_sizes, pack
from sweeps.budget import Budget
from sweeps.cluster import joined, probe
from sweeps.halving import Halving
from sweeps.interval import Design, Round, Width, decide
from sweeps.jobs import Job, Outcome, Queue, execute, headline
from sweeps.progress import Display, clock, flops, say, si
from sweeps.remote import join, masked, without_credentials
from sweeps.spec import Spec
from sweeps.store import Finished, Row, Store, StoreError, machine
from sweeps.until import Growth

if TYPE_CHECKING:
    import pandas as pd

    from scaling.corpus import TokenFiles

_PRECISION_GAINS = 0.1
"""Steps in the other precision must be shorter by this part to be spoken of."""

_LONGEST_SECONDS = 1e9
"""The longest estimate for which an end is shown (about 30 years)."""

_CREDENTIALS = (
    "The credentials of --results are left out here: give them in the environment (of s3: AWS_ACCESS_KEY_ID "
    "and AWS_SECRET_ACCESS_KEY), or in the URI again."
)

_GRACE_SECONDS = 6.0
"""After Ctrl-C, workers have this long to write their checkpoints."""


class Stopped(KeyboardInterrupt):
    """The sweep was stopped by Ctrl-C or SIGTERM; what was measured is kept, it can be resumed."""


class BudgetSpent(Stopped):
    """Runs are left that the budget did not let begin."""


@dataclass(frozen=True)
class Plan:
    """What a sweep has left to do."""

    runs: dict[str, RunConfig]
    """{run_id: run}: all of the spec."""
    finished: dict[str, str]
    """{run_id: status} of those that need no training."""
    missing: dict[str, RunConfig]
    """{run_id: run}, dearest first."""
    jobs: list[Job]
    """What the missing runs are trained in: alone, in packs, as trunks with branches."""
    seconds: dict[str, float]
    """{run_id: estimated seconds on one worker} of the missing ones; of a job, the run's share."""
    costs: estimate.Costs
    workers: int
    """That will run: no more than there are jobs."""
    price: float | None = None
    """Dollars an hour of wall clock."""
    grows: bool = False
    """More runs follow from the results of these: the spec has [until]."""
    said: tuple[str, ...] = ()
    """Where the searches of [until] stand, a line each."""
    again: frozenset[str] = frozenset()
    """Those of the missing runs that were stopped early, and are asked for to their end."""

    @property
    def tokens(self) -> int:
        """Training tokens to process."""
        return sum(run.D for run in self.missing.values())

    @property
    def flops(self) -> float:
        """Training FLOPs to spend, 6 N D."""
        return sum(flops(run) for run in self.missing.values())

    @property
    def wall_seconds(self) -> float:
        """Estimated wall clock: longest first, each job to the worker that is free first."""
        return pack.makespan((job.seconds for job in self.jobs), self.workers)

    def __str__(self) -> str:
        states = list(self.finished.values())
        counts = [f"{len(states)} finished"] if states else []
        for status in table.STATUSES[1:]:
            if status in states:
                counts.append(f"{states.count(status)} of them {status}")
        lines = [
            f"{len(self.runs)} runs: {', '.join([*counts, f'{len(self.missing)} to train'])}",
        ]
        lines += self.said
        if not self.missing:
            return "\n".join(lines)
        sizes: dict[int, dict[str, RunConfig]] = {}
        for run_id, run in self.missing.items():
            N = count.parameters(run.model, run.data.vocab_size).N
            sizes.setdefault(N, {})[run_id] = run
        lines.append(
            f"{'N':>8}  {'shape':<22} {'runs':>5}  {'D [tokens]':<15} {'FLOPs':>8} {'time':>7}"
        )
        for N, by_id in sorted(sizes.items()):
            runs = list(by_id.values())
            shapes = {
                f"{r.model.n_layer} x {r.model.d_model}, {r.model.n_head} heads" for r in runs
            }
            D = sorted({run.D for run in runs})
            span = si(D[0]) if len(D) == 1 else f"{si(D[0])} .. {si(D[-1])}"
            seconds = sum(self.seconds[run_id] for run_id in by_id)
            shape = shapes.pop() if len(shapes) == 1 else f"{len(shapes)} shapes"
            total = si(sum(map(flops, runs)))
            lines.append(
                f"{si(N):>8}  {shape:<22} {len(runs):>5}  {span:<15} {total:>8} {clock(seconds):>7}"
            )
        samples = self.costs.speed.samples
        ground = {0: "a guess: nothing measured on this machine"}.get(
            samples, f"from {samples} measurements"
        )
        lines += [*self._packs(), *self.precisions()]
        early = f"{len(self.again)} of these were stopped early and are trained to the end"
        lines += [early] if self.again else []
        lines += ["more runs follow from the results of these ([until])"] if self.grows else []
        lines.append(
            f"total {si(self.flops, 'FLOPs')}, {si(self.tokens, ' tokens')}; about "
            f"{clock(self.wall_seconds)} {_workers(self.workers)} ({ground}){self._end()}"
        )
        return "\n".join(lines)

    def _packs(self) -> list[str]:
        """What is compiled, and the jobs of several runs, each in one line; none where there are none."""
        compiled = sum(len(job.runs) for job in self.jobs if job.compile)
        lines = [f"{compiled} runs compiled, which was measured to be faster"] if compiled else []
        packed = [job for job in self.jobs if len(job.runs) > 1]
        if not packed:
            return lines
        runs = sum(len(job.runs) for job in packed)
        widest = max(job.slots for job in packed)
        trained = sum(map(pack.tokens, self.jobs))
        saved = f", {100 * (1 - trained / self.tokens):.0f}% of the tokens in common trunks"
        return [
            *lines,
            f"{len(self.jobs)} jobs: {runs} runs in {len(packed)} packs of up to {widest} at once"
            f"{saved if trained < self.tokens else ''}",
        ]

    def precisions(self) -> list[str]:
        """What the other precision would save, a line each, where that was measured to be much."""
        gains = {key for key, ratio in self.costs.other.items() if ratio < 1 - _PRECISION_GAINS}
        found: dict[str, list[tuple[float, float]]] = {}
        for run_id, run in self.missing.items() if gains else ():
            if (key := shape(run)) in gains:
                each = found.setdefault(run.precision, [])
                each.append((self.seconds[run_id], self.costs.other[key]))
        lines = []
        for precision, each in found.items():
            other = estimate.OTHER_PRECISION[precision]
            part = sum(s * ratio for s, ratio in each) / sum(s for s, _ in each)
            lines.append(
                f'precision = "{other}" would be faster for {len(each)} runs: a step of one alone, uncompiled, '
                f"takes {part:.2f} of its time in {precision} here"
            )
        return lines

    def _end(self) -> str:
        """When it would be done if it began now, and what that costs."""
        if self.wall_seconds > _LONGEST_SECONDS:
            return ""
        end = time.strftime("%a %H:%M", time.localtime(time.time() + self.wall_seconds))
        cost = (
            "" if self.price is None else f", {self.price * self.wall_seconds / 3600:.2f} dollars"
        )
        return f"; done by {end} if begun now{cost}"


@dataclass(frozen=True)
class _Call:
    """How a call of :meth:`Sweep.run` trains."""

    workers: int
    """As asked for; fewer may run."""
    in_process: bool
    address: str | None
    retries: int
    packs: bool
    execution: Execution
    budget: Budget


class Sweep:
    """Many runs and the folder that their results go to.

        runs = Sweep.from_toml("quickstart").run(workers=2)

    Call again: only what is missing is trained.
    """

    def __init__(
        self,
        spec: Spec,
        results: str | Path | None = None,
        *,
        width: Width | None = None,
        design: Design | None = None,
    ) -> None:
        """Results go to `results`/<name of the spec>; ./results where not given. It may be a URI
        that pyarrow.fs or fsspec reaches, such as s3://bucket/results; credentials in it are printed
        and written nowhere.

        `width` fits a law and `design` chooses runs, for a spec that goes on until an interval is
        narrow (sweeps.interval): analysis.planning.adaptive.interval_width and interval_runs.
        """
        self.spec = spec
        self._width, self._design = width, design
        self._rounds: dict[str, Round] = {}
        """Decided here, by the digest of their results: a fit takes seconds."""
        self._results = results
        self.store = Store(join("results" if results is None else str(results), spec.name))

    @classmethod
    def from_toml(
        cls,
        path_or_name: str | Path,
        results: str | Path | None = None,
        *,
        changes: dict[str, Any] | None = None,
        filters: Sequence[str] = (),
        tag: str | None = None,
        width: Width | None = None,
        design: Design | None = None,
        allow_code: Sequence[str | Path] = (),
        on_code: Callable[[Path], None] = lambda file: None,
    ) -> Sweep:
        """A sweep from a TOML file or the name of a bundled spec. Raises ConfigError.

        `changes`, {dotted key: value}, hold for every run; 'name' among them renames the sweep.
        `filters` and `tag` choose among its runs (:meth:`sweeps.spec.Spec.select`). `allow_code` are
        files of code outside the spec's folder that it may run, `on_code` is told of all that it
        runs (:meth:`sweeps.spec.Spec.from_toml`).
        """
        spec = Spec.from_toml(path_or_name, changes, allow_code=allow_code, on_code=on_code)
        spec = spec.select(filters, tag) if filters or tag is not None else spec
        return cls(spec, results, width=width, design=design)

    @property
    def folder(self) -> Path:
        """Where the results are."""
        return self.store.folder

    # -------------------------------------------------------------- planning

    def plan(
        self,
        *,
        workers: int = 2,
        threads: int = 1,
        in_process: bool = False,
        device: str = "auto",
        packs: bool = True,
        compile: bool = False,
        price: float | None = None,
        address: str | None = None,
        reuse: Sequence[str | Path] = (),
        measure: bool = False,
        devices: int = 1,
        nodes: int = 1,
        shard: bool = False,
    ) -> Plan:
        """What is missing, and what it takes with these options of :meth:`run`; `price` is in
        dollars an hour.

        Estimates rest on finished runs of this folder; with `measure`, and where there are none,
        on a few seconds of training in child processes, after the checks that :meth:`run` makes.
        Raises StoreError, ConfigError.
        """
        execution = Execution(
            device=device,
            threads=threads,
            devices=devices,
            nodes=nodes,
            shard=shard,
            compile=compile,
        )
        workers = _workers_of(workers, execution, in_process, address)
        rows = self.store.rows()
        rows |= {run_id: found.row for run_id, found in self._reusable(reuse, rows).items()}
        on = estimate.Machine(workers, threads, device, compile, devices, nodes)
        plan = replace(self._plan(rows, on, packs), price=price)
        if not (measure and plan.missing):
            return plan
        self._prepare(list(plan.missing.values()), rows, execution)
        return replace(self._measured(plan, rows, on, packs, guess=False), price=price)

    def _plan(self, rows: dict[str, Row], on: estimate.Machine, packs: bool) -> Plan:
        growth = self.designed(rows)
        runs, again = growth.runs, frozenset(growth.unfinished)
        rows = {run_id: row for run_id, row in rows.items() if run_id not in again}
        missing = {run_id: run for run_id, run in runs.items() if run_id not in rows}
        costs = estimate.costs(on, missing.values(), rows.values())
        jobs = self._jobs(list(missing.values()), costs, on.workers, packs)
        seconds = _shares(jobs)
        dearest_first = sorted(missing, key=lambda run_id: -seconds[run_id])
        missing = {run_id: missing[run_id] for run_id in dearest_first}
        finished = {run_id: rows[run_id]["status"] for run_id in runs if run_id in rows}
        workers = on.workers
        if self.spec.until is None:
            workers = max(1, min(workers, len(jobs)))
        grows = self.spec.until is not None
        return Plan(
            runs,
            finished,
            missing,
            jobs,
            seconds,
            costs,
            workers,
            None,
            grows,
            tuple(growth.said),
            again,
        )

    def _jobs(
        self, runs: list[RunConfig], costs: estimate.Costs, workers: int, packs: bool
    ) -> list[Job]:
        jobs = pack.form(runs, costs, workers, packs=packs)
        return [replace(job, halving=self.spec.halving) for job in jobs]

    def _measured(
        self, plan: Plan, rows: dict[str, Row], on: estimate.Machine, packs: bool, *, guess: bool
    ) -> Plan:
        """The plan again, after measuring packs where these may pay; and, unless a guess will do,
        the speed where nothing is known of it."""
        if on.nodes > 1:  # of which this machine is but one
            return plan
        runs = plan.missing.values()
        if not guess and not plan.costs.speed.samples:
            self._measure(on, estimate.typical(runs))
            plan = self._plan(rows, on, packs)
        asked = pack.worth_measuring(runs, plan.costs) if packs else []
        if asked:
            self._measure(on, asked)
            plan = self._plan(rows, on, packs)
        asked = pack.worth_compiling(runs, plan.costs, on) if on.compile else []
        if asked:
            self._measure(on, [(run, n) for run, n in asked if shape(run) not in plan.costs.packs])
            self._measure(on, asked, compiled=True)
            plan = self._plan(rows, on, packs)
        if compared := pack.worth_comparing(runs, plan.costs):
            on.compare(compared)
            plan = replace(plan, costs=replace(plan.costs, other=on.compared(runs)))
        return plan

    def _measure(
        self, on: estimate.Machine, asked: list[tuple[RunConfig, int]], *, compiled: bool = False
    ) -> None:
        try:
            on.measure(asked, compiled=compiled)
        except RuntimeError as error:
            what = (
                "compiling (leave out --compile)" if compiled else "measuring this machine's speed"
            )
            raise ConfigError(f"{what} failed: {error}") from None

    def designed(self, rows: dict[str, Row] | None = None, *, record: bool = False) -> Growth:
        """The runs that the spec asks for, and where the searches of its [until] stand.

        A round of designed runs that is due is decided: for good with `record`, which is for the
        process that holds the sweep.
        """
        rows = self.store.rows() if rows is None else rows
        rounds = self.store.rounds() if self.spec.by_design else []
        while (growth := self.spec.designed(rows, self._width, rounds)).due:
            if self._width is None or self._design is None:
                break
            due = growth.due
            key = f"{due.results} {due.asked} {len(rounds)}"
            if key not in self._rounds:
                self._rounds[key] = decide(due, self._width, self._design)
            if record:
                self.store.decide(self._rounds[key])
            rounds = [*rounds, self._rounds[key]]
        return growth

    def _decide(self, rows: dict[str, Row]) -> None:
        """Record the round that is due, if one is: a sweep was killed before that, or asks for more
        now."""
        if self.spec.by_design and self.spec.designed(rows, None, self.store.rounds()).due:
            with self.store.drive():
                self.designed(rows, record=True)

    # -------------------------------------------------------------- running

    def run(
        self,
        workers: int = 2,
        *,
        threads: int = 1,
        in_process: bool = False,
        retries: int = 2,
        retry_failed: bool = False,
        device: str = "auto",
        packs: bool = True,
        compile: bool = False,
        checkpoint_seconds: float = 60.0,
        console: Console | None = None,
        quiet: bool = False,
        reuse: Sequence[str | Path] = (),
        budget_flops: float | None = None,
        budget_hours: float | None = None,
        address: str | None = None,
        on_finish: Callable[[Finished], None] | None = None,
        devices: int = 1,
        nodes: int = 1,
        shard: bool = False,
    ) -> pd.DataFrame:
        """Train what is missing and return the merged table (scaling.table.COLUMNS).

        `workers` processes under Ray Tune, of `threads` CPU threads each; `in_process` trains one
        run after another here. With `devices` above one, each worker trains its runs on so many
        devices (scaling.parallel), `shard` as in Execution; they are on `nodes` machines of a Ray
        cluster. Numbers depend on `threads` and `devices` in their last digits, never on `workers`.
        A run whose worker dies more than `retries` times, or that raises, ends as a row with status
        'failed'. Runs of one shape are trained together where that is measured to pay (`packs`), runs
        with one trunk share it; on the CPU with one thread this changes no digit. With `compile`, shapes
        with minutes of training ahead that are measured to be faster under torch.compile are trained so, which
        does change last digits. A spec with
        [until] adds runs as results come in. Runs that have finished in the results folders `reuse`
        are taken from there. No run begins once this call's budget is spent (FLOPs as 6 N D; hours
        of wall clock). `on_finish` is called here with each run that finishes (sweeps.export has
        some).

        `address` ('host:port', 'auto') joins a Ray cluster that runs already, of which this machine is
        a part; its workers must see the results folder. Without it, Ray is started here for the sweep.

        Raises ConfigError and StoreError before anything starts where a run cannot be trained as
        asked or results cannot be written; the same where that shows only later; and Stopped (a
        KeyboardInterrupt) on Ctrl-C or SIGTERM, after the workers have written checkpoints;
        BudgetSpent, a Stopped, where the budget has left runs to train.
        Nothing that has finished is ever lost or trained again.
        """
        if address is not None:
            if in_process:
                raise ConfigError(
                    f"address={address!r} is a cluster's, which in_process would leave idle; choose one."
                )
            probe(address)
        execution = Execution(
            device=device,
            threads=threads,
            devices=devices,
            nodes=nodes,
            shard=shard,
            compile=compile,
            checkpoint_seconds=checkpoint_seconds,
        )
        processes = _workers_of(workers, execution, in_process, address)
        if retries < 0:
            raise ConfigError(f"retries={retries} must not be negative.")
        budget = Budget(budget_flops, budget_hours)
        if self.spec.until and self.spec.until.interval:
            if self._width is None or (self.spec.by_design and self._design is None):
                raise ConfigError(
                    f"{self.spec.name} [until]: interval needs a fit. `scaling sweep` has one; from "
                    "Python, give Sweep width=analysis.planning.adaptive.interval_width and "
                    "design=analysis.planning.adaptive.interval_runs."
                )
            self._width(self.spec.until.interval, [])  # is there such a law, such a parameter?
        console = console or Console(file=sys.stdout, quiet=quiet)
        rows = self.store.rows()
        if retry_failed:
            mine = rows.keys() & self.designed(rows).runs.keys()
            failed = [run_id for run_id in mine if rows[run_id]["status"] == "failed"]
            if failed:
                with self.store.drive():
                    self.store.forget(failed)
                rows = self.store.rows()
        if reused := self._reusable(reuse, rows):
            with self.store.drive():
                self._take(reused, rows, execution)
            rows = self.store.rows()
            others = ", ".join(masked(str(other)) for other in reuse)
            say(console, f"{len(reused)} finished runs taken from {others}")
        on = estimate.Machine(processes, threads, device, compile, devices, nodes)
        self._decide(rows)
        plan = self._plan(rows, on, packs)
        self._say_messages(console)
        if plan.missing:
            call = _Call(workers, in_process, address, retries, packs, execution, budget)
            self._train(plan, rows, on, call, console, on_finish)
        else:
            if self.store.merge_is_due():
                try:
                    with self.store.drive():
                        self.store.remove_leftovers()
                        self.store.merge()
                except StoreError as error:  # nothing is lost by it
                    say(console, f"the table was not written again: {error}")
                self._say_messages(console)
            failed = list(plan.finished.values()).count("failed")
            again = f" ({failed} failed; --retry-failed trains them again)" if failed else ""
            say(console, f"{len(plan.runs)} runs, all finished{again}: nothing to train.")
            for line in plan.said:
                say(console, line)
        extra = rows.keys() - plan.runs.keys()
        if extra and not self.spec.chosen:
            say(
                console,
                f"{len(extra)} finished runs in {self.store.said(self.folder)} are not in this spec; "
                "their rows stay in its table.",
            )
        return table.read(self.folder)

    def _reusable(self, folders: Sequence[str | Path], rows: dict[str, Row]) -> dict[str, Finished]:
        """{run_id: result} of the runs that are missing here and have finished in other folders."""
        found: dict[str, Finished] = {}
        usable = {"ok", "diverged"} | ({"stopped"} if self.spec.halving else set())
        for folder in folders:
            other = Store(folder)
            theirs = other.rows()
            if not theirs:
                raise StoreError(
                    f"{other.said(other.folder)} holds no finished runs to reuse; give a results folder."
                )
            more = True
            while more:  # results may design further runs
                known = rows | {run_id: result.row for run_id, result in found.items()}
                wanted = self.designed(known).runs
                ids = [
                    run_id
                    for run_id in wanted.keys() & theirs.keys() - known.keys()
                    if theirs[run_id]["status"] in usable
                ]
                more = False
                for result in other.results(ids) if ids else ():
                    run_id, more = result.row["run_id"], True
                    row = {**result.row, "tag": wanted[run_id].tag}
                    found[run_id] = Finished(row, result.curve, result.tests)
        return found

    def _take(
        self, reused: dict[str, Finished], rows: dict[str, Row], execution: Execution
    ) -> None:
        """Store results of another folder here, once it is sure that their text is the same."""
        self.store.check_writable()
        theirs = {run_id: result.row for run_id, result in reused.items()}
        runs = self.designed(rows | theirs).runs
        self._prepare([runs[run_id] for run_id in reused], rows | theirs, execution)
        for run_id, result in reused.items():
            self.store.begin(runs[run_id])
            self.store.finish(result.row, result.curve, result.tests)

    def _train(
        self,
        plan: Plan,
        rows: dict[str, Row],
        on: estimate.Machine,
        call: _Call,
        console: Console,
        on_finish: Callable[[Finished], None] | None,
    ) -> None:
        execution, budget = call.execution, call.budget
        self.store.check_writable()
        with self.store.drive():
            self.store.remove_leftovers()
            hashes = self._prepare(list(plan.missing.values()), rows, execution)
            plan = self._measured(plan, rows, on, call.packs, guess=True)
            session = _Session(self.spec, self.store, hashes, plan, call)
            where = "in this process" if call.in_process else _workers(plan.workers, "on")
            say(
                console,
                f"{self.spec.name}: {len(plan.missing)} of {len(plan.runs)} runs to train, "
                f"{si(plan.flops, 'FLOPs')}, {si(plan.tokens, ' tokens')}, {where}, about "
                f"{clock(plan.wall_seconds)}",
            )
            for line in plan.precisions():
                say(console, line)
            self._say_budget(budget, plan, console)
            queue = Queue(self.store, call.retries, admits=lambda job: budget.admits(job.runs))
            self.store.forget(plan.again)
            known = {run_id: row for run_id, row in rows.items() if run_id not in plan.again}
            if self.spec.halving:
                Halving(self.store, self.spec.halving).prepare(plan.runs, known)

            def finished(outcome: Outcome) -> None:
                if not (on_finish or self.spec.until):
                    return
                result = self.store.result(outcome.run_id)
                if result is None:  # set aside, with a message
                    return
                known[outcome.run_id] = result.row
                if on_finish:
                    on_finish(result)
                if self.spec.until:
                    self._grow(plan, known, hashes, queue, call)

            queue.on_finish = finished
            queue.add(replace(job, texts=hashes) for job in plan.jobs)

            def stop() -> None:
                queue.stopping = True
                if not call.in_process:
                    self.store.stop_file.touch()

            display = Display(
                queue, self.store, plan.runs, plan.seconds, workers=plan.workers, console=console
            )
            hard = False
            with _interruptible(stop):
                try:
                    with display:
                        if call.in_process:
                            _run_here(queue, execution)
                        else:
                            with joined(call.address):
                                from sweeps.tune import run_on_ray

                                run_on_ray(queue, workers=plan.workers, execution=execution)
                except KeyboardInterrupt:
                    hard = True
            if queue.fatal is not None:
                with contextlib.suppress(StoreError):  # a disk that is full is so for these as well
                    self.store.merge()
                    session.end(queue)
                raise queue.fatal
            self.store.merge()
            self._say_messages(console)
            session.note_sizes(plan.runs.values())
            session.end(queue)
            self._say_end(queue, session.seconds, console)
            for line in self.designed(known).said if self.spec.until else ():
                say(console, line)
            resume = self._resume(call)
            if queue.stopping or hard:
                raise Stopped(f"stopped; what has finished is kept. {resume}")
            if queue.held_back:
                left = sum(len(job.runs) for job in queue.held_back)
                raise BudgetSpent(f"the budget is spent ({budget}): {left} runs are left. {resume}")

    def _grow(
        self,
        plan: Plan,
        known: dict[str, Row],
        hashes: dict[str, str],
        queue: Queue,
        call: _Call,
    ) -> None:
        """Queue what the results so far ask for and the plan does not hold yet. Texts that have
        `hashes` must have them still; those of other texts are added."""
        try:
            growth = self.designed(known, record=True)
            new = {run_id: run for run_id, run in growth.runs.items() if run_id not in plan.runs}
            if new:
                hashes |= self._prepare(list(new.values()), known, call.execution, hashes)
            self.store.forget(growth.unfinished)
        except (ConfigError, StoreError) as error:
            queue.fatal = error
            return
        plan.runs.update(new)
        for run_id in growth.unfinished:
            del known[run_id]
        asked = new | {run_id: plan.runs[run_id] for run_id in growth.unfinished}
        missing = [run for run_id, run in asked.items() if run_id not in known]
        jobs = self._jobs(missing, plan.costs, plan.workers, call.packs) if missing else []
        plan.seconds.update(_shares(jobs))
        queue.add(replace(job, texts=hashes) for job in jobs)

    def _say_budget(self, budget: Budget, plan: Plan, console: Console) -> None:
        """Tell beforehand that the budget will not do. ConfigError where it lets nothing begin."""
        least = min(map(flops, plan.missing.values()))
        if budget.flops is not None and least > budget.flops:
            raise ConfigError(
                f"budget_flops={budget.flops:g} is less than the cheapest run takes, {least:.3g} FLOPs."
            )
        more_flops = budget.flops is not None and plan.flops > budget.flops
        more_time = budget.hours is not None and plan.wall_seconds > 3600 * budget.hours
        if more_flops or more_time:
            say(
                console,
                "that is more than the budget: it ends before all runs are done; the same command "
                "goes on from there",
            )

    def _prepare(
        self,
        missing: list[RunConfig],
        rows: dict[str, Row],
        execution: Execution,
        recorded: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """Make the token files and check, of every run, what would only show when it trains.

        Returns the hashes of the texts (scaling.corpus.hashes), those `recorded` earlier in this call
        too. Raises ConfigError for what cannot be trained as asked, and where a text is no longer the
        recorded one; StoreError where results on different texts would mix.
        """
        # What is everywhere needs no check, and torch takes seconds.
        if execution.device not in ("auto", "cpu"):
            from scaling.train import device_of

            device_of(execution.device)
        from scaling import corpus

        texts: dict[tuple[Any, ...], _Text] = {}
        checked: set[tuple[Any, ...]] = set()
        for run in missing:
            try:
                if execution.devices > 1:
                    from scaling import parallel

                    parallel.check(run, execution)
                _check_run(run, texts, checked)
            except ConfigError as error:
                tag = f" {run.tag!r}" if run.tag else ""
                raise ConfigError(f"{self.spec.name}, run {run.run_id}{tag}: {error}") from None
        known = dict(recorded or {})
        for key, text in texts.items():
            found = corpus.hashes(text.data, text.files, text.others)
            corpus.check_unchanged(found, known)
            if not found.keys() <= known.keys():
                self._check_rows(rows, key, text, found)
            known |= found
        return known

    def _check_rows(
        self, rows: dict[str, Row], key: tuple[Any, ...], text: _Text, found: dict[str, str]
    ) -> None:
        """Raise StoreError where finished runs were trained, or tested, on another text."""
        noted = self.store.manifest().get("corpus_hashes")
        noted = noted if isinstance(noted, dict) else {}
        names = dict(zip(text.others, list(found)[1:], strict=True))
        for row in rows.values():
            if tuple(row.get(name) for name in _TEXT) != key:
                continue
            was = row.get("corpus_hash")  # the table keeps its first digits
            if was and not text.files.hash.startswith(was):
                raise StoreError(
                    f"{self.store.said(self.folder)}: run {row['run_id']} was trained on another "
                    f"text: corpus {row['corpus']!r} ({row['tokenizer']}) had hash {was} and has "
                    f"{text.files.hash[: len(was)]} now. Losses would not compare; use another "
                    "folder with --results, or restore the text."
                )
            for other in str(row.get("others") or "").split(","):
                name = names.get(other.strip())
                was = noted.get(name) if name else None
                if name and isinstance(was, str) and was != found[name]:
                    raise StoreError(
                        f"{self.store.said(self.folder)}: run {row['run_id']} was tested on another "
                        f"text: corpus {other!r} of eval.others had hash {was[:16]} and has "
                        f"{found[name][:16]} now. Losses would not compare; use another folder with "
                        "--results, or restore the text."
                    )

    # -------------------------------------------------------------- after it

    def _say_end(self, queue: Queue, wall: float, console: Console) -> None:
        states = list({outcome.run_id: outcome.status for outcome in queue.outcomes}.values())
        counts = [f"{states.count(s)} {s}" for s in table.STATUSES if states.count(s)]
        busy, idle, jobs = _busy_and_idle(queue)
        share = f"; workers idle between jobs {100 * idle / (busy + idle):.1f}%" if jobs > 1 else ""
        say(console, f"{', '.join(counts) or 'nothing finished'} in {clock(wall)}{share}")
        for outcome in [o for o in queue.outcomes if o.status == "failed"][:3]:
            log = self.store.said(self.store.run_folder(outcome.run_id) / "output.log")
            say(console, f"  {outcome.run_id} failed: {headline(outcome.error)} ({log})")
        say(console, f"table: {self.store.said(self.folder / 'runs.csv')}")

    def _say_messages(self, console: Console) -> None:
        for message in self.store.messages:
            say(console, message)
        self.store.messages.clear()

    def _resume(self, call: _Call) -> str:
        results = "" if self._results is None else str(self._results)
        left_out = without_credentials(results) != results
        hint = f"{_CREDENTIALS} " if left_out else ""
        return f"{hint}Resume with: {self._command(call)}"

    def _command(self, call: _Call) -> str:
        """The command line that goes on where this call stopped."""
        name = self.spec.name if self.spec.path is None else str(self.spec.path)
        if self.spec.path and self.spec.path.parent == Path(__file__).parent / "specs":
            name = self.spec.path.stem
        words = ["scaling", "sweep", name, "--workers", str(call.workers)]
        if self._results is not None:
            words += ["--results", without_credentials(str(self._results))]
        for option, value, default in (
            ("--threads", call.execution.threads, 1),
            ("--device", call.execution.device, "auto"),
            ("--devices", call.execution.devices, 1),
            ("--nodes", call.execution.nodes, 1),
            ("--retries", call.retries, 2),
            ("--address", call.address, None),
            ("--budget-flops", call.budget.flops, None),
            ("--budget-hours", call.budget.hours, None),
        ):
            words += [option, str(value)] if value != default else []
        for key, value in self.spec.changes.items():
            words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        words += self.spec.chosen
        words += [word for file in self.spec.allowed for word in ("--allow-code", file)]
        words += ["--shard"] if call.execution.shard else []
        words += [] if call.packs else ["--no-packs"]
        words += ["--compile"] if call.execution.compile else []
        return shlex.join([*words, *(["--in-process"] if call.in_process else [])])


def _shares(jobs: list[Job]) -> dict[str, float]:
    """{run_id: its share of the estimated seconds of its job}."""
    return {
        run.run_id: job.seconds * run.D / sum(other.D for other in job.runs)
        for job in jobs
        for run in job.runs
    }


class _Session:
    """This call's entry in the manifest: what its results rest on, taken once, as it starts."""

    def __init__(
        self,
        spec: Spec,
        store: Store,
        hashes: dict[str, str],
        plan: Plan,
        call: _Call,
    ) -> None:
        """Writes the manifest; entries of earlier sessions stay as they are. Raises StoreError."""
        self._store = store
        self._started = time.monotonic()
        rests_on = {
            "revision": _revision(),
            "versions": _versions(),
            "machine": machine(),
            "spec": spec.text,
            "changes": spec.changes,
        }
        self._entry: dict[str, Any] = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "executor": "in process" if call.in_process else "ray tune",
            "workers": plan.workers,
            "threads": call.execution.threads,
            "device": call.execution.device,
            "devices": call.execution.devices,
            "nodes": call.execution.nodes,
            "shard": call.execution.shard,
            "compile": call.execution.compile,
            **rests_on,
        }
        before = store.manifest()
        sessions, old = before.get("sessions"), before.get("corpus_hashes")
        earlier = [s for s in sessions if isinstance(s, dict)] if isinstance(sessions, list) else []
        self._sessions: list[dict[str, Any]] = [*earlier, self._entry]
        self._top: dict[str, Any] = {
            "name": spec.name,
            "description": spec.description,
            "schema": table.SCHEMA,
            **rests_on,
            "corpus_hashes": (old if isinstance(old, dict) else {}) | hashes,
        }
        self._sizes = own_sizes.together(before.get("own_sizes"), [])
        self.note_sizes([*spec.runs, *plan.runs.values()])
        self._write()

    def note_sizes(self, runs: Iterable[RunConfig]) -> None:
        """Record the sizes of models of one's own families, when the manifest is written next."""
        self._sizes = own_sizes.together(self._sizes, own_sizes.record(runs))
        if self._sizes:
            self._top["own_sizes"] = self._sizes

    @property
    def seconds(self) -> float:
        """Wall clock so far."""
        return time.monotonic() - self._started

    def end(self, queue: Queue) -> None:
        """Add the account of what was done to the entry. Raises StoreError."""
        busy, idle, jobs = _busy_and_idle(queue)
        self._entry |= {
            "wall_seconds": round(self.seconds, 2),
            "jobs": jobs,
            "busy_seconds": round(busy, 2),
            "idle_seconds_between_jobs": round(idle, 2),
        }
        self._write()

    def _write(self) -> None:
        spent = (session.get("wall_seconds") for session in self._sessions)
        wall = sum(s for s in spent if isinstance(s, int | float) and 0 <= s < 1e12)
        whole = {"wall_seconds": round(wall, 2), "sessions": self._sessions}
        self._store.write_manifest(self._top | whole)


_TEXT = [f.name for f in fields(DataConfig) if f.name not in ("unique_tokens", "data_seed")]
"""What makes token files, from which subsets are drawn."""


@dataclass
class _Text:
    """The token files that runs share."""

    data: DataConfig
    files: TokenFiles
    others: dict[str, Path] = field(default_factory=dict)
    """{corpus: test split in these tokens} of all eval.others."""


def _check_run(
    run: RunConfig, texts: dict[tuple[Any, ...], _Text], checked: set[tuple[Any, ...]]
) -> None:
    """Raise ConfigError where training would: rates, text, subset or test windows that cannot be.

    `texts` and `checked` remember what earlier runs share with this one.
    """
    from scaling import corpus
    from scaling.schedule import peaks
    from scaling.tokens import TrainTokens, held_out_windows

    try:
        peaks(run)
    except OverflowError:
        raise ConfigError(
            f"optim.lr={run.optim.lr!r} overflows at this run's N, D and B; use smaller powers."
        ) from None
    key = tuple(getattr(run.data, name) for name in _TEXT)
    if key not in texts:
        texts[key] = _Text(run.data, corpus.prepare(run.data))
    files, others = texts[key].files, texts[key].others
    n_ctx, test_tokens = run.model.n_ctx, run.eval.test_tokens
    if (subset := (run.data, n_ctx)) not in checked:
        TrainTokens(files, run.data, n_ctx)
    if (test := (key, n_ctx, test_tokens)) not in checked:
        held_out_windows(files.test, test_tokens, n_ctx)
    for name in run.eval.other_corpora:
        if name != run.data.corpus and name not in others:
            others[name] = files.test_of(name)
    checked |= {subset, test}


def _workers_of(
    workers: int, execution: Execution, in_process: bool, address: str | None = None
) -> int:
    """How many workers will run. ConfigError where this machine has too few cores for them, or is one
    where several nodes are asked for."""
    _positive(workers, "workers")
    if execution.nodes > 1 and in_process:
        raise ConfigError(
            f"nodes={execution.nodes}, but in_process trains on this machine only. Give the address of a "
            "Ray cluster instead; or train one run, without Ray, with `torchrun --nnodes "
            f"{execution.nodes} ... -m scaling.cli train` on every node (docs/cluster.md)."
        )
    if execution.nodes > 1 and execution.compile:
        raise ConfigError(
            f"compile is decided by measurements, which are not made with nodes={execution.nodes}; "
            "leave it out."
        )
    workers = 1 if in_process else workers
    ray = sys.modules.get("ray")
    if address or (ray is not None and ray.is_initialized() and not in_process):
        return workers  # the cluster says what it has
    if execution.nodes > 1:
        raise ConfigError(
            f"nodes={execution.nodes}, but without an address the sweep has this machine only. Start Ray "
            "on the nodes and give --address host:port, or auto (docs/cluster.md)."
        )
    # Not every system can say which of its cores this process may use.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    each, devices = execution.threads * execution.devices, execution.devices
    if workers * each > cores:
        several = f" on devices={devices}" if devices > 1 else ""
        raise ConfigError(
            f"workers={workers} of threads={execution.threads}{several} take {workers * each} cores, "
            f"but this process may use {cores}; ask for fewer workers, or for fewer threads each."
        )
    return workers


def _workers(number: int, word: str = "with") -> str:
    return f"{word} {number} worker{'' if number == 1 else 's'}"


def _run_here(queue: Queue, execution: Execution) -> None:
    """The executor without Ray: one job after another in this process."""
    while job := queue.take():
        try:
            queue.finish(job, execute(job, queue.store, execution, lambda: queue.stopping))
        except (ConfigError, StoreError) as error:
            queue.fatal = error
            queue.release(job)


@contextlib.contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C (or SIGTERM) once: `stop()`, and the block ends by itself. Twice, or after the grace
    period: KeyboardInterrupt in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(_GRACE_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    asked = False

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        timer.start()
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _busy_and_idle(queue: Queue) -> tuple[float, float, int]:
    """Seconds that workers trained, seconds that they waited between two jobs, and the jobs."""
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


def _revision() -> str | None:
    """Git revision of this package's source, with '+' where it has changes; None outside git."""
    import subprocess

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), "--no-optional-locks", *words],
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    if not revision:
        return None
    return revision + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from sweeps import __distribution__

    found = {}
    for name in (__distribution__, "torch", "ray", "numpy", "pandas", "tokenizers", "tiktoken"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _positive(value: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1.")
