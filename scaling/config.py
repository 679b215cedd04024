"""The config of one training run: :class:`RunConfig`.

It is the single definition behind the command line, the keys of a sweep's TOML, a run's identity
and the config columns of the results table. Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from scaling import fields
from scaling.classify_config import ClassifyConfig
from scaling.errors import ConfigError
from scaling.fields import IdentifyingPart, Part, check_positive, check_seed, nearest_divisor
from scaling.model_config import ModelConfig
from scaling.optim_config import RESTARTING, OptimConfig

RECIPE = 1
"""Version of the training recipe. Raise it whenever the same config would give numbers that differ
by more than the rounding of sums in another order."""

_SYNONYMS = {
    "lr": "optim.lr",
    "learning_rate": "optim.lr",
    "layers": "model.n_layer",
    "depth": "model.n_layer",
    "width": "model.d_model",
    "n_embd": "model.d_model",
    "heads": "model.n_head",
    "block_size": "model.n_ctx",
    "context": "model.n_ctx",
    "seq_len": "model.n_ctx",
    "n_tokens": "tokens",
    "D": "tokens",
    "B": "batch_tokens",
    "batch_size": "batch_tokens",
}
"""Other common names for a field that similar spelling would not suggest."""

_BATCH_WARMUP_STEPS = 100_000
"""Most steps over which the batch may grow."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(IdentifyingPart):
    """Text and tokenizer."""

    prefix = "data."

    corpus: str = "prose"
    """A bundled corpus (see `scaling data list`), a local text file or folder, or hub:<name>."""
    tokenizer: str = "bpe-1024"
    """'bytes', or 'bpe-<vocabulary size>': a byte-level BPE trained on the corpus."""
    tokenizer_of: str = ""
    """Corpus whose tokenizer to use, such as that of the run that a run begins from. Default: the
    run's own corpus."""
    unique_tokens: int | None = None
    """Train on a random subset of this many tokens; subsets with the same data_seed are nested.
    Default: the whole training split."""
    data_seed: int = 0
    """Seed of the subset (the run's seed determines the order of the data)."""
    max_bytes: int | None = None
    """Read at most this many bytes of the corpus. Default: all."""

    def check(self) -> None:
        if not self.corpus:
            raise ConfigError(
                "data.corpus is empty; name a corpus (`scaling data list`) or a file."
            )
        check_positive(self, "unique_tokens", "max_bytes")
        check_seed(self, "data_seed")
        _ = self.vocab_size

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        if self.unique_tokens is None:
            del values["data_seed"]
        for name in ("corpus", "tokenizer_of"):
            if values[name] and not values[name].startswith("hub:"):
                values[name] = posixpath.normpath(values[name])
        if self.tokenizer == "bytes" or values["tokenizer_of"] == values["corpus"]:
            values["tokenizer_of"] = ""
        return values

    @functools.cached_property
    def vocab_size(self) -> int:
        """Number of token ids, end-of-text included."""
        if self.tokenizer == "bytes":
            return 256
        match = re.fullmatch(r"bpe-(\d+)", self.tokenizer)
        if match and 257 <= int(match[1]) <= 65536:
            return int(match[1])
        raise ConfigError(
            f"data.tokenizer={self.tokenizer!r} is unknown; use 'bytes' or 'bpe-<size>' with a "
            "size from 257 to 65536, such as 'bpe-1024'."
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig(IdentifyingPart):
    """How the held-out loss is measured."""

    prefix = "eval."

    test_tokens: int = 131_072
    """Number of test tokens behind every loss: always the same ones."""
    points: int = 16
    """Number of evaluations along a run, at log-spaced steps; the last step is always one of
    them."""
    others: str = ""
    """Other distributions to measure the finished model on, such as
    'kjv,wikipedia,api-docs,stdlib': the test splits of these corpora, in the tokens of the training
    corpus (Kaplan et al. 2020, Fig. 8)."""
    patience: int | None = None
    """Stop a run whose test loss has not fallen below its minimum for this many evaluations (the
    protocol of L(D): Kaplan et al. 2020, section 4.1); L, S, D and C are those at the minimum.
    Default: train to the end."""
    noise_parts: int | None = None
    """Measure the gradient noise scale (McCandlish et al. 2018) by splitting each step into this
    many equal parts, at least 2. Default: do not measure it."""
    update_ratio: bool = False
    """Measure the relative size of updates: at each evaluation, the norm of the last update of the
    matrices over their norm."""

    def check(self) -> None:
        check_positive(self, "test_tokens", "points", "patience")
        if self.noise_parts is not None and self.noise_parts < 2:
            raise ConfigError(f"eval.noise_parts={self.noise_parts} must be at least 2.")

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"others": ",".join(sorted(self.other_corpora))}

    @property
    def other_corpora(self) -> list[str]:
        """The corpora of `others`, without repeats."""
        return list(dict.fromkeys(name for x in self.others.split(",") if (name := x.strip())))


