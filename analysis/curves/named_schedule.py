"""A schedule as a user writes it: cosine:peak=3e-4,warmup=2000,steps=72000."""

from __future__ import annotations

import math
from typing import Any, get_args

from scaling.config import RunConfig, fields_of, from_dict
from scaling.errors import ConfigError, did_you_mean
from scaling.units import number

EXAMPLE = "cosine:peak=3e-4,warmup=2000,steps=72000"
_ALIASES = {
    "final": "final_fraction", "cooldown": "cooldown_fraction", "decay": "cooldown_fraction"
}  # fmt: skip
_CONTEXT = 2
"""Tokens per step of the config that stands for the schedule; steps are what matters."""


def parse_schedule(text: str) -> RunConfig:
    """Return a run with this schedule, one that has the steps, the warm-up and the peak it names.

    The kinds are those of optim.schedule. `peak` is the highest learning rate, `warmup` and `steps`
    count steps; other settings are those of the config, such as final_fraction (or final) and
    cooldown_fraction (or cooldown), as fractions. Raises ConfigError.
    """
    kind, _, rest = text.partition(":")
    kind = kind.strip()
    kinds = get_args(fields_of()["optim.schedule"][0])
    if kind not in kinds:
        raise ConfigError(
            f"--lr-schedule {text!r}: there is no schedule {kind!r}.{did_you_mean(kind, kinds)} "
            f"Give one of {', '.join(kinds)}, such as {EXAMPLE}."
        )
    given: dict[str, Any] = {}
    for pair in filter(str.strip, rest.split(",")):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (equals and name and value):
            raise ConfigError(
                f"--lr-schedule {text!r}: {pair.strip()!r} is not NAME=VALUE. Write {EXAMPLE}."
            )
        given[_ALIASES.get(name, name)] = _value(text, name, value)
    if lacking := [name for name in ("peak", "steps") if name not in given]:
        raise ConfigError(
            f"--lr-schedule {text!r} lacks {' and '.join(lacking)}: give the peak learning rate "
            f"and the number of steps, as in {EXAMPLE}."
        )
    return _run(text, kind, given)


def _run(text: str, kind: str, given: dict[str, Any]) -> RunConfig:
    peak, steps, warmup = given.pop("peak"), given.pop("steps"), given.pop("warmup", 0.0)
    for name, value in (("peak", peak), ("steps", steps)):
        if not (isinstance(value, float) and math.isfinite(value) and value > 0):
            raise ConfigError(f"--lr-schedule {text!r}: {name}={value} must be a positive number.")
    if not (isinstance(warmup, float) and 0 <= warmup < steps):
        raise ConfigError(
            f"--lr-schedule {text!r}: warmup={warmup} must be a number of steps below "
            f"steps={steps:g}."
        )
    known = [key.partition(".")[2] for key in fields_of() if key.startswith("optim.")]
    if unknown := next((name for name in given if name not in known), None):
        options = ["peak", "warmup", "steps", *_ALIASES, *known]
        raise ConfigError(
            f"--lr-schedule {text!r}: no schedule has {unknown!r}.{did_you_mean(unknown, options)}"
        )
    whole, first = round(steps), round(warmup)
    settings = {f"optim.{name}": value for name, value in given.items()}
    try:
        return from_dict(
            {
                "model.n_ctx": _CONTEXT,
                "eval.test_tokens": _CONTEXT,
                "batch_tokens": _CONTEXT,
                "tokens": whole * _CONTEXT,
                "optim.schedule": kind,
                "optim.lr": peak,
                "optim.warmup_tokens": first * _CONTEXT,
                **settings,
            }
        )
    except ConfigError as error:
        raise ConfigError(f"--lr-schedule {text!r}: {error}") from None


def _value(text: str, name: str, value: str) -> Any:
    default = fields_of().get(f"optim.{_ALIASES.get(name, name)}", (None, 0.0))[0]
    if str in (default, *get_args(default)) and default is not None:
        return value
    try:
        return float(number(value))
    except ValueError:
        raise ConfigError(f"--lr-schedule {text!r}: {name}={value} is not a number.") from None
