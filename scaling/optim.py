"""AdamW over the flat parameters of K models, and the learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scaling.config import OptimConfig, RunConfig, peak_lr
from scaling.count import parameters


def warmup_steps(run: RunConfig) -> int:
    """Steps of linear warm-up, at most all of them."""
    if run.optim.warmup_tokens is not None:
        return min(run.S, math.ceil(run.optim.warmup_tokens / run.batch_tokens))
    return round(run.optim.warmup_fraction * run.S)


def peaks(run: RunConfig) -> tuple[float, float]:
    """Peak learning rates of (matrices, all else); the rules see the exact N, D and B."""
    N = parameters(run.model, run.data.vocab_size).N
    rules = run.optim.lr, run.optim.lr if run.optim.lr_embedding is None else run.optim.lr_embedding
    matrices, other = (peak_lr(rule, N=N, D=run.D, B=run.batch_tokens) for rule in rules)
    return matrices, other


def schedule(run: RunConfig, step: int) -> float:
    """Learning rate of `step` (0 to S - 1) over the peak.

    The last step of a cosine or linear run has `final_fraction` (unless warm-up takes all steps but
    one, or all); that of a wsd run (warm-up, stable,
    decay: Hu et al. 2024, arXiv 2404.06395; cooldown as in Hägele et al. 2024, arXiv 2405.18392) is
    one step short of zero.
    """
    o, S, W = run.optim, run.S, warmup_steps(run)
    if step < W:
        return (step + 1) / W
    if o.schedule == "constant":
        return 1.0
    if o.schedule == "wsd":
        cooldown = max(1, round(o.cooldown_fraction * S))
        return min(1.0, (S - step) / cooldown)
    progress = (step - W) / max(1, S - 1 - W)
    if o.schedule == "linear":
        return 1 - (1 - o.final_fraction) * progress
    return o.final_fraction + (1 - o.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


class AdamW:
    """Decoupled AdamW (Loshchilov & Hutter 2019) for rows of flat parameters [K, P]: every row has
    its own learning rates, decay and clipping. torch's fused kernel runs on each row's two slices,
    decayed and not, so a row is the same alone and in a pack."""

    def __init__(self, flat_kp: Tensor, P_decayed: int, configs: Sequence[OptimConfig]) -> None:
        self.flat_kp = flat_kp
        self.P_decayed = P_decayed
        self.mean_kp = torch.zeros_like(flat_kp, requires_grad=False)
        self.square_kp = torch.zeros_like(flat_kp, requires_grad=False)
        self.clip_k = flat_kp.new_tensor([math.inf if c.clip is None else c.clip for c in configs])
        self.adamw = torch.optim.AdamW(
            [
                {
                    "params": [parameters_p],
                    "weight_decay": decay,
                    "betas": (c.beta1, c.beta2),
                    "eps": c.eps,
                    "lr": 0.0,
                }
                for row_p, c in zip(flat_kp.detach(), configs, strict=True)
                for parameters_p, decay in zip(
                    self._slices(row_p), (c.weight_decay, 0.0), strict=True
                )
            ],
            fused=True,
        )
        # The moments are slices of two tensors of ours: rows are then copied, dropped and saved whole.
        moments = [
            pair
            for rows in zip(self.mean_kp, self.square_kp, strict=True)
            for pair in zip(*map(self._slices, rows), strict=True)
        ]
        for group, (mean, square) in zip(self.adamw.param_groups, moments, strict=True):
            self.adamw.state[group["params"][0]] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat_kp.device),
                "exp_avg": mean,
                "exp_avg_sq": square,
            }

    def _slices(self, row_p: Tensor) -> tuple[Tensor, Tensor]:
        return row_p[: self.P_decayed], row_p[self.P_decayed :]

    def step(self, grad_kp: Tensor, lr: Sequence[tuple[float, float]]) -> None:
        """One update in place with each row's learning rates of (matrices, all else); `grad_kp` is
        clipped in place, each row by its own norm."""
        scale_k = (self.clip_k / (grad_kp.norm(dim=1) + 1e-6)).clamp_(max=1.0)
        if scale_k.is_cuda or bool(
            (scale_k < 1).any()
        ):  # to look costs a GPU more than to multiply
            grad_kp.mul_(scale_k[:, None])
        slices = [part for row_p in grad_kp for part in self._slices(row_p)]
        rates = [rate for pair in lr for rate in pair]
        for group, part, rate in zip(self.adamw.param_groups, slices, rates, strict=True):
            group["lr"] = rate
            group["params"][0].grad = part
        self.adamw.step()

    def row(self, k: int) -> dict[str, Tensor | float]:
        """What a checkpoint holds of row k."""
        step = self.adamw.state[self.adamw.param_groups[2 * k]["params"][0]]["step"].item()
        return {"mean": self.mean_kp[k], "square": self.square_kp[k], "step": step}

    def load_row(self, k: int, saved: dict[str, Any]) -> None:
        """The reverse of :meth:`row`."""
        self.mean_kp[k].copy_(saved["mean"])
        self.square_kp[k].copy_(saved["square"])
        for group in self.adamw.param_groups[2 * k : 2 * k + 2]:
            self.adamw.state[group["params"][0]]["step"].fill_(saved["step"])
