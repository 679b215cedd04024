"""Typed parts of a config: dataclasses whose values are coerced to their types, or refused."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, Literal

from scaling.errors import ConfigError

_HUGE = 10**308
"""No number of a config is larger: it would be no float."""

PREFIX = {
    "ModelConfig": "model.",
    "DataConfig": "data.",
    "OptimConfig": "optim.",
    "EvalConfig": "eval.",
    "Execution": "execution.",
}

type_hints = functools.cache(typing.get_type_hints)  # a spec may have 1e5 runs


@functools.cache
def own_fields(cls: type) -> tuple[tuple[str, Any, frozenset[type], tuple[Any, ...]], ...]:
    """Of the fields of a part that are no parts themselves: name, type, and what may stay as it is,
    values of these types or these words."""
    found = []
    for name, hint in type_hints(cls).items():
        if not dataclasses.is_dataclass(hint):
            origin, options = _taken_apart(hint)
            words = options if origin is Literal else ()
            kinds = frozenset({hint, *(() if words else options)} & {int, bool, str, type(None)})
            found.append((name, hint, kinds, words))
    return tuple(found)


class Part:
    """A part of a config: values are coerced to the types of their fields, or refused."""

    def __post_init__(self) -> None:
        values = self.__dict__
        for name, hint, kinds, options in own_fields(type(self)):
            value = values[name]
            kind = type(value)
            if kind in kinds or (kind is str and value in options):
                continue
            try:
                values[name] = coerce(value, hint)  # frozen: __dict__ is the way in
            except ConfigError as error:
                prefix = PREFIX.get(type(self).__name__, "")
                raise ConfigError(f"{prefix}{name}: {error}") from None
        self.check()

    def check(self) -> None:
        """Raise ConfigError for values that cannot be, or not together."""


def check_seed(part: Any, name: str) -> None:
    value = getattr(part, name)
    if not 0 <= value < 2**63:
        raise ConfigError(
            f"{PREFIX.get(type(part).__name__, '')}{name}={value} must lie between 0 and 2^63 - 1."
        )


def check_positive(part: Any, name: str) -> None:
    value = getattr(part, name)
    if value <= 0:
        raise ConfigError(f"{PREFIX.get(type(part).__name__, '')}{name}={value} must be positive.")


@functools.cache
def _taken_apart(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def coerce(value: Any, hint: Any) -> Any:
    """`value` as the type `hint`, without guessing: 1e6 may be an int, '8' and True may not."""
    origin, options = _taken_apart(hint)
    if origin is Literal:
        if value not in options:
            raise ConfigError(f"{_short(value)} is not one of {', '.join(map(repr, options))}.")
        return value
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return coerce(value, option)
            except ConfigError:
                continue
        names = [getattr(option, "__name__", str(option)) for option in options]
        raise ConfigError(
            f"{_short(value)} is not {' or '.join(names).replace('NoneType', 'none')}."
        )
    if hint is type(None):
        if value is None or value == "none":  # TOML has no null
            return None
    elif hint is bool:
        if isinstance(value, bool):
            return value
    elif hint is int:
        if not isinstance(value, bool) and isinstance(value, int | float) and value % 1 == 0:
            return int(value)
    elif hint is float:
        if not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < _HUGE:
            return float(value) + 0.0  # -0.0 is 0.0
    elif hint is str and isinstance(value, str):
        return value
    raise ConfigError(f"{_short(value)} is not {getattr(hint, '__name__', hint)}.")


def _short(value: Any) -> str:
    """A value as messages show it; an integer of thousands of digits has no text."""
    huge = isinstance(value, int) and abs(value) >= _HUGE
    return "a number of hundreds of digits" if huge else repr(value)
