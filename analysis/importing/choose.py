"""Which metric is the loss, and what the tracker's columns are before their names are guessed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from analysis.importing.batches import (
    counts_of_sequences,
    in_tokens,
    is_of_a_batch,
    size_of,
    tokens_per_step,
    which,
)
from analysis.importing.frames import Tracked, names_in
from analysis.importing.shapes import count_from_shapes
from scaling.column_words import Meaning, meaning
from scaling.errors import TableError, nearest
from scaling.mapping import alternatives, option

ALL = "all"
"""The loss that stands for all test sets, a row for each."""

_LISTED = 12


# ------------------------------------------------------------------ the loss


def losses(tracked: Tracked, names: Mapping[str, str], loss: str | None) -> list[str]:
    """Return the metrics that are the loss: one, or with `loss` "all" one per test set.

    Raises TableError, with the candidates and their ranges, if none or several may be.
    """
    given = [expression for expression, symbol in names.items() if symbol == "L"]
    if given and loss is not None:
        raise TableError(f"{tracked.source}: --map and --loss both name the loss; keep one.")
    everything = {**tracked.metrics, **tracked.totals}
    if given:
        found = names_in(given[0], everything)
        return [name for name in found if name in tracked.metrics] or found
    candidates = _candidates(tracked)
    if loss not in (None, ALL):
        if loss in everything:
            return [loss]
        close = nearest(loss, everything)
        near = f" Did you mean {close!r}?" if close else ""
        listed = ", ".join(candidates or list(everything)[:_LISTED])
        raise TableError(
            f"{tracked.source}: no run has a metric {loss!r}; there are {listed}.{near}"
        )
    if not candidates:
        raise TableError(_no_loss(tracked))
    best = max(what.rank for what in candidates.values())
    if loss == ALL:
        kind = candidates[next(n for n, w in candidates.items() if w.rank == best)]
        return [n for n, w in candidates.items() if w.rank[:3] == kind.rank[:3]]
    equal = _different(tracked, [n for n, what in candidates.items() if what.rank == best])
    if len(equal) > 1:
        what = " or ".join(f"{name!r} ({_range(tracked, name)})" for name in equal[:_LISTED])
        more = f" and {len(equal) - _LISTED} more" if len(equal) > _LISTED else ""
        raise TableError(
            f"{tracked.source}: L, the loss, may be {what}{more}. Say which: "
            f"{alternatives(equal[:_LISTED], 'L')}. `scaling import --loss all` writes one row per "
            "run and test set."
        )
    return equal


def _candidates(tracked: Tracked) -> dict[str, Meaning]:
    """Return the metrics that may be the loss: those with histories, unless only summaries hold
    losses that are held out."""
    in_history = _meaning(tracked.metrics, "L")
    in_summary = _meaning(tracked.totals, "L")
    held_out = {n: what for n, what in in_summary.items() if what.kind != "training"}
    if not in_history or (held_out and all(w.kind == "training" for w in in_history.values())):
        return in_summary or in_history
    return in_history


def _meaning(names: Iterable[str], symbol: str) -> dict[str, Meaning]:
    known = {name: meaning(name) for name in sorted(names)}
    return {n: what for n, what in known.items() if what is not None and what.symbol == symbol}


def _different(tracked: Tracked, names: list[str]) -> list[str]:
    """Return the names without those that hold the same values as a shorter one."""
    found: list[str] = []
    for name in sorted(names, key=lambda each: (len(each), each)):
        values = tracked.values(name)
        if not any(
            len(values) == len(other) and np.allclose(values, other, rtol=1e-9, equal_nan=True)
            for other in map(tracked.values, found)
        ):
            found.append(name)
    return found


def _no_loss(tracked: Tracked) -> str:
    names = [*tracked.metrics, *tracked.totals]
    if not names:
        return f"{tracked.source}: none of {len(tracked.runs)} runs has logged a number."
    listed = ", ".join(f"{name} ({_range(tracked, name)})" for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    free = [name for name in names if meaning(name) is None]
    ask = (
        f"Is it one of these? Say {option({free[0]: 'L'})}, for example."
        if free
        else ("By their names, none of them is one.")
    )
    return (
        f"{tracked.source}: no metric of {len(tracked.runs)} runs is called a loss. They are "
        f"{listed}{more}. {ask}"
    )


def _range(tracked: Tracked, name: str) -> str:
    values = tracked.values(name)
    values = values[np.isfinite(values)]
    if not len(values):
        return "no finite number"
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return f"{low if low == high else f'{low} to {high}'} in {len(values)} runs"


# ------------------------------------------------------------------ the other columns


def assumed(
    tracked: Tracked, table: pd.DataFrame, names: Mapping[str, str], found: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Return {column or expression: symbol} of what a tracker settles and names do not, and notes.

    These are the loss that was chosen, the steps, and tokens per step that are a product of several
    settings. N is added to the table if only shapes tell it.
    """
    given, notes = set(names.values()), []
    more: dict[str, str] = {}
    if "L" not in given and len(found) == 1:
        more[found[0]] = "L"
        what = meaning(found[0])
        if what is not None and what.kind == "training":
            notes.append(f"{found[0]!r} is a training loss")
    if "S" not in given and tracked.step in table.columns:
        more[tracked.step] = "S"
    columns = [str(name) for name in table.columns]
    if "N" not in given and not _meaning(columns, "N") and "N" not in columns:
        notes += _count(table)
    if not given & {"D", "B"} and not _meaning(columns, "D") and not _meaning(columns, "B"):
        _check_sequences(tracked, table)
        if batch := _tokens_per_step(tracked, table, notes):
            more[batch] = "B"
        if "S" not in given:
            _check_steps(tracked, table)
    return more, notes


