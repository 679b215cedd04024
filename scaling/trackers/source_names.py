"""Names of runs that a tracker keeps: wandb:PATH, wandb:ENTITY/PROJECT, mlflow:PATH, ..."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scaling.trackers.reading import TRACKERS

_SCHEME = re.compile(r"^(?:sqlite:///?|file://)(?=.)")


def is_source(path: Any) -> bool:
    """Return whether a path names runs of a tracker, as in wandb:runs or mlflow:mlruns."""
    if not isinstance(path, str | Path):
        return False
    kind, colon, place = str(path).partition(":")
    return bool(colon and place) and kind in TRACKERS and not Path(path).exists()


def kind_and_place(source: str) -> tuple[str, str]:
    """Return the tracker and the place of its runs; that of mlflow:sqlite:///a.db is a.db."""
    kind, _, place = source.partition(":")
    return kind, _SCHEME.sub("", place)
