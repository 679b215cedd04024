"""Parameters of the models of other frameworks, counted from their configs by shape.

No model is built and none of the frameworks is needed. The counts are those of the models as
built: the tests compare them with transformers 5.24, torchtitan 0.3 and OLMo-core 3.0. Counts of
our own models are in scaling/count.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scaling.column_words import meaning
from scaling.shape_families import FAMILIES, Shape, ShapeCount, positive


def count_of_shapes(config: Mapping[str, Any]) -> ShapeCount | None:
    """Return the parameters of the model that a config describes; None if it does not tell.

    The config may be nested, or flat with names such as model.n_layers. Of mixtures of experts
    nothing is returned, because N then has several meanings.
    """
    whole = nested(config)
    for part in _parts(whole):
        if _has_experts(part):
            return None
    for part in _parts(whole):
        for convention in _CONVENTIONS:
            try:
                found = convention(part)
            except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
                continue
            if found is not None and 0 < found.N < 1e18:
                return found
    return _by_names(config)


def nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with names such as model.d_model as nested mappings."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        *outer, last = str(name).split(".")
        here: Any = found
        for key in outer:
            inner = here.setdefault(key, {})
            if not isinstance(inner, dict):
                inner = here[key] = {}
            here = inner
        if isinstance(value, Mapping):
            old = here.get(last)
            here[last] = (old if isinstance(old, dict) else {}) | nested(value)
        else:
            here[last] = value
    return found


def _parts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a nested config and the mappings in it, the outer ones first."""
    level = [config]
    for _ in range(6):
        yield from level
        level = [value for part in level for value in part.values() if isinstance(value, dict)]


def _has_experts(part: Mapping[str, Any]) -> bool:
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    counts = [part.get(name) for name in names]
    if any(isinstance(count, int) and count > 1 for count in counts):
        return True
    layers = part.get("layers")
    of_layers = [layer.get("moe") for layer in layers if isinstance(layer, dict)] if isinstance(
        layers, list
    ) else []  # fmt: skip
    return part.get("moe_enabled") is True or bool(part.get("feed_forward_moe")) or any(of_layers)


# ------------------------------------------------------------------ transformers, nanoGPT, nanochat


def _transformers(config: Mapping[str, Any]) -> ShapeCount | None:
    family = FAMILIES.get(str(config.get("model_type")))
    return family(config).count() if family else None


def _nanogpt(config: Mapping[str, Any]) -> ShapeCount | None:
    """nanoGPT (commit 3adf61e): n_layer, n_embd, bias, block_size."""
    if "block_size" not in config and not isinstance(config.get("bias"), bool):
        return None
    d, bias = positive(config, "n_embd"), bool(config.get("bias", True))
    vocab = config.get("vocab_size")
    shape = Shape(
        family="nanoGPT", n_layer=positive(config, "n_layer"), d=d, heads=1, d_ff=4 * d,
        norm=d * (1 + bias), qkv_bias=bias, out_bias=bias, mlp_bias=bias, tied=True,
        vocab=vocab if isinstance(vocab, int) else 0, width="n_embd",
    )  # fmt: skip
    return shape.count()


