"""What a command prints: results on standard output, notes and errors on standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling import progress
from scaling.errors import ConfigError
from scaling.text import printable


def show(*texts: object) -> None:
    """Print texts to standard output, with control characters escaped."""
    with progress.other_output():
        print(*map(printable, texts), sep="\n")


def show_json(value: Any) -> None:
    """Print a value as JSON to standard output; NaN and infinity become null."""
    from scaling.jsonable import finite

    with progress.other_output():
        print(json.dumps(finite(value), indent=2, allow_nan=False))


def say(message: str) -> None:
    """Print one line to standard error, with control characters escaped and credentials masked."""
    line = printable(masked(message.strip())).replace("\n", "\\n")
    try:
        with progress.other_output():
            print(f"scaling: {line}", file=sys.stderr, flush=True)
    except OSError:  # standard error is closed; flushing its buffer at exit must not fail again
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def note(message: Warning | str, *_: Any) -> None:
    """Print a warning without the path and source line that Python would add."""
    say(f"note: {message}")


def each_note_once() -> Callable[..., None]:
    """Return a function that prints each different note once, for a command that reads its table
    several times."""
    printed: set[str] = set()

    def show_note(message: Warning | str, *rest: Any) -> None:
        if str(message) not in printed:
            printed.add(str(message))
            note(message, *rest)

    return show_note


def note_code(file: Path) -> None:
    """Announce that code from a user's file is about to run."""
    note(f"running code from {file}")


def masked(text: str) -> str:
    """Return the text with the credentials of its URIs masked."""
    if "://" not in text:
        return text
    from sweeps.remote import masked

    return masked(text)


def check_one_format(json: bool, latex: bool) -> None:
    """Raise ConfigError if two output formats are requested."""
    if json and latex:
        raise ConfigError("--json and --latex exclude each other; give one of them.")
