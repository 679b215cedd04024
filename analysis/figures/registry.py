"""Every figure by name, drawn from a results folder: what it shows, where the layout is from, which
columns it takes and which spec measures them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis.critical_batch import CriticalBatch, contours, critical_batch
from analysis.figures import style
from analysis.figures.panels import Width
from analysis.fitting.checks import FitError
from analysis.tables.load import load as load_table
from scaling.errors import TableError
from scaling.files import check_inside
from scaling.table import read_tests


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn from a results folder."""

    name: str
    source: str
    """The paper and figure whose layout it has; empty for our own."""
    shows: str
    needs: tuple[str, ...]
    """Columns of the runs beside N, D, C, L; 'curves' stands for learning curves, 'tests' for losses
    by position and distribution."""
    spec: str
    """The bundled spec that trains what it takes."""
    draw: Callable[..., Figure]
    """(runs, curves or None, width=None) -> Figure; with critical=None where B_crit(L) may be that
    of another sweep."""

    @property
    def takes_critical(self) -> bool:
        return "critical" in inspect.signature(self.draw).parameters


@dataclass(frozen=True)
class _Tables:
    """What figures are drawn from."""

    folder: Path
    runs: pd.DataFrame
    """With what tests.parquet says of each in `tests`."""
    curves: pd.DataFrame | None
    critical_from: Path | None
    """A results folder whose B_crit(L) holds for this one."""

    @classmethod
    def of(cls, results: str | Path, critical: str | Path | None) -> _Tables:
        folder, runs = Path(results), load_table(results)
        measured = "run_id" in runs.columns and (folder / "tests.parquet").is_file()
        if measured and len(tests := read_tests(folder)):
            of_run = {run: group.to_dict("records") for run, group in tests.groupby("run_id")}
            runs["tests"] = [of_run.get(run, []) for run in runs["run_id"]]
        curved = (folder / "curves.parquet").is_file()
        curves = load_table(folder, curves=True) if curved else None
        return cls(folder, runs, curves, None if critical is None else Path(critical))

    @cached_property
    def critical(self) -> CriticalBatch | None:
        if self.critical_from is None:
            return None
        try:
            return critical_batch(contours(load_table(self.critical_from, curves=True)))
        except (TableError, FitError) as error:
            raise TableError(f"critical batch size of {self.critical_from}: {error}") from None

    def figure(self, one: Drawing, width: Width | None) -> Figure:
        lacks = [
            name for name in one.needs
            if (self.curves is None if name == "curves" else name not in self.runs.columns)
        ]  # fmt: skip
        measures = f"`scaling sweep {one.spec}` measures it."
        if lacks:
            what = ", ".join(_FILES.get(name, name) for name in lacks)
            raise TableError(f"{self.folder}: the figure {one.name!r} needs {what}; {measures}")
        options = {"critical": self.critical} if one.takes_critical else {}
        try:
            return one.draw(self.runs, self.curves, width=width, **options)
        except (ValueError, ArithmeticError) as error:  # ours, and of odd values such as n_ctx = 0
            raise TableError(
                f"{self.folder}: the figure {one.name!r}: {error} {measures}"
            ) from None


_FILES = {"curves": "learning curves (curves.parquet)", "tests": "test losses (tests.parquet)"}

FIGURES: dict[str, Drawing] = {}
"""Every figure by name."""


def figure(
    name: str, source: str = "", *, needs: Iterable[str] = (), spec: str
) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """List a function of (runs, curves, width=) under `name`, with the first line of its
    docstring."""

    def keep(function: Callable[..., Figure]) -> Callable[..., Figure]:
        shows = (function.__doc__ or "").splitlines()[0].rstrip(".")
        FIGURES[name] = Drawing(name, source, shows, tuple(needs), spec, function)
        return function

    return keep


