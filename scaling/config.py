"""What one training run is: :class:`RunConfig`, the single definition behind the command line, the
keys of a sweep's TOML, the run's identity and the config columns of the results table.

Imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import posixpath
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scaling.errors import ConfigError
from scaling.fields import PREFIX, Part, check_positive, check_seed, coerce, own_fields, type_hints
from scaling.lr_rule import lr_rule, spelled

RECIPE = 1
"""Version of the training recipe. Raised when the same config would train to other numbers, by more
than the rounding of sums in another order."""

# Words people use for a field that has another name here; difflib cannot guess these.
_ALIASES = {
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

FAMILIES = {"decoder": "scaling.models.decoder", "lstm": "scaling.models.lstm"}
"""Built-in model families and their modules."""


class _Identifying(Part):
    """A part of a RunConfig whose fields identify the run."""

    @functools.cached_property
    def canonical_text(self) -> str:
        """The fields of this part that identify a run, as items of JSON; made once for all runs that
        share the part."""
        return _json_items(_canonical(self))


@dataclass(frozen=True)
class ModelConfig(_Identifying):
    """Shape of the model. The defaults are the GPT-2-style decoder (Radford et al. 2019; Kaplan et al.
    2020, section 2.1)."""

    n_layer: int = 2
    """Number of transformer blocks (or LSTM layers)."""
    d_model: int = 64
    """Width of the residual stream (or of the LSTM)."""
    n_head: int = 2
    """Attention heads; must divide d_model."""
    d_ff: int | None = None
    """Width of the feed-forward layer; where not given, 4 d_model, and for swiglu, which has a third
    matrix, 8/3 d_model rounded up to a multiple of 8 (Shazeer 2020)."""
    n_ctx: int = 128
    """Context length [tokens]."""
    tied: bool = True
    """Share the token embedding with the output layer."""
    family: str = "decoder"
    """decoder; lstm (Kaplan et al. 2020, Fig. 7), which has no heads, blocks or positions; or your
    own, my.py:Name (see scaling/model.py)."""
    n_repeat: int = 1
    """Times that the stack of blocks is run through, with the same weights: above 1 a recurrent
    transformer (Dehghani et al. 2018; Kaplan et al. 2020, Fig. 17)."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """rmsnorm: no mean subtracted, no bias (Zhang & Sennrich 2019)."""
    position: Literal["learned", "rope"] = "learned"
    """Position embeddings, or rotary ones within attention (Su et al. 2021), base 10,000."""
    activation: Literal["gelu", "swiglu"] = "gelu"
    """Of the feed-forward layer; swiglu is gated (Shazeer 2020)."""
    qk_norm: bool = False
    """RMS-normalise queries and keys of every head, with a gain (Henry et al. 2020; Dehghani et al.
    2023)."""
    bias: bool = True
    """Biases of linear layers and layer norms."""
    n_kv_head: int | None = None
    """Heads of keys and values, each shared by a group of query heads (Ainslie et al. 2023); n_head
    where not given."""
    mup_base_width: int | None = None
    """muP (Yang et al. 2022), with this as the d_model at which it is the standard parametrisation (but
    for attention): with m = d_model / mup_base_width, the initial matrices shrink as m^-1/2, their
    learning rate as 1/m (their weight decay grows as m), logits as 1/m; attention scales as
    1/d_head. Keep d_ff / d_model fixed. The best learning rate is then that of the base width."""

    def check(self) -> None:
        for name in ("n_layer", "d_model", "n_head", "n_ctx", "n_repeat"):
            check_positive(self, name)
        for name in ("d_ff", "n_kv_head", "mup_base_width"):
            if getattr(self, name) is not None:
                check_positive(self, name)
        if self.family not in FAMILIES and not re.search(r"\.py:\w+$", self.family):
            near = difflib.get_close_matches(self.family, FAMILIES, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"model.family={self.family!r} is unknown. {hint}There are {', '.join(FAMILIES)}; "
                "one of your own is my.py:Name."
            )
        if self.family == "lstm":
            return
        if self.d_model % self.n_head:
            raise ConfigError(
                f"model.n_head={self.n_head} does not divide model.d_model={self.d_model}; "
                f"use {_nearest_divisor(self.d_model, self.n_head)}, say."
            )
        if self.n_head % self.kv_heads:
            raise ConfigError(
                f"model.n_kv_head={self.n_kv_head} does not divide model.n_head={self.n_head}; "
                f"use {_nearest_divisor(self.n_head, self.kv_heads)}, say."
            )
        if self.position == "rope" and self.head_width % 2:
            raise ConfigError(
                f"model.position='rope' turns pairs of channels, but heads are {self.head_width} "
                f"wide (d_model={self.d_model}, n_head={self.n_head}); make d_model / n_head even."
            )

    @property
    def ff_width(self) -> int:
        if self.d_ff is not None:
            return self.d_ff
        return 4 * self.d_model if self.activation == "gelu" else 8 * -(-self.d_model // 3)

    @property
    def width_multiplier(self) -> float:
        """m of muP; 1 in the standard parametrisation."""
        return 1.0 if self.mup_base_width is None else self.d_model / self.mup_base_width

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_head

    @property
    def kv_heads(self) -> int:
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def kv_width(self) -> int:
        """Width of all keys (or all values) of a token."""
        return self.kv_heads * self.head_width


@dataclass(frozen=True)
class DataConfig(_Identifying):
    """Which text, cut into which tokens."""

    corpus: str = "prose"
    """A bundled corpus (see `scaling data list`), a local text file or folder, or hub:<name>."""
    tokenizer: str = "bpe-1024"
    """'bytes', or 'bpe-<vocabulary size>': a byte-level BPE trained on the corpus."""
    unique_tokens: int | None = None
    """Train on a random subset of this many tokens; subsets of one data_seed are nested."""
    data_seed: int = 0
    """Seed of the subset (the order of the data follows the run's seed)."""
    max_bytes: int | None = None
    """Read at most this many bytes of the corpus' text."""

    def check(self) -> None:
        if not self.corpus:
            raise ConfigError(
                "data.corpus is empty; name a corpus (`scaling data list`) or a file."
            )
        if self.unique_tokens is not None:
            check_positive(self, "unique_tokens")
        if self.max_bytes is not None:
            check_positive(self, "max_bytes")
        check_seed(self, "data_seed")
        _ = self.vocab_size

    @functools.cached_property
    def vocab_size(self) -> int:
        """Token ids, end-of-text included."""
        if self.tokenizer == "bytes":
            return 256
        match = re.fullmatch(r"bpe-(\d+)", self.tokenizer)
        if match and 257 <= int(match[1]) <= 65536:
            return int(match[1])
        raise ConfigError(
            f"data.tokenizer={self.tokenizer!r} is unknown; use 'bytes' or 'bpe-<size>' with a "
            "size from 257 to 65536, such as 'bpe-1024'."
        )


@dataclass(frozen=True)
class OptimConfig(_Identifying):
    """The optimiser and its schedule."""

    lr: float | str = 3e-3
    """Peak learning rate: a number; 'kaplan' for LR(N) = 0.003239 - 0.0001395 ln N (Kaplan et al.
    2020, eq. D.1); or a power law in N, D, B such as '0.05 N^-0.25 B^0.5', which may be one that was
    fitted (analysis.laws.learning_rate)."""
    lr_embedding: float | str | None = None
    """Peak learning rate of embeddings, output layer, norms and biases (number or rule); that of the
    matrices where not given. Unlike the matrices' it need not fall with width (embeddings and
    biases: Yang et al. 2022, Table 3; the output layer: results/LOG.md)."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape after warm-up; wsd is constant, then a linear cooldown."""
    warmup_fraction: float = 0.05
    """Linear warm-up, as a fraction of the steps."""
    warmup_tokens: int | None = None
    """Linear warm-up in tokens; takes the place of warmup_fraction."""
    cooldown_fraction: float = 0.2
    """Last part of a wsd run that cools down."""
    final_fraction: float = 0.1
    """Last learning rate over the peak (cosine, linear); wsd cools to zero."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Decoupled: lr times this times the weight is taken off at every step."""
    clip: float | None = 1.0
    """Largest norm of the gradient; 'none' to leave it alone."""
    optimizer: Literal["adamw", "adafactor", "muon"] = "adamw"
    """adafactor (Shazeer & Stern 2018) takes steps relative to the size of each tensor, so its lr is of
    another order (1e-2), and has no beta1, beta2, eps; muon (Jordan et al. 2024) is for the matrices,
    with steps as large as AdamW's at the same lr, beside AdamW for all else."""
    decay: Literal["matrices", "embeddings", "all"] = "matrices"
    """What weight decay acts on: matrices; these, embeddings and output layer; biases and norms too."""
    z_loss: float = 0.0
    """Weight of (ln Z)^2 in the training loss, Z the normaliser of a token's logits (1e-4 in Chowdhery
    et al. 2022); no loss that is reported includes it."""
    batch_warmup_tokens: int | None = None
    """Tokens over which the batch grows, in whole contexts and linearly in the tokens seen, from an
    eighth of batch_tokens to all of it (Brown et al. 2020, appendix B). Learning rates go by steps,
    of which there are then more."""
    ema: float | None = None
    """Measure a running mean of the weights with this decay a step, such as 0.999, in place of the
    weights themselves; at step t at most (1 + t) / (10 + t)."""

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
        if self.schedule == "wsd" and warmup + self.cooldown_fraction > 1:
            raise ConfigError(
                f"optim.warmup_fraction={warmup} and optim.cooldown_fraction="
                f"{self.cooldown_fraction} overlap; together they may be 1 at most."
            )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name}={getattr(self, name)} must lie in [0, 1).")
        for name in ("eps", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"optim.{name}={value} must be positive and finite.")
        if self.batch_warmup_tokens is not None:
            check_positive(self, "batch_warmup_tokens")
        if not (math.isfinite(self.z_loss) and self.z_loss >= 0):
            raise ConfigError(f"optim.z_loss={self.z_loss} must not be negative.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"optim.ema={self.ema} must lie between 0 and 1.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"optim.weight_decay={self.weight_decay} must not be negative.")


