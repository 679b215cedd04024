"""Runs and learning curves as the page's scripts read them: small, and safe inside a <script>.

Numbers of runs have five digits. A curve is thinned to a number of points that depends on the
number of runs, evenly spaced in the logarithm of its tokens; its ends stay. Coordinates are stored
as 16-bit positions on a log scale, which is finer than a pixel.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from scaling.columns import COLUMNS
from scaling.jsonable import finite

POINTS = 200_000
"""Most points of all learning curves together."""
FEWEST, MOST = 8, 200
"""Least and most points that a learning curve keeps, whatever the number of runs."""
_STEPS = 65_535
"""Steps of the log scale of a coordinate."""
_AXES = ("C", "D", "S", "L")
_SHOWN = (
    "tag", "N", "D", "C", "B", "S", "L", "L_stderr", "bits_per_byte", "lr_peak", "n_layer",
    "d_model", "n_head", "family", "schedule", "seed", "seconds",
)  # fmt: skip
"""Columns of the table of runs, if the table has them. Those of a run's config are shown only if
runs differ in them."""
_ALWAYS = ("N", "D", "C", "L")


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Return all runs of a table as the page lists them: finished runs by size, then the others.

    The table has the columns run_id and status afterwards, whatever it had before.
    """
    table = table.reset_index(drop=True)
    if "run_id" not in table.columns:
        table = table.assign(run_id=[str(i + 1) for i in range(len(table))])
    if "status" not in table.columns:
        table = table.assign(status="ok")
    ended = table["status"].astype(str) != "ok"
    keys = [c for c in ("N", "D") if c in table.columns]
    order = table.assign(_ended=ended).sort_values(["_ended", *keys], kind="stable").index
    return table.loc[order].reset_index(drop=True)


def columns(runs: pd.DataFrame) -> list[str]:
    """Return the columns of the table of runs, after run_id and before status and error."""
    return [
        name for name in _SHOWN
        if name in runs.columns and runs[name].notna().any()
        and (name in _ALWAYS or runs[name].astype(str).nunique() > 1)
    ]  # fmt: skip


def varied(runs: pd.DataFrame) -> list[str]:
    """Return the fields of a run's config that differ between runs and are in no other column."""
    config = [c.name for c in COLUMNS if c.is_config and c.name in runs.columns]
    return [n for n in config if n not in _SHOWN and runs[n].astype(str).nunique() > 1]


def run_values(runs: pd.DataFrame) -> dict[str, Any]:
    """Return the runs as {name: list}, for a script: ids, states, reasons and every column."""
    shown, config = columns(runs), varied(runs)
    values = {name: _column(runs[name]) for name in dict.fromkeys((*_ALWAYS, *shown, *config))
              if name in runs.columns}  # fmt: skip
    error = runs["error"] if "error" in runs.columns else pd.Series([None] * len(runs))
    return {
        "id": [str(run) for run in runs["run_id"]],
        "status": [str(status) for status in runs["status"]],
        "error": [None if value is None else str(value) for value in _column(error)],
        "columns": shown,
        "config": config,
        "values": values,
    }


def points_per_curve(runs: int) -> int:
    """Return the number of points that each of the curves of `runs` runs keeps at most."""
    return int(np.clip(POINTS // max(runs, 1), FEWEST, MOST))


def curve_values(runs: pd.DataFrame, curves: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return the thinned learning curves of the runs as packed arrays; None without any."""
    if curves is None or "run_id" not in curves.columns:
        return None
    place = {run: i for i, run in enumerate(runs["run_id"].astype(str))}
    owner = curves["run_id"].astype(str).map(place)
    names = [name for name in _AXES if name in curves.columns and curves[name].notna().any()]
    if not {"D", "L"} <= set(names):
        return None
    values = curves[names].to_numpy(float)
    with np.errstate(invalid="ignore"):
        good = owner.notna().to_numpy() & (np.isfinite(values) & (values > 0)).all(axis=1)
    if not good.any():
        return None
    owner_of = owner.to_numpy(float)[good].astype(int)
    values = values[good]
    order = np.lexsort((values[:, names.index("D")], owner_of))
    owner_of, values = owner_of[order], values[order]
    kept = _thinned(owner_of, values[:, names.index("D")], points_per_curve(len(runs)))
    owner_of, values = owner_of[kept], values[kept]
    starts = np.searchsorted(owner_of, np.arange(len(runs) + 1))
    packed = {name: _packed(values[:, i]) for i, name in enumerate(names)}
    return {"starts": starts.tolist(), "axes": packed, "most": points_per_curve(len(runs)),
            "thinned": bool(len(kept) < int(good.sum()))}  # fmt: skip


def embedded(value: Any) -> str:
    """Return `value` as JSON for a <script>.

    No text in it can close or change that element, or act as a line end in JavaScript.
    """
    text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)  # ASCII only
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def five_digits(values: Any) -> list[float | None]:
    """Return numbers with five digits; None for those that are unknown or infinite."""
    return [finite(float(f"{float(value):.5g}")) for value in values]


def places(runs: pd.DataFrame, ids: Iterable[Any]) -> list[int]:
    """Return the place of each run of a fit in the page's list of runs; -1 if it is not there."""
    place = {run: i for i, run in enumerate(runs["run_id"].astype(str))}
    return [place.get(str(run), -1) for run in ids]


def _thinned(owner: np.ndarray, D: np.ndarray, most: int) -> np.ndarray:
    """Return the rows to keep: of each run at most `most`, evenly spaced in ln D."""
    ends = np.r_[0, np.flatnonzero(np.diff(owner)) + 1, len(owner)]
    kept = []
    for first, last in itertools.pairwise(ends):
        if last - first <= most:
            kept.append(np.arange(first, last))
            continue
        x = np.log(D[first:last])
        near = np.searchsorted(x, np.linspace(x[0], x[-1], most))
        kept.append(first + np.unique(np.clip(near, 0, last - first - 1)))
    return np.concatenate(kept)


def _packed(values: np.ndarray) -> dict[str, Any]:
    """Return positive numbers as base64 of 16-bit positions between the ends of a log scale."""
    logs = np.log(values)
    low, high = float(logs.min()), float(logs.max())
    scale = (high - low) or 1.0
    steps = np.round((logs - low) / scale * _STEPS).astype("<u2")
    return {"low": low, "high": low + scale, "data": base64.b64encode(steps.tobytes()).decode()}


def _column(values: pd.Series) -> list[Any]:
    """Return a column for JSON: numbers in five digits, text as it is, None for unknown values."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return five_digits(values.to_numpy(dtype=float, na_value=np.nan))
    return [_value(value) for value in values]


def _value(value: Any) -> str | float | None:
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return five_digits([value])[0]
    return str(value)