def listing() -> str:
    """Every figure that `draw` knows: name, paper, what it shows, columns, spec."""
    width = max(map(len, FIGURES))
    lines = []
    for d in FIGURES.values():
        lines.append(f"{d.name:<{width}}  {d.shows}{f' ({d.source})' if d.source else ''}")
        takes = [*d.needs, *(["or --critical"] if d.takes_critical else [])]
        needs = f"needs {', '.join(takes).replace(', or', ' or')}; " if takes else ""
        lines.append(f"{'':<{width}}    {needs}scaling sweep {d.spec}")
    return "\n".join(lines)


def of_results(
    name: str,
    results: str | Path,
    *,
    width: Width | None = None,
    critical: str | Path | None = None,
) -> Figure:
    """The figure `name` (of FIGURES) of a results folder.

    width     'column' or 'full'; where not given, what suits the figure.
    critical  a results folder with several batch sizes, whose B_crit(L) holds for these runs too,
              where these have but one.

    Raises TableError where it cannot be drawn, saying what is lacking and which spec measures it.
    """
    return _Tables.of(results, critical).figure(_known(name), width)


def draw(
    name: str,
    results: str | Path,
    out: str | Path | None = None,
    *,
    width: Width | None = None,
    critical: str | Path | None = None,
) -> list[Path]:
    """Draw the figure `name` of a results folder, as `of_results`, and save it; the files written.

    out  see `save`; <results>/figures/<name> where not given.
    """
    made = of_results(name, results, width=width, critical=critical)
    if out is not None:
        return save(made, out)
    return save(made, Path(results) / "figures" / name, inside=Path(results))


def drawings(
    results: str | Path,
    *,
    names: Iterable[str] | None = None,
    width: Width | None = None,
    critical: str | Path | None = None,
) -> tuple[dict[str, Figure], dict[str, str]]:
    """Every figure, or those named, that a results folder allows, by name, and {name: why not} of
    the rest."""
    tables = _Tables.of(results, critical)
    made, lacking = {}, {}
    for one in map(_known, FIGURES if names is None else names):
        try:
            made[one.name] = tables.figure(one, width)
        except TableError as error:
            lacking[one.name] = str(error)
    return made, lacking


def draw_all(
    results: str | Path,
    out: str | Path | None = None,
    *,
    again: bool = False,
    width: Width | None = None,
    critical: str | Path | None = None,
) -> tuple[list[Path], dict[str, str]]:
    """Draw every figure that a results folder allows: the files written, and {name: why not} of
    the rest. `out` is a folder; <results>/figures where not given. `again`: only what lies there."""
    folder = Path(out or Path(results) / "figures")
    there = [name for name in FIGURES if any(folder.glob(f"{name}.*"))] if again else None
    if there == []:
        raise TableError(f"{folder} holds no figure to draw again; `scaling figure all {results}`.")
    made, lacking = drawings(results, names=there, width=width, critical=critical)
    inside = Path(results) if out is None else None
    files = [path for name, one in made.items() for path in save(one, folder / name, inside=inside)]
    return files, lacking


def save(figure: Figure, path: str | Path, *, inside: Path | None = None) -> list[Path]:
    """Write `path`, a .pdf, .png or .svg, or both a .pdf and a .png where it has no such suffix;
    the files written.

    The same figure gives the same bytes every time: no dates are written. Fonts are Type 42. With
    `inside`, a folder that may be somebody else's, OSError where a symbolic link in it would be
    written through.
    """
    path = Path(path)
    known = path.suffix.lower() in (".pdf", ".png", ".svg")
    files = [path] if known else [path.with_name(path.name + end) for end in (".pdf", ".png")]
    if inside is not None:
        for file in files:
            check_inside(file, inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        nothing = {
            ".pdf": ("CreationDate", "Producer", "Creator"), ".png": ("Software",),
            ".svg": ("Date", "Creator"),
        }[file.suffix.lower()]  # fmt: skip
        with rc_context(style.paper()):
            figure.savefig(file, metadata=dict.fromkeys(nothing))
    return files


def _known(name: str) -> Drawing:
    if name not in FIGURES:
        close = difflib.get_close_matches(name, FIGURES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TableError(f"no figure is called {name!r}.{hint} There are {', '.join(FIGURES)}.")
    return FIGURES[name]
