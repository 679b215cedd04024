"""What is drawn on an axes: lines, points, bands, bars, contours and cells, with their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import (
    Collection,
    LineCollection,
    PathCollection,
    PolyCollection,
    QuadMesh,
)
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.contour import ContourSet
from matplotlib.image import AxesImage
from matplotlib.lines import AxLine, Line2D
from matplotlib.patches import Patch, Rectangle, StepPatch

MOST_POINTS = 1000
"""Points of a scatter and cells of a grid that are kept."""

Values = np.ndarray | float | None
ValueOf = Callable[[Any], float | None]
"""Maps a colour to the value that it stands for; None if it stands for none."""


@dataclass
class Piece:
    """A line, band or set of points on a panel."""

    kind: str
    columns: dict[str, Values]
    """Coordinates by column; the missing ones are empty."""
    series: str = ""
    value: Values = None
    colours: np.ndarray | None = None
    """The colour of each point, or the one of all, from which values follow."""
    panel: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return max(np.size(v) for v in self.columns.values() if v is not None)


def pieces(ax: Axes, value_of: ValueOf) -> Iterator[Piece]:
    """Yield what is drawn on an axes, in the order of its artists."""
    parts: set[int] = set()
    for container in ax.containers:
        if isinstance(container, ErrorbarContainer):
            parts |= {id(each) for group in container[1:] for each in group or ()}
            parts.add(id(container[0]))
            yield from _error_bars(container, value_of)
        elif isinstance(container, BarContainer):
            parts |= {id(each) for each in container.patches}
            yield from _bars(container, value_of)
    for artist in ax.get_children():
        if id(artist) in parts or not artist.get_visible():
            continue
        for piece in _of_artist(ax, artist):
            if piece.value is None:
                piece.value = _value(piece.colours, _colour(artist), value_of)
            if len(piece) and piece.columns:
                piece.series = piece.series or _name(artist)
                yield piece


def _value(colours: np.ndarray | None, colour: Any, value_of: ValueOf) -> Values:
    """Return the value of each colour of a piece, or of its one colour."""
    if colours is None:
        return value_of(colour)
    known, which = np.unique(colours, axis=0, return_inverse=True)
    values = [value_of(each) for each in known]
    if all(each is None for each in values):
        return None
    found = np.array(values, float)[which.ravel()]
    return found if len(found) > 1 else float(found[0])


def _of_artist(ax: Axes, artist: Any) -> Iterator[Piece]:
    if isinstance(artist, Line2D) and not isinstance(artist, AxLine):
        yield from _line(ax, artist)
    elif isinstance(artist, ContourSet):
        yield from _contours(artist)
    elif isinstance(artist, QuadMesh):
        yield from _mesh(artist)
    elif isinstance(artist, PathCollection):
        yield from _scatter(artist)
    elif isinstance(artist, LineCollection):
        yield from _segments(ax, artist)
    elif isinstance(artist, PolyCollection):
        yield from _band(artist)
    elif isinstance(artist, AxesImage):
        yield from _image(artist)
    elif isinstance(artist, StepPatch):
        heights, edges, _ = artist.get_data()
        edges = np.asarray(edges)
        yield Piece("step", {"x_low": edges[:-1], "x_high": edges[1:], "y": heights})
    elif isinstance(artist, Rectangle) and artist is not ax.patch:
        yield from _span(ax, artist)


def _line(ax: Axes, line: Line2D) -> Iterator[Piece]:
    x, y = (np.ma.filled(np.ma.asarray(v, float), np.nan) for v in
            (line.get_xdata(orig=False), line.get_ydata(orig=False)))  # fmt: skip
    in_x, in_y = _in_data(ax, line)
    if not (in_x or in_y) or not len(x):
        return
    if not (in_x and in_y):  # a reference line across the panel
        known, other = (x, "x") if in_x else (y, "y")
        yield Piece("line", {other: np.unique(known)})
        return
    known = np.isfinite(x) & np.isfinite(y)
    dots = line.get_linestyle() in ("None", "none", " ", "")
    yield Piece("points" if dots else "line", {"x": x[known], "y": y[known]})


def _scatter(dots: PathCollection) -> Iterator[Piece]:
    x, y = np.ma.filled(np.ma.asarray(dots.get_offsets(), float), np.nan).reshape(-1, 2).T
    values = dots.get_array()
    if values is not None and len(values) == len(x):
        yield Piece("points", {"x": x, "y": y}, value=np.asarray(values, float))
        return
    colours = np.asarray(dots.get_facecolor())
    if len(colours) == len(x) and len(np.unique(colours, axis=0)) > 1:
        yield Piece("points", {"x": x, "y": y}, colours=colours)
        return
    yield Piece("points", {"x": x, "y": y})


def _segments(ax: Axes, lines: LineCollection) -> Iterator[Piece]:
    in_x, in_y = _in_data(ax, lines)
    colours = np.asarray(lines.get_colors())  # pyright: ignore[reportAttributeAccessIssue]
    for k, segment in enumerate(lines.get_segments()):
        points = np.asarray(segment, float)
        if not len(points):
            continue
        columns: dict[str, Values] = {}
        if in_x and in_y:
            columns = {"x": points[:, 0], "y": points[:, 1]}
        elif in_x or in_y:
            columns = {"x": points[:1, 0]} if in_x else {"y": points[:1, 1]}
        if columns:
            colour = colours[[k % len(colours)]] if len(colours) else None
            yield Piece("line", columns, colours=colour)


def _band(band: PolyCollection) -> Iterator[Piece]:
    for path in band.get_paths():
        vertices = np.asarray(path.vertices, float)
        vertices = vertices[np.isfinite(vertices).all(axis=1)]
        across = getattr(band, "t_direction", "x") == "y"
        at, ends = (vertices[:, 1], vertices[:, 0]) if across else vertices.T
        where = np.unique(at)
        low = np.array([ends[at == each].min() for each in where])
        high = np.array([ends[at == each].max() for each in where])
        names = ("y", "x_low", "x_high") if across else ("x", "low", "high")
        yield Piece("band", dict(zip(names, (where, low, high), strict=True)))


def _contours(contours: ContourSet) -> Iterator[Piece]:
    for level, path in zip(contours.levels, contours.get_paths(), strict=False):
        vertices = np.asarray(path.vertices, float)
        if not len(vertices):
            continue
        codes = path.codes
        starts = np.flatnonzero(codes == path.MOVETO)[1:] if codes is not None else []
        for part in np.split(vertices, starts):
            yield Piece("contour", {"x": part[:, 0], "y": part[:, 1]}, value=float(level))


def _mesh(mesh: QuadMesh) -> Iterator[Piece]:
    corners = np.asarray(mesh.get_coordinates(), float)
    values = mesh.get_array()
    if values is None:
        return
    rows, columns = corners.shape[0] - 1, corners.shape[1] - 1
    z = np.ma.filled(np.ma.asarray(values, float), np.nan)
    middles = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    centres = middles if z.size == rows * columns else corners  # with shading: at each corner
    yield _cells(centres[..., 0], centres[..., 1], z.reshape(centres.shape[:2]))


def _image(image: AxesImage) -> Iterator[Piece]:
    values = image.get_array()
    if values is None or values.ndim != 2:
        return
    left, right, bottom, top = image.get_extent()
    rows, columns = values.shape
    if image.origin == "upper":
        bottom, top = top, bottom
    x = left + (np.arange(columns) + 0.5) / columns * (right - left)
    y = bottom + (np.arange(rows) + 0.5) / rows * (top - bottom)
    grid = np.meshgrid(x, y)
    yield _cells(grid[0], grid[1], np.ma.filled(np.ma.asarray(values, float), np.nan))


def _cells(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Piece:
    """Return the cells of a grid, every k-th in both directions if they are too many."""
    k = int(np.ceil(np.sqrt(z.size / MOST_POINTS))) if z.size > MOST_POINTS else 1
    return Piece(
        "cell", {"x": x[::k, ::k].ravel(), "y": y[::k, ::k].ravel()}, value=z[::k, ::k].ravel()
    )


def _span(ax: Axes, patch: Rectangle) -> Iterator[Piece]:
    in_x, in_y = _in_data(ax, patch)
    x, y = patch.get_x(), patch.get_y()
    columns: dict[str, Values] = {}
    if in_x:
        columns |= {"x_low": x, "x_high": x + patch.get_width()}
    if in_y:
        columns |= {"low": y, "high": y + patch.get_height()}
    if columns:
        yield Piece("span", columns)


def _bars(bars: BarContainer, value_of: ValueOf) -> Iterator[Piece]:
    for patch in bars.patches:
        x, y = patch.get_x(), patch.get_y()
        ends: dict[str, Values]
        if bars.orientation == "horizontal":
            ends = {"x": x + patch.get_width(), "y": y + patch.get_height() / 2}
        else:
            ends = {"x": x + patch.get_width() / 2, "y": y + patch.get_height()}
        yield Piece("bar", ends, _name(bars), value_of(_colour(patch)))


def _error_bars(bars: ErrorbarContainer, value_of: ValueOf) -> Iterator[Piece]:
    centre, _, spans = bars
    ends: dict[str, Values] = {}
    middle = None
    for span in spans:
        points = np.array([s if len(s) == 2 else np.full((2, 2), np.nan)
                           for s in map(np.asarray, span.get_segments())], float)  # fmt: skip
        if not len(points):
            continue
        middle = points.mean(axis=1) if middle is None else middle
        upright = np.allclose(points[:, 0, 0], points[:, 1, 0], equal_nan=True)
        names, axis = (("low", "high"), 1) if upright else (("x_low", "x_high"), 0)
        ends |= {name: points[:, k, axis] for k, name in enumerate(names)}
    if centre is not None:
        x, y = (np.asarray(v, float) for v in (centre.get_xdata(), centre.get_ydata()))
    elif middle is not None:
        x, y = middle.T
    else:
        return
    ends = {name: each for name, each in ends.items() if len(np.asarray(each)) == len(x)}
    colour = _colour(centre if centre is not None else spans[0])
    kind = "points"
    if centre is not None and centre.get_linestyle() not in ("None", "none", " ", ""):
        kind = "line"
    if len(x):
        yield Piece(kind, {"x": x, "y": y, **ends}, _name(bars), value_of(colour))


# ------------------------------------------------------------------ what belongs to a piece


def _in_data(ax: Axes, artist: Any) -> tuple[bool, bool]:
    """Return whether x and y of an artist are in the units of the axes."""
    x, y = artist.get_transform().contains_branch_seperately(ax.transData)
    return bool(x), bool(y)


def _name(artist: Any) -> str:
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else plain(label)


def shared_label(ax: Axes, which: str) -> str:
    """Return the label of the axis that an axes shares, or of the figure."""
    shared = ax.get_shared_x_axes() if which == "x" else ax.get_shared_y_axes()
    for other in shared.get_siblings(ax):
        if label := (other.get_xlabel() if which == "x" else other.get_ylabel()):
            return label
    figure = ax.figure
    return str(getattr(figure, f"get_sup{which}label", str)() or "")


def _colour(artist: Any) -> Any:
    """Return the one colour of an artist, or None."""
    if isinstance(artist, Line2D):
        marked = artist.get_linestyle() in ("None", "none", " ", "")
        return artist.get_markerfacecolor() if marked else artist.get_color()
    if isinstance(artist, LineCollection):
        colours = np.asarray(artist.get_colors())  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(artist, Collection | Patch):
        colours = np.atleast_2d(np.asarray(artist.get_facecolor()))
    else:
        return None
    return colours[0] if len(colours) and len(np.unique(colours, axis=0)) == 1 else None


def bar_of(ax: Axes) -> Any:
    """Return the colour bar that an axes holds, or None."""
    return getattr(ax, "_colorbar", None)


def values_by_colour(ax: Axes) -> ValueOf:
    """Return a function from a colour to the value that it stands for on a colour bar: one of those
    marked on the bar, or one that lies on it."""
    bar = bar_of(ax)
    marks = [
        float(segment[0][1])
        for lines in ax.collections
        if isinstance(lines, LineCollection) and lines is not getattr(bar, "dividers", None)
        for segment in lines.get_segments()
        if len(segment)
    ]
    low, high = bar.norm.vmin, bar.norm.vmax
    fine = np.asarray(bar.norm.inverse(np.linspace(0, 1, 257)), float)
    marks = [each for each in marks if low * (1 - 1e-9) <= each <= high * (1 + 1e-9)]
    values = np.array([*marks, *fine])
    colours = np.asarray(bar.cmap(bar.norm(values)))[:, :3]

    def value(colour: Any) -> float | None:
        try:
            rgb = np.array(to_rgba(colour)[:3])
        except (ValueError, TypeError):
            return None
        off = np.abs(colours - rgb).max(axis=1)
        best = int(np.argmin(off[: len(marks)])) if marks else -1
        if best >= 0 and off[best] < 2e-3:
            return float(values[best])
        best = int(np.argmin(off))
        return float(values[best]) if not marks and off[best] < 2e-3 else None

    return value


def plain(label: str) -> str:
    """Return a label without the marks of its formulas: $N_\\mathrm{opt}$ becomes N_opt."""
    text = re.sub(r"\\(?:mathrm|mathit|mathbf|text|hat|bar)\s*\{([^{}]*)\}", r"\1", label)
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", text)
    text = text.replace(r"\times", "x").replace(r"\cdot", "x").replace(r"\propto", "~")
    text = re.sub(r"\\[,;:! ]", "", text)
    text = re.sub(r"\\([A-Za-z]+)", r"\1", text).replace("\\", "")
    text = re.sub(r"\{([^{}]*)\}", lambda m: m[1] if len(m[1]) < 2 or m[1].isalnum() or
                  re.fullmatch(r"[-−+]?[\d.]+", m[1]) else f"({m[1]})", text)  # fmt: skip
    return " ".join(text.replace("$", "").replace("−", "-").split())
