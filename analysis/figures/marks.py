"""Marks on a panel: learning curves, dots, and lines of laws with their bands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from analysis.figures import style
from analysis.figures.formula import between, latex, with_interval
from analysis.figures.panels import Colours
from analysis.fitting.result import FitResult
from analysis.frontiers.envelope import lower_hull
from analysis.frontiers.result import Frontier, exponent_interval
from analysis.laws.symbols import ENVELOPE

BEYOND = 3.0
"""Factor by which a fitted line is drawn past the data, dashed."""

WIDE = 30.0
"""Factor beyond lines as far as which their bands are shown."""
MOST_LINES = 1000
"""Most learning curves in a panel: more hide one another."""

_UNBOUNDED = 1e100
"""An end of a band beyond this is not drawn."""

Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""A function of x that returns (value, low, high)."""


def lines(ax: Axes, curves: pd.DataFrame, x: str, colour: Colours, *, ends: bool = False) -> None:
    """Draw a line per run, the largest sizes last, so that they do not hide the ends of small ones.

    Of more than MOST_LINES runs some are drawn, evenly spaced by N and D, and a text says so.

    ends  Whether to put a dot at the end of each run.
    """
    order = curves.sort_values(["N", "D"], kind="stable")
    owner, ids = pd.factorize(order["run_id"])
    if len(ids) > MOST_LINES:
        shown = np.unique(np.linspace(0, len(ids) - 1, MOST_LINES).round())
        order, owner = order[np.isin(owner, shown)], owner[np.isin(owner, shown)]
        ax.text(
            0.02, 0.02, f"{len(shown)} of {len(ids)} runs are drawn", transform=ax.transAxes,
            fontsize=6, color=style.INK,
        )  # fmt: skip
    by_run = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.diff(owner[by_run], prepend=-1))
    paths = np.split(order[[x, "L"]].to_numpy(float)[by_run], starts[1:])
    colours = colour(order["N"].to_numpy(float)[by_run[starts]])
    ax.add_collection(LineCollection(paths, colors=colours, linewidths=0.7, alpha=0.85))
    if ends:
        ax.scatter(*np.array([path[-1] for path in paths]).T, c=colours, s=6, lw=0, zorder=3)
    ax.set(xscale="log", yscale="log")
    limits(ax, curves[x].to_numpy(float), curves["L"].to_numpy(float))


def dots(
    ax: Axes,
    runs: pd.DataFrame,
    x: str,
    colour: Colours,
    *,
    faint: bool = False,
    edge: bool = False,
) -> None:
    """Draw a dot per run: pale if `faint`, outlined if `edge`."""
    ax.scatter(
        runs[x], runs["L"], c=colour(runs["N"].to_numpy(float)), s=7 if faint else 12,
        alpha=0.45 if faint else 1.0, lw=0.5 if edge else 0.0,
        edgecolors=style.INK if edge else "none", zorder=3 if edge else 2,
    )  # fmt: skip
    ax.set(xscale="log", yscale="log")
    limits(ax, runs[x].to_numpy(float), runs["L"].to_numpy(float))


def limits(ax: Axes, x: np.ndarray, y: np.ndarray, *, above: float = 0.05) -> None:
    """Leave room for the line beyond the data, to the right and below, and for the legend above."""
    # Dots at one height, or above one another, need some room too.
    width, height = (max(float(np.log(v.max() / v.min())), 0.01) for v in (x, y))
    left = max(0.04 * width, 0.03 * (width + np.log(BEYOND)))
    ax.set_xlim(x.min() * np.exp(-left), x.max() * np.exp(0.04 * width) * BEYOND)
    ax.set_ylim(y.min() * np.exp(-0.12 * height), y.max() * np.exp(above * height))


def law_line(ax: Axes, result: FitResult, x: str, *, colour: str = style.FIT) -> None:
    """Draw a law of one column with its band, over the rows it was fitted to and beyond."""

    def curve(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        columns: dict[str, Any] = {x: grid}
        return (result.predict(**columns), *result.predict_interval(**columns))

    low, high = float(result.runs[x].min()), float(result.runs[x].max())
    line(ax, curve, low, high, with_interval(result), colour)


def show_all(*axes: Axes) -> None:
    """Move the ends of the loss axes so that they show whole lines, and bands up to a third beyond
    the lines: a wide band would squeeze the runs."""
    drawn = [ln.get_ydata() for ax in axes for ln in ax.lines if ln.get_transform() == ax.transData]
    heights = np.concatenate([*drawn, *(ax.get_ylim() for ax in axes)]).astype(float)
    least, most = np.nanmin(heights), np.nanmax(heights)
    low = min(float(ax.dataLim.y0) for ax in axes)
    high = max(float(ax.dataLim.y1) for ax in axes)
    for ax in axes:
        ax.set_ylim(
            min(ax.get_ylim()[0], 0.99 * least, 0.99 * max(low, 0.75 * least)),
            max(ax.get_ylim()[1], 1.01 * most, 1.01 * min(high, most / 0.75)),
        )


def near_lines(ax: Axes) -> None:
    """Limit a logarithmic y axis to WIDE times beyond its lines: wider bands would squeeze them."""
    heights = np.concatenate([np.asarray(ln.get_ydata(), float) for ln in ax.lines])
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, np.nanmin(heights) / WIDE), min(high, np.nanmax(heights) * WIDE))


