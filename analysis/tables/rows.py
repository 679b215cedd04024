"""Which rows of a table count: finished runs that have a loss, each once.

:func:`analysis.load` applies these rules for every command, in this order: only finished runs, only
rows that meet the condition, exact duplicates once, no rows without a loss, of an evaluation that a
resumed run wrote twice the last, and, if asked for, of every run its last evaluation.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import ConfigError, TableError
from scaling.units import count, number


class RowsLeftOut(UserWarning):
    """States which rows of a table were left out, and why."""


Evaluations = str
"""Rows of runs with several evaluations: 'last', 'best' (the lowest loss), 'at=TOKENS' (the loss
there, interpolated), 'all', or 'auto': the last if these suffice to determine a law, else all."""
_FINAL = ("auto", "last", "all")
"""Those that take the one row of each run, if a table has one."""
FEWEST = 10
"""Fewest runs of which 'auto' takes only the last evaluation."""
_FEWEST_POINTS = 7
"""Fewest different (N, D) of last evaluations: a law of both has up to five parameters."""
_LEAST_SPREAD = 0.3
"""Smallest standard deviation of ln D, apart from its trend with ln N, with which the last
evaluations tell N from D."""
LAST = "earlier evaluations of their runs"
"""Reason for rows that were left out: a later evaluation of their run counts."""
NOT_BEST = "evaluations of their runs that are not the best"
_AT_TOKENS = 0.01
"""How far from some tokens, relative to them, an evaluation may stand for them."""
CHOICE = "evaluations"
"""Key in the attrs of a table: why the evaluations that count were chosen, in words."""

_SETTINGS = ("run_id", "test_set", "N", "B", "lr_peak", "seed", "n_layer", "d_model")
"""Columns that stay the same during a run. Rows of one run_id that differ in one of them are
different runs."""
_ROW_NUMBERS = ("", "index", "row", "rank", "#", "level_0", "no", "nr")


def used_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of finished runs: those with status 'ok', or all if there is no status."""
    return table[table["status"] == "ok"] if "status" in table.columns else table


def repeated(table: pd.DataFrame, files: pd.Series | None = None) -> pd.Series:
    """Return which rows repeat an earlier one: every column is equal, as written.

    files: the file of each row, if there are several; it is not compared.

    Columns of row numbers are not compared. Rows with different ids are different runs.
    """
    names = [name for name in table.columns if not _numbers_rows(table, name, files)]
    if not names:
        return pd.Series(False, table.index)
    return _comparable(table[names]).duplicated()


def _comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with objects such as lists, which have no hash, as text."""
    objects = [name for name in table.columns if table[name].dtype == object]
    return table.assign(**{name: table[name].map(repr) for name in objects})


def _numbers_rows(table: pd.DataFrame, name: Any, files: pd.Series | None) -> bool:
    word = str(name).strip().lower()
    if word not in _ROW_NUMBERS and not word.startswith("unnamed:"):
        return False
    if not pd.api.types.is_numeric_dtype(table[name]):
        return False
    numbers = table[name]
    rises = numbers.diff() if files is None else numbers.groupby(files).diff()
    return bool(numbers.notna().all() and (rises.dropna() > 0).all())


def with_loss(table: pd.DataFrame, where: str, *, strict: bool) -> tuple[pd.DataFrame, int]:
    """Return the table without finished rows whose loss is missing or infinite, and their number.

    Raises TableError if no loss is left or, if strict, one is missing.
    """
    used = used_rows(table)
    loss = used["L"].to_numpy(float, na_value=np.nan)
    lacking = used.index[~np.isfinite(loss)]
    if not len(lacking):
        return table, 0
    first = f"first at row {lacking[0]} (L={loss[~np.isfinite(loss)][0]})"
    if len(lacking) == len(used):
        raise TableError(
            f"{where}: no row has a loss: column 'L' of all {len(used)} rows is empty or not "
            f"finite, {first}. Is it the right column? --map COLUMN=L names another."
        )
    if strict:
        raise TableError(
            f"{where}: column 'L' must be positive and finite: {len(lacking)} of {len(used)} rows "
            f"{'is' if len(lacking) == 1 else 'are'} not, {first}. Leave such rows out with "
            '--where "L > 0".'
        )
    return table.drop(index=lacking), len(lacking)


def written_once(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the table with the last of the rows that a resumed run wrote for one step, and the
    number of the others."""
    step = next((n for n in ("S", "D") if n in table.columns and table[n].notna().all()), None)
    if "run_id" not in table.columns or step is None:
        return table, 0
    again = _comparable(used_rows(table)[[*_settings(table), step]]).duplicated(keep="last")
    return table.drop(index=again.index[again]), int(again.sum())


