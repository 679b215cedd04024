"""The decoder: a pre-norm transformer. Shape suffixes as in scaling/model.py."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from scaling.model import Model, family
from scaling.model_config import NORM_EPS, ModelConfig
from scaling.models.attention import attend, rotations
from scaling.models.cache import KeyValueCache

_LARGE = 2**16
"""Elements of one model's norm above which fused gains outweigh K calls, on a CPU. On a GPU, the
launches of K kernels take longer than any of them."""


@family
class Decoder(Model):
    """Pre-norm decoder: by default GPT-2's (learned positions, LayerNorm, GELU, biases), with the
    options of :class:`scaling.model_config.ModelConfig`."""

    causal = True
    """Whether a position attends only to itself and earlier ones."""

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
        """Return 0.02, divided by sqrt(2 n_layer n_repeat) for matrices that write to the residual
        stream (Radford et al. 2019; position embeddings like the rest, as is now common)."""
        if name.endswith(("projection.weight", "down.weight")):
            return 0.02 / math.sqrt(2 * self.model.n_layer * self.model.n_repeat)
        return 0.02

    def matrices_of(self, name: str, tensor: Tensor) -> Sequence[Tensor]:
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

    def cache(self, flat_1p: Tensor, sequences: int, positions: int) -> KeyValueCache | None:
        if type(self) is not Decoder:  # a subclass may compute something else
            return None
        return KeyValueCache(self.model, self.named(flat_1p), sequences, positions)

    def _layer(self, p: Mapping[str, Tensor], i: int, x_knd: Tensor, t: int) -> Tensor:
        return self.block({name: p[f"{i}.{name}"] for name in self.in_block}, x_knd, t)

    def block(self, p: Mapping[str, Tensor], x_knd: Tensor, t: int) -> Tensor:
        """Apply one layer, given its own tensors; the same code serves all layers."""
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
        if query.device.type == "cpu" and query.dtype == torch.bfloat16:
            # The backward pass of the bfloat16 kernel takes three times as long as in float32.
            with torch.autocast("cpu", enabled=False):
                parts = query.float(), key.float(), value.float()
                y_bhtc = attend(*parts, m.attention_scale, causal=self.causal).to(query.dtype)
        else:
            y_bhtc = attend(query, key, value, m.attention_scale, causal=self.causal)
        return y_bhtc.transpose(1, 2).reshape(k, n, d)

    def _rotate(self, x_bhtc: Tensor) -> Tensor:
        """Rotate channel pairs (j, j + c / 2) by angles proportional to the position."""
        device = x_bhtc.device
        if device not in self._rotations:
            self._rotations[device] = rotations(self.model.n_ctx, self.model.head_width, device)
        length = x_bhtc.shape[2]
        cos_tc, sin_tc = (x[:length].to(x_bhtc.dtype) for x in self._rotations[device])
        a, b = x_bhtc.chunk(2, dim=3)
        return torch.cat([a * cos_tc - b * sin_tc, a * sin_tc + b * cos_tc], dim=3)

    def _norm(self, p: Mapping[str, Tensor], name: str, x_knd: Tensor) -> Tensor:
        weight_kd, bias_kd, d = p[f"{name}.weight"], p.get(f"{name}.bias"), x_knd.shape[-1]
        if (
            self.model.norm == "layernorm"
            and not torch.compiler.is_compiling()  # the compiler fuses gains itself
            and len(weight_kd) == len(x_knd)
            and x_knd[0].numel() >= _LARGE
            and (len(x_knd) == 1 or x_knd.device.type == "cpu")
        ):
            # One model at a time, with fused gains. The choice depends on the size of one model, so
            # that a pack changes no digit.
            biases = [None] * len(x_knd) if bias_kd is None else bias_kd.unbind()
            each = zip(x_knd.unbind(), weight_kd.unbind(), biases, strict=True)
            y = [F.layer_norm(x_nd, (d,), weight_d, bias_d) for x_nd, weight_d, bias_d in each]
            return y[0].unsqueeze(0) if len(y) == 1 else torch.stack(y)
        if self.model.norm == "rmsnorm":
            y_knd = F.rms_norm(x_knd, (d,), eps=NORM_EPS)
        else:
            y_knd = F.layer_norm(x_knd, (d,))
        if len(weight_kd) != len(x_knd):  # one row of gains per sequence
            y_knd = y_knd.view(len(weight_kd), -1, d)
        if bias_kd is None:
            y_knd = y_knd * weight_kd[:, None]
        else:
            y_knd = torch.addcmul(bias_kd[:, None], y_knd, weight_kd[:, None])
        return y_knd.view(x_knd.shape)


def _gelu(x: Tensor) -> Tensor:
    """Apply the GELU in its tanh form (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""
    if torch.compiler.is_compiling():  # an equivalent form with exp takes half the time
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return F.gelu(x, approximate="tanh")


def _rms(x_bhtc: Tensor, weight_bc: Tensor) -> Tensor:
    # Under autocast the norm returns float32, which attention cannot mix with bfloat16.
    y_bhtc = F.rms_norm(x_bhtc, x_bhtc.shape[-1:], eps=NORM_EPS)
    return (y_bhtc * weight_bc[:, None, None]).type_as(x_bhtc)


def _linear(p: Mapping[str, Tensor], name: str, x_kni: Tensor) -> Tensor:
    weight_kio, bias_ko = p[f"{name}.weight"], p.get(f"{name}.bias")
    if bias_ko is None:
        return torch.bmm(x_kni, weight_kio)
    if torch.compiler.is_compiling():  # the compiler fuses the sum with what follows
        y_kno = torch.bmm(x_kni, weight_kio)
        return y_kno + bias_ko[:, None].type_as(y_kno)
    return torch.baddbmm(bias_ko[:, None], x_kni, weight_kio)