@dataclass(frozen=True, kw_only=True)
class RunConfig(Part):
    """One training run. Equal configs have the same `run_id`, on any machine."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    tokens: int = 1_024_000
    """D, the training tokens to process; rounded to whole steps."""
    batch_tokens: int = 4096
    """B, tokens per step; a multiple of n_ctx."""
    seed: int = 0
    """Seed of the initial weights and of the order of the data."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of the products. tf32, for GPUs only, rounds the factors of float32 products to 10
    bits. bfloat16 uses autocast. Weights and optimiser stay in float32."""
    init: str = ""
    """Run whose weights to begin from: its folder, or results/pretrained:3f2a with a prefix of its
    id or its tag. The model and the tokenizer are then those of that run. Default: random
    weights."""
    tag: str = ""
    """A label for filtering; not part of the run's identity."""

    def check(self) -> None:
        check_positive(self, "tokens", "batch_tokens")
        check_seed(self, "seed")
        n_ctx = self.model.n_ctx
        for key, value in (
            ("batch_tokens", self.batch_tokens),
            ("eval.test_tokens", self.eval.test_tokens),
            ("data.unique_tokens", self.data.unique_tokens),
        ):
            if value is not None and value % n_ctx:
                low = max(value // n_ctx, 1) * n_ctx
                raise ConfigError(
                    f"{key}={value} is not a multiple of model.n_ctx={n_ctx}; the nearest are "
                    f"{low} and {low + n_ctx}."
                )
        warmup = self.optim.batch_warmup_tokens
        if warmup is not None and warmup > _BATCH_WARMUP_STEPS * self.batch_tokens:
            raise ConfigError(
                f"optim.batch_warmup_tokens={warmup} is more than {_BATCH_WARMUP_STEPS} steps of "
                f"batch_tokens={self.batch_tokens}; let the batch grow over fewer tokens."
            )
        self._check_resumes()
        if self.classify.labels:
            self._check_classify()
        sequences, parts = self.batch_tokens // n_ctx, self.eval.noise_parts
        if parts is not None and warmup is not None:
            raise ConfigError(
                f"eval.noise_parts={parts} needs steps of equal size, but "
                f"optim.batch_warmup_tokens={warmup} changes it; leave one of them out."
            )
        if parts is not None and sequences % parts:
            raise ConfigError(
                f"eval.noise_parts={parts} does not divide the {sequences} sequences of a step "
                f"(batch_tokens={self.batch_tokens}, n_ctx={n_ctx}); use "
                f"{nearest_divisor(sequences, parts)}, for example, or a larger batch."
            )

    def _check_classify(self) -> None:
        for key, value in (
            ("data.unique_tokens", self.data.unique_tokens),
            ("eval.others", self.eval.others),
        ):
            if value:
                raise ConfigError(
                    f"{key}={value!r} is for language models, but classify.labels="
                    f"{self.classify.labels!r} asks for a classifier; leave it out"
                    + (" and use classify.examples." if key.startswith("data") else ".")
                )
        if self.classify.lm_weight and self.model.masked:
            raise ConfigError(
                f"classify.lm_weight={self.classify.lm_weight} adds the loss of the next token, "
                "which an encoder (model.family='encoder') does not predict; leave it out."
            )
        if self.model.n_ctx < 2:
            raise ConfigError(f"model.n_ctx={self.model.n_ctx} is too short for classification.")

    def _check_resumes(self) -> None:
        o = self.optim
        if o.schedule not in RESTARTING or not o.resumes:
            return
        warm = o.warmup_fraction * self.tokens if o.warmup_tokens is None else o.warmup_tokens
        if o.resumes[0] < self.tokens and o.resumes[0] <= warm:
            raise ConfigError(
                f"optim.resume_tokens={o.resume_tokens!r} begins within the warm-up, which takes "
                f"{warm:.6g} tokens; begin it later, or shorten the warm-up."
            )

    def with_own(self, **values: Any) -> RunConfig:
        """Return a copy of this run with other values for fields that belong to no part.

        Like dataclasses.replace, in half the time.
        """
        run: RunConfig = object.__new__(RunConfig)
        run.__dict__.update({name: self.__dict__[name] for name in _names()} | values)
        run.__post_init__()
        return run

    def tokens_at(self, step: int) -> int:
        """Return the training tokens processed in the first `step` steps."""
        ramp = self._ramp
        if step < len(ramp):
            return ramp[step]
        return ramp[-1] + (step - len(ramp) + 1) * self.batch_tokens

    def steps_of(self, tokens: float) -> int:
        """Return the number of optimiser steps, at least 1, whose training tokens come nearest to
        `tokens`."""
        ramp = self._ramp
        if tokens < ramp[-1]:
            return max(1, min(range(len(ramp)), key=lambda step: abs(ramp[step] - tokens)))
        return max(1, len(ramp) - 1 + round((tokens - ramp[-1]) / self.batch_tokens))

    @functools.cached_property
    def S(self) -> int:
        """Number of optimiser steps: the number whose training tokens come nearest to `tokens`."""
        return self.steps_of(self.tokens)

    @functools.cached_property
    def resume_steps(self) -> tuple[int, ...]:
        """Numbers of steps after which optim.resume_tokens let the rate return to its peak, those
        beyond the last step included."""
        if self.optim.schedule not in RESTARTING:
            return ()
        if self.optim.schedule == "wsd-s" and not self.optim.resumes:
            # Not in `check`, since the keys of a spec are first checked one at a time.
            raise ConfigError(
                "optim.schedule='wsd-s' needs optim.resume_tokens, such as '3e5, 6e5': the tokens "
                "at which the rate has cooled down and returns to its peak."
            )
        return tuple(sorted({self.steps_of(tokens) for tokens in self.optim.resumes}))

    @property
    def identifying_optim(self) -> OptimConfig:
        """`optim` in the spelling that identifies the run: without resume_tokens of no effect."""
        if self.optim.schedule not in RESTARTING:
            return self.optim
        steps = (step for step in self.resume_steps if step < self.S)
        return self.optim.resuming_at([self.tokens_at(step) for step in steps])

    @property
    def identifying_init(self) -> str:
        """What identifies the weights that the run begins from: their SHA-256; empty if they are
        random. Raises ConfigError if it is not known (:func:`scaling.init_from.resolved`)."""
        digest = self.init.rpartition("@")[2] if "@" in self.init else ""
        if self.init and not re.fullmatch("[0-9a-f]{64}", digest):
            raise ConfigError(
                f"init={self.init!r} has not been looked up: the hash of its weights, which "
                "identifies the run, is not known."
            )
        return digest

    @functools.cached_property
    def D(self) -> int:
        """Training tokens processed, in whole steps."""
        return self.tokens_at(self.S)

    @property
    def _ramp(self) -> tuple[int, ...]:
        """Tokens after 0, 1, ... steps of the batch's warm-up."""
        return _ramp(self.batch_tokens, self.model.n_ctx, self.optim.batch_warmup_tokens or 0)

    @functools.cached_property
    def run_id(self) -> str:
        """12 hex digits: hash of the canonical config and of :data:`RECIPE`."""
        # json.dumps([RECIPE, canonical(self)], sort_keys=True, separators=(",", ":")), except that
        # the text of each part is built once for all runs that share it. The keys of a part are
        # adjacent.
        texts, values = [], self.__dict__
        for name, is_part, default in _in_order():
            if is_part:
                part = self.identifying_optim if name == "optim" else values[name]
                texts.append(part.canonical_text)
                continue
            value = self.D if name == "tokens" else values[name]
            if name == "init":
                value = self.identifying_init
            if value != default:
                text = value if type(value) is int else json.dumps(value)
                texts.append(f'"{name}":{text}')
        items = ",".join(filter(None, texts))
        return hashlib.sha256(f"[{RECIPE},{{{items}}}]".encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=1024)
def _ramp(batch_tokens: int, n_ctx: int, warmup_tokens: int) -> tuple[int, ...]:
    done = [0]
    while done[-1] < warmup_tokens:
        grown = batch_tokens * (1 / 8 + 7 / 8 * done[-1] / warmup_tokens)
        done.append(done[-1] + max(1, round(grown / n_ctx)) * n_ctx)
    return tuple(done)


# ------------------------------------------------------------------ identity


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(RunConfig))


