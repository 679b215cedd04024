"""The runs that a designed round may choose from: the sizes and horizons within those of a spec.

Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from scaling import size
from scaling.config import ModelConfig, RunConfig, canonical, flatten, from_dict
from scaling.errors import ConfigError
from sweeps.adaptive.families import size_of
from sweeps.adaptive.sizes import model_between, model_beyond

_SIZES = 12
"""Sizes to choose from; more if the spec has more."""

_HORIZONS = 13
"""Horizons to choose from at each size."""

_MODEL_FIELDS = tuple(f"model.{n}" for n in ("n_layer", "d_model", "n_head", "d_ff", "n_kv_head"))
_CHOSEN_FIELDS = (*_MODEL_FIELDS, "tokens", "seed")
"""Fields in which designed runs differ from each other."""

_ROUNDING = 1.01
"""Runs have whole steps, so they meet a limit only nearly."""


def check_same_settings(runs: Iterable[RunConfig]) -> None:
    """Raise ConfigError if runs differ in more than architecture, horizon and seed.

    It would not be known which settings a run of another size should have.
    """
    values: dict[str, set[Any]] = {}
    for run in runs:
        for key, value in flatten(run).items():
            if key not in (*_CHOSEN_FIELDS, "tag"):
                values.setdefault(key, set()).add(value)
    if differ := [key for key, found in values.items() if len(found) > 1]:
        raise ConfigError(
            "designed runs copy all settings of the spec's runs except model size, tokens and "
            f"seed, but these runs differ in {', '.join(differ)}. Give one value or rule for all, "
            "or add = 'seeds'."
        )


@functools.lru_cache(maxsize=64)
def candidates(runs: tuple[RunConfig, ...], reach: float) -> tuple[RunConfig, ...]:
    """Return one run of each size and horizon within those of `runs`.

    N, D and D / N may be up to `reach` times the largest.
    """
    like = min(runs, key=lambda run: run.seed)
    tags = {run.tag for run in runs}
    like = dataclasses.replace(like, tag=tags.pop() if len(tags) == 1 else "")
    D = sorted({run.D for run in runs})
    ratios = sorted({run.D / size_of(run)[0] for run in runs})
    most = reach**2 * max(map(size.flops_of, runs)) * _ROUNDING
    low, high = ratios[0] / _ROUNDING, reach * ratios[-1] * _ROUNDING
    step = math.log(max(1.0, reach * D[-1] / D[0])) / (_HORIZONS - 1)
    found: dict[str, RunConfig] = {}
    for model in _models(runs, reach):
        for i in range(_HORIZONS):
            tokens = round(D[0] * math.exp(i * step))
            run = dataclasses.replace(like, model=model, tokens=tokens)
            if low <= run.D / size_of(run)[0] <= high and size.flops_of(run) <= most:
                found.setdefault(digest_without_seed(run), as_recorded(run))
    return tuple(found.values())


def _models(runs: Sequence[RunConfig], reach: float) -> list[ModelConfig]:
    """Return the models of the runs and those between and beyond them, smallest first."""
    like = runs[0]

    def N(model: ModelConfig) -> int:
        return size_of(dataclasses.replace(like, model=model))[0]

    models = sorted({run.model for run in runs}, key=N)
    most = reach * N(models[-1]) * _ROUNDING
    while len(models) > 1:
        new = model_beyond(models[-2], models[-1])
        if new is None or not N(models[-1]) < N(new) <= most:
            break
        models.append(new)
    while len(models) < _SIZES:
        gaps = sorted(itertools.pairwise(models), key=lambda pair: N(pair[0]) / N(pair[1]))
        inner = ((small, model_between(small, large), large) for small, large in gaps)
        fitting = [new for small, new, large in inner if new and N(small) < N(new) < N(large)]
        if not fitting:
            break
        models = sorted([*models, fitting[0]], key=N)
    return models


# ------------------------------------------------------------------ digests


def as_recorded(run: RunConfig) -> RunConfig:
    """Return the run as it is read back from its record."""
    return from_dict(canonical(run) | {"tag": run.tag})


@functools.lru_cache(maxsize=64)
def settings_digest(run: RunConfig) -> str:
    """Return a digest of what the runs of a sweep share."""
    return digest({k: v for k, v in canonical(run).items() if k not in _CHOSEN_FIELDS})


@functools.lru_cache(maxsize=2**16)
def digest_without_seed(run: RunConfig) -> str:
    """Return a digest that is equal for runs that differ in their seeds only."""
    return digest({key: value for key, value in canonical(run).items() if key != "seed"})


def digest(value: Any) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
