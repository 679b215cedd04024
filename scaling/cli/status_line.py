"""The line on standard error that says what a command is doing.

In a terminal it is one line that changes and then disappears. Elsewhere a plain line is printed
when a command has been silent for more than two seconds, and again from time to time.
SCALING_PROGRESS=0 turns both off.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from scaling import progress
from scaling.text import printable
from scaling.units import clock as in_words

_FRAMES = "|/-\\"

_TICK_SECONDS = 0.15

_LIVE_AFTER_SECONDS = 0.4
"""A step of less time is not shown in a terminal."""

_SILENT_SECONDS = 2.4
"""Silence after which a plain line is printed."""

_STEADY_SECONDS = 60.0
"""Time of a step after which its plain lines become rarer."""

_MAX_SILENT_SECONDS = 60.0
"""Longest interval between plain lines. Intervals grow up to it, to keep logs short."""


class StatusLine:
    """Shows the current step of a command on a stream; a listener of scaling.progress."""

    def __init__(
        self, stream: TextIO, *, live: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`live` redraws one line of a terminal; otherwise plain lines are printed."""
        self._stream, self._live, self._clock = stream, live, clock
        self._lock = threading.Lock()
        self._text = self._detail = ""
        self._began = self._last = clock()
        """When the step began, and when a line was last printed or something else was shown."""
        self._interval = _SILENT_SECONDS
        self._drawn = False
        self._frame = 0

    def __call__(self, text: str, detail: str = "") -> None:
        """Take note of a step; with an empty text, make room for other output."""
        with self._lock:
            if text != self._text:
                self._began, self._interval = self._clock(), _SILENT_SECONDS
            if not text:
                self._erase()
                self._last = self._clock()
            self._text, self._detail = text, detail

    def tick(self) -> None:
        """Show the step if it is time. Call this several times per second."""
        with self._lock:
            now = self._clock()
            if not self._text:
                return
            if self._live:
                if self._drawn or now - self._last >= _LIVE_AFTER_SECONDS:
                    self._draw(now)
            elif now - self._last >= self._interval:
                self._write(f"scaling: {self._line(now)}\n")
                self._last = now
                if now - self._began >= _STEADY_SECONDS:
                    self._interval = min(_MAX_SILENT_SECONDS, 1.25 * self._interval)

    def _line(self, now: float) -> str:
        from scaling.cli.output import masked

        text = f"{self._text}{f': {self._detail}' if self._detail else ''}"
        seconds = now - self._began
        elapsed = f" {in_words(seconds)}" if seconds >= 1 else ""
        shown = printable(masked(text), getattr(self._stream, "encoding", None))
        return f"{' '.join(shown.split())} ...{elapsed}"

    def _draw(self, now: float) -> None:
        self._frame += 1
        width = shutil.get_terminal_size((80, 24)).columns
        line = f"{_FRAMES[self._frame % len(_FRAMES)]} {self._line(now)}"
        self._write(f"\r{line[: width - 1]}\x1b[K")
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # standard error may be closed
            self._stream.write(text)
            self._stream.flush()


@contextlib.contextmanager
def status_line() -> Iterator[None]:
    """Show the steps of the block on standard error."""
    if os.environ.get("SCALING_PROGRESS") == "0":
        yield
        return
    stream = sys.stderr
    live = stream.isatty() and os.environ.get("TERM") != "dumb"
    line, end = StatusLine(stream, live=live), threading.Event()

    def tick() -> None:
        while not end.wait(_TICK_SECONDS):
            line.tick()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        with progress.reported(line):
            yield
    finally:
        end.set()
        thread.join()
        line("")
