"""The stacked tensors of the models that train at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scaling.config import OptimConfig
from scaling.devices.device import send_each
from scaling.model import Model
from scaling.training.fsdp import ShardedAdamW, Sharding
from scaling.training.noise import NoiseScale
from scaling.training.optim import Optimizer, Rates, StackedAdamW
from scaling.training.state import State


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What one step of a stack needs from the host."""

    windows_kbt: Tensor
    """This rank's windows [K, b, T + 1]."""
    weight: float
    """Their fraction of the windows of the step."""
    rates: Rates | Tensor
    """Learning rates, in the form that the optimizer takes."""
    mean_weight_k1: Tensor | None
    """Weights of the new parameters in the running means [K, 1]; None if there are no means."""


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
        graphed: bool,
        measure_noise: bool,
    ) -> None:
        self.flat_kp = torch.stack([state.flat_p for state in states]).requires_grad_()
        """Parameters [K, P]; with sharding, this rank's shard of each row."""
        device = self.flat_kp.device
        self.optimizer: Optimizer | StackedAdamW
        # Torch's fused kernels take a call per row, which would dominate a pack's step on a GPU.
        stacked = compiled or graphed or (device.type == "cuda" and len(states) > 1)
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

    def mean_weights(self, before_nk: np.ndarray) -> Sequence[Tensor] | None:
        """Return the weights of the new parameters in the running means [K, 1] for each of the
        next N steps, given the steps done before them; None if there are no means."""
        if self.mean_kp is None:
            return None
        # The mean adapts quickly at first: its decay is at most (1 + t) / (10 + t).
        decay_nk = np.minimum(np.array(self.ema), (1 + before_nk) / (10 + before_nk))
        return send_each((1 - decay_nk).astype(np.float32)[..., None], self.mean_kp.device)

    def add_step(self, loss_k: Tensor, norm_k: Tensor, mean_weight_k1: Tensor | None) -> None:
        """Add a step to the running sums and means, in place."""
        self.norm_sum_k += norm_k
        self.loss_sum_k += loss_k
        if self.mean_kp is not None and mean_weight_k1 is not None:
            self.mean_kp.lerp_(self.flat_kp.detach(), mean_weight_k1)

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
