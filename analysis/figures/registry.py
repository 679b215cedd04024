"""The registry of figures: draw them by name from a results folder.

Each entry states what the figure shows, the source of its layout, the columns that it needs and the
spec that measures them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis.critical_batch import CriticalBatch, contours, critical_batch
from analysis.curves.collapse_result import Collapse
from analysis.figures import data, style
from analysis.figures.panels import Width
from analysis.fitting.checks import FitError
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import Choice, choose
from analysis.frontiers.result import Comparison
from analysis.tables.load import load as load_table
from analysis.tables.runs_and_curves import load_runs_and_curves
from analysis.tables.select import usable
from analysis.tables.tracked import sources_of
from scaling import progress
from scaling.abilities.table import read as read_scores
from scaling.errors import TableError
from scaling.files import check_inside
from scaling.table import read_tests

Results = str | Path | Sequence[str | Path]
"""A results folder, a table, or the files of a table."""
_FILES = {
    "curves": "learning curves (curves.parquet)",
    "tests": "test losses (tests.parquet)",
    "tasks": "scores of tasks (tasks.parquet, made by `scaling eval`)",
}
"""Descriptions of tables in the `needs` of a figure."""
_OMITTED = {
    ".pdf": ("CreationDate", "Producer", "Creator"),
    ".png": ("Software",),
    ".svg": ("Date", "Creator"),
}
"""Metadata that is left out of files of each format."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure that can be drawn from a results folder."""

    name: str
    source: str
    """The paper and figure whose layout it follows; empty for an original layout."""
    shows: str
    needs: tuple[str, ...]
    """Columns of the runs in addition to N, D, C, L; 'curves' stands for learning curves, 'tests'
    for losses by position and distribution, 'tasks' for scores of tasks."""
    spec: str
    """The bundled spec that trains the runs."""
    draw: Callable[..., Figure]
    """(runs, curves or None, width=None) -> Figure; also takes results if it reads them itself,
    critical=None if B_crit(L) may come from another sweep, and what it can use of Shared."""

    @property
    def takes_critical(self) -> bool:
        return "critical" in inspect.signature(self.draw).parameters

    @property
    def takes_results(self) -> bool:
        """Whether it reads the results itself, those of unfinished runs included."""
        return "results" in inspect.signature(self.draw).parameters

    def taken(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """Return what it takes of {name of an argument: value}."""
        names = inspect.signature(self.draw).parameters
        return {name: value for name, value in shared.items() if name in names}


class Shared(TypedDict, total=False):
    """Results that figures share, if they are known already."""

    choice: Choice | None
    """The law of N and D."""
    compared: Comparison | None
    """The compute-optimal frontier by every method."""
    collapsed: Collapse | None
    """The collapse of the learning curves."""
    fits: Iterable[FitResult]
    """Laws of N, of D and of C, fitted to the lower edge of the runs, and of N and D."""


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Tables of a results folder."""

    source: str
    """Where they come from."""
    results: Results
    """The same as the user gave it."""
    selection: Mapping[str, Any]
    """The arguments that it was read with."""
    runs: pd.DataFrame
    """The runs; the columns `tests` and `tasks` hold their rows of the tables of these names."""
    curves: pd.DataFrame | None
    critical_from: Path | None
    """A results folder whose B_crit(L) also holds for this one."""
    shared: Shared = field(default_factory=Shared)
    """What is known already."""

    @classmethod
    def read(cls, results: Results, critical: str | Path | None, **selection: Any) -> _Tables:
        runs, curves = load_runs_and_curves(results, **selection)
        if (folder := _folder(results)) and "run_id" in runs.columns:
            measured = (folder / "tests.parquet").is_file()
            if measured and len(tests := read_tests(folder)):
                runs["tests"] = _of_each_run(tests, runs)
            if len(scores := read_scores(folder)):
                runs["tasks"] = _of_each_run(scores, runs)
        critical_from = None if critical is None else Path(critical)
        source = runs.attrs["source"]
        return cls(
            source=source, results=results, selection=selection, runs=runs, curves=curves,
            critical_from=critical_from,
        )  # fmt: skip

    @cached_property
    def critical(self) -> CriticalBatch | None:
        """The critical batch size of `critical_from`, if given."""
        if self.critical_from is None:
            return None
        try:
            return critical_batch(contours(load_table(self.critical_from, curves=True)))
        except (TableError, FitError) as error:
            raise TableError(f"critical batch size of {self.critical_from}: {error}") from None

    @cached_property
    def choice(self) -> Choice | None:
        """The law of N and D, chosen once for all figures; None if none can be fitted."""
        if (known := self.shared.get("choice")) is not None:
            return known
        try:
            return choose(usable(self.runs), alone=True)
        except (TableError, FitError):
            return None

    def figure(self, drawing: Drawing, width: Width | None) -> Figure:
        """Draw a figure. Raises TableError if these tables do not allow it."""
        name, measures = drawing.name, f"`scaling sweep {drawing.spec}` measures it."
        if missing := lacking(drawing, self.runs.columns, self.curves):
            needed = ", ".join(missing)
            raise TableError(f"{self.source}: the figure {name!r} needs {needed}; {measures}")
        options: dict[str, Any] = {"critical": self.critical} if drawing.takes_critical else {}
        try:
            options |= drawing.taken(self.shared)
            if "choice" in drawing.taken({"choice": None}):
                options["choice"] = self.choice
            options |= {"results": self.results, **self.selection} if drawing.takes_results else {}
            with progress.part(f"drawing the figure {name}"):
                return drawing.draw(self.runs, self.curves, width=width, **options)
        # This package's errors are ValueErrors; odd values such as n_ctx = 0 raise others.
        except (ValueError, ArithmeticError) as error:
            if drawing.takes_results:  # no other sweep would help
                raise TableError(f"{self.source}: the figure {name!r}: {error}") from None
            raise TableError(f"{self.source}: the figure {name!r}: {error} {measures}") from None


def _of_each_run(table: pd.DataFrame, runs: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """Return the rows of a table for each run."""
    by_run: dict[Any, Any] = {run: g.to_dict("records") for run, g in table.groupby("run_id")}
    return [by_run.get(run, []) for run in runs["run_id"]]


FIGURES: dict[str, Drawing] = {}
"""Every figure by name."""


def figure(
    name: str, source: str = "", *, needs: Iterable[str] = (), spec: str
) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Register a function of (runs, curves, width=) under `name`.

    The first line of its docstring states what the figure shows.
    """

    def register(function: Callable[..., Figure]) -> Callable[..., Figure]:
        shows = (function.__doc__ or "").splitlines()[0].rstrip(".")
        FIGURES[name] = Drawing(
            name=name, source=source, shows=shows, needs=tuple(needs), spec=spec, draw=function
        )
        return function

    return register


def lacking(drawing: Drawing, columns: Iterable[str], curves: pd.DataFrame | None) -> list[str]:
    """Return what a figure needs and runs of these columns with these curves do not have."""
    present = {*columns, *(() if curves is None else ("curves",))}
    return [_FILES.get(need, need) for need in drawing.needs if need not in present]


def listing() -> str:
    """Describe every figure: name, what it shows, paper, columns, spec."""
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
    results: Results,
    *,
    width: Width | None = None,
    critical: str | Path | None = None,
    **selection: Any,
) -> Figure:
    """Draw the figure `name` (a key of FIGURES) of a results folder.

    results   A results folder, or a table as `analysis.load` takes it.
    width     'column' or 'full'; the default suits the figure.
    critical  A results folder with several batch sizes, whose B_crit(L) holds for these runs too,
              which have only one.
    selection  The arguments map, where, strict, rows and decimal of `analysis.load`.

    Raises TableError, which names what is missing and the spec that measures it, if the figure
    cannot be drawn.
    """
    drawing = _by_name(name)
    if drawing.takes_results:  # its runs need not be in the table of finished ones
        with progress.part(f"drawing the figure {name}"):
            return drawing.draw(results=results, width=width, **selection)
    return _Tables.read(results, critical, **selection).figure(drawing, width)


