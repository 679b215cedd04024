"""Open the runs of a tracker as a table, which :func:`analysis.load` names and checks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.importing.choose import ALL, assumed, losses
from analysis.importing.frames import Tracked, labelled, names_in
from analysis.tables.conversions import numbers_in
from analysis.tables.guess import Guess, name_columns
from analysis.tables.rows import of_final_rows
from scaling.column_words import meaning
from scaling.errors import TableError
from scaling.mapping import in_expression, option
from scaling.trackers import is_source

_SAME = 0.02
"""Relative difference up to which two counts are the same."""
_UNITS = {"": "loss", "perplexity": "perplexity", "bits": "bits_per_token",
          "bits_per_byte": "bits_per_byte"}  # fmt: skip
"""What the column of the losses of several test sets is called, by their unit."""


@dataclass
class Opened:
    """Runs or evaluations of sources, with the tracker's own columns."""

    table: pd.DataFrame
    source: str
    names: dict[str, str]
    """{column or expression: symbol}: the user's, and what the tracker settles."""
    notes: list[str] = field(default_factory=list)
    given: frozenset[str] = frozenset()
    """The symbols that the user named."""

    def settle(self, found: Guess) -> None:
        """Add what the tracker settles to what was guessed, so that it is printed as a guess."""
        settled = {k: symbol for k, symbol in found.given.items() if symbol not in self.given}
        found.given = {k: symbol for k, symbol in found.given.items() if symbol in self.given}
        found.names = settled | found.names
        found.notes += self.notes
        self._check_tokens({**found.given, **found.names})

    def _check_tokens(self, names: Mapping[str, str]) -> None:
        """Raise TableError if the tokens are steps times sequences, whose length is another
        column."""
        column = next((name for name, symbol in names.items() if symbol == "D"), "")
        steps = next((name for name, symbol in names.items() if symbol == "S"), "")
        known = {str(c): what for c in self.table.columns if (what := meaning(str(c))) is not None}
        batches = [name for name, what in known.items() if what.symbol == "sequences"]
        lengths = [name for name, what in known.items() if what.symbol == "n_ctx"]
        if not {column, steps} <= set(self.table.columns) or (len(batches), len(lengths)) != (1, 1):
            return
        D, S, batch, length = (
            pd.Series(numbers_in(self.table[name])) for name in (column, steps, *batches, *lengths)
        )
        counted = (D / (S * batch) - 1).abs().median() < _SAME and (batch < length).all()
        if not counted or not (length > 1).all():
            return  # a batch shorter than one sequence is no number of tokens
        product = f"{in_expression(column)}*{in_expression(lengths[0])}"
        raise TableError(
            f"{self.source}: {column!r} counts sequences, {steps} x {batches[0]}, and no tokens. "
            f"Multiply it by their length: {option({product: 'D'})}."
        )


def sources_of(path: Any) -> list[str]:
    """Return the sources that a path or several paths are; none if they are tables or folders."""
    if not isinstance(path, str | Path | list | tuple):
        return []
    paths = [path] if isinstance(path, str | Path) else list(path)
    found = [str(each) for each in paths if is_source(each)]
    if found and len(found) < len(paths):
        raise TableError(
            f"{found[0]} is a source of runs, and {next(p for p in paths if not is_source(p))} is "
            f"not. Import it first: scaling import {found[0]} --out runs.csv"
        )
    return found


def path_for(source: str) -> Path:
    """Return a path in the current folder for what is made of a source, as wandb-lab-sizes."""
    return Path(re.sub(r"[^\w.-]+", "-", source).strip("-."))


def open_sources(
    sources: Sequence[str],
    names: Mapping[str, str],
    *,
    need: Iterable[str] = ("N", "D", "L"),
    curves: bool = False,
    rows: str = "last",
    loss: str | None = None,
) -> Opened:
    """Return a row per run, its last evaluation; or a row per evaluation, for curves and for other
    choices of a run's row."""
    found = [_open(source, names, need, curves or not of_final_rows(rows), loss)
             for source in sources]  # fmt: skip
    for each in found:
        each.given = frozenset(names.values())
    if len(found) == 1:
        return found[0]
    whole = found[0].names
    for each in found:
        if each.names != whole:
            raise TableError(
                f"{found[0].source} and {each.source} name their columns differently: {whole} and "
                f"{each.names}. Import each into a table; several tables are one."
            )
    table = pd.concat([each.table for each in found], ignore_index=True)
    notes = [note for each in found for note in each.notes]
    return Opened(table, ", ".join(sources), whole, notes, found[0].given)


