"""The remaining work of a sweep: its jobs, their estimated time, and a summary for the user."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from scaling import progress, size
from scaling.columns import STATUSES
from scaling.command_run import CommandRun, Run
from scaling.config import RunConfig
from scaling.errors import ConfigError
from scaling.training.pack_key import pack_key
from scaling.units import clock, si
from sweeps import packing
from sweeps.costs import Costs, costs_of, fit_speed, typical
from sweeps.measure import OTHER_PRECISION, Machine
from sweeps.queue import Job
from sweeps.requested import RequestedRuns
from sweeps.result import Row
from sweeps.runner.speed import speed_of
from sweeps.spec import Spec
from sweeps.store import Store

_PRECISION_GAIN = 0.1
"""Fraction of a step's time that the other precision must save to be recommended."""

_LONGEST_SECONDS = 1e9
"""Longest estimate for which the time of completion is shown (about 30 years)."""


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """The remaining work of a sweep."""

    runs: dict[str, Run]
    """All runs that the spec calls for, by run id."""
    finished: dict[str, str]
    """Status of each run that needs no more training, by run id."""
    missing: dict[str, Run]
    """The runs to train by run id, most expensive first."""
    jobs: list[Job]
    """Jobs that train the missing runs: alone, in packs, or as branches of a common trunk."""
    seconds: dict[str, float]
    """Estimated seconds of each missing run on one worker; its share of a job with several runs."""
    costs: Costs
    workers: int
    """Number of workers that will run, at most one per job."""
    price: float | None = None
    """Dollars per hour of wall-clock time."""
    grows: bool = False
    """Whether the spec has [until], so that results may add more runs."""
    notes: tuple[str, ...] = ()
    """State of the searches in [until], one line each."""
    stopped_early: frozenset[str] = frozenset()
    """Missing runs that were stopped early and are now trained to their end."""
    weightless: str = ""
    """A line about finished runs without the weights that the spec asks for, if there are any."""
    trained: Mapping[str, float] = field(default_factory=dict)
    """Fraction of each missing run that its checkpoint holds, where it holds any."""
    remarks: tuple[str, ...] = ()
    """Remarks about the spec and the code of its command, one line each."""

    @property
    def tokens(self) -> int:
        """Training tokens to process."""
        return sum(run.D for run in self.missing.values())

    @property
    def flops(self) -> float:
        """Training FLOPs to spend, 6 N D; nan if sizes are not known."""
        return sum(map(size.flops_of, self.missing.values()))

    @property
    def wall_seconds(self) -> float:
        """Estimated wall-clock time if the longest jobs start first, each on the first free
        worker. What checkpoints hold is not trained again. nan if nothing is known of the time of a
        command."""
        if not self._timed:
            return math.nan
        left = (
            job.seconds
            - sum(self.seconds[r.run_id] * self.trained.get(r.run_id, 0) for r in job.runs)
            for job in self.jobs
        )
        return packing.makespan(left, self.workers)

    @property
    def _timed(self) -> bool:
        """Whether times are more than weights that order the runs."""
        return self.costs.commands is None or self.costs.commands.samples > 0

    @property
    def time(self) -> str:
        """The estimated wall-clock time, in words."""
        if self._timed:
            return f"about {clock(self.wall_seconds)}"
        limits = [job.runner.timeout_seconds for job in self.jobs if job.runner]
        known = [seconds for seconds in limits if seconds is not None]
        most = clock(packing.makespan(known, self.workers)) if known else ""
        return f"in unknown time{f', at most {most} by timeout_hours' if most else ''}"

    @property
    def stored(self) -> str:
        """How much of the missing runs checkpoints hold, in words; empty if they hold nothing."""
        runs = {run_id: self.missing[run_id] for run_id in self.trained}
        C = sum(size.work_of(run) * self.trained[run_id] for run_id, run in runs.items())
        whole = sum(map(size.work_of, self.missing.values()))
        return f"checkpoints hold {100 * C / whole:.0f}% of it" if C else ""

    @property
    def amount(self) -> str:
        """What is to be trained, such as '1e+12 FLOPs, 2M tokens'; FLOPs only if they are known."""
        tokens = si(self.tokens, " tokens")
        return tokens if math.isnan(self.flops) else f"{si(self.flops, 'FLOPs')}, {tokens}"

    def __str__(self) -> str:
        lines = [self._counts(), *self.notes, *self.remarks, *filter(None, [self.weightless])]
        if not self.missing:
            return "\n".join(lines)
        lines += [*self._sizes(), *self._packs(), *self.precision_hints()]
        if self.stopped_early:
            lines.append(
                f"{len(self.stopped_early)} of these were stopped early and are trained to the end"
            )
        if self.grows:
            lines.append("more runs follow from the results of these ([until])")
        lines.append(
            f"total {self.amount}; {self.time} {workers_phrase(self.workers)} ({self._basis()})"
            f"{self._end()}{f'; {self.stored}' if self.stored else ''}"
        )
        return "\n".join(lines)

    def _basis(self) -> str:
        """Return what the estimated time rests on."""
        samples = self.costs.samples
        if not self._timed:
            return "known once a run has finished"
        if self.costs.commands is not None:
            return f"from {samples} finished run{'' if samples == 1 else 's'}"
        return (
            f"from {samples} measurements"
            if samples
            else ("a guess: nothing measured on this machine")
        )

    def _counts(self) -> str:
        """Return the number of runs, finished and to be trained."""
        states = list(self.finished.values())
        counts = [f"{len(states)} finished"] if states else []
        for status in STATUSES[1:]:
            if status in states:
                counts.append(f"{states.count(status)} of them {status}")
        counts.append(f"{len(self.missing)} to train")
        return f"{len(self.runs)} runs: {', '.join(counts)}"

    def _sizes(self) -> list[str]:
        """Return a table of the missing runs, one line per size."""
        by_size: dict[int, list[Run]] = {}
        for run in self.missing.values():
            by_size.setdefault(size.N_of(run) or 0, []).append(run)
        lines = [
            f"{'N':>8}  {'shape':<22} {'runs':>5}  {'D [tokens]':<15} {'FLOPs':>8} {'time':>7}"
        ]
        for N, runs in sorted(by_size.items()):
            models = {_shape(run) for run in runs}
            model = models.pop() if len(models) == 1 else f"{len(models)} shapes"
            D = sorted({run.D for run in runs})
            span = si(D[0]) if len(D) == 1 else f"{si(D[0])} .. {si(D[-1])}"
            C = si(sum(map(size.flops_of, runs))) if N else "?"
            seconds = sum(self.seconds[run.run_id] for run in runs)
            span_of_time = clock(seconds) if self._timed else "?"
            lines.append(
                f"{si(N) if N else '?':>8}  {model:<22} {len(runs):>5}  {span:<15} {C:>8} "
                f"{span_of_time:>7}"
            )
        return lines

    def _packs(self) -> list[str]:
        """Return how many runs are compiled and how many are packed, one line each if any are."""
        compiled = sum(len(job.runs) for job in self.jobs if job.compile)
        lines = [f"{compiled} runs compiled, which was measured to be faster"] if compiled else []
        packed = [job for job in self.jobs if len(job.runs) > 1]
        if not packed:
            return lines
        runs = sum(len(job.runs) for job in packed)
        widest = max(job.slots for job in packed)
        trained = sum(map(packing.tokens, self.jobs))
        line = (
            f"{len(self.jobs)} jobs: {runs} runs in {len(packed)} packs of up to {widest} at once"
        )
        if trained < self.tokens:
            line += f", {100 * (1 - trained / self.tokens):.0f}% of the tokens in common trunks"
        return [*lines, line]

    def precision_hints(self) -> list[str]:
        """Return what the other precision would save, one line each, where that was measured to be
        much."""
        gains = {key for key, ratio in self.costs.other.items() if ratio < 1 - _PRECISION_GAIN}
        found: dict[str, list[tuple[float, float]]] = {}
        ours = ours_of(self.missing.values()) if gains else ()
        for run in ours:
            run_id = run.run_id
            if (key := pack_key(run)) in gains:
                each = found.setdefault(run.precision, [])
                each.append((self.seconds[run_id], self.costs.other[key]))
        lines = []
        for precision, each in found.items():
            other = OTHER_PRECISION[precision]
            ratio = sum(s * ratio for s, ratio in each) / sum(s for s, _ in each)
            lines.append(
                f'precision = "{other}" would be faster for {len(each)} runs: a step of one run '
                f"alone, uncompiled, takes {ratio:.2f} of its time in {precision} here"
            )
        return lines

    def _end(self) -> str:
        """Return when the sweep would end if it began now, and its cost."""
        if not self.wall_seconds <= _LONGEST_SECONDS:  # nor if it is nan
            return ""
        end = time.strftime("%a %H:%M", time.localtime(time.time() + self.wall_seconds))
        text = f"; done by {end} if started now"
        if self.price is not None:
            text += f", {self.price * self.wall_seconds / 3600:.2f} dollars"
        return text


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans a sweep for one machine."""

    spec: Spec
    store: Store
    requested: RequestedRuns
    machine: Machine
    packs: bool
    """Whether runs may train together."""

    def plan(self, rows: Mapping[str, Row]) -> SweepPlan:
        """Return what is left to train, given the results `rows` by run id."""
        growth = self.requested.growth(rows)
        runs, unfinished = growth.runs, frozenset(growth.unfinished)
        rows = {run_id: row for run_id, row in rows.items() if run_id not in unfinished}
        missing = {run_id: run for run_id, run in runs.items() if run_id not in rows}
        if self.spec.runner is None:
            costs = costs_of(self.machine, ours_of(missing.values()), rows.values())
        else:
            costs = Costs(fit_speed([]), commands=speed_of(rows.values()))
        jobs = self.jobs(missing.values(), costs, self.machine.workers)
        seconds = seconds_per_run(jobs)
        most_expensive_first = sorted(missing, key=lambda run_id: -seconds[run_id])
        grows, workers = self.spec.searches is not None, self.machine.workers
        return SweepPlan(
            runs=runs,
            finished={run_id: rows[run_id]["status"] for run_id in runs if run_id in rows},
            missing={run_id: missing[run_id] for run_id in most_expensive_first},
            jobs=jobs,
            seconds=seconds,
            costs=costs,
            workers=workers if grows else max(1, min(workers, len(jobs))),
            grows=grows,
            notes=tuple(growth.notes),
            stopped_early=unfinished,
            trained=self._trained(missing),
            remarks=self.spec.notes,
        )

    def _trained(self, missing: Mapping[str, Run]) -> dict[str, float]:
        """Return the fraction of each missing run that its checkpoint holds, if any."""
        here = sorted(set(self.store.run_ids()) & missing.keys())
        reports = self.store.progress_of(here)
        done = {
            run_id: self.store.fraction_done(
                run_id, missing[run_id].D, running=False, report=reports.get(run_id, {})
            )
            for run_id in here
        }
        return {run_id: part for run_id, part in done.items() if part}

    def jobs(self, runs: Iterable[Run], costs: Costs, workers: int) -> list[Job]:
        """Return jobs that train `runs`. Each run of a command is a job."""
        progress.step("grouping the runs into jobs")
        if (speed := costs.commands) is not None:
            commands = (run for run in runs if isinstance(run, CommandRun))
            jobs = [Job((run,), speed.seconds(run), runner=self.spec.runner) for run in commands]
        else:
            jobs = packing.form(ours_of(runs), costs, workers, packs=self.packs)
        searches = self.spec.searches
        if searches is None or not searches.stop_early:
            return jobs
        return [
            replace(
                job,
                halving=searches.halving,
                win=searches.lr.win if searches.lr else None,
                forecast=searches.forecast,
                forecaster=self.requested.given_forecaster,
            )
            for job in jobs
        ]

    def measured(
        self, plan: SweepPlan, rows: Mapping[str, Row], *, need_speed: bool = False
    ) -> SweepPlan:
        """Plan again after measuring what may make the sweep faster: packs, compilation and the
        other precision. With `need_speed`, first measure the machine's speed if it is unknown.

        Measurements take seconds and are cached. Raises ConfigError if one fails.
        """
        if not self.machine.measurable or self.spec.runner is not None:
            return plan
        if need_speed and not plan.costs.speed.samples:
            self._measure(typical(ours_of(plan.missing.values())))
            plan = self.plan(rows)
        runs = ours_of(plan.missing.values())
        if self.packs and (asked := packing.worth_measuring(runs, plan.costs)):
            self._measure(asked)
            plan = self.plan(rows)
        if self.machine.compile:
            asked = packing.worth_compiling(runs, plan.costs, self.machine)
            if asked:
                self._measure(
                    [(r, most) for r, most in asked if pack_key(r) not in plan.costs.packs]
                )
                self._measure(asked, compiled=True)
                plan = self.plan(rows)
        if compared := packing.worth_comparing(runs, plan.costs):
            self.machine.compare(compared)
            other = self.machine.compared(runs)
            plan = replace(plan, costs=replace(plan.costs, other=other))
        return plan

    def _measure(self, asked: list[tuple[RunConfig, int]], *, compiled: bool = False) -> None:
        """Measure packs of up to the given number of runs. Raises ConfigError if that fails."""
        try:
            self.machine.measure(asked, compiled=compiled)
        except RuntimeError as error:
            what = "measuring this machine's speed"
            if compiled:
                what = "compiling (leave out --compile)"
            raise ConfigError(f"{what} failed: {error}") from None


def ours_of(runs: Iterable[Run]) -> list[RunConfig]:
    """Return the runs of our own trainer."""
    return [run for run in runs if isinstance(run, RunConfig)]


def _shape(run: Run) -> str:
    """Return what tells the model of a run from others of its size."""
    if isinstance(run, CommandRun):
        return run.shape
    model = run.model
    return f"{model.n_layer} x {model.d_model}, {model.n_head} heads"


def seconds_per_run(jobs: Iterable[Job]) -> dict[str, float]:
    """Return each run's share, by tokens, of the estimated seconds of its job."""
    return {
        run.run_id: job.seconds * run.D / sum(other.D for other in job.runs)
        for job in jobs
        for run in job.runs
    }


def workers_phrase(number: int, preposition: str = "with") -> str:
    """Return a phrase such as 'with 2 workers'."""
    return f"{preposition} {number} worker{'' if number == 1 else 's'}"
