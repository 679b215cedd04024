"""Adaptive sweeps: which runs come next, as a pure function of the results so far.

Every search here is replayed from its beginning with whatever has finished, so a sweep that was
killed and resumed, or whose runs finished in another order, designs the same runs. A search asks
for a run by returning it; it is under way until that run has a result.

- :class:`LearningRate`: the best learning rate of each run of the spec. Three values bracket a
  minimum, which is widened until the best lies inside and then narrowed by golden sections of the
  wider gap, in log lr (Kiefer 1953; Press et al., Numerical Recipes, 10.1-10.2). A size begins at
  the best value of the next smaller one, with a bracket that is half as wide. With `halving`,
  runs that cannot win are stopped early (sweeps.halving) and count as worse than all others.
- :class:`IsoFlop`: the best size at each budget of [isoflop] (Hoffmann et al. 2022, approach 2).
  Sizes are added beyond the ends until the best lies inside, then between its neighbours.
- :class:`Interval` (sweeps/interval.py): designed runs, or the whole grid again with further seeds,
  until a fitted parameter is known well enough.

Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from scaling import count
from scaling.config import ModelConfig, RunConfig, flatten, peak_lr
from sweeps import interval
from sweeps.interval import Due, Interval, Round, Width
from sweeps.result import Row
from sweeps.shapes import shape_between, shape_beyond, with_flops

_GOLDEN = (3 - math.sqrt(5)) / 2
"""The smaller part of a golden section, 0.382."""

_LR_RANGE = (1e-7, 100.0)
"""Learning rates outside are not tried."""

_MOST_POINTS = 40
"""Of one search: far more than any needs that converges."""

T = TypeVar("T")

_remembered = functools.lru_cache(maxsize=2**16)
"""For what every replay asks again."""


@dataclass(frozen=True)
class LearningRate:
    """[until.lr]"""

    within: float = 1.25
    """The best value is known to this factor: both neighbours lie within it."""
    factor: float = 4.0
    """Between the first three values."""
    halving: float | None = None
    """Stop early what is not among the best 1/halving at a quarter and at half of its horizon
    (sweeps.halving)."""


@dataclass(frozen=True)
class IsoFlop:
    """[until.isoflop]"""

    within: float = 1.5
    """The best size is known to this factor in N: both neighbours lie within it, or there is no
    shape between."""


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


@dataclass
class Growth:
    """The runs of an adaptive sweep as far as its results design them."""

    runs: dict[str, RunConfig] = field(default_factory=dict)
    """{run_id: run}: those of the spec and those that were added, finished or not."""
    said: list[str] = field(default_factory=list)
    """Where each search stands, a line each."""
    due: Due | None = None
    """What the next round of designed runs may choose from, where it is to be decided now."""
    unfinished: set[str] = field(default_factory=set)
    """Those of the runs that were stopped early and are asked for to their end: all where the spec
    has no `halving` any more; and the most promising of a family, where what it was stopped for
    was lost later."""

    def add(self, runs: Iterable[RunConfig]) -> None:
        for run in runs:
            self.runs.setdefault(run.run_id, run)


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
    best = _Rates(until.lr, rows, growth) if until.lr else None
    if best:
        best.search(runs.values())
    else:
        growth.add(runs.values())
    if until.isoflop:
        _isoflop(runs, budgets, until.isoflop, rows, growth, best)
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


def _loss(row: Row | None) -> float | None:
    """Of a finished run; infinite where it diverged, failed or was stopped early, None where it has
    not finished."""
    if row is None:
        return None
    L = row.get("L")
    return float(L) if row["status"] == "ok" and L is not None else math.inf


# ------------------------------------------------------------------ the search along one axis


@dataclass(frozen=True)
class _Found:
    """Where a search along an axis stands."""

    index: int | None
    """Of the best point; None while a point has no loss yet."""
    inside: bool = False
    """Points on both sides are worse."""


def _search(
    points: list[T],
    losses_of: Callable[[list[T]], list[float | None]],
    *,
    beyond: Callable[[T, T], T | None],
    between: Callable[[T, T, T], tuple[bool, T] | None],
) -> tuple[list[T], _Found]:
    """Go on from these ordered points (at least two) until the best one is bracketed closely.

    `beyond(inner, end)` is the next point after an end; `between(left, best, right)` one more
    between the best and a neighbour, with whether it is the left one. None where there is none.
    Returns all points in order; while one of them has no loss yet, the search waits for it.
    """
    points = list(points)
    while True:
        losses = losses_of(points)
        known = [L for L in losses if L is not None]
        if len(known) < len(points):
            return points, _Found(None)
        i = min(range(len(points)), key=known.__getitem__)
        inside = 0 < i < len(points) - 1
        if len(points) >= _MOST_POINTS:
            return points, _Found(i, inside)
        if inside:
            new = between(points[i - 1], points[i], points[i + 1])
            if new is None:
                return points, _Found(i, True)
            points.insert(i if new[0] else i + 1, new[1])
        else:
            point = beyond(points[1 if i == 0 else i - 1], points[i])
            if point is None:
                return points, _Found(i)
            points.insert(0 if i == 0 else i + 1, point)


def _round(x: float) -> float:
    """To three digits: the same number on every machine, and one that can be typed."""
    return float(f"{x:.3g}")


# ------------------------------------------------------------------ learning rate


class _Rates:
    """Searches for the learning rate of runs, each remembered."""

    def __init__(self, asked: LearningRate, rows: Mapping[str, Row], growth: Growth) -> None:
        self._asked, self._rows, self._growth = asked, rows, growth
        self._best: dict[tuple[Any, ...], RunConfig | None] = {}
        self._outside: set[tuple[Any, ...]] = set()
        """Families whose best value is not bracketed: no good beginning for others."""

    def search(self, runs: Iterable[RunConfig]) -> None:
        """Every family of runs that differ in lr alone, the smaller sizes first."""
        families: dict[tuple[Any, ...], list[RunConfig]] = {}
        for run in runs:
            families.setdefault(family(run), []).append(run)
        firsts = sorted(families.items(), key=lambda item: (_size(item[1][0]), str(item[0])))
        before: dict[tuple[Any, ...], list[RunConfig]] = {}
        for key, arms in firsts:
            like = before.setdefault(_without(arms[0], "optim.lr", "model.", "tokens"), [])
            self._family(key, arms, _neighbour(arms[0], like))
            like.append(arms[0])

    def best(self, run: RunConfig) -> RunConfig | None:
        """The run at its best learning rate; None while that is being searched for."""
        key = family(run)
        if key not in self._best:
            self._family(key, [run], None)
        return self._best[key]

    def _family(
        self, key: tuple[Any, ...], arms: list[RunConfig], neighbour: RunConfig | None
    ) -> None:
        given = {_rate(run): run for run in arms}
        points, factor = sorted(given), self._asked.factor
        if neighbour is not None and len(points) == 1:
            there = family(neighbour)
            best = self._best[there]
            if best is None:  # this search begins where that one will end
                self._best[key] = None
                return
            if there not in self._outside:
                points, factor = [_rate(best)], math.sqrt(factor)
        if len(points) == 1:
            points = [_round(points[0] / factor), points[0], _round(points[0] * factor)]
        first = arms[0]

        def at(lr: float) -> RunConfig:
            return given.get(lr) or _with_rate(first, lr)

        points, found = _search(
            points,
            lambda rates: self._losses([at(lr).run_id for lr in rates]),
            beyond=_rate_beyond,
            between=self._between,
        )
        middle = points[len(points) // 2]  # the first guess: others are soon seen to be worse
        self._growth.add(map(at, sorted(points, key=lambda lr: abs(math.log(lr / middle)))))
        self._best[key] = at(points[found.index]) if found.index is not None else None
        if found.index is not None:
            self._outside |= set() if found.inside else {key}
            where = "" if found.inside else " at the end of what was tried"
            N, D = _size(first)
            best_id = at(points[found.index]).run_id
            self._growth.said.append(
                f"best lr {points[found.index]:g}{where}: N={N}, D={D}, run {best_id}"
            )

    def _losses(self, run_ids: list[str]) -> list[float | None]:
        """Of the arms of a family. Where none has finished well and none is left to, the one that was
        stopped last, the best of these, is: what it was stopped for is lost."""
        rows = {run_id: row for run_id in run_ids if (row := self._rows.get(run_id))}
        losses = [_loss(rows.get(run_id)) for run_id in run_ids]
        stopped = [run_id for run_id, row in rows.items() if row["status"] == "stopped"]
        if stopped and {*losses} == {math.inf}:
            first = min(stopped, key=lambda run_id: (-rows[run_id]["S"], rows[run_id]["L"]))
            self._growth.unfinished.add(first)
            losses[run_ids.index(first)] = None
        return losses

    def _between(self, left: float, best: float, right: float) -> tuple[bool, float] | None:
        gaps = math.log(best / left), math.log(right / best)
        if max(gaps) <= math.log(self._asked.within) * (1 + 1e-9):
            return None
        to_left = gaps[0] > gaps[1]
        new = best * math.exp(-_GOLDEN * gaps[0] if to_left else _GOLDEN * gaps[1])
        new = _round(new)
        return None if new in (left, best, right) else (to_left, new)


@_remembered
def _with_rate(run: RunConfig, lr: float) -> RunConfig:
    return dataclasses.replace(run, optim=dataclasses.replace(run.optim, lr=lr))


def _rate_beyond(inner: float, end: float) -> float | None:
    new = _round(end * end / inner)
    return new if new != end and _LR_RANGE[0] <= new <= _LR_RANGE[1] else None


def _rate(run: RunConfig) -> float:
    """The peak learning rate that the run's rule gives."""
    N, D = _size(run)
    lr = peak_lr(run.optim.lr, N=N, D=D, B=run.batch_tokens)
    return lr if isinstance(run.optim.lr, float) else _round(lr)


