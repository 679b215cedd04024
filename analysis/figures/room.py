"""Room for legends and texts: limits of an axis such that they cover no data."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection

_GAP = 0.02
"""Least distance between a text and the data, as a fraction of the axes."""
_LEAST = 0.4
"""Least fraction of the height that the data keep."""


def make_room(ax: Axes, *artists: Any) -> None:
    """Extend the y axis until no line, band or dot lies behind the given legends and texts.

    Those in the upper half extend it upwards, the others downwards. Call it before the ticks are
    set, since they depend on the limits. Axes that share the y axis share the room.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    FigureCanvasAgg(figure)
    for artist in artists:
        artist.set_in_layout(False)  # long names may stand out, and must not squeeze the axes
    if (engine := figure.get_layout_engine()) is None:
        figure.draw_without_rendering()
    else:
        engine.execute(figure)  # all that a drawing would settle before
    for artist in artists if len(artists) == 1 else artists * 3:  # room on one side moves the data
        box = artist.get_window_extent().transformed(ax.transAxes.inverted())
        x, y = _drawn(ax).T
        heights = y[(x > box.x0 - _GAP) & (x < box.x1 + _GAP)]
        if not len(heights):
            continue
        transform = ax.yaxis.get_transform()
        low, high = transform.transform(np.array(ax.get_ylim(), float))
        if box.y0 + box.y1 > 1:
            room = max(box.y0 - _GAP, _LEAST)
            high = low + (high - low) * max(heights.max() / room, 1.0)
        else:
            room = max(1 - box.y1 - _GAP, _LEAST)
            low = high - (high - low) * max((1 - heights.min()) / room, 1.0)
        ax.set_ylim(*transform.inverted().transform(np.array([low, high])))


def _drawn(ax: Axes) -> np.ndarray:
    """Return points on everything drawn in data coordinates, as (x, y) in fractions of the axes."""
    dots = [np.empty((0, 2))]
    paths = [line.get_xydata() for line in ax.lines if line.get_transform() == ax.transData]
    for collection in ax.collections:
        if isinstance(collection, PathCollection):
            dots.append(np.asarray(collection.get_offsets()))
        else:
            paths += [path.vertices for path in collection.get_paths()]

    def placed(points: Any) -> np.ndarray:
        at = ax.transScale.transform(np.asarray(points, float))
        return ax.transLimits.transform(at[np.isfinite(at).all(axis=1)])

    found = [placed(np.concatenate(dots))]
    for at in map(placed, paths):
        if len(at) > 1:  # the data may lie between two points
            steps = np.linspace(0, len(at) - 1, max(len(at), 101))
            at = np.column_stack([np.interp(steps, np.arange(len(at)), v) for v in at.T])
        found.append(at)
    return np.concatenate(found)
