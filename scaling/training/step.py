"""One optimiser step: its precision, its parts, and the whole step as one function to compile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from scaling.config import RunConfig
from scaling.devices.ranks import Ranks
from scaling.errors import ConfigError
from scaling.model import Model
from scaling.training import optim


def precision(device: torch.device, bfloat16: bool) -> AbstractContextManager[Any]:
    """Autocast, or nothing: torch caches no graph with an autocast in it, be it off."""
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()


def whole_step(decoder: Model, bfloat16: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """A whole step as one function, and so one graph: losses and norms of the gradients [K] of windows
    [K, B, T + 1], and AdamW's update in place. Small models spend most of a step between graphs."""

    def step(windows_kbt: Tensor, flat_kp: Tensor, *adamw: Any) -> tuple[Tensor, Tensor]:
        def loss(flat_kp: Tensor) -> tuple[Tensor, Tensor]:
            with precision(flat_kp.device, bfloat16):  # of the forward pass alone
                loss_k = decoder.mean_loss(flat_kp, windows_kbt)
            return loss_k.sum(), loss_k

        grad_kp, loss_k = torch.func.grad(loss, has_aux=True)(flat_kp)
        return loss_k, optim.adamw(grad_kp, flat_kp, *adamw)

    return step


def parts_of_step(run: RunConfig, micro_tokens: int | None, ranks: Ranks) -> int:
    """Equal parts of a rank's share of a step: enough for its noise scale, and for `micro_tokens`
    tokens at a time."""
    sequences = run.batch_tokens // run.model.n_ctx // ranks.size
    least = -(-(run.eval.noise_parts or 1) // ranks.apart)
    if micro_tokens is not None:
        if micro_tokens < run.model.n_ctx:
            raise ConfigError(
                f"execution.micro_tokens={micro_tokens} is less than one context of "
                f"model.n_ctx={run.model.n_ctx}."
            )
        least = max(least, -(-sequences // (micro_tokens // run.model.n_ctx)))
    return divisor_from(sequences, least)


def divisor_from(number: int, least: int) -> int:
    """The smallest divisor of a number that is at least `least`, which the number itself is."""
    return next(d for d in range(least, number + 1) if number % d == 0)
