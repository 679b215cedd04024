"""The figures that the data allow, grouped by the question that they answer.

They are images in SVG. What would make a figure heavy, such as thousands of points, is drawn as an
image inside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.registry import FIGURES
from analysis.reporting.elements import count, escape, number, scrolled, sentence
from scaling import progress
from scaling.units import count as plain_count

_QUESTIONS: dict[str, tuple[str, ...]] = {
    "Size, data and compute": (
        "kaplan1", "kaplan2", "kaplan4", "kaplan6", "kaplan23", "kaplan19", "gpt3",
    ),
    "The best size for a compute": (
        "frontier", "isoflop", "contours", "deviation", "kaplan11", "kaplan14", "kaplan15",
    ),
    "Held-out runs and intervals": ("holdout", "profile", "forecast", "collapse"),
    "Batch size": ("kaplan3", "kaplan10", "kaplan13", "kaplan18"),
    "Limited and repeated data": ("kaplan9", "kaplan16"),
    "Schedule and learning rate": ("kaplan22", "kaplanD1", "lr"),
    "Shape and family": ("kaplan5", "kaplan7", "kaplan17", "mup"),
    "Context and distribution": ("kaplan8", "kaplan20", "kaplan21", "kaplan24"),
    "Transfer": ("effective_data", "classification"),
    "Tasks": ("accuracy_N", "accuracy_L", "few_shot", "aggregate"),
}  # fmt: skip
"""The figures of each question; those that are in none come last."""
_OTHER = "Other questions"
_VARIED = {
    "Size, data and compute": ("N", "D"),
    "The best size for a compute": ("C", "N"),
    "Held-out runs and intervals": ("C",),
    "Batch size": ("B",),
    "Limited and repeated data": ("D_unique", "D"),
    "Schedule and learning rate": ("schedule", "lr_peak"),
    "Shape and family": ("family", "n_layer", "d_model"),
    "Context and distribution": ("n_ctx", "corpus"),
}
"""The columns whose values the runs of a question vary."""
_COLUMN_WORDS = {
    "N": ("size", "sizes"), "D": ("amount of data", "amounts of data"),
    "C": ("compute", "computes"), "B": ("batch size", "batch sizes"),
    "D_unique": ("amount of unique data", "amounts of unique data"),
    "schedule": ("schedule", "schedules"), "lr_peak": ("learning rate", "learning rates"),
    "family": ("family", "families"), "n_layer": ("depth", "depths"),
    "d_model": ("width", "widths"), "n_ctx": ("context length", "context lengths"),
    "corpus": ("corpus", "corpora"),
}  # fmt: skip
_UNITS = {"N": "parameters", "D": "tokens", "C": "FLOPs", "B": "tokens", "D_unique": "tokens",
          "n_ctx": "tokens"}  # fmt: skip
_DENSE = 1500
"""A panel with more vertices than this is drawn as an image."""
_MANY = 150
"""So is one with more lines and markers than this."""
_DPI = 200
_NARROW = 4.0
"""A figure up to this wide takes half of the column [inches]."""


def section(made: Mapping[str, Figure], runs: pd.DataFrame) -> list[str]:
    """Return the figures that were made, by question; nothing without any."""
    if not made:
        return []
    grouped = {question: [n for n in names if n in made] for question, names in _QUESTIONS.items()}
    placed = {name for names in grouped.values() for name in names}
    grouped[_OTHER] = [name for name in made if name not in placed]
    out = ["<h2>Experiments</h2>"]
    for question, names in grouped.items():
        if not names:
            continue
        out.append(f"<h3>{escape(question)}</h3>")
        if words := _in_these_runs(question, runs):
            out.append(f"<p>{words}</p>")
        pictures = "".join(_figure(name, made[name]) for name in names)
        out.append(f'<div class="pictures">{pictures}</div>')
    return out


def svg(figure: Figure, name: str = "figure") -> str:
    """Return a figure as SVG with text as paths, since the page has no fonts."""
    progress.step("writing the figures of the page")
    _rasterise(figure)
    text = io.StringIO()
    with rc_context({**style.paper(), "svg.fonttype": "path", "svg.hashsalt": name}):
        _lay_out(figure)
        figure.savefig(text, format="svg", dpi=_DPI, metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    return body[body.index("<svg") :]


def _lay_out(figure: Figure) -> None:
    """Fix the layout of a figure: one that is not is drawn twice when it is saved."""
    engine = figure.get_layout_engine()
    if engine is None:
        return
    FigureCanvasAgg(figure)
    engine.execute(figure)
    with rc_context({"figure.constrained_layout.use": False, "figure.autolayout": False}):
        figure.set_layout_engine(None)


def _figure(name: str, figure: Figure) -> str:
    """Return a figure as an image of the page: the thousands of shapes in it are no elements of
    the page, which opens sooner and is easier to read aloud."""
    drawing = FIGURES[name]
    source = f" After {drawing.source}." if drawing.source else ""
    caption = sentence(drawing.shows) + source
    data = base64.b64encode(svg(figure, name).encode()).decode()
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    drawn = (
        f'<img alt="{escape(drawing.shows)}" width="{width}" height="{height}" decoding="async" '
        f'src="data:image/svg+xml;base64,{data}">'
    )
    kind = ' class="narrow"' if figure.get_size_inches()[0] <= _NARROW else ""
    return (
        f'<figure id="{name}"{kind}>{scrolled(drawn, f"Figure {name}", "picture")}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _in_these_runs(question: str, runs: pd.DataFrame) -> str:
    """Return what the runs vary, in a sentence."""
    parts = []
    for name in _VARIED.get(question, ()):
        if name not in runs.columns:
            continue
        values = runs[name].dropna()
        different = values.nunique()
        if different < 2:
            continue
        one, several = _COLUMN_WORDS[name]
        part = one if name == "C" else f"{different} {several}"
        if pd.api.types.is_numeric_dtype(values):
            write = count if name in _UNITS else number
            low, high = float(values.min()), float(values.max())
            if name == "C":
                write = number
            part += f" from {write(low)} to {write(high)} {_UNITS.get(name, '')}".rstrip()
        elif different <= 6:
            part += f" ({escape(', '.join(sorted(map(str, values.unique()))))})"
        parts.append(part)
    if not parts:
        return ""
    return f"In these {plain_count(len(runs))} runs: {'; '.join(parts)}."


def _rasterise(figure: Figure) -> None:
    """Let dense panels be drawn as images, but for their axes and text."""
    for ax in figure.axes:
        artists = [a for a in (*ax.lines, *ax.collections) if a.get_visible()]
        if len(artists) > _MANY or sum(map(_vertices, artists)) > _DENSE:
            for artist in artists:
                artist.set_rasterized(True)


def _vertices(artist: Artist) -> int:
    if isinstance(artist, Line2D):
        return np.size(artist.get_xdata())
    if isinstance(artist, Collection):
        vertices = sum(np.size(path.vertices) // 2 for path in artist.get_paths())
        marks = np.size(artist.get_offsets()) // 2
        return vertices * max(1, marks // max(1, len(artist.get_paths())))
    return 0
