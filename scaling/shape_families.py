"""Shapes of the model families of transformers, as their config.json describes them.

Verified with transformers 5.24 (tests/test_trainer_logs.py). A name that a config leaves out has
the default of its family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ShapeCount:
    """Parameters of a model, counted from its shape."""

    N: float
    """Non-embedding parameters: neither embeddings nor the output layer."""
    text: str
    """The formula and the framework whose convention it is."""
    head: float = 0
    """Parameters of the output layer; 0 if it is tied to the embedding, or not known."""
    exact: bool = True
    """Whether biases and norms are counted too."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape of a transformer."""

    family: str
    n_layer: int
    d: int
    heads: int
    d_ff: int
    norm: int
    """Parameters of a norm over the width: d, 2 d with biases, or 0."""
    norms: int = 2
    """Norms of a block, without those of queries and keys."""
    final_norm: bool = True
    kv_heads: int = 0
    """Key and value heads; 0 if each head has its own."""
    head_width: int = 0
    """Width of a head; 0 if it is d / heads."""
    gated: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: int = 0
    """Parameters of the norms of queries and keys in a block."""
    extra: int = 0
    """Other parameters of the model outside of embeddings and output layer."""
    vocab: int = 0
    tied: bool = False
    head_bias: bool = False
    width: str = "hidden_size"
    """Name of d in the config."""

    def count(self) -> ShapeCount:
        """Return the parameters of the model."""
        d, f = self.d, self.d_ff
        q = self.heads * (self.head_width or d // self.heads)
        kv = (self.kv_heads or self.heads) * (self.head_width or d // self.heads)
        ups = 2 if self.gated else 1
        n = 2 * d * q + 2 * d * kv + (ups + 1) * d * f
        n += (q + 2 * kv) * self.qkv_bias + d * self.out_bias + (ups * f + d) * self.mlp_bias
        n = self.n_layer * (n + self.norms * self.norm + self.qk_norm)
        n += self.norm * self.final_norm + self.extra
        head = 0 if self.tied else self.vocab * d
        return ShapeCount(float(n), self._text(q, kv), head + self.vocab * self.head_bias)

    def _text(self, q: int, kv: int) -> str:
        layers = {"n_embd": "n_layer", "dim": "n_layers"}.get(self.width, "num_hidden_layers")
        with_biases = self.qkv_bias or self.out_bias or self.mlp_bias or self.norm > self.d
        rest = "norms and biases" if with_biases else "norms"
        if q == kv == self.d and not self.gated and self.d_ff == 4 * self.d:
            formula = f"12 {layers} {self.width}^2"
        else:
            ups = 3 if self.gated else 2
            formula = f"{layers} {self.width} (2 q + 2 kv + {ups} d_ff), q = {q}, kv = {kv}, "
            formula += f"d_ff = {self.d_ff}"
        return f"{formula}, + {rest} ({self.family})"


def positive(config: Mapping[str, Any], *names: str) -> int:
    """Return the first of some sizes that a config holds. Raises KeyError and ValueError."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise ValueError(f"{name}={value!r} is no size")
        if value != int(value):
            raise ValueError(f"{name}={value!r} is no whole number")
        return int(value)
    raise KeyError(names[0])


def _common(config: Mapping[str, Any], family: str, *, tied: bool) -> dict[str, Any]:
    d = positive(config, "hidden_size")
    return {
        "family": family,
        "n_layer": positive(config, "num_hidden_layers"),
        "d": d,
        "heads": positive(config, "num_attention_heads"),
        "kv_heads": config.get("num_key_value_heads") or 0,
        "head_width": config.get("head_dim") or 0,
        "d_ff": positive(config, "intermediate_size"),
        "norm": d,
        "vocab": config.get("vocab_size") or 0,
        "tied": bool(config.get("tie_word_embeddings", tied)),
    }


def _gated(family: str, *, tied: bool = False, **more: Any) -> Callable[..., Shape]:
    """Return the reader of a family like Llama: gated, with RMS norms."""

    def shape(config: Mapping[str, Any]) -> Shape:
        values: dict[str, Any] = _common(config, family, tied=tied) | {"gated": True} | more
        bias = bool(config.get("attention_bias", False))
        values.setdefault("qkv_bias", bias)
        values.setdefault("out_bias", bias)
        values.setdefault("mlp_bias", bool(config.get("mlp_bias", False)))
        return Shape(**values)

    return shape


def _gpt2(config: Mapping[str, Any]) -> Shape:
    if config.get("add_cross_attention"):
        raise ValueError("cross-attention is not counted")
    d = positive(config, "n_embd")
    return Shape(
        family="GPT-2", n_layer=positive(config, "n_layer"), d=d, heads=positive(config, "n_head"),
        d_ff=config.get("n_inner") or 4 * d, norm=2 * d, qkv_bias=True, out_bias=True,
        mlp_bias=True, vocab=config.get("vocab_size") or 0,
        tied=bool(config.get("tie_word_embeddings", True)), width="n_embd",
    )  # fmt: skip


def _gptj(config: Mapping[str, Any]) -> Shape:
    d = positive(config, "n_embd")
    return Shape(
        family="GPT-J", n_layer=positive(config, "n_layer"), d=d, heads=positive(config, "n_head"),
        d_ff=config.get("n_inner") or 4 * d, norm=2 * d, norms=1, mlp_bias=True, head_bias=True,
        vocab=config.get("vocab_size") or 0, tied=bool(config.get("tie_word_embeddings", False)),
        width="n_embd",
    )  # fmt: skip


def _gpt_neo(config: Mapping[str, Any]) -> Shape:
    d = positive(config, "hidden_size")
    return Shape(
        family="GPT-Neo", n_layer=positive(config, "num_layers"), d=d,
        heads=positive(config, "num_heads"), d_ff=config.get("intermediate_size") or 4 * d,
        norm=2 * d, out_bias=True, mlp_bias=True, vocab=config.get("vocab_size") or 0,
        tied=bool(config.get("tie_word_embeddings", True)),
    )  # fmt: skip


def _neox(config: Mapping[str, Any]) -> Shape:
    bias = bool(config.get("attention_bias", True))
    values = _common(config, "GPT-NeoX", tied=False)
    values |= {"norm": 2 * values["d"], "mlp_bias": True, "kv_heads": 0, "head_width": 0}
    return Shape(**values, qkv_bias=bias, out_bias=bias)


def _opt(config: Mapping[str, Any]) -> Shape:
    d, bias = positive(config, "hidden_size"), bool(config.get("enable_bias", True))
    before = config.get("do_layer_norm_before", True)
    inner = config.get("word_embed_proj_dim") or d
    return Shape(
        family="OPT", n_layer=positive(config, "num_hidden_layers"), d=d,
        heads=positive(config, "num_attention_heads"), d_ff=positive(config, "ffn_dim"),
        norm=2 * d if config.get("layer_norm_elementwise_affine", True) else 0,
        final_norm=bool(before and not config.get("_remove_final_layer_norm", False)),
        qkv_bias=bias, out_bias=bias, mlp_bias=bias, extra=0 if inner == d else 2 * d * inner,
        vocab=config.get("vocab_size") or 0, tied=bool(config.get("tie_word_embeddings", True)),
    )  # fmt: skip


def _bloom(config: Mapping[str, Any]) -> Shape:
    d = positive(config, "hidden_size", "n_embed")
    return Shape(
        family="BLOOM", n_layer=positive(config, "n_layer", "num_hidden_layers"), d=d,
        heads=positive(config, "n_head", "num_attention_heads"), d_ff=4 * d, norm=2 * d,
        qkv_bias=True, out_bias=True, mlp_bias=True, extra=2 * d,
        vocab=config.get("vocab_size") or 0, tied=bool(config.get("tie_word_embeddings", True)),
    )  # fmt: skip


def _starcoder2(config: Mapping[str, Any]) -> Shape:
    bias = bool(config.get("use_bias", True))
    values = _common(config, "Starcoder2", tied=True)
    values["norm"] = 2 * values["d"]
    return Shape(**values, qkv_bias=bias, out_bias=bias, mlp_bias=bias)


def _phi(config: Mapping[str, Any]) -> Shape:
    values = _common(config, "Phi", tied=False)
    values |= {"norm": 2 * values["d"], "norms": 1, "head_bias": True}
    width = values["head_width"] or values["d"] // values["heads"]
    qk = 4 * width if config.get("qk_layernorm") else 0
    return Shape(**values, qkv_bias=True, out_bias=True, mlp_bias=True, qk_norm=qk)


def _qwen3(config: Mapping[str, Any]) -> Shape:
    width = config.get("head_dim") or 128
    return _gated("Qwen3", head_width=width, qk_norm=2 * width, mlp_bias=False)(config)


def _olmo2(config: Mapping[str, Any]) -> Shape:
    heads = positive(config, "num_attention_heads")
    width = config.get("head_dim") or positive(config, "hidden_size") // heads
    kv = config.get("num_key_value_heads") or heads
    name = {"olmo2": "OLMo 2", "olmo3": "OLMo 3"}[str(config["model_type"])]
    return _gated(name, qk_norm=(heads + kv) * width, mlp_bias=False)(config)


def _gemma3(config: Mapping[str, Any]) -> Shape:
    width = config.get("head_dim") or 256
    return _gated(
        "Gemma 3", tied=True, norms=4, head_width=width, qk_norm=2 * width, mlp_bias=False
    )(config)


def _gemma(family: str, norms: int) -> Callable[..., Shape]:
    def shape(config: Mapping[str, Any]) -> Shape:
        width = config.get("head_dim") or 256
        return _gated(family, tied=True, norms=norms, head_width=width, mlp_bias=False)(config)

    return shape


_PLAIN = {"qkv_bias": False, "out_bias": False, "mlp_bias": False}

FAMILIES: dict[str, Callable[[Mapping[str, Any]], Shape]] = {
    "gpt2": _gpt2,
    "gptj": _gptj,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _neox,
    "opt": _opt,
    "bloom": _bloom,
    "llama": _gated("Llama"),
    "mistral": _gated("Mistral", **_PLAIN),
    "qwen2": _gated("Qwen2", **(_PLAIN | {"qkv_bias": True})),
    "qwen3": _qwen3,
    "olmo": _gated("OLMo", norm=0, mlp_bias=False),
    "olmo2": _olmo2,
    "olmo3": _olmo2,
    "gemma": _gemma("Gemma", 2),
    "gemma2": _gemma("Gemma 2", 4),
    "gemma3_text": _gemma3,
    "starcoder2": _starcoder2,
    "phi": _phi,
    "phi3": _gated("Phi-3", **_PLAIN),
    "smollm3": _gated("SmolLM3", tied=True),
    "granite": _gated("Granite"),
}
"""{model_type: function that reads the shape from config.json}."""
