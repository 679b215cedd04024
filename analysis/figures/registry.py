"""The registry of figures: draw them by name from a results folder.

Each entry states what the figure shows, the source of its layout, the columns that it needs and the
spec that measures them.
"""

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
from scaling import progress
from scaling.errors import TableError
from scaling.files import check_inside
from scaling.table import read_tests

_FILES = {"curves": "learning curves (curves.parquet)", "tests": "test losses (tests.parquet)"}
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
    for losses by position and distribution."""
    spec: str
    """The bundled spec that trains the runs."""
    draw: Callable[..., Figure]
    """(runs, curves or None, width=None) -> Figure; also takes critical=None if B_crit(L) may come
    from another sweep."""

    @property
    def takes_critical(self) -> bool:
        return "critical" in inspect.signature(self.draw).parameters


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Tables of a results folder."""

    folder: Path
    runs: pd.DataFrame
    """The runs; the column `tests` holds their rows of tests.parquet."""
    curves: pd.DataFrame | None
    critical_from: Path | None
    """A results folder whose B_crit(L) also holds for this one."""

    @classmethod
    def read(cls, results: str | Path, critical: str | Path | None) -> _Tables:
        folder, runs = Path(results), load_table(results)
        measured = "run_id" in runs.columns and (folder / "tests.parquet").is_file()
        if measured and len(tests := read_tests(folder)):
            by_run = {run: group.to_dict("records") for run, group in tests.groupby("run_id")}
            runs["tests"] = [by_run.get(run, []) for run in runs["run_id"]]
        curves = None
        if (folder / "curves.parquet").is_file():
            curves = load_table(folder, curves=True)
        critical_from = None if critical is None else Path(critical)
        return cls(folder=folder, runs=runs, curves=curves, critical_from=critical_from)

    @cached_property
    def critical(self) -> CriticalBatch | None:
        """The critical batch size of `critical_from`, if given."""
        if self.critical_from is None:
            return None
        try:
            return critical_batch(contours(load_table(self.critical_from, curves=True)))
        except (TableError, FitError) as error:
            raise TableError(f"critical batch size of {self.critical_from}: {error}") from None

    def figure(self, drawing: Drawing, width: Width | None) -> Figure:
        """Draw a figure. Raises TableError if these tables do not allow it."""
        missing = [
            name for name in drawing.needs
            if (self.curves is None if name == "curves" else name not in self.runs.columns)
        ]  # fmt: skip
        name, measures = drawing.name, f"`scaling sweep {drawing.spec}` measures it."
        if missing:
            needed = ", ".join(_FILES.get(column, column) for column in missing)
            raise TableError(f"{self.folder}: the figure {name!r} needs {needed}; {measures}")
        options = {"critical": self.critical} if drawing.takes_critical else {}
        try:
            with progress.part(f"drawing the figure {name}"):
                return drawing.draw(self.runs, self.curves, width=width, **options)
        # This package's errors are ValueErrors; odd values such as n_ctx = 0 raise others.
        except (ValueError, ArithmeticError) as error:
            raise TableError(f"{self.folder}: the figure {name!r}: {error} {measures}") from None


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
    results: str | Path,
    *,
    width: Width | None = None,
    critical: str | Path | None = None,
) -> Figure:
    """Draw the figure `name` (a key of FIGURES) of a results folder.

    width     'column' or 'full'; the default suits the figure.
    critical  A results folder with several batch sizes, whose B_crit(L) holds for these runs too,
              which have only one.

    Raises TableError, which names what is missing and the spec that measures it, if the figure
    cannot be drawn.
    """
    return _Tables.read(results, critical).figure(_by_name(name), width)


def draw(
    name: str,
    results: str | Path,
    out: str | Path | None = None,
    *,
    width: Width | None = None,
    critical: str | Path | None = None,
) -> list[Path]:
    """Draw the figure `name` of a results folder as `of_results` does; return the files written.

    out  See `save`; the default is <results>/figures/<name>.
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
    """Draw every figure, or those in `names`, that a results folder allows.

    Returns the figures by name, and the reasons, by name, why the others cannot be drawn.
    """
    tables = _Tables.read(results, critical)
    made, missing = {}, {}
    for drawing in map(_by_name, FIGURES if names is None else names):
        try:
            made[drawing.name] = tables.figure(drawing, width)
        except TableError as error:
            missing[drawing.name] = str(error)
    return made, missing


def draw_all(
    results: str | Path,
    out: str | Path | None = None,
    *,
    again: bool = False,
    width: Width | None = None,
    critical: str | Path | None = None,
) -> tuple[list[Path], dict[str, str]]:
    """Draw every figure that a results folder allows, and save them.

    out    A folder; the default is <results>/figures.
    again  Draw only the figures that are in `out` already.

    Returns the files written, and the reasons, by name, why the other figures cannot be drawn.
    """
    folder = Path(out or Path(results) / "figures")
    present = [name for name in FIGURES if any(folder.glob(f"{name}.*"))] if again else None
    if present == []:
        raise TableError(f"{folder} holds no figure to draw again; `scaling figure all {results}`.")
    made, missing = drawings(results, names=present, width=width, critical=critical)
    inside = Path(results) if out is None else None
    files = [
        path for name, drawn in made.items() for path in save(drawn, folder / name, inside=inside)
    ]
    return files, missing


def save(figure: Figure, path: str | Path, *, inside: Path | None = None) -> list[Path]:
    """Save a figure; return the files written.

    path    A .pdf, .png or .svg file. Without such a suffix, a .pdf and a .png are written. inside
    A folder that others may have written; raises OSError if a symbolic link leads out of it.

    The same figure gives the same bytes every time, since no dates are written. Fonts are Type 42.
    """
    path = Path(path)
    progress.step(f"saving the figure {path.stem}")
    known = path.suffix.lower() in _OMITTED
    files = [path] if known else [path.with_name(path.name + end) for end in (".pdf", ".png")]
    if inside is not None:
        for file in files:
            check_inside(file, inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        with rc_context(style.paper()):
            figure.savefig(file, metadata=dict.fromkeys(_OMITTED[file.suffix.lower()]))
    return files


def _by_name(name: str) -> Drawing:
    """Return the entry of FIGURES. Raises TableError with a suggestion if there is none."""
    if name not in FIGURES:
        close = difflib.get_close_matches(name, FIGURES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TableError(f"no figure is called {name!r}.{hint} There are {', '.join(FIGURES)}.")
    return FIGURES[name]
