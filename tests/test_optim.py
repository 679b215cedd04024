"""Learning-rate schedules, optimizers and muP."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaling.config import ModelConfig, OptimConfig, from_dict, override
from scaling.errors import ConfigError
from scaling.models.decoder import Decoder
from scaling.training import optim
from scaling.training.optim import Optimizer, StackedAdamW
from scaling.training.schedule import peaks, schedule, warmup_steps

schedules = st.sampled_from(["cosine", "linear", "constant", "wsd"])
fractions = st.one_of(st.just(0.0), st.floats(1e-6, 1))


def run_of(S, **optim):
    return from_dict({"tokens": S * 128, "batch_tokens": 128, "optim": optim})


@given(schedules, st.integers(1, 500), fractions, fractions, fractions)
def test_schedules_stay_between_zero_and_the_peak(name, S, warmup, final, cooldown):
    run = run_of(
        S,
        schedule=name,
        warmup_fraction=warmup,
        final_fraction=final,
        cooldown_fraction=min(cooldown, 1 - warmup),
    )
    values = [schedule(run, step) for step in range(S)]
    assert all(0 < v <= 1 or (v == 0 and final == 0) for v in values)
    W = warmup_steps(run)
    assert values[:W] == [(step + 1) / W for step in range(W)]
    after = values[W:]
    assert after == sorted(after, reverse=True)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_last_step_has_the_final_fraction(name):
    run = run_of(100, schedule=name, warmup_fraction=0.1, final_fraction=0.25)
    assert schedule(run, 99) == pytest.approx(0.25)
    assert schedule(run, 10) == 1
    middle = (10 + 99) / 2
    assert (schedule(run, int(middle)) + schedule(run, int(middle) + 1)) / 2 == pytest.approx(0.625)


def test_a_wsd_trunk_does_not_depend_on_its_horizon():
    short, long = (
        run_of(S, schedule="wsd", warmup_tokens=10 * 128, cooldown_fraction=0.2) for S in (100, 200)
    )
    assert [schedule(short, s) for s in range(80)] == [schedule(long, s) for s in range(80)]
    assert schedule(short, 80) == 1.0 and schedule(short, 90) == 0.5
    assert schedule(short, 99) == pytest.approx(1 / 20)


def test_warmup_tokens_take_precedence():
    assert warmup_steps(run_of(100, warmup_tokens=1000)) == 8
    assert warmup_steps(run_of(4, warmup_tokens=10**9)) == 4
    assert warmup_steps(run_of(4, warmup_tokens=0)) == 0


def test_peaks_follow_the_rules():
    run = from_dict({"optim.lr": "kaplan", "optim.lr_embedding": "2 B^-1"})
    matrices, other = peaks(run)
    assert 0.0014 < matrices < 0.0018 and other == 2 / 4096
    assert peaks(from_dict({"optim.lr": 0.5})) == (0.5, 0.5)


def by_hand(p, grads, c, lr, decay):
    """AdamW as printed in Loshchilov & Hutter 2019, algorithm 2, with Adam's bias correction."""
    m = v = torch.zeros_like(p)
    for t, g in enumerate(grads, 1):
        m = c.beta1 * m + (1 - c.beta1) * g
        v = c.beta2 * v + (1 - c.beta2) * g * g
        m_hat, v_hat = m / (1 - c.beta1**t), v / (1 - c.beta2**t)
        p = p * (1 - lr * decay) - lr * m_hat / (v_hat.sqrt() + c.eps)
    return p


def slots(matrices, P=10):
    """A stand-in for a model that only knows where its tensors lie."""
    ends = {"matrix": matrices, "embedding": matrices + 1, "head": matrices + 1, "vector": P}
    return SimpleNamespace(ends=ends, P=P, offsets={}, model=ModelConfig())


def test_adamw_matches_the_paper_with_settings_by_row():
    configs = [
        OptimConfig(beta2=0.9, weight_decay=0.3, clip=None),
        OptimConfig(beta1=0.5, weight_decay=0.0, clip=None),
    ]
    start = torch.randn(2, 10, dtype=torch.float64)
    flat = start.clone().requires_grad_()
    optimizer = Optimizer(flat, slots(6), configs)
    grads = [torch.randn(2, 10, dtype=torch.float64) for _ in range(5)]
    for g in grads:
        optimizer.step(g.clone(), [(0.1, 0.2), (0.01, 0.02)])
    for k, (c, lr) in enumerate(zip(configs, [(0.1, 0.2), (0.01, 0.02)], strict=True)):
        for part, rate, decay in ((slice(0, 6), lr[0], c.weight_decay), (slice(6, 10), lr[1], 0)):
            expected = by_hand(start[k, part], [g[k, part] for g in grads], c, rate, decay)
            torch.testing.assert_close(flat[k, part].detach(), expected)


