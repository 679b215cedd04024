"""Adaptive sweeps that add runs until the interval of a fitted parameter is narrow.

- By seeds: the whole grid of the spec again, one seed at a time.
- By design: in rounds, each of the runs that are expected to narrow the interval most for their
  FLOPs. The choice depends on a fit, so it cannot be replayed from the results alone. Every round
  is therefore recorded in the store before any of its runs starts, and from then on its runs
  belong to the sweep. A replay reads these records. A round is decided when all runs before it
  have results.

Imports nothing heavy: fits are made by the functions that are passed in
(:class:`sweeps.adaptive.protocols.IntervalDesigner`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scaling import size
from scaling.command_run import Run
from scaling.config import RunConfig, canonical, from_dict
from sweeps.adaptive.candidates import (
    as_recorded,
    candidates,
    digest,
    digest_without_seed,
    settings_digest,
)
from sweeps.adaptive.families import with_seed
from sweeps.result import Row


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The table [until.interval]."""

    width: float
    """Largest accepted width of the 95 % interval. Stopping as soon as it is narrow favours noise
    that looks small: on a known law, from 9 runs on, such intervals cover 92 % by design and 86 %
    by seeds (of 88)."""
    law: str = "chinchilla"
    parameter: str = "alpha"
    add: Literal["designed", "seeds"] = "designed"
    """What is added: the runs that narrow the interval most for their FLOPs, for a law of N and D;
    or, for any law, all runs again with another seed. 'seeds' if only `seeds` is given."""
    seeds: int = 8
    """Maximum number of seeds of each run."""
    runs: int = 16
    """Maximum number of runs in a designed round."""
    flops: float | None = None
    """Maximum FLOPs of a designed round (6 N D); by default half of those of all runs before."""
    rounds: int = 8
    """Maximum number of designed rounds."""
    reach: float = 1.0
    """Designed runs have at most this many times the largest N, D and D / N of the spec."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """Runs that were designed together, or the finding that there are no more to design.

    The names of the fields are the keys of the recorded file.
    """

    base: str
    """Digest of what all runs of the sweep share, which the round belongs to."""
    asked: Mapping[str, Any]
    """The fields of the Interval."""
    after: int
    """Number of rounds before this one, for the same law and parameter."""
    results: str
    """Digest of the results that it is based on."""
    width: float
    """Width of the interval with these results."""
    runs: tuple[RunConfig, ...] = ()
    expected: float = math.inf
    """Width expected once these runs have results as well."""
    why: str = ""
    """Why there are no runs, unless the interval is narrow enough."""

    def record(self) -> dict[str, Any]:
        """Return plain values to be stored: the runs are canonical configs by their ids."""
        runs = {run.run_id: canonical(run) | {"tag": run.tag} for run in self.runs}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"runs": runs}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Round:
        """Read the round of a record. Raises ValueError, KeyError or TypeError if it is damaged."""
        values: dict[str, Any] = {f.name: record[f.name] for f in dataclasses.fields(cls)}
        runs = {run_id: from_dict(config) for run_id, config in values["runs"].items()}
        for run_id, run in runs.items():
            if run.run_id != run_id:
                raise ValueError(f"its run {run_id} is run {run.run_id} of this version")
        for key in ("width", "expected"):  # JSON has no infinity
            values[key] = math.inf if values[key] is None else float(values[key])
        if not isinstance(values["why"], str) or type(values["after"]) is not int:
            raise ValueError("its fields 'why' and 'after' must be a string and an integer")
        values["why"] = " ".join(values["why"].split())
        if not values["asked"].keys() >= {"law", "parameter"}:
            raise ValueError("its field 'asked' must have a law and a parameter")
        values["runs"] = tuple(runs.values())
        return cls(**values)

    def same_parameter(self, options: Interval) -> bool:
        """Whether it was designed for the law and parameter of `options`."""
        return (self.asked["law"], self.asked["parameter"]) == (options.law, options.parameter)


@dataclass(frozen=True, kw_only=True)
class DueRound:
    """A round that is to be decided, and what it may choose from."""

    options: Interval
    base: str
    after: int
    results: str
    rows: Sequence[Row]
    """The results of all runs so far."""
    candidates: tuple[RunConfig, ...]
    """One run of each size and horizon."""
    left: tuple[int, ...]
    """How often each candidate may be chosen, each time with another seed."""
    seeds: tuple[int, ...]
    """The first seed of each candidate that no run has had."""
    flops: float
    """Maximum FLOPs of the round."""
    width: float = math.inf
    """Width of the interval so far."""

    def round(self, picks: Sequence[int] = (), **values: Any) -> Round:
        """Return the round of the candidates with these indices."""
        seeds, runs = list(self.seeds), []
        for i in picks:
            runs.append(as_recorded(dataclasses.replace(self.candidates[i], seed=seeds[i])))
            seeds[i] += 1
        return Round(
            base=self.base,
            asked=dataclasses.asdict(self.options),
            after=self.after,
            results=self.results,
            width=self.width,
            runs=tuple(runs),
            **values,
        )


Width = Callable[[Interval, Sequence[Row]], float]
"""The type of :meth:`sweeps.adaptive.protocols.IntervalDesigner.interval_width`."""

Design = Callable[[DueRound], tuple[Sequence[int], float, str]]
"""The type of :meth:`sweeps.adaptive.protocols.IntervalDesigner.interval_runs`."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The runs that a search asks for, and where it stands."""

    runs: Sequence[Run] = ()
    notes: list[str] = field(default_factory=list)
    due: DueRound | None = None


