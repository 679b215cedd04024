"""Adaptive sweeps: more runs until the interval of a fitted parameter is narrow.

- By seeds: the whole grid of the spec again, a seed at a time.
- By design: in rounds, each of the runs that are expected to narrow the interval most for its FLOPs
  (analysis/planning/adaptive.py). Which these are hangs on a fit, so it cannot be replayed from the results
  alone: every round is recorded (sweeps/store.py) before any of its runs begins, and from then on
  its runs belong to the sweep. What is replayed here are these records. A round is decided when all
  runs before it have results.

Imports nothing heavy: fits come from above, as functions.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scaling import size
from scaling.config import ModelConfig, RunConfig, canonical, flatten, from_dict
from scaling.errors import ConfigError
from sweeps.adaptive.sizes import shape_between, shape_beyond
from sweeps.result import Row

_SIZES = 12
"""Sizes to choose from; more where the spec has more."""

_HORIZONS = 13
"""Horizons to choose from at each size."""

_SHAPE = tuple(f"model.{name}" for name in ("n_layer", "d_model", "n_head", "d_ff", "n_kv_head"))

_ROUNDING = 1.01
"""Runs have whole steps, so they meet a limit only nearly."""


@dataclass(frozen=True)
class Interval:
    """[until.interval]"""

    width: float
    """Of the 95 % interval, at most. To stop when it is narrow favours noise that looks small: on a
    known law, from 9 runs on, such intervals cover 92 % by design and 86 % by seeds (of 88)."""
    law: str = "chinchilla"
    parameter: str = "alpha"
    add: Literal["designed", "seeds"] = "designed"
    """What is added: the runs that narrow the interval most for their FLOPs, for a law of N and D; or,
    for any law, all runs again with another seed. 'seeds' where `seeds` alone is given."""
    seeds: int = 8
    """At most so many of each run."""
    runs: int = 16
    """At most so many in a designed round."""
    flops: float | None = None
    """Of a designed round, at most (6 N D); where not given, half of what all runs before it took."""
    rounds: int = 8
    """Of designed runs, at most."""
    reach: float = 1.0
    """Designed runs have at most so many times the largest N, D and D / N of the spec."""


Width = Callable[[Interval, list[Row]], float]
"""Width of an interval after these rows; infinite where it cannot be told. ConfigError where there is
no such law or parameter, also without rows."""


@dataclass(frozen=True)
class Round:
    """Runs that were designed together, or the finding that there are no more to design."""

    base: str
    """Digest of what all runs of the sweep share: rounds belong to it."""
    asked: Mapping[str, Any]
    """The fields of the Interval."""
    after: int
    """Rounds before this one, for this law and parameter."""
    results: str
    """Digest of the results that it rests on."""
    width: float
    """Of the interval that these give."""
    runs: tuple[RunConfig, ...] = ()
    expected: float = math.inf
    """Width of the interval with these runs as well."""
    why: str = ""
    """Why there are none, unless the interval is narrow enough."""

    def record(self) -> dict[str, Any]:
        """As it is stored: plain values, the runs as canonical configs by their ids."""
        runs = {run.run_id: canonical(run) | {"tag": run.tag} for run in self.runs}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"runs": runs}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Round:
        """The round of a record. Raises ValueError, KeyError or TypeError where it is none."""
        values: dict[str, Any] = {f.name: record[f.name] for f in dataclasses.fields(cls)}
        runs = {run_id: from_dict(config) for run_id, config in values["runs"].items()}
        for run_id, run in runs.items():
            if run.run_id != run_id:
                raise ValueError(f"its run {run_id} is run {run.run_id} of this version")
        for key in ("width", "expected"):  # JSON has no word for infinity
            values[key] = math.inf if values[key] is None else float(values[key])
        if not isinstance(values["why"], str) or type(values["after"]) is not int:
            raise ValueError("it does not say why, or after which round")
        values["why"] = " ".join(values["why"].split())
        if not values["asked"].keys() >= {"law", "parameter"}:
            raise ValueError("it does not say what was asked")
        values["runs"] = tuple(runs.values())
        return cls(**values)

    def of_same(self, asked: Interval) -> bool:
        """Whether it is about the same parameter."""
        return (self.asked["law"], self.asked["parameter"]) == (asked.law, asked.parameter)


@dataclass(frozen=True)
class Due:
    """A round that is to be decided, and what it may choose from."""

    asked: Interval
    base: str
    after: int
    results: str
    rows: list[Row]
    """The results of all runs so far."""
    candidates: tuple[RunConfig, ...]
    """One of each size and horizon."""
    left: tuple[int, ...]
    """How often each of them may be chosen, each time with another seed."""
    seeds: tuple[int, ...]
    """The first seed of each that no run has had."""
    flops: float
    """Of the round, at most."""
    width: float = math.inf
    """Of the interval so far."""

    def round(self, picks: Sequence[int] = (), **values: Any) -> Round:
        """The round of these candidates, by their indices."""
        seeds, runs = list(self.seeds), []
        for i in picks:
            runs.append(_plain(dataclasses.replace(self.candidates[i], seed=seeds[i])))
            seeds[i] += 1
        asked = dataclasses.asdict(self.asked)
        return Round(self.base, asked, self.after, self.results, self.width, tuple(runs), **values)


Design = Callable[[Due], tuple[Sequence[int], float, str]]
"""Chooses the runs of a round: indices of candidates, one of them several times for several seeds; the
width of the interval that is expected with them; and, where nothing is chosen, why."""


@dataclass(frozen=True)
class Found:
    """Runs that a search asks for, and where it stands."""

    runs: list[RunConfig] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    due: Due | None = None


def decide(due: Due, width: Width, design: Design) -> Round:
    """Fit, and choose the next round; one without runs where there is none to come."""
    due = dataclasses.replace(due, width=width(due.asked, due.rows))
    if due.width <= due.asked.width:
        return due.round()
    if due.after >= due.asked.rounds:
        return due.round(why=f"{due.asked.rounds} rounds are the most that the spec allows")
    if not any(due.left):
        return due.round(why="every run that may be chosen has as many seeds as the spec allows")
    picks, expected, why = design(due)
    return due.round(picks, expected=expected, why=why)


# ------------------------------------------------------------------ by design


def by_design(
    first: dict[str, RunConfig],
    asked: Interval,
    rows: Mapping[str, Row],
    *,
    width: Width | None = None,
    rounds: Sequence[Round] = (),
) -> Found:
    """The runs of the rounds so far; once all have results, that another one is due."""
    base = _key(next(iter(first.values())))
    rounds = [each for each in rounds if each.base == base]
    every = first | {run.run_id: run for each in rounds for run in each.runs}
    added = list(every.values())[len(first) :]
    last = rounds[-1] if rounds and rounds[-1].of_same(asked) else None
    if any(run_id not in rows for run_id in every):
        return Found(added, _standing(last, asked, rows))
    results = _digest(sorted((run_id, rows[run_id]["status"]) for run_id in every))
    rests_on = (results, dataclasses.asdict(asked))
    if last and not last.runs and (last.results, last.asked) == rests_on:
        return Found(added, _standing(last, asked, rows))
    flops = asked.flops or sum(map(_flops, every.values())) / 2
    choices = [c for c in _candidates(tuple(first.values()), asked.reach) if _flops(c) <= flops]
    of: dict[str, list[RunConfig]] = {}
    for run in every.values():
        of.setdefault(_point(run), []).append(run)
    there = [of.get(_point(run), []) for run in choices]
    diverged = [any(rows[run.run_id]["status"] == "diverged" for run in runs) for runs in there]
    due = Due(
        asked=asked,
        base=base,
        after=sum(bool(each.runs) and each.of_same(asked) for each in rounds),
        results=results,
        rows=[rows[run_id] for run_id in every],
        candidates=tuple(choices),
        left=tuple(
            0 if lost else max(0, asked.seeds - len(runs))
            for runs, lost in zip(there, diverged, strict=True)
        ),
        seeds=tuple(
            max((other.seed + 1 for other in runs), default=run.seed)
            for run, runs in zip(choices, there, strict=True)
        ),
        flops=flops,
    )
    return Found(added, _standing(last, asked, rows), due)


def _standing(last: Round | None, asked: Interval, rows: Mapping[str, Row]) -> list[str]:
    """Where the search stands after this decision, in a line; nothing before the first."""
    if last is None:
        return []
    width = f"width {last.width:.3g}" if math.isfinite(last.width) else "unknown width"
    line = (
        f"{asked.law} {asked.parameter}: interval of {width} after {last.after} "
        f"round{'' if last.after == 1 else 's'}, {asked.width:g} asked"
    )
    if last.runs:
        done = sum(run.run_id in rows for run in last.runs)
        line += f"; round {last.after + 1} is to make it {last.expected:.2g}"
        line += f", {done} of its {len(last.runs)} runs have finished"
    return [f"{line}; {last.why}" if last.why else line]


def alike(runs: Iterable[RunConfig]) -> None:
    """Raise ConfigError for runs that differ in more than shape, horizon and seed: it would not be
    known what a run of another size is to be like."""
    values: dict[str, set[Any]] = {}
    for run in runs:
        for key, value in flatten(run).items():
            if key not in (*_SHAPE, "tokens", "seed", "tag"):
                values.setdefault(key, set()).add(value)
    if differ := [key for key, found in values.items() if len(found) > 1]:
        raise ConfigError(
            f"designed runs are like those of the spec in all but shape, tokens and seed; these "
            f"differ in {', '.join(differ)}. Give one value or rule for all, or add = 'seeds'."
        )


@functools.lru_cache(maxsize=64)
def _candidates(runs: tuple[RunConfig, ...], reach: float) -> tuple[RunConfig, ...]:
    """One run of each size and horizon that lie within those of the spec, or up to `reach` times
    beyond the largest."""
    like = min(runs, key=lambda run: run.seed)
    tags = {run.tag for run in runs}
    like = dataclasses.replace(like, tag=tags.pop() if len(tags) == 1 else "")
    D = sorted({run.D for run in runs})
    ratios = sorted({run.D / _N(run) for run in runs})
    most = reach**2 * max(map(_flops, runs)) * _ROUNDING
    low, high = ratios[0] / _ROUNDING, reach * ratios[-1] * _ROUNDING
    steps = math.log(max(1.0, reach * D[-1] / D[0])) / (_HORIZONS - 1)
    found: dict[str, RunConfig] = {}
    for model in _ladder(runs, reach):
        for i in range(_HORIZONS):
            tokens = round(D[0] * math.exp(i * steps))
            run = dataclasses.replace(like, model=model, tokens=tokens)
            if low <= run.D / _N(run) <= high and _flops(run) <= most:
                found.setdefault(_point(run), _plain(run))
    return tuple(found.values())


def _ladder(runs: Sequence[RunConfig], reach: float) -> list[ModelConfig]:
    """The shapes of the runs, smallest first, and shapes between and beyond them."""
    like = runs[0]

    def N(model: ModelConfig) -> int:
        return _N(dataclasses.replace(like, model=model))

    rungs = sorted({run.model for run in runs}, key=N)
    most = reach * N(rungs[-1]) * _ROUNDING
    while len(rungs) > 1:
        new = shape_beyond(rungs[-2], rungs[-1])
        if new is None or not N(rungs[-1]) < N(new) <= most:
            break
        rungs.append(new)
    while len(rungs) < _SIZES:
        gaps = sorted(itertools.pairwise(rungs), key=lambda pair: N(pair[0]) / N(pair[1]))
        inner = ((small, shape_between(small, large), large) for small, large in gaps)
        fit = [new for small, new, large in inner if new and N(small) < N(new) < N(large)]
        if not fit:
            break
        rungs = sorted([*rungs, fit[0]], key=N)
    return rungs


@functools.lru_cache(maxsize=2**16)
def _N(run: RunConfig) -> int:
    return size.parameters(run.model, run.data.vocab_size).N


def _flops(run: RunConfig) -> float:
    """6 N D."""
    return 6.0 * _N(run) * run.D


@functools.lru_cache(maxsize=64)
def _key(run: RunConfig) -> str:
    """Digest of what the runs of a sweep share."""
    own = {*_SHAPE, "tokens", "seed"}
    return _digest({key: value for key, value in canonical(run).items() if key not in own})


@functools.lru_cache(maxsize=2**16)
def _point(run: RunConfig) -> str:
    """What runs share that differ in their seeds alone."""
    return _digest({key: value for key, value in canonical(run).items() if key != "seed"})


def _plain(run: RunConfig) -> RunConfig:
    """The same run as it is read from its record."""
    return from_dict(canonical(run) | {"tag": run.tag})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


# ------------------------------------------------------------------ by seeds


def by_seeds(
    first: dict[str, RunConfig],
    asked: Interval,
    rows: Mapping[str, Row],
    *,
    width: Width | None = None,
    rounds: Sequence[Round] = (),
) -> Found:
    """All runs again, a seed at a time, as far as this is decided or `width` decides it now."""
    every, added, said = dict(first), [], []
    step = 1 + max(run.seed for run in first.values()) - min(run.seed for run in first.values())
    for seeds in range(1, asked.seeds + 1):
        if any(run_id not in rows for run_id in every):
            break
        again = [dataclasses.replace(r, seed=r.seed + seeds * step) for r in first.values()]
        if not any(run.run_id in rows for run in again):  # else it was decided before
            if width is None:
                break
            found = width(asked, [rows[run_id] for run_id in every])
            if found <= asked.width or seeds == asked.seeds:
                said.append(
                    f"{asked.law} {asked.parameter}: interval of width {found:.3g} with {seeds} "
                    f"seeds, {asked.width:g} asked"
                )
                break
        every |= {run.run_id: run for run in again}
        added += again
    return Found(added, said)
