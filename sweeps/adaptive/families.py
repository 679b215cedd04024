"""Families of runs that differ in a few fields only."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from scaling import size
from scaling.command_run import CommandRun, Run
from scaling.config import RunConfig, flatten
from sweeps.runner.derive import with_keys

remembered = functools.lru_cache(maxsize=2**16)
"""Caches a function of a run, which every replay of a search calls again."""


@remembered
def size_of(run: Run) -> tuple[int, int]:
    """Return N and D of a run; N is 0 if only its command knows it."""
    return size.N_of(run) or 0, run.D


@remembered
def without(run: Run, *keys: str) -> tuple[Any, ...]:
    """Return the values of all fields except `keys`; 'model.' stands for the whole architecture.

    Runs that differ in these fields only give the same values. For a command, 'optim.lr' stands for
    its key of the learning rate, and 'model.' and 'tokens' for the keys that N and D depend on.
    """
    if isinstance(run, CommandRun):
        left_out = {run.lr} if "optim.lr" in keys else set()
        left_out |= run.size_keys if {"model.", "tokens"} & {*keys} else set()
        return tuple(sorted((k, v) for k, v in run.keys.items() if k not in left_out))
    flat = flatten(run) | {"tokens": run.D, "tag": ""}
    return tuple(
        v for k, v in flat.items() if k not in keys and f"{k.partition('.')[0]}." not in keys
    )


def family(run: Run) -> tuple[Any, ...]:
    """Return a key that is equal for runs that differ in their learning rate only."""
    return without(run, "optim.lr")


def with_seed(run: Run, seed: int) -> Run:
    """Return the run with another seed."""
    if isinstance(run, CommandRun):
        return with_keys(run, {run.seed_key: seed})
    return dataclasses.replace(run, seed=seed)


def configs_of(runs: Mapping[str, Run]) -> dict[str, RunConfig]:
    """Return those of the runs that our own trainer trains, by id."""
    return {run_id: run for run_id, run in runs.items() if isinstance(run, RunConfig)}
