"""A run that is trained by a command of the user instead of :mod:`scaling.training`.

It plays the part of a :class:`scaling.config.RunConfig` in a sweep: it has an identity and sizes.
Imports nothing heavy.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from scaling.config import RunConfig

_FORMAT = "command 1"
"""Part of the identity of every such run; changed if the meaning of the rest changes."""

Value = bool | int | float | str
"""Value of a key of a run."""


@dataclass(frozen=True, kw_only=True)
class CommandRun:
    """A run of a command, whose keys the command gives meaning to."""

    command: tuple[str, ...]
    """Words of the command, with {placeholders} for keys."""
    keys: Mapping[str, Value] = field(hash=False)
    """{key: value} as given by the spec's base and axes. Keys are columns of the table. However the
    spec sets the training tokens, the key for them is `tokens`, unless `derived` has it."""
    derived: Mapping[str, Value] = field(default_factory=dict, compare=False)
    """{key: value} computed from the keys; columns of the table too. N is among them if a command
    has counted it."""
    code: Mapping[str, str] = field(default_factory=dict, hash=False)
    """{file as named in the spec: sha256 of its content} of the files that identify the run."""
    N: int | None = field(default=None, compare=False)
    """Non-embedding parameters; None if only the command knows them."""
    D: int = field(default=0, compare=False)
    """Training tokens that the run is to process."""
    batch_tokens: int | None = field(default=None, compare=False)
    """Tokens per optimiser step B, if known."""
    lr: str = field(default="lr", compare=False)
    """Key of the peak learning rate."""
    seed_key: str = field(default="seed", compare=False)
    """Key of the seed."""
    expressions: Mapping[str, str] = field(default_factory=dict, compare=False)
    """{derived key: expression} that `derived` comes from."""
    size_keys: frozenset[str] = field(default=frozenset(), compare=False)
    """Keys that N and D depend on."""
    tag: str = field(default="", compare=False)

    def __hash__(self) -> int:
        return hash(self.run_id)

    @property
    def S(self) -> int | None:
        """Number of optimiser steps, if the batch is known."""
        return None if self.batch_tokens is None else max(1, round(self.D / self.batch_tokens))

    @property
    def values(self) -> dict[str, Value]:
        """{key: value} of the given and the derived keys."""
        return {**self.keys, **self.derived}

    @property
    def shape(self) -> str:
        """The keys that N and D depend on, without those that set D directly, in words."""
        sizes = self.size_keys - {"N", "tokens", "tokens_per_parameter", "flops"}
        found = (f"{key}={self.keys[key]}" for key in sorted(sizes & self.keys.keys()))
        return ", ".join(found)

    @property
    def seed(self) -> int:
        """The seed, 0 if the spec has none."""
        seed = self.values.get(self.seed_key, 0)
        return seed if isinstance(seed, int) else 0

    @functools.cached_property
    def run_id(self) -> str:
        """12 hex digits: hash of the command, its keys and its code."""
        keys = {key: _plain(value) for key, value in self.keys.items()}
        parts = [_FORMAT, list(self.command), keys, dict(self.code)]
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Value) -> Value:
    """Return a value in the spelling that identifies a run: 1 for 1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Run = RunConfig | CommandRun
"""A run of a sweep: of the built-in trainer, or of a command."""
