"""Style of figures: matplotlib settings, colours by size, and axes of losses and counts.

Nothing here changes global state: figures are made and saved inside `rc_context(paper())`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, LogNorm, to_hex
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from scaling.columns import COLUMNS

COLUMN = 3.25
"""Width of one column [inches]."""
FULL = 6.75
"""Text width of a page [inches]."""

INK = "#1a1a1a"
GREY = "#8c8c8c"
FIT = "#c1272d"
"""Colour of fitted laws, their bands and the optimum."""
LABELS = {
    "N": "Parameters $N$",
    "N_total": "Parameters with embeddings",
    "D": "Training tokens $D$",
    "C": "Compute $C$ [FLOPs]",
    "S": "Steps $S$",
    "B": "Batch size $B$ [tokens]",
    "L": "Test loss $L$ [nats/token]",
    "PF": "Compute $C$ [PF-days]",
}
"""Labels of axes, with units."""

Width = Literal["column", "full"]
"""Width of a figure: one column of a page, or the whole text width."""

METHODS = {
    "envelope": "#0072b2",
    "isoflop": "#d55e00",
    "akima": "#cc79a7",
    "parametric": "#009e73",
}
"""Colours of frontier methods, safe for colour-blind readers (Okabe and Ito 2008)."""


def paper() -> dict[Any, Any]:
    """Return settings for figures in print: STIX, 8 points, thin lines, Type 42 fonts."""
    return {
        "font.family": "STIXGeneral",
        "mathtext.fontset": "stix",
        "font.size": 8,
        "axes.labelsize": 8,
        "axes.titlesize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "axes.linewidth": 0.6,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.labelpad": 2.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.minor.size": 1.6,
        "ytick.minor.size": 1.6,
        "xtick.minor.pad": 4.9,
        "ytick.minor.pad": 4.9,
        "lines.linewidth": 1.0,
        "lines.markersize": 3,
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "legend.borderaxespad": 0.2,
        "legend.labelspacing": 0.3,
        "figure.dpi": 200,
        "savefig.dpi": 300,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.03,
        "figure.constrained_layout.w_pad": 0.03,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "none",
        "axes.unicode_minus": True,
    }


def label(name: str) -> str:
    """Return the label of an axis: the column with its unit, if it is one that is known."""
    if name in LABELS:
        return LABELS[name]
    units = {column.name: column.unit for column in COLUMNS}
    return f"{words(name)} [{units[name]}]" if units.get(name) else words(name)


def words(text: object) -> str:
    """Return untrusted text as a label: one line of at most 40 characters, never a formula.

    matplotlib reads text between two dollars as a formula, and leaves labels that begin with an
    underscore out of legends.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    line = line if len(line) <= 40 else f"{line[:37]}..."
    return (f" {line}" if line.startswith("_") else line).replace("$", r"\$")


def size_map() -> Colormap:
    """Return viridis without its palest tenth, which is hard to see on white."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, 256))
    return ListedColormap([to_hex(c) for c in colours], name="sizes")


def size_norm(N: Any) -> LogNorm:
    """Return a norm in log N over the given sizes (about a decade if they are all equal)."""
    N = np.asarray(N, float)
    low, high = float(N.min()), float(N.max())
    return LogNorm(low, high) if high > low else LogNorm(low / 3, high * 3)


def loss_axis(ax: Axes, *, which: str = "y") -> None:
    """Make an axis of losses logarithmic, with ticks at round numbers within a decade.

    Call it after drawing the data: the ticks depend on the limits.
    """
    axis = ax.yaxis if which == "y" else ax.xaxis
    (ax.set_yscale if which == "y" else ax.set_xscale)("log")
    low, high = ax.get_ylim() if which == "y" else ax.get_xlim()
    axis.set_major_locator(FixedLocator(_round_numbers(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_locator(NullLocator())


def count_axis(ax: Axes, *, which: str = "x") -> None:
    """Make an axis of N, D or C logarithmic: labels at decades, minor ticks if there is room.

    An axis of less than two decades has labels between them, at least two.
    """
    axis = ax.yaxis if which == "y" else ax.xaxis
    (ax.set_yscale if which == "y" else ax.set_xscale)("log")
    low, high = ax.get_ylim() if which == "y" else ax.get_xlim()
    decades = np.log10(high) - np.log10(low)
    axis.set_major_locator(LogLocator(10, numticks=6))
    minor = LogLocator(10, subs=np.arange(2, 10).tolist(), numticks=99)
    axis.set_minor_locator(minor if decades <= 5 else NullLocator())
    whole = np.floor(np.log10(high)) - np.ceil(np.log10(low)) + 1
    if whole >= 2:
        axis.set_minor_formatter(NullFormatter())
        return
    for digits, least in (((1, 3), 3), ((1, 2, 5), 2), (range(1, 10), 2)):
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        marks = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(marks) >= least:
            axis.set_minor_formatter(FuncFormatter(_of_digits(digits)))
            return
    axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(_times_power))
    axis.set_minor_locator(NullLocator())


def _of_digits(digits: Iterable[int]) -> Callable[[float, Any], str]:
    """Return a formatter that labels these digits times powers of ten."""

    def label_of(value: float, _: Any) -> str:
        power = int(np.floor(np.log10(value) + 1e-9))
        return _times_power(value, None) if round(value / 10.0**power) in digits else ""

    return label_of


def _times_power(value: float, _: Any) -> str:
    """Return a number as a digit, with decimals if it has any, times a power of ten."""
    power = int(np.floor(np.log10(value) + 1e-9))
    return rf"${value / 10.0**power:.4g}\cdot 10^{{{power}}}$"


def _round_numbers(low: float, high: float) -> list[float]:
    """Return four to seven round numbers within (low, high)."""
    for steps in (
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
        (1, 2, 3, 4, 5, 6, 7, 8, 9),
    ):
        ticks = [s * 10.0**e for e in range(-3, 4) for s in steps if low <= s * 10.0**e <= high]
        if len(ticks) >= 4:
            return ticks
    for step in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001):
        first = np.ceil(low / step)
        ticks = [round(float(k * step), 6) for k in np.arange(first, np.floor(high / step) + 1)]
        if len(ticks) >= 4:
            return ticks
    return [low, high]
