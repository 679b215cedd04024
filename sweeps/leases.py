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
from typing import NamedTuple, TextIO

from scaling import files
from sweeps.errors import StoreError, writing

MARK = "SCALING_SLURM_SCRIPT"
"""Environment variable that the scripts of --slurm set."""

_LINE = re.compile(
    r"process ([1-9][0-9]{0,9}) on ([^,\n]+)(?:, Slurm job ([0-9]+(?:_[0-9]+)?))?(, sharing)?\n"
)
"""Content of a lock file."""


class Holder(NamedTuple):
    """The process that holds a lock."""

    pid: int
    host: str
    job: str = ""
    """Id of the Slurm job that the process belongs to, such as 17 or 17_3 in an array."""
    sharing: bool = False
    """Whether the process shares the sweep, and holds the lock only for a moment."""

    def __str__(self) -> str:
        job = f" (Slurm job {self.job})" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


def take(
    path: Path, shown: Path | str, patience: float = 0.0, *, sharing: bool = False
) -> TextIO | None:
    """Return the lock file, locked until it is closed; None if another process holds the lock.

    Waits up to `patience` seconds for that process to release it. `shown` is the file's name in
    messages, `sharing` is noted in it. Raises StoreError if the file cannot be locked at all.
    """
    deadline = time.monotonic() + patience
    while (lease := _try(path, shown, sharing)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return lease


def _try(path: Path, shown: Path | str, sharing: bool) -> TextIO | None:
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
        job = f", Slurm job {job}" if (job := slurm_job()) else ""
        note = ", sharing" if sharing else ""
        file.write(f"process {os.getpid()} on {socket.gethostname()}{job}{note}\n")
        file.flush()
    return file


def locked(path: Path) -> bool:
    """Return whether some process holds the lock now. Checking takes a shared lock briefly."""
    return files.locked(path)


def holder(path: Path) -> Holder | None:
    """Return the process that holds the lock now; None if none does."""
    if not locked(path):
        return None
    try:
        found = _LINE.fullmatch(files.read_text(path))
    except (OSError, ValueError):
        return None
    if found is None or int(found[1]) >= 2**31:
        return None
    return Holder(int(found[1]), found[2], found[3] or "", found[4] is not None)


def slurm_job() -> str:
    """Return the id of the Slurm job whose script (sweeps.slurm.script) started this process; empty
    if none did."""
    if MARK not in os.environ:
        return ""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID", "") for name in ("JOB", "TASK"))
    if array.isdecimal() and task.isdecimal():
        return f"{array}_{task}"
    job = os.environ.get("SLURM_JOB_ID", "")
    return job if job.isdecimal() else ""
