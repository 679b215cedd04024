"""Files that another process writes while they are read: new lines, and whole files.

Half-written lines wait until they are complete. A file that was rewritten is read from its start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from scaling import files

LONGEST_LINE = 1 << 20
"""Bytes of a line that are kept; the rest is skipped."""

_BLOCK = 1 << 18
_MOST_BLOCKS = 64
"""Blocks read in one call while the command runs."""

_HEAD = 256
"""First bytes of a file, by which a rewritten one is recognised."""

_END = re.compile(rb"[\r\n]")
_COLOURS = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|[PX^_][^\x1b]*(?:\x1b\\)?|[@-Z\\-_])"
)
"""Escape sequences of terminals: colours, movements of the cursor, titles."""


class NewLines:
    """The lines of a growing file that have not been read yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that is read."""
        self._head = b""
        self._rest = b""
        """Beginning of a line whose end is not written yet."""

    def read(self, *, last: bool = False) -> Iterator[str]:
        """Yield the new lines, without colours; progress bars end their lines with '\\r'.

        With `last`, the file is complete, so a line without an end counts too.
        """
        blocks = 0
        while last or blocks < _MOST_BLOCKS:
            block = self._next_block()
            if not block:
                break
            blocks += 1
            yield from self._lines(block)
        if last and self._rest:
            line, self._rest = self._rest, b""
            yield from _text(line)

    def _next_block(self) -> bytes:
        try:
            with files.open_regular(self.path) as file:
                state = os.fstat(file.fileno())
                head = file.read(_HEAD)
                same = (state.st_dev, state.st_ino) == self._file
                if not (same and head.startswith(self._head) and state.st_size >= self._offset):
                    self._file = state.st_dev, state.st_ino
                    self._offset, self._rest = 0, b""
                self._head = head
                file.seek(self._offset)
                block = file.read(_BLOCK)
        except OSError:
            return b""
        self._offset += len(block)
        return block

    def _lines(self, block: bytes) -> Iterator[str]:
        *complete, rest = _END.split(block)
        for line in complete:
            line, self._rest = self._rest + line[: LONGEST_LINE - len(self._rest)], b""
            yield from _text(line)
        self._rest += rest[: max(0, LONGEST_LINE - len(self._rest))]


def _text(line: bytes) -> Iterator[str]:
    text = line.decode("utf-8", "replace")
    text = _COLOURS.sub("", text) if "\x1b" in text else text
    if text.strip():
        yield text


class WholeFile:
    """A small file that is read again whenever it has changed."""

    def __init__(self, path: Path, most_bytes: int = 64 << 20) -> None:
        self.path = path
        self._most = most_bytes
        self._stamp: tuple[int, int, int] | None = None

    def changed(self) -> bytes | None:
        """Return the content if it differs from that of the last call; None if not."""
        try:
            with files.open_regular(self.path) as file:
                state = os.fstat(file.fileno())
                stamp = (state.st_ino, state.st_size, state.st_mtime_ns)
                if stamp == self._stamp or state.st_size > self._most:
                    return None
                data = file.read(self._most + 1)
        except OSError:
            return None
        self._stamp = stamp
        return data


def tail(path: Path, lines: int = 8, most_bytes: int = 1 << 14) -> list[str]:
    """Return the last lines of a file, as far as they are in its last bytes; none if it lacks."""
    try:
        with files.open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - most_bytes))
            data = file.read(most_bytes)
    except OSError:
        return []
    found = [text for line in _END.split(data) for text in _text(line)]
    return [line.strip()[:300] for line in found[-lines:]]
