"""Norms of rows of flat parameters."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2**15
"""Elements whose norm is taken at once."""


def norm(x_kp: Tensor) -> Tensor:
    """Return the norms of rows [K], from the norms of blocks.

    On a CPU torch adds up the squares of a long row in so few sums that a norm over 6e7 elements is
    0.5 % too small.
    """
    whole = x_kp.shape[1] - x_kp.shape[1] % _BLOCK
    if not whole:
        return x_kp.norm(dim=1)
    blocks_kb = x_kp[:, :whole].unflatten(1, (-1, _BLOCK)).norm(dim=2)
    rest_k1 = x_kp[:, whole:].norm(dim=1, keepdim=True)
    return torch.cat([blocks_kb, rest_k1], dim=1).norm(dim=1)
