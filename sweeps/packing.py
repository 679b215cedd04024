"""Grouping of runs into jobs, sized such that no worker is idle.

A pack trains K runs of one pack key as one stacked model; how much time that saves is measured
(sweeps.measure). Runs with a common trunk (scaling.training.pack_key) stay together, so that their
shared steps are trained only once. Imports neither torch nor ray.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from scaling.config import RunConfig
from scaling.training.pack_key import branch_step, has_trunk, pack_key, trunk
from sweeps.costs import Costs, fit_speed
from sweeps.measure import Machine
from sweeps.queue import Job

_MAX_RUNS = 64
"""Maximum number of runs in one job. Each holds a lease, which is an open file."""

_WORTH_MEASURING_SECONDS = 10.0
"""Packs of a pack key are measured if they may save this many seconds; measuring takes one or
two."""

_WORTH_COMPILING_SECONDS = 180.0
"""Compilation is tried if the runs of a pack key take this many seconds; the first try takes up to
a minute."""

_WORTH_COMPARING_SECONDS = 600.0
"""The other precision is tried if the runs of a pack key take this many seconds; the try takes a
few."""

_JOB_SECONDS = 0.3
"""Seconds to assign a job and begin it."""

_MIN_SAVING = 0.03
"""A larger pack is used if it saves at least this fraction of the time."""

_CUTS = (1, 2, 4, 8, 16)
"""Numbers of jobs per worker to compare."""


@dataclass(frozen=True)
class _Unit:
    """Runs that must be in one job: a single run, or a trunk with its branches, last branch
    first."""

    runs: tuple[RunConfig, ...]
    segments: tuple[int, ...]
    """Steps of the trunk, and of each branch after it leaves the trunk."""
    tests: float
    """Seconds of all evaluations."""

    @property
    def steps(self) -> int:
        """Training steps, with those of the trunk counted once."""
        return sum(self.segments)


def form(runs: Sequence[RunConfig], costs: Costs, workers: int, *, packs: bool = True) -> list[Job]:
    """Group `runs` into jobs with the least expected makespan on `workers`.

    Coarse and fine divisions are compared, including one run per job, so that packs never lengthen
    the sweep. Without `packs` each run is a job.
    """
    groups_of_runs = _groups(runs)
    singles = [_units(group, costs, apart=True) for group in groups_of_runs]
    best, units = [_job([unit], costs) for group in singles for unit in group], 0
    if not packs:
        return best
    for groups in ([_units(group, costs) for group in groups_of_runs], singles):
        if units == (units := sum(map(len, groups))):
            break  # no common trunks, so both groupings are the same
        whole = [_job(group, costs) for group in groups]
        share = sum(job.seconds for job in whole) / workers
        for cuts in _CUTS:
            jobs = [
                job
                for group, one in zip(groups, whole, strict=True)
                for job in _cut(group, costs, one.seconds / (share / cuts))
            ]
            if _span(jobs, workers) < _span(best, workers):
                best = jobs
    return best


def worth_measuring(runs: Iterable[RunConfig], costs: Costs) -> list[tuple[RunConfig, int]]:
    """Return (run, largest useful pack) for pack keys whose unmeasured packs may save time."""
    return [
        (work.run, work.largest)
        for key, work in _work(runs, costs).items()
        # a single run may have been measured to learn the machine's speed
        if key not in costs.compiled
        and costs.packs.get(key, {}).keys() <= {1}
        and work.saved > _WORTH_MEASURING_SECONDS
    ]


def worth_compiling(
    runs: Iterable[RunConfig], costs: Costs, on: Machine
) -> list[tuple[RunConfig, int]]:
    """Return (run, largest useful pack) for pack keys that may gain and have not been compiled
    yet."""
    return [
        (work.run, work.largest)
        for work in _work(runs, costs).values()
        if work.seconds > _WORTH_COMPILING_SECONDS and not on.known([work.run], compiled=True)
    ]


def worth_comparing(runs: Iterable[RunConfig], costs: Costs) -> list[RunConfig]:
    """Return a run of each pack key for which the other precision may save minutes and is
    untried."""
    return [
        work.run
        for key, work in _work(runs, costs).items()
        if work.seconds > _WORTH_COMPARING_SECONDS and key not in costs.other
    ]


def _work(runs: Iterable[RunConfig], costs: Costs) -> dict[Hashable, _Work]:
    """Return the work of each pack key."""
    found: dict[Hashable, _Work] = {}
    for group in _groups(runs):
        run, key = group[0], pack_key(group[0])
        segments = [steps for unit in _units(group, costs) for steps in unit.segments]
        seconds = sum(segments) * costs.step(run, 1)
        # Packs larger than this gain nothing: the longest run would still end last.
        K = sum(segments) / max(segments)
        work = found.setdefault(key, _Work(run))
        work.largest = max(work.largest, math.ceil(K))
        work.seconds += seconds
        work.saved += seconds * (1 - 1 / K)
    return found


@dataclass
class _Work:
    """Work of the runs of one pack key."""

    run: RunConfig
    """One of the runs."""
    largest: int = 1
    """Largest pack that may be useful."""
    seconds: float = 0.0
    """Seconds of all steps, one run after another."""
    saved: float = 0.0
    """Seconds that packs would save if their steps took no longer than those of one run."""


def _groups(runs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """Return the runs in groups that may train in one pack."""
    found: dict[Hashable, list[RunConfig]] = {}
    for run in runs:
        # While the batch grows, runs at different steps have batches of different sizes.
        growing = run.run_id if run.optim.batch_warmup_tokens else None
        found.setdefault((pack_key(run), growing), []).append(run)
    return list(found.values())


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Return the wall-clock time of jobs if each, longest first, goes to the first free worker."""
    ends = [0.0] * workers
    for one in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def tokens(job: Job) -> int:
    """Return the training tokens that a job processes, with those of a common trunk counted
    once."""
    runs = [run for run in job.runs if isinstance(run, RunConfig)]
    units = _units(runs, Costs(fit_speed([])), apart=len(job.runs) == 1)
    return sum(unit.steps * unit.runs[0].batch_tokens for unit in units)


