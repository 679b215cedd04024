"""Keys of the runs that can train in one pack and of those that share their first steps."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields
from operator import attrgetter

from scaling.config import ModelConfig, RunConfig, canonical
from scaling.training.schedule import (
    cooldown_steps,
    cycle,
    drop_steps,
    optimizer_settings,
    peaks,
    warmup_steps,
)

SHARED = (
    *(f"model.{f.name}" for f in fields(ModelConfig)),
    "data.corpus",
    "data.tokenizer",
    "data.tokenizer_of",
    "data.max_bytes",
    "classify.labels",
    "classify.lm_weight",
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


_INDEPENDENT = ("wsd", "constant", "wsd-s", "step")
"""Schedules that do not depend on the horizon until a run branches off."""

_OF_THE_END = (
    "tokens",
    "eval.points",
    "eval.others",
    "eval.patience",
)
"""Fields that act only at the end of a run, or not on its parameters."""

_OF_THE_BRANCH = {
    "wsd": ("optim.cooldown_fraction", "optim.cooldown"),
    "step": ("optim.step_fractions", "optim.step_factor"),
}
"""Fields that act only after a run has branched off, by schedule."""


def has_trunk(run: RunConfig) -> bool:
    """Return whether the first steps of a run do not depend on its horizon."""
    o = run.optim
    return o.schedule in _INDEPENDENT or (o.schedule == "cosine-restarts" and bool(o.resumes))


def branch_step(run: RunConfig) -> int:
    """Return the number of steps for which the learning rate does not depend on the run's horizon.

    A wsd run branches off where its cooldown begins, a run with the schedule step at its first
    drop, a constant one at its end. Under wsd-s and cosine-restarts with resume_tokens, the cycles
    before the last belong to the trunk, and so does the last one if resume_tokens has its end.
    """
    S, kind = run.S, run.optim.schedule
    if kind == "step":
        return min(S, *drop_steps(run))
    if kind == "wsd":
        return S - cooldown_steps(run)
    if not (has_trunk(run) and run.resume_steps) or S in run.resume_steps:
        return S
    if kind == "cosine-restarts":
        return min(S, cycle(run, S - 1)[0])
    # Another run's cooldown on the trunk may begin before this run's own.
    ends = (S, *(step for step in run.resume_steps if step > S))
    return max(0, min(end - cooldown_steps(run, end) for end in ends[:2]))


def trunk(run: RunConfig) -> Hashable:
    """Return a key that is equal for runs with the same parameters until one of them branches off.

    Such runs differ only in horizon, cooldown and evaluations (:func:`branch_step`). If a warm-up
    or a rule depends on the horizon, runs of different horizons share no trunk.
    """
    common = canonical(run)
    kind, returns = run.optim.schedule, run.resume_steps if has_trunk(run) else ()
    for key in (*_OF_THE_END, *_OF_THE_BRANCH.get(kind, ())):
        common.pop(key, None)
    if returns:  # their canonical spelling depends on the horizon
        common = common | {"optim.schedule": kind, "optim.resume_tokens": returns}
    settings = optimizer_settings(run)
    return (
        tuple(sorted((key, repr(value)) for key, value in common.items())),
        warmup_steps(run),
        peaks(run),
        (settings.beta2, settings.weight_decay),
        None if has_trunk(run) else run.S,
    )
