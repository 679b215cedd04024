"""Models against torch's own modules, and the properties that every model has."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scaling import size
from scaling.config import ModelConfig
from scaling.errors import ConfigError
from scaling.model import build
from scaling.models.decoder import Decoder

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
    return Decoder(dataclasses.replace(SHAPE, tied=request.param), V)


MODERN = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "swiglu",
    "qk_norm": True,
    "bias": False,
    "n_kv_head": 2,
}
OTHERS = {
    **{f"{key}={value}": {key: value} for key, value in MODERN.items()},
    "modern": MODERN,
    "repeat": {"n_repeat": 3},
    "lstm": {"family": "lstm"},
    "mup": {"mup_base_width": 8},
}
"""Every option alone and all of the modern ones together."""


@pytest.fixture(params=OTHERS)
def other(request):
    shape = dataclasses.replace(SHAPE, n_head=4, **OTHERS[request.param])
    return build(shape, V)


def noisy(decoder, seeds):
    """Parameters far from their special initial values, float64."""
    generator = torch.Generator().manual_seed(0)
    flat = decoder.init(seeds).double()
    return flat + 0.3 * torch.randn(flat.shape, generator=generator, dtype=flat.dtype)


@pytest.mark.parametrize("changes", [{}, {"bias": False}])
def test_large_norms_compute_the_same_function(changes, monkeypatch):
    """Large norms fuse their gains; loss and gradient differ only by rounding."""
    model = ModelConfig(n_layer=2, d_model=16, n_head=2, n_ctx=8, **changes)
    decoder = build(model, 50)
    flat = decoder.init([0, 1]).double()
    flat = (
        flat + 0.1 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1)).double()
    ).requires_grad_()
    windows = torch.randint(0, 50, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    seen = []
    for large in (0, 10**9):
        monkeypatch.setattr("scaling.models.decoder._LARGE", large)
        loss = decoder.mean_loss(flat, windows)
        seen.append((loss.detach(), *torch.autograd.grad(loss.sum(), flat)))
    for fused, plain in zip(*seen, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-14)


def test_logits_equal_the_reference(decoder):
    flat = noisy(decoder, [0])
    tokens = torch.randint(0, V, (4, 16))
    ours = decoder.logits(flat, tokens[None]).view(4, 16, V)
    torch.testing.assert_close(ours, reference_logits(decoder, flat[0], tokens))


def test_models_in_a_stack_equal_single_models(decoder):
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


def test_z_loss_is_in_the_gradient_only(decoder):
    flat = noisy(decoder, [0, 1]).requires_grad_()
    windows = torch.randint(0, V, (2, 4, 17))
    plain = decoder.mean_loss(flat, windows)
    logits = decoder.logits(flat, windows[:, :, :-1])
    Z = logits.logsumexp(2).square().mean(1)
    (expected,) = torch.autograd.grad((plain + 0.01 * Z).sum(), flat)
    decoder.z_loss = 0.01
    loss = decoder.mean_loss(flat, windows)
    (ours,) = torch.autograd.grad(loss.sum(), flat)
    assert (loss == plain).all()
    torch.testing.assert_close(ours, expected)


def test_recomputed_activations_change_no_bit(decoder):
    flat = decoder.init([0, 1]).requires_grad_()
    windows = torch.randint(0, V, (2, 4, 17))
    grads = []
    for decoder.recompute in (False, True):
        grads += torch.autograd.grad(decoder.mean_loss(flat, windows).sum(), flat)
    assert (grads[0] == grads[1]).all()


def test_gradient_over_several_chunks(decoder, monkeypatch):
    monkeypatch.setattr("scaling.models.output_loss._CHUNK_LOGITS", {"cpu": 7 * V})
    test_loss_and_gradient_equal_autograd(decoder)


def test_initial_loss_is_that_of_a_uniform_prediction():
    decoder = Decoder(ModelConfig(n_layer=4, d_model=64, n_head=4), 1024)
    windows = torch.randint(0, 1024, (1, 16, 129))
    loss = decoder.losses(decoder.init([0]), windows).mean().item()
    assert loss == pytest.approx(math.log(1024), abs=0.05)


def test_other_models_have_the_properties_of_all_models(other):
    """Stacks equal single models, loss and gradient equal autograd's, no token sees the future,
    shorter sequences work, the first prediction is uniform, and every tensor learns."""
    test_models_in_a_stack_equal_single_models(other)
    test_loss_and_gradient_equal_autograd(other)
    test_causality(other)
    test_shorter_sequences(other)
    flat = other.init([0]).requires_grad_()
    loss = other.mean_loss(flat, torch.randint(0, V, (1, 16, 17)))
    assert loss.item() == pytest.approx(math.log(V), abs=0.05)
    (grad,) = torch.autograd.grad(loss.sum(), flat)
    still = {name for name, g in other.named(grad).items() if not g.any()}
    assert still == set()
    with torch.autocast("cpu", torch.bfloat16):
        rough = other.mean_loss(flat, torch.randint(0, V, (1, 16, 17)))
    assert rough.item() == pytest.approx(math.log(V), abs=0.1)


def test_options_equal_the_reference():
    """RMSNorm, RoPE, SwiGLU, QK-norm and grouped heads as their papers print them, one token at a
    time, without any of our helpers."""
    shape = dataclasses.replace(SHAPE, n_layer=1, n_head=4, **MODERN)
    decoder = Decoder(shape, V)
    flat = noisy(decoder, [0])
    p = {name: value[0] for name, value in decoder.named(flat).items()}
    tokens = torch.randint(0, V, (7,))
    c = 6  # channels of a head

    def rms(x, gain):  # Zhang & Sennrich 2019, eq. 4
        return x / torch.sqrt((x**2).mean() + 1e-5) * gain

    def rotated(
        x, m
    ):  # Su et al. 2021, eq. 34: pairs turn by m theta_j, theta_j = 10000^(-2 j / c)
        z = torch.complex(x[: c // 2], x[c // 2 :])
        z = z * torch.exp(1j * m * 10000 ** (-2 * torch.arange(c // 2).double() / c))
        return torch.cat([z.real, z.imag])

    def heads(x, name, at):
        return [rotated(rms(h, p[f"0.{name}_norm.weight"]), at) for h in x.split(c)]

    xs = [p["token_embedding"][token] for token in tokens]
    ys = [rms(x, p["0.norm1.weight"]) @ p["0.qkv.weight"] for x in xs]
    keys = [heads(y[24:36], "key", at) for at, y in enumerate(ys)]
    values = [y[36:48].split(c) for y in ys]
    for at, y in enumerate(ys):
        mixed = []
        for h, query in enumerate(heads(y[:24], "query", at)):
            scores = torch.stack([query @ keys[s][h // 2] for s in range(at + 1)]) / math.sqrt(c)
            mixed.append(sum(w * values[s][h // 2] for s, w in enumerate(scores.softmax(0))))
        x = xs[at] + torch.cat(mixed) @ p["0.projection.weight"]
        gate, up = (rms(x, p["0.norm2.weight"]) @ p["0.up.weight"]).split(40)
        x = x + (gate * torch.sigmoid(gate) * up) @ p["0.down.weight"]  # Shazeer 2020, eq. 6
        expected = p["token_embedding"] @ rms(x, p["norm.weight"])
        torch.testing.assert_close(decoder.logits(flat, tokens[None, None])[0, at], expected)


def test_repeated_blocks_equal_a_deeper_model_with_equal_blocks():
    shared = Decoder(dataclasses.replace(SHAPE, n_layer=1, n_repeat=3), V)
    deep = Decoder(dataclasses.replace(SHAPE, n_layer=3), V)
    flat = noisy(shared, [0])
    p = shared.named(flat)
    rows = [p[f"0.{n.partition('.')[2]}" if n[0].isdigit() else n] for n in deep.shapes]
    tokens = torch.randint(0, V, (1, 2, 16))
    unrolled = torch.cat([row.reshape(1, -1) for row in rows], dim=1)
    torch.testing.assert_close(shared.logits(flat, tokens), deep.logits(unrolled, tokens))


def test_lstm_equals_the_printed_cell():
    lstm = build(dataclasses.replace(SHAPE, n_layer=1, d_model=6, family="lstm"), V)
    flat = noisy(lstm, [0])
    p = {name: value[0] for name, value in lstm.named(flat).items()}
    tokens = torch.randint(0, V, (5,))
    h = cell = torch.zeros(6, dtype=flat.dtype)
    for at, token in enumerate(tokens):
        x = p["token_embedding"][token]
        gates = p["0.input.weight"] @ x + p["0.recurrent.weight"] @ h + p["0.bias"]
        i, f, g, o = gates.split(6)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        h = o.sigmoid() * cell.tanh()
        expected = p["token_embedding"] @ h
        torch.testing.assert_close(lstm.logits(flat, tokens[None, None])[0, at], expected)


def test_a_custom_family(own_family):
    shape = dataclasses.replace(SHAPE, family=f"{own_family}:Mean")
    model = build(shape, V)
    test_models_in_a_stack_equal_single_models(model)
    test_causality(model)
    size.allow(shape.family)
    n = size.parameters(shape, V)
    assert (n.N, n.N_total) == (24 * 24, 24 * 24 + V * 24)
    assert size.flops_per_token(shape, V, "matmul") == 6 * (24 * 24 + V * 24)
    assert math.isnan(size.flops_per_token(shape, V, "chinchilla"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@family", "", "has no class Mean under the decorator @family; it has none"),
        ("class", "1 / 0\nclass", "cannot be loaded: SyntaxError"),
        ("import torch", "import torch; 1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("def tensors", "def other", "has no method 'tensors'"),
        ("(Model)", "", "is not a scaling.model.Model; derive it from Model"),
        ("(d, d)", "(d, self.zzz)", "cannot be built: AttributeError"),
    ],
)
def test_bad_families(own_family, old, new, message):
    own_family.write_text(own_family.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        build(dataclasses.replace(SHAPE, family=f"{own_family}:Mean"), V)


def test_a_family_whose_file_is_missing():
    with pytest.raises(ConfigError, match="there is no file"):
        build(dataclasses.replace(SHAPE, family="nowhere.py:Mean"), V)


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


def test_different_seeds_give_different_weights():
    decoder = Decoder(SHAPE, V)
    both = decoder.init([4, 5])
    assert (both[1] == decoder.init([5])[0]).all()
    assert (both[0] != both[1]).any()


def test_matrices_come_first():
    decoder = Decoder(SHAPE, V)
    flat = torch.zeros(1, decoder.P)
    flat[:, : decoder.ends["matrix"]] = 1
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
