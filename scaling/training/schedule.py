"""The schedule of a run: learning rates by step, and evaluation steps. Imports no torch."""

from __future__ import annotations

import bisect
import math

from scaling.config import ModelConfig, OptimConfig, RunConfig
from scaling.lr_rule import peak_lr
from scaling.size import parameters_of


def warmup_steps(run: RunConfig) -> int:
    """Return the number of steps of linear warm-up, at most all of them."""
    if run.optim.warmup_tokens is not None:
        if run.optim.batch_warmup_tokens is None:
            return min(run.S, -(-run.optim.warmup_tokens // run.batch_tokens))
        steps = range(run.S)  # tokens_at(step) are the tokens before that step
        return bisect.bisect_left(steps, run.optim.warmup_tokens, key=run.tokens_at)
    return round(run.optim.warmup_fraction * run.S)


def cooldown_steps(run: RunConfig) -> int:
    """Return the number of steps of a wsd run's final decay, at least one."""
    return max(1, round(run.optim.cooldown_fraction * run.S))


def lr_divisor(model: ModelConfig, optim: OptimConfig) -> float:
    """Return the factor by which muP divides the learning rate of matrices.

    AdamW: m = d_model / base (Yang et al. 2022, Table 8). Updates with equal singular values (Muon)
    already shrink by m^1/2, and updates in proportion to the weights (Adafactor) have to shrink,
    which leaves m^1/2 for both.
    """
    return model.width_multiplier ** (1.0 if optim.optimizer == "adamw" else 0.5)


def evaluation_steps(S: int, points: int) -> list[int]:
    """Return the steps (1 to S) after which the held-out loss is measured.

    They are log-spaced from S / 100; the last step is always one of them.
    """
    import numpy as np

    if points == 1:
        return [S]
    spaced = np.geomspace(max(1.0, S / 100), S, points)
    return sorted({int(step) for step in np.round(spaced)})


def peaks(run: RunConfig) -> tuple[float, float]:
    """Return the peak learning rates of (matrices, all else); rules use the exact N, D and B."""
    N = parameters_of(run).N
    rules = run.optim.lr, run.optim.lr if run.optim.lr_embedding is None else run.optim.lr_embedding
    matrices, other = (peak_lr(rule, N=N, D=run.D, B=run.batch_tokens) for rule in rules)
    return matrices / lr_divisor(run.model, run.optim), other


def schedule(run: RunConfig, step: int) -> float:
    """Return the learning rate of `step` (0 to S - 1) relative to the peak.

    A cosine or linear run ends at `final_fraction`, reached at its last step (unless warm-up takes
    all steps, or all but one). A wsd run (warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395;
    cooldown as in Hägele et al. 2024, arXiv 2405.18392) ends one step short of zero.
    """
    o, S, W = run.optim, run.S, warmup_steps(run)
    if step < W:
        return (step + 1) / W
    if o.schedule == "constant":
        return 1.0
    if o.schedule == "wsd":
        return min(1.0, (S - step) / cooldown_steps(run))
    progress = (step - W) / max(1, S - 1 - W)
    if o.schedule == "linear":
        return 1 - (1 - o.final_fraction) * progress
    return o.final_fraction + (1 - o.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
