"""Exact parameters and training FLOPs of a decoder, in each published convention.

Closed forms of the shape alone; the tests hold them against the built model's ``numel()`` and
torch's FlopCounterMode. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling.config import ConfigError, ModelConfig

PF_DAY = 1e15 * 86_400
"""FLOPs in one PF-day (Kaplan et al. 2020, section 1.3: 8.64e19)."""

CONVENTIONS = {
    "6N": "C = 6 N D: forward 2N, backward 4N (Kaplan et al. 2020, eq. 2.2 without context)",
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
    """2 d_model n_layer (2 d_attn + d_ff): matrices only (Kaplan et al. 2020, eq. 2.1)."""
    embedding: int
    """Token and position embeddings."""
    head: int
    """Output layer; 0 where it is tied to the token embedding."""

    @property
    def N_total(self) -> int:
        return self.N + self.embedding + self.head


def parameters(model: ModelConfig, vocab_size: int) -> Parameters:
    """Exact counts of the decoder in scaling/model.py: linear layers and norms carry biases."""
    d, f = model.d_model, model.ff_width
    attention = 4 * d * d + 4 * d  # query, key, value, projection
    feed_forward = 2 * d * f + f + d
    norms = 4 * d
    return Parameters(
        N=model.n_layer * (attention + feed_forward + norms) + 2 * d,
        N_kaplan=2 * d * model.n_layer * (2 * d + f),
        embedding=(vocab_size + model.n_ctx) * d,
        head=0 if model.tied else vocab_size * d,
    )


def flops_per_token(model: ModelConfig, vocab_size: int, convention: str = "6N") -> float:
    """Training FLOPs (forward and backward) for one token, by a name of :data:`CONVENTIONS`."""
    d, f, layers, ctx = model.d_model, model.ff_width, model.n_layer, model.n_ctx
    count = parameters(model, vocab_size)
    if convention == "6N":
        return 6.0 * count.N
    if convention == "kaplan":
        return 3.0 * (2 * count.N_kaplan + 2 * layers * ctx * d)
    if convention == "matmul":
        return 3.0 * (2 * count.N_kaplan + 4 * layers * ctx * d + 2 * d * vocab_size)
    if convention == "chinchilla":
        attention = 2 * 3 * d * d + 2 * ctx * d + 3 * model.n_head * ctx + 2 * ctx * d + 2 * d * d
        dense = 2 * (d * f + d * f)
        return 3.0 * (2 * vocab_size * d + layers * (attention + dense) + 2 * d * vocab_size)
    raise ConfigError(
        f"unknown FLOP convention {convention!r}; the conventions are {', '.join(CONVENTIONS)}."
    )
