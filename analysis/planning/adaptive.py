"""Design the next round of runs of a sweep that narrows an interval.

This module is the default designer of adaptive sweeps: sweeps.adaptive.protocols.IntervalDesigner
describes its two functions, and a sweep loads it by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import pandas as pd

from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.laws import Law, LawError, resolve
from analysis.planning.design import design
from analysis.planning.design_spec import Point
from scaling.config import RunConfig
from scaling.errors import ConfigError, TableError
from scaling.size import parameters_of

_AIM = 0.9
"""A round aims at this fraction of the requested width: results scatter, and rounds take time."""
_LEAST_GAIN = 0.99
"""A round that leaves this fraction of the width, or more, is not worth its runs."""


class IntervalOptions(Protocol):
    """The interval that a sweep narrows (sweeps.adaptive.interval.Interval)."""

    @property
    def law(self) -> str:
        """Name of the law to fit."""
        ...

    @property
    def parameter(self) -> str:
        """Parameter of the law."""
        ...

    @property
    def width(self) -> float:
        """Requested width of the parameter's interval."""
        ...

    @property
    def add(self) -> str:
        """'designed' or 'seeds'."""
        ...

    @property
    def runs(self) -> int:
        """Maximum number of runs in a round."""
        ...


class DueRound(Protocol):
    """A round that is to be decided (sweeps.adaptive.interval.DueRound)."""

    @property
    def options(self) -> IntervalOptions:
        """The interval to narrow."""
        ...

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Results of all runs so far."""
        ...

    @property
    def candidates(self) -> Sequence[RunConfig]:
        """The runs to choose from."""
        ...

    @property
    def left(self) -> Sequence[int]:
        """How often each candidate may be chosen."""
        ...

    @property
    def flops(self) -> float:
        """Maximum FLOPs of the round."""
        ...

    @property
    def width(self) -> float:
        """Width of the interval so far."""
        ...


class ChosenRuns(NamedTuple):
    """The runs of a round."""

    picks: list[int]
    """Indices of candidates; an index occurs once per seed."""
    expected_width: float
    """Width of the interval that is expected with these runs."""
    reason: str
    """Why nothing is picked, if nothing is."""


def interval_width(options: IntervalOptions, rows: Sequence[Mapping[str, Any]]) -> float:
    """Fit the law to these rows; return the width of the 95 % interval of the parameter.

    The width is infinite if the rows do not determine it. Raises ConfigError if there is no such
    law or parameter, or if no runs can be designed for it.
    """
    law = _law(options)
    if not rows:
        return math.inf
    try:
        found = fit(law, pd.DataFrame(rows))
    except (FitError, TableError):
        return math.inf
    low, high = found.interval(0.95).loc[options.parameter, ["low", "high"]]
    return float(high - low) if math.isfinite(high - low) else math.inf


def interval_runs(due: DueRound) -> ChosenRuns:
    """Choose the runs of the round that is due: those that narrow the interval most.

    They cost at most ``due.flops``, and less if fewer runs are expected to be enough. The expected
    width is the present one times the ratio of the linearised widths.
    """
    try:
        result = fit(_law(due.options), pd.DataFrame(due.rows))
        picks, width, reason = _cheapest_sufficient(result, due)
    except (FitError, TableError, ConfigError) as error:
        picks, width, reason = [], math.inf, f"no runs can be designed: {error}"
    if width > max(due.options.width, _LEAST_GAIN * due.width):
        reason = reason or (
            f"the best runs for {due.flops:.3g} FLOPs are expected to narrow it by less than "
            f"{1 - _LEAST_GAIN:.0%}"
        )
        picks = []
    return ChosenRuns(picks, width, reason)


def _cheapest_sufficient(result: FitResult, due: DueRound) -> ChosenRuns:
    """Halve the FLOPs for as long as the designed runs are expected to be enough."""
    options = due.options
    points = [Point(run.model, parameters_of(run).N, float(run.D)) for run in due.candidates]
    index = {point: i for i, point in enumerate(points)}
    picks: list[int] = []
    flops, width = due.flops, math.inf
    while not picks or width <= _AIM * options.width:
        try:
            made = design(
                result,
                budget=flops,
                target=f"ln {options.parameter}",
                runs=options.runs,
                points=points,
                seeds=due.left,
                compare=False,
            )
        except (FitError, TableError, ConfigError):
            if picks:  # half the FLOPs pay for no run
                break
            raise
        now, then = made.half_width["nothing more"], made.half_width["design"]
        so_far = due.width
        if not math.isfinite(so_far):
            so_far = 2 * now * result.params[options.parameter]
        if picks and so_far * then / now > _AIM * options.width:
            break
        picks = [index[point._replace(seed=0)] for point in made.runs]
        width = so_far * then / now
        flops = made.C / 2
    return ChosenRuns(picks, width, "")


def _law(options: IntervalOptions) -> Law:
    """Return the law to fit. Raises ConfigError if the options do not suit it."""
    try:
        law = resolve(options.law)
    except LawError as error:
        raise ConfigError(f"[until] interval.law: {error}") from None
    if options.parameter not in law.params:
        raise ConfigError(
            f"[until] interval.parameter={options.parameter!r}: {options.law} has "
            f"{', '.join(law.params)}."
        )
    if options.add == "designed" and set(law.inputs) != {"N", "D"}:
        raise ConfigError(
            f"[until] interval: runs are designed for laws of N and D; {law.name} is one of "
            f"{', '.join(law.inputs)}. Give add = 'seeds'."
        )
    return law