def _count(table: pd.DataFrame) -> list[str]:
    """Add N, counted from the settings of each run, if those of all finished ones tell it; return
    a note."""
    found = [count_from_shapes(row) for row in table.to_dict("records")]
    lacks = np.array([each is None for each in found], bool)
    if lacks.all() or (lacks & (table["status"] == "ok")).any():
        return []
    table["N"] = [math.nan if each is None else float(each[0]) for each in found]
    return [f"N = {text}" for text in dict.fromkeys(each[1] for each in found if each)]


def _check_sequences(tracked: Tracked, table: pd.DataFrame) -> None:
    """Raise TableError if runs count sequences, and nothing counts tokens."""
    counts = counts_of_sequences(tracked.metrics)
    if counts:
        raise TableError(
            f"{tracked.source}: {counts[0]!r} counts sequences ({_range(tracked, counts[0])}), "
            f"{in_tokens(counts[0], [str(name) for name in table.columns])}"
        )


def _tokens_per_step(tracked: Tracked, table: pd.DataFrame, notes: list[str]) -> str:
    """Return tokens per step as a product of settings, if it takes more than two; else ''.

    Raises TableError if the settings can be read in two ways.
    """
    sizes = {
        name: pd.to_numeric(table[name], errors="coerce").to_numpy(float)
        for name in map(str, table.columns)
        if is_of_a_batch(name)
    }
    found = tokens_per_step(sizes)
    if len(found) > 1:
        raise TableError(f"{tracked.source}: {which(found, size_of(found[0], sizes))}")
    notes += [each.note for each in found if each.note]
    return found[0].expression if found else ""


def _check_steps(tracked: Tracked, table: pd.DataFrame) -> None:
    """Raise TableError if W&B counted calls of log(), and a setting says that steps are others."""
    planned = list(_meaning(tracked.settings, "S"))
    if tracked.step != "step" or not tracked.source.startswith("wandb:") or len(planned) != 1:
        return
    name = planned[0] if planned[0] in table.columns else f"config.{planned[0]}"
    ended = table[table["status"] == "ok"]
    ratio = pd.to_numeric(ended[name], errors="coerce") / (ended["step"] + 1)
    middle = float(ratio.median()) if len(ended) else 1.0
    if not middle > 1.5:
        return
    raise TableError(
        f"{tracked.source}: the steps of W&B count calls of log(), up to "
        f"{table['step'].max():.0f}, but {name} is up to {table[name].max()}. Say how many steps "
        f"one call stands for: {option({f'{round(middle)}*step': 'S'})}."
    )