def draw(
    name: str,
    results: Results,
    out: str | Path | None = None,
    *,
    width: Width | None = None,
    critical: str | Path | None = None,
    **selection: Any,
) -> list[Path]:
    """Draw the figure `name` as `of_results` does; return the files written.

    out  See `save`; the default is figures/<name> in the results folder, or beside the table.
    """
    made = of_results(name, results, width=width, critical=critical, **selection)
    if out is not None:
        return save(made, out)
    return save(made, _figures(results) / name, inside=_folder(results))


def drawings(
    results: Results,
    *,
    names: Iterable[str] | None = None,
    width: Width | None = None,
    critical: str | Path | None = None,
    shared: Shared | None = None,
    **selection: Any,
) -> tuple[dict[str, Figure], dict[str, str]]:
    """Draw every figure, or those in `names`, that a results folder allows.

    shared  What is known of the results already, so that figures do not compute it again.

    Returns the figures by name, and the reasons, by name, why the others cannot be drawn.
    """
    tables = replace(_Tables.read(results, critical, **selection), shared=shared or {})
    made, missing = {}, {}
    for drawing in map(_by_name, FIGURES if names is None else names):
        try:
            made[drawing.name] = tables.figure(drawing, width)
        except TableError as error:
            missing[drawing.name] = str(error)
    return made, missing


