"""The optimiser of a run and its schedule. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scaling import optim_rules
from scaling.errors import ConfigError
from scaling.fields import IdentifyingPart, check_positive
from scaling.lr_rule import lr_rule, spelled

COOLING = ("wsd", "wsd-s")
"""Schedules that end in a cooldown."""

RESTARTING = ("wsd-s", "cosine-restarts")
"""Schedules whose rate may return to its peak, at optim.resume_tokens."""

RULES = ("beta2", "weight_decay", "decay_tokens")
"""Fields that may be a rule in N, D and B other than the learning rates. Their columns hold the
values that the rules give."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig(IdentifyingPart):
    """The optimiser and its schedule."""

    prefix = "optim."

    lr: float | str = 3e-3
    """Peak learning rate: a number; 'kaplan' for LR(N) = 0.003239 - 0.0001395 ln N (Kaplan et al.
    2020, eq. D.1); or a power law in N, D, B such as '0.05 N^-0.25 B^0.5', for instance a fitted
    one (analysis.laws.learning_rate)."""
    lr_embedding: float | str | None = None
    """Peak learning rate of embeddings, output layer, norms and biases (number or rule). Default:
    that of the matrices. Unlike the matrices' rate, it need not fall with width (embeddings and
    biases: Yang et al. 2022, Table 3; the output layer: results/LOG.md)."""
    schedule: Literal[
        "cosine", "linear", "constant", "wsd", "wsd-s", "cosine-restarts", "step", "knots"
    ] = "cosine"
    """Shape after warm-up; wsd is constant, then a cooldown. wsd-s (Wen et al. 2024) also cools
    down at each of resume_tokens and continues at the peak rate; cosine-restarts is one cosine
    after another (Loshchilov & Hutter 2017); step drops at step_fractions; knots is linear between
    the points of `knots`."""
    warmup_fraction: float = 0.05
    """Linear warm-up, as a fraction of the steps."""
    warmup_tokens: int | None = None
    """Linear warm-up in tokens; replaces warmup_fraction. Default: use warmup_fraction."""
    cooldown_fraction: float = 0.2
    """Final fraction of a wsd run over which the learning rate cools down; of a wsd-s run, the
    final fraction of the tokens up to each cooldown's end."""
    final_fraction: float = 0.1
    """Final learning rate as a fraction of the peak (cosine, linear, and each cycle of
    cosine-restarts); wsd cools down to zero."""
    beta1: float = 0.9
    """Decay of the running mean of gradients."""
    beta2: float | str = 0.95
    """Decay of the running mean of squared gradients: a number, or a rule in N, D and B:
    '0.98^(B/131072)', with a half-life in tokens, or '1 - 40 B/D'."""
    eps: float = 1e-8
    """Term added to the root of the running mean of squared gradients."""
    weight_decay: float | str = 0.1
    """Decoupled weight decay: every step subtracts lr times this times the weight. A number, or a
    power law in N, D and B such as '0.1 (B/4096)^0.5'."""
    clip: float | None = 1.0
    """Largest norm of the gradient. Clipping is turned off by 'none' in a spec, or by None on the
    command line."""
    optimizer: Literal["adamw", "adafactor", "muon"] = "adamw"
    """Optimiser. adafactor (Shazeer & Stern 2018) takes steps relative to the size of each tensor,
    so its lr has another order of magnitude (1e-2); it does not use beta1, beta2 and eps. muon
    (Jordan et al. 2024) trains the matrices, with steps as large as AdamW's at the same lr, and
    AdamW the other tensors."""
    decay: Literal["matrices", "embeddings", "all"] = "matrices"
    """Tensors that weight decay acts on: the matrices; also embeddings and output layer
    (embeddings); also biases and norms (all)."""
    z_loss: float = 0.0
    """Weight of (ln Z)^2 in the training loss, with Z the normaliser of a token's logits (1e-4 in
    Chowdhery et al. 2022). Reported losses do not include it."""
    batch_warmup_tokens: int | None = None
    """Tokens over which the batch grows, in whole contexts and linearly in the tokens seen, from
    one eighth of batch_tokens to all of it (Brown et al. 2020, appendix B). A run then has more
    steps; learning-rate schedules count steps. Default: a constant batch."""
    ema: float | None = None
    """Measure a running mean of the weights instead of the weights, with this decay per step, such
    as 0.999; at step t the decay is at most (1 + t) / (10 + t). Default: the weights themselves."""

    cooldown: Literal["linear", "1-sqrt"] = "linear"
    """Shape of the cooldown of wsd and wsd-s: linear, or 1 - sqrt(fraction of it that is done)
    (Hägele et al. 2024)."""
    resume_tokens: str = ""
    """Tokens, such as '3e5, 6e5', at which a wsd-s run has cooled down, or a cycle of
    cosine-restarts ends, and the rate returns to its peak. Those at or after a run's last token
    have no effect, so that all horizons of a sweep share one list, and their steps."""
    cycles: int = 2
    """Number of equal cycles of cosine-restarts, without resume_tokens."""
    step_fractions: str = "0.8, 0.9"
    """Fractions of the steps after which the rate of the schedule step drops (default: DeepSeek-AI
    2024)."""
    step_factor: float = 0.316
    """Factor by which the rate of the schedule step drops each time (default: DeepSeek-AI 2024)."""
    knots: str = ""
    """Points of the schedule knots, such as '0.1:1 0.8:0.5 1:0.01': after a fraction of the steps
    the rate is this fraction of the peak. It is linear in between and constant outside, and the
    warm-up comes first. `scaling plan --schedule` prints the best ones by a law."""
    decay_tokens: float | str | None = None
    """Timescale of weight decay in tokens: weight_decay becomes B / (lr decay_tokens), with which
    AdamW's weights are a running mean of the updates of that many tokens at the peak rate of
    the matrices (Wang & Aitchison 2024). A number, or a power law such as '0.2 D'. Replaces
    weight_decay. Default: use weight_decay."""

    def check(self) -> None:
        for name in ("lr", "lr_embedding"):
            rule = getattr(self, name)
            if isinstance(rule, str):
                lr_rule(rule, f"optim.{name}")
            elif rule is not None and not (math.isfinite(rule) and rule > 0):
                raise ConfigError(f"optim.{name}={rule} must be positive and finite.")
        if self.warmup_tokens is not None and self.warmup_tokens < 0:
            raise ConfigError(f"optim.warmup_tokens={self.warmup_tokens} must not be negative.")
        for name in ("warmup_fraction", "cooldown_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"optim.{name}={getattr(self, name)} must lie between 0 and 1.")
        warmup = self.warmup_fraction if self.warmup_tokens is None else 0.0
        if self.schedule in COOLING and warmup + self.cooldown_fraction > 1:
            raise ConfigError(
                f"optim.warmup_fraction={warmup} and optim.cooldown_fraction="
                f"{self.cooldown_fraction} overlap; their sum must be at most 1."
            )
        for name in RULES:
            value = getattr(self, name)
            if isinstance(value, str):
                value = optim_rules.parsed(value, f"optim.{name}").spelling
            if isinstance(value, float):
                check_rule_value(name, value)
        if not 0 <= self.beta1 < 1:
            raise ConfigError(f"optim.beta1={self.beta1} must lie in [0, 1).")
        for name in ("eps", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"optim.{name}={value} must be positive and finite.")
        check_positive(self, "batch_warmup_tokens")
        if not (math.isfinite(self.z_loss) and self.z_loss >= 0):
            raise ConfigError(f"optim.z_loss={self.z_loss} must not be negative.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"optim.ema={self.ema} must lie between 0 and 1.")
        self._check_pieces()

    def _check_pieces(self) -> None:
        """Check what divides a schedule into pieces."""
        _points(self.knots)
        check_positive(self, "cycles")
        if any(tokens <= 0 for tokens in self.resumes):
            raise ConfigError(f"optim.resume_tokens={self.resume_tokens!r} must be positive.")
        if any(not 0 < fraction < 1 for fraction in self.drops):
            raise ConfigError(
                f"optim.step_fractions={self.step_fractions!r} must lie between 0 and 1."
            )
        if not 0 < self.step_factor <= 1:
            raise ConfigError(
                f"optim.step_factor={self.step_factor} must be above 0 and at most 1; the rate is "
                "multiplied by it."
            )
        if self.schedule == "step" and not self.drops:
            raise ConfigError(
                "optim.schedule='step' needs optim.step_fractions, such as '0.8, 0.9': where the "
                "rate drops."
            )

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """The (fraction of the steps, fraction of the peak) of `knots`, in ascending order."""
        return _points(self.knots)

    @property
    def resumes(self) -> tuple[float, ...]:
        """The tokens of `resume_tokens`, in ascending order."""
        return _numbers(self.resume_tokens, "optim.resume_tokens", "'3e5, 6e5'")

    @property
    def drops(self) -> tuple[float, ...]:
        """The fractions of `step_fractions`, in ascending order."""
        return _numbers(self.step_fractions, "optim.step_fractions", "'0.8, 0.9'")

    def resuming_at(self, tokens: Sequence[int]) -> OptimConfig:
        """Return the equivalent of this config whose rate returns to its peak at `tokens`, and
        nowhere else.

        Without any of them, wsd-s is wsd, and cosine-restarts is cosine.
        """
        if self.schedule not in RESTARTING or not self.resumes:
            return self
        spelling = ",".join(map(str, tokens))
        once: Any = {"wsd-s": "wsd", "cosine-restarts": "cosine"}[self.schedule]
        return dataclasses.replace(
            self, resume_tokens=spelling, schedule=self.schedule if tokens else once
        )

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        if self.schedule == "knots" and not self.points:
            # Not in `check`, since the keys of a spec are first checked one at a time.
            raise ConfigError(
                "optim.schedule='knots' needs optim.knots, such as '0.1:1 0.8:0.5 1:0.01'."
            )
        for name in ("lr", "lr_embedding"):
            values[name] = spelled(values[name])
        for name in RULES:
            values[name] = optim_rules.spelled(values[name], f"optim.{name}")
        if values["lr_embedding"] == values["lr"]:
            values["lr_embedding"] = None
        restarts = self.schedule == "cosine-restarts"
        if restarts and not self.resumes and self.cycles == 1:
            values["schedule"] = "cosine"
        values["resume_tokens"] = ",".join(f"{tokens:.17g}" for tokens in self.resumes)
        values["knots"] = " ".join(f"{done!r}:{rate!r}" for done, rate in self.points)
        values["step_fractions"] = ", ".join(map(repr, self.drops))
        steps = self.schedule == "step"
        has_effect = {
            "cooldown_fraction": self.schedule in COOLING,
            "cooldown": self.schedule in COOLING,
            "final_fraction": self.schedule in ("cosine", "linear", "cosine-restarts"),
            "resume_tokens": self.schedule in RESTARTING,
            "cycles": restarts and not self.resumes and self.cycles > 1,
            "knots": self.schedule == "knots",
            "step_fractions": steps,
            "step_factor": steps,
            "weight_decay": self.decay_tokens is None,
            "warmup_fraction": self.warmup_tokens is None,
            **dict.fromkeys(("beta1", "beta2", "eps"), self.optimizer != "adafactor"),
        }
        return {name: value for name, value in values.items() if has_effect.get(name, True)}


@functools.lru_cache(maxsize=1024)
def _numbers(text: str, key: str, example: str) -> tuple[float, ...]:
    """Return the different numbers of a list separated by commas, in ascending order."""
    try:
        found = {float(part) for part in text.split(",")} if text.strip() else set()
    except ValueError:
        found = {math.nan}
    if not all(map(math.isfinite, found)):
        raise ConfigError(f"{key}={text!r} is not a list of numbers such as {example}.")
    return tuple(sorted(found))


@functools.lru_cache(maxsize=1024)
def _points(text: str) -> tuple[tuple[float, float], ...]:
    """Return the points of optim.knots; raise ConfigError if they are not in order."""
    try:
        pairs = [part.split(":") for part in text.split()]
        points = tuple((float(done), float(rate)) for done, rate in pairs)
    except ValueError:
        raise ConfigError(
            f"optim.knots={text!r} is not a list of points such as '0.1:1 0.8:0.5 1:0.01'."
        ) from None
    if any(not (0 <= done <= 1 and 0 <= rate <= 1) for done, rate in points):
        raise ConfigError(
            f"optim.knots={text!r}: fractions of the steps and of the peak lie between 0 and 1."
        )
    if any(a[0] >= b[0] for a, b in itertools.pairwise(points)):
        raise ConfigError(f"optim.knots={text!r}: the fractions of the steps must increase.")
    return points


def check_rule_value(name: str, value: float, rule: float | str | None = None) -> None:
    """Raise ConfigError if `value`, that a rule gives or a number, cannot be the field `name`."""
    gives = f"={value}" if rule is None or rule == value else f"={rule!r} gives {value:.4g}, which"
    if name == "beta2" and not 0 <= value < 1:
        raise ConfigError(f"optim.beta2{gives} must lie in [0, 1).")
    if not math.isfinite(value):
        raise ConfigError(f"optim.{name}{gives} is not finite.")
    if name == "weight_decay" and value < 0:
        raise ConfigError(f"optim.weight_decay{gives} must not be negative.")
    if name == "decay_tokens" and value <= 0:
        raise ConfigError(f"optim.decay_tokens{gives} must be positive.")
