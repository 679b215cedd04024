"""Checks of individual keys and values in a spec's tables."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable
from typing import Any, Protocol

from scaling.command_run import Run
from scaling.config import fields_of, from_dict, unknown_key
from scaling.errors import ConfigError

HORIZONS = ("tokens", "tokens_per_parameter", "flops")
"""Keys that set the number of training tokens D: directly, as D / N, or as C = 6 N D."""

CONFIG_TABLES = tuple(dict.fromkeys(key.partition(".")[0] for key in fields_of() if "." in key))
"""The tables of a RunConfig: model, data, ..."""

LARGEST = 1e300
"""Numbers in a spec must be below this, so that sizes can be computed from them."""

_MOST_BITS = 10_000
"""Integers with more bits are rejected; Python prints no more than 4300 decimal digits."""

_DIVISIBLE = (
    "model.n_head",
    "model.n_kv_head",
    "model.d_model",
    "model.n_ctx",
    "batch_tokens",
    "eval.noise_parts",
    "eval.test_tokens",
    "data.unique_tokens",
)
"""Fields of which one must divide another, which can only be checked for a whole run."""

Point = dict[str, Any]
"""{dotted key: value} of fields that are chosen together."""


class Spaced(float):
    """A value of a log-spaced range, not yet rounded to what its field allows."""


def refuse_huge(value: Any, where: str, key: str = "") -> None:
    """Raise ConfigError for an integer of thousands of digits, which no message could show."""
    if isinstance(value, dict):
        for inner, item in value.items():
            refuse_huge(item, where, f"{key}.{inner}".strip("."))
    elif isinstance(value, list):
        for item in value:
            refuse_huge(item, where, key)
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ConfigError(f"{where}: {key} is too large: a number with thousands of digits.")


class RunKeys(Protocol):
    """The keys that the runs of a spec may have, and the runs that they make: those of our own
    trainer, or of a command."""

    models_prefix: str
    """What stands before the keys of [isoflop] models."""

    def check_key(self, key: str, where: str) -> None:
        """Raise ConfigError unless runs may have this key."""

    def check_values(self, point: Point, where: str) -> None:
        """Raise ConfigError for a value that is invalid for its key, whatever the others are."""

    def prefix(self, key: str, value: Any) -> str | None:
        """Return what stands before the keys in a list of tables with the name `key`; None if
        `value` is a list of values for this key."""

    def in_range(self, key: str, value: Spaced, ends: tuple[Any, Any]) -> Any:
        """Return a value of a log-spaced range with these ends as this key has it."""

    def run(self, values: Point, where: str, section: Callable[[str], str]) -> Run:
        """Return the run with these values. `section` tells where a key was set, for messages."""
        ...


def flattened(table: dict[str, Any], keys: RunKeys, where: str) -> Point:
    """Return a base section as one point, after checking its keys and types."""
    flat = leaves(table)
    for key, value in flat.items():
        if is_range(value):
            raise ConfigError(f"{where}: {key} is a range; ranges belong in [axes].")
        keys.check_key(key, where)
    check_one_horizon(flat, where)
    keys.check_values(flat, where)
    return flat


def check_one_horizon(keys: Any, where: str) -> None:
    """Raise ConfigError if several of `keys` set D."""
    if len(both := [key for key in HORIZONS if key in keys]) > 1:
        raise ConfigError(f"{where}: {both[0]!r} and {both[1]!r} both set D; keep one of them.")


def check_values(point: Point, where: str) -> None:
    """Raise ConfigError for a value that is invalid for its field, whatever the other fields
    are."""
    for key, value in point.items():
        positive = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if key in HORIZONS[1:]:
            check_number(value, f"{where}: {key}")
        elif isinstance(value, Spaced) or (key in _DIVISIBLE and positive and value < LARGEST):
            continue
        elif isinstance(value, int | float) and abs(value) >= LARGEST:
            raise ConfigError(f"{where}: {key}={as_text(value)} is too large.")
        else:
            from_dict({key: value}, where=where)


def check_number(value: Any, name: str) -> None:
    """Raise ConfigError, whose message begins with `name`, unless `value` is a positive number
    that sizes can be computed from."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 < value < LARGEST):
        raise ConfigError(f"{name}={as_text(value)} must be a positive number, below {LARGEST:g}.")


def check_field(key: str, where: str) -> None:
    """Raise ConfigError unless `key` is a field of runs or sets D."""
    if key in fields_of() or key in HORIZONS:
        return
    if key in CONFIG_TABLES:
        names = [leaf.partition(".")[2] for leaf in fields_of() if leaf.startswith(f"{key}.")]
        raise ConfigError(
            f"{where}: {key} is a table of fields: {', '.join(names)}. Write it as {key} = "
            f"{{ {names[0]} = ... }}, or {key}.{names[0]} = ..."
        )
    near = difflib.get_close_matches(key, HORIZONS[1:], n=1)
    message = f"no field {key!r}. Did you mean {near[0]!r}?" if near else unknown_key(key)
    raise ConfigError(f"{where}: {message}")


def leaves(table: dict[str, Any], prefix: str = "") -> Point:
    """Return {dotted key: value} of a nested table; a range counts as one value."""
    flat: Point = {}
    for key, value in table.items():
        if isinstance(value, dict) and not is_range(value):
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def is_range(value: Any) -> bool:
    """Return whether a value is a table { from, to, num }, complete or not."""
    return isinstance(value, dict) and bool(value.keys() & {"from", "to", "num"})


def as_text(value: Any) -> str:
    """Return a value as text for messages, shortened if it has many digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return reprlib.repr(value) if isinstance(value, int) else repr(value)


def subtable(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Return the table `key` among the values; empty if it is absent."""
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {key}={table!r} must be a table: [{key}].")
    return table


def check_keys(values: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    """Raise ConfigError for a key that is not one of `names`."""
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(names)}."
            if key in {leaf.partition(".")[0] for leaf in fields_of()}:
                hint = "Fields of runs belong in [base] or [axes]."
            raise ConfigError(f"{where}: unknown key {key!r}. {hint}")
