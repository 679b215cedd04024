"""Files that anyone may have made. Only regular ones are read: a pipe would wait for ever, a device such
as /dev/zero has no end."""

from __future__ import annotations

import codecs
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# The mark of UTF-32 (little endian) begins with that of UTF-16.
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class EncodingError(ValueError):
    """Text that is not UTF-8; its message goes on where "<file> is" ends."""


def check_regular(path: str | Path) -> None:
    """Raise OSError where `path` is not a regular file (or a link to one), or is not there."""
    _check(os.stat(path).st_mode, path)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read bytes, without ever waiting for it.

    Raises OSError as open does; for a pipe, socket or device one with errno EINVAL, whose strerror
    says what it is.
    """
    try:
        # Otherwise open() waits for somebody who writes to the pipe.
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
    """All of a regular file. Raises OSError as :func:`open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """All of a regular file of UTF-8 text, without its byte order mark, with '\\n' for line ends.

    Raises OSError as :func:`open_regular`, EncodingError where it is not UTF-8.
    """
    return decode(read_bytes(path)).replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes) -> str:
    """UTF-8 as text, without its byte order mark. Raises EncodingError, which names another encoding
    where the text begins with its mark."""
    for mark, name in _OTHER_MARKS:
        if data.startswith(mark):
            raise EncodingError(
                f"not UTF-8 text but {name} (by its byte order mark); convert it, say with "
                f"iconv -f {name} -t UTF-8"
            )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EncodingError(
            f"not UTF-8 text (byte {error.start}); convert it, say with iconv"
        ) from None


def _check(mode: int, path: str | Path) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")
    raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
