"""Settings of a run in a file beside its table, such as config.json beside metrics.csv."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.errors import TableError

_NAMES = (
    "config", "params", "args", "hparams", "hyperparameters", "settings", "run_config",
    "model_config", "training_args",
)  # fmt: skip
"""Names of such files, without their suffix .json."""


def is_settings(path: Path) -> bool:
    """Return whether a file is called like the settings of a run."""
    return path.suffix.lower() == ".json" and path.stem.lower() in _NAMES


def with_settings(paths: Sequence[Path], tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return tables with the settings beside them as columns, if each is in a folder of its own.

    A column of the table comes before a setting of the same name. Raises TableError if settings
    cannot be read.
    """
    if len({path.parent for path in paths}) < len(paths):
        return list(tables)
    found = []
    for path, table in zip(paths, tables, strict=True):
        settings: dict[str, Any] = {}
        for name in _NAMES:
            file = path.parent / f"{name}.json"
            if file != path and file.is_file():
                settings = _read(file) | settings
        found.append(table.assign(**{k: v for k, v in settings.items() if k not in table.columns}))
    return found


def _read(file: Path) -> dict[str, Any]:
    """Return the single values of a file of settings, with dotted names."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(f"{file} is not readable as the settings of a run: {error}.") from None
    if not isinstance(value, dict) or not value:
        return {}
    (flat,) = pd.json_normalize(value, sep=".").to_dict("records")
    return {str(k): v for k, v in flat.items() if isinstance(v, str | int | float)}
