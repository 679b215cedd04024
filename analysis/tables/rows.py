"""Which rows of a table count: the finished runs, and those that a condition selects."""

from __future__ import annotations

import warnings

import pandas as pd

from scaling.columns import STATUSES
from scaling.errors import TableError


def used_rows(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"] == "ok"] if "status" in table.columns else table


def check_statuses(table: pd.DataFrame, where: str) -> None:
    """Warn about rows left out for an unknown status; raise TableError if no row is left."""
    if "status" not in table.columns or not len(table):
        return
    counts = table["status"].astype(str).value_counts()
    found = ", ".join(f"{n} {word!r}" for word, n in counts.items())
    unknown = [word for word in counts.index if word not in STATUSES]
    if unknown and "ok" not in counts.index:
        raise TableError(
            f"{where}: status is {found}, but rows that count are called 'ok' (the others "
            "'diverged', 'stopped' or 'failed'). Replace the words, or rename the column so that "
            "every row counts, say map={'status': 'note'}."
        )
    if unknown:
        warnings.warn(
            f"{where}: status is {found}; only 'ok' rows count; unknown: "
            f"{', '.join(map(repr, unknown))} (known are {', '.join(STATUSES)}).",
            stacklevel=3,
        )


def matching(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the rows that satisfy a condition, such as "D > 1e9" or "D == D.max()".

    Raises TableError if it is not a condition on the rows, or if no row is left.
    """
    try:
        kept = table.query(where)
        if not isinstance(kept, type(table)):
            raise TypeError("it is not true or false for each row")
    except Exception as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise TableError(
            f"--where {where!r} is not a condition on the rows ({why}). Compare columns, as in "
            f"'D > 1e9' or 'D == D.max()'; the columns are {', '.join(map(str, table.columns))}."
        ) from None
    if kept.empty:
        raise TableError(
            f"--where {where!r} leaves an empty table: none of {len(table)} rows match."
        )
    return kept