def test_norms_of_long_rows_are_accurate():
    for P in (1000, 2**15, 3 * 10**7):
        x_kp = torch.arange(2 * P, dtype=torch.float32).sin_().view(2, P)
        exact_k = torch.linalg.vector_norm(x_kp, dim=1, dtype=torch.float64)
        torch.testing.assert_close(optim.norm(x_kp).double(), exact_k, rtol=1e-6, atol=0)


def test_clipping_is_by_row():
    flat = torch.zeros(2, 4).requires_grad_()
    optimizer = Optimizer(flat, slots(2, 4), [OptimConfig(clip=1.0)] * 2)
    grad = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.3, 0.4, 0.0, 0.0]])
    norms = optimizer.step(grad, [(0.1, 0.1), (0.1, 0.1)])
    assert norms.tolist() == pytest.approx([5.0, 0.5])
    assert grad[0].norm().item() == pytest.approx(1.0, rel=1e-4)
    assert grad[1].tolist() == pytest.approx([0.3, 0.4, 0.0, 0.0])


@pytest.mark.parametrize(
    ("decay", "decayed"),
    [("matrices", {"matrix"}), ("embeddings", {"matrix", "embedding", "head"}), ("all", None)],
)
@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon"])
def test_decay_acts_on_the_chosen_tensors(kind, decay, decayed):
    model = Decoder(ModelConfig(n_layer=1, d_model=8, tied=False, n_ctx=4), 16)
    flat = torch.ones(1, model.P)
    config = OptimConfig(optimizer=kind, decay=decay, weight_decay=0.5)
    Optimizer(flat, model, [config]).step(torch.zeros(1, model.P), [(0.1, 0.1)])
    for name, value in model.named(flat).items():
        expected = 0.95 if decayed is None or model.kind(name) in decayed else 1.0
        # Adafactor's lr is at most 1 / sqrt(step)
        torch.testing.assert_close(value, torch.full_like(value, expected), msg=name)