@dataclass(frozen=True)
class EvalConfig(_Identifying):
    """How the held-out loss is measured."""

    test_tokens: int = 131_072
    """Test tokens behind every loss: always the same ones."""
    points: int = 16
    """Evaluations along a run, at log-spaced steps; the last step is always among them."""
    others: str = ""
    """Other distributions to measure the finished model on, such as 'kjv,wikipedia,api-docs,stdlib':
    corpora, their test splits in the tokens of the training corpus (Kaplan et al. 2020, Fig. 8)."""
    patience: int | None = None
    """Stop a run whose test loss has not fallen below its least for this many evaluations (the protocol
    of L(D): Kaplan et al. 2020, section 4.1); L, S, D and C are those of the least."""
    noise_parts: int | None = None
    """Measure the gradient noise scale (McCandlish et al. 2018) by doing each step in this many equal
    parts, at least 2."""
    update_ratio: bool = False
    """Measure how large updates are beside what they update: at each evaluation, the norm of the last
    update of the matrices over their norm."""

    def check(self) -> None:
        check_positive(self, "test_tokens")
        check_positive(self, "points")
        if self.patience is not None:
            check_positive(self, "patience")
        if self.noise_parts is not None and self.noise_parts < 2:
            raise ConfigError(f"eval.noise_parts={self.noise_parts} must be at least 2.")

    @property
    def other_corpora(self) -> list[str]:
        return list(dict.fromkeys(name for x in self.others.split(",") if (name := x.strip())))


