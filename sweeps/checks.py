"""Checks before anything trains: of the workers asked for, and of every run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import DataConfig, RunConfig
from scaling.errors import ConfigError
from scaling.execution import Execution

if TYPE_CHECKING:
    from scaling.data.corpus import TokenFiles


TEXT_FIELDS = [f.name for f in fields(DataConfig) if f.name not in ("unique_tokens", "data_seed")]
"""What makes token files, from which subsets are drawn."""


@dataclass
class Text:
    """The token files that runs share."""

    data: DataConfig
    files: TokenFiles
    others: dict[str, Path] = field(default_factory=dict)
    """{corpus: test split in these tokens} of all eval.others."""


def check_run(
    run: RunConfig, texts: dict[tuple[Any, ...], Text], checked: set[tuple[Any, ...]]
) -> None:
    """Raise ConfigError where training would: rates, text, subset or test windows that cannot be.

    `texts` and `checked` remember what earlier runs share with this one.
    """
    from scaling.data import corpus
    from scaling.data.windows import TrainTokens, held_out_windows
    from scaling.training.schedule import peaks

    try:
        peaks(run)
    except OverflowError:
        raise ConfigError(
            f"optim.lr={run.optim.lr!r} overflows at this run's N, D and B; use smaller powers."
        ) from None
    key = tuple(getattr(run.data, name) for name in TEXT_FIELDS)
    if key not in texts:
        texts[key] = Text(run.data, corpus.prepare(run.data))
    files, others = texts[key].files, texts[key].others
    n_ctx, test_tokens = run.model.n_ctx, run.eval.test_tokens
    if (subset := (run.data, n_ctx)) not in checked:
        TrainTokens(files, run.data, n_ctx)
    if (test := (key, n_ctx, test_tokens)) not in checked:
        held_out_windows(files.test, test_tokens, n_ctx)
    for name in run.eval.other_corpora:
        if name != run.data.corpus and name not in others:
            others[name] = files.test_of(name)
    checked |= {subset, test}


def check_workers(
    workers: int, execution: Execution, in_process: bool, address: str | None = None
) -> int:
    """How many workers will run. ConfigError where this machine has too few cores for them, or is one
    where several nodes are asked for."""
    _positive(workers, "workers")
    if execution.nodes > 1 and in_process:
        raise ConfigError(
            f"nodes={execution.nodes}, but in_process trains on this machine only. Give the address of a "
            "Ray cluster instead; or train one run, without Ray, with `torchrun --nnodes "
            f"{execution.nodes} ... -m scaling.cli train` on every node (docs/cluster.md)."
        )
    if execution.nodes > 1 and execution.compile:
        raise ConfigError(
            f"compile is decided by measurements, which are not made with nodes={execution.nodes}; "
            "leave it out."
        )
    workers = 1 if in_process else workers
    ray = sys.modules.get("ray")
    if address or (ray is not None and ray.is_initialized() and not in_process):
        return workers  # the cluster says what it has
    if execution.nodes > 1:
        raise ConfigError(
            f"nodes={execution.nodes}, but without an address the sweep has this machine only. Start Ray "
            "on the nodes and give --address host:port, or auto (docs/cluster.md)."
        )
    # Not every system can say which of its cores this process may use.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    each, devices = execution.threads * execution.devices, execution.devices
    if workers * each > cores:
        several = f" on devices={devices}" if devices > 1 else ""
        raise ConfigError(
            f"workers={workers} of threads={execution.threads}{several} take {workers * each} cores, "
            f"but this process may use {cores}; ask for fewer workers, or for fewer threads each."
        )
    return workers


def _positive(value: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1.")
