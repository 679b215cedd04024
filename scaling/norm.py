"""Norms of rows of flat parameters."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2**15


def norm(x_kp: Tensor) -> Tensor:
    """Norms of rows [K], of blocks first: on a CPU torch adds up the squares of a long row in so few
    sums that a norm over 6e7 comes out 0.5 % short."""
    whole = x_kp.shape[1] - x_kp.shape[1] % _BLOCK
    if not whole:
        return x_kp.norm(dim=1)
    blocks_kb = x_kp[:, :whole].unflatten(1, (-1, _BLOCK)).norm(dim=2)
    rest_k1 = x_kp[:, whole:].norm(dim=1, keepdim=True)
    return torch.cat([blocks_kb, rest_k1], dim=1).norm(dim=1)
