"""The processes (ranks) that train one run together, and what they exchange."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from scaling.norm import norm

# torch 2.13 has new names for what it deprecates.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Lost(Exception):
    """An exchange failed: another rank has died, or did not come in time."""


@contextlib.contextmanager
def exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Lost(str(error).strip().splitlines()[0]) from error


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, as one of them sees them. All call the same methods in the
    same order; where there is but one, nothing happens."""

    rank: int = 0
    size: int = 1
    sharded: bool = False
    """Each has a part of the parameters (scaling/training/fsdp.py)."""
    local: int = 0
    """Its number among the ranks of its node: its GPU."""

    @property
    def apart(self) -> int:
        """Of how many the gradient of their own share is known: of sharded parameters it is reduced as
        it comes."""
        return 1 if self.sharded else self.size

    def share(self, n: int) -> slice:
        """This rank's of n things in a row."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add(self, tensor: Tensor) -> Tensor:
        """Make a tensor the sum of those of all ranks, in place."""
        if self.size > 1:
            with exchange():
                dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor, weight: float) -> Tensor:
        """Make a tensor the mean of those of all ranks, this one's of so much weight, in place."""
        return tensor if self.size == 1 else self.add(tensor.mul_(weight))

    def mean_gradient(self, grad_kp: Tensor, weight: float) -> Tensor:
        """The mean over all ranks; of sharded parameters it came as that."""
        return grad_kp if self.sharded else self.mean(grad_kp, weight)

    def square(self, x_kp: Tensor) -> Tensor:
        """Squared norms [K] of whole rows, of which these are this rank's where they are sharded."""
        square_k = norm(x_kp) ** 2
        return self.add(square_k) if self.sharded else square_k

    def gather(self, part_ku: Tensor) -> Tensor:
        """The parts of all ranks, one behind the other [K, size U]."""
        K, U = part_ku.shape
        parts_sku = part_ku.new_empty(self.size, K, U)
        with exchange():
            _all_gather(parts_sku.view(-1), part_ku.contiguous().view(-1))
        return parts_sku.transpose(0, 1).reshape(K, self.size * U)

    def scatter_mean(self, whole_ku: Tensor) -> Tensor:
        """This rank's part [K, U] of the mean over all ranks of what each has as a whole [K, size U]."""
        K = len(whole_ku)
        parts_sku = whole_ku.view(K, self.size, -1).transpose(0, 1).contiguous()
        part_ku = torch.empty_like(parts_sku[0])
        with exchange():
            _reduce_scatter(part_ku.view(-1), parts_sku.view(-1))
        return part_ku.div_(self.size)

    def agreed(self, *values: float) -> tuple[float, ...]:
        """What rank 0 gives, to all: for what a rank cannot know of the others, such as a clock's."""
        if self.size == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64)
        with exchange():
            dist.broadcast(told, 0)
        return tuple(told.tolist())


ALONE = Ranks()
