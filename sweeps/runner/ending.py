"""What the end of a command means, by its exit code and the last lines of its output."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from scaling.errors import out_of_memory
from scaling.files import open_regular
from scaling.training.result import Interrupted
from sweeps.runner.process import Ended
from sweeps.runner.runner import Failures

_TAIL_BYTES = 1 << 16
"""Bytes at the end of the output in which the reason of a failure is looked for."""

_LONGEST_WORDS = 300
"""Characters of a line of the output in a message."""

_SHELL_DIED = 128
"""Added by shells to the number of the signal that ended a command of theirs."""

_NOT_FOUND = 127

_USAGE = (2, 126, _NOT_FOUND)
"""Exit codes of a command that is not understood, not executable or not found: by the conventions
of shells and of argparse, trying again does not help."""


class CommandError(Exception):
    """A command has failed in a way that would repeat itself; the message says how."""


class Diverged(Exception):
    """A command has ended because its loss exploded."""


class Preempted(Interrupted):
    """A command was ended by somebody else, who needs its place."""


def failure(ended: Ended, failures: Failures, tail: Sequence[str]) -> Exception:
    """Return the exception for a command that has not ended well; `tail` is the end of its output.

    It is Diverged, MemoryError or Preempted; CommandError for a failure that would repeat itself;
    and ChildProcessError for any other.
    """
    code, kind = ended.code, declared(failures, ended.code)
    how = _how(code)
    words = f"{how}{last_words(tail)}"
    if kind is None:
        memory = _about_memory(tail, failures.memory)
        if memory or ended.oom:
            kind = "memory"
        elif code in (-signal.SIGTERM, _SHELL_DIED + signal.SIGTERM):
            kind = "preempted"
        elif code in (-signal.SIGKILL, _SHELL_DIED + signal.SIGKILL):
            words += "; perhaps it was ended for lack of memory"
        elif code in _USAGE:
            kind = "failed"
            words += "; a command in it was not found" if code == _NOT_FOUND else ""
    if kind == "diverged":
        return Diverged(words)
    if kind == "memory":
        why = _about_memory(tail, failures.memory) or "the kernel ended it"
        # scaling.errors.out_of_memory knows it by the name of the exception.
        return MemoryError(f"the command ran out of memory ({how}): {why[:_LONGEST_WORDS]}")
    if kind == "preempted":
        return Preempted(how)
    return CommandError(words) if kind == "failed" else ChildProcessError(words)


def declared(failures: Failures, code: int) -> str | None:
    """Return the meaning of an exit code as declared in the spec; None if it is not.

    A command that a signal ended has the code that a shell gives it, too.
    """
    codes = failures.exit_codes
    found = codes.get(str(code))
    return found or (codes.get(str(_SHELL_DIED - code)) if code < 0 else None)


def tail_of(log: Path, start: int = 0) -> list[str]:
    """Return the last lines of a log, at most those after `start` bytes."""
    try:
        with open_regular(log) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def last_words(tail: Sequence[str]) -> str:
    """Return what a command printed last, for a message."""
    return f"; its last line: {tail[-1][:_LONGEST_WORDS]}" if tail else "; it printed nothing"


def _about_memory(tail: Sequence[str], patterns: Iterable[str]) -> str:
    """Return the last line that says that memory ran out; '' if there is none."""
    own = "|".join(f"(?:{pattern})" for pattern in patterns)
    for line in reversed(tail):
        if out_of_memory(line) or (own and re.search(own, line)):
            return line
    return ""


def _how(code: int) -> str:
    number = -code if code < 0 else code - _SHELL_DIED
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit code {code}"
    return f"ended by {name}" if code < 0 else f"exit code {code} ({name})"
