"""What a reader could not read on a figure: texts that overlap, leave the page or lie over data,
marks out of view, and axes without two numbers."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from analysis.figures.pieces import bar_of

LEAST_SIZE = 6
"""Smallest font [points]."""


def faults(figure: Figure) -> list[str]:
    """Return the faults of a figure in words."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [(text, text.get_window_extent(canvas.get_renderer())) for text in _texts(figure)]
    boxes = [(text, box) for text, box in boxes if round(text.get_rotation()) % 90 == 0]
    found = list(_of_texts(figure, boxes))
    panels = [ax for ax in figure.axes if bar_of(ax) is None]
    for k, ax in enumerate(panels):
        found += [f"panel {k}: {fault}" for fault in _of_panel(ax, boxes)]
    return found


def _texts(figure: Figure) -> list[Text]:
    """Return the texts that are drawn; of tick labels, those within their axis."""
    of_ticks, shown = set(), []
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                of_ticks |= {tick.label1, tick.label2}
            ticks = axis._update_ticks()
            shown += [t for tick in ticks for t in (tick.label1, tick.label2) if t.get_visible()]
    shown += [text for text in figure.findobj(Text) if text not in of_ticks]
    return [text for text in shown if text.get_visible() and text.get_text().strip()]


def _of_texts(figure: Figure, boxes):
    for text, box in boxes:
        if text.get_fontsize() < LEAST_SIZE:
            yield f"{text.get_text()!r} is small"
        if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1:
            yield f"{text.get_text()!r} leaves the page"
    for (text, a), (other, b) in itertools.combinations(boxes, 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if across > 1 and up > 1.5:
            yield f"{text.get_text()!r} overlaps {other.get_text()!r}"


def _of_panel(ax: Axes, boxes):
    frame = ax.get_window_extent()
    for axis in (ax.xaxis, ax.yaxis):
        labels = [tick.label1 for tick in axis._update_ticks() if tick.label1.get_text()]
        if len(labels) < 2 and ax.get_subplotspec() is not None:
            yield f"the {axis.axis_name} axis has {len(labels)} numbers"
    marks, lines = _drawn(ax)
    for points in marks:
        out = ((points < frame.min - 1) | (points > frame.max + 1)).any(axis=1)
        if out.any():
            yield f"{out.sum()} marks out of view"
    points = np.concatenate([*marks, *map(_dense, lines), np.empty((0, 2))])
    points = points[((points > frame.min) & (points < frame.max)).all(axis=1)]
    own = [(t.get_text(), b) for t, b in boxes if t.axes is ax and frame.contains(*_middle(b))]
    own += [("the legend", legend.get_window_extent()) for legend in ax.findobj(Legend)]
    for name, box in own:
        if ((points > box.min + 1) & (points < box.max - 1)).all(axis=1).any():
            yield f"{name!r} lies over data"


def _middle(box):
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def _drawn(ax: Axes):
    """Return the points of marks, and the paths of lines, bands and bars, on the page."""
    marks, lines = [], []
    for line in ax.lines:
        if line.get_transform() == ax.transData:
            at = ax.transData.transform(np.asarray(line.get_xydata(), float))
            at = at[np.isfinite(at).all(axis=1)]
            marks += [at] if line.get_marker() not in ("None", "") else []
            lines += [at] if line.get_linestyle() != "None" else []
    for drawn in ax.collections:
        if isinstance(drawn, PathCollection):
            marks.append(ax.transData.transform(np.asarray(drawn.get_offsets(), float)))
        elif isinstance(drawn, LineCollection | PolyCollection) and not isinstance(
            drawn, ContourSet
        ):
            paths = (ax.transData.transform(path.vertices) for path in drawn.get_paths())
            lines += [path[np.isfinite(path).all(axis=1)] for path in paths]
    return marks, lines


def _dense(path: np.ndarray) -> np.ndarray:
    """Return points on a path, about two pixels apart."""
    if len(path) < 2:
        return path
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    at = np.linspace(0, along[-1], min(4000, int(along[-1] / 2) + 2))
    return np.column_stack([np.interp(at, along, v) for v in path.T])