def random_rows(model, K=2):
    generator = torch.Generator().manual_seed(1)
    flat = model.init(list(range(K)))
    return flat, [torch.randn(flat.shape, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("kind", ["adafactor", "muon"])
def test_matrices_are_updated_as_by_torch_alone(kind):
    shape = ModelConfig(n_layer=1, d_model=8, n_kv_head=1, activation="swiglu", n_ctx=4)
    model = Decoder(shape, 16)
    flat, grads = random_rows(model)
    config = OptimConfig(optimizer=kind, clip=None, weight_decay=0.3)
    start = {name: value[1].clone() for name, value in model.named(flat).items()}
    optimizer = Optimizer(flat, model, [OptimConfig(), config])  # a pack may mix kinds
    for grad in grads:
        optimizer.step(grad.clone(), [(0.1, 0.1), (0.02, 0.05)])
    after = {name: value[1] for name, value in model.named(flat).items()}
    named = [{n: g[1] for n, g in model.named(grad).items()} for grad in grads]
    for name, columns in (
        ("0.qkv.weight", (8, 4, 4)),
        ("0.up.weight", (24, 24)),
        ("0.down.weight", None),
    ):
        for number, piece in enumerate(start[name].split(columns, 1) if columns else [start[name]]):
            parameter = torch.nn.Parameter(piece.clone())
            if kind == "muon":
                alone = torch.optim.Muon(
                    [parameter], lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"
                )
            else:
                alone = torch.optim.Adafactor([parameter], lr=0.02, weight_decay=0.3)
            for grad in named:
                g = grad[name].split(columns, 1)[number] if columns else grad[name]
                parameter.grad = g.contiguous()
                alone.step()
            ours = after[name].split(columns, 1)[number] if columns else after[name]
            torch.testing.assert_close(ours, parameter.detach(), rtol=1e-4, atol=1e-6)
    if kind == "muon":  # other parameters use AdamW
        expected = by_hand(
            start["norm.weight"], [g["norm.weight"] for g in named], config, 0.05, 0.0
        )
        torch.testing.assert_close(after["norm.weight"], expected)


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon"])
def test_a_saved_row_continues_exactly(kind):
    model = Decoder(ModelConfig(n_layer=1, d_model=8, n_ctx=4), 16)
    flat, grads = random_rows(model)
    config = OptimConfig(optimizer=kind)
    rates = [(0.01, 0.02)] * 2
    first = Optimizer(flat, model, [config] * 2)
    first.step(grads[0].clone(), rates)
    copy = flat[1:].clone()
    second = Optimizer(copy, model, [config])
    second.load_row(0, first.row(1))
    for grad in grads[1:]:
        first.step(grad.clone(), rates)
        second.step(grad[1:].clone(), rates[:1])
    assert (copy[0] == flat[1]).all()


def test_muon_needs_a_recent_torch(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    model = Decoder(ModelConfig(n_layer=1, d_model=8, n_ctx=4), 16)
    with pytest.raises(ConfigError, match=r"needs torch 2\.9 or later"):
        Optimizer(model.init([0]), model, [OptimConfig(optimizer="muon")])


# ------------------------------------------------------------------ muP


def drift(width, *, mup, optimizer="adamw", lr=2e-3):
    """RMS change of (hidden states before the output layer, logits) in four steps, and the loss."""
    shape = {"n_layer": 2, "d_model": width, "n_head": 2, "n_ctx": 16}
    run = from_dict(
        {"model": shape | ({"mup_base_width": 32} if mup else {}), "tokens": 8 * 128}
        | {
            "optim": {
                "lr": lr,
                "lr_embedding": 1e-4,
                "schedule": "constant",
                "optimizer": optimizer,
            },
            "batch_tokens": 128,
        }
    )
    model = Decoder(run.model, 64)
    flat = model.init([0]).requires_grad_()
    windows = torch.randint(0, 64, (1, 8, 17), generator=torch.Generator().manual_seed(0))
    inputs = windows[:, :, :-1]

    def state():
        with torch.no_grad():
            return model.hidden(model.named(flat), inputs), model.logits(flat, inputs)

    before = state()
    steps = Optimizer(flat, model, [run.optim])
    for _ in range(4):
        loss = model.mean_loss(flat, windows)
        (grad,) = torch.autograd.grad(loss.sum(), flat)
        steps.step(grad, [peaks(run)])
    return [(b - a).square().mean().sqrt().item() for a, b in zip(before, state(), strict=True)]


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("adamw", 1e-3), ("muon", 2e-3), ("adafactor", 1e-2)]
)
def test_coordinates_keep_their_size_with_width_in_mup(optimizer, lr):
    """The change of hidden states and logits in a few steps does not grow with width in muP, but
    does in the standard parametrisation (Yang et al. 2022, appendix D.1)."""
    widths = (32, 64, 128, 256)
    for mup in (True, False):
        changes = torch.tensor([drift(w, mup=mup, optimizer=optimizer, lr=lr) for w in widths])
        x = torch.tensor(widths).log2()
        slope = ((x - x.mean())[:, None] * changes.log2()).sum(0) / (x - x.mean()).square().sum()
        hidden, logits = slope.tolist()
        if mup:  # the random part of the initial logits shrinks with width
            assert -0.2 < hidden < 0.05 and -0.5 < logits < 0.05
        else:
            assert hidden > 0.3 and logits > 0.7


def test_mup_at_its_base_width_is_standard_except_for_attention():
    standard = from_dict({"model": {"d_model": 64, "n_head": 1}})
    mup = override(standard, {"model.mup_base_width": 64})
    a, b = Decoder(standard.model, 32), Decoder(mup.model, 32)
    flat = a.init([0])
    assert (b.init([0]) == flat).all() and peaks(standard) == peaks(mup)
    tokens = torch.randint(0, 32, (1, 1, 1))  # one token attends to itself, at any scale
    assert (a.logits(flat, tokens) == b.logits(flat, tokens)).all()


def test_the_compiled_kernel_is_adamw(monkeypatch):
    # This checks the arithmetic; the slow test of a compiled pack checks the compiler.
    monkeypatch.setattr(optim, "_compiled_adamw", lambda device: optim.adamw)
    model = Decoder(ModelConfig(n_layer=1, d_model=8, n_head=2, n_ctx=16), 32)
    configs = [
        OptimConfig(weight_decay=0.1, clip=None),
        OptimConfig(decay="all", clip=0.1, beta1=0.8, beta2=0.99, eps=1e-5),
        OptimConfig(decay="embeddings", weight_decay=0.3),
    ]
    a_kp, b_kp = (model.init([1, 2, 3]).requires_grad_() for _ in range(2))
    a, b = Optimizer(a_kp, model, configs), StackedAdamW(b_kp, model, configs)
    assert b.row(0) == {} == a.row(0)
    lr = [(0.01, 0.02), (0.03, 0.01), (0.002, 0.005)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        grad_kp = torch.randn(a_kp.shape, generator=generator)
        norms = [kind.step(grad_kp.clone(), lr) for kind in (a, b)]
        torch.testing.assert_close(*norms)
    torch.testing.assert_close(a_kp, b_kp, atol=1e-6, rtol=1e-5)
    # Either can resume from the state of the other.
    c_kp = a_kp.detach().clone().requires_grad_()
    c = StackedAdamW(c_kp, model, configs)
    for k in range(3):
        assert a.row(k).keys() == b.row(k).keys()
        c.load_row(k, a.row(k))
        torch.testing.assert_close(c.row(k), a.row(k))
    for kind in (a, c):
        kind.step(grad_kp.clone(), lr)
    torch.testing.assert_close(a_kp, c_kp, atol=1e-6, rtol=1e-5)
