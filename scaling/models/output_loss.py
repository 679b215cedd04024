"""The output layer and its cross-entropy, in chunks. Shape suffixes as in scaling/model.py."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

_CHUNK_LOGITS = {"cpu": 1 << 20}
_CHUNK_LOGITS_ELSEWHERE = 1 << 27
"""Logits per chunk of the output layer: on a CPU as many as a core's L2 cache holds, else 512
MB."""

_FUSED_LOGITS = {"cpu": 1 << 22}
_FUSED_LOGITS_ELSEWHERE = 1 << 29
"""Logits of one model that compiled code keeps at once: on a CPU as many as are faster than chunks,
else 2 GB in float32."""


def most_fused(device: torch.device) -> int:
    """Return the most logits of one model that compiled code keeps at once; more are cut into
    chunks."""
    return _FUSED_LOGITS.get(device.type, _FUSED_LOGITS_ELSEWHERE)


def output_loss(
    x_knd: Tensor, head_kvd: Tensor, targets_kn: Tensor, *, grad: bool, z_loss: float = 0.0
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the cross-entropy [K, N] of an output layer and, with `grad`, gradients of its mean
    over N.

    The gradients are those of the inputs and of the layer's weights, and include the z-loss. The
    computation works on chunks of models and tokens whose logits fit in the cache: for a small
    model, logits are most of a step's memory traffic. No device ever holds all of [tokens,
    vocabulary]. How the tokens are divided does not depend on K, so sums are the same alone and in
    a pack.
    """
    k, n, _ = x_knd.shape
    device = x_knd.device.type
    most = _CHUNK_LOGITS.get(device, _CHUNK_LOGITS_ELSEWHERE)
    tokens = max(1, most // head_kvd.shape[1])
    models = max(1, most // (n * head_kvd.shape[1]))
    grad_x = torch.empty_like(x_knd) if grad else None
    grad_head = torch.zeros_like(head_kvd) if grad else None
    loss_kn = torch.empty(targets_kn.shape, dtype=torch.float32, device=x_knd.device)
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x_knd, head_kvd = x_knd.to(dtype), head_kvd.to(dtype)
    with torch.autocast(device, enabled=False):
        for i, a in itertools.product(range(0, k, models), range(0, n, tokens)):
            chunk = slice(i, i + models), slice(a, a + tokens)
            x_kcd, head_mvd = x_knd[chunk], head_kvd[chunk[0]]
            target_kc1 = targets_kn[chunk][..., None]
            p_kcv = torch.bmm(x_kcd, head_mvd.transpose(1, 2))
            if p_kcv.dtype == torch.bfloat16:
                p_kcv = p_kcv.float()
            top_kc1 = p_kcv.amax(2, keepdim=True)
            at_target_kc1 = p_kcv.gather(2, target_kc1) - top_kc1
            total_kc1 = p_kcv.sub_(top_kc1).exp_().sum(2, keepdim=True)
            loss_kn[chunk] = (total_kc1.log() - at_target_kc1)[:, :, 0]
            if grad_x is not None and grad_head is not None:
                # d mean / d logits = (softmax - one-hot) / n, in place of the exponentials; and
                # d z_loss (ln Z)^2 / d logits = 2 z_loss ln Z softmax
                if z_loss:
                    p_kcv.mul_(1 + 2 * z_loss * (top_kc1 + total_kc1.log()))
                p_kcv.div_(total_kc1.mul_(n))
                p_kcv.scatter_add_(2, target_kc1, torch.full_like(total_kc1, -1.0 / n))
                p_kcv = p_kcv.to(x_kcd.dtype)
                grad_x[chunk] = torch.bmm(p_kcv, head_mvd)
                grad_head[chunk[0]] += torch.bmm(p_kcv.transpose(1, 2), x_kcd)
    return loss_kn, grad_x, grad_head


class OutputLoss(torch.autograd.Function):
    """Mean cross-entropy [K] of each model's output layer; computes its gradients with the loss."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, x_knd: Tensor, head_kvd: Tensor, targets_kn: Tensor, z_loss: float
    ) -> Tensor:
        loss_kn, grad_x, grad_head = output_loss(
            x_knd, head_kvd, targets_kn, grad=True, z_loss=z_loss
        )
        ctx.save_for_backward(grad_x, grad_head)
        return loss_kn.mean(1)

    @staticmethod
    def backward(ctx, grad_k: Tensor):  # type: ignore[override]
        grad_x, grad_head = ctx.saved_tensors
        grad_k11 = grad_k[:, None, None]
        return grad_x * grad_k11, grad_head * grad_k11, None, None


class FusedLoss(torch.autograd.Function):
    """:class:`OutputLoss` for torch.compile, in one pass over all logits, which are kept at once.

    Differentiating a cross-entropy automatically takes three times as long.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        x_knd: Tensor, head_kvd: Tensor, targets_kn: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, target_kn1 = targets_kn.shape[1], targets_kn[..., None]
        logits_knv = torch.bmm(x_knd, head_kvd.transpose(1, 2))
        x_knv = logits_knv.float()
        top_kn1 = x_knv.amax(2, keepdim=True)
        p_knv = (x_knv - top_kn1).exp()
        total_kn1 = p_knv.sum(2, keepdim=True)
        ln_z_kn1 = top_kn1 + total_kn1.log()
        loss_kn1 = ln_z_kn1 - x_knv.gather(2, target_kn1)
        p_knv = p_knv * ((1 + 2 * z_loss * ln_z_kn1) / (n * total_kn1))
        token_v = torch.arange(x_knv.shape[2], device=x_knv.device, dtype=torch.int32)
        p_knv = p_knv - torch.where(token_v == target_kn1.int(), 1 / n, 0.0)
        grad_knv = p_knv.to(logits_knv.dtype)
        grad_x = torch.bmm(grad_knv, head_kvd).to(x_knd.dtype)
        grad_head = torch.bmm(grad_knv.transpose(1, 2), x_knd).to(head_kvd.dtype)
        return loss_kn1[:, :, 0].mean(1), grad_x, grad_head

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx, grad_k: Tensor, *_):  # type: ignore[override]
        grad_x, grad_head = ctx.saved_tensors
        grad_k11 = grad_k[:, None, None]
        return grad_x * grad_k11, grad_head * grad_k11, None, None
