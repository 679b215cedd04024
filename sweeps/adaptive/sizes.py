"""Architectures between and beyond those of a spec, for searches along its sizes.

Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import math

from scaling import size
from scaling.config import ModelConfig, RunConfig
from scaling.errors import ConfigError


def with_flops(run: RunConfig, C: float) -> RunConfig:
    """Return the run with D = C / (6 N), in whole steps."""
    steps = max(1, round(C / (6 * size.parameters_of(run).N) / run.batch_tokens))
    return dataclasses.replace(run, tokens=steps * run.batch_tokens)


def model_between(small: ModelConfig, large: ModelConfig) -> ModelConfig | None:
    """Return a model half-way in log depth and log width; None if there is none."""
    new = _resized(
        small,
        math.sqrt(small.n_layer * large.n_layer),
        math.sqrt(small.d_model * large.d_model),
        math.sqrt(small.ff_width * large.ff_width),
    )
    return new if new not in (small, large) else None


def model_beyond(inner: ModelConfig, end: ModelConfig) -> ModelConfig | None:
    """Return the model after `end` with the same ratio as from `inner` to `end`; None if none."""
    new = _resized(
        end,
        end.n_layer**2 / inner.n_layer,
        end.d_model**2 / inner.d_model,
        end.ff_width**2 / inner.ff_width,
    )
    return new if new not in (inner, end) else None


def _resized(like: ModelConfig, n_layer: float, d_model: float, d_ff: float) -> ModelConfig | None:
    """Return `like` with about this depth and width; None if its family has no such model."""
    head = like.d_model // like.n_head
    # As even as the given heads: rotary positions need pairs, and hardware prefers multiples of 4.
    unit = like.n_head * math.gcd(head, 4)
    try:
        return dataclasses.replace(
            like,
            n_layer=max(1, round(n_layer)),
            d_model=max(1, round(d_model / unit)) * unit,
            d_ff=None if like.d_ff is None else max(1, round(d_ff)),
        )
    except ConfigError:  # the family has rules of its own
        return None
