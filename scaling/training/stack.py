"""The stacked tensors of the models that train at the same time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scaling.config import OptimConfig
from scaling.devices.device import send
from scaling.model import Model
from scaling.training.fsdp import ShardedAdamW, Sharding
from scaling.training.noise import NoiseScale
from scaling.training.optim import Optimizer, StackedAdamW
from scaling.training.state import State


class Stack:
    """K models as rows of stacked tensors, with their optimizer and running sums."""

    def __init__(
        self,
        states: Sequence[State],
        configs: Sequence[OptimConfig],
        *,
        model: Model,
        sharding: Sharding | None,
        compiled: bool,
        measure_noise: bool,
    ) -> None:
        self.flat_kp = torch.stack([state.flat_p for state in states]).requires_grad_()
        """Parameters [K, P]; with sharding, this rank's shard of each row."""
        device = self.flat_kp.device
        self.optimizer: Optimizer | StackedAdamW
        # Torch's fused kernels take a call per row, which would dominate a pack's step on a GPU.
        stacked = compiled or (device.type == "cuda" and len(states) > 1)
        if sharding is not None:
            self.optimizer = ShardedAdamW(self.flat_kp, sharding, configs)
        elif stacked and all(config.optimizer == "adamw" for config in configs):
            self.optimizer = StackedAdamW(self.flat_kp, model, configs, compiled=compiled)
        else:
            self.optimizer = Optimizer(self.flat_kp, model, configs)
        for k, state in enumerate(states):
            if state.adamw:
                self.optimizer.load_row(k, state.adamw)
        sums = [(state.loss_sum, state.norm_sum) for state in states]
        self.loss_sum_k, self.norm_sum_k = torch.tensor(sums, dtype=torch.float64, device=device).T
        self.noise: NoiseScale | None = None
        if measure_noise:
            zeros_m = torch.zeros(NoiseScale.SIZE, dtype=torch.float64, device=device)
            noise = [zeros_m if state.noise_m is None else state.noise_m for state in states]
            self.noise = NoiseScale(torch.stack(noise))
        self.ema = [config.ema or 0.0 for config in configs]
        """Decay of each row's running mean; 0 keeps the mean equal to the parameters."""
        self.mean_kp: Tensor | None = None
        if any(config.ema is not None for config in configs):
            means = [state.flat_p if state.mean_p is None else state.mean_p for state in states]
            self.mean_kp = torch.stack(means).detach()

    @property
    def evaluated_kp(self) -> Tensor:
        """The parameters whose loss is measured [K, P]: the running means if there are any."""
        return self.flat_kp.detach() if self.mean_kp is None else self.mean_kp

    def update_means(self, steps: Sequence[int]) -> None:
        """Update the running means after a step; `steps` are the steps done before it, per row."""
        if self.mean_kp is None:
            return
        # The mean adapts quickly at first: its decay is at most (1 + t) / (10 + t).
        weights = [1 - min(d, (1 + t) / (10 + t)) for d, t in zip(self.ema, steps, strict=True)]
        weight_k = send(torch.tensor(weights, dtype=self.mean_kp.dtype), self.mean_kp.device)
        self.mean_kp.lerp_(self.flat_kp.detach(), weight_k[:, None])

    def state(self, k: int) -> State:
        """Return the state of row k; its tensors are views."""
        return State(
            flat_p=self.flat_kp.detach()[k],
            adamw=self.optimizer.row(k),
            loss_sum=self.loss_sum_k[k].item(),
            norm_sum=self.norm_sum_k[k].item(),
            noise_m=None if self.noise is None else self.noise.state_km[k],
            mean_p=None if self.mean_kp is None else self.mean_kp[k],
        )
