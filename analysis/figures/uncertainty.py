"""Error bars of measured losses, and legend entries for bars and bands."""

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


def band(ax: Axes, x: np.ndarray, ends: tuple[np.ndarray, np.ndarray], colour: Any) -> None:
    """Draw a pale band between the given ends, such as an interval of a law."""
    if np.isfinite(ends).any():
        ax.fill_between(x, *ends, color=colour, alpha=0.12, lw=0, zorder=1)


def bar_key(label: str = OVER_TEXT) -> Line2D:
    """Return the legend entry of error bars."""
    return Line2D([], [], ls="", marker="|", ms=6, mew=0.7, color=style.GREY, label=label)


def band_key(label: str = BAND, colour: str = style.GREY) -> Patch:
    """Return the legend entry of a band."""
    return Patch(facecolor=colour, alpha=0.25, lw=0, label=label)
