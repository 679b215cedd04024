"""The config.json of a run that a command trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from scaling.command_run import CommandRun

_LISTS = {"command": tuple, "size_keys": frozenset}
"""Fields that JSON holds as lists, and their types."""


def recorded(run: CommandRun) -> dict[str, Any]:
    """Return what config.json holds of a run, without its id."""
    values = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in values.items()
    }


def from_recorded(values: Mapping[str, Any]) -> CommandRun | None:
    """Return the run of a config.json; None if it is not one of a command, or is damaged."""
    known = {f.name: values[f.name] for f in dataclasses.fields(CommandRun) if f.name in values}
    if not isinstance(known.get("command"), list) or not isinstance(known.get("keys"), dict):
        return None
    try:
        run = CommandRun(**{k: _LISTS[k](v) if k in _LISTS else v for k, v in known.items()})
        return run if _is_sound(run) and run.run_id == values.get("run_id") else None
    except (TypeError, ValueError, AttributeError):
        return None


def _is_sound(run: CommandRun) -> bool:
    """Return whether the fields of a run have the types that they must have."""
    counts = (run.D, *(n for n in (run.N, run.batch_tokens) if n is not None))
    texts = (*run.command, run.lr, run.seed_key, run.tag)
    maps = (run.keys, run.derived, run.code, run.expressions)
    return (
        all(type(count) is int and 0 <= count < 2**63 for count in counts)
        and run.batch_tokens != 0
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(each, dict) for each in maps)
        and all(isinstance(v, bool | int | float | str) for v in run.values.values())
    )
