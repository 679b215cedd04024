"""GPT-2-style decoder (Radford et al. 2019), written for K models of one shape at once.

All parameters of model k are row k of one flat tensor [K, P]; a single run is K = 1 through the same
code. Copying a model, or dropping one, is copying a row.

Shape suffixes:  k model (pack axis) · b sequence · t position · d d_model · f d_ff · h head ·
                 c channels of a head · v vocabulary · n = b t flattened
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.config import ModelConfig

# Logits in one chunk of the output layer: what the L2 cache of a core holds; 512 MB elsewhere.
_CHUNK_LOGITS = {"cpu": 1 << 20}


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
            self.shapes["head"] = (vocab_size, d)
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
            size
            for name, size in zip(self.shapes, self.sizes, strict=True)
            if self.is_decayed(name)
        )

    @staticmethod
    def is_decayed(name: str) -> bool:
        """Weight decay acts on matrices, not on embeddings, biases and norms."""
        return name.endswith(".weight") and "norm" not in name

    def init(self, seeds: list[int]) -> Tensor:
        """Initial parameters [K, P] on the CPU, one row a seed: N(0, 0.02), the two matrices that
        write to the residual stream divided by sqrt(2 n_layer), biases 0, norms 1 (Radford et al.
        2019; position embeddings like the rest, as is now common)."""
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

    def _hidden(self, flat_kp: Tensor, tokens_kbt: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states [K, B T, D] and the output layer [K, V, D]."""
        p = self.named(flat_kp)
        k, b, t = tokens_kbt.shape
        d, h = self.model.d_model, self.model.n_head
        vocabulary = self.vocab_size
        embedding_kvd = p["token_embedding"]
        if k == 1:
            x_bd = F.embedding(tokens_kbt.squeeze(0), embedding_kvd.squeeze(0))
        else:  # one lookup in the stacked tables
            offset_k11 = torch.arange(k, device=tokens_kbt.device).view(k, 1, 1) * vocabulary
            x_bd = F.embedding(tokens_kbt + offset_k11, embedding_kvd.reshape(k * vocabulary, d))
        position_ktd = p["position_embedding"]
        if t < self.model.n_ctx:
            position_ktd = position_ktd[:, :t]
        x_kbtd = x_bd.view(k, b, t, d) + position_ktd.unsqueeze(1)
        x_knd = x_kbtd.view(k, b * t, d)
        for i in range(self.model.n_layer):
            y_knd = _norm(x_knd, p[f"{i}.norm1.weight"], p[f"{i}.norm1.bias"])
            qkv = _linear(y_knd, p[f"{i}.qkv.weight"], p[f"{i}.qkv.bias"])
            q, key, value = (
                part.view(k * b, t, h, d // h).transpose(1, 2)
                for part in qkv.view(k * b, t, 3 * d).split(d, dim=2)
            )
            y_bhtc = F.scaled_dot_product_attention(q, key, value, is_causal=True)
            y_knd = y_bhtc.transpose(1, 2).reshape(k, b * t, d)
            x_knd = x_knd + _linear(y_knd, p[f"{i}.projection.weight"], p[f"{i}.projection.bias"])
            y_knd = _norm(x_knd, p[f"{i}.norm2.weight"], p[f"{i}.norm2.bias"])
            y_knf = F.gelu(
                _linear(y_knd, p[f"{i}.up.weight"], p[f"{i}.up.bias"]), approximate="tanh"
            )
            x_knd = x_knd + _linear(y_knf, p[f"{i}.down.weight"], p[f"{i}.down.bias"])
        x_knd = _norm(x_knd, p["norm.weight"], p["norm.bias"])
        return x_knd, embedding_kvd if self.model.tied else p["head"]

    def logits(self, flat_kp: Tensor, tokens_kbt: Tensor) -> Tensor:
        """Next-token logits [K, B T, V] of tokens [K, B, T], T up to n_ctx."""
        x_knd, head_kvd = self._hidden(flat_kp, tokens_kbt)
        return torch.bmm(x_knd, head_kvd.transpose(1, 2))

    @torch.no_grad()
    def losses(self, flat_kp: Tensor, windows_kbt: Tensor) -> Tensor:
        """Cross-entropy [nats] of every target [K, B, T], without gradient; windows [K, B, T + 1]
        hold inputs and, one to the right, targets."""
        inputs, targets = windows_kbt[:, :, :-1], windows_kbt[:, :, 1:]
        x_knd, head_kvd = self._hidden(flat_kp, inputs)
        loss_kn, *_ = _output_loss(x_knd, head_kvd, targets.reshape(len(x_knd), -1), grad=False)
        return loss_kn.view(targets.shape)

    def mean_loss(self, flat_kp: Tensor, windows_kbt: Tensor) -> Tensor:
        """Mean cross-entropy of each model [K]; differentiable."""
        inputs, targets = windows_kbt[:, :, :-1], windows_kbt[:, :, 1:]
        x_knd, head_kvd = self._hidden(flat_kp, inputs)
        return OutputLoss.apply(x_knd, head_kvd, targets.reshape(len(x_knd), -1))


def _output_loss(
    x_knd: Tensor, head_kvd: Tensor, targets_kn: Tensor, *, grad: bool
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
                # d mean / d logits = (softmax - one-hot) / n, in place of the exponentials
                p_kcv.div_(total_kc1.mul_(n))
                p_kcv.scatter_add_(2, target_kc1, torch.full_like(total_kc1, -1.0 / n))
                p_kcv = p_kcv.to(x_kcd.dtype)
                grad_x[part] = torch.bmm(p_kcv, head_mvd)
                grad_head[part[0]] += torch.bmm(p_kcv.transpose(1, 2), x_kcd)
    return loss_kn, grad_x, grad_head


class OutputLoss(torch.autograd.Function):
    """Mean cross-entropy of each model's output layer [K]; its gradients come with the loss."""

    @staticmethod
    def forward(ctx, x_knd: Tensor, head_kvd: Tensor, targets_kn: Tensor) -> Tensor:  # type: ignore[override]
        loss_kn, grad_x, grad_head = _output_loss(x_knd, head_kvd, targets_kn, grad=True)
        ctx.save_for_backward(grad_x, grad_head)
        return loss_kn.mean(1)

    @staticmethod
    def backward(ctx, grad_k: Tensor):  # type: ignore[override]
        grad_x, grad_head = ctx.saved_tensors
        grad_k11 = grad_k[:, None, None]
        return grad_x * grad_k11, grad_head * grad_k11, None


def _linear(x_kni: Tensor, weight_kio: Tensor, bias_ko: Tensor) -> Tensor:
    return torch.baddbmm(bias_ko[:, None], x_kni, weight_kio)


def _norm(x_knd: Tensor, weight_kd: Tensor, bias_kd: Tensor) -> Tensor:
    return torch.addcmul(
        bias_kd[:, None], F.layer_norm(x_knd, x_knd.shape[-1:]), weight_kd[:, None]
    )
