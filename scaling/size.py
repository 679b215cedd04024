"""Parameters and training FLOPs of any model, families of one's own included.

A family of one's own is code in a file, and only building it shows its sizes. A file is run here only
after :func:`allow`: names of families come with anybody's table or results folder.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.config import FAMILIES, ModelConfig
from scaling.count import (
    CONVENTIONS,
    Parameters,
    closed_form_flops_per_token,
    closed_form_parameters,
)
from scaling.errors import ConfigError
from scaling.files import code_file


def parameters(model: ModelConfig, vocab_size: int) -> Parameters:
    """Exact counts of the model as built.

    Raises ConfigError for a family of one's own that cannot be built, or whose code is not allowed and
    whose sizes nobody has told (:func:`allow`, :func:`remember`).
    """
    if model.family not in FAMILIES:
        return own_sizes(model, vocab_size).parameters
    return closed_form_parameters(model, vocab_size)


def flops_per_token(model: ModelConfig, vocab_size: int, convention: str = "6N") -> float:
    """Training FLOPs (forward and backward) for one token, by a name of :data:`CONVENTIONS`.

    A parameter that is used r times a token counts r times. For a family of one's own only '6N'
    (each parameter once) and 'matmul' (by torch's counter) are defined: nan for the others.
    """
    if convention not in CONVENTIONS:
        raise ConfigError(
            f"unknown FLOP convention {convention!r}; the conventions are {', '.join(CONVENTIONS)}."
        )
    if model.family not in FAMILIES:
        return own_sizes(model, vocab_size).flops.get(convention, math.nan)
    return closed_form_flops_per_token(model, vocab_size, convention)


@dataclass(frozen=True)
class OwnSizes:
    """Sizes of a model of one's own family."""

    parameters: Parameters
    flops: Mapping[str, float]
    """{convention: training FLOPs per token}: '6N' and 'matmul'."""


_allowed: set[Path] = set()
_told: dict[tuple[ModelConfig, int], OwnSizes] = {}


def allow(family: str) -> None:
    """Let the code of a family be run in this process: what trains it has been asked for."""
    if family not in FAMILIES:
        _allowed.add(code_file(family))


def remember(model: ModelConfig, vocab_size: int, sizes: OwnSizes) -> None:
    """Take these sizes for a model whose code is not allowed here."""
    _told[model, vocab_size] = sizes


def own_sizes(model: ModelConfig, vocab_size: int) -> OwnSizes:
    """The sizes of a model of one's own family. Raises ConfigError as :func:`parameters`."""
    if code_file(model.family) in _allowed:
        return _built(model, vocab_size)
    if found := _told.get((model, vocab_size)):
        return found
    raise ConfigError(
        f"model.family={model.family!r}: its sizes cannot be known without running its code, which is "
        f"not allowed here. A sweep runs the code beside its spec, or that of --allow-code "
        f"{model.family.rpartition(':')[0]}; from Python, call scaling.size.allow first."
    )


@functools.cache
def _built(model: ModelConfig, vocab_size: int) -> OwnSizes:
    from scaling.model import build  # imports torch

    built: Any = build(model, vocab_size)
    size: Parameters = built.count()
    return OwnSizes(size, {"6N": 6.0 * size.N, "matmul": 3.0 * built.forward_flops()})
