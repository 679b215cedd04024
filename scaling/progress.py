"""Announcements of what a long call is doing, for whoever wants to show them.

    from scaling import progress

    with progress.reported(lambda text, detail: print(text, detail)):
        fit("chinchilla", runs)  # prints "fitting chinchilla", ...

Code that may take seconds calls :func:`step` before each step of its work, or opens a :func:`part`
whose steps are its details. Without a listener nothing happens, except in a notebook, where steps
that take long are shown below the cell (scaling.notebook). The command line shows the steps on
standard error (scaling.cli.status_line). Other threads report nothing.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Listener = Callable[[str, str], None]
"""Called with the text of a step, such as 'fitting chinchilla', and a detail that changes within
it, such as '3 of 10'. An empty text means that nothing is announced until the next step."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_part: ContextVar[str] = ContextVar("part", default="")
_current: ContextVar[tuple[str, str]] = ContextVar("current", default=("", ""))


def step(text: str, detail: str = "") -> None:
    """Announce the work that comes next."""
    if part := _part.get():
        text, detail = part, f"{text}{f', {detail}' if detail else ''}"
    _announce(text, detail)


@contextlib.contextmanager
def part(text: str) -> Iterator[None]:
    """Announce the block; the steps within it are its details, unless it is within a part."""
    token = _part.set(_part.get() or text)
    _announce(_part.get(), "" if _part.get() == text else text)
    try:
        yield
    finally:
        _part.reset(token)


def _announce(text: str, detail: str) -> None:
    if (listener := _listener.get() or _of_notebook()) is not None:
        _current.set((text, detail))
        listener(text, detail)


def _of_notebook() -> Listener | None:
    """Return the listener of the notebook that this thread runs cells of, or None."""
    main = threading.current_thread() is threading.main_thread()
    return _notebook() if main and "ipykernel" in sys.modules else None


@functools.cache
def _notebook() -> Listener | None:
    from scaling.notebook import steps

    return steps()


def _nothing(text: str, detail: str) -> None:
    """Show nothing."""


@contextlib.contextmanager
def other_output() -> Iterator[None]:
    """Announce nothing while the block prints something else; the step continues after it."""
    current = _current.get()
    _announce("", "")
    try:
        yield
    finally:
        _announce(*current)


@contextlib.contextmanager
def reported(listener: Listener) -> Iterator[None]:
    """Pass the steps of the block to `listener`."""
    token, current = _listener.set(listener), _current.set(("", ""))
    try:
        yield
    finally:
        _listener.reset(token)
        _current.reset(current)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Announce nothing within the block, which has a display of its own."""
    _announce("", "")
    token = _listener.set(_nothing)
    try:
        yield
    finally:
        _listener.reset(token)
