"""What a person does to a sweep from another terminal: watch it, read a run's log, stop it, tidy up.

Imports neither ray nor torch.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from scaling.files import read_bytes
from sweeps.display import escaped, say
from sweeps.errors import StoreError, why
from sweeps.status import Status, status
from sweeps.store import Store

_WATCH_MOST_SECONDS = 300.0
"""Plain lines come ever more rarely, so that a log of days stays short."""

_STOP_SECONDS = 30.0
"""A driver that is asked to stop has gone by then: workers write checkpoints for some seconds."""


def watch(folder: str | Path, *, every: float = 2.0, console: Console | None = None) -> Status:
    """Show the status of a sweep until no driver works on it any more; returns the last one.

    Live in a terminal; elsewhere a line where the counts changed, ever more rarely. Raises
    StoreError where the folder holds no sweep.
    """
    console = console or Console()
    store = Store(folder)
    state = status(folder)
    if console.is_terminal:
        with Live(
            Text(escaped(console, state)), console=console, auto_refresh=False, transient=True
        ) as live:
            while store.driver():
                time.sleep(every)
                state = status(folder)
                live.update(Text(escaped(console, state)), refresh=True)
    else:
        shown = ""
        while store.driver():
            if (line := state.line) != shown:
                say(console, line)
                shown = line
            time.sleep(every)
            every = min(_WATCH_MOST_SECONDS, every * 1.25)
            state = status(folder)
    say(console, str(state))
    return state


def logs(folder: str | Path, run: str) -> str:
    """A run's attempts and what it printed; `run` is the beginning of its id, or its tag.

    Raises StoreError where no run matches, or several do.
    """
    store = Store(folder)
    status(folder)  # says where this is no sweep
    names = store.tags()
    found = [run_id for run_id, tag in names.items() if run_id.startswith(run) or tag == run]
    exact = [run_id for run_id in found if run_id == run]
    found = exact or found
    if len(found) != 1:
        some = ", ".join(f"{i} {names[i]!r}" if names[i] else i for i in (found or list(names))[:8])
        dots = ", ..." if len(found or names) > 8 else ""
        what = f"matches {len(found)} runs: {some}{dots}" if found else "matches no run"
        there = "" if found or not names else f"; there are {some}{dots}"
        raise StoreError(
            f"{run!r} {what} in {store.said(store.folder)}{there}. Give the beginning of one run's id."
        )
    (run_id,) = found
    lines = [f"{run_id} {names[run_id]}".rstrip()]
    for event in store.attempts(run_id):
        details = {k: v for k, v in event.items() if k not in ("event", "time", "execution")}
        said = ", ".join(f"{key}={value}" for key, value in details.items())
        lines.append(f"{event.get('time', '?')}  {event.get('event', '?')}  {said}".rstrip())
    path = store.run_folder(run_id) / "output.log"
    try:
        text = read_bytes(path).decode(errors="replace").strip()
    except FileNotFoundError:
        text = ""
    except OSError as error:
        raise StoreError(f"{store.said(path)} cannot be read: {why(error)}") from None
    return "\n".join([*lines, *([text] if text else ["(it printed nothing)"])])


def cancel(
    folder: str | Path, *, now: bool = False, say: Callable[[str], None] = lambda line: None
) -> None:
    """Stop the sweep that works on a folder, as Ctrl-C in its own terminal would; wait for its end.

    Its workers write checkpoints, and it prints the command that goes on; `now` is Ctrl-C twice.
    `say` is told what is being waited for. Raises StoreError where no sweep is running, or
    where it runs on another machine.
    """
    store = Store(folder)
    status(folder)
    driver, where = store.driver(), store.said(store.folder)
    if driver is None:
        raise StoreError(f"no sweep is running on {where}: there is nothing to cancel.")
    pid, host = driver
    if host != socket.gethostname():
        raise StoreError(f"{where} is being worked on by process {pid} on {host}; cancel it there.")
    say(f"asked process {pid} to stop; waiting for checkpoints" if not now else f"ending {pid}")
    try:
        os.kill(pid, signal.SIGINT)
        if now:
            time.sleep(0.2)
            os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        return
    except PermissionError:
        raise StoreError(f"process {pid} belongs to another user; it was not stopped.") from None
    deadline = time.monotonic() + _STOP_SECONDS
    while store.driver() == driver:
        if time.monotonic() > deadline:
            raise StoreError(
                f"process {pid} has not stopped within {_STOP_SECONDS:.0f} s; --now stops it at once."
            )
        time.sleep(0.1)


def clean(folder: str | Path, *, dry_run: bool = False) -> dict[Path, int]:
    """Remove the checkpoints and litter of finished runs, never what was measured.

    Returns {path: bytes} of what was, or with `dry_run` would be, removed. Raises StoreError where
    a sweep is running on the folder.
    """
    store = Store(folder)
    status(folder)
    if dry_run:
        return store.litter()
    with store.drive():
        litter = store.litter()
        store.remove(litter)
    return litter
