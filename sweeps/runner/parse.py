"""Reads the table [runner] of a spec.

[runner]
command = "python train.py --depth {depth} --lr {lr} --max-iters {steps} --out {folder}"
code = ["train.py", "model.py"]         # a change of these files makes new runs
workdir = "."                           # relative to the spec's folder
env = { OMP_NUM_THREADS = "{threads}" }
timeout_hours = 2.0
grace_seconds = 20                      # between SIGTERM and SIGKILL
count = "python train.py --depth {depth} --count-only"  # prints N as its last number

[runner.derived]                        # expressions in keys (sweeps/runner/expressions.py)
N = "12 * depth * (64 * depth)**2"
steps = "tokens / batch_tokens"

[runner.roles]                          # keys with other names than lr, batch_tokens and seed
lr = "learning_rate"

[runner.resources]
cpus = 1
gpus = 0.5
nodes = 1

[runner.results]                        # fields of Sources
[runner.failures]                       # fields of Failures
"""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError
from sweeps.runner.expressions import NotArithmetic, names_in
from sweeps.runner.runner import Failures, Runner, Sources, placeholders

ROLES = ("lr", "batch_tokens", "seed")
"""Parts that keys play in a sweep; each key has the name of its part unless [runner.roles] says
otherwise."""

TRACKERS = ("wandb", "tensorboard", "mlflow")
ENDINGS = ("diverged", "memory", "preempted", "failed")
"""What an exit code may stand for."""

_PLAIN = (
    "command", "code", "workdir", "env", "timeout_hours", "grace_seconds", "log_bytes", "count",
)  # fmt: skip
_TABLES = ("derived", "roles", "resources", "results", "failures")
_RESOURCES = ("cpus", "gpus", "nodes")

