"""Exact parameters and training FLOPs of a model, in each published convention.

Closed forms of the shape alone; the tests hold them against the built model's ``numel()`` and
torch's FlopCounterMode. Imports nothing heavy.

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

from scaling.config import FAMILIES, ConfigError, ModelConfig

PF_DAY = 1e15 * 86_400
"""FLOPs in one PF-day (Kaplan et al. 2020, section 1.3: 8.64e19)."""

CONVENTIONS = {
    "6N": "C = 6 N D: forward 2N, backward 4N (Kaplan et al. 2020, eq. 2.2 without context); "
    "parameters count once for each use",
    "kaplan": "3 (2N + 2 n_layer n_ctx d_attn) a token, matrices only "
    "(Kaplan et al. 2020, Table 1 and eq. 2.2)",
    "chinchilla": "embedding, attention with softmax, dense and logits, backward = 2 forward "
    "(Hoffmann et al. 2022, appendix F)",
    "matmul": "every matrix product of the model as built, attention unmasked, and the output layer",
}
"""Training-FLOP conventions by name."""


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of one shape."""

    N: int
    """Non-embedding: everything but token and position embeddings and the output layer."""
    N_kaplan: int
    """Matrices only; of the plain decoder 2 d_model n_layer (2 d_attn + d_ff) (Kaplan et al. 2020,
    eq. 2.1)."""
    embedding: int
    """Token and position embeddings."""
    head: int
    """Output layer; 0 where it is tied to the token embedding."""

    @property
    def N_total(self) -> int:
        return self.N + self.embedding + self.head


def parameters(model: ModelConfig, vocab_size: int) -> Parameters:
    """Exact counts of the model as built.

    Raises ConfigError for a family of one's own that cannot be built, or whose code is not allowed and
    whose sizes nobody has told (:func:`allow`, :func:`remember`).
    """
    if model.family not in FAMILIES:
        return own_sizes(model, vocab_size).parameters
    return _parameters(model, vocab_size)


@functools.lru_cache(maxsize=4096)  # a sweep asks for each shape many times
def _parameters(model: ModelConfig, vocab_size: int) -> Parameters:
    d, f, kv = model.d_model, model.ff_width, model.kv_width
    embedding, head = vocab_size * d, 0 if model.tied else vocab_size * d
    if model.family == "lstm":  # four gates, each with an input and a recurrent matrix and a bias
        matrices = model.n_layer * 4 * 2 * d * d
        return Parameters(matrices + model.n_layer * 4 * d, matrices, embedding, head)
    up = f if model.activation == "gelu" else 2 * f
    norm = _norm(model)
    matrices = 2 * d * d + 2 * d * kv + (up + f) * d  # query and projection, key and value
    vectors = 2 * norm
    if model.bias:
        vectors += d + 2 * kv + d + up + d
    if model.qk_norm:
        vectors += 2 * model.head_width
    return Parameters(
        N=model.n_layer * (matrices + vectors) + norm,
        N_kaplan=model.n_layer * matrices,
        embedding=embedding + (model.n_ctx * d if model.position == "learned" else 0),
        head=head,
    )


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
    return _flops_per_token(model, vocab_size, convention)


@functools.lru_cache(maxsize=4096)
def _flops_per_token(model: ModelConfig, vocab_size: int, convention: str) -> float:
    d, ctx = model.d_model, model.n_ctx
    count = parameters(model, vocab_size)
    blocks = model.n_layer * model.n_repeat if model.family == "decoder" else 0  # with attention
    repeat = model.n_repeat if model.family == "decoder" else 1
    matrices = 2 * count.N_kaplan * repeat
    embed = 2 * vocab_size * d
    if convention == "6N":
        return 6.0 * (count.N + (repeat - 1) * (count.N - _norm(model)))  # the last norm works once
    if convention == "kaplan":
        return 3.0 * (matrices + 2 * blocks * ctx * d)
    if convention == "matmul":
        return 3.0 * (matrices + 4 * blocks * ctx * d + embed)
    attention = 2 * ctx * d + 3 * model.n_head * ctx + 2 * ctx * d  # scores, softmax, reduction
    return 3.0 * (embed + matrices + blocks * attention + embed)


def _norm(model: ModelConfig) -> int:
    return model.d_model * (2 if model.norm == "layernorm" and model.bias else 1)


# ------------------------------------------------------------------ families of one's own


@dataclass(frozen=True)
class OwnSizes:
    """Sizes of a model of one's own family."""

    parameters: Parameters
    flops: Mapping[str, float]
    """{convention: training FLOPs per token}: '6N' and 'matmul'."""


_allowed: set[Path] = set()
_told: dict[tuple[ModelConfig, int], OwnSizes] = {}


def code_file(reference: str) -> Path:
    """The file of a family or law such as 'my.py:Name', from the current folder."""
    path = reference.rpartition(":")[0] if ".py:" in reference else reference
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:  # an unknown user, a loop of links
        raise ConfigError(f"{reference!r} names no file: {error}.") from None


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
        f"{model.family.rpartition(':')[0]}; from Python, call scaling.count.allow first."
    )


@functools.cache
def _built(model: ModelConfig, vocab_size: int) -> OwnSizes:
    from scaling.model import build  # imports torch

    built: Any = build(model, vocab_size)
    size: Parameters = built.count()
    return OwnSizes(size, {"6N": 6.0 * size.N, "matmul": 3.0 * built.forward_flops()})
