"""Jobs from runs: packs of one shape, and trunks with their branches, cut so that no worker stands
idle. Imports neither torch nor ray.

A pack trains K runs as one stacked model; what that gains is measured (sweeps.measure). Runs with
one trunk (scaling.schedule) are kept together: what they share is trained once.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from scaling.config import RunConfig
from scaling.training.pack_key import branch_step, pack_key, trunk
from sweeps.costs import Costs, fit_speed
from sweeps.measure import Machine
from sweeps.queue import Job

_MOST_RUNS = 64
"""In one job: each holds a lease, an open file."""

_WORTH_MEASURING_SECONDS = 10.0
"""Packs of a shape that save less at best are not measured: that takes each worker a second or two."""

_WORTH_COMPILING_SECONDS = 180.0
"""Runs of one shape that take less are not compiled: that takes up to a minute when first measured."""

_WORTH_COMPARING_SECONDS = 600.0
"""Runs of one shape that take less are not tried in the other precision, which takes seconds."""

_JOB_SECONDS = 0.3
"""To hand out a job and begin it."""


@dataclass(frozen=True)
class _Unit:
    """Runs that are not taken apart: one, or a tree, the last to part first."""

    runs: tuple[RunConfig, ...]
    segments: tuple[int, ...]
    """Steps of the trunk, and of every branch from where it parts."""
    tests: float
    """Seconds of the evaluations."""

    @property
    def steps(self) -> int:
        return sum(self.segments)


def form(runs: Sequence[RunConfig], costs: Costs, workers: int, *, packs: bool = True) -> list[Job]:
    """Jobs for `runs`, of the least expected makespan on `workers`; without `packs` one a run.

    Coarse and fine cuts are compared, the runs one by one among them: nothing is packed that would
    lengthen the sweep.
    """
    by_shape = _groups(runs)
    singles = [_units(group, costs, apart=True) for group in by_shape]
    best, units = [_job([unit], costs) for group in singles for unit in group], 0
    if not packs:
        return best
    for groups in ([_units(group, costs) for group in by_shape], singles):
        if units == (units := sum(map(len, groups))):
            break  # there are no trees to take apart
        whole = [_job(group, costs) for group in groups]
        share = sum(job.seconds for job in whole) / workers
        for parts in (1, 2, 4, 8, 16):
            jobs = [
                job
                for group, one in zip(groups, whole, strict=True)
                for job in _cut(group, costs, one.seconds / (share / parts))
            ]
            if _span(jobs, workers) < _span(best, workers):
                best = jobs
    return best


def worth_measuring(runs: Iterable[RunConfig], costs: Costs) -> list[tuple[RunConfig, int]]:
    """(a run, the largest pack of use) of the shapes whose packs are not known and may pay."""
    return [
        (work.run, work.most)
        for key, work in _work(runs, costs).items()
        # one run alone may have been measured for its speed
        if key not in costs.compiled
        and costs.packs.get(key, {}).keys() <= {1}
        and work.saved > _WORTH_MEASURING_SECONDS
    ]


def worth_compiling(
    runs: Iterable[RunConfig], costs: Costs, on: Machine
) -> list[tuple[RunConfig, int]]:
    """(a run, the largest pack of use) of the shapes that may gain by it, and were not yet compiled."""
    return [
        (work.run, work.most)
        for work in _work(runs, costs).values()
        if work.seconds > _WORTH_COMPILING_SECONDS and not on.known([work.run], compiled=True)
    ]


def worth_comparing(runs: Iterable[RunConfig], costs: Costs) -> list[RunConfig]:
    """A run of each of the shapes whose other precision may save minutes, and was not yet tried."""
    return [
        work.run
        for key, work in _work(runs, costs).items()
        if work.seconds > _WORTH_COMPARING_SECONDS and key not in costs.other
    ]


def _work(runs: Iterable[RunConfig], costs: Costs) -> dict[Hashable, _Work]:
    """What there is to train of each shape."""
    found: dict[Hashable, _Work] = {}
    for group in _groups(runs):
        run, key = group[0], pack_key(group[0])
        segments = [steps for unit in _units(group, costs) for steps in unit.segments]
        seconds = sum(segments) * costs.step(run, 1)
        # no more runs at once than end no later than the longest of them
        K = sum(segments) / max(segments)
        work = found.setdefault(key, _Work(run))
        work.most = max(work.most, math.ceil(K))
        work.seconds += seconds
        work.saved += seconds * (1 - 1 / K)
    return found


@dataclass
class _Work:
    run: RunConfig
    """One of them."""
    most: int = 1
    """Runs in a pack, of any use."""
    seconds: float = 0.0
    """Of all steps, one run at a time."""
    saved: float = 0.0
    """Of these, by packs whose steps took no longer than that of one run."""


def _groups(runs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """Runs that may be packed."""
    found: dict[Hashable, list[RunConfig]] = {}
    for run in runs:
        # Where batches grow, runs that are not in step have batches of different sizes.
        growing = run.run_id if run.optim.batch_warmup_tokens else None
        found.setdefault((pack_key(run), growing), []).append(run)
    return list(found.values())


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Wall clock of jobs that take `seconds`: longest first, each to the worker that is free first."""
    ends = [0.0] * workers
    for one in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def tokens(job: Job) -> int:
    """Training tokens that a job processes: those of a common trunk once."""
    units = _units(list(job.runs), Costs(fit_speed([])), apart=len(job.runs) == 1)
    return sum(unit.steps * unit.runs[0].batch_tokens for unit in units)


