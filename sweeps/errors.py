"""Exceptions of a sweep, and error messages in one line."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from scaling.errors import out_of_memory

_OTHER_FOLDER = "choose another folder with --results."
_HINTS = {
    errno.ENOSPC: "the disk is full; free some space and start again: finished runs are kept.",
    errno.EDQUOT: "the disk quota is used up; free some space and start again: finished runs are "
    "kept.",
    errno.EROFS: f"the file system is read-only; {_OTHER_FOLDER}",
    errno.EACCES: f"no permission; {_OTHER_FOLDER}",
    errno.EPERM: f"no permission; {_OTHER_FOLDER}",
    errno.ENOTDIR: f"a file is where a folder should be; {_OTHER_FOLDER}",
    errno.EEXIST: f"a file is where a folder should be; {_OTHER_FOLDER}",
}
"""Advice on a system error, by error number."""


class StoreError(ValueError):
    """A results folder cannot be used or written. The message names the file and what to do."""


class Stopped(KeyboardInterrupt):
    """The sweep was stopped by Ctrl-C or SIGTERM. Finished runs are kept, and it can be resumed."""


class BudgetSpent(Stopped):
    """Some runs could not start within the budget."""


def why(error: OSError) -> str:
    """Return what the system refused, and what to do."""
    if error.errno == errno.ELOOP and error.filename:
        return (
            f"{error.filename}: {error.strerror}. Put a folder or file of its own there, or "
            f"{_OTHER_FOLDER}"
        )
    if error.errno == errno.EISDIR and error.filename:
        return f"{error.filename}: a folder is where a file should be; {_OTHER_FOLDER}"
    return _HINTS.get(error.errno or 0, f"{error.strerror or error}.")


@contextlib.contextmanager
def writing(path: Path | str, what: str = "written") -> Iterator[None]:
    """Turn an OSError of the block into a StoreError that names `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ValueError):
            raise
        raise StoreError(f"{path} cannot be {what}: {why(error)}") from None


def headline(error: str) -> str:
    """Return the most informative line of an error, without the folders of absolute paths.

    This is the last line of a traceback, else the line about memory if that ran out, else the
    first. The names of this package's and of Ray's exceptions are left out.
    """
    lines = error.strip().splitlines() or ["no message"]
    if "Traceback (most recent call last)" in error:
        line = lines[-1]
    else:
        line = next((line.strip() for line in lines if out_of_memory(line)), lines[0])
    line = re.sub(r"^(?:scaling|sweeps|ray)\.[\w.]+: ", "", line)
    return re.sub(r"(?<![\w./])/(?:[^\s/'\":]+/)+", "", line)
