"""AdamW over the flat parameters of K models, and the learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence

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

    The last step of a cosine or linear run has `final_fraction`; that of a wsd run (warm-up, stable,
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
    its own learning rate, decay and clipping. torch's fused kernel runs on each row's two slices,
    decayed and not, so a row is the same alone and in a pack."""

    def __init__(self, flat_kp: Tensor, P_decayed: int, configs: Sequence[OptimConfig]) -> None:
        self.flat_kp = flat_kp
        self.P_decayed = P_decayed
        self.clip = [c.clip for c in configs]
        data_kp = flat_kp.detach()
        groups = []
        for row_p, c in zip(data_kp, configs, strict=True):
            shared = {"betas": (c.beta1, c.beta2), "eps": c.eps, "lr": 0.0}
            groups += [
                {"params": [row_p[:P_decayed]], "weight_decay": c.weight_decay} | shared,
                {"params": [row_p[P_decayed:]], "weight_decay": 0.0} | shared,
            ]
        self.adamw = torch.optim.AdamW(groups, fused=True)

    def step(self, grad_kp: Tensor, lr: Sequence[tuple[float, float]]) -> None:
        """One update in place with each row's learning rates of (matrices, all else); `grad_kp` is
        clipped in place, each row by its own norm."""
        for row_p, clip in zip(grad_kp, self.clip, strict=True):
            if clip is not None:
                row_p.mul_((clip / (row_p.norm() + 1e-6)).clamp_(max=1.0))
        for i, group in enumerate(self.adamw.param_groups):
            row_p = grad_kp[i // 2]
            slice_p = row_p[: self.P_decayed] if i % 2 == 0 else row_p[self.P_decayed :]
            group["lr"] = lr[i // 2][i % 2]
            group["params"][0].grad = slice_p
        self.adamw.step()

    def state(self) -> dict:
        """What a checkpoint holds."""
        return self.adamw.state_dict()

    def load(self, state: dict) -> None:
        self.adamw.load_state_dict(state)
