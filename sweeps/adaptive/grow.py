"""Adaptive sweeps: which runs come next, as a pure function of the results so far.

Every search is replayed from its beginning with the results at hand. A sweep that was killed and
resumed, or whose runs finished in another order, therefore asks for the same runs. A search asks
for a run by returning it, and waits until the run has a result.

- :class:`LearningRate`: the best learning rate of each run of the spec. Three values bracket a
  minimum. The bracket is widened until the best value lies inside and then narrowed by golden
  sections of the wider gap, in log lr (Kiefer 1953; Press et al., Numerical Recipes, 10.1-10.2).
  A size starts at the best value of the next smaller one, with a bracket that is half as wide.
  With `halving`, runs that cannot win are stopped early (:mod:`sweeps.adaptive.halving`) and
  count as worse than all others.
- :class:`IsoFlop`: the best size at each budget of [isoflop] (Hoffmann et al. 2022, approach 2).
  Sizes are added beyond the ends until the best one lies inside, then between its neighbours.
- :class:`Interval`: designed runs, or the whole grid with further seeds, until the interval of a
  fitted parameter is narrow enough.
- :class:`Forecast`: adds no runs, and stops those whose end is known better than it matters to the
  question that the spec asks (:mod:`sweeps.adaptive.forecast`).

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scaling.command_run import Run
from sweeps.adaptive import interval
from sweeps.adaptive.families import configs_of
from sweeps.adaptive.forecast import Forecast
from sweeps.adaptive.growth import Growth
from sweeps.adaptive.interval import Interval, Round, Width
from sweeps.adaptive.isoflop import IsoFlop, search_sizes
from sweeps.adaptive.learning_rate import LearningRate, RateSearch
from sweeps.result import Row


@dataclass(frozen=True, kw_only=True)
class Searches:
    """The [until] table of a spec: what an adaptive sweep searches for."""

    lr: LearningRate | None = None
    isoflop: IsoFlop | None = None
    interval: Interval | None = None
    forecast: Forecast | None = None

    @property
    def halving(self) -> float | None:
        """The `halving` of the search for learning rates."""
        return self.lr.halving if self.lr else None

    @property
    def stop_early(self) -> bool:
        """Whether runs may be stopped before their end, by halving or on forecasts."""
        return bool(self.halving or self.forecast)


def grow(
    runs: Mapping[str, Run],
    budgets: Mapping[str, float],
    searches: Searches | None,
    rows: Mapping[str, Row],
    width: Width | None = None,
    rounds: Sequence[Round] = (),
) -> Growth:
    """Return all runs that follow from the spec's `runs` and the results `rows`, {run_id: row}.

    `budgets` are the FLOPs, {run_id: C}, of runs that come from [isoflop]. `width` fits a law; if
    it is None, an Interval adds no seeds beyond those that have started. `rounds` are the rounds
    of designed runs decided so far, oldest first.
    """
    stopped = {run_id for run_id, row in rows.items() if row["status"] == "stopped"}
    if stopped and not (searches and searches.stop_early):
        rows = {run_id: row for run_id, row in rows.items() if run_id not in stopped}
        growth = grow(runs, budgets, searches, rows, width, rounds)
        growth.unfinished = stopped & growth.runs.keys()
        return growth
    growth = Growth()
    if searches is None:
        growth.add(runs.values())
        return growth
    rates = RateSearch(searches.lr, rows, growth) if searches.lr else None
    if rates:
        rates.search(runs.values())
    else:
        growth.add(runs.values())
    if searches.isoflop:
        search_sizes(configs_of(runs), budgets, searches.isoflop, rows, growth, rates)
    if searches.interval:
        if searches.interval.add == "designed":
            first = configs_of(growth.runs)
            found = interval.by_design(first, searches.interval, rows, width=width, rounds=rounds)
        else:
            found = interval.by_seeds(growth.runs, searches.interval, rows, width=width)
        growth.add(found.runs)
        growth.notes += found.notes
        growth.due = found.due
    if early := stopped & growth.runs.keys() - growth.unfinished:
        tokens = sum(run.D for run in growth.runs.values())
        spared = sum(growth.runs[run_id].D - rows[run_id]["D"] for run_id in early)
        growth.notes.append(
            f"{len(early)} of {len(growth.runs)} runs stopped early: {spared / tokens:.0%} of the "
            "tokens spared"
        )
    return growth
