"""Predictions on record: dated files that say what was predicted before a run was trained.

A record is the file `plans/NAME.json` of a results folder, or of the folder of a table. It is never
overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.planning.prediction import KINDS, WITHIN, Prediction
from analysis.tables.containers import located
from analysis.tables.several import PLANS, files_of
from analysis.tables.tracked import sources_of
from scaling.errors import ConfigError
from scaling.files import check_inside, read_text
from scaling.jsonable import finite

FORMAT = 1
"""Version of the files."""

_TEXT = ("corpus_hash", "tokenizer")
"""Columns that name the text and the tokens of the losses."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """A prediction on record."""

    path: Path
    values: Mapping[str, Any]
    """The content of the file."""

    @property
    def name(self) -> str:
        """The name of the record, that of its file."""
        return self.path.stem

    @property
    def time(self) -> str:
        """When the prediction was made, with its zone."""
        return self.values["time"]

    def interval(self, kind: str) -> tuple[float, float] | None:
        """Return the interval of one of KINDS; None if the record has none."""
        ends = self.values["intervals"].get(kind)
        return None if ends is None or None in ends else (float(ends[0]), float(ends[1]))

    def predict(self, N: float, D: float) -> float:
        """Return the loss that the recorded laws predict near their run.

        It is interpolated in ln N, ln D and ln L between the recorded losses: laws of a user's own
        file are not run, and nothing depends on how a later version evaluates them.
        """
        nodes = np.log(np.asarray(self.values["nearby"]["factors"], float))
        L = np.log(np.asarray(self.values["nearby"]["L"], float))
        rows = _lagrange(nodes, math.log(N / self.values["N"]))
        return float(np.exp(rows @ L @ _lagrange(nodes, math.log(D / self.values["D"]))))


def _lagrange(nodes: np.ndarray, x: float) -> np.ndarray:
    """Return the weights of the values at `nodes` in the polynomial through them at `x`."""
    return np.array(
        [
            np.prod([(x - other) / (node - other) for other in nodes if other != node])
            for node in nodes
        ]
    )


def folder_of(paths: Sequence[str | Path]) -> Path:
    """Return the folder that holds the records of a table: `plans` beside its rows."""
    if sources_of(list(paths)):
        return Path(PLANS)
    first = Path(paths[0])
    if first.is_dir():
        return first / PLANS
    return located(files_of(first)[0])[0].parent / PLANS


def check_free(folder: Path, name: str) -> Path:
    """Return the file of a new record. Raises ConfigError if the name is taken, or odd."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--record {name!r} must be a plain word of letters, digits, '.', '_' and '-', such as "
            "tenfold."
        )
    path = folder / f"{name}.json"
    if os.path.lexists(path):
        when = ""
        with contextlib.suppress(ConfigError):
            when = f" of {read_record(path).time[:10]}"
        raise ConfigError(
            f"{path}: there is a record{when} of this name, and a record is never overwritten. "
            "Choose another name."
        )
    return path


