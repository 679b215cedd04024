"""The keys that runs of a command may have, and the runs that they make."""

from __future__ import annotations

import difflib
import functools
import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from scaling.columns import COLUMNS
from scaling.command_run import CommandRun, Value
from scaling.config import fields_of
from scaling.errors import ConfigError
from sweeps.runner.count import Counts
from sweeps.runner.derive import Derived
from sweeps.runner.expressions import names_in
from sweeps.runner.parse import Definition
from sweeps.runner.runner import PLACEHOLDERS, placeholders
from sweeps.runner.shell import filled_words, unread
from sweeps.spec_values import HORIZONS, LARGEST, Point, Spaced, as_text, check_number

_MOST = 2**63

_OTHERWISE = {
    "D": "the training tokens D are the key 'tokens'",
    "C": "a budget of FLOPs is the key 'flops'",
    "B": "tokens per step are the key 'batch_tokens'",
    "S": "name the number of steps 'steps', for example",
}
"""{column: what to write instead of this key}."""

_EXAMPLES: dict[str, Value] = dict.fromkeys(PLACEHOLDERS, 1)
_EXAMPLES |= dict.fromkeys(("folder", "run_id", "master_addr"), "text")
"""Values of the placeholders, to try formats on."""

_VARIABLE = re.compile(r"\$\{*[A-Za-z_]|^~/")
"""What a shell would replace."""

_KNOWN_SIZES = ("N", "N_total", "vocab_size", "D_unique")
"""Columns beside those of configs whose values a key may give."""


