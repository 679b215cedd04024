"""The decoder against torch's own modules, and the properties every decoder has."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scaling.config import ModelConfig
from scaling.model import Decoder

SHAPE = ModelConfig(n_layer=2, d_model=24, n_head=3, d_ff=40, n_ctx=16)
V = 50


def reference_logits(decoder, flat_p, tokens):
    """The same function written with torch's modules and functionals, one model."""
    p = {name: value[0] for name, value in decoder.named(flat_p[None]).items()}
    d, heads = decoder.model.d_model, decoder.model.n_head
    x = p["token_embedding"][tokens] + p["position_embedding"][: tokens.shape[1]]
    mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=x.dtype)
    for i in range(decoder.model.n_layer):
        y = F.layer_norm(x, (d,), p[f"{i}.norm1.weight"], p[f"{i}.norm1.bias"])
        attention = nn.MultiheadAttention(d, heads, batch_first=True).to(x.dtype)
        with torch.no_grad():
            attention.in_proj_weight.copy_(p[f"{i}.qkv.weight"].t())
            attention.in_proj_bias.copy_(p[f"{i}.qkv.bias"])
            attention.out_proj.weight.copy_(p[f"{i}.projection.weight"].t())
            attention.out_proj.bias.copy_(p[f"{i}.projection.bias"])
        x = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = F.layer_norm(x, (d,), p[f"{i}.norm2.weight"], p[f"{i}.norm2.bias"])
        y = F.gelu(y @ p[f"{i}.up.weight"] + p[f"{i}.up.bias"], approximate="tanh")
        x = x + y @ p[f"{i}.down.weight"] + p[f"{i}.down.bias"]
    x = F.layer_norm(x, (d,), p["norm.weight"], p["norm.bias"])
    return x @ (p["token_embedding"] if decoder.model.tied else p["head"]).t()


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def decoder(request):
    return Decoder(ModelConfig(**{**SHAPE.__dict__, "tied": request.param}), V)


def noisy(decoder, seeds):
    """Parameters far from their special initial values, float64."""
    generator = torch.Generator().manual_seed(0)
    flat = decoder.init(seeds).double()
    return flat + 0.3 * torch.randn(flat.shape, generator=generator, dtype=flat.dtype)


def test_logits_equal_the_reference(decoder):
    flat = noisy(decoder, [0])
    tokens = torch.randint(0, V, (4, 16))
    ours = decoder.logits(flat, tokens[None]).view(4, 16, V)
    torch.testing.assert_close(ours, reference_logits(decoder, flat[0], tokens))


def test_members_of_a_stack_are_the_models_alone(decoder):
    flat = noisy(decoder, [0, 1, 2])
    windows = torch.randint(0, V, (3, 4, 17))
    together = decoder.mean_loss(flat, windows)
    alone = torch.cat([decoder.mean_loss(flat[i : i + 1], windows[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_loss_and_gradient_equal_autograd(decoder):
    flat = noisy(decoder, [0, 1]).requires_grad_()
    windows = torch.randint(0, V, (2, 4, 17))
    logits = decoder.logits(flat, windows[:, :, :-1])
    plain = F.cross_entropy(
        logits.view(-1, V), windows[:, :, 1:].reshape(-1), reduction="none"
    ).view(2, 4, 16)
    torch.testing.assert_close(decoder.losses(flat, windows), plain.float())
    weights = torch.tensor([1.0, -2.5])  # each member's own share of the upstream gradient
    (expected,) = torch.autograd.grad((plain.mean((1, 2)) * weights).sum(), flat)
    (ours,) = torch.autograd.grad((decoder.mean_loss(flat, windows) * weights).sum(), flat)
    torch.testing.assert_close(ours, expected)


def test_gradient_over_several_chunks(decoder, monkeypatch):
    monkeypatch.setattr("scaling.model._CHUNK_LOGITS", {"cpu": 7 * V})
    test_loss_and_gradient_equal_autograd(decoder)


def test_initial_loss_is_that_of_knowing_nothing():
    decoder = Decoder(ModelConfig(n_layer=4, d_model=64, n_head=4), 1024)
    windows = torch.randint(0, 1024, (1, 16, 129))
    loss = decoder.losses(decoder.init([0]), windows).mean().item()
    assert loss == pytest.approx(math.log(1024), abs=0.05)


def test_causality(decoder):
    flat = noisy(decoder, [0])
    tokens = torch.randint(0, V, (1, 1, 16))
    changed = tokens.clone()
    changed[0, 0, 9:] = (changed[0, 0, 9:] + 1) % V
    a, b = (decoder.logits(flat, t)[0] for t in (tokens, changed))
    torch.testing.assert_close(a[:9], b[:9], rtol=0, atol=0)
    assert (a[9:] != b[9:]).all(1).all()


def test_shorter_sequences(decoder):
    flat = noisy(decoder, [0])
    tokens = torch.randint(0, V, (1, 2, 16))
    whole = decoder.logits(flat, tokens).view(2, 16, V)[:, :5]
    torch.testing.assert_close(decoder.logits(flat, tokens[:, :, :5]).view(2, 5, V), whole)


def test_initial_weights_are_those_of_gpt2():
    decoder = Decoder(ModelConfig(n_layer=8, d_model=128, n_head=4), 1024)
    p = {name: value[0] for name, value in decoder.named(decoder.init([0])).items()}
    for name, value in p.items():
        if name.endswith("bias"):
            assert (value == 0).all()
        elif "norm" in name:
            assert (value == 1).all()
        else:
            residual = name.endswith(("projection.weight", "down.weight"))
            std = 0.02 / math.sqrt(16) if residual else 0.02  # Radford et al. 2019, section 2.3
            assert value.std().item() == pytest.approx(std, rel=0.05)


def test_seeds_give_their_own_weights():
    decoder = Decoder(SHAPE, V)
    both = decoder.init([4, 5])
    assert (both[1] == decoder.init([5])[0]).all()
    assert (both[0] != both[1]).any()


def test_decay_covers_matrices_only():
    decoder = Decoder(SHAPE, V)
    flat = torch.zeros(1, decoder.P)
    flat[:, : decoder.P_decayed] = 1
    for name, value in decoder.named(flat).items():
        matrix = name.split(".")[-1] == "weight" and value.dim() == 3
        assert (value == float(matrix)).all(), name


def test_bfloat16_loss_is_near():
    decoder = Decoder(SHAPE, V)
    flat = decoder.init([0]).requires_grad_()
    windows = torch.randint(0, V, (1, 4, 17))
    exact = decoder.mean_loss(flat, windows)
    with torch.autocast("cpu", torch.bfloat16):
        rough = decoder.mean_loss(flat, windows)
    (a,) = torch.autograd.grad(exact.sum(), flat)
    (b,) = torch.autograd.grad(rough.sum(), flat)
    assert rough.dtype == torch.float32 and b.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=1e-2, atol=1e-2)
    assert F.cosine_similarity(a, b).item() > 0.99
