"""Typed parts of a config: dataclasses that coerce or reject values, and overrides by dotted
key."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from scaling.errors import ConfigError, nearest

_HUGE = 10**308
"""Upper bound of the numbers in a config; larger ones are not floats."""

T = TypeVar("T")

type_hints = functools.cache(typing.get_type_hints)  # a spec may have 1e5 runs


# ------------------------------------------------------------------ parts


class Part:
    """A part of a config. Values are coerced to the types of their fields, or rejected."""

    prefix = ""
    """Prefix of its fields in dotted keys, such as 'model.'."""

    def __post_init__(self) -> None:
        values = self.__dict__
        for name, hint, kinds, options in own_fields(type(self)):
            value = values[name]
            kind = type(value)
            if kind in kinds or (kind is str and value in options):
                continue
            try:
                values[name] = coerce(value, hint)  # a frozen dataclass does not allow setattr
            except ConfigError as error:
                raise ConfigError(f"{self.prefix}{name}: {error}") from None
        self.check()

    def check(self) -> None:
        """Raise ConfigError for values that are invalid, individually or in combination."""


class IdentifyingPart(Part):
    """A part of a config whose fields identify the run."""

    def identity(self) -> dict[str, Any]:
        """Return the fields that identify a run, each in its canonical spelling.

        A part leaves out fields that have no effect, and replaces a value equivalent to the default
        by the default.
        """
        return {name: self.__dict__[name] for name, *_ in own_fields(type(self))}

    @functools.cached_property
    def canonical(self) -> Mapping[str, Any]:
        """{dotted key: value} of the :meth:`identity`, without defaults."""
        defaults = leaves(type(self))
        values = self.identity().items()
        return {f"{self.prefix}{key}": value for key, value in values if value != defaults[key][1]}

    @functools.cached_property
    def canonical_text(self) -> str:
        """The canonical fields as items of a JSON object, built once for all runs with this
        part."""
        return json.dumps(self.canonical, sort_keys=True, separators=(",", ":"))[1:-1]


@functools.cache
def own_fields(cls: type) -> tuple[tuple[str, Any, frozenset[type], tuple[Any, ...]], ...]:
    """Return the fields of a part that are not parts themselves.

    Each is (name, type, types whose values need no coercion, words that need none).
    """
    found = []
    for name, hint in type_hints(cls).items():
        if not dataclasses.is_dataclass(hint):
            origin, options = _origin_and_options(hint)
            words = options if origin is Literal else ()
            kinds = frozenset({hint, *(() if words else options)} & {int, bool, str, type(None)})
            found.append((name, hint, kinds, words))
    return tuple(found)


# ------------------------------------------------------------------ values


def check_seed(part: Part, name: str) -> None:
    """Raise ConfigError if a field cannot be the seed of a random generator."""
    value = getattr(part, name)
    if not 0 <= value < 2**63:
        raise ConfigError(f"{part.prefix}{name}={value} must lie between 0 and 2^63 - 1.")


def check_positive(part: Part, *names: str) -> None:
    """Raise ConfigError if one of these fields is given and is not positive."""
    for name in names:
        value = getattr(part, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{part.prefix}{name}={value} must be positive.")


def nearest_divisor(number: int, wanted: int) -> int:
    """Return a divisor of `number` near `wanted`, for a message; 1 if none is within 100,000."""
    first, far = min(wanted, number), 100_000
    below = next((h for h in range(first, max(0, first - far), -1) if number % h == 0), 1)
    last = min(2 * wanted, number, wanted + far)
    above = next((h for h in range(wanted, last) if number % h == 0), below)
    return min(below, above, key=lambda h: abs(h - wanted))


@functools.cache
def _origin_and_options(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def coerce(value: Any, hint: Any) -> Any:
    """Return `value` as type `hint`, without guessing: an int may be 1e6, but not '8' or True."""
    origin, options = _origin_and_options(hint)
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
            return float(value) + 0.0  # -0.0 becomes 0.0
    elif hint is str and isinstance(value, str):
        return value
    raise ConfigError(f"{_short(value)} is not {getattr(hint, '__name__', hint)}.")


def _short(value: Any) -> str:
    """Return a value as shown in messages; Python does not print integers of thousands of
    digits."""
    huge = isinstance(value, int) and abs(value) >= _HUGE
    return "a number with hundreds of digits" if huge else repr(value)


# ------------------------------------------------------------------ dotted keys


@functools.cache
def leaves(cls: type, prefix: str = "") -> Mapping[str, tuple[Any, Any]]:
    """Return every leaf of a config class: {dotted key: (type, default)}."""
    found: dict[str, tuple[Any, Any]] = {}
    hints = type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found |= leaves(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = (hint, field.default)
    return found


@functools.cache
def parts_of(cls: type) -> Mapping[str, type]:
    """Return {name: class} of the parts of a config class."""
    hints = type_hints(cls).items()
    return {name: typing.cast(type, hint) for name, hint in hints if dataclasses.is_dataclass(hint)}


def override(
    config: T, changes: Mapping[str, Any], *, where: str, synonyms: Mapping[str, str]
) -> T:
    """Return a copy of `config` with {dotted key: value} changed; nested tables are accepted.

    Raises ConfigError for an unknown key, with a suggestion that takes `synonyms`, {word: dotted
    key}, into account, and for a value of another type. The message begins with `where`.
    """
    cls, begin = type(config), f"{where}: " if where else ""
    known = leaves(cls)
    changed: dict[str, dict[str, Any]] = {}
    for key, value in _dotted(changes).items():
        if key not in known:
            raise ConfigError(f"{begin}{unknown_key(cls, key, synonyms)}")
        try:
            part, _, name = key.rpartition(".")
            changed.setdefault(part, {})[name] = coerce(value, known[key][0])
        except ConfigError as error:
            raise ConfigError(f"{begin}{key}: {error}") from None
    try:
        own = changed.pop("", {})
        parts = {
            part: _changed(getattr(config, part), tuple(sorted(values.items())))
            for part, values in changed.items()
        }
        return dataclasses.replace(typing.cast(Any, config), **parts, **own)
    except ConfigError as error:
        raise ConfigError(f"{begin}{error}") from None


@functools.lru_cache(maxsize=4096)
def _changed(part: Any, values: tuple[tuple[str, Any], ...]) -> Any:
    """Return a part with other values; runs with the same values share one object."""
    return dataclasses.replace(part, **dict(values))


def unknown_key(cls: type, key: str, synonyms: Mapping[str, str]) -> str:
    """Return a one-line message that `key` is not a field, with the nearest field."""
    parent, _, name = key.rpartition(".")
    known = list(leaves(cls))
    guess = synonyms.get(name)
    if guess == key or guess not in known:
        by_name = {leaf.rpartition(".")[2]: leaf for leaf in known}
        near = nearest(name, by_name)
        guess = by_name[near] if near else None
    message = f"{parts_of(cls).get(parent, cls).__name__} has no field {name!r} (in {key!r})."
    if guess is None:
        return f"{message} The fields are {', '.join(known)}."
    same_part = guess.rpartition(".")[0] == parent
    return f"{message} Did you mean {guess.rpartition('.')[2] if same_part else guess!r}?"


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as {dotted key: value}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