class CommandKeys:
    """Makes the runs of a spec with the table [runner]."""

    models_prefix = ""

    def __init__(
        self,
        definition: Definition,
        where: str,
        *,
        code: Mapping[str, str],
        counts: Counts,
    ) -> None:
        """`code` are the hashes of the files that identify the runs."""
        self._definition, self._where, self._code, self._counts = definition, where, code, counts
        self._used: set[str] = set()
        self._seen: dict[str, None] = {}
        self._kinds: dict[str, tuple[str, Value]] = {}
        self._checked: set[frozenset[str]] = set()
        self._with_N: set[bool] = set()
        for key in definition.derived:
            self.check_key(key, f"{where} derived", derived=True)

    # ---------------------------------------------------------------- keys and values

    def check_key(self, key: str, where: str, *, derived: bool = False) -> None:
        """Raise ConfigError for the name of a key that would not be one of the user's own."""
        if key in PLACEHOLDERS:
            raise ConfigError(
                f"{where}: {key!r} is the placeholder for {PLACEHOLDERS[key]}; name the key "
                "otherwise."
            )
        if key in _measured():
            otherwise = _OTHERWISE.get(key, f"name the key otherwise, such as {key}_ or my_{key}")
            raise ConfigError(f"{where}: {key!r} is a column of what is measured; {otherwise}.")
        if not derived:
            if key in self._definition.derived:
                raise ConfigError(
                    f"{where}: {key!r} is given here and in [runner.derived]; keep one of them."
                )
        elif key in HORIZONS[1:]:
            raise ConfigError(f"{where}: {key!r} cannot be derived; derive 'tokens' instead.")
        if not key or any(sign in key for sign in "{}:![]\n\0"):
            raise ConfigError(f"{where}: {key!r} cannot be the name of a key.")

    def check_values(self, point: Point, where: str) -> None:
        """Raise ConfigError for a value that no run of a command can have."""
        for key, value in point.items():
            if key in HORIZONS:
                check_number(value, f"{where}: {key}")
                if key == "tokens" and not isinstance(value, Spaced) and value % 1:
                    raise ConfigError(f"{where}: tokens={as_text(value)} must be a whole number.")
            elif not isinstance(value, bool | int | float | str):
                raise ConfigError(
                    f"{where}: {key}={value!r} must be a number, text, true or false; several "
                    "values belong in [axes]."
                )
            elif isinstance(value, str):
                if "\0" in value:
                    raise ConfigError(f"{where}: {key}={value!r} contains a NUL character.")
            elif not math.isfinite(value) or abs(value) >= LARGEST:
                raise ConfigError(f"{where}: {key}={as_text(value)} must be a finite number.")
            elif isinstance(value, int) and abs(value) >= _MOST:
                raise ConfigError(f"{where}: {key}={as_text(value)} is above 2^63.")
            self._check_type(key, value, where)

    def _check_type(self, key: str, value: Any, where: str) -> None:
        """Raise ConfigError if a value does not fit the column of its key, or other values of
        it."""
        kind = "text" if isinstance(value, str) else "a number"
        kind = "true or false" if isinstance(value, bool) else kind
        if key == "tag" and kind != "text":
            raise ConfigError(f"{where}: tag={value!r} must be text.")
        before, example = self._kinds.setdefault(key, (kind, value))
        if kind != before:
            raise ConfigError(
                f"{where}: {key}={value!r} is {kind}, but {key}={example!r} is {before}; the "
                "values of a key are of one type."
            )
        column = None if key in HORIZONS else _columns().get(key)
        if column is not None and not _fits(value, column):
            raise ConfigError(
                f"{where}: {key}={value!r} does not fit the column {key!r} of the table, which "
                f"holds {_in_words(column)}; name the key otherwise."
            )

    @staticmethod
    def prefix(key: str, value: Any) -> str | None:
        """Return what stands before the keys in a list of tables: nothing, whatever its name."""
        tables = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
        return "" if tables or key == "zip" else None

    @staticmethod
    def in_range(key: str, value: Spaced, ends: tuple[Any, Any]) -> Any:
        """Return a value of a log-spaced range as the key has it: whole if both ends are, or if the
        column of the key holds whole numbers."""
        whole = all(isinstance(end, int) for end in ends) or _columns().get(key) == (int,)
        return value if key in HORIZONS else round(value) if whole else float(value)

    # ---------------------------------------------------------------- runs

    def run(self, values: Point, where: str, section: Callable[[str], str]) -> CommandRun:
        """Return the run with these values. `section` tells where a key was set, for messages."""
        definition = self._definition
        tag = values.get("tag", "")
        keys: dict[str, Value] = {
            key: value for key, value in values.items() if key not in HORIZONS and key != "tag"
        }
        if "tag" in self._uses:
            keys["tag"] = tag
        self._check_horizon(values, where)
        derived = Derived(keys, definition.derived, f"{where} [runner]", self._special(values))
        N = self._N(keys, derived, where)
        tokens = self._whole("tokens", derived.value("tokens"), where)
        batch = definition.key_of("batch_tokens")
        B = self._whole(batch, derived.value(batch), where) if batch in derived else None
        if tokens >= _MOST:
            horizon = next((key for key in HORIZONS if key in values), "tokens")
            raise ConfigError(
                f"{section(horizon)}={as_text(values.get(horizon, tokens))} gives more than 2^63 "
                "training tokens."
            )
        if "tokens" not in definition.derived:
            keys["tokens"] = tokens
        found = {key: derived.value(key) for key in definition.derived}
        found |= {key: values[key] for key in HORIZONS[1:] if key in values and key in self._uses}
        if N is not None and "N" not in keys:
            found["N"] = N
        for key, value in found.items():
            self._check_type(key, value, f"{where} [runner] derived")
        self._check_roles(derived, where)
        self._check_placeholders({**keys, **found}, where)
        self._seen |= dict.fromkeys(keys)
        return CommandRun(
            command=definition.command,
            keys=keys,
            derived=found,
            code=self._code,
            N=N,
            D=tokens,
            batch_tokens=B,
            lr=definition.key_of("lr"),
            seed_key=definition.key_of("seed"),
            expressions=definition.derived,
            size_keys=frozenset(self._size_keys(derived)),
            tag=tag,
        )

    def _special(self, values: Point) -> dict[str, Callable[[Derived], Value]]:
        """Return functions for the keys that follow from others in other ways than by
        expressions."""
        special: dict[str, Callable[[Derived], Value]] = {
            key: functools.partial(lambda value, _: value, values[key])
            for key in HORIZONS[1:]
            if key in values
        }
        if self._definition.count:
            special["N"] = self._counted
        if "tokens" not in self._definition.derived:
            special["tokens"] = lambda derived: self._tokens(values, derived)
        return special

    def _tokens(self, values: Point, derived: Derived) -> int:
        """Return D, in whole steps if the batch is known."""
        where = self._where
        if "tokens" in values:
            D = values["tokens"]
        else:
            horizon = next(key for key in HORIZONS if key in values)
            if "N" not in derived:
                raise ConfigError(
                    f"{where}: {horizon} sets D by way of N, which is not known beforehand. Give N "
                    "in [runner.derived], among the keys, or by `count`; or give tokens."
                )
            N = self._whole("N", derived.value("N"), where)
            D = (
                values[horizon] * N
                if horizon == "tokens_per_parameter"
                else (values[horizon] / (6 * N))
            )
        batch = self._definition.key_of("batch_tokens")
        if batch not in derived:
            return max(1, round(D))
        B = self._whole(batch, derived.value(batch), where)
        return max(1, round(D / B)) * B

    def _counted(self, derived: Derived) -> int:
        """Return N as the `count` command of the spec prints it."""
        definition = self._definition
        where = f"{self._where} count"
        names = {name for word in definition.count for name in placeholders(word)}
        values = {}
        for name in sorted(names):
            if name in PLACEHOLDERS:
                raise ConfigError(
                    f"{where}: {{{name}}} is not known before a run starts; only keys are."
                )
            if name not in derived:
                raise self._no_key(where, name, derived.names())
            values[name] = derived.value(name)
        env = {k: v for k, v in definition.runner.env.items() if not placeholders(v)}
        return self._counts.N(
            definition.count, values, workdir=definition.runner.workdir, env=env, where=where
        )

    def _N(self, keys: Mapping[str, Value], derived: Derived, where: str) -> int | None:
        """Return N if it is known beforehand. Raises ConfigError if it is given twice."""
        ways = [
            name
            for name, has in (
                ("[runner.derived]", "N" in self._definition.derived),
                ("count", bool(self._definition.count)),
                ("the keys", "N" in keys),
            )
            if has
        ]
        if len(ways) > 1:
            raise ConfigError(f"{where}: N is given by {' and by '.join(ways)}; keep one of them.")
        self._with_N.add(bool(ways))
        if len(self._with_N) > 1:
            raise ConfigError(
                f"{where}: N is known for some runs and not for others; give it for all of them."
            )
        return self._whole("N", derived.value("N"), where) if ways else None

    def _check_horizon(self, values: Point, where: str) -> None:
        given = [key for key in HORIZONS if key in values]
        derived = "tokens" in self._definition.derived
        if derived and given:
            raise ConfigError(
                f"{where}: {given[0]!r} and [runner.derived] tokens both set D; keep one of them."
            )
        if not given and not derived:
            raise ConfigError(
                f"{where}: the number of training tokens D is not known. Add tokens = ... to "
                '[base] or [axes] (or tokens_per_parameter, or flops), or tokens = "steps * '
                'batch_tokens", for example, to [runner.derived].'
            )

    @staticmethod
    def _whole(key: str, value: Value, where: str) -> int:
        """Return the value of a size."""
        if isinstance(value, bool | str) or value <= 0 or value % 1:
            raise ConfigError(f"{where}: {key}={value!r} must be a positive whole number.")
        return int(value)

    def _check_roles(self, derived: Derived, where: str) -> None:
        for role, key in self._definition.roles.items():
            if key not in derived:
                raise self._no_key(f"{where} [runner] roles: {role}", key, derived.names())

    def _size_keys(self, derived: Derived) -> set[str]:
        """Return the given keys that N and D depend on, the batch excepted."""
        found = derived.given_keys("tokens") | {*HORIZONS, "N"}
        if "N" in derived:
            found |= derived.given_keys("N")
        batch = self._definition.key_of("batch_tokens")
        return found - (derived.given_keys(batch) if batch in derived else set())

    # ---------------------------------------------------------------- placeholders

    @functools.cached_property
    def _uses(self) -> frozenset[str]:
        """Keys in the command, its environment, its count, and the expressions."""
        definition = self._definition
        texts = (*definition.command, *definition.count, *definition.runner.env.values())
        found = {name for text in texts for name in placeholders(text)}
        return frozenset(found.union(*map(names_in, definition.derived.values())))

    def _check_placeholders(self, values: dict[str, Value], where: str) -> None:
        """Raise ConfigError for a placeholder that is no key, or whose format does not fit."""
        runner = self._definition.runner
        texts = {f"{self._where} command": self._definition.command}
        texts |= {f"{self._where} env {name}": (text,) for name, text in runner.env.items()}
        known = frozenset(values)
        for place, words in texts.items():
            if known not in self._checked:
                for name in (name for word in words for name in placeholders(word)):
                    if name not in values and name not in PLACEHOLDERS:
                        raise self._no_key(place, name, sorted(values))
            try:
                filled_words(words, {**_EXAMPLES, **values})
            except ValueError as error:
                raise ConfigError(f"{place}={' '.join(words)!r}: {error}.") from None
        self._checked.add(known)

    @staticmethod
    def _no_key(place: str, name: str, keys: list[str]) -> ConfigError:
        near = difflib.get_close_matches(name, [*keys, *PLACEHOLDERS], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return ConfigError(
            f"{place}: no key {name!r}.{hint} Keys are {', '.join(keys) or 'none'}; every command "
            f"also knows {', '.join(PLACEHOLDERS)}. Write {{{{ and }}}} for braces."
        )

    def notes(self) -> tuple[str, ...]:
        """Return remarks about the runs made so far, one line each: keys that nothing uses, and
        variables that nothing replaces."""
        used = self._uses | {self._definition.key_of("seed"), "N", "tag"}
        unused = [repr(key) for key in self._seen if key not in used]
        notes = []
        if unused:
            which = f"the key {unused[0]}" if len(unused) == 1 else f"the keys {', '.join(unused)}"
            notes.append(f"the command does not use {which}; the runs have it as a label only")
        definition = self._definition
        words = [*unread(definition.command), *definition.runner.env.values()]
        if literal := next((word for word in words if _VARIABLE.search(word)), ""):
            notes.append(
                f"no shell reads {literal!r}, so it stays as it is; write the value, or "
                "['sh', '-c', '...'] as the command"
            )
        return tuple(f"[runner]: {note}" for note in notes)


# ------------------------------------------------------------------ columns of the table


@functools.cache
def _measured() -> frozenset[str]:
    """Return the columns of the table that no key may have."""
    return frozenset(
        column.name
        for column in COLUMNS
        if not column.is_config and column.name not in _KNOWN_SIZES
    )


@functools.cache
def _columns() -> dict[str, tuple[type, ...]]:
    """Return {column: types} of the columns whose values a key may give."""
    found: dict[str, tuple[type, ...]] = dict.fromkeys(_KNOWN_SIZES, (int,))
    for key, (hint, _) in fields_of().items():
        options = [t for t in typing.get_args(hint) if t is not type(None)] or [hint]
        plain = tuple(t for t in options if t in (int, float, bool, str))
        found[key.rpartition(".")[2]] = plain or (str,)
    return found


def _fits(value: Value, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool | str):
        return type(value) in types
    whole = value % 1 == 0 and abs(value) < _MOST
    return float in types or (int in types and whole)


def _in_words(types: tuple[type, ...]) -> str:
    names = {int: "whole numbers", float: "numbers", bool: "true or false", str: "text"}
    return " or ".join(names[each] for each in types)
