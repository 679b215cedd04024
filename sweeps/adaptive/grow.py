"""Adaptive sweeps: which runs come next, as a pure function of the results so far.

Every search here is replayed from its beginning with whatever has finished, so a sweep that was
killed and resumed, or whose runs finished in another order, designs the same runs. A search asks
for a run by returning it; it is under way until that run has a result.

- :class:`LearningRate`: the best learning rate of each run of the spec. Three values bracket a
  minimum, which is widened until the best lies inside and then narrowed by golden sections of the
  wider gap, in log lr (Kiefer 1953; Press et al., Numerical Recipes, 10.1-10.2). A size begins at
  the best value of the next smaller one, with a bracket that is half as wide. With `halving`,
  runs that cannot win are stopped early (sweeps.adaptive.halving) and count as worse than all others.
- :class:`IsoFlop`: the best size at each budget of [isoflop] (Hoffmann et al. 2022, approach 2).
  Sizes are added beyond the ends until the best lies inside, then between its neighbours.
- :class:`Interval` (sweeps/adaptive/interval.py): designed runs, or the whole grid again with further seeds,
  until a fitted parameter is known well enough.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scaling.config import RunConfig
from sweeps.adaptive import interval
from sweeps.adaptive.growth import Growth
from sweeps.adaptive.interval import Interval, Round, Width
from sweeps.adaptive.isoflop import IsoFlop, search_sizes
from sweeps.adaptive.learning_rate import LearningRate, RateSearch
from sweeps.result import Row


@dataclass(frozen=True)
class Until:
    """What an adaptive sweep goes on for: the [until] table of a spec."""

    lr: LearningRate | None = None
    isoflop: IsoFlop | None = None
    interval: Interval | None = None

    @property
    def halving(self) -> float | None:
        """Of the learning rates."""
        return self.lr.halving if self.lr else None


def grow(
    runs: Mapping[str, RunConfig],
    budgets: Mapping[str, float],
    until: Until | None,
    rows: Mapping[str, Row],
    width: Width | None = None,
    rounds: Sequence[Round] = (),
) -> Growth:
    """All runs that the spec's `runs` and the results in `rows`, {run_id: row}, design.

    `budgets` are the FLOPs, {run_id: C}, of runs that come from [isoflop]. `width` fits; without it
    an Interval adds no seeds beyond those that have begun. `rounds` of designed runs are those that
    were decided so far, oldest first.
    """
    stopped = {run_id for run_id, row in rows.items() if row["status"] == "stopped"}
    if stopped and not (until and until.halving):
        rows = {run_id: row for run_id, row in rows.items() if run_id not in stopped}
        growth = grow(runs, budgets, until, rows, width, rounds)
        growth.unfinished = stopped & growth.runs.keys()
        return growth
    growth = Growth()
    if until is None:
        growth.add(runs.values())
        return growth
    best = RateSearch(until.lr, rows, growth) if until.lr else None
    if best:
        best.search(runs.values())
    else:
        growth.add(runs.values())
    if until.isoflop:
        search_sizes(runs, budgets, until.isoflop, rows, growth, best)
    if until.interval:
        search = interval.by_design if until.interval.add == "designed" else interval.by_seeds
        found = search(dict(growth.runs), until.interval, rows, width=width, rounds=rounds)
        growth.add(found.runs)
        growth.said += found.said
        growth.due = found.due
    if early := stopped & growth.runs.keys() - growth.unfinished:
        tokens = sum(run.D for run in growth.runs.values())
        spared = sum(growth.runs[run_id].D - rows[run_id]["D"] for run_id in early)
        growth.said.append(
            f"{len(early)} of {len(growth.runs)} runs stopped early: {spared / tokens:.0%} of the "
            "tokens spared"
        )
    return growth
