"""The data that a figure shows, read from what is drawn on its axes, as one long table.

Every figure has it without code of its own. A row is a point of a line, band or scatter, a bar, or
a cell of a colour map:

panel     a, b, ... in the order of the axes, with the title if there is one
x_axis, y_axis  the names of the axes
kind      line, points, band, bar, step, span, contour or cell
item      number of the line or set of points in its panel
series    its name in the legend
value     what its colour stands for, by the colour bar; the level of a contour; the value of a cell
x, y      the point; empty for a coordinate that spans the panel
low, high  the ends of an error bar or of a band in y; x_low and x_high those in x

Numbers have six digits. Of a line or band of more than 101 points, 101 evenly spaced ones are kept,
its ends among them; of more than 1000 cells or points of a scatter, at most 1000 evenly spaced
ones. If the table then has more than 2000 rows or 200 kB, lines keep every k-th point, with the
least k that suffices, and their ends; if that does not suffice, so do points and bars.
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.pieces import (
    MOST_POINTS,
    Piece,
    bar_of,
    pieces,
    plain,
    shared_label,
    values_by_colour,
)

COLUMNS = (
    "panel", "x_axis", "y_axis", "kind", "item", "series", "value", "x", "y", "low", "high",
    "x_low", "x_high",
)  # fmt: skip
"""Columns of the table."""

_MOST_OF_A_LINE = 101
_MOST_ROWS = 2000
_MOST_BYTES = 200_000

_LINES = ("line", "band", "contour")
"""Kinds whose points follow one another."""


def drawn(figure: Figure, *, rows: int = _MOST_ROWS) -> pd.DataFrame:
    """Return the data that a figure shows, one row per point, at most `rows`; see the module."""
    bars = [values_by_colour(ax) for ax in figure.axes if bar_of(ax) is not None]

    def value_of(colour: Any) -> float | None:
        known = {v for bar in bars if (v := bar(colour)) is not None}
        return known.pop() if len(known) == 1 else None

    panels = [ax for ax in figure.axes if bar_of(ax) is None]
    found = []
    for k, ax in enumerate(panels):
        letter = string.ascii_lowercase[k] if k < 26 else str(k + 1)
        title = plain(ax.get_title())
        panel = {
            "panel": f"{letter}: {title}" if title else letter,
            "x_axis": plain(ax.get_xlabel() or shared_label(ax, "x")),
            "y_axis": plain(ax.get_ylabel() or shared_label(ax, "y")),
        }
        for piece in pieces(ax, value_of):
            piece.panel = panel
            found.append(_thinned(piece, _MOST_OF_A_LINE))
    frames, item, before = [], 0, None
    for piece in _fewer(found, rows):
        item = item + 1 if piece.panel is before else 1
        before = piece.panel
        frames.append(_frame(piece, item))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    numbers = dict.fromkeys(COLUMNS[COLUMNS.index("value") :], float)
    return table.reindex(columns=list(COLUMNS)).astype(numbers)


def text(figure: Figure) -> str:
    """Return the data of a figure as CSV, the same bytes for the same figure."""
    rows = _MOST_ROWS
    while True:
        table = drawn(figure, rows=rows)
        found = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        if len(found.encode()) <= _MOST_BYTES or rows < 50:
            return found
        rows = int(0.95 * min(rows, len(table)) * _MOST_BYTES / len(found.encode()))


# ------------------------------------------------------------------ thinning and rows


def _thinned(piece: Piece, most: int) -> Piece:
    n = len(piece)
    most = most if piece.kind in _LINES else MOST_POINTS
    return piece if n <= most else _picked(piece, np.linspace(0, n - 1, most).round().astype(int))


def _fewer(found: list[Piece], rows: int) -> list[Piece]:
    """Return the pieces with at most `rows` rows in all, keeping every 64th point or more."""
    thin = found
    for kinds in (_LINES, None):
        for every in range(1, 65):
            thin = [_every(piece, every, kinds) for piece in found]
            if sum(map(len, thin)) <= rows:
                return thin
    return thin


def _every(piece: Piece, k: int, kinds: tuple[str, ...] | None) -> Piece:
    """Return every k-th point of a piece of these kinds, or of any, and its ends."""
    n = len(piece)
    if k == 1 or n <= 3 or (kinds is not None and piece.kind not in kinds):
        return piece
    return _picked(piece, np.unique([*range(0, n, k), n - 1]))


def _picked(piece: Piece, index: np.ndarray) -> Piece:
    def pick(values: Any) -> Any:
        several = np.ndim(values) > 0 and len(values) == len(piece)
        return np.asarray(values)[index] if several else values

    columns = {name: pick(values) for name, values in piece.columns.items()}
    return Piece(piece.kind, columns, piece.series, pick(piece.value), panel=piece.panel)


def _frame(piece: Piece, item: int) -> pd.DataFrame:
    own = {"kind": piece.kind, "item": item, "series": piece.series}
    return pd.DataFrame({**piece.panel, **own, "value": piece.value, **piece.columns},
                        index=range(len(piece)))  # fmt: skip
