"""Held-out loss on fixed test windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.devices.ranks import ALONE, Ranks
from scaling.model import Model

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
    L_position: list[float]
    """Mean of each position in the context, the first first [nats/token]; shape [T]."""


@torch.inference_mode()
def evaluate(
    model: Model,
    flat_kp: Tensor,
    windows_bt: Tensor,
    token_bytes_v: Tensor,
    ranks: Ranks = ALONE,
) -> list[HeldOut]:
    """Test loss of each of K models on windows [B, T + 1], which the ranks share; token_bytes_v has the
    length in bytes of every token, 0 for end-of-text."""
    chunk = max(1, _CHUNK_TOKENS // windows_bt.shape[1])
    bytes_bt = token_bytes_v[windows_bt[:, 1:]].double()
    found = []
    # One model at a time: the chunks are large, so that together they would only crowd the cache.
    for flat_1p in flat_kp.split(1):
        loss_bt = torch.zeros_like(bytes_bt)
        share = ranks.share(len(windows_bt))
        mine = list(zip(windows_bt[share].split(chunk), loss_bt[share].split(chunk), strict=True))
        if ranks.sharded:  # what gathers parameters is done by all, and so as often by each
            most = -(-len(windows_bt) // ranks.size)
            spare = windows_bt[:1], torch.empty_like(loss_bt[:1])
            mine += [spare] * (-(-most // chunk) - len(mine))
        for part, found_bt in mine:
            if len(part):
                found_bt.copy_(model.losses(flat_1p, part[None])[0])
        ranks.add(loss_bt)
        context_b = loss_bt.mean(1)
        n = len(context_b)
        nats = (loss_bt * (bytes_bt > 0)).sum()
        found.append(
            HeldOut(
                L=context_b.mean().item(),
                L_stderr=(context_b.std() / math.sqrt(n)).item() if n > 1 else math.nan,
                bits_per_byte=(nats / (math.log(2) * bytes_bt.sum())).item(),
                L_position=loss_bt.mean(0).tolist(),
            )
        )
    return found
