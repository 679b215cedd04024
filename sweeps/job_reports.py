"""Progress of a job's runs, written to one file from time to time.

A thousand workers that report each run twice a second would keep a shared file system busy.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.folder import Folder

LOCAL_SECONDS = 0.5
SHARED_SECONDS = 5.0
"""Shortest interval between two reports of a job, on a disk of this machine and on storage that
other machines share."""

_WRITING_SHARE = 100
"""Writing reports takes at most one of this many seconds."""

_SHARED_TYPE = re.compile(
    r"nfs\d*|lustre|gpfs|mmfs|beegfs|ceph|glusterfs|cifs|smb\w*|afs|9p|pvfs2|orangefs|panfs|wekafs"
    r"|virtiofs|efs|fuse\.(?!overlayfs|fuse-overlayfs|ext\d).+"
)
"""Types of file systems that other machines may share."""

_MOUNTS = Path("/proc/self/mountinfo")


class JobReports:
    """The reports of the runs of one job."""

    def __init__(self, folder: Folder, run_ids: Sequence[str]) -> None:
        self._folder, self._run_ids = folder, list(run_ids)
        shared = on_shared_storage(folder.folder)
        self._least = self._interval = SHARED_SECONDS if shared else LOCAL_SECONDS
        self._written = -math.inf
        self._due = False
        """Whether a report is to be written before the interval is over."""
        self._values: dict[str, Mapping[str, Any]] = {}
        self._changed = False
        if self._is_pack:
            self._values = dict(folder.begin_pack(self._run_ids))

    @property
    def _is_pack(self) -> bool:
        return len(self._run_ids) > 1

    def add(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Add the report of a run. What a new checkpoint holds is written without delay."""
        before = self._values.get(run_id, {})
        self._due |= values.get("stored") != before.get("stored")
        self._values[run_id], self._changed = values, True
        if not self._is_pack:  # for a pack, the other runs report next
            self.write_if_due()

    def write_if_due(self) -> None:
        """Write the reports unless that was done a moment ago."""
        if self._changed and (self._due or time.monotonic() - self._written >= self._interval):
            self.write()

    def write(self) -> None:
        """Write the reports if there are new ones."""
        if not self._changed:
            return
        start = time.monotonic()
        if self._is_pack:
            self._folder.report_pack(self._run_ids[0], self._values)
        else:
            for run_id, values in self._values.items():
                self._folder.report_progress(run_id, values)
        self._written = time.monotonic()
        self._interval = max(self._least, _WRITING_SHARE * (self._written - start))
        self._changed = self._due = False

    def end(self, *, finished: bool) -> None:
        """Write the last reports; or remove what no run needs if all of them have `finished`."""
        if not finished:
            self.write()
        elif self._is_pack:
            self._folder.end_pack(self._run_ids[0])


def on_shared_storage(path: Path) -> bool:
    """Return whether other machines may share the file system of a path (Linux)."""
    try:
        mounts = _MOUNTS.read_text()
    except OSError:
        return False
    return type_is_shared(mounts, path.resolve())


@functools.lru_cache(maxsize=64)
def type_is_shared(mounts: str, path: Path) -> bool:
    """Return whether a path lies on a shared file system, given the text of mountinfo(5)."""
    depth, kind = -1, ""
    for line in mounts.splitlines():
        place, _, rest = line.partition(" - ")
        words = place.split()
        if len(words) < 5 or not rest:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), words[4]))
        if len(point.parts) >= depth and path.is_relative_to(point):
            depth, kind = len(point.parts), rest.split()[0]
    return _SHARED_TYPE.fullmatch(kind) is not None
