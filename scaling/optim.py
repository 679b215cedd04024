"""AdamW over the flat parameters of K models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scaling.config import OptimConfig


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
