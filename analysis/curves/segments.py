"""The rows of one run put in order: resumed runs, rows written twice, two runs under one name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.errors import TableError

_RESTART = 0.02
"""A second stretch of rows that begins within this fraction of the first one starts anew."""


@dataclass(frozen=True)
class Ordered:
    """The rows of a run that count, by their positions, and those that do not."""

    kept: np.ndarray
    """Positions of the rows that count, by increasing step."""
    repeated: int
    """Rows that equal another row."""
    replaced: int
    """Rows that the run wrote again after it had resumed from an earlier step."""


def in_order(run: str, step: np.ndarray, loss: np.ndarray, where: str) -> Ordered:
    """Return the rows of a run by increasing step, given in the order of the file.

    Where a step is smaller than the one before it, the run was resumed there: the rows from that
    step on that were written before it do not count. Raises TableError if the rows are two runs.
    """
    position = np.arange(len(step))
    _, first = np.unique(np.column_stack([step, loss]), axis=0, return_index=True)
    once = np.zeros(len(step), bool)
    once[first] = True
    again = int((~once).sum())
    position = position[once]
    step_once = step[position]
    if len(step_once) > 1 and (np.diff(step_once) < 0).all():  # newest first
        position, step_once = position[::-1], step_once[::-1]
    starts = np.flatnonzero(np.diff(step_once) <= 0) + 1
    if not len(starts):
        return Ordered(position, again, 0)
    _refuse_two_runs(run, step_once, starts, where)
    kept: list[int] = []
    for begin, end in zip([0, *starts], [*starts, len(step_once)], strict=True):
        kept = [at for at in kept if step_once[at] < step_once[begin]]
        kept.extend(range(begin, end))
    return Ordered(position[kept], again, len(step_once) - len(kept))


def _refuse_two_runs(run: str, step: np.ndarray, starts: np.ndarray, where: str) -> None:
    """Raise TableError unless the stretches of rows can be one run that was resumed.

    A run that was resumed begins again after its start, and its steps are not mixed with those of
    the stretch before.
    """
    mixed = len(starts) > max(3, len(step) // 4)
    lengths = np.diff([0, *starts, len(step)])
    anew = [
        at for at, length in zip(starts, lengths[1:], strict=True)
        if step[at] <= step[0] + _RESTART * (step.max() - step[0]) and length > 1
    ]  # fmt: skip
    if not mixed and not (anew and lengths[0] > 1):
        return
    how = (
        f"its rows are those of two curves or more, mixed: its steps go back {len(starts)} times"
        if mixed
        else f"its steps begin twice, at {step[0]:g} and again at {step[anew[0]]:g}"
    )
    raise TableError(
        f"{where}: {run!r} is the name of two runs: {how}. Name the column that tells them apart "
        "with --map COLUMN=run; or leave the rows of one out with --where."
    )
