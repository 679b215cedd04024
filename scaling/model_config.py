"""The shape of a model and the family that it belongs to. Imports nothing heavy."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Any, Literal

from scaling.errors import ConfigError, did_you_mean
from scaling.fields import IdentifyingPart, check_positive, nearest_divisor

FAMILIES = {
    "decoder": "scaling.models.decoder",
    "encoder": "scaling.models.encoder",
    "lstm": "scaling.models.lstm",
}
"""Built-in model families and their modules."""
NORM_EPS = 1e-5
"""Epsilon of the norms: the default of torch's layer_norm."""
ROPE_BASE = 1e4
"""Base of the rotary position encoding (Su et al. 2021)."""
MASKED = 0.15
"""Share of the positions that an encoder predicts (Devlin et al. 2019, section 3.1)."""
_SHORTEST_MASKED = 8
"""Least context of an encoder [tokens]."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(IdentifyingPart):
    """Shape of the model. The defaults are the GPT-2-style decoder (Radford et al. 2019; Kaplan et
    al. 2020, section 2.1)."""

    prefix = "model."

    n_layer: int = 2
    """Number of transformer blocks (or LSTM layers)."""
    d_model: int = 64
    """Width of the residual stream (or of the LSTM)."""
    n_head: int = 2
    """Number of attention heads; must divide d_model."""
    d_ff: int | None = None
    """Width of the feed-forward layer. Default: 4 d_model; for swiglu, which has a third matrix,
    8/3 d_model rounded up to a multiple of 8 (Shazeer 2020)."""
    n_ctx: int = 128
    """Context length [tokens]."""
    tied: bool = True
    """Share the token embedding with the output layer."""
    family: str = "decoder"
    """Model family: decoder; encoder, which sees both sides of masked tokens and predicts these
    (BERT: Devlin et al. 2019); lstm (Kaplan et al. 2020, Fig. 7), which has no heads, blocks or
    positions; or your own, my.py:Name (see scaling/model.py)."""
    n_repeat: int = 1
    """How often the stack of blocks is applied, with the same weights. Above 1 this is a recurrent
    transformer (Dehghani et al. 2018; Kaplan et al. 2020, Fig. 17)."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation; rmsnorm subtracts no mean and has no bias (Zhang & Sennrich 2019)."""
    position: Literal["learned", "rope"] = "learned"
    """Position encoding: learned embeddings, or rotary ones within attention (Su et al. 2021) with
    base 10,000."""
    activation: Literal["gelu", "swiglu"] = "gelu"
    """Activation of the feed-forward layer; swiglu is gated (Shazeer 2020)."""
    qk_norm: bool = False
    """RMS-normalise the queries and keys of every head, with a gain (Henry et al. 2020; Dehghani et
    al. 2023)."""
    bias: bool = True
    """Use biases in linear layers and layer norms."""
    n_kv_head: int | None = None
    """Number of key and value heads, each shared by a group of query heads (Ainslie et al. 2023).
    Default: n_head."""
    mup_base_width: int | None = None
    """Use muP (Yang et al. 2022): the d_model at which it equals the standard parametrisation
    (except in attention). With m = d_model / mup_base_width, the initial matrices shrink as m^-1/2,
    their learning rate as 1/m (their weight decay grows as m) and the logits as 1/m; attention
    scales as 1/d_head. Keep d_ff / d_model fixed. The best learning rate is then that of the base
    width."""
    next_sentence: bool = False
    """Encoder only: each context is two halves of text, and the model also predicts whether the
    second follows the first, as it does in half of them (Devlin et al. 2019). The loss is added to
    that of the masked tokens."""

    def check(self) -> None:
        check_positive(self, "n_layer", "d_model", "n_head", "n_ctx", "n_repeat")
        check_positive(self, "d_ff", "n_kv_head", "mup_base_width")
        if self.family not in FAMILIES and not re.search(r"\.py:\w+$", self.family):
            raise ConfigError(
                f"model.family={self.family!r} is unknown.{did_you_mean(self.family, FAMILIES)} "
                f"The built-in families are {', '.join(FAMILIES)}; write your own as my.py:Name."
            )
        if self.next_sentence and not self.masked:
            raise ConfigError(
                f"model.next_sentence is an objective of encoders, but model.family="
                f"{self.family!r}; use model.family='encoder', or leave it out."
            )
        if self.masked and self.n_ctx < _SHORTEST_MASKED:
            raise ConfigError(
                f"model.n_ctx={self.n_ctx} is too short for model.family='encoder', which masks "
                f"{MASKED:.0%} of every context; use at least {_SHORTEST_MASKED}."
            )
        if self.family == "lstm":
            return
        if self.d_model % self.n_head:
            raise ConfigError(
                f"model.n_head={self.n_head} does not divide model.d_model={self.d_model}; "
                f"use {nearest_divisor(self.d_model, self.n_head)}, for example."
            )
        if self.n_head % self.kv_heads:
            raise ConfigError(
                f"model.n_kv_head={self.n_kv_head} does not divide model.n_head={self.n_head}; "
                f"use {nearest_divisor(self.n_head, self.kv_heads)}, for example."
            )
        if self.position == "rope" and self.head_width % 2:
            raise ConfigError(
                f"model.position='rope' rotates pairs of channels, but heads are {self.head_width} "
                f"wide (d_model={self.d_model}, n_head={self.n_head}); make d_model / n_head even."
            )

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        if self.d_ff == self._default_ff_width:
            values["d_ff"] = None
        if self.kv_heads == self.n_head:
            values["n_kv_head"] = None
        if self.family not in FAMILIES:
            values["family"] = posixpath.normpath(self.family)
        if self.family == "lstm":
            used = ("n_layer", "d_model", "n_ctx", "tied", "family", "mup_base_width")
            return {name: values[name] for name in used}
        return values

    @property
    def masked(self) -> bool:
        """Whether the model predicts masked tokens (an encoder), not the next token."""
        return self.family == "encoder"

    @property
    def predicted(self) -> int:
        """Number of positions per context that the model predicts in training."""
        return round(MASKED * self.n_ctx) if self.masked else self.n_ctx

    @property
    def special_tokens(self) -> int:
        """Number of input tokens beyond the vocabulary: [MASK] and [CLS] of an encoder."""
        return 2 if self.masked else 0

    @property
    def ff_width(self) -> int:
        """Width of the feed-forward layer."""
        return self._default_ff_width if self.d_ff is None else self.d_ff

    @property
    def _default_ff_width(self) -> int:
        return 4 * self.d_model if self.activation == "gelu" else 8 * -(-self.d_model // 3)

    @property
    def width_multiplier(self) -> float:
        """The m of muP; 1 in the standard parametrisation."""
        return 1.0 if self.mup_base_width is None else self.d_model / self.mup_base_width

    @property
    def head_width(self) -> int:
        """Channels per attention head."""
        return self.d_model // self.n_head

    @property
    def attention_scale(self) -> float:
        """Factor of the attention logits: d_head^-1/2, and in muP 1 / d_head."""
        return self.head_width**-0.5 if self.mup_base_width is None else 1 / self.head_width

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def kv_width(self) -> int:
        """Width of all keys (or all values) of a token."""
        return self.kv_heads * self.head_width
