"""Fully sharded data parallel: each rank holds an equal shard of parameters and AdamW state.

This is the third stage of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), as in torch's FSDP2
(Zhao et al. 2023, arXiv 2304.11277). A tensor is whole only while the model computes with it: it is
gathered when the model accesses it by name, freed after the forward pass, and gathered again for
the backward pass. Its gradient is reduced and scattered to the shards. Gains and biases are small,
so they are gathered all together, once per pass.

The collectives and their order are those of torch's `fully_shard`, which cannot be used here: it
hooks the forward method of nn.Modules and turns each parameter into a DTensor that is sharded along
its first dimension. Our models read one flat tensor [K, P], whose first dimension is the pack.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from scaling.config import OptimConfig
from scaling.devices.ranks import Ranks
from scaling.model import Model
from scaling.training.optim import Optimizer, pieces
from scaling.training.state import State

VECTORS = "vectors"
"""Name of the unit that holds all gains and biases."""


class Sharding:
    """How a model's parameters are divided among the ranks.

    A unit is a tensor, or all gains and biases together. Each rank's own row [P / ranks] holds a
    part of every unit; the last parts are padded with zeros.
    """

    def __init__(self, model: Model, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.tensor_sizes = dict(zip(model.shapes, model.sizes, strict=True))
        big = (name for name in model.shapes if model.kind(name) != "vector")
        self.units = {name: self.tensor_sizes[name] for name in big}
        if vectors := model.P - model.ends["head"]:
            self.units[VECTORS] = vectors
        self.sizes = [-(-size // ranks.size) for size in self.units.values()]
        """Size of each rank's part of every unit."""
        ends = {}
        for kind in model.ends:
            parts = zip(self.units, self.sizes, strict=True)
            mine = sum(n for name, n in parts if self._kind(name) == kind)
            ends[kind] = mine + next(reversed(ends.values()), 0)
        self.layout = copy.copy(model)
        """The model with the sizes of this rank's own row, for its optimizer."""
        self.layout.P, self.layout.ends = ends["vector"], ends
        model.gather = self.named
        self._gathered: dict[int, tuple[StorageWeakRef, Tensor, torch.dtype]] = {}
        """The shard that each gathered tensor was gathered from, by the tensor's storage."""

    def _kind(self, unit: str) -> str:
        return "vector" if unit == VECTORS else self.model.kind(unit)

    # ---------------------------------------------------------------- whole rows

    def init(self, seed: int) -> Tensor:
        """Return this rank's part of an initial row, without ever holding more than one whole
        tensor."""
        tensors = self.model.initial(seed)

        def units() -> Iterator[Tensor]:
            yield from itertools.islice(tensors, sum(unit != VECTORS for unit in self.units))
            if VECTORS in self.units:
                yield torch.cat(list(tensors))

        return self.own(units())

    def own(self, pieces: Iterable[Tensor]) -> Tensor:
        """Return a copy of this rank's part of a whole row, which is given in pieces that end where
        units end."""
        units, rank = zip(self.units.values(), self.sizes, strict=True), self.ranks.rank
        parts = []
        for piece_p in pieces:
            start = 0
            while start < len(piece_p):
                whole, size = next(units)
                unit_p = piece_p[start : start + whole]
                start += whole
                part_p = unit_p[rank * size : (rank + 1) * size]
                parts.append(F.pad(part_p, (0, size - len(part_p))))
        return torch.cat(parts)

    def whole(self, pieces: Iterable[Tensor]) -> Tensor:
        """Return the whole row [P] on the CPU of rank 0, from the pieces of every rank's own row.

        It is empty on other ranks. Only one whole unit is on a device at a time.
        """
        units = []
        own_p = torch.cat(list(pieces))
        for part_p, size in zip(own_p.split(self.sizes), self.units.values(), strict=True):
            unit_p = self.ranks.gather(part_p[None])[0, :size]
            units.append(unit_p.cpu() if self.ranks.rank == 0 else unit_p[:0].cpu())
        return torch.cat(units)

    def own_state(self, state: State, config: OptimConfig) -> State:
        """Return this rank's part of the state of a whole row."""
        return self._convert(state, self.own, _sizes(self.layout, config))

    def whole_state(self, state: State, config: OptimConfig) -> State:
        """Return the state of the whole row on rank 0, as :meth:`whole` does for rows."""
        sizes = _sizes(self.model, config)
        held = sizes if self.ranks.rank == 0 else [0] * len(sizes)
        return self._convert(state, self.whole, held)

    def _convert(
        self, state: State, convert: Callable[[Iterable[Tensor]], Tensor], sizes: Sequence[int]
    ) -> State:
        """Convert each row of a state; `sizes` are those of the optimizer's pieces afterwards."""
        mean_p = None if state.mean_p is None else convert([state.mean_p])
        adamw: dict[str, Any] = {}
        if state.adamw:  # empty before the first step
            for number in range(len(sizes)):
                adamw[f"{number}.step"] = state.adamw["0.step"]
            for name in ("exp_avg", "exp_avg_sq"):
                pieces = [state.adamw[f"{number}.{name}"] for number in range(len(sizes))]
                parts = convert(pieces).split(sizes)
                adamw |= {f"{number}.{name}": part for number, part in enumerate(parts)}
        return replace(state, flat_p=convert([state.flat_p]), adamw=adamw, mean_p=mean_p)

    # ---------------------------------------------------------------- the model's passes

    def named(self, own_kp: Tensor, instead: dict[str, Tensor] | None = None) -> Gathered:
        """Return parameters by name as :meth:`scaling.model.Model.named` does, from this rank's
        rows."""
        return Gathered(self, own_kp, instead or {})

    def mean_loss(
        self, own_kp: Tensor, windows_kbt: Tensor, instead: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Return the mean loss on this rank's windows, as :meth:`scaling.model.Model.mean_loss`
        does.

        Its gradient is that of the mean over all ranks, which have equal numbers of windows.
        """
        self._gathered.clear()
        with saved_tensors_hooks(self._pack_saved, self._unpack_saved):
            return self.model.mean_loss(own_kp, windows_kbt, instead)

    def gather(self, part_ku: Tensor, unit: str) -> Tensor:
        """Gather a unit [K, size], in the dtype of the model's matrix products."""
        device, dtype = part_ku.device.type, part_ku.dtype
        # Autocast would convert these anyway; embeddings are looked up in their own dtype.
        if self._kind(unit) in ("matrix", "head") and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        unit_ku = _Gather.apply(part_ku, self.ranks, dtype)
        if unit != VECTORS:
            storage = unit_ku.untyped_storage()
            self._gathered[storage._cdata] = StorageWeakRef(storage), part_ku.detach(), dtype
        return unit_ku[:, : self.units[unit]]

    def _pack_saved(self, tensor: Tensor) -> Any:
        """Return what autograd keeps for the backward pass: of a gathered tensor, only its
        source."""
        # An address is not reused while a weak reference to its storage exists.
        found = self._gathered.get(tensor.untyped_storage()._cdata)
        if found is None:
            return tensor
        _, part_ku, dtype = found
        return part_ku, dtype, tensor.shape, tensor.stride(), tensor.storage_offset()

    def _unpack_saved(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        part_ku, dtype, *place = kept
        return self.ranks.gather(part_ku.to(dtype)).as_strided(*place)


class Gathered(Mapping[str, Tensor]):
    """Parameters [K, *shape] by name, each gathered when it is accessed."""

    def __init__(self, sharding: Sharding, own_kp: Tensor, instead: dict[str, Tensor]) -> None:
        self.sharding, self.instead = sharding, instead
        self.parts = dict(zip(sharding.units, own_kp.split(sharding.sizes, dim=1), strict=True))
        vectors = self.parts.get(VECTORS)
        self.vectors_kp = own_kp if vectors is None else sharding.gather(vectors, VECTORS)

    def __getitem__(self, name: str) -> Tensor:
        if name in self.instead:
            return self.instead[name]
        model = self.sharding.model
        if name in self.parts:
            unit_kp = self.sharding.gather(self.parts[name], name)
        else:
            start = model.offsets[name] - model.ends["head"]
            unit_kp = self.vectors_kp[:, start : start + self.sharding.tensor_sizes[name]]
        return unit_kp.view(-1, *model.shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.sharding.model.shapes)

    def __len__(self) -> int:
        return len(self.sharding.model.shapes)


class _Gather(torch.autograd.Function):
    """Gathers all ranks' parts [K, U] into [K, ranks U]; averages the gradient over ranks."""

    @staticmethod
    def forward(ctx, part_ku: Tensor, ranks: Ranks, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        ctx.ranks, ctx.dtype = ranks, part_ku.dtype
        return ranks.gather(part_ku.to(dtype))

    @staticmethod
    def backward(ctx, grad_ku: Tensor):  # type: ignore[override]
        return ctx.ranks.scatter_mean(grad_ku.to(ctx.dtype)), None, None


class ShardedAdamW(Optimizer):
    """AdamW on this rank's rows, clipped by the norms of whole rows."""

    def __init__(self, own_kp: Tensor, sharding: Sharding, configs: Sequence[OptimConfig]) -> None:
        super().__init__(own_kp, sharding.layout, configs)
        self.ranks = sharding.ranks

    def norm(self, grad_kp: Tensor) -> Tensor:
        return self.ranks.square(grad_kp).sqrt()


def _sizes(model: Model, config: OptimConfig) -> list[int]:
    """Return the sizes of the pieces of a row."""
    row_p = torch.empty(model.P, device="meta")
    return [piece.view(row_p).numel() for piece in pieces(model, config)]
