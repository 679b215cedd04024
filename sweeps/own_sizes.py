"""Sizes of models of custom families, as recorded in the manifest.

A family's sizes are known only by running its code, and commands that inspect a results folder do
not run code from it. So a sweep records the sizes that it counted. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from scaling import count, size
from scaling.config import RunConfig
from scaling.model_config import FAMILIES, ModelConfig


def record(runs: Iterable[RunConfig]) -> list[dict[str, Any]]:
    """Return the sizes of the models of custom families, as plain values."""
    models = {(run.model, run.data.vocab_size) for run in runs if run.model.family not in FAMILIES}
    records = []
    for model, vocab_size in sorted(models, key=repr):
        sizes = size.own_sizes(model, vocab_size)
        key: dict[str, Any] = {"model": dataclasses.asdict(model), "vocab_size": vocab_size}
        records.append(key | vars(sizes.parameters) | {"flops_per_token": dict(sizes.flops)})
    return records


def together(before: Any, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of two lists, each model once; anything that is not a record is left
    out."""
    old = [each for each in before if isinstance(each, dict)] if isinstance(before, list) else []
    records = {repr((each.get("model"), each.get("vocab_size"))): each for each in (*old, *new)}
    return list(records.values())


def recall(records: Any) -> None:
    """Use the sizes in a manifest for models whose code is not allowed to run here.

    Anything that is not a valid record is ignored.
    """
    for values in records if isinstance(records, list) else ():
        with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError, OverflowError):
            model = ModelConfig(**values["model"])
            names = [f.name for f in dataclasses.fields(count.Parameters)]
            numbers = [values[name] for name in (*names, "vocab_size")]
            flops = {str(k): float(v) for k, v in values["flops_per_token"].items()}
            whole = all(type(n) is int and 0 <= n < 2**63 for n in numbers)
            finite = all(math.isfinite(v) and v > 0 for v in flops.values())
            if whole and finite and values["N"] > 0 and {"6N", "matmul"} <= flops.keys():
                parameters = count.Parameters(*numbers[:-1])
                size.remember(model, values["vocab_size"], size.OwnSizes(parameters, flops))
