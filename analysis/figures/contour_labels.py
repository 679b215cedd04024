"""Labels of contours, placed where they cover nothing else."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet

_MARGIN = 0.2
"""Least distance of a label's centre from the edges of the axes [inches]."""
_CLEAR = 0.1
"""Least distance of a label's centre from what is drawn [inches]."""
_BETWEEN = 0.25
"""Least distance between the centres of two labels [inches]."""


def label_contours(
    ax: Axes, drawn: ContourSet, avoid: np.ndarray, *, form: str = "%.2f", size: float = 6
) -> None:
    """Write the level on each contour, as far as possible from the points `avoid` (n, 2).

    A contour has no label if it has no place for one. Set the limits of the axes first.
    """
    to_inches = ax.transData + ax.figure.dpi_scale_trans.inverted()
    low, high = to_inches.transform(np.transpose([ax.get_xlim(), ax.get_ylim()]))
    vertices = [np.asarray(path.vertices, float) for path in drawn.get_paths()]
    paths = [to_inches.transform(each) for each in vertices if len(each)]
    taken = to_inches.transform(avoid)
    placed = np.empty((0, 2))
    for i, path in enumerate(paths):
        inside = ((path > low + _MARGIN) & (path < high - _MARGIN)).all(axis=1)
        here = path[inside]
        if not len(here):
            continue
        others = np.concatenate([taken, *paths[:i], *paths[i + 1 :]])
        room = np.minimum(_nearest(here, others) / _CLEAR, _nearest(here, placed) / _BETWEEN)
        best = int(np.argmax(room))
        if room[best] >= 1:
            placed = np.concatenate([placed, here[best : best + 1]])
    if len(placed):
        at = to_inches.inverted().transform(placed)
        ax.clabel(drawn, fmt=form, fontsize=size, inline_spacing=2, manual=[tuple(p) for p in at])


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance from each point to the nearest of the others; inf if there are none."""
    if not len(others):
        return np.full(len(points), np.inf)
    return np.hypot(*(points[:, None] - others[None]).T).min(axis=0)
