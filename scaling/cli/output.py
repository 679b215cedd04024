"""What a command prints: results on standard output, notes and errors on standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError
from scaling.text import printable


def show(*said: object) -> None:
    """Print texts, which may hold what anyone has written, a line each."""
    print(*map(printable, said), sep="\n")


def show_json(value: Any) -> None:
    from scaling.jsonable import finite

    print(json.dumps(finite(value), indent=2, allow_nan=False))


def say(message: str) -> None:
    line = printable(masked(message.strip())).replace("\n", "\\n")
    try:
        print(f"scaling: {line}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads it; what is left in the buffer must not fail again at the end
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def note(message: Warning | str, *_: Any) -> None:
    """A warning without the path and source line that Python would print beside it."""
    say(f"note: {message}")


def note_code(file: Path) -> None:
    """Name a file of the user's own whose code is about to run."""
    note(f"running code from {file}")


def masked(text: str) -> str:
    """The text without the credentials of URIs."""
    if "://" not in text:
        return text
    from sweeps.remote import masked

    return masked(text)


def check_one_format(json: bool, latex: bool) -> None:
    if json and latex:
        raise ConfigError("--json and --latex are two formats of one answer; give one of them.")
