"""The environment of Ray for a sweep: a folder that is private to the user, and module paths."""

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
"""Characters of the folder's path at most: paths of sockets are up to 69 longer, and may have 107
in total."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for Ray, and remove it afterwards with those of processes that were killed.

    With its own folder, Ray never joins another cluster on this machine or a stale one. Ray opens
    the folder to everybody, so it lies in one that only this user can enter. Raises StoreError.
    """
    parent = _parent()
    try:
        # Without this lock another process could take a new folder for a stale one.
        with _held(parent) as held_alone:
            assert held_alone
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
    """Return this user's folder in the system's folder for temporary files."""
    name, below = f"scaling-{os.getuid()}", len("/sweep-12345678")
    path = Path(tempfile.gettempdir(), name)
    if len(str(path)) + below > _LONGEST:
        path = Path("/tmp", name)
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        # The parent is writable for everybody, so another user may have made a link first.
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
        f"{path}, the folder for Ray's files and sockets, {why}. Remove it, or set TMPDIR to "
        "one of your own folders with a short path; `--in-process` runs the sweep without Ray."
    )


@contextlib.contextmanager
def _held(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a folder for the block; False if another process has locked it.

    The lock ends with the process.
    """
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
    """Return a Ray job's configuration whose workers search `search_path` for modules first.

    By default they would search the current folder, where a file may have the name of a module.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):
        @property
        def _py_driver_sys_path(self) -> list[str]:
            # A copy, because Ray adds to it. Ray puts each folder before the previous one.
            return [*reversed(search_path)]

        @_py_driver_sys_path.setter
        def _py_driver_sys_path(self, folders: list[str]) -> None:
            pass

    return Job()


def script_folder() -> list[str]:
    """Return the folder of the running script, if the script finds its modules there."""
    folder = os.path.dirname(os.path.realpath(sys.argv[0]))
    return [folder] if folder in sys.path else []
