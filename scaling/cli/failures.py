"""Messages for exceptions: one line for a user error, a report file for a bug."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.cli.doctor import version
from scaling.cli.output import masked
from scaling.errors import one_line, out_of_memory
from scaling.extras import EXTRAS, missing

BUG = 70
"""Exit code for a bug in this package (EX_SOFTWARE of sysexits.h)."""


def mistake(error: Exception) -> str | None:
    """Return the message for an error of the command, the data or the machine; None for a bug."""
    if isinstance(error, MemoryError | RuntimeError) and out_of_memory(error):
        return f"out of memory: {one_line(error)} Use a smaller model or batch_tokens."
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."
    if isinstance(error, ModuleNotFoundError) and (name := error.name) in EXTRAS:
        return missing(name)
    # Our own ValueErrors are written for the user; anything else is a bug.
    ours = type(error).__module__.partition(".")[0] in ("scaling", "sweeps", "analysis")
    return str(error) if isinstance(error, ValueError) and ours else None


def report_bug(error: Exception, arguments: Sequence[str]) -> str:
    """Write the traceback of `error` to a file that only its owner can read; return a message."""
    import platform
    import shlex
    import tempfile
    import traceback

    first_line = str(error).partition("\n")[0]
    what = f"{type(error).__name__}{f': {first_line}' if first_line else ''}"
    text = (
        f"scaling {shlex.join(arguments)}\n"
        f"scaling-laws-lab {version()}, Python {platform.python_version()}, {platform.platform()}\n"
        f"\n{''.join(traceback.format_exception(error))}"
    )
    try:
        number, path = tempfile.mkstemp(prefix="scaling-bug-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(masked(text))
    except OSError as why:
        why_not = why.strerror or why
        where = f"its traceback cannot be written ({why_not}); SCALING_DEBUG=1 prints it"
    else:
        where = f"its traceback is in {path}"
    return f"{what[:300]}. This is a bug; {where}."
