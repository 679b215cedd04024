"""Untrusted files and folders: safe reading, atomic writes, removal, and the cache folder.

Only regular files are read: reading a pipe could block forever, and a device such as /dev/zero has
no end. Writing and deleting never follow symbolic links.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from scaling.errors import ConfigError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# UTF-32 comes first, because its little-endian mark begins with that of UTF-16.
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class EncodingError(ValueError):
    """Text is not UTF-8. The message completes the sentence "<file> is ..."."""


def check_regular(path: str | Path) -> None:
    """Raise OSError if `path` is missing or is not a regular file (or a link to one)."""
    _check(os.stat(path).st_mode, path)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read bytes, without ever blocking.

    Raises OSError as open does. For a pipe, socket or device, errno is EINVAL and strerror says
    what kind of file it is.
    """
    try:
        # Without O_NONBLOCK, open() waits for a process that writes to the pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket cannot be opened
            check_regular(path)
        raise
    try:
        _check(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path) -> bytes:
    """Return the bytes of a regular file. Raises OSError as :func:`open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """Return the text of a regular UTF-8 file, without byte order mark and with '\\n' as line ends.

    Raises OSError as :func:`open_regular` does, and EncodingError if the file is not UTF-8.
    """
    return decode(read_bytes(path)).replace("\r\n", "\n").replace("\r", "\n")


def read_object(path: str | Path) -> dict[str, Any] | None:
    """Return the object in a JSON file of any origin; None if it is missing or not an object."""
    try:
        values = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def locked(path: str | Path) -> bool:
    """Return whether some process holds a lock on the file now; False if there is no file.

    Checking takes a shared lock briefly.
    """
    import fcntl

    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def decode(data: bytes) -> str:
    """Decode UTF-8, without its byte order mark.

    Raises EncodingError, which names the encoding if the data begins with the mark of another one.
    """
    _check_mark(data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EncodingError(
            f"not UTF-8 text (byte {error.start}); convert it, say with iconv"
        ) from None


def check_utf8(path: str | Path) -> None:
    """Check a file that another library is going to read as UTF-8 text.

    Raises OSError as :func:`open_regular` does, and EncodingError if the file begins with the mark
    of another encoding.
    """
    with open_regular(path) as file:
        _check_mark(file.read(4))


def _check_mark(data: bytes) -> None:
    for mark, name in _OTHER_MARKS:
        if data.startswith(mark):
            raise EncodingError(
                f"not UTF-8 text but {name} (by its byte order mark); convert it, say with "
                f"iconv -f {name} -t UTF-8"
            )


def _check(mode: int, path: str | Path) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
    raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


# ------------------------------------------------------------------ writing and removing


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file so that it exists in full or not at all. Raises OSError.

    With `sync`, the file is on the disk when this returns.
    """
    with replacing(path) as (temporary,):
        write_new(temporary, data, sync=sync)
    if sync:
        _sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file and its name are on the disk. Raises OSError.

    Of many files written shortly before, the first takes most of the time.
    """
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[list[Path]]:
    """Yield a temporary path for each of `paths`; the files written there replace them at the end.

    The temporary files lie beside the paths and are called `.<name>.<pid>`. If the block raises,
    `paths` stay as they were.
    """
    temporary = [path.with_name(f".{path.name}.{os.getpid()}") for path in paths]
    try:
        for path in temporary:
            path.unlink(missing_ok=True)  # left by a killed process or by anybody else
        yield temporary
        for new, path in zip(temporary, paths, strict=True):
            os.replace(new, path)
    except BaseException:
        for path in temporary:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def write_new(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a new file in place of whatever bears its name. Raises OSError.

    A link of that name is not followed, and a pipe does not block. With `sync`, the file is on
    the disk when this returns.
    """
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def open_to_append(path: Path) -> TextIO:
    """Open a regular file, created if missing, to append UTF-8 text. Never blocks.

    Raises OSError (ELOOP) for a symbolic link, and otherwise as :func:`open_regular` does.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "symbolic links are not followed"
        elif error.errno == errno.ENXIO:  # a pipe without a reader, or a socket
            check_regular(path)
        raise
    try:
        _check(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")
    except BaseException:
        os.close(descriptor)
        raise


def check_inside(path: Path, folder: Path) -> None:
    """Raise OSError unless `path` lies below `folder` and leads only through folders and regular
    files.

    No component, the last one included, may be a symbolic link (ELOOP), a pipe, a socket or a
    device (EINVAL); components may be missing. `folder` itself may be reached through links.
    """
    here = folder
    parts = path.relative_to(folder).parts if path.is_relative_to(folder) else ()
    if not parts or ".." in parts:
        raise OSError(errno.ELOOP, f"it does not lie inside {folder}", str(path))
    for part in parts:
        here = here / part
        try:
            mode = os.lstat(here).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "symbolic links are not followed", str(here))
        if not stat.S_ISDIR(mode):
            _check(mode, here)


def remove(path: Path, folder: Path) -> None:
    """Delete a file, a link or a whole folder that lies below `folder`, and nothing else.

    A link itself is deleted, never its target. Raises OSError (ELOOP) if `path` does not lie below
    `folder` or passes through a link. Does nothing if `path` does not exist.
    """
    if path.parent != folder:
        check_inside(path.parent, folder)
    if path.name in ("", ".", "..") or path == folder:
        raise OSError(errno.ELOOP, f"it does not lie inside {folder}", str(path))
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def code_file(reference: str) -> Path:
    """Return the file of a family or law such as 'my.py:Name', from the current folder."""
    path = reference.rpartition(":")[0] if ".py:" in reference else reference
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:  # an unknown user or a loop of links
        raise ConfigError(f"{reference!r} names no file: {error}.") from None


def cache() -> Path:
    """Return the folder of corpora and token files: $SCALING_CACHE, or a folder in the user's
    cache."""
    if "SCALING_CACHE" in os.environ:
        return Path(os.environ["SCALING_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scaling-laws-lab"
