"""A sweep: what its spec asks for, less what the store holds, trained, stored and merged."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scaling import schema, table
from scaling.config import RunConfig
from scaling.errors import ConfigError
from scaling.execution import Execution
from scaling.training.pack_key import pack_key
from scaling.units import clock, si
from sweeps import packing
from sweeps.adaptive.growth import Growth
from sweeps.adaptive.interval import Design, Round, Width, decide
from sweeps.budget import Budget, flops
from sweeps.checks import TEXT_FIELDS, Text, check_run, check_workers
from sweeps.costs import Costs, costs_of, typical
from sweeps.display import Display, say
from sweeps.driver import interruptible, run_here
from sweeps.early_stopping import Halving
from sweeps.errors import BudgetSpent, Stopped, StoreError, headline
from sweeps.manifest import Session
from sweeps.measure import Machine
from sweeps.on_ray.cluster import joined, probe
from sweeps.options import Call
from sweeps.queue import Job, Outcome, Queue, busy_and_idle
from sweeps.remote import join, masked, without_credentials
from sweeps.result import Finished, Row
from sweeps.spec import SPECS, Spec
from sweeps.store import Store
from sweeps.sweep_plan import Plan, on_workers, shares

if TYPE_CHECKING:
    import pandas as pd


_CREDENTIALS = (
    "The credentials of --results are left out here: give them in the environment (of s3: AWS_ACCESS_KEY_ID "
    "and AWS_SECRET_ACCESS_KEY), or in the URI again."
)


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
        narrow (sweeps.adaptive.interval): analysis.planning.adaptive.interval_width and interval_runs.
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
        workers = check_workers(workers, execution, in_process, address)
        rows = self.store.rows()
        rows |= {run_id: found.row for run_id, found in self._reusable(reuse, rows).items()}
        on = Machine(workers, threads, device, compile=compile, devices=devices, nodes=nodes)
        plan = replace(self._plan(rows, on, packs), price=price)
        if not (measure and plan.missing):
            return plan
        self._prepare(list(plan.missing.values()), rows, execution)
        return replace(self._measured(plan, rows, on, packs, guess=False), price=price)

    def _plan(self, rows: dict[str, Row], on: Machine, packs: bool) -> Plan:
        growth = self.designed(rows)
        runs, again = growth.runs, frozenset(growth.unfinished)
        rows = {run_id: row for run_id, row in rows.items() if run_id not in again}
        missing = {run_id: run for run_id, run in runs.items() if run_id not in rows}
        costs = costs_of(on, missing.values(), rows.values())
        jobs = self._jobs(list(missing.values()), costs, on.workers, packs)
        seconds = shares(jobs)
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

    def _jobs(self, runs: list[RunConfig], costs: Costs, workers: int, packs: bool) -> list[Job]:
        jobs = packing.form(runs, costs, workers, packs=packs)
        return [replace(job, halving=self.spec.halving) for job in jobs]

    def _measured(
        self, plan: Plan, rows: dict[str, Row], on: Machine, packs: bool, *, guess: bool
    ) -> Plan:
        """The plan again, after measuring packs where these may pay; and, unless a guess will do,
        the speed where nothing is known of it."""
        if on.nodes > 1:  # of which this machine is but one
            return plan
        runs = plan.missing.values()
        if not guess and not plan.costs.speed.samples:
            self._measure(on, typical(runs))
            plan = self._plan(rows, on, packs)
        asked = packing.worth_measuring(runs, plan.costs) if packs else []
        if asked:
            self._measure(on, asked)
            plan = self._plan(rows, on, packs)
        asked = packing.worth_compiling(runs, plan.costs, on) if on.compile else []
        if asked:
            self._measure(
                on, [(run, n) for run, n in asked if pack_key(run) not in plan.costs.packs]
            )
            self._measure(on, asked, compiled=True)
            plan = self._plan(rows, on, packs)
        if compared := packing.worth_comparing(runs, plan.costs):
            on.compare(compared)
            plan = replace(plan, costs=replace(plan.costs, other=on.compared(runs)))
        return plan

    def _measure(
        self, on: Machine, asked: list[tuple[RunConfig, int]], *, compiled: bool = False
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
        processes = check_workers(workers, execution, in_process, address)
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
        on = Machine(processes, threads, device, compile=compile, devices=devices, nodes=nodes)
        self._decide(rows)
        plan = self._plan(rows, on, packs)
        self._say_messages(console)
        if plan.missing:
            call = Call(workers, in_process, address, retries, packs, execution, budget)
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
                f"{len(extra)} finished runs in {self.store.shown(self.folder)} are not in this spec; "
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
                    f"{other.shown(other.folder)} holds no finished runs to reuse; give a results folder."
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
        on: Machine,
        call: Call,
        console: Console,
        on_finish: Callable[[Finished], None] | None,
    ) -> None:
        execution, budget = call.execution, call.budget
        self.store.check_writable()
        with self.store.drive():
            self.store.remove_leftovers()
            hashes = self._prepare(list(plan.missing.values()), rows, execution)
            plan = self._measured(plan, rows, on, call.packs, guess=True)
            session = Session(self.spec, self.store, hashes, plan, call)
            where = "in this process" if call.in_process else on_workers(plan.workers, "on")
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
            with interruptible(stop):
                try:
                    with display:
                        if call.in_process:
                            run_here(queue, execution)
                        else:
                            with joined(call.address):
                                from sweeps.on_ray.tune import run_on_ray

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
        call: Call,
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
        plan.seconds.update(shares(jobs))
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
            from scaling.devices.device import device_of

            device_of(execution.device)
        from scaling.data import corpus

        texts: dict[tuple[Any, ...], Text] = {}
        checked: set[tuple[Any, ...]] = set()
        for run in missing:
            try:
                if execution.devices > 1:
                    from scaling.devices import launch  # imports torch

                    launch.check(run, execution)
                check_run(run, texts, checked)
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
        self, rows: dict[str, Row], key: tuple[Any, ...], text: Text, found: dict[str, str]
    ) -> None:
        """Raise StoreError where finished runs were trained, or tested, on another text."""
        noted = self.store.manifest().get("corpus_hashes")
        noted = noted if isinstance(noted, dict) else {}
        names = dict(zip(text.others, list(found)[1:], strict=True))
        for row in rows.values():
            if tuple(row.get(name) for name in TEXT_FIELDS) != key:
                continue
            was = row.get("corpus_hash")  # the table keeps its first digits
            if was and not text.files.hash.startswith(was):
                raise StoreError(
                    f"{self.store.shown(self.folder)}: run {row['run_id']} was trained on another "
                    f"text: corpus {row['corpus']!r} ({row['tokenizer']}) had hash {was} and has "
                    f"{text.files.hash[: len(was)]} now. Losses would not compare; use another "
                    "folder with --results, or restore the text."
                )
            for other in str(row.get("others") or "").split(","):
                name = names.get(other.strip())
                was = noted.get(name) if name else None
                if name and isinstance(was, str) and was != found[name]:
                    raise StoreError(
                        f"{self.store.shown(self.folder)}: run {row['run_id']} was tested on another "
                        f"text: corpus {other!r} of eval.others had hash {was[:16]} and has "
                        f"{found[name][:16]} now. Losses would not compare; use another folder with "
                        "--results, or restore the text."
                    )

    # -------------------------------------------------------------- after it

    def _say_end(self, queue: Queue, wall: float, console: Console) -> None:
        states = list({outcome.run_id: outcome.status for outcome in queue.outcomes}.values())
        counts = [f"{states.count(s)} {s}" for s in schema.STATUSES if states.count(s)]
        busy, idle, jobs = busy_and_idle(queue)
        share = f"; workers idle between jobs {100 * idle / (busy + idle):.1f}%" if jobs > 1 else ""
        say(console, f"{', '.join(counts) or 'nothing finished'} in {clock(wall)}{share}")
        for outcome in [o for o in queue.outcomes if o.status == "failed"][:3]:
            log = self.store.shown(self.store.run_folder(outcome.run_id) / "output.log")
            say(console, f"  {outcome.run_id} failed: {headline(outcome.error)} ({log})")
        say(console, f"table: {self.store.shown(self.folder / 'runs.csv')}")

    def _say_messages(self, console: Console) -> None:
        for message in self.store.messages:
            say(console, message)
        self.store.messages.clear()

    def _resume(self, call: Call) -> str:
        results = "" if self._results is None else str(self._results)
        left_out = without_credentials(results) != results
        hint = f"{_CREDENTIALS} " if left_out else ""
        return f"{hint}Resume with: {self._command(call)}"

    def _command(self, call: Call) -> str:
        """The command line that goes on where this call stopped."""
        name = self.spec.name if self.spec.path is None else str(self.spec.path)
        if self.spec.path and self.spec.path.parent == SPECS:
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