def outside_band(ax: Axes, result: FitResult, x: str) -> list[Text]:
    """Explain the rings of the fitted runs, and how many of them leave the band, if any do.

    Returns the text on those that leave it, or an empty list.
    """
    ax.plot(
        [], [], "o", mfc="white", mec=style.INK, mew=0.5, ms=3.5,
        label=f"fitted: lowest loss at its ${x}$",
    )  # fmt: skip
    columns: dict[str, Any] = {x: result.runs[x].to_numpy(float)}
    below, above = result.predict_interval(**columns)
    L = result.runs["L"].to_numpy(float)
    out = int(np.sum((below > L) | (above < L)))
    if not out:
        return []
    words = f"{out} of {len(L)} outside the band, which holds\nthe law, not single runs (95 %)"
    return [ax.text(0.02, 0.02, words, transform=ax.transAxes, fontsize=6, color=style.INK)]


def frontier_line(ax: Axes, front: Frontier, scale: float) -> None:
    """Draw L_opt(C) with its band, against C in units of `scale` FLOPs."""
    if front.fit is None:
        exponent = -front.lines["L"][0, 1]
        C_c = front.coefficient("L") ** (1 / exponent) / scale
        low, high = exponent_interval(-front.lines["L"][:, 1], front.level)
        label = f"$L = (C/{latex(C_c)})^{{-{exponent:.3f}}}$\n" + between(ENVELOPE, low, high)
    else:
        label = "compute-optimal"

    low, high = (end / scale for end in front.ranges["C"])
    line(ax, along(front, "L", scale), low, high, label, style.FIT)


def envelope_line(ax: Axes, curves: pd.DataFrame, front: Frontier, scale: float) -> None:
    """Draw the lower convex envelope of the curves over the compute of a frontier.

    It touches the curves, as they are drawn, from below, and reaches at both ends to where it
    touches one. C of `curves` is in units of `scale` FLOPs. A frontier of a law has no curves:
    nothing is drawn.
    """
    if front.fit is not None:
        return
    used = curves[(curves["C"] > 0) & (curves["L"] > 0)]
    x, y = lower_hull(np.log(used["C"].to_numpy(float)), np.log(used["L"].to_numpy(float)))
    low, high = (np.log(end / scale) for end in front.ranges["C"])
    first = max(int(np.searchsorted(x, low, side="right")) - 1, 0)
    end = int(np.searchsorted(x, high)) + 1
    ax.plot(
        np.exp(x[first:end]), np.exp(y[first:end]), color=style.INK, lw=0.8, zorder=5,
        label="envelope of the curves",
    )  # fmt: skip


def along(front: Frontier, name: str, scale: float = 1.0) -> Curve:
    """Return N, D, L, ... of a frontier as a curve in C, in units of `scale` FLOPs."""

    def curve(C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = front.at(C=C * scale)
        value, low, high = (table[k].to_numpy() for k in (name, f"{name}_low", f"{name}_high"))
        return value, low, high

    return curve


def line(
    ax: Axes,
    curve: Curve,
    low: float,
    high: float,
    label: str,
    colour: str,
    *,
    start: float | None = None,
    end: float | None = None,
) -> None:
    """Draw a curve with its band: solid from `low` to `high`, the data, and dashed outside.

    It reaches from `start` (by default `low`) to `end` (by default BEYOND times `high`).
    """
    start, end = start or low, end or high * BEYOND
    grid = np.geomspace(start, end, 121)
    least, most = (np.where(end < _UNBOUNDED, end, np.nan) for end in curve(grid)[1:])
    ax.fill_between(grid, least, most, color=colour, alpha=0.15, lw=0, zorder=1)
    for a, b in ((start, low), (high, end)):
        if b > a:
            x = np.geomspace(a, b, 41)
            ax.plot(x, curve(x)[0], color=colour, ls=(0, (3, 2)), lw=0.8, zorder=4)
    x = np.geomspace(low, high, 121)
    ax.plot(x, curve(x)[0], color=colour, zorder=4, label=label)


def headline(ax: Axes, text: str, *, side: Literal["left", "right"] = "right") -> Text:
    """Write text, such as a formula, at the top inside the axes."""
    return ax.text(
        0.985 if side == "right" else 0.015, 0.985, text, transform=ax.transAxes, ha=side,
        va="top", fontsize=style.paper()["legend.fontsize"],
    )  # fmt: skip


def span(values: Any, *, beyond: float = 1.0) -> np.ndarray:
    """Return 81 log-spaced points from the least value to `beyond` times the largest."""
    values = np.asarray(values, float)
    return np.geomspace(values.min(), values.max() * beyond, 81)


def fitted(
    ax: Axes, x: np.ndarray, y: np.ndarray, last: float, colour: Any, **options: Any
) -> None:
    """Draw a fitted line: solid up to `last`, dashed beyond."""
    known = x <= last * (1 + 1e-9)
    ax.plot(x[known], y[known], color=colour, lw=0.8, **options)
    if not known.all():
        start = np.flatnonzero(known)[-1] if known.any() else 0
        ax.plot(x[start:], y[start:], color=colour, lw=0.7, ls=(0, (3, 2)))
