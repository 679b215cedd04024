"""What figures are made of: panels, colours by size, curves, dots, lines of laws with bands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from analysis import laws, style
from analysis.batch import CriticalBatch, contours, critical_batch
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.result import FitResult
from analysis.frontiers.envelope import envelope
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Frontier, quantiles
from scaling.table import TableError

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
BEYOND = 3.0
"""How far a fitted line is drawn past the data, dashed."""


Width = Literal["column", "full"]
"""Of a figure: one column of a page, or all of its text."""


def panels(
    count: int,
    width: Width | None,
    *,
    height: float = 2.4,
    ratios: Iterable[float] | None = None,
    share: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels: side by side over the page, one above the other in a column.

    width   where not given, a column for one panel and the page for more.
    height  of one panel [inches].
    ratios  of the panels' widths, and share one axis of y, where they are side by side.

    To be called inside rc_context(style.paper()).
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
    """One colour a size, and the bar that explains it."""

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
        """A colour bar right of `axes`, marked at each value; ticks at the decades, or, with `own`
        and where there are fewer than two decades to mark, at the values, with `plain` without
        powers of ten."""
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
        """The values without those whose labels would touch the one below."""
        kept = [self.sizes[0]]
        for value in self.sizes[1:]:
            if self.norm(value) - self.norm(kept[-1]) > 0.06:
                kept.append(value)
        return kept


def lines(ax: Axes, curves: pd.DataFrame, x: str, colour: Colours, *, ends: bool = False) -> None:
    """One line a run; the largest sizes last, so that none hides the small ones' ends."""
    paths, colours, last = [], [], []
    for _, run in curves.sort_values(["N", "D"], kind="stable").groupby("run_id", sort=False):
        path = run[[x, "L"]].to_numpy(float)
        paths.append(path)
        colours.append(colour(run["N"].iloc[0]))
        last.append(path[-1])
    ax.add_collection(LineCollection(paths, colors=colours, linewidths=0.7, alpha=0.85))
    if ends:
        ax.scatter(*np.array(last).T, c=colours, s=6, lw=0, zorder=3)
    both = np.concatenate(paths)
    ax.set(xscale="log", yscale="log")
    limits(ax, both[:, 0], both[:, 1])


def dots(
    ax: Axes,
    runs: pd.DataFrame,
    x: str,
    colour: Colours,
    *,
    faint: bool = False,
    edge: bool = False,
) -> None:
    ax.scatter(
        runs[x], runs["L"], c=colour(runs["N"].to_numpy(float)), s=7 if faint else 12,
        alpha=0.45 if faint else 1.0, lw=0.5 if edge else 0.0,
        edgecolors=style.INK if edge else "none", zorder=3 if edge else 2,
    )  # fmt: skip
    ax.set(xscale="log", yscale="log")
    limits(ax, runs[x].to_numpy(float), runs["L"].to_numpy(float))


def limits(ax: Axes, x: np.ndarray, y: np.ndarray, *, above: float = 0.05) -> None:
    """Room for the line beyond the data, to the right and below, and for the legend above."""
    width, height = np.log(x.max() / x.min()), np.log(y.max() / y.min())
    ax.set_xlim(x.min() * np.exp(-0.04 * width), x.max() * np.exp(0.04 * width) * BEYOND)
    ax.set_ylim(y.min() * np.exp(-0.12 * height), y.max() * np.exp(above * height))


