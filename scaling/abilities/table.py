"""tasks.parquet: the scores of the runs of a results folder, one row for each metric.

A row is identified by run, task, version, shots and metric; writing it again replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import TableError
from scaling.files import check_regular, replacing

if TYPE_CHECKING:
    import pandas as pd

FILE = "tasks.parquet"

COLUMNS: dict[str, str] = {
    "run_id": "str",
    "task": "str",
    "version": "str",
    "shots": "int64",
    "metric": "str",
    "n": "int64",
    "value": "float64",
    "stderr": "float64",
    "nll": "float64",
    "bits_per_byte": "float64",
    "p_gold": "float64",
    "chance": "float64",
    "main": "bool",
}
"""Columns and their types.

version: hash of the items. n: number of items. value, stderr: the metric and its standard error.
nll [nats] and bits_per_byte: mean loss of the right answers. p_gold: mean probability of the right
answer among the choices. chance: accuracy of a random choice. main: whether the metric is the main
one of its task."""

EVALUATION = ("run_id", "task", "version", "shots")
"""Columns that identify one evaluation, of several metrics."""

_KEY = [*EVALUATION, "metric"]


def read(folder: Path) -> pd.DataFrame:
    """Return tasks.parquet of a results folder, without rows if it does not exist.

    Raises TableError if it cannot be read or lacks a column.
    """
    import pandas as pd
    import pyarrow as pa

    path = folder / FILE
    again = f"delete it and evaluate again with `scaling eval {folder}`."
    try:
        check_regular(path)
        table = pd.read_parquet(path)
    except FileNotFoundError:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise TableError(f"{path} cannot be read ({reason.rstrip('.')}); {again}") from None
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise TableError(f"{path} has no column {', '.join(map(repr, lacking))}; {again}")
    return table


def update(folder: Path, run_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows of a run into tasks.parquet, in place of those of the same key.

    The file exists in full or not at all; other processes that write at the same moment wait.
    """
    import pandas as pd
    from filelock import FileLock

    with FileLock(folder / f".{FILE}.lock"):
        new = pd.DataFrame([{"run_id": run_id, **row} for row in rows], columns=list(COLUMNS))
        old = read(folder)
        both = new if old.empty else pd.concat([old, new.astype(COLUMNS)], ignore_index=True)
        both = both.drop_duplicates(_KEY, keep="last").sort_values(_KEY, kind="stable")
        with replacing(folder / FILE) as (temporary,):
            both.to_parquet(temporary, index=False)


def evaluated(table: pd.DataFrame) -> set[tuple[str, str, str, int]]:
    """Return the (run_id, task, version, shots) that a table holds."""
    return set(table[list(EVALUATION)].itertuples(index=False, name=None))