def evaluations(
    table: pd.DataFrame, which: Evaluations, inputs: Collection[str] = ("N", "D")
) -> tuple[pd.DataFrame, int, str]:
    """Return the table with the evaluations of each run that count, the number of the others, and
    for 'auto' the reason in words.

    Only finished rows are compared; the others stay as they are. `inputs` are the columns that a
    law needs.
    """
    used = used_rows(table)
    order = next((n for n in ("D", "S") if n in table.columns), None)
    if which == "all" or "run_id" not in table.columns or order is None:
        return table, 0, ""
    in_order = used.sort_values(order, kind="stable")
    last = _comparable(in_order[_settings(table)]).duplicated(keep="last")
    earlier = last.index[last]
    why = ""
    if which == "auto" and len(earlier):
        runs = len(used) - len(earlier)
        curves = len(earlier) >= runs / 2  # else runs were resumed
        lacking = insufficient(used.drop(index=earlier), inputs)
        if lacking and (curves or runs < FEWEST):
            return table, 0, f"all count, since {lacking}; --rows last takes only the last"
        why = "--rows all takes these too"
    return table.drop(index=earlier), len(earlier), why


def tokens_at(which: Evaluations) -> float | None:
    """Return the tokens of 'at=TOKENS', and None for other choices.

    Raises ConfigError if there is no such choice.
    """
    if which in (*_FINAL, "best"):
        return None
    word, equals, text = which.partition("=")
    try:
        tokens = number(text) if equals and word.strip() == "at" else 0.0
    except ValueError:
        tokens = 0.0
    if not tokens > 0:
        raise ConfigError(
            f"rows {which!r} is none of {', '.join(_FINAL)}, best and at=TOKENS, such as at=2B."
        )
    return tokens


def of_final_rows(which: Evaluations) -> bool:
    """Return whether a choice of evaluations takes the last of each run, where a table has that."""
    return tokens_at(which) is None and which != "best"


def chosen(table: pd.DataFrame, which: Evaluations) -> tuple[pd.DataFrame, dict[str, int], str]:
    """Return the best evaluation of each run, or its loss at some tokens; the number of the rows
    left out by reason; and the choice in words.

    The loss at some tokens is interpolated linearly in ln D between two evaluations. A run without
    an evaluation on both sides is left out, unless one is within a percent.
    """
    tokens = tokens_at(which)
    used = used_rows(table)
    if "run_id" not in table.columns or not used["run_id"].duplicated().any():
        return table, {}, ""
    others = table.drop(index=used.index)
    groups = [rows for _, rows in used.groupby(_settings(table), dropna=False, sort=False)]
    if tokens is None:
        kept = used.loc[[rows["L"].astype(float).idxmin() for rows in groups]]
        why = "the lowest loss of each run, which noise lowers further"
        return pd.concat([kept, others]).sort_index(), {NOT_BEST: len(used) - len(kept)}, why
    found = [_at(rows.sort_values("D", kind="stable"), tokens) for rows in groups]
    rows = [row for row in found if row is not None]
    text = count(tokens)
    if not rows:
        raise TableError(f"no run was evaluated at {text} tokens and on both sides of it.")
    left_out = {f"runs not evaluated on both sides of {text} tokens": len(found) - len(rows)}
    kept = pd.DataFrame(rows).astype(used.dtypes.to_dict(), errors="ignore")
    why = f"the loss at {text} tokens, interpolated in ln D"
    return pd.concat([kept, others]).sort_index(), {k: n for k, n in left_out.items() if n}, why