@dataclass(frozen=True)
class RunConfig(Part):
    """One training run. Two equal configs have one `run_id`, on any machine."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tokens: int = 1_024_000
    """D, the training tokens to process; rounded to whole steps."""
    batch_tokens: int = 4096
    """B, tokens per step; a multiple of n_ctx."""
    seed: int = 0
    """Of the initial weights and of the order of the data."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is autocast: weights and optimiser stay in float32."""
    tag: str = ""
    """A label for filtering; not part of the run's identity."""

    def check(self) -> None:
        check_positive(self, "tokens")
        check_positive(self, "batch_tokens")
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
        if warmup is not None and warmup > 100_000 * self.batch_tokens:
            raise ConfigError(
                f"optim.batch_warmup_tokens={warmup} is more than 100000 steps of batch_tokens="
                f"{self.batch_tokens}; let the batch grow over fewer tokens."
            )
        sequences, parts = self.batch_tokens // n_ctx, self.eval.noise_parts
        if parts is not None and self.optim.batch_warmup_tokens is not None:
            raise ConfigError(
                f"eval.noise_parts={parts} needs steps of one size, and optim.batch_warmup_tokens="
                f"{self.optim.batch_warmup_tokens} changes it; leave one of them out."
            )
        if parts is not None and sequences % parts:
            raise ConfigError(
                f"eval.noise_parts={parts} does not divide the {sequences} sequences of a step "
                f"(batch_tokens={self.batch_tokens}, n_ctx={n_ctx}); use "
                f"{_nearest_divisor(sequences, parts)}, say, or a larger batch."
            )

    def with_own(self, **values: Any) -> RunConfig:
        """This run with other values of fields that belong to no part; as dataclasses.replace, in half
        the time."""
        run: RunConfig = object.__new__(RunConfig)
        run.__dict__.update({name: self.__dict__[name] for name in _names()} | values)
        run.__post_init__()
        return run

    def tokens_at(self, step: int) -> int:
        """Training tokens processed in the first `step` steps."""
        ramp = self._ramp
        if step < len(ramp):
            return ramp[step]
        return ramp[-1] + (step - len(ramp) + 1) * self.batch_tokens

    @functools.cached_property
    def S(self) -> int:
        """Optimiser steps: as many as come nearest to `tokens`."""
        ramp = self._ramp
        if self.tokens < ramp[-1]:
            return max(1, min(range(len(ramp)), key=lambda step: abs(ramp[step] - self.tokens)))
        return max(1, len(ramp) - 1 + round((self.tokens - ramp[-1]) / self.batch_tokens))

    @functools.cached_property
    def D(self) -> int:
        """Training tokens processed: whole steps."""
        return self.tokens_at(self.S)

    @property
    def _ramp(self) -> tuple[int, ...]:
        """Tokens after 0, 1, ... steps of the batch's warm-up."""
        return _ramp(self.batch_tokens, self.model.n_ctx, self.optim.batch_warmup_tokens or 0)

    @functools.cached_property
    def run_id(self) -> str:
        """12 hex digits: hash of the canonical config and of :data:`RECIPE`."""
        # json.dumps([RECIPE, canonical(self)], sort_keys=True, separators=(",", ":")), with the text
        # of each part made once for all runs that share it. Keys of a part are neighbours.
        texts, values = [], self.__dict__
        for name, is_part, default in _in_order():
            if is_part:
                texts.append(values[name].canonical_text)
                continue
            value = self.D if name == "tokens" else values[name]
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


