"""Language models, and how to add your own architecture.

A family of models is a subclass of :class:`Model` under the decorator :func:`family`. It lists its
tensors and maps tokens to hidden states; :class:`Model` adds the embedding, the output layer, the
loss and the initial values. Put a family of your own in a file, and `model.family = "my.py:Mean"`
trains and sweeps it:

    import torch
    from scaling.model import Model, family

    @family
    class Mean(Model):  # predicts from the mean of all tokens so far
        def tensors(self):
            d = self.model.d_model
            return {"mix.weight": (d, d)}

        def hidden(self, p, tokens_kbt):
            x_kbtd = self.embed(p, tokens_kbt)
            count_t1 = torch.arange(1, x_kbtd.shape[2] + 1, device=x_kbtd.device)[:, None]
            return (x_kbtd.cumsum(2) / count_t1).flatten(1, 2) @ p["mix.weight"]

`self.model` is the :class:`scaling.model_config.ModelConfig`: use the fields that make sense. A
family may also override :meth:`Model.std` (initial values) and :meth:`Model.matrices_of` (for
Muon). The built-in families, decoder.py, encoder.py and lstm.py in scaling/models, are longer
examples.

Models are functions of flat parameters, written for K models of one shape at once. All parameters
of model k are row k of one flat tensor [K, P], so copying or dropping a model is copying or
dropping a row. A single run is K = 1 through the same code.

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
from scaling.models.cache import KeyValueCache
from scaling.models.output_loss import FusedLoss, OutputLoss, most_fused, output_loss

_KINDS = ("matrix", "embedding", "head", "vector")
"""Kinds of tensors, in the order in which they lie in a row."""

M = TypeVar("M", bound="Model")


class Model:
    """Base class of all families: flat parameters by name, embedding, output layer, loss.

    The name of a tensor says what it is, and so how it is initialised, trained and counted:
    "...weight" is a matrix [in, out], or a gain if "norm" is in the name; "...bias" is a bias; a
    name with "embedding" is an embedding.
    """

    def __init__(self, model: ModelConfig, vocab_size: int) -> None:
        self.model = model
        self.vocab_size = vocab_size
        embedded = vocab_size + model.special_tokens
        shapes: dict[str, tuple[int, ...]] = {"token_embedding": (embedded, model.d_model)}
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
        """Index in a row at which each tensor begins."""
        self.ends: dict[str, int] = {}
        """Index in a row at which each kind of tensor ends."""
        for kind in _KINDS:
            before = list(self.ends.values())[-1:] or [0]
            mine = (
                n
                for name, n in zip(self.shapes, self.sizes, strict=True)
                if self.kind(name) == kind
            )
            self.ends[kind] = before[0] + sum(mine)

    # ---------------------------------------------------------------- what a family defines

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} of the tensors, without the token embedding and the output layer."""
        raise NotImplementedError

    def hidden(self, p: Mapping[str, Tensor], tokens_kbt: Tensor) -> Tensor:
        """Return the final hidden states [K, B T, D] for tokens [K, B, T].

        `p` holds the parameters [K, *shape] by name.
        """
        raise NotImplementedError

    def std(self, name: str) -> float:
        """Return the standard deviation of the initial weights of a matrix or an embedding.

        In muP, the value of a matrix is that at the base width.
        """
        return 0.02

    def cache(self, flat_1p: Tensor, sequences: int, positions: int) -> KeyValueCache | None:
        """Return a cache with which one model generates text token by token.

        It holds up to `positions` tokens of each of a number of sequences. None, the default:
        every token is computed from all tokens before it.
        """
        return None

    gains: Sequence[str] = ()
    """Names of the gains and biases that :meth:`hidden` also accepts as [K B, D], one row per
    sequence, instead of [K, D]. Their gradients are then those of each sequence
    (scaling/training/noise.py)."""

    def matrices_of(self, name: str, tensor: Tensor) -> Sequence[Tensor]:
        """Return views of the independent matrices in a tensor: one, unless it stacks several.

        An optimiser that works on whole matrices (Muon) updates each separately.
        """
        return [tensor]

    # ---------------------------------------------------------------- set by the training loop

    recompute = False
    """Do not keep the activations within blocks for the backward pass; recompute them. Families
    without blocks may ignore it."""

    gather: Callable[[Tensor, dict[str, Tensor] | None], Mapping[str, Tensor]] | None = None
    """Replaces :meth:`named` if a process holds only a shard of every row
    (scaling/training/fsdp.py)."""

    z_loss = 0.0
    """Weight of (ln Z)^2 in the gradient, with Z the sum of the exponentials of a token's
    logits."""

    # ---------------------------------------------------------------- parameters

    @staticmethod
    def kind(name: str) -> str:
        """Return the kind of a tensor: matrix, embedding, head or vector (norms and biases)."""
        if name == "head":
            return name
        if "embedding" in name:
            return "embedding"
        return "matrix" if name.endswith("weight") and "norm" not in name else "vector"

    def count(self) -> Parameters:
        """Return the parameter counts of the model as built."""
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
        """Return the FLOPs per token of the matrix products in a forward pass of one context, with
        an output layer for the positions that are predicted in training.

        torch counts them as they run. Kernels that it does not know (the LSTM's) count as 0.
        """
        tokens = torch.zeros(1, 1, self.model.n_ctx, dtype=torch.long)
        counter = FlopCounterMode(display=False)
        # explicit attention, because torch does not count its fused kernel for CPUs
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            self.logits(torch.zeros(1, self.P), tokens, torch.arange(self.model.predicted))
        return counter.get_total_flops() / self.model.n_ctx

    def init(self, seeds: list[int]) -> Tensor:
        """Return initial parameters [K, P] on the CPU, one row per seed.

        Matrices and embeddings are N(0, std^2), matrices divided by the root of the width
        multiplier (Yang et al. 2022, Table 8); biases are 0 and gains 1.
        """
        return torch.stack([torch.cat(list(self.initial(seed))) for seed in seeds])

    def initial(self, seed: int) -> Iterator[Tensor]:
        """Yield a row of :meth:`init` tensor by tensor, each flat."""
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
        """Return views [K, *shape] of the flat parameters by name; tensors in `instead` replace
        theirs."""
        if self.gather is not None:
            return self.gather(flat_kp, instead)
        slices = flat_kp.split(self.sizes, dim=1)
        views = {
            name: slice_kp.view(-1, *shape)
            for (name, shape), slice_kp in zip(self.shapes.items(), slices, strict=True)
        }
        return views | (instead or {})

    def embed(self, p: Mapping[str, Tensor], tokens_kbt: Tensor) -> Tensor:
        """Return the token embeddings [K, B, T, D] of tokens [K, B, T]."""
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

    def inputs(self, windows: Tensor) -> Tensor:
        """Return the input tokens [..., T] of windows: all but the last of T + 1 tokens."""
        return windows[..., :-1]

    def targets(self, windows: Tensor) -> Tensor:
        """Return the targets [..., T] of windows: the next tokens; negative where there is none."""
        return windows[..., 1:]

    def predicted(self, x_knd: Tensor, targets_kbt: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states [K, N, D] and targets [K, N] of the positions that are predicted:
        here all of them."""
        return x_knd, targets_kbt.reshape(len(x_knd), -1)

    def output(self, p: Mapping[str, Tensor], x_knd: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output layer's input [K, N, D] and weights [K, V, D], given the final hidden
        states."""
        if self.model.mup_base_width is not None:
            x_knd = x_knd / self.model.width_multiplier
        return x_knd, p["token_embedding" if self.model.tied else "head"]

    def logits(self, flat_kp: Tensor, tokens_kbt: Tensor, at_n: Tensor | None = None) -> Tensor:
        """Return the next-token logits [K, B T, V] of tokens [K, B, T], with T up to n_ctx.

        With `at_n`, only those at these positions among all B T are computed.
        """
        p = self.named(flat_kp)
        x_knd, head_kvd = self.output(p, self.hidden(p, tokens_kbt))
        x_knd = x_knd if at_n is None else x_knd[:, at_n]
        return torch.bmm(x_knd, head_kvd.transpose(1, 2))

    def next_logits(self, p: Mapping[str, Tensor], x_nd: Tensor) -> Tensor:
        """Return the logits [N, V] of a single model from its final hidden states [N, D]."""
        x_1nd, head_1vd = self.output(p, x_nd[None])
        return x_1nd[0] @ head_1vd[0].T

    @torch.no_grad()
    def losses(self, flat_kp: Tensor, windows_kbt: Tensor) -> Tensor:
        """Return the cross-entropy [nats] of every target [K, B, T], without gradient.

        Windows [K, B, T + 1] hold the inputs and, one position to the right, the targets.
        """
        targets_kbt = self.targets(windows_kbt)
        p = self.named(flat_kp)
        x_knd = self.hidden(p, self.inputs(windows_kbt))
        return self.token_losses(p, x_knd, targets_kbt).view(targets_kbt.shape)

    def token_losses(self, p: Mapping[str, Tensor], x_knd: Tensor, targets_kbt: Tensor) -> Tensor:
        """Return the cross-entropy [K, N] of the predicted positions, without gradient."""
        x_knd, head_kvd = self.output(p, x_knd)
        x_knd, target_kn = self.predicted(x_knd, targets_kbt)
        return output_loss(x_knd, head_kvd, target_kn, grad=False)[0]

    def mean_loss(
        self, flat_kp: Tensor, windows_kbt: Tensor, instead: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Return the differentiable mean cross-entropy of each model [K].

        Its gradient includes that of the z-loss, if there is one; its value does not. Tensors in
        `instead` replace their slices of `flat_kp`.
        """
        p = self.named(flat_kp, instead)
        x_knd = self.hidden(p, self.inputs(windows_kbt))
        return self.loss_of(p, x_knd, self.targets(windows_kbt))

    def loss_of(self, p: Mapping[str, Tensor], x_knd: Tensor, targets_kbt: Tensor) -> Tensor:
        """Return the differentiable mean cross-entropy [K] of the final hidden states [K, B T,
        D]."""
        x_knd, head_kvd = self.output(p, x_knd)
        x_knd, target_kn = self.predicted(x_knd, targets_kbt)
        return self.mean_cross_entropy(x_knd, head_kvd, target_kn, self.z_loss)

    def mean_cross_entropy(
        self, x_knd: Tensor, head_kvd: Tensor, target_kn: Tensor, z_loss: float = 0.0
    ) -> Tensor:
        """Return the differentiable mean cross-entropy [K] of an output layer [K, V, D]."""
        logits = target_kn.shape[1] * self.vocab_size
        if torch.compiler.is_compiling() and logits <= most_fused(x_knd.device):
            # The compiler fuses what OutputLoss does explicitly, and avoids its overhead per call.
            return FusedLoss.apply(x_knd, head_kvd, target_kn, z_loss)[0]
        return OutputLoss.apply(x_knd, head_kvd, target_kn, z_loss)


FAMILY: dict[str, type[Model]] = {}
"""Families by name: the class name in lower case if built in, file.py:Class if custom."""


def family(cls: type[M]) -> type[M]:
    """Register a :class:`Model` as a family that `model.family` can name (class decorator).

    Raises ConfigError for a class that is not a Model, or lacks a method that a family must define.
    """
    if not issubclass(cls, Model):
        raise ConfigError(
            f"family {cls.__name__} is not a scaling.model.Model; derive it from Model."
        )
    for name in ("tensors", "hidden"):
        if getattr(cls, name) is getattr(Model, name):
            raise ConfigError(
                f"family {cls.__name__} has no method {name!r}; scaling/model.py describes it."
            )
    built_in = FAMILIES.get(cls.__name__.lower()) == cls.__module__
    FAMILY[cls.__name__.lower() if built_in else f"{cls.__module__}:{cls.__name__}"] = cls
    return cls


def build(model: ModelConfig, vocab_size: int) -> Model:
    """Return the model of a given shape. Raises ConfigError if its family is missing or fails."""
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
            f"model.family={model.family!r}: {path} has no class {name} under the decorator "
            f"@family; it has {', '.join(own) or 'none'}."
        )
    try:
        return FAMILY[f"{file}:{name}"](model, vocab_size)
    except Exception as error:
        raise ConfigError(
            f"model.family={model.family!r} cannot be built: {type(error).__name__}: {error}"
        ) from error


def _load(file: Path, setting: str) -> None:
    """Run a user's file; its families register themselves under its path."""
    spec = importlib.util.spec_from_file_location(str(file), file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"{setting}: there is no file {file}.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{setting} cannot be loaded: {type(error).__name__}: {error}") from error
