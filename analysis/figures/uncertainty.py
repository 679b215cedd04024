"""Error bars of measured losses, and legend entries for bars, bands and dashes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import style

OVER_TEXT = "95 % interval over test text"
BAND = "95 % interval of the law"
VAST = 100.0
"""Factor beyond the values from which an interval is open."""
BEYOND_DATA = "beyond the data"


def test_bars(
    ax: Axes, runs: pd.DataFrame, x: str | np.ndarray, colour: Any, *, unit: Any = 1.0,
    above: float = 0.0,
) -> bool:  # fmt: skip
    """Draw 95 % intervals of L over the test contexts; return whether the runs have any.

    x       A column, or its values.
    colour  A colour, or one for each run.
    unit    The y axis shows L / unit - above.
    """
    if "L_stderr" not in runs.columns or not (runs["L_stderr"] > 0).any():
        return False
    L, error = (runs[column].to_numpy(float) / unit for column in ("L", "L_stderr"))
    error = 1.96 * np.where(np.isfinite(error), error, 0.0)
    at = runs[x] if isinstance(x, str) else x
    ax.vlines(at, L - above - error, L - above + error, color=colour, lw=0.8, zorder=3.5)
    return True


def within_reach(ends: np.ndarray, *values: Any) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that shows values and the ends of their intervals, but
    not those more than VAST times beyond the values."""
    known = np.concatenate([np.asarray(each, float) for each in values])
    seen = ends[(ends > known.min() / VAST) & (ends < known.max() * VAST)]
    seen = np.concatenate([seen, known])
    return float(seen.min() / 1.5), float(seen.max() * 1.5)


def interval_bars(
    ax: Axes, x: np.ndarray, ends: np.ndarray, colours: Any, reach: tuple[float, float]
) -> list[Line2D]:
    """Draw bars between the ends (n, 2) of intervals, with arrows at those out of reach.

    Returns the legend entry of the arrows, or an empty list if there are none.
    """
    bottom, top = reach
    ax.vlines(x, ends[:, 0].clip(min=bottom), ends[:, 1].clip(max=top), color=colours, lw=0.6)
    open_below, open_above = ends[:, 0] < bottom, ends[:, 1] > top
    for at, out, mark in ((bottom, open_below, "v"), (top, open_above, "^")):
        for k in np.flatnonzero(out):
            ax.plot(x[k], at, mark, color=colours[k], ms=3, mew=0)
    if not (open_below | open_above).any():
        return []
    arrow = Line2D([], [], ls="", marker="^", ms=3, mew=0, color=style.GREY)
    arrow.set_label("interval reaches further")
    return [arrow]


def band(ax: Axes, x: np.ndarray, ends: tuple[np.ndarray, np.ndarray], colour: Any) -> None:
    """Draw a pale band between the given ends, such as an interval of a law."""
    if np.isfinite(ends).any():
        ax.fill_between(x, *ends, color=colour, alpha=0.12, lw=0, zorder=1)


def in_percent(level: float) -> str:
    """Return the level of an interval in words, such as 95 %."""
    return f"{100 * level:g} %"


def bar_key(label: str = OVER_TEXT) -> Line2D:
    """Return the legend entry of error bars."""
    return Line2D([], [], ls="", marker="|", ms=6, mew=0.7, color=style.GREY, label=label)


def band_key(label: str = BAND, colour: str = style.GREY) -> Patch:
    """Return the legend entry of a band."""
    return Patch(facecolor=colour, alpha=0.25, lw=0, label=label)


def beyond_key() -> Line2D:
    """Return the legend entry of the dashes of a line beyond the data."""
    return Line2D([], [], color=style.GREY, lw=0.8, ls=(0, (3, 2)), label=BEYOND_DATA)


def outline_key() -> Line2D:
    """Return the legend entry of outlined dots, which a law is fitted to."""
    return Line2D(
        [], [], ls="", marker="o", mfc="none", mec=style.INK, mew=0.6, ms=3.5,
        label="outlined: fitted",
    )  # fmt: skip
