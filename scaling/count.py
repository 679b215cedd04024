"""Exact parameter counts and training FLOPs of a model, in each published convention.

These are closed forms in the shape of the model alone. The tests compare them with the built
model's ``numel()`` and with torch's FlopCounterMode. For custom model families see scaling/size.py.
Imports nothing heavy.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from scaling.model_config import ModelConfig

CONVENTIONS = {
    "6N": "C = 6 N D: forward 2N, backward 4N (Kaplan et al. 2020, eq. 2.2 without context); "
    "parameters count once per use",
    "kaplan": "3 (2N + 2 n_layer n_ctx d_attn) per token, matrices only "
    "(Kaplan et al. 2020, Table 1 and eq. 2.2); twice the attention for an encoder, which is not "
    "causal",
    "chinchilla": "embedding, attention with softmax, dense and logits, backward = 2 forward "
    "(Hoffmann et al. 2022, appendix F)",
    "matmul": "every matrix product of the model as built, attention unmasked, and output layer",
}
"""Training-FLOP conventions by name."""

FLOP_COLUMNS = {
    "C": "6N",
    "C_kaplan": "kaplan",
    "C_chinchilla": "chinchilla",
    "C_matmul": "matmul",
}
"""Columns of the results table that hold training FLOPs, and the convention of each."""


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of one model."""

    N: int
    """Non-embedding: everything but token and position embeddings and the output layer."""
    N_kaplan: int
    """Matrices only; 2 d_model n_layer (2 d_attn + d_ff) for the plain decoder (Kaplan et al. 2020,
    eq. 2.1)."""
    embedding: int
    """Token and position embeddings."""
    head: int
    """Output layer; 0 if it is tied to the token embedding."""

    @property
    def N_total(self) -> int:
        """All parameters."""
        return self.N + self.embedding + self.head


@functools.lru_cache(maxsize=4096)  # a sweep asks for each model many times
def closed_form_parameters(model: ModelConfig, vocab_size: int) -> Parameters:
    """Return the parameter counts of a built-in family, from its shape."""
    d, f, kv = model.d_model, model.ff_width, model.kv_width
    embedding, head = (vocab_size + model.special_tokens) * d, 0 if model.tied else vocab_size * d
    if model.next_sentence:
        embedding += 2 * d
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


@functools.lru_cache(maxsize=4096)
def closed_form_flops_per_token(model: ModelConfig, vocab_size: int, convention: str) -> float:
    """Return the training FLOPs per token of a built-in family, by one of :data:`CONVENTIONS`."""
    d, ctx = model.d_model, model.n_ctx
    count = closed_form_parameters(model, vocab_size)
    blocks = 0 if model.family == "lstm" else model.n_layer * model.n_repeat  # with attention
    repeat = 1 if model.family == "lstm" else model.n_repeat
    matrices = 2 * count.N_kaplan * repeat
    embed = 2 * vocab_size * d
    output = embed * model.predicted / ctx  # an encoder's output layer reads masked positions only
    if convention == "6N":
        return 6.0 * (count.N + (repeat - 1) * (count.N - _norm(model)))  # the last norm runs once
    if convention == "kaplan":
        return 3.0 * (matrices + (4 if model.masked else 2) * blocks * ctx * d)
    if convention == "matmul":
        return 3.0 * (matrices + 4 * blocks * ctx * d + output)
    attention = 2 * ctx * d + 3 * model.n_head * ctx + 2 * ctx * d  # scores, softmax, reduction
    return 3.0 * (embed + matrices + blocks * attention + output)


def _norm(model: ModelConfig) -> int:
    return model.d_model * (2 if model.norm == "layernorm" and model.bias else 1)
