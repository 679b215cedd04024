"""Commands that write a summary, figures or a page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scaling.cli.options import Critical
from scaling.cli.output import note, say, show
from scaling.errors import ConfigError
from scaling.extras import installed, missing


def summary(results: Path, *, figures: Path | None = None) -> None:
    """Laws with intervals, held-out error, frontier, plan and figures of a sweep.

    Example: scaling summary results/quickstart

    Args:
        results: A sweep's results folder.
        figures: Where figures go; the results folder's own `figures` where not given.
    """
    from analysis.reporting.summary import summarise

    show(summarise(results, figures=figures))


def figure(
    name: str = "",
    results: Path | None = None,
    *,
    out: Path | None = None,
    width: Literal["column", "full"] | None = None,
    critical: Critical = None,
    list: bool = False,
) -> None:
    """Draw a figure of the papers from a results folder, or all that it allows.

    Example: scaling figure kaplan1 results/quickstart --out kaplan1.pdf

    Args:
        name: Which figure (--list shows them), all, or again: those that lie there already.
        results: A results folder.
        out: Output file; its suffix, .pdf, .png or .svg, says the format. Where not given, a .pdf
            and a .png are written to the results folder's `figures`. A folder for all and again.
        width: One column of a page (3.25 inches) or the full text (6.75); what suits the figure
            where not given.
        list: List the figures, the columns that they take and the spec that measures these.
    """
    from analysis import figures

    if list:
        show(figures.listing())
        return
    if not name or results is None:
        raise ConfigError(
            "`scaling figure` needs a figure and a results folder, such as kaplan1 results/headline; "
            "--list shows the figures."
        )
    if name in ("all", "again"):
        files, lacking = figures.draw_all(
            results, out, again=name == "again", width=width, critical=critical
        )
        show(*files)
        for why in lacking.values():
            say(f"note: {why}")
        return
    for path in figures.draw(name, results, out, width=width, critical=critical):
        show(path)


def report(results: Path, *, out: Path | None = None) -> None:
    """Write one HTML page of a sweep: laws, verdicts, figures, plan, runs, provenance.

    Example: scaling report results/quickstart --out report.html

    Args:
        results: A sweep's results folder.
        out: Output file; report.html in the results folder by default.
    """
    from analysis.reporting.html import report as write

    show(write(results, out))
    if not installed("plotly"):
        note(f"the page has no interactive plot; {missing('plotly')}")
