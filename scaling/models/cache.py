"""The key and value cache of the decoder: text is generated without recomputing the past.

This is the forward pass of scaling/models/decoder.py for one model and sequences of different
lengths. It is written for few tokens at a time, where the time goes into calls rather than
arithmetic. Shape suffixes as in scaling/model.py, and j: position in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.model_config import NORM_EPS, ModelConfig
from scaling.models.attention import rotations


class KeyValueCache:
    """Keys and values of the tokens so far, for every application of every layer.

    A sequence may be shorter than the others: what lies behind its last token is never attended to,
    and is overwritten by its next tokens.
    """

    def __init__(
        self, model: ModelConfig, p: Mapping[str, Tensor], sequences: int, positions: int
    ) -> None:
        self.model = model
        self._p = {name: tensor_1[0] for name, tensor_1 in p.items()}
        self._layers = [
            {
                name.partition(".")[2]: tensor
                for name, tensor in self._p.items()
                if name.startswith(f"{i}.")
            }
            for i in range(model.n_layer)
        ]
        if model.norm == "rmsnorm":  # x / rms(x) = sqrt(d) x / |x|
            root = model.d_model**0.5
            for layer in (self._p, *self._layers):
                for name in [name for name in layer if name.startswith("norm")]:
                    layer[f"{name.partition('.')[0]}.gain"] = layer[name] * root
            self._root_eps = self._p["token_embedding"].new_tensor(root * NORM_EPS**0.5)
        if model.qk_norm:  # one gain per head, for queries and keys at once
            for layer in self._layers:
                query_c, key_c = (layer[f"{name}_norm.weight"] for name in ("query", "key"))
                gains = [query_c] * model.n_head + [key_c] * model.kv_heads
                layer["query_and_key_norm"] = torch.stack(gains)
        embedding_vd = self._p["token_embedding"]
        device, dtype = embedding_vd.device, embedding_vd.dtype
        applied = model.n_layer * model.n_repeat
        # one tensor of keys and values per application of a layer
        shape = (sequences, positions, 2 * model.kv_heads, model.head_width)
        self._kept = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(applied)]
        self._lengths = [0] * sequences
        self._rotation: tuple[Tensor, Tensor] | None = None
        if model.position == "rope":
            cos_jc, sin_jc = (
                x.to(dtype)[:, None] for x in rotations(positions, model.head_width, device)
            )
            # x cos + swap(x) sin, with swap exchanging the two halves of the channels
            self._rotation = torch.cat([cos_jc, cos_jc], 2), torch.cat([-sin_jc, sin_jc], 2)

    def select(self, rows: list[int]) -> None:
        """Keep these sequences, in this order; one may occur several times."""
        if rows != list(range(len(self._lengths))):
            index = torch.tensor(rows, device=self._kept[0].device)
            self._kept = [kept_bjgc.index_select(0, index) for kept_bjgc in self._kept]
            self._lengths = [self._lengths[row] for row in rows]

    def extend(self, tokens_bt: Tensor, counts: list[int] | None = None) -> Tensor:
        """Append tokens; return the final hidden state [B, D] of the last token of each sequence.

        Of row b of `tokens_bt`, the first counts[b] tokens are appended, by default all.
        """
        b, t = tokens_bt.shape
        x_nd = self._append(tokens_bt, counts)
        if t > 1:
            last = [row * t + n - 1 for row, n in enumerate([t] * b if counts is None else counts)]
            x_nd = x_nd[torch.tensor(last, device=x_nd.device)]
        return self._norm(self._p, "norm", x_nd)

    def states(self, tokens_bt: Tensor, counts: list[int]) -> Tensor:
        """Append tokens as :meth:`extend` does; return the final hidden states [B T, D] of all."""
        return self._norm(self._p, "norm", self._append(tokens_bt, counts))

    def _append(self, tokens_bt: Tensor, counts: list[int] | None) -> Tensor:
        """Append tokens; return their states [B T, D] after the last layer."""
        b, t = tokens_bt.shape
        at = _Places(self._lengths, t, tokens_bt.device)
        x_btd = F.embedding(tokens_bt, self._p["token_embedding"])
        if self.model.position == "learned":
            x_btd = x_btd + at.of(self._p["position_embedding"])
        rotation = None if self._rotation is None else [at.of(x) for x in self._rotation]
        x_nd = x_btd.view(b * t, -1)
        kept = iter(self._kept)
        for _ in range(self.model.n_repeat):
            for p in self._layers:
                y_nd = self._attention(p, self._norm(p, "norm1", x_nd), next(kept), at, rotation)
                x_nd = x_nd + _linear(p, "projection", y_nd)
                x_nd = x_nd + self._feed_forward(p, self._norm(p, "norm2", x_nd))
        counts = [t] * b if counts is None else counts
        self._lengths = [n + count for n, count in zip(self._lengths, counts, strict=True)]
        return x_nd

    def _attention(
        self,
        p: Mapping[str, Tensor],
        y_nd: Tensor,
        kept_bjgc: Tensor,
        at: _Places,
        rotation: list[Tensor] | None,
    ) -> Tensor:
        m = self.model
        b, t = len(kept_bjgc), len(y_nd) // len(kept_bjgc)
        h, g, c = m.n_head, m.kv_heads, m.head_width
        parts_bthc = _linear(p, "qkv", y_nd).view(b, t, h + 2 * g, c)
        if m.qk_norm or rotation is not None:
            turned, value = parts_bthc.split([h + g, g], dim=2)
            if m.qk_norm:
                turned = F.rms_norm(turned, (c,), None, NORM_EPS) * p["query_and_key_norm"]
            if rotation is not None:
                turned = torch.addcmul(turned * rotation[0], turned.roll(c // 2, 3), rotation[1])
            query, key = turned.split([h, g], dim=2)
            key_value = torch.cat([key, value], dim=2)
        else:
            query, key_value = parts_bthc.split([h, 2 * g], dim=2)
        at.write(kept_bjgc, key_value)
        key_bgjc, value_bgjc = kept_bjgc.narrow(1, 0, at.end).transpose(1, 2).split([g, g], dim=1)
        if t == 1:  # the queries that share a key take the place of the time axis
            query = query.view(b, g, h // g, c)
        else:
            query = query.transpose(1, 2)
            key_bgjc, value_bgjc = (
                x.repeat_interleave(h // g, dim=1) for x in (key_bgjc, value_bgjc)
            )
        y = F.scaled_dot_product_attention(
            query, key_bgjc, value_bgjc, attn_mask=at.mask, scale=m.attention_scale
        )
        return (y if t == 1 else y.transpose(1, 2)).reshape(y_nd.shape)

    def _feed_forward(self, p: Mapping[str, Tensor], y_nd: Tensor) -> Tensor:
        up = _linear(p, "up", y_nd)
        if self.model.activation == "gelu":
            return _linear(p, "down", F.gelu(up, approximate="tanh"))
        gate_nf, value_nf = up.chunk(2, dim=1)
        return _linear(p, "down", F.silu(gate_nf) * value_nf)

    def _norm(self, p: Mapping[str, Tensor], name: str, x_nd: Tensor) -> Tensor:
        weight_d = p[f"{name}.weight"]
        if self.model.norm == "layernorm":
            return F.layer_norm(x_nd, weight_d.shape, weight_d, p.get(f"{name}.bias"), NORM_EPS)
        # torch.rms_norm takes twice as long for a single token
        size_n1 = torch.linalg.vector_norm(x_nd, dim=1, keepdim=True)
        return x_nd / torch.hypot(size_n1, self._root_eps) * p[f"{name}.gain"]


class _Places:
    """Positions of the next t tokens of every sequence, and what they attend to."""

    def __init__(self, lengths: list[int], t: int, device: torch.device) -> None:
        first = min(lengths)
        self.end = max(lengths) + t
        """Number of positions in use."""
        self.mask: Tensor | None = None
        """Whether a token attends to a position [B or 1, 1, T, J]; None if to all."""
        self._first, self._t = first, t
        self._index: tuple[Tensor, Tensor] | None = None
        position_bt = torch.arange(t, device=device) + first
        if first < max(lengths):
            length_b = torch.tensor(lengths, device=device)
            position_bt = length_b[:, None] + torch.arange(t, device=device)
            self._index = torch.arange(len(lengths), device=device)[:, None], position_bt
        if self._index is not None or t > 1:
            position_j = torch.arange(self.end, device=device)
            mask = position_j <= position_bt[..., None]
            self.mask = mask[None, None] if mask.dim() == 2 else mask[:, None]

    def of(self, table: Tensor) -> Tensor:
        """Return the rows of a table by position, for every token."""
        if self._index is None:
            return table.narrow(0, self._first, self._t)
        return table[self._index[1].clamp(max=len(table) - 1)]  # padding may lie beyond it

    def write(self, kept_bjgc: Tensor, new_btgc: Tensor) -> None:
        if self._index is None:
            kept_bjgc.narrow(1, self._first, self._t).copy_(new_btgc)
        else:
            kept_bjgc[self._index] = new_btgc


def _linear(p: Mapping[str, Tensor], name: str, x_ni: Tensor) -> Tensor:
    weight_io, bias_o = p[f"{name}.weight"], p.get(f"{name}.bias")
    return x_ni @ weight_io if bias_o is None else torch.addmm(bias_o, x_ni, weight_io)