def _nearest_divisor(number: int, wanted: int) -> int:
    """A divisor of `number` near `wanted`, for a message: 1 where none is within a hundred thousand."""
    first, far = min(wanted, number), 100_000
    below = next((h for h in range(first, max(0, first - far), -1) if number % h == 0), 1)
    last = min(2 * wanted, number, wanted + far)
    above = next((h for h in range(wanted, last) if number % h == 0), below)
    return min(below, above, key=lambda h: abs(h - wanted))


# ------------------------------------------------------------------ fields, overrides, identity


@functools.cache
def fields_of(cls: type = RunConfig, prefix: str = "") -> Mapping[str, tuple[Any, Any]]:
    """Every leaf of a config class: {dotted key: (type, default)}."""
    leaves: dict[str, tuple[Any, Any]] = {}
    hints = type_hints(cls)
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        if dataclasses.is_dataclass(hint):
            leaves |= fields_of(typing.cast(type, hint), f"{prefix}{f.name}.")
        else:
            leaves[prefix + f.name] = (hint, f.default)
    return leaves


def flatten(config: RunConfig) -> dict[str, Any]:
    """{dotted key: value} of every leaf."""
    flat = {}
    for key in fields_of(type(config)):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        flat[key] = value
    return flat


def canonical(config: RunConfig) -> dict[str, Any]:
    """What identifies a run: the fields that differ from their defaults, each in one spelling, those
    without effect left out. D stands for `tokens`: horizons that give the same steps are one."""
    parts = (_canonical(getattr(config, name)) for name in _parts())
    return {key: value for part in (*parts, _own_canonical(config)) for key, value in part.items()}


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(RunConfig))


@functools.cache
def _parts() -> tuple[str, ...]:
    """Names of the parts of a RunConfig."""
    hints = type_hints(RunConfig)
    return tuple(
        f.name for f in dataclasses.fields(RunConfig) if dataclasses.is_dataclass(hints[f.name])
    )


@functools.cache
def _in_order() -> tuple[tuple[str, bool, Any], ...]:
    """Of what identifies a run, the fields of a RunConfig as sorted keys have them: name, whether it is
    a part, and the default of one that is none."""
    names = [(f"{name}.", name, True, None) for name in _parts()]
    own = (name for name, *_ in own_fields(RunConfig) if name != "tag")
    names += [(name, name, False, fields_of()[name][1]) for name in own]
    return tuple((name, is_part, default) for _, name, is_part, default in sorted(names))


def _own_canonical(config: RunConfig) -> dict[str, Any]:
    """Of a canonical config, what belongs to no part."""
    flat = {name: getattr(config, name) for name, *_ in own_fields(RunConfig) if name != "tag"}
    flat["tokens"] = config.D
    return {key: value for key, value in flat.items() if value != fields_of()[key][1]}


