"""Start Ray for a sweep, in a folder that is private to the user and with safe module paths."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scaling import interpreter
from sweeps import gpus
from sweeps.errors import StoreError

_LONGEST = 38
"""Maximum length of the folder's path: paths of sockets are up to 69 characters longer and may have
107 in total."""


def start_ray(cpus: int, folder: Path) -> None:
    """Start Ray on this machine with `cpus` CPUs; its files and sockets lie in `folder`.

    Raises StoreError if it does not start.
    """
    import ray

    try:
        with own_sigterm():
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=len(gpus.visible()) or None,  # Ray counts a GPU in MIG instances as one
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                job_config=job_config(interpreter.search_path()),
                object_store_memory=100 << 20,
                _temp_dir=str(folder),
            )
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise StoreError(
            f"Ray did not start: {str(error).strip().splitlines()[0]} (its log is ray.log in the "
            "results folder). `--in-process` runs the sweep without Ray."
        ) from error


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Restore the handler of SIGTERM, which ray.init() replaces by one that ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # Ray sets a handler only in the main thread
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Create a folder for Ray. Remove it afterwards, along with those of killed processes.

    In its own folder, Ray never joins a stale cluster or another one on this machine. Ray gives
    everybody access to the folder, so it lies in one that only this user can enter. Raises
    StoreError.
    """
    parent = _parent()
    try:
        # Without this lock, another process could mistake a new folder for a stale one.
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
    """Return this user's folder within the system's folder for temporary files."""
    name, below = f"scaling-{os.getuid()}", len("/sweep-12345678")
    path = Path(tempfile.gettempdir(), name)
    if len(str(path)) + below > _LONGEST:
        path = Path("/tmp", name)
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        # The parent is world-writable, so another user may have created a link first.
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
    """Lock a folder within the block; yield False if another process has locked it.

    The lock is released when the process ends.
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
    """Return the configuration of a Ray job whose workers search `search_path` for modules first.

    By default they would search the current folder, where a file may bear the name of a module.
    """
    from ray.job_config import JobConfig

    class Job(JobConfig):
        @property
        def _py_driver_sys_path(self) -> list[str]:
            # Copied, because Ray adds to it. Ray puts each folder before the previous one.
            return [*reversed(search_path)]

        @_py_driver_sys_path.setter
        def _py_driver_sys_path(self, folders: list[str]) -> None:
            pass

    return Job()


def script_folder() -> list[str]:
    """Return the folder of the running script, if the script finds its modules there."""
    folder = os.path.dirname(os.path.realpath(sys.argv[0]))
    return [folder] if folder in sys.path else []
