"""Error bars of measured losses, and what bars and bands in a figure are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.legend_handler import HandlerErrorbar
from matplotlib.patches import Patch

from analysis.figures import style

STDERR = "\N{PLUS-MINUS SIGN} standard error of the test"
BAND = "95 % interval of the law"


def stderr_bars(ax: Axes, runs: pd.DataFrame, x: str, colour: Any, *, scale: Any = 1.0) -> bool:
    """Draw the standard errors of L over the test contexts; return whether the runs have any.

    colour  A colour, or one for each run.
    scale   Divides losses and errors; a number, or one for each run.
    """
    if "L_stderr" not in runs.columns or not (runs["L_stderr"] > 0).any():
        return False
    L, error = (runs[k].to_numpy(float) / scale for k in ("L", "L_stderr"))
    error = np.where(np.isfinite(error), error, 0.0)
    ax.vlines(runs[x], L - error, L + error, color=colour, lw=0.7, zorder=2.2)
    return True


def bar_key(colour: str = style.GREY) -> Any:
    """Return the legend entry of error bars; use it with `HANDLERS`."""
    from matplotlib.container import ErrorbarContainer
    raise NotImplementedError(ErrorbarContainer, HandlerErrorbar, Patch, colour)
