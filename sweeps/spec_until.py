"""The table [until] of a spec: its searches, read and checked.

Imports nothing heavy.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from scaling.errors import ConfigError
from scaling.fields import coerce
from sweeps.adaptive import forecast
from sweeps.adaptive.forecast import Forecast
from sweeps.adaptive.grow import Searches
from sweeps.adaptive.interval import Interval
from sweeps.adaptive.isoflop import IsoFlop
from sweeps.adaptive.learning_rate import LearningRate
from sweeps.spec_values import LARGEST, check_keys, subtable

_SEARCHES = {"lr": LearningRate, "isoflop": IsoFlop, "interval": Interval, "forecast": Forecast}
"""The tables of [until]."""

_ABOVE_ONE = ("within", "factor", "halving", "seeds")
"""Numbers of [until] that must be greater than 1; the others must be positive."""


def searches_of(table: dict[str, Any], where: str) -> Searches | None:
    """Return the searches in the [until] table, each of which is a table itself."""
    check_keys(table, tuple(_SEARCHES), where)
    searches: dict[str, Any] = {}
    for name, search in _SEARCHES.items():
        if name not in table:
            continue
        options = subtable(table, name, where)
        hints = typing.get_type_hints(search)
        check_keys(options, tuple(hints), f"{where} {name}")
        for key, value in options.items():
            try:
                value = coerce(value, hints[key])
            except ConfigError as error:
                raise ConfigError(f"{where} {name}.{key}: {error}") from None
            least = 1 if key in _ABOVE_ONE else 0
            if isinstance(value, int | float) and not least < value < LARGEST:
                raise ConfigError(f"{where} {name}.{key}={value} must be above {least}.")
            options[key] = value
        if name == "interval" and "width" not in options:
            raise ConfigError(f"{where} interval: 'width' is missing.")
        if name == "interval" and "seeds" in options:
            options.setdefault("add", "seeds")
        searches[name] = search(**options)
    _check_together(searches, where)
    return Searches(**searches) if searches else None


def _check_together(searches: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for searches, or options of one, that do not go together."""
    if searches.keys() >= {"lr", "interval"}:
        raise ConfigError(
            f"{where}: lr and interval do not go together: a law is fitted to runs at one learning "
            "rate each. Search for the rate first, then fit the law in a separate sweep."
        )
    if searches.keys() >= {"lr", "forecast"}:
        raise ConfigError(
            f"{where}: lr and forecast do not go together: the curves must be those of one law at "
            "one learning rate each. To stop arms of the search on forecasts, give lr.halving and "
            "lr.win."
        )
    if "forecast" in searches:
        forecast.check(searches["forecast"], f"{where} forecast")
    if (lr := searches.get("lr")) and lr.win is not None:
        if lr.halving is None:
            raise ConfigError(f"{where} lr.win={lr.win:g} needs lr.halving as well.")
        if not lr.win < 0.5:
            raise ConfigError(f"{where} lr.win={lr.win:g} must be below 0.5.")
