"""What Ray is given for a sweep: a folder that no other user can enter, and where to find modules."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sweeps.errors import StoreError

_LONGEST = 38
"""Characters of the folder's path: those of sockets lie up to 69 below it, and may have 107."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of its own for Ray, so that neither another cluster on this machine nor a stale one is
    ever joined. Removed in the end, together with those of processes that were killed.

    Ray opens it to everybody; it lies in one that only this user can enter. Raises StoreError.
    """
    parent = _parent()
    try:
        with _held(parent) as alone:  # or another process could take a new folder for a stale one
            assert alone
            for stale in parent.glob("sweep-*"):
                with contextlib.suppress(OSError), _held(stale, wait=False) as gone:
                    if gone:
                        shutil.rmtree(stale, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix="sweep-", dir=parent))
            held = contextlib.ExitStack()
            held.enter_context(_held(folder))
    except OSError as error:
        raise _refused(parent, f"cannot be used: {error.strerror or error}") from None
    with held:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _parent() -> Path:
    """The folder of this user in the system's folder for temporary files."""
    name, below = f"scaling-{os.getuid()}", len("/sweep-12345678")
    path = Path(tempfile.gettempdir(), name)
    if len(str(path)) + below > _LONGEST:
        path = Path("/tmp", name)
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        # Whoever was first in a folder that all may write could have made a link.
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise _refused(path, "is not a folder of this user")
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise _refused(path, f"cannot be made: {error.strerror or error}") from None
    return path


def _refused(path: Path, why: str) -> StoreError:
    return StoreError(
        f"{path}, where Ray's files and sockets are to be, {why}. Remove it, or set TMPDIR to a folder of "
        "your own with a short path; `--in-process` runs the sweep without Ray."
    )


@contextlib.contextmanager
def _held(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a folder for the block; False where another process has it locked. Ends with the process."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def job_config(search_path: Sequence[str]) -> Any:
    """The configuration of a job of Ray whose workers look for modules in `search_path` first.

    Ray itself would have them look in the current folder, where a file may have the name of a module.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):
        @property
        def _py_driver_sys_path(self) -> list[str]:
            return [*reversed(search_path)]  # a copy: Ray adds to it; each is put before the last

        @_py_driver_sys_path.setter
        def _py_driver_sys_path(self, folders: list[str]) -> None:
            pass

    return Job()


def script_folder() -> list[str]:
    """Where the script that runs finds its own modules; none where it does not."""
    folder = os.path.dirname(os.path.realpath(sys.argv[0]))
    return [folder] if folder in sys.path else []
