"""Families of runs that differ in some fields alone."""

from __future__ import annotations

import functools
from typing import Any

from scaling import size
from scaling.config import RunConfig, flatten

remembered = functools.lru_cache(maxsize=2**16)
"""For what every replay asks again."""


@remembered
def size_of(run: RunConfig) -> tuple[int, int]:
    """N and D."""
    return size.parameters(run.model, run.data.vocab_size).N, run.D


@remembered
def without(run: RunConfig, *keys: str) -> tuple[Any, ...]:
    """What two runs share that differ in these fields alone ('model.' stands for the whole shape)."""
    flat = flatten(run) | {"tokens": run.D, "tag": ""}
    return tuple(
        v for k, v in flat.items() if k not in keys and f"{k.partition('.')[0]}." not in keys
    )


def family(run: RunConfig) -> tuple[Any, ...]:
    """Equal for runs that differ in their learning rate alone."""
    return without(run, "optim.lr")
