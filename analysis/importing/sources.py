"""Where the runs of a tracker are, and how they are read."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable
from pathlib import Path

from analysis.importing import wandb_api
from scaling import trackers
from scaling.errors import TableError
from scaling.trackers import TrackedRun

_PROJECT = re.compile(r"[^/\\\s]+/[^/\\\s]+")


def read(source: str | Path) -> list[TrackedRun]:
    """Return the runs of a source. Raises TableError if there are none, or none can be read."""
    kind, place = trackers.kind_and_place(str(source))
    path = Path(place).expanduser()
    if path.exists():
        return list(_read(kind, path, frozenset(trackers.stamps(path).items())))
    if kind == "wandb" and _PROJECT.fullmatch(place) and not place.startswith((".", "~")):
        return list(_project(place))
    if re.match(r"https?:/", place):
        raise TableError(
            f"{source}: a server of {kind} is not read. Give its store: a folder, or the database "
            f"as in {kind}:sqlite:///mlflow.db."
        )
    more = ", or ENTITY/PROJECT of its server" if kind == "wandb" else ""
    raise TableError(f"{source}: {place} does not exist. After {kind}: stands a path{more}.")


@functools.lru_cache(maxsize=4)
def _read(kind: str, path: Path, stamp: Hashable) -> tuple[TrackedRun, ...]:
    """Read files once for each change of them."""
    try:
        return tuple(trackers.read(kind, path))
    except trackers.TrackerError as error:
        raise TableError(str(error)) from None


@functools.lru_cache(maxsize=4)
def _project(place: str) -> tuple[TrackedRun, ...]:
    return tuple(wandb_api.read(place))
