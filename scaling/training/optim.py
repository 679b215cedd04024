"""Optimizers over the flat parameters of K models."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from scaling.config import OptimConfig
from scaling.devices.compilation import compiled
from scaling.devices.device import send_each
from scaling.errors import ConfigError
from scaling.model import Model
from scaling.norm import norm
from scaling.training.schedule import lr_divisor

T = TypeVar("T")

Rates = Sequence[Sequence[float]]
"""Learning rates of (matrices, all else) for each row."""


class Optimizer:
    """Updates rows of flat parameters [K, P] with torch's optimizers, which work on views of them.

    Every row has its own kind of optimizer, learning rates, decay and clipping:

    - AdamW (decoupled: Loshchilov & Hutter 2019): torch's fused kernel on two or three slices of
      each row, so that a row is updated identically alone and in a pack.
    - Adafactor (Shazeer & Stern 2018; torch's follows Zhai et al. 2022): each tensor separately.
    - Muon (Jordan et al. 2024): each matrix separately, with queries, keys, values and gates split,
      and updates of AdamW's size (Liu et al. 2025). All other parameters use AdamW.
    """

    def __init__(
        self,
        flat_kp: Tensor,
        model: Model,
        configs: Sequence[OptimConfig],
    ) -> None:
        self.flat_kp = flat_kp
        self.clip_k = flat_kp.new_tensor([math.inf if c.clip is None else c.clip for c in configs])
        self.pieces = [pieces(model, c) for c in configs]
        groups: dict[str, list[dict[str, Any]]] = {}
        self.groups: list[list[dict[str, Any]]] = []
        """torch's parameter groups of each row, in the order of its pieces."""
        for row_p, c, row_pieces in zip(flat_kp.detach(), configs, self.pieces, strict=True):
            # Only the product of lr and decay acts: muP must not change it.
            decay = float(c.weight_decay) * lr_divisor(model.model, c)
            self.groups.append([])
            for piece in row_pieces:
                group = {"params": [piece.view(row_p)], "lr": 0.0}
                group["weight_decay"] = decay if piece.decayed else 0.0
                if piece.kind == "adamw":
                    group |= {"betas": (c.beta1, float(c.beta2)), "eps": c.eps}
                groups.setdefault(piece.kind, []).append(group)
        self.torch = [_KINDS[kind](found) for kind, found in groups.items()]
        by_place = {
            group["params"][0].data_ptr(): group
            for optimizer in self.torch
            for group in optimizer.param_groups
        }
        rows = zip(flat_kp.detach(), self.pieces, self.groups, strict=True)
        for row_p, row_pieces, row_groups in rows:
            row_groups += [by_place[piece.view(row_p).data_ptr()] for piece in row_pieces]

    def step(self, grad_kp: Tensor, lr: Rates | Tensor) -> Tensor:
        """Update in place, with each row's learning rates for (matrices, all else).

        Each row of `grad_kp` is clipped in place by its own norm. Returns the norms before
        clipping [K].
        """
        norm_k = self.norm(grad_kp)
        scale_k = (self.clip_k / (norm_k + 1e-6)).clamp_(max=1.0)
        # On a GPU the check would cost more than the multiplication.
        if scale_k.device.type != "cpu" or bool((scale_k < 1).any()):
            grad_kp.mul_(scale_k[:, None])
        rows = zip(self.groups, self.pieces, grad_kp, lr, strict=True)
        for row_groups, row_pieces, grad_p, (matrices, other) in rows:
            for group, piece in zip(row_groups, row_pieces, strict=True):
                group["lr"] = matrices if piece.matrix else other
                group["params"][0].grad = piece.view(grad_p)
        for optimizer in self.torch:
            optimizer.step()
        return norm_k

    def rates(self, lr_nk2: np.ndarray) -> Sequence[Rates]:
        """Return what :meth:`step` takes in each of the next N steps, given the rows' learning
        rates for (matrices, all else)."""
        return lr_nk2.tolist()

    def norm(self, grad_kp: Tensor) -> Tensor:
        """Return the norms of the gradients of whole rows [K]."""
        return norm(grad_kp)

    def row(self, k: int) -> dict[str, Any]:
        """Return the optimizer state of row k for a checkpoint: torch's state of each of its
        pieces."""
        return {
            f"{number}.{name}": value
            for number, state in enumerate(self._states(k))
            for name, value in state.items()
        }

    def load_row(self, k: int, saved: dict[str, Any]) -> None:
        """Restore what :meth:`row` returned."""
        states = self._states(k)
        for state in states:
            state.clear()
        for key, value in saved.items():
            number, _, name = key.partition(".")
            if isinstance(value, Tensor):
                value = value.to(self.flat_kp.device, copy=True)
            states[int(number)][name] = value

    def _states(self, k: int) -> list[dict[str, Any]]:
        owner = {id(g): optimizer for optimizer in self.torch for g in optimizer.param_groups}
        return [owner[id(group)].state[group["params"][0]] for group in self.groups[k]]


class StackedAdamW:
    """:class:`Optimizer` for packs that use AdamW throughout: :func:`adamw` over all rows at once.

    Compiled, it is one kernel; otherwise, a number of kernels that does not depend on K. Its
    updates match up to the last digits; its checkpoints are interchangeable.
    """

    def __init__(
        self,
        flat_kp: Tensor,
        model: Model,
        configs: Sequence[OptimConfig],
        *,
        compiled: bool = True,
    ) -> None:
        self.compiled = compiled
        self.flat_kp = flat_kp
        self.m_kp = torch.zeros_like(flat_kp.detach())
        self.v_kp = torch.zeros_like(flat_kp.detach())
        self.pieces = [pieces(model, c) for c in configs]
        self.matrices = model.ends["matrix"]
        self.betas = [(c.beta1, float(c.beta2)) for c in configs]
        self.before = [0] * len(configs)
        """Steps done by each row before it entered the stack."""
        self.steps = 0
        """Steps done since then, the same for all rows."""
        decayed = [[_decayed(model, c)] for c in configs]
        self.decayed_k1 = torch.tensor(decayed, device=flat_kp.device)
        fixed = [
            (
                math.inf if c.clip is None else c.clip,
                float(c.weight_decay) * lr_divisor(model.model, c),
                c.beta1,
                float(c.beta2),
                c.eps,
            )
            for c in configs
        ]
        self.fixed_k5 = flat_kp.new_tensor(fixed, dtype=torch.float64).float()

    def rates(self, lr_nk2: np.ndarray) -> Sequence[Tensor]:
        """Return what :meth:`step` takes in each of the next N steps: learning rates and the
        corrections of both means [K, 4], copied to the device at once."""
        N = len(lr_nk2)
        of = {(t, *betas) for t, betas in zip(self.before, self.betas, strict=True)}
        corrections = {one: _corrections(self.steps + 1, N, *one) for one in of}
        rows = zip(self.before, self.betas, strict=True)
        each_kn2 = np.array([corrections[t, *betas] for t, betas in rows])
        moving_nk4 = np.concatenate([lr_nk2, each_kn2.transpose(1, 0, 2)], axis=2)
        return send_each(moving_nk4.astype(np.float32), self.m_kp.device)

    def step(self, grad_kp: Tensor, lr: Rates | Tensor) -> Tensor:
        """Update as :meth:`Optimizer.step` does, without changing `grad_kp`."""
        if not self.compiled:
            return self.apply(partial(adamw, grad_kp), lr)
        torch._dynamo.maybe_mark_dynamic(grad_kp, 0)
        return self.apply(partial(_compiled_adamw(grad_kp.device), grad_kp), lr)

    def apply(self, update: Callable[..., T], lr: Rates | Tensor) -> T:
        """Call `update`, a function that ends in :func:`adamw`, and return what it returns.

        `update` receives all arguments of :func:`adamw` after the gradient, the parameters first.
        """
        moving_k4 = lr if isinstance(lr, Tensor) else self.rates(np.array([lr]))[0]
        flat_kp = self.flat_kp.detach()
        rows = (flat_kp, self.m_kp, self.v_kp, self.decayed_k1, self.fixed_k5, moving_k4)
        if self.compiled:
            for tensor in rows:  # one graph for packs of every size
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        result = update(*rows, self.matrices)
        self.steps += 1
        return result

    def row(self, k: int) -> dict[str, Any]:
        """Return the optimizer state of row k for a checkpoint, in the form of
        :meth:`Optimizer.row`."""
        if not (t := self.before[k] + self.steps):
            return {}
        return {
            f"{number}.{name}": value
            for number, piece in enumerate(self.pieces[k])
            for name, value in (
                ("step", torch.tensor(float(t))),
                ("exp_avg", piece.view(self.m_kp[k])),
                ("exp_avg_sq", piece.view(self.v_kp[k])),
            )
        }

    def load_row(self, k: int, saved: dict[str, Any]) -> None:
        """Restore what :meth:`row` returned."""
        for number, piece in enumerate(self.pieces[k]):
            piece.view(self.m_kp[k]).copy_(saved[f"{number}.exp_avg"])
            piece.view(self.v_kp[k]).copy_(saved[f"{number}.exp_avg_sq"])
        self.before[k] = int(saved["0.step"]) - self.steps


def _corrections(first: int, steps: int, before: int, beta1: float, beta2: float) -> np.ndarray:
    """Return AdamW's corrections [steps, 2] of the first and second moment; `before` are the steps
    done before step `first`, which is numbered from 1."""
    done = range(before + first, before + first + steps)
    return np.array([(1 - beta1**t, math.sqrt(1 - beta2**t)) for t in done])


def adamw(
    grad_kp: Tensor,
    flat_kp: Tensor,
    m_kp: Tensor,
    v_kp: Tensor,
    decayed_k1: Tensor,
    fixed_k5: Tensor,
    moving_k4: Tensor,
    matrices: int,
) -> Tensor:
    """Do one step of AdamW in place (Loshchilov & Hutter 2019, algorithm 2).

    Returns the norms of the gradients before clipping [K].
    """
    clip, decay, beta1, beta2, eps = fixed_k5.split(1, dim=1)
    lr_matrix, lr_other, correction1, correction2 = moving_k4.split(1, dim=1)
    norm_k1 = grad_kp.norm(dim=1, keepdim=True)
    g_kp = grad_kp * (clip / (norm_k1 + 1e-6)).clamp(max=1.0)
    place_p = torch.arange(grad_kp.shape[1], device=grad_kp.device)
    lr_kp = torch.where(place_p < matrices, lr_matrix, lr_other)
    decay_kp = torch.where(place_p < decayed_k1, decay, 0.0)
    m_kp.lerp_(g_kp, 1 - beta1)
    v_kp.mul_(beta2).add_((1 - beta2) * g_kp * g_kp)
    update_kp = (m_kp / correction1) / (v_kp.sqrt() / correction2 + eps)
    flat_kp.mul_(1 - lr_kp * decay_kp).sub_(lr_kp * update_kp)
    return norm_k1[:, 0]


@functools.cache
def _compiled_adamw(device: torch.device) -> Callable[..., Tensor]:
    return compiled(adamw, device)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a row that is one parameter of one of torch's optimizers."""

    view: Callable[[Tensor], Tensor]
    """The part of a row [P], as a view."""
    kind: str
    """Its optimizer: a key of _KINDS."""
    matrix: bool
    """Whether it uses the learning rate of matrices."""
    decayed: bool


def pieces(model: Model, c: OptimConfig) -> list[Piece]:
    """Return the pieces of a row, in order; together they cover it."""
    end, P_decayed = model.ends["matrix"], _decayed(model, c)
    adamw_from = {"adamw": 0, "muon": end, "adafactor": model.P}[c.optimizer]
    found = []
    for name, start in model.offsets.items():
        if start < adamw_from:
            whole = torch.empty(model.shapes[name], device="meta")
            for number in range(len(model.matrices_of(name, whole))):
                view = partial(_part, model, name, number)
                matrix, decayed = start < end, start < P_decayed
                found.append(Piece(view=view, kind=c.optimizer, matrix=matrix, decayed=decayed))
    cuts = sorted({adamw_from, *(x for x in (end, P_decayed, model.P) if x > adamw_from)})
    for a, b in itertools.pairwise(cuts):
        view, matrix, decayed = partial(_slice, a, b), b <= end, b <= P_decayed
        found.append(Piece(view=view, kind="adamw", matrix=matrix, decayed=decayed))
    return found


def _decayed(model: Model, c: OptimConfig) -> int:
    """Return the number of decayed parameters; they come first in a row."""
    ends = {"matrices": model.ends["matrix"], "embeddings": model.ends["head"], "all": model.P}
    return ends[c.decay]


def _slice(a: int, b: int, row_p: Tensor) -> Tensor:
    return row_p[a:b]


def _part(model: Model, name: str, number: int, row_p: Tensor) -> Tensor:
    shape, start = model.shapes[name], model.offsets[name]
    return model.matrices_of(name, row_p[start : start + math.prod(shape)].view(shape))[number]


def _muon(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(
            f"optim.optimizer='muon' needs torch 2.9 or later; this is {torch.__version__}."
        )
    return torch.optim.Muon(groups, adjust_lr_fn="match_rms_adamw")


_KINDS: dict[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adafactor": torch.optim.Adafactor,
    "muon": _muon,
}
