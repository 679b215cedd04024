"""Stop runs whose end is known better than it matters to the question that a sweep asks.

The question is the loss of a run of another size, or a parameter of a law. A law of whole learning
curves (sweeps.adaptive.protocols.CurveForecaster) is fitted to all curves so far, those of runs
under way included. It says how well the question is answered, how well the end of each run is
known, and by how much measuring that end would narrow the answer. A run is stopped at an
evaluation if

- the other runs, those that cost less and are still to end included, are expected to answer the
  question as well as the spec asks (`width`), or
- its end would narrow the answer's interval by less than a stated fraction (`gain`).

Only runs whose rest is `worth` a decision are considered.

A stopped run keeps its curve, which counts in laws of curves; its status is `stopped`, so laws of
final losses leave it out. Cheap runs train first, because they teach the law.

Imports nothing heavy.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling import size
from scaling.config import RunConfig
from scaling.errors import ConfigError
from scaling.training.schedule import evaluation_steps, warmup_steps


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The table [until.forecast]."""

    N: float | None = None
    """With D: the question is the loss of a run of N parameters and D tokens."""
    D: float | None = None
    """Tokens of the run whose loss is asked for."""
    parameter: str | None = None
    """Instead of N and D: the question is this parameter of the law, or the exponent "a" of the
    compute-optimal size, N_opt ~ C^a."""
    width: float | None = None
    """Runs stop once this 95 % interval is reached without them: high / low - 1 of a loss, or
    high - low of a parameter. By default no width is asked for, and only `gain` decides."""
    gain: float = 0.05
    """A run stops if its end would narrow the interval by less than this fraction."""
    worth: float = 0.01
    """Runs with less than this fraction of the sweep's FLOPs left train to their end: a forecast
    would spare too little. Their ends anchor the law."""
    after: float = 0.1
    """No run stops before this fraction of its horizon, nor during warm-up."""
    law: str = "multi_power_size"
    """The law of curves, of sizes and schedules together."""


@dataclass(frozen=True, kw_only=True)
class CurveSoFar:
    """A run of the sweep: its evaluations so far."""

    run: RunConfig
    points: Sequence[Mapping[str, Any]] = ()
    """Evaluations in order, with at least S and L; none if it has not begun."""
    status: str = ""
    """How it ended (scaling.columns.STATUSES); empty if it has not."""


Decision = tuple[bool, str, Mapping[str, float]]
"""Whether a run stops, the reason, and the numbers that it rests on."""


@functools.lru_cache(maxsize=2**16)
def decision_steps(run: RunConfig, after: float) -> tuple[int, ...]:
    """Return the evaluations at which a run may stop: from `after` of its horizon, after the
    warm-up, and before its end."""
    first = max(after * run.S, warmup_steps(run) + 1)
    return tuple(s for s in evaluation_steps(run.S, run.eval.points) if first <= s < run.S)


def flops_left(run: RunConfig, S: int) -> float:
    """Return the FLOPs of a run after step S."""
    return size.flops_of(run) * (1 - S / run.S)


def check(options: Forecast, where: str) -> None:
    """Raise ConfigError if the question is not one question, or a fraction is not a fraction."""
    point = (options.N is not None) + (options.D is not None)
    if point + 2 * (options.parameter is not None) != 2:
        raise ConfigError(
            f"{where}: give the question as N and D of the run whose loss is asked for, or as one "
            "parameter of the law."
        )
    for key in ("gain", "after", "worth"):
        if not getattr(options, key) < 1:
            raise ConfigError(f"{where}.{key}={getattr(options, key):g} must be below 1.")
