"""Say what a table holds, before anything is fitted to it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.inspecting import presentation
from analysis.inspecting.allowed import Allowed, allowed
from analysis.inspecting.columns import ColumnUse, describe
from analysis.inspecting.reading import Reading, missing_symbols, read
from analysis.inspecting.suspicious import Suspicion, suspicious
from analysis.tables.rows import Evaluations
from scaling import progress
from scaling.jsonable import finite
from scaling.mapping import option


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a table holds, what it allows, what it lacks and which rows are suspicious."""

    source: str
    rows: int
    """Number of rows of the table; of a chart, of its runs and points."""
    used: str
    """Which rows count and which are left out, in words; "" if all count."""
    columns: tuple[ColumnUse, ...]
    map: str
    """The option --map that says what was guessed; "" if nothing was."""
    derived: Mapping[str, str]
    """{symbol: formula} of the columns that follow from others."""
    command: str
    """The table as the command line takes it; "" for a DataFrame."""
    options: str
    """The options --map, --where and --decimal that the user gave."""
    refused: str
    """Why the commands refuse the table as it is; "" if they take it."""
    remedy: str
    """The option with which they take it; what is allowed holds with it."""
    laws: tuple[str, ...]
    methods: tuple[str, ...]
    figures: tuple[str, ...]
    no_symbol: Mapping[str, str]
    """{N, D or L: why it is missing}."""
    no_law: Mapping[str, str]
    no_method: Mapping[str, str]
    no_figure: Mapping[str, str]
    suspicious: tuple[Suspicion, ...]

    @property
    def missing(self) -> dict[str, str]:
        """{quantity, law, method or figure: what it lacks}.

        A figure that is called like a method or a law is listed as "figure NAME".
        """
        found = {**self.no_symbol, **self.no_law, **self.no_method}
        if self.refused:
            found = {"table": self.refused, **found}
        taken = {*found, *self.laws, *self.methods}
        for name, reason in self.no_figure.items():
            found[f"figure {name}" if name in taken else name] = reason
        return found

    def record(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return finite(
            {
                "source": self.source,
                "rows": self.rows,
                "used": self.used,
                "columns": [each.record() for each in self.columns],
                "map": self.map,
                "derived": dict(self.derived),
                "remedy": self.remedy,
                "allows": {
                    "laws": list(self.laws),
                    "methods": list(self.methods),
                    "figures": list(self.figures),
                },
                "missing": self.missing,
                "suspicious": [each.record() for each in self.suspicious],
            }
        )

    def text(self, width: int = 100) -> str:
        """Return the report for a terminal of this width."""
        return presentation.text(self, width)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return presentation.page(self)


def inspect(
    path: str | Path | pd.DataFrame | Sequence[str | Path],
    *,
    map: Mapping[str, str] | None = None,
    where: str | None = None,
    strict: bool = False,
    rows: Evaluations = "auto",
    decimal: str | None = None,
) -> Inspection:
    """Say what a table holds, what it allows, what it lacks and which rows are suspicious.

    path: a results folder, a table of any origin, or several, as :func:`analysis.load` takes them.
    map, where, strict, rows, decimal: the options of :func:`analysis.load`.

    Nothing is resampled, and no figure is drawn. A table that the other commands refuse is
    described as far as it can be read, with the reason. Raises TableError if there is no table.
    """
    progress.step("reading the table")
    reading = read(path, map=map, where=where, strict=strict, rows=rows, decimal=decimal)
    progress.step("asking what the table allows")
    found = allowed(reading)
    progress.step("looking for suspicious rows")
    return _inspection(reading, found)


def _files(given: Any) -> str:
    """Return the files of a table as a shell takes them."""
    if isinstance(given, pd.DataFrame):
        return ""
    several = [given] if isinstance(given, str | Path) else given
    return " ".join(shlex.quote(str(each)) for each in several)


def _options(reading: Reading) -> str:
    """Return the options of the user, but for a condition that the remedy holds."""
    given, parts = reading.options, []
    if given["map"]:
        parts.append(option(given["map"]))
    if given["where"] and not reading.remedy:
        parts.append(f"--where {shlex.quote(given['where'])}")
    if given["decimal"]:
        parts.append(f"--decimal {shlex.quote(given['decimal'])}")
    return " ".join(parts)


def _inspection(reading: Reading, found: Allowed) -> Inspection:
    guessed = reading.names
    derived = {} if reading.runs is None else reading.runs.attrs.get("derived", {})
    return Inspection(
        source=reading.source,
        rows=len(reading.rows),
        used=reading.left_out,
        columns=tuple(describe(reading)),
        map=option({**reading.given_names, **guessed}) if guessed else "",
        derived=derived,
        command=_files(reading.given),
        options=_options(reading),
        refused=reading.refused,
        remedy=reading.option,
        laws=tuple(found.laws),
        methods=tuple(found.methods),
        figures=tuple(found.figures),
        no_symbol=missing_symbols(reading),
        no_law=found.no_law,
        no_method=found.no_method,
        no_figure=found.no_figure,
        suspicious=tuple(suspicious(reading, found.quick)),
    )
