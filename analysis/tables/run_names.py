"""Which column of a table tells runs apart, though it is not called run_id."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import pandas as pd

_RUN = re.compile(r"(?:.*[./])?_?(?:run|trial|job)[_ .-]?(?:id|name|uid|number)?|run", re.I)
"""Names of columns whose values tell runs apart."""
_ROW = re.compile(r"(?:uu|u)?id|name|display_?name", re.I)
"""Names of columns that may, if few values occur twice or if they name the rows of a history."""
_STEP = re.compile(r"(?:.*[./])?_?(?:global_?)?step", re.I)
"""Names of columns of the step at which a row was logged; `steps` may be a setting."""


def column_of_runs(
    table: pd.DataFrame, names: Collection[str], N: np.ndarray | None, *, histories: bool
) -> str | None:
    """Return the column among `names` that tells runs apart, or None.

    N: (n,) parameters of each row, if they are known; a run has one number of them.
    histories: whether only a table of several rows per run needs one.
    """
    steps = [table[name] for name in table.columns if _STEP.fullmatch(str(name))]
    for column in sorted(names, key=lambda name: (not _RUN.fullmatch(name), name)):
        values = table[column].map(str, na_action="ignore")
        if values.isna().any() or values.nunique() < 2:
            continue
        one_size = N is None or not (pd.Series(N, values.index).groupby(values).nunique() > 1).any()
        is_run, is_row = _RUN.fullmatch(column), _ROW.fullmatch(column)
        if (is_run or is_row) and one_size and any(_is_history(values, each) for each in steps):
            return column
        if not histories and one_size and (is_run or (is_row and _mostly_once(values))):
            return column
    return None


def _mostly_once(runs: pd.Series) -> bool:
    """Return whether most names occur in one row; the others are runs that were resumed."""
    counts = runs.value_counts()
    return bool((counts == 1).mean() > 0.6)


def _is_history(runs: pd.Series, steps: pd.Series) -> bool:
    """Return whether the rows of each run stand together, at several steps."""
    together = (runs != runs.shift()).sum() == runs.nunique()
    points = pd.DataFrame({"run": runs, "step": steps}).drop_duplicates()
    return bool(together and len(points) > 1.5 * runs.nunique())
