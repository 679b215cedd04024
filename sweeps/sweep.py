"""A sweep: the runs of a spec and the results folder that they are stored in."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scaling import table
from scaling.command_run import CommandRun
from scaling.errors import ConfigError
from sweeps import gpus, kept_weights
from sweeps.adaptive.growth import Growth
from sweeps.adaptive.protocols import CurveForecaster, IntervalDesigner
from sweeps.budget import SweepBudget
from sweeps.checks import check_joined, check_kind, check_options, prepare
from sweeps.display import say
from sweeps.driver import Driver, say_messages
from sweeps.errors import StoreError
from sweeps.export import exporter
from sweeps.measure import Machine
from sweeps.on_ray.cluster import gpus_of_workers, probe
from sweeps.options import SweepOptions
from sweeps.remote import join, masked, without_credentials
from sweeps.requested import RequestedRuns
from sweeps.result import Finished, Row
from sweeps.reuse import reusable_results, take
from sweeps.runner.checks import check_budget
from sweeps.runner.identity import Recorded, changed, code_remark, with_code
from sweeps.spec import SPECS, Spec
from sweeps.store import Store
from sweeps.sweep_plan import Planner, SweepPlan

if TYPE_CHECKING:
    import pandas as pd


_CREDENTIALS_LEFT_OUT = (
    "Credentials in URIs are left out here: give them in the environment (for s3: "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or in the URI again."
)


class Sweep:
    """The runs of a spec and the results folder that they are stored in.

        runs = Sweep.from_toml("quickstart").run(workers=2)

    A second call trains only what is missing.
    """

    def __init__(
        self,
        spec: Spec,
        results: str | Path | None = None,
        *,
        designer: IntervalDesigner | None = None,
        forecaster: CurveForecaster | None = None,
    ) -> None:
        """Create a sweep whose results go to `results`/<name of the spec>.

        `results` is ./results by default. It may be a URI that pyarrow.fs or fsspec reaches, such
        as s3://bucket/results; credentials in it are never printed or written.

        `designer` fits laws and designs runs for a spec with ``[until] interval``; the default is
        that of the analysis package (:mod:`sweeps.adaptive.protocols`). So is that of `forecaster`,
        which forecasts how runs end, for a spec with ``[until] forecast``.
        """
        self.spec = spec
        self._results = results
        self.store = Store(join("results" if results is None else str(results), spec.name))
        self._requested = RequestedRuns(spec, self.store, designer, forecaster)

    @classmethod
    def from_toml(
        cls,
        path_or_name: str | Path,
        results: str | Path | None = None,
        *,
        changes: dict[str, Any] | None = None,
        filters: Sequence[str] = (),
        tag: str | None = None,
        designer: IntervalDesigner | None = None,
        forecaster: CurveForecaster | None = None,
        allow_code: Sequence[str | Path] = (),
        on_code: Callable[[Path], None] = lambda file: None,
        same_code: bool = False,
    ) -> Sweep:
        """Create a sweep from a TOML file or the name of a bundled spec. Raises ConfigError.

        `changes`, {dotted key: value}, apply to every run; 'name' among them renames the sweep.
        `filters` and `tag` select runs (:meth:`sweeps.spec.Spec.select`). `allow_code` lists files
        of code outside the spec's folder that may be executed, and `on_code` is called with every
        file of code that is (:meth:`sweeps.spec.Spec.from_toml`). With `same_code`, files that a
        [runner] names count as those that the results folder was made with.
        """

        def recorded(name: str) -> Recorded:
            store = Store(join("results" if results is None else str(results), name))
            store.pull()
            return Recorded.of(store.manifest())

        spec = Spec.from_toml(
            path_or_name, changes, allow_code=allow_code, on_code=on_code, same_code=same_code,
            recorded=recorded,
        )  # fmt: skip
        spec = spec.select(filters, tag) if filters or tag is not None else spec
        return cls(spec, results, designer=designer, forecaster=forecaster)

    @property
    def folder(self) -> Path:
        """Path or URI of the results folder."""
        return self.store.folder

    def designed(self) -> Growth:
        """Return the runs that the spec calls for, given the results so far, and where the searches
        in its [until] stand."""
        return self._requested.growth(self.store.rows())

    # -------------------------------------------------------------- planning

    def plan(
        self,
        options: SweepOptions | None = None,
        *,
        price: float | None = None,
        measure: bool = False,
        **changes: Any,
    ) -> SweepPlan:
        """Return what :meth:`run` would train with the same options, and the time it would take.

        `price` is in dollars per hour. Estimates are based on finished runs in the results folder.
        With `measure`, the checks of :meth:`run` are made, and what is not known is measured in a
        few seconds of training in child processes. Raises StoreError, ConfigError.
        """
        options = SweepOptions.of(options, changes)
        workers = check_options(options, self.spec.runner)
        check_joined(options, self.spec, self.store)
        rows = self._checked_rows()
        remarks = self._remarks(rows)
        reused = reusable_results(self.spec, self._requested, options.reuse, rows, self.store.say)
        own, rows = rows, {**rows, **{run_id: result.row for run_id, result in reused.items()}}
        planner = self._planner(options, workers)
        plan = planner.plan(rows)
        if measure and plan.missing:
            missing, execution = plan.missing.values(), self.spec.executed(options.execution)
            prepare(self.spec.name, self.store, missing, rows, execution, runner=self.spec.runner)
            plan = planner.measured(plan, rows, need_speed=True)
        return replace(plan, price=price, weightless=self._weightless(plan, own), remarks=remarks)

    def _checked_rows(self) -> dict[str, Row]:
        """Return the results in the folder. Raises StoreError if they are of another kind of
        runs."""
        rows = self.store.rows()
        check_kind(self.store, rows, self.spec.runner)
        return rows

    def _remarks(self, rows: Mapping[str, Row]) -> tuple[str, ...]:
        """Return the remarks about the spec, and about files whose change makes its runs new."""
        if self.spec.runner is None:
            return self.spec.notes
        before = Recorded.of(self.store.manifest())
        files = changed(self.spec.recorded.code, before.code)
        if not files:
            return self.spec.notes
        earlier = with_code(self.spec.by_id, before.code)
        growth = replace(self.spec, by_id=earlier).designed(rows)
        finished = len(growth.runs.keys() & rows.keys())
        return (*self.spec.notes, code_remark(files, finished)) if finished else self.spec.notes

    def _weightless(self, plan: SweepPlan, rows: Mapping[str, Row]) -> str:
        """Return a line about finished runs without the weights that the spec asks for, given the
        results `rows` of this folder; empty if there are none."""
        if not self.spec.keep_weights:
            return ""
        ok = [run_id for run_id in plan.finished if rows.get(run_id, {}).get("status") == "ok"]
        return kept_weights.missing(self.store, ok)

    def _planner(self, options: SweepOptions, workers: int) -> Planner:
        execution = self.spec.executed(options.execution)
        shared = gpus_of_workers(execution, options.address, in_process=options.in_process)
        if execution.cuda_graphs and shared == 0:
            raise ConfigError(
                "cuda_graphs=true needs GPUs, and the workers would train on CPUs; leave it out."
            )
        machine = Machine(
            workers=workers,
            threads=execution.threads,
            device=execution.device,
            compile=execution.compile,
            devices=execution.devices,
            nodes=execution.nodes,
            gpus=shared,
            gpu=gpus.model_of(gpus.visible()) if shared else "",
            micro_tokens=execution.micro_tokens,
            recompute=execution.recompute,
            cuda_graphs=execution.cuda_graphs,
        )
        return Planner(
            spec=self.spec,
            store=self.store,
            requested=self._requested,
            machine=machine,
            packs=options.packs and not options.join,
        )

    # -------------------------------------------------------------- running

    def run(
        self,
        options: SweepOptions | None = None,
        *,
        console: Console | None = None,
        quiet: bool = False,
        on_finish: Callable[[Finished], None] | None = None,
        **changes: Any,
    ) -> pd.DataFrame:
        """Train what is missing and return the merged table (:data:`scaling.columns.COLUMNS`).

        `options` and keywords that change them are the fields of :class:`sweeps.SweepOptions`::

            sweep.run(workers=8, device="cpu", budget_hours=2)

        Runs are trained by worker processes under Ray Tune, or one after another in this process
        (`in_process`). Ray is started for the sweep unless `address` names a running cluster that
        this machine is part of; the workers must then see the results folder.

        With `join`, several processes share the results folder.

        Losses depend on `threads`, `devices` and `compile` in their last digits, never on
        `workers`; nor on `packs` on the CPU with one thread. A run that raises an error, or whose
        worker dies more than `retries` times, ends as a row with status 'failed'. A spec with
        [until] adds runs as results come in. No run starts once the budget of this call is spent.
        `on_finish` is called in this process with each run that finishes.

        Raises ConfigError and StoreError, before anything starts if possible, when runs cannot be
        trained as requested or results cannot be written; Stopped (a KeyboardInterrupt) on Ctrl-C
        or SIGTERM, after the workers have written checkpoints; and BudgetSpent, a Stopped, when the
        budget leaves runs to train. Finished runs are never lost or trained again.
        """
        options = SweepOptions.of(options, changes)
        workers = check_options(options, self.spec.runner)
        check_joined(options, self.spec, self.store)
        if options.address is not None:
            probe(options.address)
        check_budget((run for run in self.spec.runs if isinstance(run, CommandRun)), options)
        budget = SweepBudget(flops=options.budget_flops, hours=options.budget_hours)
        self._requested.check()
        console = console or Console(file=sys.stdout, quiet=quiet)
        on_finish = self._finish_callback(options, console, on_finish)
        remarks = self._remarks(self._checked_rows())
        rows = self.known(options, console)
        planner = self._planner(options, workers)
        self._requested.record_due_round(rows)
        plan = planner.plan(rows)
        say_messages(self.store, console)
        for line in (*remarks, self._weightless(plan, rows)):
            if line:
                say(console, line)
        if plan.missing:
            driver = Driver(
                spec=self.spec,
                store=self.store,
                requested=self._requested,
                planner=planner,
                options=options,
                budget=budget,
                console=console,
                on_finish=on_finish,
                resume=self._how_to_resume(options),
            )
            driver.train(plan, rows)
        else:
            self._merge_finished(plan, console, share=options.join)
        extra = rows.keys() - plan.runs.keys()
        if extra and not self.spec.selection:
            say(
                console,
                f"{len(extra)} finished runs in {self.store.shown(self.folder)} are not in this "
                "spec; their rows stay in its table.",
            )
        return table.read(self.folder)

    def known(self, options: SweepOptions, console: Console) -> dict[str, Row]:
        """Return the results so far, after what `options` change about them: failed runs are
        forgotten (`retry_failed`), and results of other folders are taken (`reuse`)."""
        rows = self.store.rows()
        if options.retry_failed:
            rows = self._without_failed(rows)
        return self._with_reused(rows, options, console)

    def _finish_callback(
        self,
        options: SweepOptions,
        console: Console,
        on_finish: Callable[[Finished], None] | None,
    ) -> Callable[[Finished], None] | None:
        """Return a callback that calls `on_finish` and exports each run if the options say so.

        A failed export, such as a network error, is reported once and does not end the sweep.
        """
        if options.export is None:
            return on_finish
        to, send = options.export, exporter(self.store, options.export)
        told = False

        def finish(finished: Finished) -> None:
            nonlocal told
            if on_finish:
                on_finish(finished)
            try:
                send(finished)
            except Exception as error:
                if not told:
                    hint = "`scaling export` later exports what is missing"
                    say(console, f"export to {to} failed: {error}; {hint}")
                told = True

        return finish

    def _without_failed(self, rows: dict[str, Row]) -> dict[str, Row]:
        """Forget failed runs of the spec, so that they are trained again; return the other
        results."""
        ours = rows.keys() & self._requested.growth(rows).runs.keys()
        failed = [run_id for run_id in ours if rows[run_id]["status"] == "failed"]
        if not failed:
            return rows
        with self.store.drive():
            self.store.forget(failed)
        return self.store.rows()

    def _with_reused(
        self, rows: dict[str, Row], options: SweepOptions, console: Console
    ) -> dict[str, Row]:
        """Store the results that other folders have of missing runs; return all results."""
        reused = reusable_results(self.spec, self._requested, options.reuse, rows, self.store.say)
        if not reused:
            return rows
        with self.store.drive():
            take(
                reused,
                rows,
                spec=self.spec,
                store=self.store,
                requested=self._requested,
                execution=self.spec.executed(options.execution),
                folders=options.reuse,
            )
        folders = ", ".join(map(masked, options.reuse))
        say(console, f"{len(reused)} finished runs taken from {folders}")
        return self.store.rows()

    def _merge_finished(self, plan: SweepPlan, console: Console, *, share: bool) -> None:
        """Print that all runs are finished, after bringing the table up to date if necessary."""
        if self.store.merge_is_due():
            try:
                with self.store.drive(share=share) as hold, hold.writing():
                    if not hold.others:
                        self.store.remove_leftovers()
                    self.store.merge()
            except StoreError as error:  # the results themselves are safe
                say(console, f"the table was not written again: {error}")
            say_messages(self.store, console)
        failed = list(plan.finished.values()).count("failed")
        again = f" ({failed} failed; --retry-failed trains them again)" if failed else ""
        say(console, f"{len(plan.runs)} runs, all finished{again}: nothing to train.")
        for note in plan.notes:
            say(console, note)

    # -------------------------------------------------------------- resuming

    def _how_to_resume(self, options: SweepOptions) -> str:
        folders = [*options.reuse, *([] if self._results is None else [str(self._results)])]
        hint = ""
        if any(without_credentials(folder) != folder for folder in folders):
            hint = f"{_CREDENTIALS_LEFT_OUT} "
        return f"{hint}Resume with: {self.resume_command(options)}"

    def resume_command(self, options: SweepOptions) -> str:
        """Return the command that resumes this sweep with the same options, without credentials."""
        return shlex.join(self.resume_words(options))

    def resume_words(self, options: SweepOptions) -> list[str]:
        """Return the words of :meth:`resume_command`."""
        name = self.spec.name if self.spec.path is None else str(self.spec.path)
        if self.spec.path and self.spec.path.parent == SPECS:
            name = self.spec.path.stem
        words = ["scaling", "sweep", name]
        if self._results is not None:
            words += ["--results", without_credentials(str(self._results))]
        reuse = tuple(map(without_credentials, options.reuse))
        words += replace(options, reuse=reuse).arguments()
        words += _set_arguments(self.spec.changes)
        words += self.spec.selection
        words += [word for file in self.spec.allowed for word in ("--allow-code", file)]
        return [*words, *(["--same-code"] if self.spec.same_code else [])]


def _set_arguments(changes: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `scaling sweep` that change these fields."""
    words: list[str] = []
    for key, value in changes.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return words