def law_line(ax: Axes, result: FitResult, x: str, *, colour: str = style.FIT) -> None:
    """A law of one column with its band, over the rows it was fitted to and beyond."""

    def curve(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        columns: dict[str, Any] = {x: grid}
        return (result.predict(**columns), *result.predict_interval(**columns))

    low, high = float(result.runs[x].min()), float(result.runs[x].max())
    line(ax, curve, low, high, with_interval(result), colour)


def frontier_line(ax: Axes, front: Frontier, scale: float) -> None:
    """L_opt(C) with its band; C on the axis in units of `scale` FLOPs."""
    if front.fit is None:
        exponent = -front.lines["L"][0, 1]
        C_c = front.coefficient("L") ** (1 / exponent) / scale
        low, high = quantiles(-front.lines["L"][1:, 1], front.level)
        label = f"$L = (C/{latex(C_c)})^{{-{exponent:.3f}}}$\n" + between("alpha_C", low, high)
    else:
        label = "compute-optimal"

    low, high = (end / scale for end in front.ranges["C"])
    line(ax, along(front, "L", scale), low, high, label, style.FIT)


Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""x to (value, low, high)."""


def along(front: Frontier, name: str, scale: float = 1.0) -> Curve:
    """N, D, L ... of a frontier with its interval against C in units of `scale` FLOPs."""

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
    """`curve` with its band: solid over the data, dashed from there on, to `end` where given (and,
    with `start`, from there up to the data)."""
    start, end = start or low, end or high * BEYOND
    grid = np.geomspace(start, end, 121)
    ax.fill_between(grid, *curve(grid)[1:], color=colour, alpha=0.15, lw=0, zorder=1)
    for a, b in ((start, low), (high, end)):
        if b > a:
            x = np.geomspace(a, b, 41)
            ax.plot(x, curve(x)[0], color=colour, ls=(0, (3, 2)), lw=0.8, zorder=4)
    x = np.geomspace(low, high, 121)
    ax.plot(x, curve(x)[0], color=colour, zorder=4, label=label)


def headline(ax: Axes, text: str, *, side: Literal["left", "right"] = "right") -> None:
    """Words, such as a formula, at the top within the axes."""
    ax.text(
        0.985 if side == "right" else 0.015, 0.985, text, transform=ax.transAxes, ha=side,
        va="top", fontsize=style.paper()["legend.fontsize"],
    )  # fmt: skip


def with_interval(result: FitResult) -> str:
    """The formula, and under it the interval of the exponent where there is but one."""
    exponents = [name for name in result.law.params if name.startswith("alpha")]
    if len(exponents) != 1:
        return formula(result)
    row = result.interval().loc[exponents[0]]
    return f"{formula(result)}\n{between(exponents[0], row['low'], row['high'])}"


def between(name: str, low: float, high: float) -> str:
    symbol = name.replace("alpha", r"\alpha")
    return rf"${symbol} \in [{low:.3f}, {high:.3f}]$"


_FORMULAE = {
    "kaplan_N": "L = (N/{N_c})^{{-{alpha_N}}}",
    "kaplan_D": "L = (D/{D_c})^{{-{alpha_D}}}",
    "kaplan_C": "L = (C/{C_c})^{{-{alpha_C}}}",
    "floor_N": "L = {E} + {A}\\,N^{{-{alpha}}}",
    "floor_D": "L = {E} + {A}\\,D^{{-{alpha}}}",
    "floor_C": "L = {E} + {A}\\,C^{{-{alpha}}}",
    "logarithm_N": "L = -{k}\\,\\ln(N/{x_0})",
    "logarithm_D": "L = -{k}\\,\\ln(D/{x_0})",
    "logarithm_C": "L = -{k}\\,\\ln(C/{x_0})",
    "chinchilla": "L = {E} + {A}\\,N^{{-{alpha}}} + {B}\\,D^{{-{beta}}}",
    "kaplan_NS": "L = (N/{N_c})^{{-{alpha_N}}} + (S/{S_c})^{{-{alpha_S}}}",
    "kaplan_ND": "L = [(N/{N_c})^{{-{alpha_N}/{alpha_D}}} + {D_c}/D]^{{{alpha_D}}}",
}


def formula(result: FitResult) -> str:
    """The law with its fitted numbers, for a legend; its name where it has no short form."""
    pattern = _FORMULAE.get(result.law.name)
    if pattern is None or result.law != laws.resolve(result.law.name):
        return result.law.name
    floor = 1e-6 * float(result.runs[result.law.target].min())
    numbers = {k: "0" if k == "E" and v < floor else latex(v) for k, v in result.params.items()}
    return f"${pattern.format(**numbers)}$"


def latex(value: float) -> str:
    """Three digits below 1, two above 100 with a power of ten."""
    if value == 0 or np.isinf(value):
        return "0" if value == 0 else r"\infty"
    if 0.01 <= abs(value) < 1:
        return f"{value:.3f}"
    if 1 <= abs(value) < 100:
        return f"{value:.3g}"
    mantissa, _, power = f"{value:.1e}".partition("e")
    return rf"{mantissa}\cdot 10^{{{int(power)}}}"


def default_frontier(runs: pd.DataFrame, curves: pd.DataFrame | None) -> Frontier:
    if curves is None:
        return parametric(fit_law(laws.chinchilla, runs))
    return envelope(curves)


def bcrit(points: pd.DataFrame, critical: CriticalBatch | None = None) -> CriticalBatch:
    """`critical`, or that of these curves; with its law B_crit(L), or TableError."""
    critical = critical or critical_batch(contours(points))
    if critical.law is None:
        raise TableError("B_crit(L) takes contours at three losses or more.")
    return critical


def span(values: Any, *, beyond: float = 1.0) -> np.ndarray:
    """81 log-spaced points over the values, and to `beyond` times the largest."""
    values = np.asarray(values, float)
    return np.geomspace(values.min(), values.max() * beyond, 81)


def fitted(
    ax: Axes, x: np.ndarray, y: np.ndarray, last: float, colour: Any, **options: Any
) -> None:
    """A fitted line: solid up to `last`, dashed from there on."""
    known = x <= last * (1 + 1e-9)
    ax.plot(x[known], y[known], color=colour, lw=0.8, **options)
    if not known.all():
        from_there = np.flatnonzero(known)[-1] if known.any() else 0
        ax.plot(x[from_there:], y[from_there:], color=colour, lw=0.7, ls=(0, (3, 2)))