def _at(rows: pd.DataFrame, tokens: float) -> pd.Series | None:
    """Return the row of a run at some tokens; None if it has none."""
    D = rows["D"].to_numpy(float)
    at = float(np.clip(tokens, D[0], D[-1]))
    if abs(at / tokens - 1) > _AT_TOKENS:
        return None
    row = rows.iloc[int(np.searchsorted(D, at))].copy()
    row["L"] = np.interp(np.log(at), np.log(D), rows["L"].to_numpy(float))
    for name in ("S", "C"):
        if name in rows.columns:
            row[name] = np.interp(at, D, rows[name].to_numpy(float))
    row["D"] = at
    return row


def insufficient(runs: pd.DataFrame, inputs: Collection[str]) -> str:
    """Return why one row of each run does not determine a law of `inputs`; '' if it does."""
    if len(runs) < FEWEST:
        return f"there are fewer than {FEWEST} runs"
    names = [name for name in ("N", "D") if name in inputs and name in runs.columns]
    if "D" not in names:
        return ""
    values = runs[names].apply(pd.to_numeric, errors="coerce").astype(float)
    values = values[(np.isfinite(values) & (values > 0)).all(axis=1)]
    logs = np.log(values.to_numpy())
    points = len(np.unique(np.round(logs, 2), axis=0))  # equal within a percent
    D = logs[:, -1] - logs[:, -1].mean()
    if len(names) == 2:
        N = logs[:, 0] - logs[:, 0].mean()
        slope = (N @ D) / (N @ N) if N @ N > 0 else 0.0
        if np.std(D - slope * N) < _LEAST_SPREAD:
            of = "is nearly the same" if np.std(D) < _LEAST_SPREAD else "follows N"
            return f"D {of} at the last of each run"
    elif np.std(D) < _LEAST_SPREAD:
        return "D is nearly the same at the last of each run"
    if points < _FEWEST_POINTS:
        return f"the last of each run are at only {points} different {' and '.join(names)}"
    return ""


def with_own_ids(table: pd.DataFrame) -> pd.DataFrame:
    """Return learning curves in which every run has a run_id of its own.

    A run_id shared by runs of several sizes, or missing, is followed by a number.
    """
    number = table.groupby(_settings(table), dropna=False, sort=False).ngroup()
    shared = number.groupby(table["run_id"]).transform("nunique").ne(1) | table["run_id"].isna()
    if not shared.any():
        return table
    names = table["run_id"].astype(object).where(table["run_id"].notna(), "").astype(str)
    return table.assign(run_id=names.mask(shared, names + " #" + number.astype(str)))


def _settings(table: pd.DataFrame) -> list[str]:
    """Return the columns that tell runs apart. A quotient such as B = D / S, which changes during
    a run whose steps count from 0, is none of them."""
    derived = table.attrs.get("derived", {})
    return [name for name in _SETTINGS if name in table.columns and name not in derived]


def finished(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the finished runs of a loaded table. Raises TableError if there are none."""
    used = used_rows(table)
    if len(table) and used.empty:
        counts = table["status"].value_counts().items()
        found = ", ".join(f"{n} {word}" for word, n in counts)
        raise TableError(f"{where}: no row has status 'ok' ({found}): nothing to fit.")
    left_out = reasons(table)
    used = used.copy()
    used.attrs = {k: v for k, v in table.attrs.items() if k != "unfinished"}
    if left_out:
        used.attrs["left_out"] = left_out
    return used


def reasons(table: pd.DataFrame) -> dict[str, int]:
    """Return why rows of a loaded table were left out or do not count, {reason: number}."""
    return {**table.attrs.get("unfinished", {}), **table.attrs.get("left_out", {})}


def in_words(table: pd.DataFrame) -> str:
    """Return the number of rows that count and of those left out, such as '38 finished runs; left
    out: 3 crashed, 2 running'; '' if every row of the file is a run that counts."""
    used, left_out = used_rows(table), reasons(table)
    runs = len(used.drop_duplicates(_settings(table))) if "run_id" in table.columns else len(used)
    ended = "finished " if "status" in table.columns else ""
    what = f"{ended}runs" if ended or "run_id" in table.columns else "rows"
    if runs < len(used):
        what = f"evaluations of {runs} {ended}runs"
    elif not left_out:
        return ""
    listed = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
    why = table.attrs.get(CHOICE, "")
    if why and LAST in left_out:
        listed, why = f"{listed} ({why})", ""
    return (
        f"{len(used)} {what}{f' ({why})' if why else ''}{f'; left out: {listed}' if listed else ''}"
    )
