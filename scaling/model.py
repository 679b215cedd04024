"""Language models as functions of flat parameters, written for K models of one shape at once.

All parameters of model k are row k of one flat tensor [K, P]; a single run is K = 1 through the same
code. Copying a model, or dropping one, is copying a row.

A family of models is a subclass of :class:`Model` under the decorator :func:`family`: it lists its
tensors and maps tokens to hidden states. One of your own lies in a file of its own, and
`model.family = "my.py:Mean"` trains and sweeps it:

    import torch
    from scaling.model import Model, family

    @family
    class Mean(Model):  # predicts from the mean of all tokens so far
        def tensors(self):
            d = self.model.d_model
            return {"mix.weight": (d, d)}

        def hidden(self, p, tokens_kbt):
            x_kbtd = self.embed(p, tokens_kbt)
            count_t1 = torch.arange(1, x_kbtd.shape[2] + 1)[:, None]
            return (x_kbtd.cumsum(2) / count_t1).flatten(1, 2) @ p["mix.weight"]

Shape suffixes:  k model (pack axis) · b sequence · t position · d d_model · f d_ff · h head ·
                 g key and value head · c channels of a head · v vocabulary · n = b t flattened
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scaling.count import Parameters
from scaling.errors import ConfigError
from scaling.files import code_file
from scaling.model_config import FAMILIES, ModelConfig
from scaling.models.output_loss import FUSED_LOGITS, FusedLoss, OutputLoss, output_loss

_KINDS = ("matrix", "embedding", "head", "vector")  # in the order of their place in a row

M = TypeVar("M", bound="Model")


class Model:
    """What all families share: flat parameters by name, embedding, output layer, loss.

    Names of tensors say what they are: "...weight" is a matrix [in, out]; with "norm" in it a gain;
    "...bias" a bias; with "embedding" in it an embedding.
    """

    def __init__(self, model: ModelConfig, vocab_size: int) -> None:
        self.model = model
        self.vocab_size = vocab_size
        shapes: dict[str, tuple[int, ...]] = {"token_embedding": (vocab_size, model.d_model)}
        shapes |= self.tensors()
        if not model.tied:
            shapes["head"] = (vocab_size, model.d_model)
        # Matrices first: weight decay then acts on one contiguous slice of every row.
        names = sorted(shapes, key=lambda name: _KINDS.index(self.kind(name)))
        self.shapes = {name: shapes[name] for name in names}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.P = sum(self.sizes)
        starts = itertools.accumulate(self.sizes, initial=0)
        self.offsets = dict(zip(self.shapes, starts, strict=False))
        """Where each tensor begins in a row."""
        self.ends: dict[str, int] = {}
        """Where each kind of tensor ends in a row."""
        for kind in _KINDS:
            before = list(self.ends.values())[-1:] or [0]
            mine = (
                n
                for name, n in zip(self.shapes, self.sizes, strict=True)
                if self.kind(name) == kind
            )
            self.ends[kind] = before[0] + sum(mine)

    # ---------------------------------------------------------------- what a family gives

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, but for the token embedding and the output layer."""
        raise NotImplementedError

    def hidden(self, p: Mapping[str, Tensor], tokens_kbt: Tensor) -> Tensor:
        """Last hidden states [K, B T, D] of tokens [K, B, T], from parameters [K, *shape] by name."""
        raise NotImplementedError

    def std(self, name: str) -> float:
        """Standard deviation of the initial weights of a matrix or an embedding; in muP, of a matrix
        at the base width."""
        return 0.02

    gains: Sequence[str] = ()
    """Names of the gains and biases that may come as [K B, D], a row a sequence, in place of [K, D]:
    their gradients are then those of each sequence (scaling/training/noise.py)."""

    recompute = False
    """Keep no activations within blocks for the backward pass; compute them again (for families whose
    hidden states are made of blocks)."""

    gather: Callable[[Tensor, dict[str, Tensor] | None], Mapping[str, Tensor]] | None = None
    """Does what :meth:`named` does where a process has only a part of every row
    (scaling/training/fsdp.py)."""

    z_loss = 0.0
    """Weight of (ln Z)^2 in the gradient, Z the sum of the exponentials of a token's logits."""

    def parts(self, name: str, tensor: Tensor) -> Sequence[Tensor]:
        """Views of a tensor's independent parts, where it holds several: what an optimiser of whole
        matrices takes one by one."""
        return [tensor]

    # ---------------------------------------------------------------- parameters

    @staticmethod
    def kind(name: str) -> str:
        """matrix, embedding, head or vector (norms and biases)."""
        if name == "head":
            return name
        if "embedding" in name:
            return "embedding"
        return "matrix" if name.endswith("weight") and "norm" not in name else "vector"

    def count(self) -> Parameters:
        """Parameters of the model as built."""
        by_kind: dict[str, int] = dict.fromkeys(_KINDS, 0)
        for name, size in zip(self.shapes, self.sizes, strict=True):
            by_kind[self.kind(name)] += size
        matrices = by_kind["matrix"]
        return Parameters(
            N=matrices + by_kind["vector"],
            N_kaplan=matrices,
            embedding=by_kind["embedding"],
            head=by_kind["head"],
        )

    def forward_flops(self) -> float:
        """FLOPs of the matrix products of a forward pass of one context, per token, counted by torch
        as they run; a kernel that it does not know (an LSTM's) counts as nothing."""
        tokens = torch.zeros(1, 1, self.model.n_ctx, dtype=torch.long)
        counter = FlopCounterMode(display=False)
        # attention written out: its fused kernel on a CPU is not counted
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            self.logits(torch.zeros(1, self.P), tokens)
        return counter.get_total_flops() / self.model.n_ctx

    def init(self, seeds: list[int]) -> Tensor:
        """Initial parameters [K, P] on the CPU, one row a seed: matrices and embeddings N(0, std),
        matrices divided by the root of the width multiplier (Yang et al. 2022, Table 8), biases 0,
        norms 1."""
        return torch.stack([torch.cat(list(self.initial(seed))) for seed in seeds])

    def initial(self, seed: int) -> Iterator[Tensor]:
        """A row of :meth:`init`, tensor by tensor, each flat."""
        generator = torch.Generator().manual_seed(seed)
        for name, size in zip(self.shapes, self.sizes, strict=True):
            if self.kind(name) != "vector":
                std = self.std(name)
                if self.kind(name) == "matrix":
                    std /= math.sqrt(self.model.width_multiplier)
                yield torch.randn(size, generator=generator) * std
            else:
                yield torch.zeros(size) if name.endswith("bias") else torch.ones(size)

    def named(
        self, flat_kp: Tensor, instead: dict[str, Tensor] | None = None
    ) -> Mapping[str, Tensor]:
        """Views [K, *shape] of the flat parameters, by name; tensors in `instead` take the place of
        theirs."""
        if self.gather is not None:
            return self.gather(flat_kp, instead)
        parts = flat_kp.split(self.sizes, dim=1)
        views = {
            name: part.view(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        return views | (instead or {})

    def embed(self, p: Mapping[str, Tensor], tokens_kbt: Tensor) -> Tensor:
        """Token embeddings [K, B, T, D]."""
        k, b, t = tokens_kbt.shape
        embedding_kvd = p["token_embedding"]
        v, d = embedding_kvd.shape[1:]
        if k == 1:
            x_bd = F.embedding(tokens_kbt.squeeze(0), embedding_kvd.squeeze(0))
        else:  # one lookup in the stacked tables
            offset_k11 = torch.arange(k, device=tokens_kbt.device).view(k, 1, 1) * v
            x_bd = F.embedding(tokens_kbt + offset_k11, embedding_kvd.reshape(k * v, d))
        return x_bd.view(k, b, t, d)

    # ---------------------------------------------------------------- from tokens to loss

    def _last(
        self, flat_kp: Tensor, tokens_kbt: Tensor, instead: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states [K, B T, D], as the output layer sees them, and that layer [K, V, D]."""
        p = self.named(flat_kp, instead)
        x_knd = self.hidden(p, tokens_kbt)
        if self.model.mup_base_width is not None:
            x_knd = x_knd / self.model.width_multiplier
        return x_knd, p["token_embedding" if self.model.tied else "head"]

    def logits(self, flat_kp: Tensor, tokens_kbt: Tensor) -> Tensor:
        """Next-token logits [K, B T, V] of tokens [K, B, T], T up to n_ctx."""
        x_knd, head_kvd = self._last(flat_kp, tokens_kbt)
        return torch.bmm(x_knd, head_kvd.transpose(1, 2))

    @torch.no_grad()
    def losses(self, flat_kp: Tensor, windows_kbt: Tensor) -> Tensor:
        """Cross-entropy [nats] of every target [K, B, T], without gradient; windows [K, B, T + 1]
        hold inputs and, one to the right, targets."""
        inputs, targets = windows_kbt[:, :, :-1], windows_kbt[:, :, 1:]
        x_knd, head_kvd = self._last(flat_kp, inputs)
        loss_kn, *_ = output_loss(x_knd, head_kvd, targets.reshape(len(x_knd), -1), grad=False)
        return loss_kn.view(targets.shape)

    def fuses_loss(self, tokens: int) -> bool:
        """Whether compiled code holds the logits of so many tokens of a model whole."""
        return tokens * self.vocab_size <= FUSED_LOGITS

    def mean_loss(
        self, flat_kp: Tensor, windows_kbt: Tensor, instead: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Mean cross-entropy of each model [K]; differentiable (its gradient is that of the z-loss as
        well, if there is one). Tensors in `instead` take the place of their slices of `flat_kp`."""
        inputs, targets = windows_kbt[:, :, :-1], windows_kbt[:, :, 1:]
        x_knd, head_kvd = self._last(flat_kp, inputs, instead)
        target_kn = targets.reshape(len(x_knd), -1)
        if torch.compiler.is_compiling() and self.fuses_loss(target_kn.shape[1]):
            # The compiler fuses what OutputLoss does in place, and spares its price per call.
            return FusedLoss.apply(x_knd, head_kvd, target_kn, self.z_loss)[0]
        return OutputLoss.apply(x_knd, head_kvd, target_kn, self.z_loss)


FAMILY: dict[str, type[Model]] = {}
"""Families by name: that of their class in lower case, or file.py:Class for one of the user's own."""


def family(cls: type[M]) -> type[M]:
    """Class decorator: make a :class:`Model` one of the families that `model.family` can name.

    Raises ConfigError for a class that lacks what a family must give.
    """
    if not issubclass(cls, Model):
        raise ConfigError(f"family {cls.__name__} is no scaling.model.Model; derive it from Model.")
    for name in ("tensors", "hidden"):
        if getattr(cls, name) is getattr(Model, name):
            raise ConfigError(
                f"family {cls.__name__} has no method {name!r}; scaling/model.py says what it gives."
            )
    built_in = FAMILIES.get(cls.__name__.lower()) == cls.__module__
    FAMILY[cls.__name__.lower() if built_in else f"{cls.__module__}:{cls.__name__}"] = cls
    return cls


def build(model: ModelConfig, vocab_size: int) -> Model:
    """The model of a shape. ConfigError where its family cannot be had."""
    if model.family in FAMILIES:
        importlib.import_module(FAMILIES[model.family])  # registers it
        return FAMILY[model.family](model, vocab_size)
    path, _, name = model.family.rpartition(":")
    file = code_file(model.family)
    if f"{file}:{name}" not in FAMILY:
        _load(file, f"model.family={model.family!r}")
    if f"{file}:{name}" not in FAMILY:
        own = [known.rpartition(":")[2] for known in FAMILY if known.startswith(f"{file}:")]
        raise ConfigError(
            f"model.family={model.family!r}: {path} has no class {name} under the decorator @family; "
            f"it has {', '.join(own) or 'none'}."
        )
    try:
        return FAMILY[f"{file}:{name}"](model, vocab_size)
    except Exception as error:
        raise ConfigError(
            f"model.family={model.family!r} cannot be built: {type(error).__name__}: {error}"
        ) from error


def _load(file: Path, said: str) -> None:
    """Run a user's file; its families register themselves under its path."""
    spec = importlib.util.spec_from_file_location(str(file), file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"{said}: there is no file {file}.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{said} cannot be loaded: {type(error).__name__}: {error}") from error
