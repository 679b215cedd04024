"""The output of a command, of which the beginning and the end are kept. Standard library only."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable

_LONGEST_LINE = 1 << 16
"""Bytes of an unfinished line that are kept to be searched for patterns."""

_TAIL_BYTES = 4 << 20
"""Bytes of the end of a log that are held in memory until the command has ended."""


class Log:
    """The output of one command, of which the beginning and the end are kept.

    What is left out between them is searched for lines that report results; these are kept, up to
    a tenth of the limit.
    """

    def __init__(self, path: str, limit: int, keep: Iterable[str], watch: Iterable[str]) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o666)
        self._tail_bytes = min(limit // 2, _TAIL_BYTES)
        self._head = limit - self._tail_bytes
        self._kept = limit // 10
        self._keep, self._watch = _joined(keep), _joined(watch)
        self._tail: deque[bytes] = deque()
        self._in_tail = 0
        self._overflowed = False
        self._line = b""
        self.left_out = 0
        self.seen = ""
        """The first line that matched a pattern of `watch`."""

    def add(self, data: bytes) -> None:
        """Add output of the command."""
        head, rest = data[: self._head], data[self._head :]
        if head:
            self._head -= len(head)
            self._write(head)
        if rest:
            if not self._overflowed:
                self._overflowed = True
                self._write(b"\n[the rest of the output follows when the command has ended]\n")
            self._hold(rest)
        if self._watch or (rest and self._keep):
            self._search(data, bool(rest))

    def _hold(self, data: bytes) -> None:
        self._tail.append(data)
        self._in_tail += len(data)
        while self._in_tail - len(self._tail[0]) >= self._tail_bytes:
            dropped = self._tail.popleft()
            self._in_tail -= len(dropped)
            self.left_out += len(dropped)

    def _search(self, data: bytes, beyond: bool) -> None:
        """Search whole lines for patterns."""
        lines, newline, rest = (self._line + data).rpartition(b"\n")
        self._line = rest[-_LONGEST_LINE:]
        if not newline:
            return
        if self._watch and not self.seen and (found := self._watch.search(lines)):
            self.seen = _line_at(lines, found.start()).decode(errors="replace").strip()
        if not (beyond and self._keep) or self._kept <= 0:
            return
        end = 0
        for found in self._keep.finditer(lines):
            if found.start() < end:
                continue
            line = _line_at(lines, found.start())
            end = lines.find(b"\n", found.start())
            self._kept -= len(line) + 1
            self._write(line + b"\n")
            if end < 0 or self._kept <= 0:
                break

    def close(self) -> None:
        """Write the end of the output."""
        if self._line:
            self._search(b"\n", False)
        tail = b"".join(self._tail)
        if (extra := len(tail) - self._tail_bytes) > 0:
            self.left_out += extra
            tail = tail[extra:]
        if self.left_out:
            self._write(b"[%d bytes of output are left out here]\n" % self.left_out)
        self._write(tail)
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except OSError:  # a full disk must not end the command: its result may still fit
                self.left_out += len(data)
                return


def _joined(patterns: Iterable[str]) -> re.Pattern[bytes] | None:
    texts = [b"(?:%s)" % pattern.encode() for pattern in patterns]
    return re.compile(b"|".join(texts), re.MULTILINE) if texts else None


def _line_at(text: bytes, position: int) -> bytes:
    start = text.rfind(b"\n", 0, position) + 1
    end = text.find(b"\n", position)
    return text[start : end if end >= 0 else None]