@_remembered
def _size(run: RunConfig) -> tuple[int, int]:
    """N and D."""
    return count.parameters(run.model, run.data.vocab_size).N, run.D


@_remembered
def _without(run: RunConfig, *keys: str) -> tuple[Any, ...]:
    """What two runs share that differ in these fields alone ('model.' stands for the whole shape)."""
    flat = flatten(run) | {"tokens": run.D, "tag": ""}
    return tuple(
        v for k, v in flat.items() if k not in keys and f"{k.partition('.')[0]}." not in keys
    )


def family(run: RunConfig) -> tuple[Any, ...]:
    """Equal for runs that differ in their learning rate alone."""
    return _without(run, "optim.lr")


def _neighbour(run: RunConfig, before: list[RunConfig]) -> RunConfig | None:
    """The next smaller of runs that differ in shape, horizon and lr alone, at the nearest D."""
    N, D = _size(run)
    smaller = [b for b in before if _size(b)[0] < N]
    return min(
        smaller, key=lambda b: (-_size(b)[0], abs(math.log(b.D / D)), b.run_id), default=None
    )


# ------------------------------------------------------------------ isoFLOP minima


def _isoflop(
    runs: Mapping[str, RunConfig],
    budgets: Mapping[str, float],
    asked: IsoFlop,
    rows: Mapping[str, Row],
    growth: Growth,
    rates: _Rates | None,
) -> None:
    sets: dict[tuple[Any, ...], dict[ModelConfig, RunConfig]] = {}
    for run_id, C in budgets.items():
        run = runs[run_id]
        searched = ("optim.lr",) if rates else ()
        fixed = (C, *_without(run, "model.", "tokens", *searched))
        sets.setdefault(fixed, {})[run.model] = run
    for (C, *_), by_model in sets.items():
        first = next(iter(by_model.values()))

        @functools.cache
        def at(model: ModelConfig, C: float = C, by_model=by_model, first=first) -> RunConfig:
            return by_model.get(model) or with_flops(dataclasses.replace(first, model=model), C)

        def loss(model: ModelConfig, at=at) -> float | None:
            run = rates.best(at(model)) if rates else at(model)
            return _loss(rows.get(run.run_id)) if run else None

        def between(
            left: ModelConfig, best: ModelConfig, right: ModelConfig, V: int = first.data.vocab_size
        ) -> tuple[bool, ModelConfig] | None:
            N = [count.parameters(m, V).N for m in (left, best, right)]
            gaps = math.log(N[1] / N[0]), math.log(N[2] / N[1])
            for to_left in sorted((True, False), key=lambda side: -gaps[0 if side else 1]):
                gap, pair = (gaps[0], (left, best)) if to_left else (gaps[1], (best, right))
                if gap > math.log(asked.within) and (new := shape_between(*pair)):
                    return to_left, new
            return None

        models = sorted(by_model, key=lambda m: count.parameters(m, first.data.vocab_size).N)
        if len(models) < 2:
            continue
        found = _Found(None)
        models, found = _search(
            models,
            lambda models, loss=loss: [loss(model) for model in models],
            beyond=shape_beyond,
            between=between,
        )
        if rates is None:
            growth.add(map(at, models))
        if found.index is not None:
            N = count.parameters(models[found.index], first.data.vocab_size).N
            where = "" if found.inside else " at the end of what was tried"
            growth.said.append(f"best size N={N}{where}: C={C:.3g}")
