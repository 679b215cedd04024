"""The derived keys of a run: expressions in its other keys, in any order without circles."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from scaling.command_run import CommandRun, Value
from scaling.errors import ConfigError
from sweeps.runner.expressions import NotArithmetic, evaluate, names_in

_CLOSE = 1e-9
"""Relative distance from a whole number at which a value is that number."""

_MOST = 2**63

_WHOLE = re.compile(r"N|N_total|tokens|(.*_)?(tokens|steps|iters|iterations|layers|heads|seed)")
"""Names of keys that count something."""


def must_be_whole(key: str) -> bool:
    """Return whether a derived key of this name must be a whole number."""
    return _WHOLE.fullmatch(key.rpartition(".")[2]) is not None


class Derived:
    """The values of a run's keys, computed when they are first needed."""

    def __init__(
        self,
        keys: Mapping[str, Value],
        expressions: Mapping[str, str],
        where: str,
        special: Mapping[str, Callable[[Derived], Value]] | None = None,
    ) -> None:
        """`special` are functions for keys that follow from others in other ways: N and tokens."""
        self._keys, self._expressions, self._where = keys, expressions, where
        self._special = special or {}
        self._known: dict[str, Value] = {}
        self._open: list[str] = []
        self._uses: dict[str, set[str]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._keys or key in self._expressions or key in self._special

    def value(self, key: str) -> Value:
        """Return the value of a key. Raises ConfigError if it has none."""
        if self._open:
            self._uses.setdefault(self._open[-1], set()).add(key)
        if key in self._keys:
            return self._keys[key]
        if key not in self._known:
            if key not in self:
                raise self._unknown(key)
            if key in self._open:
                circle = " -> ".join([*self._open[self._open.index(key) :], key])
                raise ConfigError(f"{self._where}: {key} depends on itself: {circle}.")
            self._open.append(key)
            try:
                self._known[key] = (
                    self._special[key](self) if key in self._special else self._evaluated(key)
                )
            finally:
                self._open.pop()
        return self._known[key]

    def names(self) -> list[str]:
        """Return the names of all keys."""
        return sorted({*self._keys, *self._expressions, *self._special})

    def given_keys(self, key: str) -> set[str]:
        """Return the given keys that the value of `key` depends on, once it is known."""
        if key in self._keys:
            return {key}
        found: set[str] = set()
        for used in self._uses.get(key, ()):
            found |= self.given_keys(used)
        return found

    def _evaluated(self, key: str) -> Value:
        text = self._expressions[key]
        where = f"{self._where} derived {key}={text!r}"
        try:
            value = evaluate(text, self.value)
        except NotArithmetic as error:
            raise ConfigError(f"{where}: {error}{self._inputs(text)}.") from None
        if isinstance(value, float) and abs(value) < _MOST:
            nearest = round(value)
            if abs(value - nearest) <= _CLOSE * max(1.0, abs(value)) and (nearest or not value):
                return nearest
            if must_be_whole(key):
                raise ConfigError(
                    f"{where} is {value:.10g}, not a whole number{self._inputs(text)}; write "
                    f"round({text}), or choose values that divide."
                )
        if abs(value) >= _MOST and (isinstance(value, int) or must_be_whole(key)):
            raise ConfigError(f"{where} is above 2^63{self._inputs(text)}.")
        return value

    def _inputs(self, text: str) -> str:
        """Return the values that an expression uses, for a message."""
        known = {**self._keys, **self._known}
        used = [f"{name}={known[name]!r}" for name in sorted(names_in(text)) if name in known]
        return f", with {', '.join(used)}" if used else ""

    def _unknown(self, key: str) -> ConfigError:
        names = self.names()
        near = difflib.get_close_matches(key, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        used_by = f" derived {self._open[-1]}" if self._open else ""
        return ConfigError(
            f"{self._where}{used_by}: no key {key!r}.{hint} Keys are {', '.join(names)}."
        )


def with_keys(run: CommandRun, changes: Mapping[str, Value]) -> CommandRun:
    """Return the run with other values of keys that its N and D do not depend on."""
    keys = {**run.keys, **changes}
    fixed = {key: run.derived[key] for key in run.derived if key not in run.expressions}
    derived = Derived({**keys, **fixed}, run.expressions, f"run {run.run_id}")
    values: dict[str, Any] = {key: derived.value(key) for key in run.expressions}
    return dataclasses.replace(run, keys=keys, derived={**fixed, **values})
