"""Locks that show which process works on a sweep or a run. They end with their process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import time
from pathlib import Path
from typing import TextIO

from scaling import files
from sweeps.errors import StoreError, writing


def take(path: Path, shown: Path | str, patience: float = 0.0) -> TextIO | None:
    """Return the lock file, locked until it is closed; None if another process holds the lock.

    Waits up to `patience` seconds for that process to release it. `shown` is the file's name in
    messages. Raises StoreError if the file cannot be locked at all.
    """
    deadline = time.monotonic() + patience
    while (lease := _try(path, shown)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return lease


def _try(path: Path, shown: Path | str) -> TextIO | None:
    with writing(shown):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = files.open_to_append(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise StoreError(
            f"{shown} cannot be locked ({error.strerror}); keep results on a file system that "
            "supports flock."
        ) from None
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file


def locked(path: Path) -> bool:
    """Return whether some process holds the lock now. Checking takes a shared lock briefly."""
    return files.locked(path)


def holder(path: Path) -> tuple[int, str] | None:
    """Return (pid, host) of the process that holds the lock now; None if none does."""
    if not locked(path):
        return None
    try:
        found = re.fullmatch(r"process ([1-9][0-9]{0,9}) on (.+)\n", files.read_text(path))
    except (OSError, ValueError):
        return None
    return (int(found[1]), found[2]) if found and int(found[1]) < 2**31 else None
