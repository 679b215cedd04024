"""Conditions on the fields and sizes of runs, which select runs of a spec."""

from __future__ import annotations

import contextlib
import functools
import operator
import re
import tomllib
from collections.abc import Callable
from typing import Any

from scaling import size
from scaling.config import RunConfig, fields_of, unknown_key
from scaling.errors import ConfigError
from scaling.fields import coerce
from sweeps.spec_values import check_number, refuse_huge

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}

_SIZES: dict[str, Callable[[RunConfig], float]] = {
    "N": lambda run: size.parameters_of(run).N,
    "D": lambda run: run.D,
    "C": size.flops_of,
    "B": lambda run: run.batch_tokens,
}


def condition(text: str) -> Callable[[RunConfig], bool]:
    """Return a function that tells whether a run meets the condition 'KEY OP VALUE'.

    Raises ConfigError if the text is not such a condition.
    """
    found = re.fullmatch(r"\s*([\w.]+)\s*(!=|<=|>=|=|<|>)\s*(.+?)\s*", text)
    where = f"--filter {text!r}"
    if found is None:
        raise ConfigError(
            f"{where} is not KEY OP VALUE, such as model.n_layer=2 or D<1e6, with one of "
            "= != < <= > >=."
        )
    key, sign, word = found.groups()
    value: Any = word
    with contextlib.suppress(ValueError, RecursionError):
        value = tomllib.loads(f"value = {word}")["value"]
    refuse_huge(value, f"--filter {text[:60]!r}", key)
    compare = _OPERATORS[sign]
    if key in _SIZES:
        check_number(value, f"{where}: {key}")
        return lambda run: compare(_SIZES[key](run), value)
    if key not in fields_of():
        raise ConfigError(f"{where}: {unknown_key(key)}")
    try:
        value = coerce(value, fields_of()[key][0])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None

    def holds(run: RunConfig) -> bool:
        field = functools.reduce(getattr, key.split("."), run)
        try:
            return compare(field, value)
        except TypeError:  # a rule is neither greater nor less than a number
            return False

    return holds