def decide(due: DueRound, width: Width, design: Design) -> Round:
    """Fit, and choose the next round; a round without runs ends the search."""
    options = due.options
    due = dataclasses.replace(due, width=width(options, due.rows))
    if due.width <= options.width:
        return due.round()
    if due.after >= options.rounds:
        return due.round(why=f"{options.rounds} rounds are the most that the spec allows")
    if not any(due.left):
        return due.round(why="every run that may be chosen has as many seeds as the spec allows")
    picks, expected, why = design(due)
    return due.round(picks, expected=expected, why=why)


# ------------------------------------------------------------------ by design


def by_design(
    first: dict[str, RunConfig],
    options: Interval,
    rows: Mapping[str, Row],
    *,
    width: Width | None = None,
    rounds: Sequence[Round] = (),
) -> Found:
    """Return the runs of the rounds so far and, once all have results, the round that is due."""
    base = settings_digest(next(iter(first.values())))
    rounds = [each for each in rounds if each.base == base]
    every = first | {run.run_id: run for each in rounds for run in each.runs}
    added = list(every.values())[len(first) :]
    last = rounds[-1] if rounds and rounds[-1].same_parameter(options) else None
    notes = [] if last is None else [_progress(last, options, rows)]
    if any(run_id not in rows for run_id in every):
        return Found(runs=added, notes=notes)
    results = digest(sorted((run_id, rows[run_id]["status"]) for run_id in every))
    based_on = (results, dataclasses.asdict(options))
    if last and not last.runs and (last.results, last.asked) == based_on:
        return Found(runs=added, notes=notes)
    after = sum(bool(each.runs) and each.same_parameter(options) for each in rounds)
    due = _due_round(first, every, options, rows, base=base, after=after, results=results)
    return Found(runs=added, notes=notes, due=due)


def _due_round(
    first: Mapping[str, RunConfig],
    every: Mapping[str, RunConfig],
    options: Interval,
    rows: Mapping[str, Row],
    *,
    base: str,
    after: int,
    results: str,
) -> DueRound:
    """Return what the next round may choose from, after all runs in `every` have results."""
    flops = options.flops or sum(map(size.flops_of, every.values())) / 2
    affordable = [
        run
        for run in candidates(tuple(first.values()), options.reach)
        if size.flops_of(run) <= flops
    ]
    trained: dict[str, list[RunConfig]] = {}
    for run in every.values():
        trained.setdefault(digest_without_seed(run), []).append(run)
    left, seeds = [], []
    for run in affordable:
        others = trained.get(digest_without_seed(run), [])
        diverged = any(rows[other.run_id]["status"] == "diverged" for other in others)
        left.append(0 if diverged else max(0, options.seeds - len(others)))
        seeds.append(max((other.seed + 1 for other in others), default=run.seed))
    return DueRound(
        options=options,
        base=base,
        after=after,
        results=results,
        rows=[rows[run_id] for run_id in every],
        candidates=tuple(affordable),
        left=tuple(left),
        seeds=tuple(seeds),
        flops=flops,
    )


def _progress(last: Round, options: Interval, rows: Mapping[str, Row]) -> str:
    """Return a line on where the search stands after the last decided round."""
    width = f"width {last.width:.3g}" if math.isfinite(last.width) else "unknown width"
    line = (
        f"{options.law} {options.parameter}: interval of {width} after {last.after} "
        f"round{'' if last.after == 1 else 's'}, {options.width:g} asked"
    )
    if last.runs:
        done = sum(run.run_id in rows for run in last.runs)
        line += f"; round {last.after + 1} is expected to make it {last.expected:.2g}"
        line += f", {done} of its {len(last.runs)} runs have finished"
    return f"{line}; {last.why}" if last.why else line


# ------------------------------------------------------------------ by seeds


def by_seeds(
    first: Mapping[str, Run],
    options: Interval,
    rows: Mapping[str, Row],
    *,
    width: Width | None = None,
) -> Found:
    """Return all runs again, one seed at a time, as far as `width` or earlier results decide."""
    every, notes = dict(first), []
    added: list[Run] = []
    step = 1 + max(run.seed for run in first.values()) - min(run.seed for run in first.values())
    for seeds in range(1, options.seeds + 1):
        if any(run_id not in rows for run_id in every):
            break
        again = [with_seed(r, r.seed + seeds * step) for r in first.values()]
        if not any(run.run_id in rows for run in again):  # else it was decided before
            if width is None:
                break
            found = width(options, [rows[run_id] for run_id in every])
            if found <= options.width or seeds == options.seeds:
                notes.append(
                    f"{options.law} {options.parameter}: interval of width {found:.3g} with "
                    f"{seeds} seeds, {options.width:g} asked"
                )
                break
        every |= {run.run_id: run for run in again}
        added += again
    return Found(runs=added, notes=notes)