@functools.cache
def _identifying() -> tuple[str, ...]:
    """Return the fields of a RunConfig that identify it and belong to no part."""
    return tuple(name for name, *_ in fields.own_fields(RunConfig) if name != "tag")


@functools.cache
def _in_order() -> tuple[tuple[str, bool, Any], ...]:
    """Return what identifies a run, ordered by dotted key.

    Each item is (name, whether it is a part, default of a field that is not a part).
    """
    names = [(f"{name}.", name, True, None) for name in fields.parts_of(RunConfig)]
    names += [(name, name, False, fields_of()[name][1]) for name in _identifying()]
    return tuple((name, is_part, default) for _, name, is_part, default in sorted(names))


def canonical(run: RunConfig) -> dict[str, Any]:
    """Return what identifies a run: the fields that differ from their defaults, by dotted key.

    Each value has one spelling, and fields without effect are left out. `tokens` is D, so horizons
    that give the same steps are the same run.
    """
    own = {name: getattr(run, name) for name in _identifying()}
    own |= {"tokens": run.D, "init": run.identifying_init}
    parts = {name: getattr(run, name) for name in fields.parts_of(RunConfig)}
    parts["optim"] = run.identifying_optim
    found = {key: value for part in parts.values() for key, value in part.canonical.items()}
    return found | {key: value for key, value in own.items() if value != fields_of()[key][1]}


