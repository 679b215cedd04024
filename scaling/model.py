"""GPT-2-style decoder (Radford et al. 2019), written for K models of one shape at once.

All parameters of model k are row k of one flat tensor [K, P]; a single run is K = 1 through the same
code. Copying a model, or dropping one, is copying a row.

Shape suffixes:  k model (pack axis) · b sequence · t position · d d_model · f d_ff · h head ·
                 c channels of a head · v vocabulary · n = b t flattened
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.config import ModelConfig


class Decoder:
    """Pre-LN decoder with learned positions, GELU and biases; a function of its flat parameters."""

    def __init__(self, model: ModelConfig, vocab_size: int) -> None:
        self.model = model
        self.vocab_size = vocab_size
        d, f = model.d_model, model.ff_width
        self.shapes: dict[str, tuple[int, ...]] = {
            "token_embedding": (vocab_size, d),
            "position_embedding": (model.n_ctx, d),
        }
        if not model.tied:
            self.shapes["head"] = (d, vocab_size)
        for i in range(model.n_layer):
            self.shapes |= {
                f"{i}.norm1.weight": (d,),
                f"{i}.norm1.bias": (d,),
                f"{i}.qkv.weight": (d, 3 * d),
                f"{i}.qkv.bias": (3 * d,),
                f"{i}.projection.weight": (d, d),
                f"{i}.projection.bias": (d,),
                f"{i}.norm2.weight": (d,),
                f"{i}.norm2.bias": (d,),
                f"{i}.up.weight": (d, f),
                f"{i}.up.bias": (f,),
                f"{i}.down.weight": (f, d),
                f"{i}.down.bias": (d,),
            }
        self.shapes |= {"norm.weight": (d,), "norm.bias": (d,)}
        # Decayed tensors first: weight decay then acts on one contiguous slice of every row.
        names = sorted(self.shapes, key=lambda name: not self.is_decayed(name))
        self.shapes = {name: self.shapes[name] for name in names}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.P = sum(self.sizes)
        self.P_decayed = sum(
            size for name, size in zip(self.shapes, self.sizes, strict=True) if self.is_decayed(name)
        )

    @staticmethod
    def is_decayed(name: str) -> bool:
        """Weight decay acts on matrices, not on embeddings, biases and norms."""
        return name.endswith(".weight") and "norm" not in name

    def init(self, seeds: list[int]) -> Tensor:
        """Initial parameters [K, P] on the CPU, one row a seed: N(0, 0.02), the two matrices that
        write to the residual stream divided by sqrt(2 n_layer), biases 0, norms 1 (GPT-2)."""
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            parts = []
            for name, size in zip(self.shapes, self.sizes, strict=True):
                if name.endswith("bias"):
                    part = torch.zeros(size)
                elif "norm" in name:
                    part = torch.ones(size)
                else:
                    part = torch.randn(size, generator=generator) * 0.02
                    if name.endswith(("projection.weight", "down.weight")):
                        part /= math.sqrt(2 * self.model.n_layer)
                parts.append(part)
            rows.append(torch.cat(parts))
        return torch.stack(rows)

    def named(self, flat_kp: Tensor) -> dict[str, Tensor]:
        """Views [K, *shape] of the flat parameters, by name."""
        parts = flat_kp.split(self.sizes, dim=1)
        return {
            name: part.view(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def logits(self, flat_kp: Tensor, tokens_kbt: Tensor) -> Tensor:
        """Next-token logits [K, B T, V] of tokens [K, B, T], T up to n_ctx."""
        p = self.named(flat_kp)
        k, b, t = tokens_kbt.shape
        d, h = self.model.d_model, self.model.n_head
        vocabulary = self.vocab_size
        embedding_kvd = p["token_embedding"]
        if k == 1:
            x_bd = F.embedding(tokens_kbt[0], embedding_kvd[0])
        else:  # one lookup in the stacked tables
            offset_k11 = torch.arange(k, device=tokens_kbt.device).view(k, 1, 1) * vocabulary
            x_bd = F.embedding(tokens_kbt + offset_k11, embedding_kvd.reshape(k * vocabulary, d))
        x_kbtd = x_bd.view(k, b, t, d) + p["position_embedding"][:, None, :t]
        x_knd = x_kbtd.view(k, b * t, d)
        for i in range(self.model.n_layer):
            y_knd = _norm(x_knd, p[f"{i}.norm1.weight"], p[f"{i}.norm1.bias"])
            qkv = _linear(y_knd, p[f"{i}.qkv.weight"], p[f"{i}.qkv.bias"])
            q, key, value = qkv.view(k * b, t, 3, h, d // h).permute(2, 0, 3, 1, 4).unbind(0)
            y_bhtc = F.scaled_dot_product_attention(q, key, value, is_causal=True)
            y_knd = y_bhtc.transpose(1, 2).reshape(k, b * t, d)
            x_knd = x_knd + _linear(y_knd, p[f"{i}.projection.weight"], p[f"{i}.projection.bias"])
            y_knd = _norm(x_knd, p[f"{i}.norm2.weight"], p[f"{i}.norm2.bias"])
            y_knf = F.gelu(_linear(y_knd, p[f"{i}.up.weight"], p[f"{i}.up.bias"]), approximate="tanh")
            x_knd = x_knd + _linear(y_knf, p[f"{i}.down.weight"], p[f"{i}.down.bias"])
        x_knd = _norm(x_knd, p["norm.weight"], p["norm.bias"])
        head_kdv = embedding_kvd.transpose(1, 2) if self.model.tied else p["head"]
        return torch.bmm(x_knd, head_kdv)

    def losses(self, flat_kp: Tensor, window_kbt: Tensor) -> Tensor:
        """Cross-entropy [nats] of every target [K, B, T]; windows [K, B, T + 1] hold inputs and,
        one to the right, targets."""
        inputs, targets = window_kbt[:, :, :-1], window_kbt[:, :, 1:]
        logits_knv = self.logits(flat_kp, inputs)
        loss_n = F.cross_entropy(
            logits_knv.float().view(-1, self.vocab_size), targets.reshape(-1), reduction="none"
        )
        return loss_n.view(targets.shape)


def _linear(x_kni: Tensor, weight_kio: Tensor, bias_ko: Tensor) -> Tensor:
    if len(x_kni) == 1:  # addmm is quicker than baddbmm for one model
        return torch.addmm(bias_ko[0], x_kni[0], weight_kio[0])[None]
    return torch.baddbmm(bias_ko[:, None], x_kni, weight_kio)


def _norm(x_knd: Tensor, weight_kd: Tensor, bias_kd: Tensor) -> Tensor:
    d = x_knd.shape[-1]
    if len(x_knd) == 1:
        return F.layer_norm(x_knd, (d,), weight_kd[0], bias_kd[0])
    return torch.addcmul(bias_kd[:, None], F.layer_norm(x_knd, (d,)), weight_kd[:, None])
