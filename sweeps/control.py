"""Control a sweep from another terminal: watch it, read a run's log, stop it, clean up.

Imports neither ray nor torch.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from scaling import progress
from scaling.files import read_bytes
from sweeps import kept_weights, leftovers
from sweeps.display import escaped, say
from sweeps.errors import StoreError, why
from sweeps.folder_status import Status, status
from sweeps.slurm import jobs as slurm_jobs
from sweeps.store import Store

_MAX_WATCH_SECONDS = 300.0
"""Longest interval between plain lines. Intervals grow up to it, to keep the log of a long sweep
short."""

_STOP_SECONDS = 30.0
"""Seconds that a driver has to stop; its workers need some of them to write checkpoints."""

_MAX_CANDIDATES = 8
"""Number of runs listed in an error about an ambiguous name."""


def watch(folder: str | Path, *, every: float = 2.0, console: Console | None = None) -> Status:
    """Show the status of a sweep while a driver works on it, and return the last one.

    In a terminal the status is live; elsewhere a line is printed when the counts have changed, at
    growing intervals. Raises StoreError if the folder holds no sweep.
    """
    console = console or Console()
    store = Store(folder)
    state = status(folder)
    with progress.silent():
        state = _followed(store, folder, state, every, console)
        say(console, str(state))
    return state


def _followed(
    store: Store, folder: str | Path, state: Status, every: float, console: Console
) -> Status:
    """Show the status from `state` on until the driver ends; return the last one."""
    if console.is_terminal:
        text = Text(escaped(console, state))
        with Live(text, console=console, auto_refresh=False, transient=True) as live:
            while store.driver():
                time.sleep(every)
                state = status(folder)
                live.update(Text(escaped(console, state)), refresh=True)
        return state
    shown = ""
    while store.driver():
        if state.counts != shown:
            say(console, state.line)
            shown = state.counts
        time.sleep(every)
        every = min(_MAX_WATCH_SECONDS, every * 1.25)
        state = status(folder)
    return state


def logs(folder: str | Path, run: str) -> str:
    """Return a run's attempts and its output; `run` is a prefix of its id, or its tag.

    Raises StoreError if no run matches, or several do.
    """
    store = Store(folder)
    status(folder)  # raises if the folder holds no sweep
    tags = store.tags()
    run_id = _find_run(store, tags, run)
    lines = [f"{run_id} {tags[run_id]}".rstrip()]
    for event in store.attempts(run_id):
        details = {k: v for k, v in event.items() if k not in ("event", "time", "execution")}
        text = ", ".join(f"{key}={value}" for key, value in details.items()).replace("\n", "\\n")
        lines.append(f"{event.get('time', '?')}  {event.get('event', '?')}  {text}".rstrip())
    folder = store.run_folder(run_id)
    texts = [_log(store, folder / "output.log")]
    for path in sorted(folder.glob("output.node*.log")):
        texts.append(f"{path.name}:\n{_log(store, path) or '(nothing)'}")
    return "\n".join([*lines, *(list(filter(None, texts)) or ["(it printed nothing)"])])


def _log(store: Store, path: Path) -> str:
    try:
        return read_bytes(path).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StoreError(f"{store.shown(path)} cannot be read: {why(error)}") from None


def _find_run(store: Store, tags: Mapping[str, str], run: str) -> str:
    """Return the id of the only run with this id, id prefix or tag."""
    found = [run_id for run_id, tag in tags.items() if run_id.startswith(run) or tag == run]
    found = [run_id for run_id in found if run_id == run] or found
    if len(found) == 1:
        return found[0]
    candidates = found or list(tags)
    shown = [f"{i} {tags[i]!r}" if tags[i] else i for i in candidates[:_MAX_CANDIDATES]]
    some = ", ".join(shown) + (", ..." if len(candidates) > _MAX_CANDIDATES else "")
    what = f"matches {len(found)} runs: {some}" if found else "matches no run"
    known = "" if found or not tags else f"; there are {some}"
    where = store.shown(store.folder)
    raise StoreError(f"{run!r} {what} in {where}{known}. Give a prefix of one run's id.")


def cancel(
    folder: str | Path, *, now: bool = False, say: Callable[[str], None] = lambda line: None
) -> None:
    """Stop the sweep that works on a folder, as Ctrl-C in its terminal would, and wait for it to
    end.

    Its workers write checkpoints, and it prints the command that resumes it. `now` is like pressing
    Ctrl-C twice. A sweep in Slurm is stopped through scancel, and its jobs that have not started
    are withdrawn. `say` is called with a message about what is awaited. Raises StoreError if no
    sweep is running, or if it runs on another machine outside of Slurm.
    """
    store = Store(folder)
    status(folder)
    drivers, where = store.drivers(), store.shown(store.folder)
    job = store.slurm_job()
    if slurm_jobs.waiting(job):
        slurm_jobs.withdraw(job)
        say(f"Slurm job {job} waited to start; it was cancelled")
        if not drivers:
            return
    if not drivers:
        raise StoreError(f"no sweep is running on {where}: there is nothing to cancel.")
    in_slurm = [driver.job for driver in drivers if driver.job]
    others = [driver for driver in drivers if not driver.job]
    here = [driver.pid for driver in others if driver.host == socket.gethostname()]
    for pid in here:
        say(f"asked process {pid} to stop; waiting for checkpoints" if not now else f"ending {pid}")
        _interrupt(pid, now=now)
    if in_slurm:
        say(f"asking Slurm job {', '.join(in_slurm)} to stop; waiting for checkpoints")
        slurm_jobs.stop(in_slurm, now=now)
    if elsewhere := [driver for driver in others if driver.host != socket.gethostname()]:
        some = ", ".join(map(str, elsewhere))
        raise StoreError(f"{where} is being worked on by {some}; cancel it there.")
    what = f"process {', '.join(map(str, here))}" if here else f"Slurm job {', '.join(in_slurm)}"
    progress.step(f"waiting for {what} to stop")
    deadline = time.monotonic() + _STOP_SECONDS
    while not set(drivers).isdisjoint(store.drivers()):
        if time.monotonic() > deadline:
            raise StoreError(
                f"{what} has not stopped within {_STOP_SECONDS:.0f} s; --now stops it at once."
            )
        time.sleep(0.1)


def _interrupt(pid: int, *, now: bool) -> None:
    """Press Ctrl-C for a process; twice if `now`. Raises StoreError."""
    try:
        os.kill(pid, signal.SIGINT)
        if now:
            time.sleep(0.2)
            os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        return
    except PermissionError:
        raise StoreError(f"process {pid} belongs to another user; it was not stopped.") from None


def clean(
    folder: str | Path, *, dry_run: bool = False, weights: bool = False, work: bool = False
) -> dict[Path, int]:
    """Remove checkpoints and other leftovers of finished runs, never measurements.

    With `weights`, also remove the weights that finished runs have kept; with `work`, what commands
    of finished runs have written to their folders ({folder} in a spec). Returns {path: bytes} of
    what was removed or, with `dry_run`, would be. Raises StoreError if a sweep is running on the
    folder.
    """
    store = Store(folder)
    status(folder)
    if dry_run:
        litter = store.litter() | (kept_weights.of_finished_runs(store) if weights else {})
        return litter | (written_by_commands(store) if work else {})
    with store.drive():
        litter = store.litter()
        store.remove(litter)
        if weights:
            litter |= kept_weights.remove(store)
        if work:
            litter |= (written := written_by_commands(store))
            store.remove(written)
    return litter


def written_by_commands(folder: str | Path | Store) -> dict[Path, int]:
    """Return {folder: bytes} of what the commands of finished runs have written."""
    store = folder if isinstance(folder, Store) else Store(folder)
    return leftovers.of_commands(store, store.rows())
