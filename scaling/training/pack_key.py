"""Keys of the runs that can train in one pack and of those that share their first steps."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields
from operator import attrgetter

from scaling.config import ModelConfig, RunConfig, canonical
from scaling.training.schedule import cooldown_steps, peaks, warmup_steps

SHARED = (
    *(f"model.{f.name}" for f in fields(ModelConfig)),
    "data.corpus",
    "data.tokenizer",
    "data.max_bytes",
    "eval.test_tokens",
    "eval.noise_parts",
    "optim.z_loss",
    "optim.batch_warmup_tokens",
    "batch_tokens",
    "precision",
)
"""Fields in which the runs of a pack agree; seed, learning rate, horizon and subset may differ."""

pack_key = attrgetter("model", *(key for key in SHARED if not key.startswith("model.")))
"""The values of :data:`SHARED`, hashable: equal for runs that can train in one pack."""


def branch_step(run: RunConfig) -> int:
    """Return the number of steps for which the learning rate does not depend on the run's horizon.

    A wsd run branches off where its cooldown begins, a constant one at its end.
    """
    if run.optim.schedule == "wsd":
        return run.S - cooldown_steps(run)
    return run.S


def trunk(run: RunConfig) -> Hashable:
    """Return a key that is equal for runs with the same parameters until one of them branches off.

    Such runs differ only in horizon, cooldown and evaluations (:func:`branch_step`). If a warm-up
    or a learning-rate rule depends on the horizon, runs of different horizons share no trunk.
    """
    common = canonical(run)
    for key in ("tokens", "eval.points", "eval.others", "eval.patience", "optim.cooldown_fraction"):
        common.pop(key, None)
    independent = run.optim.schedule in ("wsd", "constant")
    return (
        tuple(sorted((key, repr(value)) for key, value in common.items())),
        warmup_steps(run),
        peaks(run),
        None if independent else run.S,
    )
