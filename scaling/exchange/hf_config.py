"""config.json of transformers: written for our decoders, and read for those that we can compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.errors import ConfigError
from scaling.exchange.layouts import LAYOUTS, Layout
from scaling.model_config import NORM_EPS, ROPE_BASE, ModelConfig

_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
"""Their names of the GELU in its tanh form."""


def config_json(layout: Layout, m: ModelConfig, vocab_size: int, end_of_text: int) -> dict:
    """Return config.json for a model without repeats and muP."""
    common = {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        "vocab_size": vocab_size,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": m.tied,
        "torch_dtype": "float32",
        "use_cache": True,
    }
    if layout.model_type == "gpt2":
        return common | {
            "n_positions": m.n_ctx,
            "n_embd": m.d_model,
            "n_layer": m.n_layer,
            "n_head": m.n_head,
            "n_inner": m.ff_width,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": NORM_EPS,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        }
    common |= {
        "max_position_embeddings": m.n_ctx,
        "hidden_size": m.d_model,
        "intermediate_size": m.ff_width,
        "num_hidden_layers": m.n_layer,
        "num_attention_heads": m.n_head,
        "attention_dropout": 0.0,
        "rope_theta": ROPE_BASE,
    }
    own: dict[str, dict[str, Any]] = {
        "gpt_neox": {
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": NORM_EPS,
            "use_parallel_residual": False,
            "rotary_pct": 1.0,
            "rotary_emb_base": ROPE_BASE,
            "hidden_dropout": 0.0,
            "attention_bias": True,
        },
        "starcoder2": {
            "hidden_act": "gelu_pytorch_tanh",
            "norm_epsilon": NORM_EPS,
            "use_bias": m.bias,
            "sliding_window": None,
            "residual_dropout": 0.0,
            "embedding_dropout": 0.0,
        },
        "llama": {"attention_bias": m.bias, "mlp_bias": m.bias},
        "qwen3": {"attention_bias": False, "use_sliding_window": False},
    }
    if layout.requires["norm"] == "rmsnorm":
        common |= {"hidden_act": "silu", "rms_norm_eps": NORM_EPS, "head_dim": m.head_width}
    if layout.model_type != "gpt_neox":
        common |= {"num_key_value_heads": m.kv_heads}
    return common | own[layout.model_type]


# ------------------------------------------------------------------ reading


def decoder_of(config: Mapping[str, Any]) -> tuple[Layout, ModelConfig] | None:
    """Return the layout and shape of the decoder of ours that computes the same function.

    None if there is no such decoder: other families, parallel residuals, partial rotation, another
    epsilon or base. Values that a config leaves out are the defaults of transformers.
    """
    known = {layout.model_type: layout for layout in LAYOUTS}
    layout = known.get(str(config.get("model_type")))
    if layout is None or (facts := _READERS[layout.model_type](config)) is None:
        return None
    values = {name: value for name, value in layout.requires.items() if name != "grouped"}
    try:
        model = ModelConfig(**(values | facts))
    except (ConfigError, TypeError):
        return None
    return layout, model


def _read_gpt2(config: Mapping[str, Any]) -> dict[str, Any] | None:
    plain = (
        config.get("activation_function", "gelu_new") in _TANH_GELU
        and config.get("layer_norm_epsilon", NORM_EPS) == NORM_EPS
        and config.get("scale_attn_weights", True)
        and not config.get("scale_attn_by_inverse_layer_idx")
        and not config.get("add_cross_attention")
    )
    if not plain:
        return None
    return {
        "n_ctx": config.get("n_positions", 1024),
        "d_model": config.get("n_embd", 768),
        "n_layer": config.get("n_layer", 12),
        "n_head": config.get("n_head", 12),
        "d_ff": config.get("n_inner") or 4 * config.get("n_embd", 768),
        "tied": config.get("tie_word_embeddings", True),
        "bias": True,
    }


def _read_neox(config: Mapping[str, Any]) -> dict[str, Any] | None:
    plain = (
        config.get("hidden_act", "gelu") in _TANH_GELU
        and config.get("layer_norm_eps", NORM_EPS) == NORM_EPS
        and not config.get("use_parallel_residual", True)
        and config.get("attention_bias", True)
        and _rope(config, "rotary_emb_base", "rotary_pct", 0.25) == (ROPE_BASE, 1.0)
    )
    return {**_sizes(config, tied=False), "bias": True} if plain else None


def _read_starcoder2(config: Mapping[str, Any]) -> dict[str, Any] | None:
    plain = (
        config.get("hidden_act", "gelu_pytorch_tanh") in _TANH_GELU
        and config.get("norm_epsilon", NORM_EPS) == NORM_EPS
        and config.get("sliding_window") is None
        and _rope(config) == (ROPE_BASE, 1.0)
    )
    if not plain:
        return None
    shared = {"n_kv_head": config.get("num_key_value_heads", 2)}
    return _sizes(config, tied=True) | shared | {"bias": config.get("use_bias", True)}


def _read_llama(config: Mapping[str, Any]) -> dict[str, Any] | None:
    biases = {config.get("attention_bias", False), config.get("mlp_bias", False)}
    if len(biases) > 1 or not _gated(config):
        return None
    shared = {"n_kv_head": config.get("num_key_value_heads")}
    return _sizes(config, tied=False) | shared | {"bias": biases.pop()}


def _read_qwen3(config: Mapping[str, Any]) -> dict[str, Any] | None:
    if config.get("attention_bias") or config.get("use_sliding_window") or not _gated(config):
        return None
    shared = {"n_kv_head": config.get("num_key_value_heads", 32)}
    return _sizes(config, tied=False) | shared


_READERS = {
    "gpt2": _read_gpt2,
    "gpt_neox": _read_neox,
    "starcoder2": _read_starcoder2,
    "llama": _read_llama,
    "qwen3": _read_qwen3,
}


def _gated(config: Mapping[str, Any]) -> bool:
    """Return whether norms, rotation, activation and width of heads are those of our decoder."""
    sizes = _sizes(config, tied=False)
    head_width = sizes["d_model"] // sizes["n_head"]
    default = 128 if config["model_type"] == "qwen3" else head_width
    return (
        config.get("hidden_act", "silu") == "silu"
        and config.get("rms_norm_eps", 1e-6) == NORM_EPS
        and (config.get("head_dim") or default) == head_width
        and _rope(config) == (ROPE_BASE, 1.0)
    )


def _sizes(config: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """Return the shape in the names of most families. Raises KeyError if a name is missing."""
    return {
        "n_ctx": config["max_position_embeddings"],
        "d_model": config["hidden_size"],
        "n_layer": config["num_hidden_layers"],
        "n_head": config["num_attention_heads"],
        "d_ff": config["intermediate_size"],
        "tied": config.get("tie_word_embeddings", tied),
    }


def _rope(
    config: Mapping[str, Any],
    base: str = "rope_theta",
    part: str = "partial_rotary_factor",
    default_part: float = 1.0,
) -> tuple[float, float] | None:
    """Return base and rotated part of a rotary encoding; None if it is scaled.

    Version 5 of transformers keeps both in `rope_parameters`, earlier ones keep them apart.
    """
    new = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    kinds = {x.get("rope_type", x.get("type", "default")) for x in (new, scaling)}
    if kinds != {"default"}:
        return None
    found = new.get("rope_theta", config.get(base, ROPE_BASE))
    return found, new.get("partial_rotary_factor", config.get(part, default_part))