def _span(jobs: list[Job], workers: int) -> float:
    return makespan((job.seconds + _JOB_SECONDS for job in jobs), workers)


def _units(runs: list[RunConfig], costs: Costs, *, apart: bool = False) -> list[_Unit]:
    """Runs of one shape, those with one trunk together unless they are to be `apart`."""
    trees: dict[Hashable, list[RunConfig]] = {}
    for i, run in enumerate(runs):
        free = run.optim.schedule in ("wsd", "constant") and not apart
        trees.setdefault(trunk(run) if free else i, []).append(run)
    a_test = costs.test(runs[0])
    units = []
    for tree in trees.values():
        if len(tree) > 1:
            tree.sort(key=lambda run: (-branch_step(run), -run.S))
        first, *others = tree
        branches = [run.S - min(run.S, branch_step(run)) for run in others]
        tests = sum(min(run.eval.points, run.S) for run in tree) * a_test
        units.append(_Unit(tuple(tree), (first.S, *(steps for steps in branches if steps)), tests))
    return units


def _cut(units: list[_Unit], costs: Costs, parts: float) -> list[Job]:
    """Units of one shape in about so many jobs of like length."""
    runs = sum(len(unit.runs) for unit in units)
    number = min(len(units), max(1, round(parts), math.ceil(runs / _MOST_RUNS)))
    loads: list[tuple[int, int]] = [(0, i) for i in range(number)]
    bins: list[list[_Unit]] = [[] for _ in range(number)]
    for unit in sorted(units, key=lambda unit: -unit.steps):
        load, i = loads[0]
        bins[i].append(unit)
        heapq.heapreplace(loads, (load + unit.steps, i))
    return [_job(units, costs) for units in bins]


def _job(units: list[_Unit], costs: Costs) -> Job:
    """The units as one job, with the number of slots that measurements favour."""
    runs = tuple(run for unit in units for run in unit.runs)
    segments = [steps for unit in units for steps in unit.segments]
    best, slots = math.inf, 1
    for K in [1] if len(segments) == 1 else costs.sizes(runs[0]):
        if max(1, len(segments)) < K:
            break
        steps = makespan(segments, K)
        seconds = steps * costs.step(runs[0], sum(segments) / steps)
        if seconds < (1 - _WORTH) * best:
            best, slots = seconds, K
    seconds = best + sum(unit.tests for unit in units)
    return Job(runs, seconds, slots, pack_key(runs[0]) in costs.compiled)


_WORTH = 0.03
"""A larger pack must save at least this part of the time."""
