"""The processes (ranks) that train one run together, and the collectives between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from scaling.errors import out_of_memory
from scaling.norm import norm

# torch 2.13 deprecates the names on the right.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Lost(Exception):
    """A collective failed: another rank has died, or did not arrive in time."""


@contextlib.contextmanager
def exchange() -> Iterator[None]:
    """Turn the failure of a collective in the block into Lost, unless memory ran out."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise Lost(str(error).strip().splitlines()[0]) from error


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, seen from one of them.

    All of them call the same methods in the same order. With a single rank, the methods do nothing.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False
    """Whether each rank holds only a shard of the parameters (scaling/training/fsdp.py)."""
    local: int = 0
    """Local rank on the node, which is also the index of the GPU."""

    @property
    def replicas(self) -> int:
        """Number of ranks whose own, unreduced gradients are available; FSDP reduces gradients as
        they are produced."""
        return 1 if self.sharded else self.size

    def share(self, n: int) -> slice:
        """Return this rank's slice of n items."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.size > 1:
            with exchange():
                dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor, weight: float) -> Tensor:
        """Average a tensor over all ranks, in place; this rank's tensor has the given weight."""
        return tensor if self.size == 1 else self.add(tensor.mul_(weight))

    def mean_of_each(self, tensors: Sequence[Tensor], weight: float) -> list[Tensor]:
        """Average tensors [K, *] over all ranks in one exchange, as :meth:`mean` does."""
        if self.size == 1:
            return list(tensors)
        together_kx = self.mean(torch.cat(list(tensors), dim=1), weight)
        return list(together_kx.split([tensor.shape[1] for tensor in tensors], dim=1))

    def mean_gradient(self, grad_kp: Tensor, weight: float) -> Tensor:
        """Average a gradient over all ranks; a sharded one is averaged already."""
        return grad_kp if self.sharded else self.mean(grad_kp, weight)

    def square(self, x_kp: Tensor) -> Tensor:
        """Return the squared norms [K] of whole rows; if sharded, `x_kp` holds this rank's
        shards."""
        square_k = norm(x_kp) ** 2
        return self.add(square_k) if self.sharded else square_k

    def gather(self, part_ku: Tensor) -> Tensor:
        """Concatenate the parts of all ranks [K, size U]."""
        K, U = part_ku.shape
        parts_sku = part_ku.new_empty(self.size, K, U)
        with exchange():
            _all_gather(parts_sku.view(-1), part_ku.contiguous().view(-1))
        return parts_sku.transpose(0, 1).reshape(K, self.size * U)

    def scatter_mean(self, whole_ku: Tensor) -> Tensor:
        """Average [K, size U] over all ranks and return this rank's part [K, U]."""
        K = len(whole_ku)
        parts_sku = whole_ku.view(K, self.size, -1).transpose(0, 1).contiguous()
        part_ku = torch.empty_like(parts_sku[0])
        with exchange():
            _reduce_scatter(part_ku.view(-1), parts_sku.view(-1))
        return part_ku.div_(self.size)

    def agreed(self, *values: float) -> tuple[float, ...]:
        """Return the values of rank 0 on every rank, for decisions that could differ between ranks,
        such as those made by the clock."""
        if self.size == 1:
            return values
        agreed = torch.tensor(values, dtype=torch.float64)
        with exchange():
            dist.broadcast(agreed, 0)
        return tuple(agreed.tolist())


ALONE = Ranks()
