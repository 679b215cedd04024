"""Blocked attention against torch's kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from scaling.models import attention
from scaling.models.attention import BlockedAttention, attend


def random(seed: int, *shape: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(4)]


def with_gradients(function, query, key, value, grad) -> list[torch.Tensor]:
    three = [x.clone().requires_grad_() for x in (query, key, value)]
    y = function(*three)
    return [y, *torch.autograd.grad(y, three, grad)]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 21),
    st.integers(1, 9),
    st.floats(0.05, 2.0),
    st.integers(1, 6),
)
def test_blocked_attention_equals_torchs_in_value_and_gradients(n, t, c, scale, blocks):
    four = random(17 * t + c, n, t, c)
    ours = with_gradients(
        lambda q, k, v: BlockedAttention.apply(q, k, v, scale, min(blocks, t))[0], *four
    )
    theirs = with_gradients(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale), *four
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_logits_of_any_size_neither_overflow_nor_vanish():
    query, key, value, grad = random(1, 2, 12, 4)
    for large in (1e3, 1e-300):
        for x in with_gradients(
            lambda q, k, v: BlockedAttention.apply(q, k, v, 1.0, 3)[0],
            large * query,
            key,
            value,
            grad,
        ):
            assert x.isfinite().all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # within torch
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # likewise
@pytest.mark.parametrize("t", [3, 34])
def test_compiled_attention_is_blocked_and_causal(t, monkeypatch):
    query, key, value, grad = random(2, 2, 3, t, 8)
    seen = []
    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F,
        "scaled_dot_product_attention",
        lambda *a, **k: seen.append(1) or plain(*a, **k),
    )
    expected = with_gradients(lambda *x: attend(*x, 0.3), query, key, value, grad)
    assert seen == [1]
    compiled = torch.compile(lambda *x: attend(*x, 0.3))
    ours = with_gradients(compiled, query, key, value, grad)
    assert seen == [1]
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    key[:, :, -1], value[:, :, -1] = 9.0, -9.0
    torch.testing.assert_close(
        compiled(query, key, value)[:, :, :-1], ours[0][:, :, :-1], rtol=0, atol=0
    )
