"""Designed runs as a TOML spec, and what was expected of them."""

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
    """One run."""

    model: ModelConfig
    N: int
    D: float
    seed: int = 0

    @property
    def C(self) -> float:
        """6 N D."""
        return 6.0 * self.N * self.D


NOTE = "expected: "


def expected(toml: str) -> dict[str, Any]:
    """What a design's TOML says was expected: target, law, value, half_width, level, ...

    Raises ConfigError for a TOML that no design wrote.
    """
    for line in toml.splitlines():
        if line.startswith(f"# {NOTE}"):
            return json.loads(line[len(NOTE) + 2 :])
    raise ConfigError(f"this spec was not written by a design: it has no line '# {NOTE}{{...}}'.")


def shared_fields(runs: pd.DataFrame) -> dict[str, Any]:
    """Fields of RunConfig on which all runs so far agree, where they are not the defaults: found by
    the last part of their names among the columns. Sizes, horizon and seed are the design's."""
    base: dict[str, Any] = {}
    own = ("model.n_layer", "model.d_model", "model.n_head", "model.d_ff", "tokens", "seed", "tag")
    for key, (_, default) in fields_of().items():
        column = "B" if key == "batch_tokens" else key.rpartition(".")[2]
        if key in own or column not in runs.columns:
            continue
        values = runs[column].dropna().unique()
        if len(values) != 1 or runs[column].isna().any() or is_dataclass(default):
            continue
        value = values[0].item() if hasattr(values[0], "item") else values[0]
        hint = fields_of()[key][0]
        if isinstance(value, str) and float in (hint, *typing.get_args(hint)):
            with contextlib.suppress(ValueError):  # a column of rules has its numbers as text
                value = float(value)
        if (
            isinstance(value, float)
            and value.is_integer()
            and int in (hint, *typing.get_args(hint))
        ):
            value = int(value)
        if value != default:
            base[key] = value
    return base


def run_fields(p: Point) -> str:
    """A run's fields as they stand in an inline table."""
    default = ModelConfig()
    words = {"model.n_layer": p.model.n_layer, "model.d_model": p.model.d_model}
    words |= {"model.n_head": p.model.n_head, "tokens": int(p.D), "seed": p.seed}
    if p.model.d_ff is not None and p.model.d_ff != default.d_ff:
        words["model.d_ff"] = p.model.d_ff
    return ", ".join(f"{key} = {toml_value(value)}" for key, value in words.items())


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)
