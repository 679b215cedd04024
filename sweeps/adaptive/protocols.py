"""What an adaptive sweep needs from a package that fits laws.

A spec with ``[until] interval`` adds runs until the interval of a fitted parameter is narrow. The
fits are made by an :class:`IntervalDesigner`, which this package does not depend on: the default
is loaded by name when such a spec is planned or run.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from scaling.errors import ConfigError

if TYPE_CHECKING:
    from sweeps.adaptive.interval import DueRound, Interval
    from sweeps.result import Row

DEFAULT_DESIGNER = "analysis.planning.adaptive"
"""The module that designs runs unless :class:`sweeps.Sweep` is given another designer."""


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


def default_designer() -> IntervalDesigner:
    """Load the default designer. Raises ConfigError if it is not installed."""
    try:
        return cast(IntervalDesigner, importlib.import_module(DEFAULT_DESIGNER))
    except ImportError as error:
        raise ConfigError(
            f"[until] interval needs a fit, but {DEFAULT_DESIGNER} cannot be imported ({error}). "
            "Install it, or give Sweep a designer."
        ) from None
