"""Held-out loss on fixed test windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.model import Decoder

_CHUNK_TOKENS = 16_384  # bounds the memory of the activations


@dataclass(frozen=True)
class HeldOut:
    """Test loss of one model."""

    L: float
    """Mean over all target tokens [nats/token]."""
    L_stderr: float
    """Standard error of L, contexts taken as independent [nats/token]."""
    bits_per_byte: float
    """Bits per byte of the text; end-of-text targets excluded."""


@torch.inference_mode()
def evaluate(
    decoder: Decoder, flat_kp: Tensor, windows_bt: Tensor, token_bytes_v: Tensor
) -> list[HeldOut]:
    """Test loss of each of K models on windows [B, T + 1]; token_bytes_v has the length in bytes of
    every token, 0 for end-of-text."""
    K = len(flat_kp)
    chunk = max(1, _CHUNK_TOKENS // (K * windows_bt.shape[1]))
    parts = [
        decoder.losses(flat_kp, part_bt.expand(K, -1, -1)).double()
        for part_bt in windows_bt.split(chunk)
    ]
    loss_kbt = torch.cat(parts, dim=1)
    bytes_bt = token_bytes_v[windows_bt[:, 1:]].double()
    context_kb = loss_kbt.mean(2)
    L = context_kb.mean(1).tolist()
    n = context_kb.shape[1]
    spread = (context_kb.std(1) / math.sqrt(n)).tolist() if n > 1 else [math.nan] * K
    nats = (loss_kbt * (bytes_bt > 0)).sum((1, 2))
    bits_per_byte = (nats / (math.log(2) * bytes_bt.sum())).tolist()
    return [HeldOut(*values) for values in zip(L, spread, bits_per_byte, strict=True)]
