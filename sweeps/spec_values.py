"""The keys and values of a spec's tables, checked one by one."""

from __future__ import annotations

import difflib
import reprlib
from typing import Any

from scaling.config import fields_of, from_dict, unknown_key
from scaling.errors import ConfigError

HORIZONS = ("tokens", "tokens_per_parameter", "flops")

PARTS = tuple(dict.fromkeys(key.partition(".")[0] for key in fields_of() if "." in key))
"""The tables of fields: model, data, ..."""

LARGEST = 1e300
"""Numbers of a spec lie below it, so that sizes made of them can be computed."""

_MOST_BITS = 10_000
"""Of an integer that can be written in decimal digits: Python refuses more than 4300 of them."""

_MUTUAL = (
    "model.n_head",
    "model.n_kv_head",
    "model.d_model",
    "model.n_ctx",
    "batch_tokens",
    "eval.noise_parts",
    "eval.test_tokens",
    "data.unique_tokens",
)
"""Fields of which one must divide another."""

Point = dict[str, Any]
"""{dotted key: value} of one choice along an axis; keys of one point go together."""


def refuse_huge(value: Any, where: str, key: str = "") -> None:
    """Raise ConfigError for an integer of thousands of digits: not even a message can show it."""
    if isinstance(value, dict):
        for inner, item in value.items():
            refuse_huge(item, where, f"{key}.{inner}".strip("."))
    elif isinstance(value, list):
        for item in value:
            refuse_huge(item, where, key)
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ConfigError(f"{where}: {key} is too large: a number of thousands of digits.")


class Spaced(float):
    """A value of a log-spaced range: to be rounded to what its field can be."""


def flattened(table: dict[str, Any], where: str) -> Point:
    """A base section as a point, each of its keys and types checked."""
    flat = leaves(table)
    for key, value in flat.items():
        if is_range(value):
            raise ConfigError(f"{where}: {key} is a range; ranges belong in [axes].")
        check_field(key, where)
    if len(both := [key for key in HORIZONS if key in flat]) > 1:
        raise ConfigError(f"{where}: {both[0]!r} and {both[1]!r} both set D; keep one of them.")
    check_values(flat, where)
    return flat


def check_values(point: Point, where: str) -> None:
    """Types and values of the fields taken one by one; how they agree shows in the run."""
    for key, value in point.items():
        positive = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        # These must agree with each other, which only the whole run can show.
        mutual = key in _MUTUAL
        if key in HORIZONS[1:]:
            check_number(value, f"{where}: {key}")
        elif isinstance(value, Spaced) or (mutual and positive and value < LARGEST):
            continue
        elif isinstance(value, int | float) and abs(value) >= LARGEST:
            raise ConfigError(f"{where}: {key}={as_text(value)} is too large.")
        else:
            from_dict({key: value}, where=where)


def check_number(value: Any, said: str) -> None:
    """Raise ConfigError, which begins with `said`, for what is no positive number of a size that
    can be computed with."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not (good and 0 < value < LARGEST):
        raise ConfigError(f"{said}={as_text(value)} must be a positive number, below {LARGEST:g}.")


def check_field(key: str, where: str) -> None:
    if key in fields_of() or key in HORIZONS:
        return
    if key in PARTS:
        names = [leaf.partition(".")[2] for leaf in fields_of() if leaf.startswith(f"{key}.")]
        raise ConfigError(
            f"{where}: {key} is a table of fields: {', '.join(names)}. Write it as {key} = "
            f"{{ {names[0]} = ... }}, or {key}.{names[0]} = ..."
        )
    near = difflib.get_close_matches(key, HORIZONS[1:], n=1)
    said = f"no field {key!r}. Did you mean {near[0]!r}?" if near else unknown_key(key)
    raise ConfigError(f"{where}: {said}")


def leaves(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and not is_range(value):
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def is_range(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & {"from", "to", "num"})


def as_text(value: Any) -> str:
    """A value as messages show it, however many digits it has."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return reprlib.repr(value) if isinstance(value, int) else repr(value)


def subtable(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {key}={table!r} must be a table: [{key}].")
    return table


def check_keys(values: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(names)}."
            if key in {leaf.partition(".")[0] for leaf in fields_of()}:
                hint = "Fields of runs belong in [base] or [axes]."
            raise ConfigError(f"{where}: unknown key {key!r}. {hint}")
