"""Losses of different objectives do not compare: encoders and models of the next token."""

from __future__ import annotations

import pandas as pd

from analysis.tables.rows import used_rows
from scaling.errors import TableError

ENCODER = "encoder"
"""The model family that predicts masked tokens."""


def check_one_objective(table: pd.DataFrame, where: str = "the table") -> None:
    """Raise TableError if some of the finished runs are encoders and others are not.

    An encoder's loss is that of masked tokens, whose neighbours on both sides it sees.
    """
    encoder = _encoders(table)
    if encoder.any() and not encoder.all():
        raise TableError(
            f"{where}: {encoder.sum()} of {len(encoder)} runs are encoders, whose loss is that of "
            "masked tokens; the others predict the next token. Their losses do not compare. Keep "
            f"""one kind: --where "family == '{ENCODER}'" or --where "family != '{ENCODER}'"."""
        )


def check_same_objective(tables: tuple[pd.DataFrame, pd.DataFrame], names: tuple[str, str]) -> None:
    """Raise TableError if one of two tables to compare has encoders and the other has not."""
    for name, table in zip(names, tables, strict=True):
        check_one_objective(table, name)
    kinds = [bool(len(table)) and _encoders(table).all() for table in tables]
    if kinds[0] != kinds[1]:
        of = names if kinds[0] else names[::-1]
        raise TableError(
            f"{of[0]} has encoders, whose loss is that of masked tokens, and {of[1]} has models of "
            "the next token: their losses do not compare. Compare encoders with encoders."
        )


def _encoders(table: pd.DataFrame) -> pd.Series:
    """Return which finished runs are encoders."""
    used = used_rows(table)
    if "family" not in used.columns:
        return pd.Series(False, used.index)
    return used["family"].astype(str).str.strip().str.lower() == ENCODER
