"""Files of a results folder that are no longer needed, from finished runs and killed processes.

Nothing is deleted here; :meth:`sweeps.store.Store.remove` does that, through scaling.files.remove.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from scaling import files
from sweeps import leases
from sweeps.folder import Folder
from sweeps.runner.runner import WORK

_OF_FINISHED_RUN = re.compile(
    r"(checkpoint\.pt|result\.json|config\.json)\.bad-\d+|checkpoint\.(pt|pt\.new|damaged)"
    r"|(progress|pack)\.json|lock"
)
"""Names of files that a finished run no longer needs."""

_TEMPORARY = re.compile(
    r"\.(((result|config|pack|manifest|weights|\.index|\d{4,9}|[0-9a-f]{12})\.json|runs\.csv"
    r"|weights\.safetensors"
    r"|(curves|tests)\.parquet|progress(\.json)?)\.|probe-)(?P<pid>[1-9]\d{0,6})"
)
"""Names of files while a process writes them."""


def of_finished_runs(store: Folder, run_ids: Iterable[str]) -> list[Path]:
    """Return the files that these finished runs no longer need."""
    paths = []
    for run_id in run_ids:
        folder = store.run_folder(run_id)
        with contextlib.suppress(OSError):
            files.check_inside(folder, store.folder)
            names = (path for path in folder.iterdir() if _OF_FINISHED_RUN.fullmatch(path.name))
            paths += names
    return paths


def of_commands(store: Folder, run_ids: Iterable[str]) -> dict[Path, int]:
    """Return {folder: bytes} of what the commands of these finished runs have written."""
    found = {}
    for run_id in run_ids:
        folder = store.run_folder(run_id) / WORK
        if folder.is_dir() and _is_inside(folder, store.folder):
            found[folder] = size_of(folder)
    return found


def of_killed_processes(store: Folder, run_ids: Iterable[str]) -> list[Path]:
    """Return temporary files and folders whose process is gone.

    Only the driver writes to the folder itself and to rounds/. Only the process that holds a run's
    lease writes to the run's folder and to its records in rungs/ and forecasts/.
    """
    found = [path for path in store.folder.glob(".merge-*") if path.is_dir()]
    found += [path for path in store.folder.glob("rungs/*/.*") if _is_orphan(path.name)]
    for folder in (store.folder, store.folder / "rounds", store.folder / "forecasts"):
        found += [path for path in folder.glob(".*") if _is_orphan(path.name)]
    for run_id in run_ids:
        folder = store.run_folder(run_id)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _is_orphan(entry.name)]
            if names and not leases.locked(folder / "lock"):
                found += [folder / name for name in names]
    return [path for path in found if _is_inside(path, store.folder)]


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder, without following links."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            return sum(size_of(inner) for inner in path.iterdir())
        return path.lstat().st_size
    return 0


def _is_inside(path: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        files.check_inside(path, folder)
        return True
    return False


def _is_orphan(name: str) -> bool:
    """Return whether this is the name of a temporary file whose process no longer runs here."""
    found = _TEMPORARY.fullmatch(name)
    if found is None:
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
