"""The schedule of a run: learning rates by step, and evaluation steps. Imports no torch."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable
from typing import Any

from scaling import optim_rules
from scaling.config import ModelConfig, OptimConfig, RunConfig
from scaling.errors import ConfigError
from scaling.lr_rule import peak_lr
from scaling.optim_config import COOLING, RULES, check_rule_value
from scaling.size import parameters_of


def warmup_steps(run: RunConfig) -> int:
    """Return the number of steps of linear warm-up, at most all of them."""
    if run.optim.warmup_tokens is not None:
        if run.optim.batch_warmup_tokens is None:
            return min(run.S, -(-run.optim.warmup_tokens // run.batch_tokens))
        steps = range(run.S)  # tokens_at(step) are the tokens before that step
        return bisect.bisect_left(steps, run.optim.warmup_tokens, key=run.tokens_at)
    return round(run.optim.warmup_fraction * run.S)


def resume_steps(run: RunConfig) -> tuple[int, ...]:
    """Return the numbers of steps, below S, after which the rate returns to its peak."""
    o, S = run.optim, run.S
    if o.schedule == "cosine-restarts" and not o.resumes:
        W = warmup_steps(run)
        ends = {W + round(i * (S - W) / o.cycles) for i in range(1, o.cycles)}
        return tuple(sorted(end for end in ends if W < end < S))
    return tuple(step for step in run.resume_steps if step < S)


def cycle(run: RunConfig, step: int) -> tuple[int, int]:
    """Return (first step, end) of the cycle that `step` is in, from the warm-up or a return to the
    peak to the next one or the end of the run."""
    return _cycle(warmup_steps(run), (*resume_steps(run), run.S), step)


def _cycle(warmup: int, ends: tuple[int, ...], step: int) -> tuple[int, int]:
    i = bisect.bisect_right(ends, step)
    return (ends[i - 1] if i else warmup), ends[min(i, len(ends) - 1)]


def cooldown_steps(run: RunConfig, end: int | None = None) -> int:
    """Return the number of steps of the cooldown of wsd or wsd-s that ends after `end` steps, at
    least one. The default is the run's last cooldown."""
    end = run.S if end is None else end
    wanted = max(1, round(run.optim.cooldown_fraction * end))
    before = [step for step in run.resume_steps if step < end]
    return min(wanted, end - before[-1]) if before else wanted


def drop_steps(run: RunConfig) -> tuple[int, ...]:
    """Return the steps from which on the rate of the schedule step is lower."""
    return tuple(round(fraction * run.S) for fraction in run.optim.drops)


def change_points(run: RunConfig) -> tuple[int, ...]:
    """Return the steps at which a smooth piece of the schedule begins, and S.

    Between two of them the rate is linear, or constant, or one arc of a cosine or of a square root.
    """
    o, S = run.optim, run.S
    points = {0, warmup_steps(run), S, *resume_steps(run)}
    if o.schedule in COOLING:
        points |= {end - cooldown_steps(run, end) for end in (*resume_steps(run), S)}
    if o.schedule == "step":
        points |= set(drop_steps(run))
    if o.schedule == "knots":
        points |= {max(0, round(done * S) - 1) for done, _ in o.points}
    return tuple(sorted(point for point in points if 0 <= point <= S))


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


def optimizer_settings(run: RunConfig) -> OptimConfig:
    """Return `run.optim` with the values that the rules for beta2 and weight decay give.

    Raises ConfigError if one of them cannot be.
    """
    o = run.optim
    rules = {name: getattr(o, name) for name in RULES}
    if o.decay_tokens is None and not any(isinstance(rule, str) for rule in rules.values()):
        return o
    at = {"N": parameters_of(run).N, "D": run.D, "B": run.batch_tokens}
    values: dict[str, Any] = {}
    for name, rule in rules.items():
        if rule is not None:
            values[name] = optim_rules.parsed(rule, f"optim.{name}").at(**at)
            check_rule_value(name, values[name], rule)
    if (tokens := values.get("decay_tokens")) is not None:
        if tokens <= run.batch_tokens:
            raise ConfigError(
                f"optim.decay_tokens={o.decay_tokens!r} gives {tokens:.4g} tokens, no more than "
                f"the {run.batch_tokens} of one step; use a longer timescale."
            )
        # Only the product of lr and decay acts, and muP does not change it.
        lr = peaks(run)[0] * lr_divisor(run.model, o)
        values["weight_decay"] = run.batch_tokens / (lr * tokens)
    return dataclasses.replace(o, **values)


def optimizer_columns(run: RunConfig) -> dict[str, Any]:
    """Return the columns of a run's row that hold what its rules for beta2 and weight decay
    give."""
    settings = optimizer_settings(run)
    return {name: getattr(settings, name) for name in RULES}


def schedule(run: RunConfig, step: int) -> float:
    """Return the learning rate of `step` (0 to S - 1) relative to the peak.

    A cosine or linear run ends at `final_fraction`, reached at its last step (unless warm-up takes
    all steps, or all but one), and so does each cycle of cosine-restarts. A wsd run (warm-up,
    stable, decay: Hu et al. 2024, arXiv 2404.06395; cooldowns as in Hägele et al. 2024, arXiv
    2405.18392) ends one step short of zero. wsd-s (Wen et al. 2024, arXiv 2410.05192) does so at
    each of its horizons and continues at the peak. The steps of the schedule step are those of
    DeepSeek-AI 2024 (arXiv 2401.02954).
    """
    return schedule_of(run)(step)


def schedule_of(run: RunConfig) -> Callable[[int], float]:
    """Return :func:`schedule` of a run, with what does not depend on the step computed once."""
    o, S, W = run.optim, run.S, warmup_steps(run)
    ends, drops = (*resume_steps(run), S), drop_steps(run)
    cooldowns = {}
    if o.schedule in COOLING:
        cooldowns = {end: cooldown_steps(run, end) for end in ends}

    def rate(step: int) -> float:
        if step < W:
            return (step + 1) / W
        if o.schedule == "constant":
            return 1.0
        if o.schedule == "knots":
            return _between_knots(o.points, (step + 1) / S)
        if o.schedule == "step":
            return o.step_factor ** sum(step >= drop for drop in drops)
        first, end = _cycle(W, ends, step)
        if cooldowns:
            left = min(1.0, (end - step) / cooldowns[end])
            return left if o.cooldown == "linear" else 1 - math.sqrt(1 - left)
        progress = (step - first) / max(1, end - 1 - first)
        if o.schedule == "linear":
            return 1 - (1 - o.final_fraction) * progress
        return o.final_fraction + (1 - o.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return rate


def _between_knots(points: tuple[tuple[float, float], ...], done: float) -> float:
    """Return the rate after a fraction of the steps: linear between knots, constant outside."""
    i = bisect.bisect_right(points, done, key=lambda point: point[0])
    if i == 0 or i == len(points):
        return points[max(i - 1, 0)][1]
    (a, before), (b, after) = points[i - 1], points[i]
    return before + (after - before) * (done - a) / (b - a)
