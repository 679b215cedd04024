"""Families of runs that differ in a few fields only."""

from __future__ import annotations

import functools
from typing import Any

from scaling import size
from scaling.config import RunConfig, flatten

remembered = functools.lru_cache(maxsize=2**16)
"""Caches a function of a run, which every replay of a search calls again."""


@remembered
def size_of(run: RunConfig) -> tuple[int, int]:
    """Return N and D of a run."""
    return size.parameters_of(run).N, run.D


@remembered
def without(run: RunConfig, *keys: str) -> tuple[Any, ...]:
    """Return the values of all fields except `keys`; 'model.' stands for the whole architecture.

    Runs that differ in these fields only give the same values.
    """
    flat = flatten(run) | {"tokens": run.D, "tag": ""}
    return tuple(
        v for k, v in flat.items() if k not in keys and f"{k.partition('.')[0]}." not in keys
    )


def family(run: RunConfig) -> tuple[Any, ...]:
    """Return a key that is equal for runs that differ in their learning rate only."""
    return without(run, "optim.lr")
