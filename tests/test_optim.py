"""Schedules and AdamW."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaling.config import OptimConfig, from_dict
from scaling.optim import AdamW
from scaling.schedule import peaks, schedule, warmup_steps

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


def test_wsd_trunk_does_not_know_its_end():
    short, long = (
        run_of(S, schedule="wsd", warmup_tokens=10 * 128, cooldown_fraction=0.2) for S in (100, 200)
    )
    assert [schedule(short, s) for s in range(80)] == [schedule(long, s) for s in range(80)]
    assert schedule(short, 80) == 1.0 and schedule(short, 90) == 0.5
    assert schedule(short, 99) == pytest.approx(1 / 20)


def test_warmup_tokens_take_precedence():
    assert warmup_steps(run_of(100, warmup_tokens=1000)) == 8
    assert warmup_steps(run_of(4, warmup_tokens=10**9)) == 4


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


def test_adamw_by_hand_each_row_with_its_own_settings():
    configs = [
        OptimConfig(beta2=0.9, weight_decay=0.3, clip=None),
        OptimConfig(beta1=0.5, weight_decay=0.0, clip=None),
    ]
    start = torch.randn(2, 10, dtype=torch.float64)
    flat = start.clone().requires_grad_()
    optimizer = AdamW(flat, 6, configs)
    grads = [torch.randn(2, 10, dtype=torch.float64) for _ in range(5)]
    for g in grads:
        optimizer.step(g.clone(), [(0.1, 0.2), (0.01, 0.02)])
    for k, (c, lr) in enumerate(zip(configs, [(0.1, 0.2), (0.01, 0.02)], strict=True)):
        for part, rate, decay in ((slice(0, 6), lr[0], c.weight_decay), (slice(6, 10), lr[1], 0)):
            expected = by_hand(start[k, part], [g[k, part] for g in grads], c, rate, decay)
            torch.testing.assert_close(flat[k, part].detach(), expected)


def test_clipping_is_by_row():
    flat = torch.zeros(2, 4).requires_grad_()
    optimizer = AdamW(flat, 2, [OptimConfig(clip=1.0), OptimConfig(clip=1.0)])
    grad = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.3, 0.4, 0.0, 0.0]])
    optimizer.step(grad, [(0.1, 0.1), (0.1, 0.1)])
    assert grad[0].norm().item() == pytest.approx(1.0, rel=1e-4)
    assert grad[1].tolist() == pytest.approx([0.3, 0.4, 0.0, 0.0])
