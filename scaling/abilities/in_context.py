"""How much a model's loss falls along its context: a measure of in-context learning.

Kaplan et al. 2020 (Fig. 20) and Brown et al. 2020 (Fig. 1.2) show the loss by position in the
context. Its gain is the loss at positions 64 to 128 minus that at positions 8 to 16: the more
negative, the more a model makes of the tokens that it has seen. The loss of a passage that is
repeated is the task `repeat`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scaling.abilities.names import MAIN
from scaling.data.windows import held_out_windows
from scaling.errors import ConfigError

if TYPE_CHECKING:
    from scaling.weights import Weights

EARLY, LATE = (8, 16), (64, 128)
"""Positions in the context, from 1, both ends included."""

TEST_TOKENS = 131_072
"""Tokens of the windows, or as many as the held-out text has."""

_BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class ContextLoss:
    """Loss at every position of held-out windows."""

    loss_bt: np.ndarray
    """[nats/token]"""
    version: str
    """Hash of the windows."""

    @property
    def by_position(self) -> np.ndarray:
        """Mean loss at each position [nats/token]."""
        return self.loss_bt.mean(0)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield rows of tasks.parquet, without the run's id."""
        early, late = (self.loss_bt[:, a - 1 : b].mean(1) for a, b in (EARLY, LATE))
        values = {
            "loss_{}_to_{}".format(*EARLY): early,
            "loss_{}_to_{}".format(*LATE): late,
            "gain": late - early,
        }
        n = len(self.loss_bt)
        for metric, value in values.items():
            yield {
                "task": "in_context",
                "version": self.version,
                "shots": 0,
                "metric": metric,
                "n": n,
                "value": float(value.mean()),
                "stderr": float(value.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan,
                "nll": float(self.loss_bt.mean()),
                "bits_per_byte": math.nan,
                "p_gold": math.nan,
                "chance": math.nan,
                "main": metric == MAIN["in_context"],
            }


def windows_of(test: Path, n_ctx: int, name: str) -> tuple[np.ndarray, str]:
    """Return (windows [B, n_ctx + 1], their hash) of a test file for runs of a context.

    Raises ConfigError if the context is too short; `name` is what the message calls the run.
    """
    if n_ctx < LATE[1]:
        raise ConfigError(
            f"task 'in_context' needs a context of {LATE[1]} tokens, and {name} has one of "
            f"{n_ctx}; leave the task out, or use runs with a larger model.n_ctx."
        )
    windows = held_out_windows(test, max(TEST_TOKENS, n_ctx), n_ctx, at_most=True)
    return windows, hashlib.sha256(windows.astype("<u2").tobytes()).hexdigest()[:12]


@torch.inference_mode()
def context_loss(weights: Weights, windows: np.ndarray, version: str) -> ContextLoss:
    """Return the loss of a run's model at every position of windows [B, T + 1]."""
    windows_bt = torch.from_numpy(windows).to(weights.flat_1p.device)
    chunk = max(1, _BATCH_TOKENS // windows_bt.shape[1])
    parts = [
        weights.model.losses(weights.flat_1p, part_bt[None])[0]
        for part_bt in windows_bt.split(chunk)
    ]
    return ContextLoss(torch.cat(parts).double().cpu().numpy(), version)
