"""Suggest a decoder of a given size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.config import ModelConfig
from scaling.size import parameters

_SIZE_TOLERANCE = 0.05
"""A deviation of this much in ln N costs as much as one of `_PROPORTION_TOLERANCE`."""
_PROPORTION_TOLERANCE = 0.4
"""A deviation of this much in ln(d_model / n_layer), or in ln(width of a head)."""


@dataclass(frozen=True, kw_only=True)
class SuggestedModel:
    """A decoder of nearly the planned size."""

    model: ModelConfig
    N: int
    """Its exact parameters, in the plan's own count."""
    D: float
    """Tokens that spend the plan's compute on this exact size."""
    outside: tuple[str, ...] = ()
    """What of its proportions no run had, one sentence each."""

    def record(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        m = self.model
        return {
            "n_layer": m.n_layer, "d_model": m.d_model, "n_head": m.n_head, "n_ctx": m.n_ctx,
            "N": self.N, "D": self.D, "N_kaplan": parameters(m, 0).N_kaplan,
            "d_ff": m.ff_width, "in_family": not self.outside, "outside": list(self.outside),
        }  # fmt: skip


def suggest_model(
    N: float,
    *,
    model: ModelConfig | None = None,
    n_layer: int | None = None,
    aspect: float | None = None,
    head: int | None = None,
    ff_ratio: float | None = None,
    count: str = "N",
    vocab_size: int | None = None,
) -> ModelConfig | None:
    """Return a decoder of nearly N parameters with the usual depth, width and heads.

    The aspect ratio d_model / n_layer aims at 52 (N / 1e8)^0.147, the line through the eight
    models of Brown et al. 2020 (Table 2.1); loss hardly depends on it (Kaplan et al. 2020, Fig.
    5). Heads are 64 wide, fewer in narrow models. A given `n_layer` is kept, and a given `aspect`,
    width of a `head` and `ff_ratio`, d_ff / d_model, are aimed at. n_ctx, tied and, by default,
    d_ff / d_model are those of `model`.

    Returns None if the parameters cannot be counted: `count` must be N, N_kaplan or, with a
    vocab_size, N_total.
    """
    model = model or ModelConfig()
    if count not in ("N", "N_kaplan") and not (count == "N_total" and vocab_size):
        return None
    if ff_ratio is None and model.d_ff is not None:
        ff_ratio = model.d_ff / model.d_model
    aspect = usual_aspect(N) if aspect is None else aspect
    given = head
    best, least = None, math.inf
    for layers in _depths(N, aspect) if n_layer is None else [n_layer]:
        width = math.sqrt(N / (12 * layers))
        head = given or head_width(width)
        about = width / head  # and a few heads more or fewer
        fewest, most = max(1, int(0.7 * about), int(about) - 8), int(min(1.3 * about, about + 8))
        for n_head in range(fewest, most + 2):
            # At a given depth the width alone meets N, so heads are as wide as necessary.
            d = n_head * (head if n_layer is None else 2 * max(1, round(width / n_head / 2)))
            candidate = ModelConfig(
                n_layer=int(layers),
                d_model=d,
                n_head=n_head,
                d_ff=None if ff_ratio is None else round(ff_ratio * d),
                n_ctx=model.n_ctx,
                tied=model.tied,
            )
            off = math.log(count_parameters(candidate, count, vocab_size) / N)
            odd = math.log(d / layers / aspect if n_layer is None else d / n_head / head)
            cost = (off / _SIZE_TOLERANCE) ** 2 + (odd / _PROPORTION_TOLERANCE) ** 2
            if cost < least:
                best, least = candidate, cost
    return best


def usual_aspect(N: float) -> float:
    """Return the usual d_model / n_layer of N parameters; see :func:`suggest_model`."""
    return max(52 * (N / 1e8) ** 0.147, 4.0)


def head_width(width: float) -> int:
    """Return the usual width of a head in a model of this width."""
    return 64 if width >= 256 else 32 if width >= 96 else 16 if width >= 48 else 8


def _depths(N: float, aspect: float) -> np.ndarray:
    """Return up to 64 depths around the one of this aspect ratio."""
    depth = max(1.0, (N / (12 * aspect**2)) ** (1 / 3))
    ends = (max(1.0, depth // 2), 2 * depth // 1 + 1)
    return np.unique(np.linspace(*ends, 64).round())


def count_terms(count: str, vocab_size: int | None) -> list[int]:
    """Return the parameters of a decoder as coefficients of l d^2, l d f, l d, l f and d, for
    l = n_layer, d = d_model and f = d_ff; the other settings are the defaults."""
    shapes = [(n, d, f) for n in (1, 2, 3) for d in (8, 16) for f in (8, 24)]
    terms = [[n * d * d, n * d * f, n * d, n * f, d] for n, d, f in shapes]
    counts = [
        count_parameters(ModelConfig(n_layer=n, d_model=d, d_ff=f), count, vocab_size)
        for n, d, f in shapes
    ]
    found, *_ = np.linalg.lstsq(np.array(terms, float), np.array(counts, float), rcond=None)
    return [round(x) for x in found]


def count_parameters(model: ModelConfig, count: str, vocab_size: int | None) -> int:
    """Return the parameters of a model in the count N, N_kaplan or N_total."""
    return getattr(parameters(model, vocab_size or 0), count)
