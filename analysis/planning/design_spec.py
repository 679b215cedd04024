"""Designed runs as a TOML spec, and the expectation that it records."""

from __future__ import annotations

import contextlib
import json
import typing
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import pandas as pd

from scaling.config import ModelConfig, fields_of
from scaling.errors import ConfigError


class Point(NamedTuple):
    """A run that is to be trained."""

    model: ModelConfig
    N: int
    D: float
    seed: int = 0

    @property
    def C(self) -> float:
        """Training FLOPs, 6 N D."""
        return 6.0 * self.N * self.D


NOTE = "expected: "
"""Begins the comment of a spec that holds the expectation."""


def expected(toml: str) -> dict[str, Any]:
    """Return what a design's TOML recorded: target, law, value, half_width, level, ...

    Raises ConfigError for a TOML that was not written by a design.
    """
    for line in toml.splitlines():
        if line.startswith(f"# {NOTE}"):
            return json.loads(line[len(NOTE) + 2 :])
    raise ConfigError(f"this spec was not written by a design: it has no line '# {NOTE}{{...}}'.")


def shared_fields(runs: pd.DataFrame) -> dict[str, Any]:
    """Return the fields of RunConfig that all runs share and that differ from the defaults.

    A field is found by the last part of its name among the columns. Sizes, horizon and seed are
    left out, because the design chooses them.
    """
    base: dict[str, Any] = {}
    chosen = (
        "model.n_layer",
        "model.d_model",
        "model.n_head",
        "model.d_ff",
        "tokens",
        "seed",
        "tag",
    )
    for key, (hint, default) in fields_of().items():
        column = "B" if key == "batch_tokens" else key.rpartition(".")[2]
        if key in chosen or column not in runs.columns:
            continue
        values = runs[column].dropna().unique()
        if len(values) != 1 or runs[column].isna().any() or is_dataclass(default):
            continue
        value = values[0].item() if hasattr(values[0], "item") else values[0]
        types = (hint, *typing.get_args(hint))
        if isinstance(value, str) and float in types:
            with contextlib.suppress(ValueError):  # in a column with rules, numbers are text
                value = float(value)
        if isinstance(value, float) and value.is_integer() and int in types:
            value = int(value)
        if value != default:
            base[key] = value
    return base


def run_fields(p: Point) -> str:
    """Return a run's fields as the content of an inline table."""
    default = ModelConfig()
    values = {"model.n_layer": p.model.n_layer, "model.d_model": p.model.d_model}
    values |= {"model.n_head": p.model.n_head, "tokens": int(p.D), "seed": p.seed}
    if p.model.d_ff is not None and p.model.d_ff != default.d_ff:
        values["model.d_ff"] = p.model.d_ff
    return ", ".join(f"{key} = {toml_value(value)}" for key, value in values.items())


def toml_value(value: Any) -> str:
    """Return a boolean, number or string as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)
