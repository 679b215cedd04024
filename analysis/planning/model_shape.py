"""The shape of a decoder of a given size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.config import ModelConfig
from scaling.size import parameters


@dataclass(frozen=True)
class Shape:
    """A decoder of nearly the planned size."""

    model: ModelConfig
    N: int
    """Exact, in the plan's own count of parameters."""
    D: float
    """Tokens that spend the plan's compute on this exact size."""

    def record(self) -> dict[str, Any]:
        m = self.model
        return {
            "n_layer": m.n_layer, "d_model": m.d_model, "n_head": m.n_head, "n_ctx": m.n_ctx,
            "N": self.N, "D": self.D, "N_kaplan": parameters(m, 0).N_kaplan,
        }  # fmt: skip


def shape(
    N: float,
    *,
    model: ModelConfig | None = None,
    n_layer: int | None = None,
    count: str = "N",
    vocab_size: int | None = None,
) -> ModelConfig | None:
    """A decoder of nearly N parameters: depth, width and heads near what language models use; or of
    the depth given.

    The aspect ratio d_model / n_layer aims at 52 (N / 1e8)^0.147, the line through the eight
    models of Brown et al. 2020 (Table 2.1); loss hardly depends on it (Kaplan et al. 2020, Fig.
    5). Heads are 64 wide, fewer in narrow models. None where the parameters cannot be counted:
    `count` is neither N, N_kaplan nor, with a vocab_size, N_total.
    """
    model = model or ModelConfig()
    widen = None if model.d_ff is None else model.d_ff / model.d_model
    if count not in ("N", "N_kaplan") and not (count == "N_total" and vocab_size):
        return None
    aim = max(52 * (N / 1e8) ** 0.147, 4.0)
    best, least = None, math.inf
    depth = max(1.0, (N / (12 * aim**2)) ** (1 / 3))
    ends = (max(1.0, depth // 2), 2 * depth // 1 + 1)
    depths = np.unique(np.linspace(*ends, 64).round())
    for layers in depths if n_layer is None else [n_layer]:
        width = math.sqrt(N / (12 * layers))
        head = 64 if width >= 256 else 32 if width >= 96 else 16 if width >= 48 else 8
        about = width / head  # and a few heads more or fewer
        for n_head in range(
            max(1, int(0.7 * about), int(about) - 8), int(min(1.3 * about, about + 8)) + 2
        ):
            # At a depth that is given, the width alone meets N: heads are as wide as it takes.
            d = n_head * (head if n_layer is None else 2 * max(1, round(width / n_head / 2)))
            one = ModelConfig(
                n_layer=int(layers),
                d_model=d,
                n_head=n_head,
                d_ff=None if widen is None else round(widen * d),
                n_ctx=model.n_ctx,
                tied=model.tied,
            )
            off = math.log(count_parameters(one, count, vocab_size) / N)
            odd = math.log(d / layers / aim) if n_layer is None else math.log(d / n_head / head)
            cost = (off / 0.05) ** 2 + (odd / 0.4) ** 2
            if cost < least:
                best, least = one, cost
    return best


def count_parameters(model: ModelConfig, count: str, vocab_size: int | None) -> int:
    return getattr(parameters(model, vocab_size or 0), count)
