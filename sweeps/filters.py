"""Conditions on the fields and sizes of runs, which select runs of a spec."""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import re
import tomllib
from collections.abc import Callable, Sequence
from typing import Any

from scaling import size
from scaling.command_run import CommandRun, Run
from scaling.config import fields_of, unknown_key
from scaling.errors import ConfigError, did_you_mean
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

_SIZES: dict[str, Callable[[Run], float | None]] = {
    "N": size.N_of,
    "D": lambda run: run.D,
    "C": size.flops_of,
    "B": lambda run: run.batch_tokens,
}


def condition(text: str, commands: Sequence[CommandRun] = ()) -> Callable[[Run], bool]:
    """Return a function that tells whether a run meets the condition 'KEY OP VALUE'.

    The keys are those of `commands`, or else the fields of RunConfig. Raises ConfigError
    if the text is not such a condition.
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
        if commands and all(math.isnan(_SIZES[key](run) or math.nan) for run in commands):
            raise ConfigError(f"{where}: {key} of these runs is not known beforehand.")
        return lambda run: _holds(compare, _SIZES[key](run), value)
    if commands:
        return _condition_on_key(key, compare, value, commands, where)
    if key not in fields_of():
        raise ConfigError(f"{where}: {unknown_key(key)}")
    try:
        value = coerce(value, fields_of()[key][0])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None

    def holds(run: Run) -> bool:
        return _holds(compare, functools.reduce(getattr, key.split("."), run), value)

    return holds


def _condition_on_key(
    key: str,
    compare: Callable[[Any, Any], bool],
    value: Any,
    commands: Sequence[CommandRun],
    where: str,
) -> Callable[[Run], bool]:
    """Return a condition on a key of commands."""
    known = {name: v for run in commands for name, v in (run.values | {"tag": run.tag}).items()}
    if key not in known:
        raise ConfigError(
            f"{where}: no key {key!r}.{did_you_mean(key, known)} Keys are "
            f"{', '.join(sorted(known))}."
        )
    if isinstance(known[key], str):
        value = str(value)
    elif isinstance(value, str) or isinstance(known[key], bool) != isinstance(value, bool):
        kind = "true or false" if isinstance(known[key], bool) else "a number"
        raise ConfigError(f"{where}: {key} is {kind}, which {value!r} is not.")

    def holds(run: Run) -> bool:
        assert isinstance(run, CommandRun)
        return _holds(compare, (run.values | {"tag": run.tag}).get(key), value)

    return holds


def _holds(compare: Callable[[Any, Any], bool], found: Any, value: Any) -> bool:
    try:
        return compare(found, value)
    except TypeError:  # a rule is neither greater nor less than a number
        return False