_SHELL_WORDS = ("|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1", "&>")
_LARGEST = 1e12


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A table [runner], checked as far as it can be without the keys of its runs."""

    command: tuple[str, ...]
    code: tuple[str, ...] = ()
    """Files that identify the runs, relative to `folder`."""
    count: tuple[str, ...] = ()
    """Words of the command that prints N; empty if there is none."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """{key: expression}."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """{part: key}, as far as the spec gives them."""
    folder: Path
    """Folder of the spec."""
    runner: Runner

    def key_of(self, role: str) -> str:
        """Return the name of the key that plays a part."""
        return self.roles.get(role, role)


def definition_of(table: dict[str, Any], where: str, folder: Path) -> Definition:
    """Return the checked table [runner] of a spec that lies in `folder`. Raises ConfigError."""
    _known(table, (*_PLAIN, *_TABLES), where)
    if "command" not in table:
        raise ConfigError(
            f"{where}: 'command' is missing: command = \"python train.py --lr {{lr}} ...\""
        )
    tables = {name: _table(table.get(name, {}), f"{where} {name}") for name in _TABLES}
    return Definition(
        command=words(table["command"], f"{where} command"),
        code=_texts(table.get("code", []), f"{where} code"),
        count=words(table["count"], f"{where} count") if "count" in table else (),
        derived=_derived(tables["derived"], f"{where} derived"),
        roles=_roles(tables["roles"], f"{where} roles"),
        folder=folder,
        runner=_runner(table, tables, where, folder),
    )


def words(value: Any, where: str) -> tuple[str, ...]:
    """Return the words of a command, given as text or as a list of words. Raises ConfigError."""
    if isinstance(value, str):
        try:
            found = shlex.split(value.replace("\\\n", " "))
        except ValueError as error:
            raise ConfigError(f"{where}={value!r}: {error}; close the quotes.") from None
        if shell := [word for word in found if word in _SHELL_WORDS]:
            raise ConfigError(
                f"{where}={value!r}: {shell[0]!r} is a word of a shell, but no shell reads this "
                "command. Give a list of words: ['sh', '-c', '...']."
            )
        if found and re.match(r"[A-Za-z_]\w*=", found[0]):
            raise ConfigError(
                f"{where}={value!r} begins with a variable; give it in [runner] env: env = "
                f"{{ {found[0].partition('=')[0]} = ... }}."
            )
    else:
        found = list(_texts(value, where))
    if not found or not found[0]:
        raise ConfigError(f"{where}={value!r} is empty.")
    for word in found:
        check_text(word, where)
    return tuple(found)


def check_text(text: str, where: str) -> None:
    """Raise ConfigError for a text with placeholders that a process cannot be given."""
    if "\0" in text:
        raise ConfigError(f"{where}: {text!r} contains a NUL character.")
    try:
        placeholders(text)
    except ValueError as error:
        raise ConfigError(
            f"{where}: {text!r}: {error}. A placeholder is {{name}}; write {{{{ and }}}} for "
            "braces."
        ) from None


def _runner(
    table: dict[str, Any], tables: Mapping[str, dict[str, Any]], where: str, folder: Path
) -> Runner:
    resources, values = tables["resources"], {}
    _known(resources, _RESOURCES, f"{where} resources")
    for name, least in (("cpus", 0.0), ("gpus", -1.0)):
        if name in resources:
            values[name] = float(_number(resources[name], f"{where} resources.{name}", least))
    gpus = values.get("gpus", 0.0)
    if gpus < 0 or (gpus > 1 and gpus % 1):
        raise ConfigError(
            f"{where} resources.gpus={gpus:g} must be a fraction of one GPU or a whole number."
        )
    if "nodes" in resources:
        values["nodes"] = _whole(resources["nodes"], f"{where} resources.nodes")
    if "timeout_hours" in table:
        hours = _number(table["timeout_hours"], f"{where} timeout_hours", 0)
        values["timeout_seconds"] = 3600.0 * hours
    if "grace_seconds" in table:
        grace = _number(table["grace_seconds"], f"{where} grace_seconds", -1)
        if grace < 0:
            raise ConfigError(f"{where} grace_seconds={grace:g} must not be negative.")
        values["grace_seconds"] = float(grace)
    if "log_bytes" in table:
        values["log_bytes"] = _whole(table["log_bytes"], f"{where} log_bytes")
    workdir = _text(table.get("workdir", "."), f"{where} workdir")
    return Runner(
        workdir=_folder(folder, workdir, f"{where} workdir"),
        env=_env(_table(table.get("env", {}), f"{where} env"), f"{where} env"),
        results=_sources(tables["results"], f"{where} results"),
        failures=_failures(tables["failures"], f"{where} failures"),
        **values,
    )


def _folder(beside: Path, name: str, where: str) -> Path:
    try:
        return (beside.absolute() / Path(name).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # unknown user; a loop of links
        raise ConfigError(f"{where}={name!r} cannot be used: {error}") from None


def _env(table: dict[str, Any], where: str) -> dict[str, str]:
    found = {}
    for name, value in table.items():
        if not name or "=" in name or "\0" in name:
            raise ConfigError(f"{where}: {name!r} cannot be the name of a variable.")
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        found[name] = _text(value, f"{where} {name}")
        check_text(found[name], f"{where} {name}")
    return found


def _sources(table: dict[str, Any], where: str) -> Sources:
    _known(table, tuple(f.name for f in fields(Sources)), where)
    values: dict[str, Any] = {}
    for name, value in table.items():
        here = f"{where}.{name}"
        if name == "stdout":
            if not isinstance(value, bool):
                raise ConfigError(f"{here}={value!r} must be true or false.")
            values[name] = value
        elif name in ("log", "columns"):
            values[name] = {
                key: _text(item, f"{here} {key}") for key, item in _table(value, here).items()
            }
        else:
            values[name] = _text(value, here)
    for column, pattern in values.get("log", {}).items():
        compiled = _pattern(pattern, f"{where}.log {column}")
        if column == "*" and not compiled.groupindex:
            raise ConfigError(
                f'{where}.log "*"={pattern!r} needs groups with the names of columns, such as '
                "(?P<L>[0-9.]+)."
            )
        if column != "*" and not compiled.groups:
            raise ConfigError(
                f"{where}.log {column}={pattern!r} needs a group around the value, such as "
                "([0-9.]+)."
            )
    tracker = values.get("tracker", "")
    if tracker and tracker not in TRACKERS:
        near = difflib.get_close_matches(tracker, TRACKERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{where}.tracker={tracker!r} is none of {', '.join(TRACKERS)}.{hint}")
    return Sources(**values)


def _failures(table: dict[str, Any], where: str) -> Failures:
    _known(table, tuple(f.name for f in fields(Failures)), where)
    values: dict[str, Any] = {}
    for name in ("diverged", "memory"):
        if name in table:
            given = [table[name]] if isinstance(table[name], str) else table[name]
            values[name] = _texts(given, f"{where}.{name}")
            for pattern in values[name]:
                _pattern(pattern, f"{where}.{name}")
    codes = {}
    for code, ending in _table(table.get("exit_codes", {}), f"{where}.exit_codes").items():
        if not re.fullmatch(r"-?\d{1,3}", code) or not -64 <= int(code) <= 255:
            raise ConfigError(f"{where}.exit_codes: {code!r} is not an exit code, 0 to 255.")
        if ending not in ENDINGS:
            raise ConfigError(
                f"{where}.exit_codes {code}={ending!r} is none of {', '.join(ENDINGS)}."
            )
        codes[code] = ending
    return Failures(**values, exit_codes=codes)


def _derived(table: dict[str, Any], where: str) -> dict[str, str]:
    found = {}
    for key, value in table.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = repr(value)
        found[key] = _text(value, f"{where} {key}")
        try:
            names_in(found[key])
        except NotArithmetic as error:
            raise ConfigError(f"{where} {key}={value!r}: {error}.") from None
    return found


def _roles(table: dict[str, Any], where: str) -> dict[str, str]:
    _known(table, ROLES, where)
    return {role: _text(key, f"{where} {role}") for role, key in table.items()}


# ------------------------------------------------------------------ values


def _known(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(names)}."
            raise ConfigError(f"{where}: unknown key {key!r}. {hint}")


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}={value!r} must be a table.")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}={value!r} must be text.")
    if "\0" in value:
        raise ConfigError(f"{where}={value!r} contains a NUL character.")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where}={value!r} must be a list of texts.")
    return tuple(_text(item, where) for item in value)


def _number(value: Any, where: str, least: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and least < value < _LARGEST):
        raise ConfigError(f"{where}={value!r} must be a positive number.")
    return value


def _whole(value: Any, where: str) -> int:
    if type(value) is not int or not 0 < value < _LARGEST:
        raise ConfigError(f"{where}={value!r} must be a whole number of at least 1.")
    return value


def _pattern(pattern: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{where}={pattern!r} is not a regular expression: {error}.") from None
