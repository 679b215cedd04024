"""The search for the best learning rate of each run of a spec, by golden section in log lr."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scaling.command_run import CommandRun, Run
from scaling.lr_rule import peak_lr
from sweeps.adaptive.bracket import bracket_minimum, rounded
from sweeps.adaptive.families import family, remembered, size_of, without
from sweeps.adaptive.growth import Growth, loss_of
from sweeps.result import Row
from sweeps.runner.derive import with_keys

_GOLDEN = (3 - math.sqrt(5)) / 2
"""The smaller part of a golden section, 0.382."""

_LR_RANGE = (1e-7, 100.0)
"""Learning rates outside this range are not tried."""


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The table [until.lr]."""

    within: float = 1.25
    """The best value is found to within this factor: both neighbours are that close."""
    factor: float = 4.0
    """Ratio between the first three values."""
    halving: float | None = None
    """Stop a run early unless it is among the best 1/halving at a quarter and at half of its
    horizon (:mod:`sweeps.adaptive.halving`)."""
    win: float | None = None
    """With `halving`: decide on forecasts. An arm stops at these points if the probability that it
    ends with the lowest loss is below this, instead of by its rank there."""


class RateSearch:
    """Searches for the learning rate of runs, and remembers each result."""

    def __init__(self, options: LearningRate, rows: Mapping[str, Row], growth: Growth) -> None:
        self._options, self._rows, self._growth = options, rows, growth
        self._best: dict[tuple[Any, ...], Run | None] = {}
        self._at_end: set[tuple[Any, ...]] = set()
        """Families whose best value is not bracketed: others do not start at it."""

    def search(self, runs: Iterable[Run]) -> None:
        """Search each family of runs that differ in lr only, smaller sizes first."""
        families: dict[tuple[Any, ...], list[Run]] = {}
        for run in runs:
            families.setdefault(family(run), []).append(run)
        ordered = sorted(families.items(), key=lambda item: (size_of(item[1][0]), str(item[0])))
        before: dict[tuple[Any, ...], list[Run]] = {}
        for key, arms in ordered:
            comparable = before.setdefault(without(arms[0], "optim.lr", "model.", "tokens"), [])
            self._search_family(key, arms, _neighbour(arms[0], comparable))
            comparable.append(arms[0])

    def best(self, run: Run) -> Run | None:
        """Return the run at its best learning rate; None while the search is under way."""
        key = family(run)
        if key not in self._best:
            self._search_family(key, [run], None)
        return self._best[key]

    def _search_family(self, key: tuple[Any, ...], arms: list[Run], neighbour: Run | None) -> None:
        """Bracket the best rate of a family; start at that of `neighbour`, if given."""
        given = {rate_of(run): run for run in arms}
        points, factor = sorted(given), self._options.factor
        if neighbour is not None and len(points) == 1:
            smaller = family(neighbour)
            best = self._best[smaller]
            if best is None:  # this search starts when that one has ended
                self._best[key] = None
                return
            if smaller not in self._at_end:
                points, factor = [rate_of(best)], math.sqrt(factor)
        if len(points) == 1:
            points = [rounded(points[0] / factor), points[0], rounded(points[0] * factor)]
        first = arms[0]

        def run_at(lr: float) -> Run:
            return given.get(lr) or _with_rate(first, lr)

        points, found = bracket_minimum(
            points,
            lambda rates: self._losses([run_at(lr).run_id for lr in rates]),
            beyond=_rate_beyond,
            between=self._between,
        )
        middle = points[len(points) // 2]  # the most likely first: the others soon prove worse
        likely = sorted(points, key=lambda lr: abs(math.log(lr / middle)))
        self._growth.add(map(run_at, likely))
        self._best[key] = run_at(points[found.index]) if found.index is not None else None
        if found.index is not None:
            self._at_end |= set() if found.inside else {key}
            where = "" if found.inside else " at the end of what was tried"
            N, D = size_of(first)
            best_id = run_at(points[found.index]).run_id
            sizes = f"N={N}, D={D}" if N else f"D={D}"
            self._growth.notes.append(
                f"best lr {points[found.index]:g}{where}: {sizes}, run {best_id}"
            )

    def _losses(self, run_ids: list[str]) -> list[float | None]:
        """Return the losses of the arms of a family.

        If no arm has finished well and none is left to train, the arms that others were stopped
        for are lost. The best of those stopped last is then to be trained to its end.
        """
        rows = {run_id: row for run_id in run_ids if (row := self._rows.get(run_id))}
        losses = [loss_of(rows.get(run_id)) for run_id in run_ids]
        stopped = [run_id for run_id, row in rows.items() if row["status"] == "stopped"]
        if stopped and {*losses} == {math.inf}:
            first = min(stopped, key=lambda run_id: (-rows[run_id]["S"], rows[run_id]["L"]))
            self._growth.unfinished.add(first)
            losses[run_ids.index(first)] = None
        return losses

    def _between(self, left: float, best: float, right: float) -> tuple[bool, float] | None:
        """Return a golden section of the wider gap; None if both are narrow enough."""
        gaps = math.log(best / left), math.log(right / best)
        if max(gaps) <= math.log(self._options.within) * (1 + 1e-9):
            return None
        to_left = gaps[0] > gaps[1]
        new = best * math.exp(-_GOLDEN * gaps[0] if to_left else _GOLDEN * gaps[1])
        new = rounded(new)
        return None if new in (left, best, right) else (to_left, new)


def rate_of(run: Run) -> float:
    """Return the peak learning rate that a run's value or rule gives."""
    if isinstance(run, CommandRun):
        return float(run.keys[run.lr])
    N, D = size_of(run)
    lr = peak_lr(run.optim.lr, N=N, D=D, B=run.batch_tokens)
    return lr if isinstance(run.optim.lr, float) else rounded(lr)


@remembered
def _with_rate(run: Run, lr: float) -> Run:
    if isinstance(run, CommandRun):
        return with_keys(run, {run.lr: lr})
    return dataclasses.replace(run, optim=dataclasses.replace(run.optim, lr=lr))


def _rate_beyond(inner: float, end: float) -> float | None:
    """Return the next rate after `end` in the same ratio; None outside the range."""
    new = rounded(end * end / inner)
    return new if new != end and _LR_RANGE[0] <= new <= _LR_RANGE[1] else None


def _neighbour(run: Run, before: list[Run]) -> Run | None:
    """Return the run of the next smaller size at the nearest D among `before`, if any."""
    N, D = size_of(run)
    smaller = [b for b in before if size_of(b)[0] < N]
    return min(
        smaller, key=lambda b: (-size_of(b)[0], abs(math.log(b.D / D)), b.run_id), default=None
    )
