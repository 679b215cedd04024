"""Norms of rows of flat parameters."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2**15
"""Number of elements whose norm is computed at once."""


def norm(x_kp: Tensor) -> Tensor:
    """Return the norms of rows [K], computed from the norms of blocks.

    On a CPU torch accumulates the squares of a long row in too few partial sums: a norm over 6e7
    elements comes out 0.5 % too small.
    """
    whole = x_kp.shape[1] - x_kp.shape[1] % _BLOCK
    if not whole:
        return x_kp.norm(dim=1)
    blocks_kb = x_kp[:, :whole].unflatten(1, (-1, _BLOCK)).norm(dim=2)
    rest_k1 = x_kp[:, whole:].norm(dim=1, keepdim=True)
    return torch.cat([blocks_kb, rest_k1], dim=1).norm(dim=1)
