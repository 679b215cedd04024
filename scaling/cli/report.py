"""Commands that report results: `summary`, `figure` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scaling.cli.options import Critical, Decimal, Map, Rows, Strict, Where
from scaling.cli.output import say, show
from scaling.cli.tables import one_source, selection
from scaling.errors import ConfigError


def summary(
    results: tuple[Path, ...],
    *,
    figures: Path | None = None,
    details: bool = False,
    map: Map = (),
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
) -> None:
    """Summarise a sweep: what to train next and why; draw its figures.

    Example: scaling summary results/quickstart

    Args:
        results: A sweep's results folder, or a table of runs; several files are one table.
        figures: Folder for the figures. Default: `figures` in the results folder.
        details: Print every law, held-out error, frontier and plan.
    """
    from analysis.reporting.summary import summarise

    chosen = selection(map, where, strict, rows, decimal)
    found = summarise(one_source(results), figures=figures, **chosen)
    show(found.details() if details else found)


def figure(
    name: str = "",
    results: tuple[Path, ...] = (),
    *,
    map: Map = (),
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
    out: Path | None = None,
    width: Literal["column", "full"] | None = None,
    critical: Critical = None,
    list: bool = False,
) -> None:
    """Draw a figure from a results folder, or all figures that its data allow.

    Example: scaling figure --list
    Example: scaling figure kaplan1 results/quickstart --out kaplan1.pdf

    Args:
        name: Name of a figure (see --list), `all` for every figure that the data allow, or `again`
            to redraw the figures that already exist.
        results: A results folder, or a table of runs; several files are one table.
        out: Output file; its suffix sets the format: .pdf, .png, .svg, or .csv for the data that
            the figure shows. For `all` and `again`, this is a folder. Default: a .pdf, a .png and a
            .csv in `figures` of the results folder.
        width: Width of one text column (3.25 inches) or of the full page (6.75 inches). Default:
            the width that suits the figure.
        list: List the figures with the columns that they need and the spec that measures them.
    """
    from analysis import figures

    if list:
        show(figures.listing())
        return
    if not name or not results:
        raise ConfigError(
            "`scaling figure` needs a figure and a results folder, such as "
            "`scaling figure kaplan1 results/headline`; --list shows the figures."
        )
    source, chosen = one_source(results), selection(map, where, strict, rows, decimal)
    if name in ("all", "again"):
        files, lacking = figures.draw_all(
            source, out, again=name == "again", width=width, critical=critical, **chosen
        )
        show(*files)
        for why in lacking.values():
            say(f"note: {why}")
        return
    for path in figures.draw(name, source, out, width=width, critical=critical, **chosen):
        show(path)


def report(
    results: tuple[Path, ...],
    *,
    out: Path | None = None,
    beside: Path | None = None,
    map: Map = (),
    where: Where = None,
    strict: Strict = False,
    rows: Rows = "auto",
    decimal: Decimal = None,
) -> None:
    """Write a page that leads with what to train next, and why.

    Example: scaling report results/quickstart --out report.html
    Example: scaling report results/quickstart --beside results/isoflop

    Args:
        results: A sweep's results folder, or a table of runs; several files are one table.
        out: Output file. Default: report.html in the results folder.
        beside: A second results folder or table to compare with: its answer at the same compute,
            its runs and frontier in the first figure, and a table of differences.
    """
    from analysis.reporting.html import report as write

    chosen = selection(map, where, strict, rows, decimal)
    show(write(one_source(results), out, beside=beside, **chosen))