def _nanochat(config: Mapping[str, Any]) -> ShapeCount | None:
    """nanochat (commit 92d63d4): the model's config, or the depth of base_train."""
    logged = config.get("transformer_matrices")
    if isinstance(logged, int | float) and logged > 0:
        text = "transformer_matrices as nanochat logs them"
        return ShapeCount(float(logged), text, head=_number(config.get("lm_head_parameters")))
    if "sequence_len" in config and "n_embd" in config:
        layers, d = positive(config, "n_layer"), positive(config, "n_embd")
        heads = positive(config, "n_head")
        kv = config.get("n_kv_head") or heads
        n = layers * (2 * d * d + 2 * d * (d // heads) * kv + 8 * d * d)
        formula = (
            "12 n_layer n_embd^2" if kv == heads else "n_layer n_embd^2 (10 + 2 n_kv / n_head)"
        )
    elif "depth" in config and ("aspect_ratio" in config or "target_param_data_ratio" in config):
        layers, width = positive(config, "depth"), config.get("head_dim") or 128
        d = math.ceil(layers * (config.get("aspect_ratio") or 64) / width) * width
        n = 12 * layers * d * d
        formula = f"12 depth n_embd^2 with n_embd = {d}"
    else:
        return None
    return ShapeCount(float(n), f"{formula} (nanochat; matrices of its blocks)", exact=False)


def _gpt2_names(config: Mapping[str, Any]) -> ShapeCount | None:
    """A config in the names of GPT-2 that says nothing of biases."""
    if "n_embd" not in config or "n_layer" not in config:
        return None
    layers, d = positive(config, "n_layer"), positive(config, "n_embd")
    inner = config.get("n_inner") or 4 * d
    if inner != 4 * d:
        n = layers * (4 * d * d + 2 * d * inner)
        return ShapeCount(n, "n_layer (4 n_embd^2 + 2 n_embd n_inner) (GPT-2)", exact=False)
    return ShapeCount(12.0 * layers * d * d, "12 n_layer n_embd^2 (GPT-2)", exact=False)


# ------------------------------------------------------------------ torchtitan


def _torchtitan(config: Mapping[str, Any]) -> ShapeCount | None:
    """torchtitan 0.3 (a config of each layer), and 0.1 and 0.2 (the arguments of the model)."""
    layers = config.get("layers")
    if "dim" in config and isinstance(layers, list) and layers:
        n = sum(_modules(layer) for layer in layers) + _modules(config.get("norm"))
        head = 0 if config.get("enable_weight_tying") else _modules(config.get("lm_head"))
        text = "sum over the layers' matrices, biases and norms (torchtitan)"
        return ShapeCount(float(n), text, head=head)
    if "dim" not in config or "n_layers" not in config:
        return None
    d, heads = positive(config, "dim"), positive(config, "n_heads")
    width = config.get("head_dim") or d // heads
    qk = bool(config.get("qk_norm"))
    shape = Shape(
        family="torchtitan", n_layer=positive(config, "n_layers"), d=d, heads=heads,
        kv_heads=config.get("n_kv_heads") or heads, head_width=width,
        d_ff=config.get("hidden_dim") or _llama_width(config, d), gated=True, norm=d,
        qk_norm=2 * width if qk else 0, width="dim", tied=bool(config.get("enable_weight_tying")),
        vocab=config.get("vocab_size") or 0,
    )  # fmt: skip
    return shape.count()


def _llama_width(config: Mapping[str, Any], d: int) -> int:
    """Return the width of Llama's feed-forward layer by its rule: 2/3 of 4 d, rounded up."""
    if "multiple_of" not in config:
        raise KeyError("multiple_of")
    hidden = int(8 * d / 3)
    if config.get("ffn_dim_multiplier") is not None:
        hidden = int(config["ffn_dim_multiplier"] * hidden)
    multiple = positive(config, "multiple_of")
    return multiple * math.ceil(hidden / multiple)


def _modules(config: Any) -> int:
    """Return the parameters of the linear layers and norms that a config of torchtitan names."""
    if isinstance(config, list):
        return sum(_modules(item) for item in config)
    if not isinstance(config, Mapping):
        return 0
    if "in_features" in config:
        inputs, outputs = positive(config, "in_features"), positive(config, "out_features")
        return inputs * outputs + (outputs if config.get("bias") else 0)
    if "normalized_shape" in config:
        size = math.prod([config["normalized_shape"]] if isinstance(config["normalized_shape"], int)
                         else config["normalized_shape"])  # fmt: skip
        return size if config.get("elementwise_affine", True) else 0
    twice = ("wkv", "qk_norm")  # keys and values, queries and keys: each has its own
    return sum(_modules(inner) * (2 if name in twice else 1) for name, inner in config.items())


# ------------------------------------------------------------------ OLMo-core


def _olmo_core(config: Mapping[str, Any]) -> ShapeCount | None:
    """OLMo-core 2.0 to 3.0: the blocks as its TransformerConfig counts them."""
    if not {"d_model", "n_layers", "block"} <= config.keys():
        return None
    d, layers = positive(config, "d_model"), positive(config, "n_layers")
    block, pattern = config["block"], config.get("block_pattern")
    if pattern:
        blocks = [block[pattern[i % len(pattern)]] for i in range(layers)]
    else:
        blocks = [block] * layers
    for index, other in (config.get("block_overrides") or {}).items():
        blocks[int(index)] = other
    head = config.get("lm_head") or {}
    vocab = config.get("vocab_size") or 0
    n = sum(_olmo_block(each, d) for each in blocks)
    n += _olmo_norm(config.get("embedding_norm"), d) + _olmo_norm(head.get("layer_norm"), d)
    output = 0 if config.get("tie_word_embeddings") else d * vocab
    text = "sum over the blocks' matrices, biases and norms (OLMo-core)"
    return ShapeCount(float(n), text, head=output)


def _olmo_block(block: Mapping[str, Any], d: int) -> int:
    mixer = block.get("sequence_mixer") or block["attention"]
    kind = mixer.get("type", "attention")
    if kind != "attention":
        raise ValueError(f"a sequence mixer {kind!r} is not counted")
    normalized = mixer.get("name") == "normalized"
    heads = positive(mixer, "n_heads") if "n_heads" in mixer else 16
    width = mixer.get("head_dim") or d // heads
    q, kv = heads * width, (mixer.get("n_kv_heads") or heads) * width
    n = 2 * d * q + 2 * d * kv
    if mixer.get("bias", not normalized):
        n += q + 2 * kv + d
    if (norm := mixer.get("qk_norm")) is not None:
        sizes = (width, width) if mixer.get("use_head_qk_norm") else (q, kv)
        n += sum(_olmo_norm(norm, size) for size in sizes)
    if (gate := mixer.get("gate")) is not None:
        outputs = heads if gate.get("granularity") == "headwise" else q
        n += d * outputs + (outputs if mixer.get("bias", not normalized) else 0)
    n += q + kv if normalized else 0
    n += _olmo_feed_forward(block["feed_forward"], d)
    norms = 4 if block.get("name") == "peri_norm" else 2
    n += norms * _olmo_norm(block.get("layer_norm"), d)
    return n + (2 * d if block.get("name") == "normalized" else 0)


def _olmo_feed_forward(config: Mapping[str, Any], d: int) -> int:
    hidden, normalized = positive(config, "hidden_size"), config.get("name") == "normalized"
    n = 3 * d * hidden + (2 * hidden if normalized else 0)
    return n + (2 * hidden + d if config.get("bias", not normalized) else 0)


def _olmo_norm(config: Mapping[str, Any] | None, size: int) -> int:
    if config is None:
        return 0
    affine = config.get("name", "default") != "l2_norm"
    if not config.get("elementwise_affine", affine):
        return 0
    return size * (1 + bool(config.get("bias", affine)))


# ------------------------------------------------------------------ any names


def _by_names(config: Mapping[str, Any]) -> ShapeCount | None:
    """Return the matrices of the blocks of a shape whose names say what they are."""
    found: dict[str, float] = {}
    for name, value in config.items():
        what = meaning(str(name).rpartition(".")[2])
        if what is not None and 0 < _number(value) < 1e12 and not what.function:
            found.setdefault(what.symbol, what.scale * value)
    if not {"n_layer", "d_model"} <= found.keys():
        return None
    layers, d, d_ff = found["n_layer"], found["d_model"], found.get("d_ff")
    source = "matrices only, Kaplan et al. 2020, eq. 2.1"
    if {"n_head", "n_kv_head"} <= found.keys() and found["n_kv_head"] < found["n_head"]:
        attention = 2 * d * d * (1 + found["n_kv_head"] / found["n_head"])
        formula = "2 d_model^2 (1 + n_kv_head / n_head)"
    else:
        attention, formula = 4 * d * d, "4 d_model^2"
    if d_ff is None or (d_ff == 4 * d and formula == "4 d_model^2"):
        text = "12 n_layer d_model^2" if formula == "4 d_model^2" else (
            f"n_layer ({formula} + 8 d_model^2)"
        )  # fmt: skip
        return ShapeCount(layers * (attention + 8 * d * d), f"{text} ({source})", exact=False)
    gate = str(config.get("hidden_act") or config.get("activation") or "").lower()
    ups = 3 if "glu" in gate or gate in ("silu", "swish") or config.get("swiglu") is True else 2
    text = f"n_layer ({formula} + {ups} d_model d_ff) ({source})"
    return ShapeCount(layers * (attention + ups * d * d_ff), text, exact=False)


def _number(value: Any) -> float:
    return 0 if isinstance(value, bool) or not isinstance(value, int | float) else value


_CONVENTIONS: tuple[Callable[[Mapping[str, Any]], ShapeCount | None], ...] = (
    _transformers,
    _olmo_core,
    _torchtitan,
    _nanochat,
    _nanogpt,
    _gpt2_names,
)
