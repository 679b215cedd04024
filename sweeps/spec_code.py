"""Code that a spec names: files with model families and laws, and the command of [runner].

It is executed only if the user trusts it: files beside the spec, the command of a spec in the
current folder, and what `--allow-code` names.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scaling import files as scaling_files
from scaling import size
from scaling.errors import ConfigError
from sweeps.runner.parse import Definition
from sweeps.spec_values import Point


def code_files(text: str, path: Path, changes: Point, allowed: Sequence[str]) -> list[Path]:
    """Return the files of code that a spec names, and allow them to be executed from now on.

    Raises ConfigError for a file outside the spec's folder that is not `allowed`.
    """
    try:
        named = [*_code(tomllib.loads(text)), *_code(changes)]
    except (ValueError, RecursionError):  # reported when the spec is read
        return []
    known = {scaling_files.code_file(file) for file in allowed}
    files = []
    for reference in named:
        file = scaling_files.code_file(reference)
        if not (file in known or file.is_relative_to(path.parent.resolve())):
            raise ConfigError(
                f"{path}, or a change to it, names code outside its own folder: {reference!r} is "
                f"{file}. Read that file; to allow it, add --allow-code {shlex.quote(str(file))}."
            )
        size.allow(reference)
        files.append(file)
    return list(dict.fromkeys(files))


def names_command(path: Path) -> bool:
    """Return whether the spec at `path` has the table [runner]; False if it cannot be read."""
    try:
        return "runner" in tomllib.loads(scaling_files.read_text(path))
    except (OSError, ValueError, RecursionError):  # reported when the spec is read
        return False


def check_trust(definition: Definition, path: Path, bundled: Path, allowed: Sequence[str]) -> bool:
    """Return whether the commands of the spec at `path` may run only because `allowed` names it.

    They may as well if the spec lies in the current folder or in that of the `bundled` specs.
    Raises ConfigError, which shows the commands, if they may not.
    """
    file = path.resolve()
    if file.parent in (Path.cwd(), bundled.resolve()):
        return False
    if file in {scaling_files.code_file(each) for each in allowed}:
        return True
    commands = [shlex.join(words) for words in (definition.command, definition.count) if words]
    variables = [f"{name}={shlex.quote(value)}" for name, value in definition.runner.env.items()]
    with_env = f" with {' '.join(variables)}" if variables else ""
    raise ConfigError(
        f"{path} lies outside the current folder and runs a command of its own: "
        f"`{'` and `'.join(commands)}` in {definition.runner.workdir}{with_env}. If you "
        f"trust it, add --allow-code {shlex.quote(str(path))}."
    )


def _code(value: Any, key: str = "") -> Iterator[str]:
    """Yield every family and law, at any depth, that is code in a file, such as 'my.py:Name'."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _code(item, str(inner))
    elif isinstance(value, list):
        for item in value:
            yield from _code(item, key)
    elif isinstance(value, str) and key.rpartition(".")[2] in ("family", "law") and ".py" in value:
        yield value