# ------------------------------------------------------------------ fields by dotted key


def fields_of() -> Mapping[str, tuple[Any, Any]]:
    """Return every leaf of a RunConfig: {dotted key: (type, default)}."""
    return fields.leaves(RunConfig)


def flatten(run: RunConfig) -> dict[str, Any]:
    """Return {dotted key: value} of every leaf."""
    return {key: attrgetter(key)(run) for key in fields_of()}


def override(run: RunConfig, changes: Mapping[str, Any], *, where: str = "") -> RunConfig:
    """Return a copy of `run` with {dotted key: value} changed; nested tables are accepted.

    Raises ConfigError for an unknown key, with the nearest one, and for a value of another type.
    The message begins with `where` (such as a file and its section).
    """
    return fields.override(run, changes, where=where, synonyms=_SYNONYMS)


def from_dict(values: Mapping[str, Any], *, where: str = "") -> RunConfig:
    """Return a RunConfig from {dotted key: value} or nested tables; the rest are defaults."""
    return override(_default(), values, where=where)


@functools.cache
def _default() -> RunConfig:
    return RunConfig()


def unknown_key(key: str) -> str:
    """Return a one-line message that `key` is not a field of a run, with the nearest field."""
    return fields.unknown_key(RunConfig, key, _SYNONYMS)
