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
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from scaling.attention import attend
from scaling.config import FAMILIES, ConfigError, ModelConfig
from scaling.count import Parameters, code_file

# Logits in one chunk of the output layer: what the L2 cache of a core holds; 512 MB elsewhere.
_CHUNK_LOGITS = {"cpu": 1 << 20}

# Of one model, held whole by compiled code; more is cut into chunks as above.
_FUSED_LOGITS = 1 << 22

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
    their gradients are then those of each sequence (scaling/noise.py)."""

    recompute = False
    """Keep no activations within blocks for the backward pass; compute them again (for families whose
    hidden states are made of blocks)."""

    gather: Callable[[Tensor, dict[str, Tensor] | None], Mapping[str, Tensor]] | None = None
    """Does what :meth:`named` does where a process has only a part of every row (scaling/fsdp.py)."""

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
        loss_kn, *_ = _output_loss(x_knd, head_kvd, targets.reshape(len(x_knd), -1), grad=False)
        return loss_kn.view(targets.shape)

    def fuses_loss(self, tokens: int) -> bool:
        """Whether compiled code holds the logits of so many tokens of a model whole."""
        return tokens * self.vocab_size <= _FUSED_LOGITS

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


def _output_loss(
    x_knd: Tensor, head_kvd: Tensor, targets_kn: Tensor, *, grad: bool, z_loss: float = 0.0
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Cross-entropy [K, N] of an output layer and, if asked, the gradients of its mean over N.

    Works on chunks of models and tokens whose logits fit the cache: for a small model they are most
    of the memory traffic of a step, and on no device is [tokens, vocabulary] ever held whole. How
    the tokens are cut does not depend on K: sums are then the same alone and in a pack.
    """
    k, n, _ = x_knd.shape
    device = x_knd.device.type
    most = _CHUNK_LOGITS.get(device, 1 << 27)
    tokens = max(1, most // head_kvd.shape[1])
    models = max(1, most // (n * head_kvd.shape[1]))
    grad_x = torch.empty_like(x_knd) if grad else None
    grad_head = torch.zeros_like(head_kvd) if grad else None
    loss_kn = torch.empty(targets_kn.shape, dtype=torch.float32, device=x_knd.device)
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x_knd, head_kvd = x_knd.to(dtype), head_kvd.to(dtype)
    with torch.autocast(device, enabled=False):
        for i, a in itertools.product(range(0, k, models), range(0, n, tokens)):
            part = slice(i, i + models), slice(a, a + tokens)
            x_kcd, target_kc1, head_mvd = (
                x_knd[part],
                targets_kn[part][..., None],
                head_kvd[part[0]],
            )
            p_kcv = torch.bmm(x_kcd, head_mvd.transpose(1, 2))
            if p_kcv.dtype == torch.bfloat16:
                p_kcv = p_kcv.float()
            top_kc1 = p_kcv.amax(2, keepdim=True)
            at_target_kc1 = p_kcv.gather(2, target_kc1) - top_kc1
            total_kc1 = p_kcv.sub_(top_kc1).exp_().sum(2, keepdim=True)
            loss_kn[part] = (total_kc1.log() - at_target_kc1)[:, :, 0]
            if grad_x is not None and grad_head is not None:
                # d mean / d logits = (softmax - one-hot) / n, in place of the exponentials; and
                # d z_loss (ln Z)^2 / d logits = 2 z_loss ln Z softmax
                if z_loss:
                    p_kcv.mul_(1 + 2 * z_loss * (top_kc1 + total_kc1.log()))
                p_kcv.div_(total_kc1.mul_(n))
                p_kcv.scatter_add_(2, target_kc1, torch.full_like(total_kc1, -1.0 / n))
                p_kcv = p_kcv.to(x_kcd.dtype)
                grad_x[part] = torch.bmm(p_kcv, head_mvd)
                grad_head[part[0]] += torch.bmm(p_kcv.transpose(1, 2), x_kcd)
    return loss_kn, grad_x, grad_head


class OutputLoss(torch.autograd.Function):
    """Mean cross-entropy of each model's output layer [K]; its gradients come with the loss."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, x_knd: Tensor, head_kvd: Tensor, targets_kn: Tensor, z_loss: float
    ) -> Tensor:
        loss_kn, grad_x, grad_head = _output_loss(
            x_knd, head_kvd, targets_kn, grad=True, z_loss=z_loss
        )
        ctx.save_for_backward(grad_x, grad_head)
        return loss_kn.mean(1)

    @staticmethod
    def backward(ctx, grad_k: Tensor):  # type: ignore[override]
        grad_x, grad_head = ctx.saved_tensors
        grad_k11 = grad_k[:, None, None]
        return grad_x * grad_k11, grad_head * grad_k11, None, None


class FusedLoss(torch.autograd.Function):
    """:class:`OutputLoss` written to be compiled into one pass over logits that are held whole; what
    comes of differentiating a cross-entropy takes three times as long."""

    @staticmethod
    def forward(  # type: ignore[override]
        x_knd: Tensor, head_kvd: Tensor, targets_kn: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, target_kn1 = targets_kn.shape[1], targets_kn[..., None]
        logits_knv = torch.bmm(x_knd, head_kvd.transpose(1, 2))
        x_knv = logits_knv.float()
        top_kn1 = x_knv.amax(2, keepdim=True)
        p_knv = (x_knv - top_kn1).exp()
        total_kn1 = p_knv.sum(2, keepdim=True)
        ln_z_kn1 = top_kn1 + total_kn1.log()
        loss_kn1 = ln_z_kn1 - x_knv.gather(2, target_kn1)
        p_knv = p_knv * ((1 + 2 * z_loss * ln_z_kn1) / (n * total_kn1))
        token_v = torch.arange(x_knv.shape[2], device=x_knv.device, dtype=torch.int32)
        p_knv = p_knv - torch.where(token_v == target_kn1.int(), 1 / n, 0.0)
        grad_knv = p_knv.to(logits_knv.dtype)
        grad_x = torch.bmm(grad_knv, head_kvd).to(x_knd.dtype)
        grad_head = torch.bmm(grad_knv.transpose(1, 2), x_knd).to(head_kvd.dtype)
        return loss_kn1[:, :, 0].mean(1), grad_x, grad_head

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx, grad_k: Tensor, *_):  # type: ignore[override]
        grad_x, grad_head = ctx.saved_tensors
        grad_k11 = grad_k[:, None, None]
        return grad_x * grad_k11, grad_head * grad_k11, None, None


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


@family
class Decoder(Model):
    """Pre-norm decoder: GPT-2's (learned positions, LayerNorm, GELU, biases), or with any of the
    options of :class:`scaling.config.ModelConfig`."""

    def __init__(self, model: ModelConfig, vocab_size: int) -> None:
        super().__init__(model, vocab_size)
        self._rotations: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.in_block = [n.removeprefix("0.") for n in self.shapes if n.startswith("0.")]
        self.gains = [n for n in self.shapes if re.fullmatch(r"(\d+\.)?norm\d?\.(weight|bias)", n)]

    def tensors(self) -> dict[str, tuple[int, ...]]:
        m = self.model
        d, f = m.d_model, m.ff_width
        shapes: dict[str, tuple[int, ...]] = {}

        def linear(name: str, i: int, o: int) -> None:
            shapes[f"{name}.weight"] = (i, o)
            if m.bias:
                shapes[f"{name}.bias"] = (o,)

        def norm(name: str) -> None:
            shapes[f"{name}.weight"] = (d,)
            if m.bias and m.norm == "layernorm":
                shapes[f"{name}.bias"] = (d,)

        if m.position == "learned":
            shapes["position_embedding"] = (m.n_ctx, d)
        for i in range(m.n_layer):
            norm(f"{i}.norm1")
            linear(f"{i}.qkv", d, d + 2 * m.kv_width)
            if m.qk_norm:
                shapes |= {f"{i}.{x}_norm.weight": (m.head_width,) for x in ("query", "key")}
            linear(f"{i}.projection", d, d)
            norm(f"{i}.norm2")
            linear(f"{i}.up", d, f if m.activation == "gelu" else 2 * f)
            linear(f"{i}.down", f, d)
        norm("norm")
        return shapes

    def std(self, name: str) -> float:
        """0.02; the matrices that write to the residual stream divided by sqrt(2 n_layer n_repeat)
        (Radford et al. 2019; position embeddings like the rest, as is now common)."""
        if name.endswith(("projection.weight", "down.weight")):
            return 0.02 / math.sqrt(2 * self.model.n_layer * self.model.n_repeat)
        return 0.02

    def parts(self, name: str, tensor: Tensor) -> Sequence[Tensor]:
        m = self.model
        if name.endswith("qkv.weight"):
            return tensor.split([m.d_model, m.kv_width, m.kv_width], dim=1)
        if name.endswith("up.weight") and m.activation == "swiglu":
            return tensor.chunk(2, dim=1)
        return [tensor]

    def hidden(self, p: Mapping[str, Tensor], tokens_kbt: Tensor) -> Tensor:
        k, b, t = tokens_kbt.shape
        x_kbtd = self.embed(p, tokens_kbt)
        if self.model.position == "learned":
            position_ktd = p["position_embedding"]
            if t < self.model.n_ctx:
                position_ktd = position_ktd[:, :t]
            x_kbtd = x_kbtd + position_ktd.unsqueeze(1)
        x_knd = x_kbtd.view(k, b * t, -1)
        for _ in range(self.model.n_repeat):
            for i in range(self.model.n_layer):
                if self.recompute and torch.is_grad_enabled():
                    x_knd = checkpoint(self._layer, p, i, x_knd, t, use_reentrant=False)
                else:
                    x_knd = self._layer(p, i, x_knd, t)
        return self._norm(p, "norm", x_knd)

    def _layer(self, p: Mapping[str, Tensor], i: int, x_knd: Tensor, t: int) -> Tensor:
        return self.block({name: p[f"{i}.{name}"] for name in self.in_block}, x_knd, t)

    def block(self, p: Mapping[str, Tensor], x_knd: Tensor, t: int) -> Tensor:
        """One layer, from its own tensors: the same code for all of them."""
        y_knd = self._norm(p, "norm1", x_knd)
        y_knd = self._attention(p, y_knd, t)
        x_knd = x_knd + _linear(p, "projection", y_knd)
        up = _linear(p, "up", self._norm(p, "norm2", x_knd))
        if self.model.activation == "gelu":
            y_knf = _gelu(up)
        else:
            gate_knf, value_knf = up.chunk(2, dim=2)
            y_knf = F.silu(gate_knf) * value_knf
        return x_knd + _linear(p, "down", y_knf)

    def _attention(self, p: Mapping[str, Tensor], y_knd: Tensor, t: int) -> Tensor:
        m = self.model
        k, n, d = y_knd.shape
        h, g, c = m.n_head, m.kv_heads, m.head_width
        qkv = _linear(p, "qkv", y_knd).view(n * k // t, t, d + 2 * m.kv_width)
        query, key, value = (
            part.view(n * k // t, t, -1, c).transpose(1, 2)
            for part in qkv.split([d, m.kv_width, m.kv_width], dim=2)
        )
        if m.qk_norm:
            query = _rms(query, p["query_norm.weight"].repeat_interleave(n // t, 0))
            key = _rms(key, p["key_norm.weight"].repeat_interleave(n // t, 0))
        if m.position == "rope":
            query, key = self._rotate(query), self._rotate(key)
        if g < h:
            key, value = (x.repeat_interleave(h // g, dim=1) for x in (key, value))
        scale = c**-0.5 if m.mup_base_width is None else 1 / c
        if query.device.type == "cpu" and query.dtype == torch.bfloat16:
            # whose kernel's backward pass takes thrice as long there as that of float32
            with torch.autocast("cpu", enabled=False):
                y_bhtc = attend(query.float(), key.float(), value.float(), scale).to(query.dtype)
        else:
            y_bhtc = attend(query, key, value, scale)
        return y_bhtc.transpose(1, 2).reshape(k, n, d)

    def _rotate(self, x_bhtc: Tensor) -> Tensor:
        """Turn channel pairs (j, j + c / 2) of position t by t 10000^(-2j / c) (Su et al. 2021)."""
        device = x_bhtc.device
        if device not in self._rotations:
            j = torch.arange(0, self.model.head_width, 2, device=device, dtype=torch.float64)
            t = torch.arange(self.model.n_ctx, device=device, dtype=torch.float64)
            angle_tc = t[:, None] * 1e4 ** (-j / self.model.head_width)
            self._rotations[device] = angle_tc.cos(), angle_tc.sin()
        steps = x_bhtc.shape[2]
        cos_tc, sin_tc = (x[:steps].to(x_bhtc.dtype) for x in self._rotations[device])
        a, b = x_bhtc.chunk(2, dim=3)
        return torch.cat([a * cos_tc - b * sin_tc, a * sin_tc + b * cos_tc], dim=3)

    def _norm(self, p: Mapping[str, Tensor], name: str, x_knd: Tensor) -> Tensor:
        weight_kd, bias_kd, d = p[f"{name}.weight"], p.get(f"{name}.bias"), x_knd.shape[-1]
        if (
            self.model.norm == "layernorm"
            and not torch.compiler.is_compiling()  # which fuses them itself
            and len(weight_kd) == len(x_knd)
            and x_knd[0].numel() >= _LARGE
        ):
            # One model at a time, gains fused; by the size of one, so that a pack changes no digit.
            biases = [None] * len(x_knd) if bias_kd is None else bias_kd.unbind()
            each = zip(x_knd.unbind(), weight_kd.unbind(), biases, strict=True)
            y = [F.layer_norm(x_nd, (d,), weight_d, bias_d) for x_nd, weight_d, bias_d in each]
            return y[0].unsqueeze(0) if len(y) == 1 else torch.stack(y)
        if self.model.norm == "rmsnorm":
            y_knd = F.rms_norm(x_knd, (d,), eps=_EPS)
        else:
            y_knd = F.layer_norm(x_knd, (d,))
        if len(weight_kd) != len(x_knd):  # gains of each sequence
            y_knd = y_knd.view(len(weight_kd), -1, d)
        if bias_kd is None:
            y_knd = y_knd * weight_kd[:, None]
        else:
            y_knd = torch.addcmul(bias_kd[:, None], y_knd, weight_kd[:, None])
        return y_knd.view(x_knd.shape)


_EPS = 1e-5  # of norms, as torch's layer_norm has it
_LARGE = 2**16  # elements of one model's norm from which fused gains outweigh K calls


def _gelu(x: Tensor) -> Tensor:
    """In its tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""
    if torch.compiler.is_compiling():  # the same by an exponential, in half the time of a tanh
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return F.gelu(x, approximate="tanh")


def _rms(x_bhtc: Tensor, weight_bc: Tensor) -> Tensor:
    # autocast would leave float32, which attention cannot mix
    y_bhtc = F.rms_norm(x_bhtc, x_bhtc.shape[-1:], eps=_EPS)
    return (y_bhtc * weight_bc[:, None, None]).type_as(x_bhtc)


def _linear(p: Mapping[str, Tensor], name: str, x_kni: Tensor) -> Tensor:
    weight_kio, bias_ko = p[f"{name}.weight"], p.get(f"{name}.bias")
    if bias_ko is None:
        return torch.bmm(x_kni, weight_kio)
    if torch.compiler.is_compiling():  # which fuses the sum with what follows
        y_kno = torch.bmm(x_kni, weight_kio)
        return y_kno + bias_ko[:, None].type_as(y_kno)
    return torch.baddbmm(bias_ko[:, None], x_kni, weight_kio)
