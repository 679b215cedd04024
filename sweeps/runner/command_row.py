"""The columns of a run of a command that are known before it trains, and the names of columns."""

from __future__ import annotations

from typing import Any

from scaling.columns import COLUMNS
from scaling.command_run import CommandRun, Value
from sweeps.runner.names import own_name

DTYPES = {c.name: c.dtype for c in COLUMNS}
"""{column of the schema: dtype}."""

_OURS = frozenset({"run_id", "status", "C", "seconds", "pack", "error", "command", "tag"})
"""Columns that we fill; a report of the same name is kept as reported_<name>."""


def command_row(run: CommandRun) -> dict[str, Any]:
    """Return the columns of a row that follow from the run alone: its command, keys and sizes."""
    row: dict[str, Any] = {"run_id": run.run_id, "status": "", "error": "", "L": None}
    row |= {"command": " ".join(run.command), "tag": run.tag}
    for key, value in run.values.items():
        row[column_of(key, value)] = value if DTYPES.get(key) != "str" else str(value)
    row["N"], row["D"], row["B"], row["S"] = run.N, run.D or None, run.batch_tokens, run.S
    row["C"] = 6.0 * run.N * run.D if run.N and run.D else None
    lr = run.values.get(run.lr)
    if isinstance(lr, int | float) and not isinstance(lr, bool):
        row["lr_peak"] = float(lr)
    if run.seed_key in run.values:
        row.setdefault("seed", run.seed)
    return row


def column_of(name: str, value: Value) -> str:
    """Return the column of a key or of a reported name: its own name unless that is taken."""
    dtype = DTYPES.get(name)
    if name in _OURS or (dtype is not None and not _fits(value, dtype)):
        return f"reported_{name}"
    return own_name(name)


def _fits(value: object, dtype: str) -> bool:
    if dtype == "str":
        return not isinstance(value, bool) and isinstance(value, str | int | float)
    if dtype == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return dtype == "float" or (isinstance(value, int) or value % 1 == 0)
