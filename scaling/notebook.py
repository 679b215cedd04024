"""Progress in a notebook, as plain HTML that changes in place; needs no widgets.

Only where a Jupyter kernel runs this process; elsewhere nothing of IPython is imported.
"""

from __future__ import annotations

import html
import os
import sys
import threading
import time
import uuid
from typing import Any

_TICK_SECONDS = 0.5

_SHOWN_AFTER_SECONDS = 1.0
"""Work of less time is not shown."""


def active() -> bool:
    """Return whether this process is the kernel of a notebook."""
    if "ipykernel" not in sys.modules or os.environ.get("SCALING_PROGRESS") == "0":
        return False
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def bar(percent: float | None, text: str, details: str = "") -> str:
    """Return a progress bar with a line of text, and details below it; both are escaped.

    Without a percentage, the bar shows that work is under way.
    """
    value = "" if percent is None else f' value="{min(max(percent, 0.0), 100.0):.1f}"'
    below = f"\n<br><small>{html.escape(details)}</small>" if details else ""
    return (
        f'<div role="status">\n<progress max="100"{value} aria-label="progress"></progress>\n'
        f"{html.escape(text)}{below}\n</div>"
    )


class Shown:
    """HTML in the output of a cell that is replaced by later HTML."""

    def __init__(self) -> None:
        self._id = f"scaling-{uuid.uuid4().hex}"
        self._last: str | None = None

    def show(self, page: str, text: str) -> None:
        """Show HTML, with plain text for where it cannot be shown."""
        if page == self._last:
            return
        from IPython.display import display, update_display

        data: dict[str, Any] = {"text/html": page, "text/plain": text}
        if self._last is None:
            display(data, raw=True, display_id=self._id)
        else:
            update_display(data, raw=True, display_id=self._id)
        self._last = page

    def clear(self) -> None:
        if self._last is not None:
            self.show("", "")


class Steps:
    """Shows the steps of a long call until the cell ends; a listener of scaling.progress."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text = self._detail = ""
        self._began = time.monotonic()
        self._shown = Shown()
        self._end: threading.Event | None = None
        """Ends the thread that shows the steps; None between cells."""
        self._thread: threading.Thread | None = None

    def __call__(self, text: str, detail: str = "") -> None:
        """Take note of a step; an empty text pauses the display."""
        with self._lock:
            if text != self._text:
                self._began = time.monotonic()
            self._text, self._detail = text, detail
            if text and self._end is None:
                self._end, self._shown = threading.Event(), Shown()
                self._thread = threading.Thread(target=self._tick, args=(self._end,), daemon=True)
                self._thread.start()

    def end(self, *_: Any) -> None:
        """Remove the display at the end of a cell."""
        with self._lock:
            end, thread, self._end, self._text = self._end, self._thread, None, ""
        if end is not None and thread is not None:
            end.set()
            thread.join()
            self._shown.clear()

    def _tick(self, end: threading.Event) -> None:
        first = time.monotonic()
        while not end.wait(_TICK_SECONDS):
            with self._lock:
                text, detail = self._text, self._detail
                seconds = time.monotonic() - self._began
            if not text:
                self._shown.clear()
            elif time.monotonic() - first >= _SHOWN_AFTER_SECONDS:
                line = f"{text}{f': {detail}' if detail else ''} ... {seconds:.0f} s"
                self._shown.show(bar(_share(detail), line), line)


def steps() -> Steps | None:
    """Return a listener that shows the steps in this notebook; None outside of notebooks."""
    if not active():
        return None
    from IPython.core.getipython import get_ipython

    listener = Steps()
    get_ipython().events.register("post_run_cell", listener.end)  # pyright: ignore[reportOptionalMemberAccess]
    return listener


def _share(detail: str) -> float | None:
    """Return the percentage of '3 of 10', or None."""
    words = detail.replace(",", "").split()
    for done, of, total in zip(words, words[1:], words[2:], strict=False):
        if of == "of" and done.isdigit() and total.isdigit() and int(total):
            return 100 * int(done) / int(total)
    return None