@functools.lru_cache(maxsize=4096)
def _canonical(part: Any) -> Mapping[str, Any]:
    """Of a canonical config, the fields of one part."""
    prefix = PREFIX[type(part).__name__]
    flat = {name: getattr(part, name) for name, *_ in own_fields(type(part))}
    without_effect: set[str] = set()
    if isinstance(part, ModelConfig):
        if part.d_ff == dataclasses.replace(part, d_ff=None).ff_width:
            flat["d_ff"] = None
        if part.kv_heads == part.n_head:
            flat["n_kv_head"] = None
        if part.family not in FAMILIES:
            flat["family"] = posixpath.normpath(part.family)
        if part.family == "lstm":
            used = ("n_layer", "d_model", "n_ctx", "tied", "family", "mup_base_width")
            without_effect = flat.keys() - set(used)
    elif isinstance(part, DataConfig):
        if part.unique_tokens is None:
            without_effect = {"data_seed"}
        if not part.corpus.startswith("hub:"):
            flat["corpus"] = posixpath.normpath(part.corpus)
    elif isinstance(part, OptimConfig):
        for key in ("lr", "lr_embedding"):
            flat[key] = spelled(flat[key])
        if flat["lr_embedding"] == flat["lr"]:
            flat["lr_embedding"] = None
        effects = {
            "cooldown_fraction": part.schedule == "wsd",
            "final_fraction": part.schedule not in ("wsd", "constant"),
            "warmup_fraction": part.warmup_tokens is None,
            **dict.fromkeys(("beta1", "beta2", "eps"), part.optimizer != "adafactor"),
        }
        without_effect = {key for key, has in effects.items() if not has}
    elif isinstance(part, EvalConfig):
        flat["others"] = ",".join(sorted(part.other_corpora))
    return {
        f"{prefix}{key}": value
        for key, value in flat.items()
        if value != fields_of()[f"{prefix}{key}"][1] and key not in without_effect
    }


def _json_items(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))[1:-1]


def override(config: RunConfig, changes: dict[str, Any], *, where: str = "") -> RunConfig:
    """A copy of `config` with {dotted key: value} changed; nested tables are accepted as well.

    Strict: an unknown key or a value of another type raises ConfigError, which begins with `where`
    (say, a file and its section) and suggests the nearest key.
    """
    leaves = fields_of()
    changed: dict[str, dict[str, Any]] = {}
    for key, value in _dotted(changes).items():
        if key not in leaves:
            raise ConfigError(f"{where}{': ' if where else ''}{unknown_key(key)}")
        try:
            part, _, name = key.rpartition(".")
            changed.setdefault(part, {})[name] = coerce(value, leaves[key][0])
        except ConfigError as error:
            raise ConfigError(f"{where}{': ' if where else ''}{key}: {error}") from None
    try:
        own = changed.pop("", {})
        parts = {
            part: _changed(getattr(config, part), tuple(sorted(values.items())))
            for part, values in changed.items()
        }
        return dataclasses.replace(config, **parts, **own)
    except ConfigError as error:
        raise ConfigError(f"{where}{': ' if where else ''}{error}") from None


@functools.lru_cache(maxsize=4096)
def _changed(part: Any, values: tuple[tuple[str, Any], ...]) -> Any:
    """A part with other values. One object serves all runs that have the same."""
    return dataclasses.replace(part, **dict(values))


def from_dict(values: dict[str, Any], *, where: str = "") -> RunConfig:
    """A RunConfig from {dotted key: value} or nested tables; the rest are defaults."""
    return override(_default(), values, where=where)


@functools.cache
def _default() -> RunConfig:
    return RunConfig()


def unknown_key(key: str) -> str:
    """One line saying that `key` is no field, with the nearest one that is."""
    parent, _, name = key.rpartition(".")
    leaves = list(fields_of())
    owner = {"": "RunConfig"} | {
        f.name: type_hints(RunConfig)[f.name].__name__ for f in dataclasses.fields(RunConfig)
    }
    guess = _ALIASES.get(name)
    if guess == key or guess not in leaves:
        by_name = {leaf.rpartition(".")[2]: leaf for leaf in leaves}
        near = difflib.get_close_matches(name, by_name, n=1)
        guess = by_name[near[0]] if near else None
    said = f"{owner.get(parent, 'RunConfig')} has no field {name!r} (in {key!r})."
    if guess is None:
        return f"{said} The fields are {', '.join(leaves)}."
    same_part = guess.rpartition(".")[0] == parent
    return f"{said} Did you mean {guess.rpartition('.')[2] if same_part else guess!r}?"


def _dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
