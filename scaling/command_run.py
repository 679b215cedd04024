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
    """{key: value} as given by the spec's base and axes, without its seed and tag if the command
    does not use them. Keys are columns of the table."""
    derived: Mapping[str, Value] = field(default_factory=dict, compare=False)
    """{key: value} computed from the keys; columns of the table too."""
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
    tag: str = field(default="", compare=False)

    @property
    def S(self) -> int | None:
        """Number of optimiser steps, if the batch is known."""
        return None if self.batch_tokens is None else max(1, round(self.D / self.batch_tokens))

    @property
    def values(self) -> dict[str, Value]:
        """{key: value} of the given and the derived keys."""
        return {**self.keys, **self.derived}

    @property
    def seed(self) -> int:
        """The key `seed`, 0 if the spec has none."""
        seed = self.keys.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @functools.cached_property
    def run_id(self) -> str:
        """12 hex digits: hash of the command, its keys and its code."""
        parts = [_FORMAT, list(self.command), dict(self.keys), dict(self.code)]
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


Run = RunConfig | CommandRun
"""A run of a sweep: of the built-in trainer, or of a command."""
