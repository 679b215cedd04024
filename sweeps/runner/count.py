"""Model sizes N that a command of the spec prints."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from scaling import progress
from scaling.command_run import Value
from scaling.errors import ConfigError
from sweeps.runner.process import environment
from sweeps.runner.shell import filled_words

_SECONDS = 120.0
"""Time limit of a count."""

_LAST_BYTES = 64 * 1024
"""Bytes at the end of the output that are read."""

_SHOWN_LINES = 5

_NUMBER = re.compile(r"(?<![\w.])\d[\d_,]*(?:\.\d+)?(?:[eE][+-]?\d+)?(?!\.?\w)")


class Counts:
    """Sizes by the command that prints them; each different command is executed once."""

    def __init__(self, known: Mapping[str, int], *, may_execute: bool) -> None:
        """`known` are those of earlier calls, {command: N}."""
        self.known = dict(known)
        self._may_execute = may_execute

    def N(
        self,
        words: tuple[str, ...],
        values: Mapping[str, Value],
        *,
        workdir: Path,
        env: Mapping[str, str],
        where: str,
    ) -> int:
        """Return the N that the command with these words prints. Raises ConfigError."""
        try:
            command = filled_words(words, values)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}.") from None
        text = shlex.join(command)
        if text not in self.known:
            if not self._may_execute:
                raise ConfigError(
                    f"{where}: the N that {text!r} prints is not recorded here; only `scaling "
                    "sweep` executes it."
                )
            progress.step("counting parameters", text)
            self.known[text] = _counted(command, text, workdir, env, where)
        return self.known[text]


def _counted(
    command: list[str], text: str, workdir: Path, env: Mapping[str, str], where: str
) -> int:
    """Execute a command and return the last number of its output."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=workdir,
                env={**environment(), **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{where}: {text!r} cannot be executed in {workdir}: {error}."
            ) from None
        try:
            code = process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise ConfigError(
                f"{where}: {text!r} did not end within {_SECONDS:g} s; it must only count."
            ) from None
        finally:
            _end(process)
        printed, complaint = _end_of(output), _end_of(errors)
    if code:
        said = " | ".join((complaint or printed).strip().splitlines()[-_SHOWN_LINES:])
        raise ConfigError(f"{where}: {text!r} ended with exit code {code}: {said or 'no output'}")
    numbers = _NUMBER.findall(printed)
    if not numbers:
        said = " | ".join(printed.strip().splitlines()[-_SHOWN_LINES:])
        raise ConfigError(
            f"{where}: {text!r} printed no number; its last number is taken as N. It printed: "
            f"{said or 'nothing'}"
        )
    N = float(numbers[-1].replace(",", "").replace("_", ""))
    if not 0 < N < 2**63 or N % 1:
        raise ConfigError(f"{where}: {text!r} printed {numbers[-1]}, which is not a size N.")
    return int(N) if "e" in numbers[-1].lower() or "." in numbers[-1] else _whole(numbers[-1])


def _whole(digits: str) -> int:
    return int(digits.replace(",", "").replace("_", ""))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a command's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_of(file: BinaryIO) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LAST_BYTES))
    return file.read().decode(errors="replace")