def write_record(
    prediction: Prediction,
    runs: pd.DataFrame,
    name: str,
    sources: Sequence[str | Path],
    *,
    selection: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Path:
    """Keep a prediction in a new file and return its path.

    runs       the rows of the table that the laws were fitted to.
    sources    the results folder or the files of the table, whose `plans` folder holds the record.
    selection  the options that selected the rows, as for :func:`analysis.load`.
    revision   the git revision of this package's source.

    Raises ConfigError for a name that is taken, and OSError if the file cannot be written.
    """
    folder = folder_of(sources)
    path = check_free(folder, name)
    values = {
        "format": FORMAT,
        "name": name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": _version(),
        "revision": revision,
        **prediction.record(),
        "within": WITHIN,
        "table": {
            "sources": [_from_folder(source, folder.parent) for source in sources],
            "selection": dict(selection or {}),
            "rows": len(runs),
            "largest": {column: float(runs[column].max()) for column in ("N", "D")},
            "sha256": content_hash(runs),
            "text": text_of(runs),
            "near": _near(runs, prediction.N, prediction.D),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    check_inside(path, folder.parent)
    data = json.dumps(finite(values), indent=1, allow_nan=False) + "\n"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return check_free(folder, name)  # raises: another process was faster
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


def records_in(folder: Path) -> list[Path]:
    """Return the files of the records in a `plans` folder, by name."""
    return sorted(p for p in folder.glob("*.json") if _NAME.fullmatch(p.stem))


def read_record(path: Path) -> PlanRecord:
    """Read a record. Raises ConfigError if the file is not one."""
    try:
        values = json.loads(read_text(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a record of a prediction: {str(error).partition(chr(10))[0]}. Restore "
            "it from version control, or remove it."
        ) from None
    fault = _fault(values)
    if fault:
        raise ConfigError(
            f"{path} is not a record of a prediction: {fault}. Restore it from version control, or "
            "remove it."
        )
    if values["format"] > FORMAT:
        raise ConfigError(
            f"{path} was written by a newer version of this package ({values.get('version')}). "
            "Update the package."
        )
    return PlanRecord(path=path, values=values)


def _fault(values: Any) -> str | None:
    """Return what is wrong with the content of a record."""
    if not isinstance(values, dict):
        return "it holds no object"
    if type(values.get("format")) is not int:
        return "it has no number 'format'"
    if values["format"] > FORMAT:
        return None
    for name in ("N", "D", "L", "level", "within"):
        if not is_positive(values.get(name)):
            return f"{name!r} is {values.get(name)!r:.40}, not a positive number"
    try:
        datetime.fromisoformat(values.get("time", ""))
    except (TypeError, ValueError):
        return "'time' is no date"
    for name in ("intervals", "laws", "table"):
        if not isinstance(values.get(name), dict):
            return f"{name!r} is missing or no object"
    for kind in KINDS:
        if not _is_interval(values["intervals"].get(kind)):
            return f"its {kind} interval is not [low, high]"
    if not all(isinstance(law, dict) for law in values["laws"].values()):
        return "'laws' does not hold an object per law"
    if not _is_grid(values.get("nearby"), values["within"]):
        return "'nearby' is not a table of losses"
    return _fault_of_table(values["table"])


def _fault_of_table(table: dict[str, Any]) -> str | None:
    kinds: dict[str, type] = {"sources": list, "selection": dict, "text": dict, "near": list}
    for name, kind in kinds.items():
        if not isinstance(table.get(name), kind):
            return f"'table' has no {name!r}"
    words = (*table["sources"], *table["near"])
    return None if all(isinstance(word, str) for word in words) else "'table' has odd values"


def is_positive(value: Any) -> bool:
    """Whether a value of a JSON file is a positive, finite number."""
    return type(value) in (int, float) and 0 < value < math.inf


def _is_interval(ends: Any) -> bool:
    return ends is None or (
        isinstance(ends, list)
        and len(ends) == 2
        and all(end is None or type(end) in (int, float) for end in ends)
    )


def _is_grid(nearby: Any, within: float) -> bool:
    """Whether this is a square of losses at different factors, which reach as far as runs count."""
    factors = nearby.get("factors") if isinstance(nearby, dict) else None
    L = nearby.get("L") if isinstance(nearby, dict) else None
    if not isinstance(factors, list) or not isinstance(L, list) or len(L) != len(factors):
        return False
    for row in (factors, *L):
        if not isinstance(row, list) or len(row) != len(factors):
            return False
        if not all(map(is_positive, row)):
            return False
    reach = within * (1 - 1e-9)
    different = len(set(factors)) == len(factors) > 1
    return different and max(factors) >= reach and min(factors) <= 1 / reach


# ------------------------------------------------------------------ the table behind a record


def content_hash(runs: pd.DataFrame) -> str:
    """Return the sha256 of the N, D and L of a table's rows, whatever their order and format."""
    rows = sorted(row_hashes(runs))
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def row_hashes(runs: pd.DataFrame) -> list[str]:
    """Return a short hash of the N, D and L of each row."""
    columns = (runs[name].to_numpy(float) for name in ("N", "D", "L"))
    return [
        hashlib.sha256(struct.pack("<3d", *row)).hexdigest()[:16]
        for row in zip(*columns, strict=True)
    ]


def text_of(runs: pd.DataFrame) -> dict[str, str]:
    """Return what the losses of all runs are measured on, as far as it is known: losses on another
    text, or in other tokens, are no test."""
    found = {}
    for name in _TEXT:
        values = runs[name].dropna().unique() if name in runs.columns else ()
        if len(values) == 1:
            found[name] = str(values[0])
    return found


def is_near(runs: pd.DataFrame, N: float, D: float, within: float) -> pd.Series:
    """Return which rows have an N and a D within a factor of those given."""
    slack = within * (1 + 1e-9)
    near = [runs[name].between(x / slack, x * slack) for name, x in (("N", N), ("D", D))]
    return near[0] & near[1]


def _near(runs: pd.DataFrame, N: float, D: float) -> list[str]:
    """Return the hashes of the rows that were fitted and that lie near the prediction, which
    therefore cannot test it."""
    return sorted(row_hashes(runs[is_near(runs, N, D, WITHIN)]))


def _from_folder(source: str | Path, folder: Path) -> str:
    """Return a path relative to a folder, so that both can be moved together."""
    return Path(os.path.relpath(source, folder)).as_posix()


def _version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("scaling-laws-lab")
    except PackageNotFoundError:
        return None
