"""Parameter and FLOP counts against the built model, torch's counter and published numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from scaling.config import ConfigError, ModelConfig
from scaling.count import flops_per_token, parameters
from scaling.model import Decoder

shapes = st.builds(
    lambda layers, heads, width, ff, ctx, tied: ModelConfig(
        n_layer=layers, d_model=heads * width, n_head=heads, d_ff=ff, n_ctx=ctx, tied=tied
    ),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([2, 8]),
    st.one_of(st.none(), st.integers(1, 40)),
    st.integers(1, 40),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(2, 300))
def test_counts_equal_the_built_model(shape, vocab_size):
    decoder = Decoder(shape, vocab_size)
    n = parameters(shape, vocab_size)
    assert decoder.init([0]).numel() == n.N_total == decoder.P
    not_embedding = [
        numel
        for name, numel in zip(decoder.shapes, decoder.sizes, strict=True)
        if "embedding" not in name and name != "head"
    ]
    assert sum(not_embedding) == n.N


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
    # Hoffmann et al. 2022, appendix F, a whole sequence as printed there; the 305M model of Table A4
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


@pytest.mark.parametrize("tied", [True, False])
def test_matmul_flops_equal_torch_counter(tied):
    model = ModelConfig(n_layer=3, d_model=24, n_head=2, d_ff=40, n_ctx=16, tied=tied)
    decoder = Decoder(model, 100)
    flat = decoder.init([0]).requires_grad_()
    window = torch.randint(0, 100, (1, 4, 17))
    with FlopCounterMode(display=False) as counter:
        decoder.logits(flat, window[:, :, :-1]).sum()
    products = counter.get_total_flops()
    tokens = 4 * 16
    attention = 4 * model.n_layer * model.n_ctx * model.d_model * tokens
    by_op = {str(op): n for ops in counter.flop_counts.values() for op, n in ops.items()}
    counted = any("scaled_dot_product" in op for op in by_op)
    assert products + (0 if counted else attention) == (
        flops_per_token(model, 100, "matmul") / 3 * tokens
    )


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


def test_unknown_convention():
    with pytest.raises(ConfigError, match="the conventions are 6N, kaplan"):
        flops_per_token(ModelConfig(), 256, "8N")
