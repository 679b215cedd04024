"""N counted from the configs of other frameworks, by the shapes of their models."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.importing.shapes import count_from_shapes
from scaling.shape_count import count_of_shapes

N_GPT2 = 25472
"""num_parameters(exclude_embeddings=True) of transformers for this config."""

COMMON = {"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
          "num_key_value_heads": 2, "intermediate_size": 80}  # fmt: skip
OLD = {"vocab_size": 100, "n_embd": 48, "n_layer": 3, "n_head": 4}
BIASES = {"attention_bias": True, "mlp_bias": True, "head_dim": 20}
COUNTED: list[tuple[str, dict[str, Any], int, int]] = [
    ("gpt2", OLD, 84912, 0),
    ("gptj", OLD, 84048, 4900),
    ("gpt_neox", COMMON, 52320, 4800),
    ("gpt_neo", {"vocab_size": 100, "hidden_size": 48, "num_layers": 2, "num_heads": 4}, 56352, 0),
    ("opt", {"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 2, "ffn_dim": 70,
             "num_attention_heads": 4, "word_embed_proj_dim": 24}, 35276, 0),
    ("bloom", {"vocab_size": 100, "hidden_size": 48, "n_layer": 3, "n_head": 4}, 85008, 0),
    ("llama", COMMON, 55632, 4800),
    ("llama", COMMON | BIASES, 70704, 4800),
    ("mistral", COMMON, 55632, 4800),
    ("qwen2", COMMON, 55920, 4800),
    ("qwen3", COMMON | {"head_dim": 20}, 69576, 4800),
    ("olmo", COMMON, 55296, 4800),
    ("olmo2", COMMON, 55848, 4800),
    ("olmo3", COMMON, 55848, 4800),
    ("gemma", COMMON | {"head_dim": 20}, 69456, 0),
    ("gemma2", COMMON | {"head_dim": 20}, 69744, 0),
    ("gemma3_text", COMMON | {"head_dim": 20}, 69864, 0),
    ("starcoder2", COMMON, 45264, 0),
    ("phi", COMMON, 44976, 4900),
    ("phi3", COMMON, 55632, 4800),
    ("smollm3", COMMON, 55632, 0),
    ("granite", COMMON, 55632, 4800),
]  # fmt: skip
"""(model_type, config, non-embedding parameters, output layer) as transformers 5.24 counts them."""


def olmo_model(**more: Any) -> dict[str, Any]:
    """Return the config of olmo2_30M with 1000 tokens, as OLMo-core 3.0 saves it."""
    norm = {"name": "rms", "eps": 1e-6, "bias": False}
    mixer = {"name": "default", "n_heads": 8, "bias": False, "qk_norm": norm, "type": "attention",
             "use_head_qk_norm": False}  # fmt: skip
    block = {"sequence_mixer": mixer, "layer_norm": norm, "name": "reordered_norm",
             "feed_forward": {"hidden_size": 768, "name": "default", "bias": False}}  # fmt: skip
    head = {"name": "default", "layer_norm": norm, "bias": False}
    return {
        "d_model": 256,
        "vocab_size": 1000,
        "n_layers": 4,
        "block": block,
        "lm_head": head,
    } | more


@pytest.mark.parametrize(("family", "config", "N", "head"), COUNTED)
def test_counts_from_shapes_are_those_of_transformers(
    family: str, config: dict[str, Any], N: int, head: int
):
    found = count_of_shapes({"model_type": family, **config})
    assert found is not None and (found.N, found.head, found.exact) == (N, head, True)
    inside = count_from_shapes({"seed": 1, "model": {"config": {"model_type": family, **config}}})
    flat = count_from_shapes({f"model.{k}": v for k, v in {"model_type": family, **config}.items()})
    assert inside == flat == (N, found.text)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family", ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "olmo2"]
)
def test_models_of_transformers_have_as_many_parameters_as_counted(family: str):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    own = OLD if family == "gpt2" else COMMON | {"pad_token_id": 0}
    config = transformers.AutoConfig.for_model(family, **own)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = count_of_shapes(json.loads(config.to_json_string()))
    assert found is not None
    assert found.N + found.head == model.num_parameters(exclude_embeddings=True)


def test_shapes_of_other_trainers_are_counted_by_their_conventions():
    def counted(**config: Any) -> tuple[float, str]:
        found = count_from_shapes(config)
        assert found is not None
        return found

    nanogpt = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 64}
    assert counted(**nanogpt, bias=True)[0] == N_GPT2
    assert counted(**nanogpt, bias=False)[0] == 2 * (12 * 32**2 + 2 * 32) + 32
    assert counted(n_layer=2, n_embd=32) == (24576, "12 n_layer n_embd^2 (GPT-2)")
    N, text = counted(num_layers=2, hidden_size=32)
    assert N == 24576 and "Kaplan" in text
    new = {"model_type": "new", "num_hidden_layers": 2, "hidden_size": 32, "hidden_act": "silu",
           "intermediate_size": 88, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    N, text = counted(**new)
    assert N == 2 * (3 * 32**2 + 3 * 32 * 88) and "matrices only" in text


def test_layers_that_torchtitan_writes_out_are_counted_one_by_one():
    linear = {"in_features": 256, "out_features": 256, "bias": False}
    qwen = {
        "attention": {"qkv_linear": {"wq": linear, "wkv": linear | {"out_features": 128}},
                      "wo": linear, "qk_norm": {"normalized_shape": 16}},
        "feed_forward": {"w1": linear | {"out_features": 768}, "w3": linear | {"out_features": 768},
                         "w2": linear | {"in_features": 768}},
        "attention_norm": {"normalized_shape": 256, "elementwise_affine": True}, "moe": None,
    }  # fmt: skip
    model = {"dim": 256, "layers": [qwen, qwen], "norm": {"normalized_shape": 256},
             "lm_head": linear | {"out_features": 100}}  # fmt: skip
    block = 2 * 256**2 + 2 * 256 * 128 + 2 * 16 + 3 * 256 * 768 + 256
    found = count_of_shapes({"model_spec": {"name": "qwen3", "model": model}})
    assert found is not None and (found.N, found.head) == (2 * block + 256, 25600)


def test_blocks_of_olmo_core_may_differ():
    pattern = ["a", "b"]
    small = olmo_model()["block"]
    large = small | {"feed_forward": {"hidden_size": 1024, "bias": False}}
    both = olmo_model(block={"a": small, "b": large}, block_pattern=pattern)
    found = count_from_shapes(both)
    assert found is not None and found[0] == 3_412_224 + 2 * 3 * 256 * 256
    other = olmo_model(block_overrides={"0": large})
    found = count_from_shapes(other)
    assert found is not None and found[0] == 3_412_224 + 3 * 256 * 256


@pytest.mark.parametrize("config", [
    {}, {"lr": 0.1}, {"n_layer": 2}, {"n_layer": "x", "n_embd": None}, {"n_layer": -2, "n_embd": 3},
    {"model_type": "mixtral", "num_local_experts": 8, **COMMON},
    {"model_type": "qwen3_moe", "num_experts": 128, **COMMON},
    {"d_model": 8, "n_layers": 2, "block": {"sequence_mixer": {"type": "gdn"}}, "x": [1]},
])  # fmt: skip
def test_a_config_that_does_not_tell_gives_no_count(config: dict[str, Any]):
    found = count_from_shapes(config)
    assert found is None or (found[0] > 0 and "only" in found[1])
    if "num_experts" in config or "num_local_experts" in config:
        assert found is None


@given(st.dictionaries(
    st.sampled_from(["model_type", "n_layer", "n_embd", "d_model", "hidden_size", "dim", "n_layers",
                     "block", "layers", "depth", "n_head", "bias", "model", "num_hidden_layers",
                     "sequence_len", "model.dim", "block_size", "lm_head"]),
    st.none() | st.integers(-3, 64) | st.floats() | st.sampled_from(["gpt2", "llama", [1], {}]),
))  # fmt: skip
def test_no_config_is_too_odd_to_be_looked_at(config: dict[str, Any]):
    found = count_from_shapes(config)
    assert found is None or (found[0] > 0 and math.isfinite(found[0]) and found[1])
