"""How one driver holds a results folder alone, and how several drivers share it.

A driver that works alone holds `lock`. Drivers that share a folder each hold a file of their own,
`.joined/<host>-<pid>-<letters>.lock`, and hold `lock` only while they write what belongs to all:
the manifest and the merged table. Each takes runs that no other process holds, by their leases. One
that finds nothing but held runs stands by for those whose process dies; `.joined/standby` lets only
one do so, and the others end.

All of these are locks that end with their process, so there is nothing to clean up after a death.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from scaling import files, progress
from sweeps import leases
from sweeps.errors import StoreError, writing
from sweeps.folder import Folder
from sweeps.leases import Holder

JOINED = ".joined"
"""Folder of the files of drivers that share a results folder."""

_LOOK_SECONDS = 0.5
"""Seconds to wait for the lock, because checking the lock acquires it briefly."""

_MOST_LOOKS = 2
_MOST_UNKNOWN = 20
"""Number of looks at a lock, before it is an error that its holder does not share the folder, or
cannot be read. The first look may show the previous holder."""


class Hold:
    """The hold of a driver that works on a results folder alone."""

    def __init__(self, folder: Folder) -> None:
        self.stop_file = folder.folder / ".stop"
        """File that stops the workers of this driver, while it exists."""

    @property
    def others(self) -> list[Holder]:
        """The other drivers that share the folder."""
        return []

    @contextlib.contextmanager
    def writing(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold what belongs to all drivers: manifest, table and leftovers.

        Without `wait`, yields False if another driver holds it.
        """
        yield True

    def stand_by(self) -> bool:
        """Return whether this driver is to wait for runs that other drivers hold."""
        return True


class _SharedHold(Hold):
    """The hold of a driver that shares a results folder with others."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self._folder = folder
        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
        name = f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
        self._own = folder.folder / JOINED / f"{name}.lock"
        self.stop_file = _stop_file(self._own)
        self._standby: TextIO | None = None

    @property
    def others(self) -> list[Holder]:
        return joined(self._folder, without=self._own)

    @contextlib.contextmanager
    def writing(self, *, wait: bool = True) -> Iterator[bool]:
        path = self._folder.folder / "lock"
        patience = _LOOK_SECONDS if wait else 0.0
        looks = 0
        while (lease := _take(self._folder, path, patience, sharing=True)) is None and wait:
            holder = leases.holder(path)
            looks = 0 if holder and holder.sharing else looks + 1
            if looks > (_MOST_LOOKS if holder else _MOST_UNKNOWN):
                raise StoreError(
                    f"{_shown(self._folder)} is being worked on by {holder or 'another process'}, "
                    "which does not share it. Wait for it, or stop it and start it again with "
                    "--join as well."
                )
            progress.step(f"waiting for {holder or 'another process'}")
        try:
            yield lease is not None
        finally:
            if lease is not None:
                lease.close()

    def stand_by(self) -> bool:
        if self._standby is None:
            self._standby = _take(self._folder, self._folder.folder / JOINED / "standby")
        return self._standby is not None

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        """Be one of the drivers that share the folder."""
        with self.writing():
            _remove_dead(self._folder)
            lease = _take(self._folder, self._own, sharing=True)
        try:
            yield
        finally:
            for path in (self._own, self.stop_file):
                with contextlib.suppress(OSError):
                    path.unlink()
            for file in (lease, self._standby):
                if file is not None:
                    file.close()


@contextlib.contextmanager
def alone(folder: Folder) -> Iterator[Hold]:
    """Hold the folder alone. Raises StoreError, which names who else works on it."""
    path = folder.folder / "lock"
    lease = _take(folder, path, _LOOK_SECONDS)
    if lease is None:
        held = "another process"
        with contextlib.suppress(OSError, ValueError):
            held = files.read_text(path).strip() or held
        raise StoreError(
            f"{_shown(folder)} is being worked on by {held}. Wait for it (`scaling status` shows "
            "it), or choose another folder with --results."
        )
    try:
        if others := joined(folder):
            some = ", ".join(map(str, others[:3])) + (", ..." if len(others) > 3 else "")
            raise StoreError(
                f"{_shown(folder)} is shared by {some}. Wait for the end (`scaling status` shows "
                "it), or help with --join."
            )
        _remove_dead(folder)
        yield Hold(folder)
    finally:
        lease.close()


@contextlib.contextmanager
def shared(folder: Folder) -> Iterator[Hold]:
    """Hold the folder together with other drivers that share it.

    Raises StoreError if a driver works on it alone.
    """
    hold = _SharedHold(folder)
    with hold.registered():
        yield hold


def joined(folder: Folder, without: Path | None = None) -> list[Holder]:
    """Return the drivers that share the folder now."""
    found = []
    for path in sorted((folder.folder / JOINED).glob("*.lock")):
        if path != without and (holder := leases.holder(path)):
            found.append(holder)
    return found


def look_anew(run_folder: Path) -> None:
    """Let this machine see what another one wrote to a run's folder.

    A network file system may remember for a minute that result.json was not there. Changing the
    folder makes it ask again.
    """
    probe = run_folder / f".probe-{os.getpid()}"
    with writing(run_folder):
        files.write_new(probe, b"")
        probe.unlink()


def _remove_dead(folder: Folder) -> None:
    """Remove the files of drivers that died. Use only while `lock` is held."""
    for path in (folder.folder / JOINED).glob("*.lock"):
        if not leases.locked(path):
            for left in (path, _stop_file(path)):
                with contextlib.suppress(OSError):
                    files.remove(left, folder.folder)


def _stop_file(own: Path) -> Path:
    """Return the file that stops the workers of the driver that holds `own`."""
    return own.with_suffix(".stop")


def _take(
    folder: Folder, path: Path, patience: float = 0.0, *, sharing: bool = False
) -> TextIO | None:
    with folder.writing(path):
        return leases.take(path, folder.shown(path), patience, sharing=sharing)


def _shown(folder: Folder) -> Path | str:
    return folder.shown(folder.folder)