def _open(
    source: str, names: Mapping[str, str], need: Iterable[str], evaluations: bool, loss: str | None
) -> Opened:
    tracked = Tracked.read(source)
    found = losses(tracked, names, loss)
    sets = [[name] for name in found] if loss == ALL else [found]
    column = _one_unit(found, source) if loss == ALL else ""
    final = _labelled(tracked, {each[0] if each else "": tracked.final(each) for each in sets},
                      column)  # fmt: skip
    final = _without_rivals(tracked, final, found)
    more, notes = assumed(tracked, final, names, [column] if column else found)
    whole = {**more, **names}
    if not evaluations:
        return Opened(final, source, whole, [*tracked.notes, *notes])
    table = _labelled(
        tracked,
        {each[0] if each else "": tracked.evaluations(each, " ".join(whole)) for each in sets},
        column,
    )
    _, guess = name_columns(final.copy(), whole, need, source, ours=False)
    whole |= guess.names
    table = _without_rivals(tracked, table, found)
    if len(table):
        table = _completed(tracked, table, final, whole)
        table, whole = _with_peaks(tracked, table, final, whole)
    return Opened(table, source, whole, [*tracked.notes, *notes])


def undecided(source: str) -> pd.DataFrame:
    """Return a row per run with the last value of each metric, whichever is the loss."""
    return Tracked.read(source).final([])


def _labelled(tracked: Tracked, tables: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """Return one table, or those of several test sets as one with their losses in `column`."""
    if not column:
        return next(iter(tables.values()))
    others = [name for name in tables if name in tracked.metrics or name in tracked.totals]
    return labelled(
        {
            name: table.assign(**{column: table[name]}).drop(columns=others, errors="ignore")
            for name, table in tables.items()
        }
    )


def _one_unit(names: Sequence[str], source: str) -> str:
    kinds = {name: _UNITS.get(what.function) for name in names if (what := meaning(name))}
    units = set(kinds.values())
    unit = units.pop() if len(units) == 1 else None
    if unit is None:
        raise TableError(
            f"{source}: the losses {', '.join(names)} are in different units; name one with --loss."
        )
    return unit


def _without_rivals(tracked: Tracked, table: pd.DataFrame, found: Sequence[str]) -> pd.DataFrame:
    """Return a table without the losses that only summaries hold, such as the best one of a run,
    beside the history that was chosen."""
    if not any(name in tracked.metrics for name in found):
        return table
    rivals = [
        name for name in tracked.totals
        if name in table.columns and (what := meaning(name)) is not None and what.symbol == "L"
    ]  # fmt: skip
    return table.drop(columns=rivals)


def _completed(
    tracked: Tracked, table: pd.DataFrame, final: pd.DataFrame, names: Mapping[str, str]
) -> pd.DataFrame:
    """Return evaluations with what only runs have: N counted from shapes, and totals.

    Tokens and FLOPs of a whole run are those so far: their share of the steps.
    """
    runs = final.drop_duplicates("run_id").set_index("run_id")
    at = table["run_id"]
    if "N" in runs.columns and "N" not in table.columns:
        table = table.assign(N=at.map(runs["N"]))
    sized = [
        column
        for expression, symbol in names.items() if symbol in ("D", "C")
        for column in names_in(expression, runs.columns)
        if column not in tracked.metrics and _is_total(column)
    ]  # fmt: skip
    if not sized or tracked.step not in table.columns:
        return table
    last = {run.id: max((row.get("step", 0) for row in run.history), default=0)
            for run in tracked.runs}  # fmt: skip
    share = table[tracked.step] / at.map(last)
    for column in dict.fromkeys(sized):
        values = pd.Series(numbers_in(runs[column]), runs.index)
        table = table.assign(**{column: at.map(values) * share})
    return table


def _with_peaks(
    tracked: Tracked, table: pd.DataFrame, final: pd.DataFrame, names: Mapping[str, str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return evaluations whose learning rate, if it is a metric, is `lr`, and `lr_peak` that of the
    whole run; and the names without it."""
    rates = [c for c, symbol in names.items() if symbol == "lr_peak" and c in tracked.metrics]
    if not rates or rates[0] not in table.columns:
        return table, dict(names)
    rate = rates[0]
    peaks = final.drop_duplicates("run_id").set_index("run_id")[rate]
    table = table.assign(lr=table[rate], lr_peak=table["run_id"].map(peaks))
    kept = {c: symbol for c, symbol in names.items() if c != rate}
    return (table if rate == "lr" else table.drop(columns=rate)), kept


def _is_total(column: str) -> bool:
    what = meaning(column)
    return what is None or what.symbol in ("D", "C")
