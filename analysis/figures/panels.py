"""Panels of a figure, axis labels, and colours by size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from analysis.figures import style
from analysis.figures.formula import latex
from analysis.style import LABELS, Width

__all__ = ["LABELS", "Colours", "Width", "panels"]


def panels(
    count: int,
    width: Width | None,
    *,
    height: float = 2.4,
    ratios: Iterable[float] | None = None,
    share: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels: side by side at full width, stacked in a column.

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
        axes: Any,
        *,
        label: str = LABELS["N"],
        own: bool = False,
        plain: bool = False,
    ) -> None:
        """Draw a colour bar to the right of `axes`, with a mark at each value.

        Ticks are at decades; with `own`, or if there are fewer than two decades to label, they are
        at the values, written without powers of ten if `plain`.
        """
        lowest, highest = np.log10(self.sizes[[0, -1]])
        own = own or np.floor(highest) - np.ceil(lowest) < 1
        bar = figure.colorbar(
            ScalarMappable(self.norm, self.map), ax=list(axes), pad=0.01, aspect=30, fraction=0.04
        )
        bar.set_label(label)
        bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue]
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.ax.yaxis.set_major_locator(LogLocator(10, numticks=6))
        if own:
            bar.ax.yaxis.set_major_locator(FixedLocator(self._apart()))
            bar.ax.yaxis.set_major_formatter(
                FuncFormatter(lambda v, _: f"{v:.3g}" if plain else f"${latex(v)}$")
            )
        if 1 < len(self.sizes) <= 24:
            bar.ax.hlines(self.sizes, 0, 1, color="white", lw=0.5)

    def _apart(self) -> list[float]:
        """Return the values without those whose labels would touch the one below."""
        kept = [self.sizes[0]]
        for value in self.sizes[1:]:
            if self.norm(value) - self.norm(kept[-1]) > 0.06:
                kept.append(value)
        return kept
