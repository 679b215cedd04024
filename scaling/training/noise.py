"""The gradient noise scale: the batch size at which a gradient's noise equals its signal
(McCandlish et al. 2018, arXiv 1812.06162), B_simple = tr(Sigma) / |G|^2.

With G the gradient of the loss and Sigma the covariance of the gradient of one token, a batch of B
tokens has E |G_B|^2 = |G|^2 + tr(Sigma) / B (eq. A.1). So the gradients of a step's micro-batches
and of the whole step give unbiased estimates of both, at no extra cost if gradients are accumulated
anyway. A second estimate compares single sequences, but only for the gains and biases of norms:
their gradient per sequence is cheap, and their noise scale follows that of the whole model (Gray et
al. 2024, arXiv 2411.00999).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scaling.devices.ranks import Ranks
from scaling.model import Model

DECAY = 0.98
"""Decay of the running means, which average over about 50 steps."""


def moments(small_sq: Tensor, big_sq: Tensor, small: float, big: float) -> tuple[Tensor, Tensor]:
    """Return unbiased estimates of (tr(Sigma), |G|^2) (McCandlish et al. 2018, eqs. A.2, A.3).

    `small_sq` is the mean squared norm of gradients over `small` tokens each, `big_sq` the squared
    norm of the gradient over all `big` tokens.
    """
    trace = (small_sq - big_sq) / (1 / small - 1 / big)
    return trace, (big * big_sq - small * small_sq) / (big - small)


class NoiseScale:
    """Running means of both moments for K models; their ratio is the noise scale.

    The moments are averaged rather than their ratios, because only the moments are unbiased.
    """

    SIZE = 5
    """Numbers per model: two pairs of moments, and the weight of the steps seen so far."""

    def __init__(self, state_km: Tensor) -> None:
        self.state_km = state_km
        """[K, SIZE] float64; initially zeros."""

    def update(
        self,
        micro: tuple[Tensor, int],
        step: tuple[Tensor, int],
        sequence_gains: tuple[Tensor, int],
        step_gains_sq_k: Tensor,
    ) -> None:
        """Add a step, given squared gradient norms [K] and the tokens behind each gradient.

        `micro` is the mean over micro-batches and `step` is the whole step; for the norms' gains
        and biases alone, `sequence_gains` is the mean over sequences and `step_gains_sq_k` the
        whole step.
        """
        seen = [
            *moments(micro[0], step[0], micro[1], step[1]),
            *moments(sequence_gains[0], step_gains_sq_k, sequence_gains[1], step[1]),
            torch.ones_like(step_gains_sq_k),
        ]
        self.state_km.lerp_(torch.stack(seen, dim=1).to(self.state_km), 1 - DECAY)

    def moments(self) -> Tensor:
        """Return the means [K, 4], corrected for their start at zero: tr(Sigma) and |G|^2 of all
        parameters, then of the norms."""
        return self.state_km[:, :4] / self.state_km[:, 4:]

    def scales(self) -> tuple[Tensor, Tensor]:
        """Return B_simple [tokens] of all parameters and of the norms [K]; nan while |G|^2 cannot
        be distinguished from zero."""
        trace, square, trace_norm, square_norm = self.moments().unbind(1)
        nan = torch.full_like(trace, torch.nan)
        return (
            torch.where(square > 0, trace / square, nan),
            torch.where(square_norm > 0, trace_norm / square_norm, nan),
        )


class StepNoise:
    """The squared gradient norms of one step, collected while its micro-batches accumulate."""

    def __init__(
        self, model: Model, flat_kp: Tensor, *, micro_batches: int, sequences: int, ranks: Ranks
    ) -> None:
        self.model, self.flat_kp, self.ranks = model, flat_kp, ranks
        self.micro_batches, self.sequences = micro_batches, sequences
        self.b = sequences // micro_batches
        """Sequences of this rank per micro-batch."""
        K = len(flat_kp)
        self.micro_sq_k, self.sequence_sq_k = flat_kp.new_zeros(2, K)
        sizes = [math.prod(model.shapes[name]) for name in model.gains]
        self.gain_grads = [flat_kp.new_zeros(K, size) for size in sizes]
        """Gradient [K, D] of the whole step for each of the model's gains."""

    def gains_per_sequence(self) -> dict[str, Tensor]:
        """Return the model's gains, repeated for each sequence of a micro-batch [K b, D]."""
        if not self.model.gains:
            return {}
        p = self.model.named(self.flat_kp)
        return {
            name: p[name][:, None].expand(-1, self.b, -1).flatten(0, 1) for name in self.model.gains
        }

    def add(self, grad_kp: Tensor, gain_grads: Sequence[Tensor]) -> None:
        """Add a micro-batch: its gradient, and those of the gains per sequence (overwritten)."""
        K = len(grad_kp)
        self.micro_sq_k += self.ranks.square(grad_kp) / self.micro_batches
        for i, grad in enumerate(gain_grads):  # [K b, D], gradient of the mean over b sequences
            self.gain_grads[i] += grad.view(K, self.b, -1).sum(1) / self.micro_batches
            squares_kb = grad.mul_(self.b).square().sum(1).view(K, self.b)
            self.sequence_sq_k += squares_kb.sum(1) / self.sequences

    def exchange(self, loss_k: Tensor, weight: float) -> Tensor:
        """Average over the ranks, in one exchange with the losses, and return the losses."""
        sums = [loss_k[:, None], self.micro_sq_k[:, None], self.sequence_sq_k[:, None]]
        means = self.ranks.mean_of_each([*sums, *self.gain_grads], weight)
        loss_k1, micro_k1, sequence_k1, *self.gain_grads = means
        self.micro_sq_k, self.sequence_sq_k = micro_k1[:, 0], sequence_k1[:, 0]
        return loss_k1[:, 0]

    def update(self, noise: NoiseScale, grad_kp: Tensor) -> None:
        """Add the step to the running means, given its whole gradient."""
        ranks, n_ctx = self.ranks, self.model.model.n_ctx
        gains_sq = (grad_kd.square().sum(1) for grad_kd in self.gain_grads)
        noise.update(
            micro=(self.micro_sq_k, ranks.size // ranks.replicas * self.b * n_ctx),
            step=(ranks.square(grad_kp), ranks.size * self.sequences * n_ctx),
            sequence_gains=(self.sequence_sq_k, n_ctx),
            step_gains_sq_k=sum(gains_sq, torch.zeros_like(self.sequence_sq_k)),
        )
