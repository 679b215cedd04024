"""What an adaptive sweep needs from a package that fits laws.

A spec with ``[until] interval`` adds runs until the interval of a fitted parameter is narrow. The
fits are made by an :class:`IntervalDesigner`. A spec with ``[until] forecast`` stops runs whose end
a :class:`CurveForecaster` knows well enough, and so does halving with `win`. This package depends
on neither: the defaults are loaded by name when such a spec is planned or run.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from scaling.errors import ConfigError

if TYPE_CHECKING:
    from sweeps.adaptive.forecast import CurveSoFar, Decision, Forecast
    from sweeps.adaptive.interval import DueRound, Interval
    from sweeps.result import Row

DEFAULT_DESIGNER = "analysis.planning.adaptive"
"""The module that designs runs unless :class:`sweeps.Sweep` is given another designer."""

DEFAULT_FORECASTER = "analysis.curves.stopping"
"""The module that forecasts runs unless :class:`sweeps.Sweep` is given another forecaster."""


class IntervalDesigner(Protocol):
    """Fits a law to the results of a sweep and designs further runs.

    A module with these two functions is a designer, and so is any object with such methods.
    """

    def interval_width(self, options: Interval, rows: Sequence[Row], /) -> float:
        """Fit ``options.law`` to the rows; return the width of the parameter's 95 % interval.

        The width is infinite if the rows do not determine it. Raises ConfigError if there is no
        such law or parameter, even without rows.
        """
        ...

    def interval_runs(self, due: DueRound, /) -> tuple[Sequence[int], float, str]:
        """Choose the runs of the round that is due: ``(picks, expected width, reason)``.

        `picks` are indices into ``due.candidates``; an index that occurs several times asks for
        as many seeds. The expected width is that of the interval once these runs have results. If
        nothing is picked, `reason` says why.
        """
        ...


class CurveForecaster(Protocol):
    """Fits a law to the learning curves of a sweep and forecasts how its runs end.

    A module with these three functions is a forecaster, and so is any object with such methods. It
    must be picklable, because workers call it, and give the same answer to the same question.
    """

    def check_question(self, options: Forecast, /) -> None:
        """Raise ConfigError if there is no such law, or if it cannot answer the question."""
        ...

    def decide_ends(
        self, options: Forecast, curves: Sequence[CurveSoFar], due: Sequence[str], /
    ) -> Mapping[str, Decision]:
        """Return {run_id: (whether it stops, reason, numbers)} of the runs in `due`.

        `curves` are all runs of the sweep, those that have not begun included. A run that is left
        out continues.
        """
        ...

    def win_probabilities(
        self, curves: Mapping[str, Sequence[Mapping[str, Any]]], S: int, /
    ) -> Mapping[str, float]:
        """Return {run_id: probability that it ends with the lowest loss} of arms that differ in
        their learning rate only; empty if the curves do not tell.

        `curves` are the evaluations (S, L) of each arm that can still win; all end at step `S`.
        """
        ...


def default_forecaster() -> CurveForecaster:
    """Load the default forecaster. Raises ConfigError if it is not installed."""
    return cast(CurveForecaster, _loaded(DEFAULT_FORECASTER, "forecast", "forecaster"))


def default_designer() -> IntervalDesigner:
    """Load the default designer. Raises ConfigError if it is not installed."""
    return cast(IntervalDesigner, _loaded(DEFAULT_DESIGNER, "interval", "designer"))


def _loaded(module: str, until: str, role: str) -> ModuleType:
    """Import the module that makes the fits of ``[until]`` for this key; raise ConfigError if that
    fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"[until] {until} needs a fit, but {module} cannot be imported ({error}). "
            f"Install it, or give Sweep a {role}."
        ) from None
