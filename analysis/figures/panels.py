"""Panels of a figure, axis labels, and colours by size."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis.figures import style
from analysis.figures.formula import latex
from analysis.style import LABELS, Width

__all__ = ["LABELS", "Colours", "Width", "key_above", "legend_above", "letters", "panels"]

MOST_TICKS = 24
"""Most values that a colour bar marks one by one."""


def panels(
    count: int,
    width: Width | None,
    *,
    height: float = 2.4,
    ratios: Iterable[float] | None = None,
    share: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels with letters: side by side, or stacked in a column.

    width   The default is a column for one panel and the full width for more.
    height  Height of one panel [inches].
    ratios  Relative widths of panels that are side by side.
    share   Whether panels that are side by side share the y axis.

    Call it inside rc_context(style.paper()).
    """
    width = width or ("column" if count == 1 else "full")
    if width == "full":
        figure = Figure(figsize=(style.FULL, height if count > 1 else 1.25 * height))
        axes = figure.subplots(
            1, count, width_ratios=None if ratios is None else list(ratios), sharey=share,
            squeeze=False,
        )  # fmt: skip
    else:
        figure = Figure(figsize=(style.COLUMN, height * count))
        axes = figure.subplots(count, 1, squeeze=False)
    letters(list(axes.flat))
    return figure, list(axes.flat)


class Colours:
    """A colour for each size (or other value), and the colour bar."""

    def __init__(self, N: Iterable[float]):
        self.sizes = np.unique(np.asarray(list(N), float))
        self.norm, self.map = style.size_norm(self.sizes), style.size_map()

    def __call__(self, N: Any) -> Any:
        return self.map(self.norm(N))

    def bar(
        self,
        figure: Figure,
        axes: Iterable[Axes],
        label: str = LABELS["N"],
        *,
        own: bool = False,
        plain: bool = False,
        ticks: str = "data",
    ) -> None:
        """Draw a colour bar to the right of `axes`, with a tick and a white line at each value.

        The label ends in (ticks: `ticks`). Ticks have numbers where there is room, without powers
        of ten if `plain`. A bar of more than MOST_TICKS values has ticks at decades, unless `own`.
        A single value needs no bar: it is named above the last of the axes.
        """
        if len(self.sizes) == 1:
            value = (_plain if plain else _power)(self.sizes[0], None)
            list(axes)[-1].set_title(f"{label}: {value}", loc="right", fontsize=7, pad=3)
            return
        bar = figure.colorbar(
            ScalarMappable(self.norm, self.map), ax=list(axes), pad=0.01, aspect=30, fraction=0.04
        )
        bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue]
        axis = bar.ax.yaxis
        axis.set_minor_locator(NullLocator())
        if not own and len(self.sizes) > MOST_TICKS:
            bar.set_label(label)
            axis.set_major_locator(LogLocator(10, numticks=6))
            return
        named = self._apart()
        bar.set_label(f"{label} (ticks: {ticks})")
        axis.set_major_locator(FixedLocator(named))
        axis.set_major_formatter(FuncFormatter(_plain if plain else _power))
        axis.set_minor_locator(FixedLocator([v for v in self.sizes if v not in named]))
        axis.set_minor_formatter(NullFormatter())
        if len(self.sizes) <= MOST_TICKS:
            bar.ax.hlines(self.sizes, 0, 1, color="white", lw=0.5)

    def _apart(self) -> list[float]:
        """Return the values without those whose labels would touch the one below."""
        kept = [self.sizes[0]]
        for value in self.sizes[1:]:
            if self.norm(value) - self.norm(kept[-1]) > 0.06:
                kept.append(value)
        return kept


def letters(axes: Sequence[Axes]) -> None:
    """Name panels a, b, c, ... above their top left corners; a single panel has no letter."""
    for letter, ax in zip(string.ascii_lowercase, axes if len(axes) > 1 else (), strict=False):
        ax.set_title(letter, loc="left", fontweight="bold", pad=3)


def legend_above(ax: Axes, **options: Any) -> None:
    """Put the legend above the axes, where it covers nothing that is drawn."""
    ax.legend(loc="lower left", bbox_to_anchor=(0.05, 1.0), borderaxespad=0.3, **options)


def key_above(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a legend of marks that panels share above them, in one row if there is room.

    Entries of bands and of dashes are left out if no panel has any. Call it after drawing them.
    """
    handles = [key for key in handles if _is_drawn(figure, key)]
    if not handles:
        return
    wide = figure.get_figwidth() > style.COLUMN
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles) if wide else 2,
        columnspacing=1.4,
    )  # fmt: skip


def _is_drawn(figure: Figure, key: Any) -> bool:
    """Return whether a panel has what an entry stands for, if that is a band or dashes."""
    if isinstance(key, Patch):
        bands = (c for ax in figure.axes for c in ax.collections if isinstance(c, PolyCollection))
        return any(np.size(path.vertices) for band in bands for path in band.get_paths())
    if isinstance(key, Line2D) and key.is_dashed():
        return any(line.is_dashed() for ax in figure.axes for line in ax.lines)
    return True


def _plain(value: float, _: Any) -> str:
    return f"{value:#.3g}".rstrip(".")


def _power(value: float, _: Any) -> str:
    return f"${latex(value)}$"
