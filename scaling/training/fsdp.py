"""Fully sharded data parallel: every rank keeps an equal part of each tensor, of its gradient and of
its AdamW state (ZeRO's third stage, Rajbhandari et al. 2020, arXiv 1910.02054; torch's FSDP2, Zhao et
al. 2023, arXiv 2304.11277).

A tensor is whole only while the model computes with it: gathered as the model asks for it by name, let
go by the forward pass, gathered once more where the backward pass needs it. Its gradient goes back the
way it came, reduced and scattered to the parts. Gains and biases are small, and gathered all together
once a pass.

These are the collectives and the order of torch's `fully_shard`, which does not itself fit: it hooks
the forward of nn.Modules and makes each of their parameters a DTensor, cut along its first dimension.
Here there are no modules but one flat tensor [K, P] that functions read, and its first dimension is the
pack.
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
"""The unit of all gains and biases."""


class Sharding:
    """How the parameters of a model lie on the ranks: each has its own row [P / ranks], a part of every
    unit, that is of a tensor or of all gains and biases; the last parts are padded with zeros."""

    def __init__(self, model: Model, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.tensor_sizes = dict(zip(model.shapes, model.sizes, strict=True))
        big = (name for name in model.shapes if model.kind(name) != "vector")
        self.units = {name: self.tensor_sizes[name] for name in big}
        if vectors := model.P - model.ends["head"]:
            self.units[VECTORS] = vectors
        self.sizes = [-(-size // ranks.size) for size in self.units.values()]
        """Of this rank's parts."""
        ends = {}
        for kind in model.ends:
            parts = zip(self.units, self.sizes, strict=True)
            mine = sum(n for name, n in parts if self._kind(name) == kind)
            ends[kind] = mine + next(reversed(ends.values()), 0)
        self.layout = copy.copy(model)
        """The model as an optimizer of this rank's rows sees it."""
        self.layout.P, self.layout.ends = ends["vector"], ends
        model.gather = self.named
        self._alive: dict[int, tuple[StorageWeakRef, Tensor, torch.dtype]] = {}
        """Of gathered tensors that may be let go, by their storage: what they were gathered from."""

    def _kind(self, unit: str) -> str:
        return "vector" if unit == VECTORS else self.model.kind(unit)

    # ---------------------------------------------------------------- whole rows

    def init(self, seed: int) -> Tensor:
        """This rank's of an initial row; no more of the row than a tensor is there at a time."""
        tensors = self.model.initial(seed)

        def units() -> Iterator[Tensor]:
            yield from itertools.islice(tensors, sum(unit != VECTORS for unit in self.units))
            if VECTORS in self.units:
                yield torch.cat(list(tensors))

        return self.own(units())

    def own(self, pieces: Iterable[Tensor]) -> Tensor:
        """This rank's of a whole row, a copy; the row comes in pieces that end where units do."""
        units, rank = zip(self.units.values(), self.sizes, strict=True), self.ranks.rank
        parts = []
        for piece_p in pieces:
            at = 0
            while at < len(piece_p):
                whole, size = next(units)
                unit_p = piece_p[at : at + whole]
                at += whole
                part_p = unit_p[rank * size : (rank + 1) * size]
                parts.append(F.pad(part_p, (0, size - len(part_p))))
        return torch.cat(parts)

    def whole(self, pieces: Iterable[Tensor]) -> Tensor:
        """The whole row [P], on the CPU of rank 0, of the pieces of every rank's own; one of no values
        on other ranks. One unit at a time is on a device."""
        units = []
        own_p = torch.cat(list(pieces))
        for part_p, size in zip(own_p.split(self.sizes), self.units.values(), strict=True):
            unit_p = self.ranks.gather(part_p[None])[0, :size]
            units.append(unit_p.cpu() if self.ranks.rank == 0 else unit_p[:0].cpu())
        return torch.cat(units)

    def own_state(self, state: State, config: OptimConfig) -> State:
        """This rank's of the state of a whole row."""
        return self._each(state, self.own, _sizes(self.layout, config))

    def whole_state(self, state: State, config: OptimConfig) -> State:
        """The reverse of :meth:`own_state`, as :meth:`whole` has it."""
        sizes = _sizes(self.model, config)
        held = sizes if self.ranks.rank == 0 else [0] * len(sizes)
        return self._each(state, self.whole, held)

    def _each(
        self, state: State, turned: Callable[[Iterable[Tensor]], Tensor], sizes: Sequence[int]
    ) -> State:
        """The state with each of its rows turned; `sizes` are then those of an optimizer's pieces."""
        mean_p = None if state.mean_p is None else turned([state.mean_p])
        adamw: dict[str, Any] = {}
        if state.adamw:  # a step has been done
            for number in range(len(sizes)):
                adamw[f"{number}.step"] = state.adamw["0.step"]
            for name in ("exp_avg", "exp_avg_sq"):
                pieces = [state.adamw[f"{number}.{name}"] for number in range(len(sizes))]
                parts = turned(pieces).split(sizes)
                adamw |= {f"{number}.{name}": part for number, part in enumerate(parts)}
        return replace(state, flat_p=turned([state.flat_p]), adamw=adamw, mean_p=mean_p)

    # ---------------------------------------------------------------- the model's passes

    def named(self, own_kp: Tensor, instead: dict[str, Tensor] | None = None) -> Gathered:
        """As :meth:`scaling.model.Model.named`, of this rank's rows."""
        return Gathered(self, own_kp, instead or {})

    def mean_loss(
        self, own_kp: Tensor, windows_kbt: Tensor, instead: dict[str, Tensor] | None = None
    ) -> Tensor:
        """As :meth:`scaling.model.Model.mean_loss` of this rank's windows; its gradient is that of the
        mean over all ranks, whose windows are as many."""
        self._alive.clear()
        with saved_tensors_hooks(self._let_go, self._again):
            return self.model.mean_loss(own_kp, windows_kbt, instead)

    def gather(self, part_ku: Tensor, unit: str) -> Tensor:
        """A unit [K, size], in the dtype in which the model multiplies."""
        device, dtype = part_ku.device.type, part_ku.dtype
        # autocast would turn them into it by itself; embeddings are looked up as they are
        if self._kind(unit) in ("matrix", "head") and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        unit_ku = _Gather.apply(part_ku, self.ranks, dtype)
        if unit != VECTORS:
            storage = unit_ku.untyped_storage()
            self._alive[storage._cdata] = StorageWeakRef(storage), part_ku.detach(), dtype
        return unit_ku[:, : self.units[unit]]

    def _let_go(self, tensor: Tensor) -> Any:
        """What autograd is to keep for the backward pass: of a gathered tensor only where it is from."""
        # An address is not given to another storage as long as there is a weak reference to it.
        found = self._alive.get(tensor.untyped_storage()._cdata)
        if found is None:
            return tensor
        _, part_ku, dtype = found
        return part_ku, dtype, tensor.shape, tensor.stride(), tensor.storage_offset()

    def _again(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        part_ku, dtype, *place = kept
        return self.ranks.gather(part_ku.to(dtype)).as_strided(*place)


class Gathered(Mapping[str, Tensor]):
    """Parameters [K, *shape] by name, each gathered when it is asked for."""

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
    """All ranks' parts [K, U] as one [K, ranks U]; its gradient is the mean over the ranks of the part."""

    @staticmethod
    def forward(ctx, part_ku: Tensor, ranks: Ranks, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        ctx.ranks, ctx.dtype = ranks, part_ku.dtype
        return ranks.gather(part_ku.to(dtype))

    @staticmethod
    def backward(ctx, grad_ku: Tensor):  # type: ignore[override]
        return ctx.ranks.scatter_mean(grad_ku.to(ctx.dtype)), None, None


class ShardedAdamW(Optimizer):
    """AdamW on this rank's rows."""

    def __init__(self, own_kp: Tensor, sharding: Sharding, configs: Sequence[OptimConfig]) -> None:
        super().__init__(own_kp, sharding.layout, configs)
        self.ranks = sharding.ranks

    def norm(self, grad_kp: Tensor) -> Tensor:
        return self.ranks.square(grad_kp).sqrt()


def _sizes(model: Model, config: OptimConfig) -> list[int]:
    """Of the pieces of a row."""
    row_p = torch.empty(model.P, device="meta")
    return [piece.view(row_p).numel() for piece in pieces(model, config)]
