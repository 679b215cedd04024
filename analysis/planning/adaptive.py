"""The next round of runs of a sweep that narrows an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.laws import Law, LawError, resolve
from analysis.planning.design import design
from analysis.planning.design_spec import Point
from scaling.errors import ConfigError, TableError
from scaling.size import parameters_of


def interval_width(asked: Any, rows: Sequence[Mapping[str, Any]]) -> float:
    """Width of the 95 % interval of `asked.parameter` in a fit of `asked.law` to these rows.

    `asked` is a sweeps.interval.Interval. Infinite where there is none. Raises ConfigError where
    there is no such law or parameter, or none that runs could be designed for.
    """
    law = _asked(asked)
    if not rows:
        return math.inf
    try:
        found = fit(law, pd.DataFrame(rows))
    except (FitError, TableError):
        return math.inf
    low, high = found.interval(0.95).loc[asked.parameter, ["low", "high"]]
    return float(high - low) if math.isfinite(high - low) else math.inf


_AIM = 0.9
"""A round aims at this part of the width that is asked: what comes out scatters, and rounds take time."""
_LEAST = 0.99
"""A round that leaves the interval this part as wide, or more, is not worth its runs."""


def interval_runs(due: Any) -> tuple[list[int], float, str]:
    """The next round of runs for an interval: (which of the candidates, the width expected with them,
    why there are none).

    `due` is a sweeps.interval.Due. The runs are as many as its FLOPs pay for, or fewer that are
    expected to do. The expected width is the one so far, times the ratio of linearised ones.
    """
    asked = due.asked
    sizes = [parameters_of(run).N for run in due.candidates]
    points = [
        Point(run.model, N, float(run.D)) for run, N in zip(due.candidates, sizes, strict=True)
    ]
    index = {point: i for i, point in enumerate(points)}
    picks: list[int] = []
    flops, width, why = due.flops, math.inf, ""
    try:
        result = fit(_asked(asked), pd.DataFrame(due.rows))
        # Half the FLOPs, as long as these are expected to do.
        while not picks or width <= _AIM * asked.width:
            made = design(
                result, budget=flops, target=f"ln {asked.parameter}", runs=asked.runs,
                points=points, seeds=due.left,
            )  # fmt: skip
            now, then = made.half_width["nothing more"], made.half_width["design"]
            wide = (
                due.width if math.isfinite(due.width) else 2 * now * result.params[asked.parameter]
            )
            if picks and wide * then / now > _AIM * asked.width:
                break
            picks = [index[point._replace(seed=0)] for point in made.runs]
            width = wide * then / now
            flops = made.C / 2
    except (FitError, TableError, ConfigError) as error:
        why = "" if picks else f"no runs can be designed: {error}"
    if width > max(asked.width, _LEAST * due.width):
        picks, why = (
            [],
            why
            or (
                f"the best runs for {due.flops:.3g} FLOPs are expected to narrow it by less than "
                f"{1 - _LEAST:.0%}"
            ),
        )
    return picks, width, why


def _asked(asked: Any) -> Law:
    """The law of an Interval, if it can be used for it."""
    try:
        law = resolve(asked.law)
    except LawError as error:
        raise ConfigError(f"[until] interval.law: {error}") from None
    if asked.parameter not in law.params:
        raise ConfigError(
            f"[until] interval.parameter={asked.parameter!r}: {asked.law} has {', '.join(law.params)}."
        )
    if asked.add == "designed" and set(law.inputs) != {"N", "D"}:
        raise ConfigError(
            f"[until] interval: runs are designed for laws of N and D; {law.name} is one of "
            f"{', '.join(law.inputs)}. Give add = 'seeds'."
        )
    return law
