"""Parameters and training FLOPs of any model and run, custom model families included.

The closed forms of scaling/count.py serve the built-in families. A custom family is code in a file,
and only building the model shows its size. That code runs only after :func:`allow`, because a table
or results folder from an untrusted source may name a family.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.command_run import CommandRun, Run
from scaling.config import RunConfig
from scaling.count import (
    CONVENTIONS,
    FLOP_COLUMNS,
    Parameters,
    closed_form_flops_per_token,
    closed_form_parameters,
)
from scaling.errors import ConfigError
from scaling.files import code_file
from scaling.model_config import FAMILIES, ModelConfig


@dataclass(frozen=True)
class OwnSizes:
    """Sizes of a model of a custom family."""

    parameters: Parameters
    flops: Mapping[str, float]
    """{convention: training FLOPs per token}: '6N' and 'matmul'."""


_allowed: set[Path] = set()
_remembered: dict[tuple[ModelConfig, int], OwnSizes] = {}


# ------------------------------------------------------------------ sizes of a run


def parameters_of(run: RunConfig) -> Parameters:
    """Return the exact parameter counts of a run's model. Raises as :func:`parameters` does."""
    return parameters(run.model, run.data.vocab_size)


def flops_per_token_of(run: RunConfig, convention: str = "6N") -> float:
    """Return a run's training FLOPs per token. Raises as :func:`flops_per_token` does."""
    return flops_per_token(run.model, run.data.vocab_size, convention)


def flops_of(run: Run, convention: str = "6N") -> float:
    """Return the training FLOPs of a whole run: FLOPs per token times D.

    Those of a command are 6 N D by the convention '6N'; nan if its N is not known.
    """
    if isinstance(run, CommandRun):
        return math.nan if run.N is None or convention != "6N" else 6.0 * run.N * run.D
    return flops_per_token_of(run, convention) * run.D


def N_of(run: Run) -> int | None:
    """Return the non-embedding parameters of a run; None if only its command knows them."""
    return run.N if isinstance(run, CommandRun) else parameters_of(run).N


def work_of(run: Run) -> float:
    """Return what progress is measured in (:func:`unit_of`): 6 N D FLOPs, or D if N is unknown."""
    C = flops_of(run)
    return float(run.D) if math.isnan(C) else C


def unit_of(runs: Iterable[Run]) -> str:
    """Return the unit of :func:`work_of` for the runs of a sweep, as it follows a number."""
    first = next(iter(runs), None)
    return " tokens" if isinstance(first, CommandRun) and first.N is None else "FLOPs"


def size_columns(run: RunConfig, step: int | None = None) -> dict[str, Any]:
    """Return the columns of a run's row that follow from its config alone: N, D, C, ...

    D, C and S are the values after `step` optimiser steps, by default all of them.
    """
    count = parameters_of(run)
    step = run.S if step is None else step
    D = run.tokens_at(step)
    flops = {c: flops_per_token_of(run, name) * D for c, name in FLOP_COLUMNS.items()}
    sizes = {"N": count.N, "N_total": count.N_total, "D": D} | flops
    predicted = run.model.predicted
    if run.classify.labels:  # the language-model loss has no target at the last token
        predicted = run.model.n_ctx - 1 if run.classify.lm_weight else 0
    sizes["D_predicted"] = D // run.model.n_ctx * predicted
    return sizes | {"B": run.batch_tokens, "S": step, "vocab_size": run.data.vocab_size}


# ------------------------------------------------------------------ sizes of a model


def parameters(model: ModelConfig, vocab_size: int) -> Parameters:
    """Return the exact parameter counts of the model as built.

    Raises ConfigError for a custom family that cannot be built, or whose code is not allowed and
    whose sizes are not known (:func:`allow`, :func:`remember`).
    """
    if model.family not in FAMILIES:
        return own_sizes(model, vocab_size).parameters
    return closed_form_parameters(model, vocab_size)


def flops_per_token(model: ModelConfig, vocab_size: int, convention: str = "6N") -> float:
    """Return the training FLOPs per token (forward and backward), by one of :data:`CONVENTIONS`.

    A parameter that is used r times per token counts r times. For a custom family only '6N' (each
    parameter once) and 'matmul' (by torch's counter) are defined; the others are nan.
    """
    if convention not in CONVENTIONS:
        raise ConfigError(
            f"unknown FLOP convention {convention!r}; the conventions are {', '.join(CONVENTIONS)}."
        )
    if model.family not in FAMILIES:
        return own_sizes(model, vocab_size).flops.get(convention, math.nan)
    return closed_form_flops_per_token(model, vocab_size, convention)


# ------------------------------------------------------------------ custom families


def allow(family: str) -> None:
    """Allow a family's code to run in this process, because the user asked to train it."""
    if family not in FAMILIES:
        _allowed.add(code_file(family))


def is_allowed(family: str) -> bool:
    """Return whether a family is built in, or its code may run in this process."""
    return family in FAMILIES or code_file(family) in _allowed


def remember(model: ModelConfig, vocab_size: int, sizes: OwnSizes) -> None:
    """Use these sizes for a model whose code is not allowed to run here."""
    _remembered[model, vocab_size] = sizes


def own_sizes(model: ModelConfig, vocab_size: int) -> OwnSizes:
    """Return the sizes of a model of a custom family. Raises as :func:`parameters` does."""
    if is_allowed(model.family):
        return _built(model, vocab_size)
    if found := _remembered.get((model, vocab_size)):
        return found
    raise ConfigError(
        f"model.family={model.family!r}: its sizes cannot be known without running its code, which "
        f"is not allowed here. A sweep runs the code beside its spec, or that of --allow-code "
        f"{model.family.rpartition(':')[0]}; from Python, call scaling.size.allow first."
    )


@functools.cache
def _built(model: ModelConfig, vocab_size: int) -> OwnSizes:
    from scaling.model import build  # imports torch

    built = build(model, vocab_size)
    count = built.count()
    return OwnSizes(count, {"6N": 6.0 * count.N, "matmul": 3.0 * built.forward_flops()})
