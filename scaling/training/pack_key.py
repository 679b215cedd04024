"""Which runs can train in one pack, and which share their first steps. Imports nothing heavy."""

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
"""What the runs of one pack have in common; seeds, learning rates, horizons, subsets may differ."""

shape = attrgetter("model", *(key for key in SHARED if not key.startswith("model.")))
"""Equal, and hashable, for runs that can train in one pack: the values of :data:`SHARED`."""


def parts_at(run: RunConfig) -> int:
    """Steps up to which the learning rate does not know how long the run is: a wsd run until it
    cools down, a constant one to its end."""
    if run.optim.schedule == "wsd":
        return run.S - cooldown_steps(run)
    return run.S


def trunk(run: RunConfig) -> Hashable:
    """Runs with equal trunks go through the same parameters, step by step, until the first of them
    parts (:func:`parts_at`): they differ only in how long they are, how they cool down and when
    they are measured. A warm-up, or a rule for the learning rate, that depends on the horizon
    makes a trunk of its own."""
    same = canonical(run)
    for key in ("tokens", "eval.points", "eval.others", "eval.patience", "optim.cooldown_fraction"):
        same.pop(key, None)
    free = run.optim.schedule in ("wsd", "constant")
    return (
        tuple(sorted((key, repr(value)) for key, value in same.items())),
        warmup_steps(run),
        peaks(run),
        None if free else run.S,
    )
