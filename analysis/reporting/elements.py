"""Parts of the report page: numbers, tables, cards and folded details, as HTML."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any

import pandas as pd

from analysis import in_words, notebook
from scaling import units

_COUNTED = 1e3
"""From here on a number of parameters or tokens is written as 2.68k, 976k or 8.3M."""


def package_file(name: str) -> str:
    """Return the text of a style sheet or script that this package ships."""
    return files("analysis.reporting").joinpath(name).read_text(encoding="utf-8")


def escape(text: object) -> str:
    """Return text for HTML, quotation marks included."""
    return html.escape(str(text))


def count(value: float) -> str:
    """Return a number of parameters or tokens in three digits: 976k, 8.3M, or 512."""
    if not math.isfinite(value) or abs(value) < _COUNTED:
        return number(value)
    return units.count(value)


def number(value: float) -> str:
    """Return a number in three significant digits, as HTML."""
    return notebook.number(value)


def loss(value: float) -> str:
    """Return a loss in three significant digits, trailing zeros included: 3.10."""
    if not math.isfinite(value) or not 0.01 <= abs(value) < 100:
        return number(value)
    return f"{value:#.3g}".rstrip(".").replace("-", "−")


def interval(
    low: float,
    high: float,
    write: Callable[[float], str] = number,
    *,
    vast: float | None = None,
) -> str:
    """Return an interval in three digits, or the reason why it says nothing, as HTML.

    One that spans a factor of `vast` says nothing.
    """
    if write is number or low is None or high is None:
        return notebook.interval(low, high)
    text = in_words.interval(low, high, write, vast=vast)
    return text.strip("[]") if text.startswith("[no") else text.replace(", ", ",\u00a0")


def percent(share: float, *, signed: bool = False) -> str:
    """Return a share as a percentage in two digits; a dash if it is unknown."""
    if not math.isfinite(share):
        return "–"
    sign = "+" if signed else ""
    text = f"{100 * share:{sign}.2g}"
    if "e" in text:
        text = f"{100 * share:{sign}.0f}"
    return f"{text.replace('-', '−')} %"


def rule(text: str) -> str:
    """Return words with a formula, such as '0.07 N^-0.3', as HTML with its powers raised."""
    return notebook.expression(text).replace("<sup>-", "<sup>−")


def cell(value: Any) -> str:
    """Return a table cell: numbers in three digits, text escaped, nothing for what is unknown."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "<td></td>"
    if isinstance(value, bool | str):
        return f"<td>{escape(value)}</td>"
    return f'<td class="number">{number(float(value))}</td>'


def numeric(markup: str) -> str:
    """Return a cell for a number that is HTML already."""
    return f'<td class="number">{markup}</td>'


def marked_up(markup: str) -> str:
    """Return a cell for text that is HTML already."""
    return f"<td>{markup}</td>"


def table(
    header: Sequence[str], rows: Iterable[Iterable[str]], *, label: str, name: str = ""
) -> str:
    """Return a table in a box that scrolls by itself.

    header  column headings, plain text.
    rows    cells as HTML, as `cell`, `numeric` and `marked_up` make them.
    label   what the table is, for those who cannot see it.
    """
    cells = [list(row) for row in rows]
    first = cells[0] if cells else [""] * len(header)
    numbers = [' class="number"' if 'class="number"' in each[:20] else "" for each in first]
    head = "".join(
        f'<th scope="col"{kind}>{escape(h)}</th>' for h, kind in zip(header, numbers, strict=True)
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    id_ = f' id="{name}"' if name else ""
    return scrolled(
        f"<table{id_}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", label
    )


def scrolled(markup: str, label: str, kind: str = "wide") -> str:
    """Return what may be wider than a phone in a box that the keyboard can scroll."""
    return (
        f'<div class="{kind}" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"{markup}</div>"
    )


def details(summary: str, *parts: str) -> str:
    """Return parts that are HTML, folded under a line of plain text."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def card(title: str, *parts: str, name: str = "") -> str:
    """Return a card: a heading over parts, all of them HTML."""
    id_ = f' id="{name}"' if name else ""
    return f'<article class="card"{id_}><h3>{title}</h3>{"".join(parts)}</article>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and values, both HTML, as a list of definitions; rows without a value are
    hidden."""
    items = "".join(
        f"<div{'' if re.sub('<[^>]*>', '', value) else ' hidden'}><dt>{name}</dt>"
        f"<dd>{value}</dd></div>"
        for name, value in rows
    )
    return f'<dl class="facts">{items}</dl>'


def live(key: str, markup: str) -> str:
    """Return HTML that the page's script replaces when a reader changes the question."""
    return f'<span data-of="{key}">{markup}</span>'


def canvas(name: str, words: str, kind: str = "") -> str:
    """Return a figure that the page's script draws, with words for those who cannot see it."""
    class_ = f' class="{kind}"' if kind else ""
    return (
        f'<canvas id="plot-{name}"{class_} tabindex="0" role="application" '
        f'aria-roledescription="figure" aria-label="{escape(words)}"></canvas>'
    )


def sentence(text: str) -> str:
    """Return text that begins with a capital letter and ends with a full stop."""
    text = " ".join(text.split())
    return re.sub(r"[.;:,]*$", ".", text[:1].upper() + text[1:]) if text else ""
