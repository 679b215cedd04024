"""Parameter and FLOP counts against the built model, torch's counter and published numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from scaling.config import ModelConfig
from scaling.count import CONVENTIONS
from scaling.errors import ConfigError
from scaling.model import build
from scaling.models.decoder import Decoder
from scaling.size import flops_per_token, parameters

shapes = st.builds(
    lambda layers, heads, kv_heads, width, **more: ModelConfig(
        n_layer=layers,
        d_model=heads * kv_heads * width,
        n_head=heads * kv_heads,
        n_kv_head=kv_heads,
        **more,
    ),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    kv_heads=st.integers(1, 2),
    width=st.sampled_from([2, 8]),
    d_ff=st.one_of(st.none(), st.integers(1, 40)),
    n_ctx=st.integers(1, 40),
    tied=st.booleans(),
    family=st.sampled_from(["decoder", "decoder", "lstm"]),
    norm=st.sampled_from(["layernorm", "rmsnorm"]),
    position=st.sampled_from(["learned", "rope"]),
    activation=st.sampled_from(["gelu", "swiglu"]),
    qk_norm=st.booleans(),
    bias=st.booleans(),
    n_repeat=st.integers(1, 3),
)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(2, 300))
def test_counts_equal_the_built_model(shape, vocab_size):
    model = build(shape, vocab_size)
    n = parameters(shape, vocab_size)
    assert n == model.count()
    assert model.init([0]).numel() == n.N_total == model.P


@settings(max_examples=20, deadline=None)
@given(shapes)
def test_matmul_flops_equal_torchs_counter(shape):
    """torch counts written-out attention in full, but not the LSTM's kernel."""
    forward = flops_per_token(shape, 100, "matmul") / 3
    if shape.family == "lstm":
        forward -= 2 * parameters(shape, 100).N_kaplan
    assert build(shape, 100).forward_flops() == forward


def test_gpt2_small():
    # Radford et al. 2019: 124,439,808 parameters with tied embeddings
    n = parameters(ModelConfig(n_layer=12, d_model=768, n_head=12, n_ctx=1024), 50257)
    assert n.N_total == 124_439_808
    assert n.N_kaplan == 12 * 12 * 768**2  # Kaplan et al. 2020, eq. 2.1


def test_gpt3_shapes():
    # Brown et al. 2020, Table 2.1: 175.0B parameters, 96 layers of width 12288
    n = parameters(ModelConfig(n_layer=96, d_model=12288, n_head=96, n_ctx=2048), 50257)
    assert n.N_total == pytest.approx(175.0e9, rel=0.005)


def test_chinchilla_flops():
    # Hoffmann et al. 2022, appendix F, for a whole sequence; the 305M model of Table A4
    seq_len, vocab_size, d_model, ffw, key_size, num_heads, num_layers = (
        2048, 32000, 1024, 4096, 64, 16, 20,
    )  # fmt: skip
    embeddings = 2 * seq_len * vocab_size * d_model
    qkv = 2 * 3 * seq_len * d_model * (key_size * num_heads)
    logits = 2 * seq_len * seq_len * (key_size * num_heads)
    softmax = 3 * num_heads * seq_len * seq_len
    reduction = 2 * seq_len * seq_len * (key_size * num_heads)
    linear = 2 * seq_len * (key_size * num_heads) * d_model
    dense = 2 * seq_len * (d_model * ffw + d_model * ffw)
    final = 2 * seq_len * d_model * vocab_size
    forward = (
        embeddings + num_layers * (qkv + logits + softmax + reduction + linear + dense) + final
    )
    model = ModelConfig(n_layer=num_layers, d_model=d_model, n_head=num_heads, n_ctx=seq_len)
    assert flops_per_token(model, vocab_size, "chinchilla") * seq_len == 3 * forward


def test_training_costs_three_forward_passes():
    model = ModelConfig(n_layer=2, d_model=24, n_head=2, n_ctx=16)
    decoder = Decoder(model, 100)
    flat = decoder.init([0]).requires_grad_()
    window = torch.randint(0, 100, (1, 4, 17))
    with FlopCounterMode(display=False) as forward:
        decoder.logits(flat, window[:, :, :-1])
    with FlopCounterMode(display=False) as both:
        loss = decoder.mean_loss(flat, window).sum()
        torch.autograd.grad(loss, flat)
    products = [
        sum(n for op, n in counter.flop_counts["Global"].items() if "scaled_dot" not in str(op))
        for counter in (forward, both)
    ]
    assert products[1] == 3 * products[0]


def test_kaplan_flops():
    # Kaplan et al. 2020, Table 1: forward 2N + 2 n_layer n_ctx d_attn
    model = ModelConfig(n_layer=6, d_model=512, n_head=8, n_ctx=1024)
    N = 12 * 6 * 512**2
    assert flops_per_token(model, 50257, "kaplan") == 3 * (2 * N + 2 * 6 * 1024 * 512)


def test_published_modern_shapes():
    # Touvron et al. 2023, Table 2: LLaMA 7B, 6.7e9 parameters; its d_ff is 11008
    llama = ModelConfig(
        n_layer=32, d_model=4096, n_head=32, d_ff=11008, n_ctx=2048, tied=False, norm="rmsnorm",
        position="rope", activation="swiglu", bias=False,
    )  # fmt: skip
    assert parameters(llama, 32000).N_total == 6_738_415_616
    # Jiang et al. 2023, Mistral 7B: 8 heads of keys and values
    mistral = dataclasses.replace(llama, d_ff=14336, n_kv_head=8)
    assert parameters(mistral, 32000).N_total == 7_241_732_096


def test_shared_blocks_cost_as_much_as_unshared_ones():
    # Kaplan et al. 2020, Fig. 17: reuse counts in FLOPs, not in parameters
    shared, deep = ModelConfig(n_layer=2, n_repeat=3), ModelConfig(n_layer=6)
    for convention in CONVENTIONS:
        assert flops_per_token(shared, 256, convention) == flops_per_token(deep, 256, convention)
    assert parameters(shared, 256).N_kaplan * 3 == parameters(deep, 256).N_kaplan


def test_unknown_convention():
    with pytest.raises(ConfigError, match="the conventions are 6N, kaplan"):
        flops_per_token(ModelConfig(), 256, "8N")
