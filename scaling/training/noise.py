"""The gradient noise scale, the batch size at which noise and signal of a gradient are of one size
(McCandlish et al. 2018, arXiv 1812.06162): B_simple = tr(Sigma) / |G|^2.

With G the gradient of the loss and Sigma the covariance of the gradient of one token, a batch of B
tokens has E |G_B|^2 = |G|^2 + tr(Sigma) / B (eq. A.1). So the gradients of a step's parts and of the
whole step give unbiased estimates of both, for nothing where a step is done in parts anyway. A second
estimate takes sequences as the parts, but of the gains and biases of norms only, whose gradient per
sequence costs next to nothing and whose noise scale follows that of the whole model (Gray et al. 2024,
arXiv 2411.00999).
"""

from __future__ import annotations

import torch
from torch import Tensor

DECAY = 0.98
"""Of the running means: about 50 steps."""


def moments(small_sq: Tensor, big_sq: Tensor, small: float, big: float) -> tuple[Tensor, Tensor]:
    """Unbiased (tr(Sigma), |G|^2) from the mean squared norm of gradients over `small` tokens and the
    squared norm of that over `big` tokens, of which they are parts (McCandlish et al. 2018, eqs. A.2
    and A.3)."""
    trace = (small_sq - big_sq) / (1 / small - 1 / big)
    return trace, (big * big_sq - small * small_sq) / (big - small)


class NoiseScale:
    """Running means of both moments of K models, each by itself: their ratio is biased, the means are
    not."""

    SIZE = 5  # two pairs of moments, and the weight of what was seen

    def __init__(self, state_km: Tensor) -> None:
        self.state_km = state_km
        """[K, SIZE] float64; zeros to begin with."""

    def update(
        self,
        small: tuple[Tensor, int],
        big: tuple[Tensor, int],
        small_norm: tuple[Tensor, int],
        big_norm_sq_k: Tensor,
    ) -> None:
        """Add a step: squared norms [K] of gradients and the tokens behind each of them. `small`: mean
        over the parts of the step; `big`: of the whole step; `small_norm`: mean over its sequences,
        of the norms' gains and biases; `big_norm_sq_k`: of these, of the whole step."""
        seen = [
            *moments(small[0], big[0], small[1], big[1]),
            *moments(small_norm[0], big_norm_sq_k, small_norm[1], big[1]),
            torch.ones_like(big_norm_sq_k),
        ]
        self.state_km.lerp_(torch.stack(seen, dim=1).to(self.state_km), 1 - DECAY)

    def moments(self) -> Tensor:
        """Means [K, 4] without the bias of their start: tr(Sigma), |G|^2, and both of the norms."""
        return self.state_km[:, :4] / self.state_km[:, 4:]

    def scales(self) -> tuple[Tensor, Tensor]:
        """B_simple [tokens] of all parameters and of the norms [K]; nan where |G|^2 cannot be told
        from zero (yet)."""
        trace, square, trace_norm, square_norm = self.moments().unbind(1)
        nan = torch.full_like(trace, torch.nan)
        return (
            torch.where(square > 0, trace / square, nan),
            torch.where(square_norm > 0, trace_norm / square_norm, nan),
        )