def _span(jobs: list[Job], workers: int) -> float:
    return makespan((job.seconds + _JOB_SECONDS for job in jobs), workers)


def _units(runs: list[RunConfig], costs: Costs, *, apart: bool = False) -> list[_Unit]:
    """Return the units of runs of one group; with `apart`, common trunks are not shared."""
    trees: dict[Hashable, list[RunConfig]] = {}
    for i, run in enumerate(runs):
        shares = has_trunk(run) and not apart
        trees.setdefault(trunk(run) if shares else i, []).append(run)
    test_seconds = costs.test(runs[0])
    units = []
    for tree in trees.values():
        if len(tree) > 1:
            tree.sort(key=lambda run: (-branch_step(run), -run.S))
        first, *others = tree
        branches = [run.S - min(run.S, branch_step(run)) for run in others]
        tests = sum(min(run.eval.points, run.S) for run in tree) * test_seconds
        units.append(_Unit(tuple(tree), (first.S, *(steps for steps in branches if steps)), tests))
    return units


def _cut(units: list[_Unit], costs: Costs, jobs: float) -> list[Job]:
    """Divide the units of one group into about the given number of jobs of similar length."""
    runs = sum(len(unit.runs) for unit in units)
    number = min(len(units), max(1, round(jobs), math.ceil(runs / _MAX_RUNS)))
    loads: list[tuple[int, int]] = [(0, i) for i in range(number)]
    bins: list[list[_Unit]] = [[] for _ in range(number)]
    for unit in sorted(units, key=lambda unit: -unit.steps):
        load, i = loads[0]
        bins[i].append(unit)
        heapq.heapreplace(loads, (load + unit.steps, i))
    return [_job(units, costs) for units in bins]


def _job(units: list[_Unit], costs: Costs) -> Job:
    """Return the units as one job, with the number of slots that is fastest by the measurements."""
    runs = tuple(run for unit in units for run in unit.runs)
    segments = [steps for unit in units for steps in unit.segments]
    best, slots = math.inf, 1
    for K in [1] if len(segments) == 1 else costs.sizes(runs[0]):
        if max(1, len(segments)) < K:
            break
        steps = makespan(segments, K)
        seconds = steps * costs.step(runs[0], sum(segments) / steps)
        if seconds < (1 - _MIN_SAVING) * best:
            best, slots = seconds, K
    seconds = best + sum(unit.tests for unit in units)
    return Job(runs, seconds, slots, compile=pack_key(runs[0]) in costs.compiled)
