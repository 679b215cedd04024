"""Attention: torch's kernel, and one written for torch.compile on CPUs."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.model_config import ROPE_BASE

_BLOCKS = 4
"""Number of blocks of queries. With 4, at most a fifth of the computed logits are masked; more
blocks would make the matrix products too small."""
_LONGEST = 512
"""Longest context for the blocked kernel. At 1024 it gains nothing, and the tensors that it keeps
for the backward pass, [T, T] per head, would dominate a layer's activations."""
_MOST_SEQUENCES = 2**15
"""Sequences of all models in one call of a GPU's kernel. Some versions of torch launch one block
per sequence along an axis of CUDA's grid that ends at 65535."""


def attend(
    query_bhtc: Tensor,
    key_bhtc: Tensor,
    value_bhtc: Tensor,
    scale: float,
    *,
    causal: bool = True,
) -> Tensor:
    """Return softmax(scale Q K^T) V, where each position attends to itself and earlier ones; to all
    if the attention is not causal.

    Queries, keys and values are [B, H, T, C], with equal numbers of heads.
    """
    t, on_cpu = query_bhtc.shape[2], query_bhtc.device.type == "cpu"
    if causal and torch.compiler.is_compiling() and on_cpu and t <= _LONGEST:
        inputs = (x.flatten(0, 1) for x in (query_bhtc, key_bhtc, value_bhtc))
        y, *_ = BlockedAttention.apply(*inputs, scale, min(_BLOCKS, t))
        return y.view(query_bhtc.shape)
    if not on_cpu and len(query_bhtc) > _MOST_SEQUENCES:
        return in_parts(query_bhtc, key_bhtc, value_bhtc, scale, causal=causal)
    return _torchs(query_bhtc, key_bhtc, value_bhtc, scale, causal)


def _torchs(
    query_bhtc: Tensor, key_bhtc: Tensor, value_bhtc: Tensor, scale: float, causal: bool
) -> Tensor:
    return F.scaled_dot_product_attention(
        query_bhtc, key_bhtc, value_bhtc, is_causal=causal, scale=scale
    )


def in_parts(
    query_bhtc: Tensor,
    key_bhtc: Tensor,
    value_bhtc: Tensor,
    scale: float,
    *,
    causal: bool = True,
) -> Tensor:
    """Return what :func:`attend` does, for more sequences than a GPU's kernel takes at once."""
    each = (x.split(_MOST_SEQUENCES) for x in (query_bhtc, key_bhtc, value_bhtc))
    return torch.cat([_torchs(q, k, v, scale, causal) for q, k, v in zip(*each, strict=True)])


def rotations(positions: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cos and sin [positions, width / 2] of the rotary encoding in float64.

    Channel pair (j, j + width / 2) of position t is rotated by t ROPE_BASE^(-2j / width) (Su et al.
    2021).
    """
    j = torch.arange(0, width, 2, device=device, dtype=torch.float64)
    t = torch.arange(positions, device=device, dtype=torch.float64)
    angle_tc = t[:, None] * ROPE_BASE ** (-j / width)
    return angle_tc.cos(), angle_tc.sin()


class BlockedAttention(torch.autograd.Function):
    """:func:`attend` for [N, T, C], in blocks of queries.

    Each block is multiplied with the keys up to the end of the block, so that few masked logits are
    computed. It is written for torch.compile, which fuses the operations between the products. For
    the small heads of small models, forward and backward take 0.5 to 0.8 times as long as torch's
    kernel for CPUs.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        query_ntc: Tensor, key_ntc: Tensor, value_ntc: Tensor, scale: float, blocks: int
    ) -> tuple[Tensor, ...]:
        t = query_ntc.shape[1]
        y, weights, totals = [], [], []
        for a, b in _blocks(t, blocks):
            logits_nqt = torch.bmm(scale * query_ntc[:, a:b], key_ntc[:, :b].transpose(1, 2))
            at_q1 = torch.arange(a, b, device=query_ntc.device, dtype=torch.int32)[:, None]
            at_t = torch.arange(b, device=query_ntc.device, dtype=torch.int32)
            logits_nqt = torch.where(at_t > at_q1, -math.inf, logits_nqt)
            weight_nqt = (logits_nqt - logits_nqt.amax(2, keepdim=True)).exp()
            total_nq1 = weight_nqt.sum(2, keepdim=True)
            y.append(torch.bmm(weight_nqt, value_ntc[:, :b]) / total_nq1)
            weights.append(weight_nqt)
            totals.append(total_nq1)
        return torch.cat(y, 1), *weights, *totals

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.scale, ctx.blocks = inputs[3:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:3], *output)

    @staticmethod
    def backward(ctx, grad_ntc: Tensor, *_):  # type: ignore[override]
        query_ntc, key_ntc, value_ntc, y_ntc, *kept = ctx.saved_tensors
        bounds = _blocks(query_ntc.shape[1], ctx.blocks)
        grad_query, grad_key, grad_value = [], [0.0] * ctx.blocks, [0.0] * ctx.blocks
        for (a, b), weight_nqt, total_nq1 in zip(
            bounds, kept[: ctx.blocks], kept[ctx.blocks :], strict=True
        ):
            g_nqc = grad_ntc[:, a:b] / total_nq1
            along_nq1 = (y_ntc[:, a:b] * g_nqc).sum(2, keepdim=True)
            grad_weight_nqt = torch.bmm(g_nqc, value_ntc[:, :b].transpose(1, 2))
            grad_logits_nqt = weight_nqt * (grad_weight_nqt - along_nq1)
            grad_query.append(ctx.scale * torch.bmm(grad_logits_nqt, key_ntc[:, :b]))
            to_key = torch.bmm(grad_logits_nqt.transpose(1, 2), ctx.scale * query_ntc[:, a:b])
            to_value = torch.bmm(weight_nqt.transpose(1, 2), g_nqc)
            for i, (c, d) in enumerate(bounds):
                if d <= b:
                    grad_key[i] = grad_key[i] + to_key[:, c:d]
                    grad_value[i] = grad_value[i] + to_value[:, c:d]
        return *(torch.cat(x, 1) for x in (grad_query, grad_key, grad_value)), None, None


def _blocks(t: int, number: int) -> list[tuple[int, int]]:
    """Return the bounds of `number` blocks of t positions."""
    cuts = [t * i // number for i in range(number + 1)]
    return list(itertools.pairwise(cuts))