def draw_all(
    results: Results,
    out: str | Path | None = None,
    *,
    again: bool = False,
    width: Width | None = None,
    critical: str | Path | None = None,
    **selection: Any,
) -> tuple[list[Path], dict[str, str]]:
    """Draw every figure that a results folder allows, and save them.

    out    A folder; the default is figures in the results folder, or beside the table.
    again  Draw only the figures that are in `out` already.

    Returns the files written, and the reasons, by name, why the other figures cannot be drawn.
    """
    folder = Path(out or _figures(results))
    present = [name for name in FIGURES if any(folder.glob(f"{name}.*"))] if again else None
    if present == []:
        raise TableError(f"{folder} holds no figure to draw again; `scaling figure all {results}`.")
    made, missing = drawings(results, names=present, width=width, critical=critical, **selection)
    inside = _folder(results) if out is None else None
    files = [
        path for name, drawn in made.items() for path in save(drawn, folder / name, inside=inside)
    ]
    return files, missing


def save(figure: Figure, path: str | Path, *, inside: Path | None = None) -> list[Path]:
    """Save a figure; return the files written.

    path    A .pdf, .png or .svg file, or a .csv file for the data of the figure (see
            analysis.figures.data). Without such a suffix, a .pdf, a .png and a .csv are written.
    inside  A folder that others may have written; raises OSError if a symbolic link leads out of
            it.

    The same figure gives the same bytes every time, since no dates are written. Fonts are Type 42.
    """
    path = Path(path)
    progress.step(f"saving the figure {path.stem}")
    known = path.suffix.lower() in (*_OMITTED, ".csv")
    ends = (".pdf", ".png", ".csv")
    files = [path] if known else [path.with_name(path.name + end) for end in ends]
    if inside is not None:
        for file in files:
            check_inside(file, inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.suffix.lower() == ".csv":
            file.write_text(data.text(figure), "utf-8", newline="\n")
            continue
        with rc_context(style.paper()):
            figure.savefig(file, metadata=dict.fromkeys(_OMITTED[file.suffix.lower()]))
    return files


def _folder(results: Results) -> Path | None:
    """Return the results folder, or None for a table."""
    if isinstance(results, str | Path) and Path(results).is_dir():
        return Path(results)
    return None


def _figures(results: Results) -> Path:
    """Return the folder for figures: within a results folder, and beside a table."""
    if sources_of(results):
        return Path("figures")
    first = Path(results if isinstance(results, str | Path) else results[0])
    return (_folder(results) or first.parent) / "figures"


def _by_name(name: str) -> Drawing:
    """Return the entry of FIGURES. Raises TableError with a suggestion if there is none."""
    if name not in FIGURES:
        close = difflib.get_close_matches(name, FIGURES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TableError(f"no figure is called {name!r}.{hint} There are {', '.join(FIGURES)}.")
    return FIGURES[name]
