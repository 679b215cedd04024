"""The compute-optimal frontier and the critical batch size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator
from matplotlib.transforms import Bbox

from analysis.critical_batch import PAPER_EXPONENTS, CriticalBatch
from analysis.critical_batch import contours as contours_of
from analysis.critical_batch import critical_batch as fit_critical_batch
from analysis.figures import style
from analysis.figures.formula import between, latex, spread
from analysis.figures.marks import BEYOND, along, line, near_lines
from analysis.figures.panels import LABELS, Colours, Width, key_above, legend_above, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.shared_fits import chosen, known_frontier
from analysis.figures.uncertainty import (
    band_key,
    beyond_key,
    in_percent,
    interval_bars,
    within_reach,
)
from analysis.fitting.combination import AUTO
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import Choice
from analysis.frontiers.frontier import USED
from analysis.frontiers.frontier import frontier as fit_frontier
from analysis.frontiers.isoflop_curve import parabola
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Comparison, Frontier
from analysis.planning.price import price_over_least
from analysis.tables.select import usable

_NAMES = {
    "envelope": "envelope of the learning curves",
    "isoflop": "isoFLOP parabolas",
    "akima": "isoFLOP splines (Akima)",
    "parametric": "minimum of the fitted law",
}
"""Names of frontier methods in legends."""
_SLOPES = (
    ("Kaplan", {name: PAPER_EXPONENTS[name] for name in "ND"}, ":"),
    ("Hoffmann", {"N": 0.50, "D": 0.50}, "-."),
)
"""Published powers of compute, to compare with: Kaplan et al. 2020, Table 6, and Hoffmann et al.
2022, Table 2 (approach 1)."""
_SMALL: dict[str, Any] = {"fontsize": 6, "color": "#5c5c5c", "va": "center"}


@listed("frontier", spec="headline")
def _frontier_of(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    choice: Choice | None = None,
    compared: Comparison | None = None,
    width: Width | None = None,
) -> Figure:
    """Compute-optimal N and D against compute, with intervals, by every method the data allow."""
    if compared is not None:
        return frontier(compared, width=width)
    curves = None if curves is None else usable(curves)
    return frontier(
        fit_frontier(usable(runs), method="all", curves=curves, choice=choice), width=width
    )


def frontier(front: Frontier | Comparison, *, width: Width | None = None) -> Figure:
    """Draw N_opt(C) and D_opt(C) with bands and the optima that they pass through.

    Lines are dashed beyond the data. A Comparison has one colour per method; brackets in the legend
    are intervals of the exponents. Short grey lines have the slopes of Kaplan et al. 2020 and of
    Hoffmann et al. 2022.
    """
    fronts = list(front.fronts.values()) if isinstance(front, Comparison) else [front]
    with rc_context(style.paper()):
        figure, axes = panels(2, width, height=2.9)
        figure.legend(
            handles=[*map(_key, fronts), *_marks(fronts)], loc="outside upper center",
            ncols=1 if width == "column" else 3,
        )  # fmt: skip
        for ax, name in zip(axes, ("N", "D"), strict=True):
            for method in fronts:
                _optima(ax, method, name)
        _optimum_axes(axes)
    return figure


def _optimum_axes(axes: Sequence[Axes]) -> None:
    """Give the panels of N_opt and D_opt their axes, and their legends and published slopes, which
    cover no band."""
    for ax, name in zip(axes, "ND", strict=True):
        counted = "parameters" if name == "N" else "tokens"
        ax.set(xscale="log", yscale="log", xlabel=LABELS["C"])
        ax.set_ylabel(f"Optimal {counted} ${name}_\\mathrm{{opt}}$")
    for ax, name in zip(axes, "ND", strict=True):
        near_lines(ax)
        legend = ax.legend(loc="upper left")
        make_room(ax, legend)
        slopes = _reference_slopes(ax, name)
        box = Bbox.union([each.get_window_extent() for each in slopes])
        box = box.transformed(ax.transAxes.inverted())
        corner = Rectangle((box.x0, 0), 1 - box.x0, box.y1, transform=ax.transAxes, visible=False)
        make_room(ax, ax.add_patch(corner), legend)
        for each in (corner, *slopes):  # the slopes depend on the limits
            each.remove()
        _reference_slopes(ax, name)
        style.count_axis(ax)
        style.count_axis(ax, which="y")


def _key(front: Frontier) -> Line2D:
    """Return the entry of a method in the legend: its name, and whether the plan uses it."""
    name = _NAMES.get(front.method, front.method)
    if front.fit is not None:
        name = (
            "auto: weighted mean of laws" if front.fit.name == AUTO else f"{name} {front.fit.name}"
        )
    used = f" ({USED})" if front.use == USED else ""
    return Line2D([], [], color=style.METHODS[front.method], label=style.words(name) + used)


def _marks(fronts: list[Frontier]) -> list[Artist]:
    """Return the entries of dots, dashes and bands in the legend."""
    dots = Line2D(
        [], [], ls="", marker="o", ms=4, color=style.GREY, mec="white", mew=0.5,
        label="optima that the line is fitted to",
    )  # fmt: skip
    shared = [beyond_key(), band_key(f"{in_percent(fronts[0].level)} interval, also in brackets")]
    return [dots, *shared] if any(f.method != "parametric" for f in fronts) else shared


def _optima(ax: Axes, front: Frontier, name: str) -> None:
    """Draw the optimal N or D of one method."""
    colour = style.METHODS[front.method]
    row = front.exponents.set_index("exponent").loc[f"{name}_opt"]
    power = f"${name}_\\mathrm{{opt}} \\propto C^{{{row.value:.2f}}}$"
    label = f"{power} {spread(row.low, row.high, '.2f')}"
    low, high = front.ranges["C"]
    line(ax, along(front, name), low, high, label, colour, start=low / BEYOND)
    if front.method != "parametric":
        used = front.optima[front.optima["kind"].isin(("crossing", "minimum"))]
        ax.plot(used["C"], used[name], "o", color=colour, ms=4, mec="white", mew=0.5, zorder=5)


def _reference_slopes(ax: Axes, name: str) -> list[Artist]:
    """Draw short lines with published slopes from one point in the lower right of log axes; return
    them and their names."""
    (x0, x1), (y0, y1) = np.log10(ax.get_xlim()), np.log10(ax.get_ylim())
    slopes = sorted((powers[name], who, dashes) for who, powers, dashes in _SLOPES)
    texts = [
        ax.text(0, 0, f"{who} $C^{{{slope:.2f}}}$", transform=ax.transAxes, **_SMALL)
        for slope, who, _ in slopes
    ]
    widths = [text.get_window_extent().width / ax.bbox.width for text in texts]
    end = 0.97 - max(widths)
    run = min(0.24, 0.3 * (y1 - y0) / slopes[-1][0] / (x1 - x0))
    last, drawn = -np.inf, []
    for text, (slope, who, dashes) in zip(texts, slopes, strict=True):
        height = 0.05 + slope * run * (x1 - x0) / (y1 - y0)
        drawn += ax.plot(
            [end - run, end], [0.05, height], transform=ax.transAxes, color=style.GREY, lw=0.9,
            ls=dashes, label=f"_{who}", zorder=1,
        )  # fmt: skip
        last = max(height, last + text.get_window_extent().height / ax.bbox.height)
        text.set_position((end + 0.02, last))
    return [*texts, *drawn]


@listed("isoflop", "Hoffmann et al. 2022, Fig. 3", spec="isoflop")
def isoflop(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    choice: Choice | None = None,
    compared: Comparison | None = None,
    width: Width | None = None,
) -> Figure:
    """Loss against size at fixed compute with parabolas, and N and D of their minima.

    If the runs share no budgets, `curves` are cut at fixed compute. Parabolas span the sizes that
    they were fitted to; dotted ones have no interior minimum and are not used. Hollow dots are left
    out of the fit. Diamonds are the minima, which the panels of N_opt and D_opt show again.

    choice    The law of N and D that the bias of the method is measured on; by default chosen
              from the runs. Intervals are those of the figure `frontier`.
    compared  The frontier by every method, if it is known.
    """
    front = known_frontier(compared, "isoflop")
    if front is None:
        curves = None if curves is None else usable(curves)
        front = fit_frontier(usable(runs), method="isoflop", curves=curves, choice=choice)
    assert isinstance(front, Frontier)
    with rc_context(style.paper()):
        figure, (left, *optima) = panels(3, width, height=2.7, ratios=(1.3, 1, 1))
        if width != "column":
            figure.set_layout_engine("constrained", wspace=0.06)  # the label of the colour bar
        budgets = Colours(front.optima["C"])
        for budget, optimum in zip(front.sets, front.optima.itertuples(), strict=True):
            colour = budgets(optimum.C)
            x, y = budget["N"].to_numpy(float), budget["L"].to_numpy(float)
            left.plot(x, y, "o", color=colour, ms=2.5, mew=0)
            used, N, L = parabola(x, y)
            left.plot(N, L, color=colour, lw=0.8, ls="-" if optimum.kind == "minimum" else ":")
            left.plot(x[~used], y[~used], "o", color="white", ms=1.2, mew=0)
            if optimum.kind == "minimum":
                left.plot(optimum.N, optimum.L, "D", color=style.FIT, ms=3.5, mec="white", mew=0.4)
        left.set(xscale="log", yscale="log", xlabel=LABELS["N"], ylabel=LABELS["L"])
        budgets.bar(figure, [left], label=LABELS["C"], own=len(budgets.sizes) <= 12)
        for ax, name in zip(optima, "ND", strict=True):
            _optima(ax, front, name)
        key_above(figure, _marks([front]))
        _optimum_axes(optima)
        make_room(left, left.legend(handles=_isoflop_key(front), loc="upper right"))
        style.count_axis(left)
        style.loss_axis(left)
    return figure


def _isoflop_key(front: Frontier) -> list[Line2D]:
    """Return the legend of an isoFLOP fan."""
    kinds = set(front.optima["kind"])
    keys = [Line2D([], [], color=style.GREY, lw=0.8, marker="o", mew=0, label="runs, parabola")]
    if kinds - {"minimum"}:
        keys.append(Line2D([], [], color=style.GREY, lw=0.8, ls=":", label="no minimum inside"))
    if "minimum" in kinds:
        keys.append(
            Line2D(
                [],
                [],
                ls="",
                marker="D",
                color=style.FIT,
                ms=3.5,
                mec="white",
                mew=0.4,
                label="minimum of the parabola",
            )
        )
    return keys


@listed("deviation", "Kaplan et al. 2020, Fig. 12", spec="headline")
def _deviation_of(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    choice: Choice | None = None,
    width: Width | None = None,
) -> Figure:
    """Compute for the same loss at sizes other than the best."""
    return deviation(chosen(usable(runs), choice), width=width)


def deviation(
    result: FitResult, C: Iterable[float] | None = None, *, width: Width | None = None
) -> Figure:
    """Draw the compute for the same loss at other sizes (Kaplan et al. 2020, Fig. 12).

    Bands are 95 % intervals; every draw has its own optimum, so that they lie above 1.

    C  Budgets [FLOPs] at whose optimum to start; the default is the largest in the data. Under the
       Chinchilla form all budgets share one curve.
    """
    front = parametric(result)
    budgets = list(C) if C is not None else [front.ranges["C"][1]]
    factors = np.geomspace(0.2, 8, 121)
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.5)
        colours = style.size_map()(np.linspace(0, 0.8, len(budgets)))
        for budget, colour in zip(budgets, colours, strict=True):
            best = front.at(C=budget).iloc[0]
            prices = [price_over_least(front, C=budget, factor=f) for f in factors]
            band = np.array([(p.value, p.low, p.high) for p in prices])
            band = np.where(np.isfinite(band), band, 1e6)
            ax.fill_between(factors, band[:, 1], band[:, 2], color=colour, alpha=0.18, lw=0)
            label = f"$C = {latex(budget)}$ FLOPs, $N_\\mathrm{{opt}} = {latex(best['N'])}$"
            ax.plot(factors, band[:, 0], color=colour, label=label)
        ax.axhline(1, color=style.GREY, lw=0.6, ls=":")
        ax.axvline(1, color=style.GREY, lw=0.6, ls=":")
        ax.set(xscale="log", xlim=(factors[0], factors[-1]), ylim=(0.9, 3.0))
        ax.set_xticks([0.2, 0.5, 1, 2, 4, 8], ["0.2", "0.5", "1", "2", "4", "8"])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel(r"Size $N / N_\mathrm{opt}$")
        ax.set_ylabel("Compute for the same loss, over the least")
        keys = [*ax.get_legend_handles_labels()[0], band_key("95 % interval")]
        title = style.words(result.law.name)
        legend_above(ax, handles=keys, title=title, title_fontsize=7, alignment="left")
    return figure


@listed("kaplan10", "Kaplan et al. 2020, Fig. 10", needs=("B", "curves"), spec="batch")
def _critical_batch_of(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Critical batch size against loss with its law."""
    assert curves is not None
    return critical_batch(fit_critical_batch(contours_of(usable(curves))), width=width)


def critical_batch(critical: CriticalBatch, *, width: Width | None = None) -> Figure:
    """Draw B_crit against loss with its law (Kaplan et al. 2020, Fig. 10).

    Bars are whole intervals. An end far beyond the batch sizes found has an arrow.
    """
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.9)
        t = critical.table
        sized = "N" in t.columns and t["N"].nunique() > 1
        colour = Colours(t["N"]) if sized else None
        inks = [style.INK if colour is None else colour(n) for n in t.get("N", t["L"])]
        ends = t[["low", "high"]].to_numpy(float)
        low, high = within_reach(ends, t["B_crit"], t.get("B_noise", t["B_crit"]))
        arrows = interval_bars(ax, t["L"].to_numpy(float), ends, inks, (low, high))
        name = f"from the curves, {in_percent(critical.level)} interval"
        ax.scatter(t["L"], t["B_crit"], c=inks, s=11, lw=0, zorder=3, label=name)
        if "B_noise" in t.columns:
            ax.scatter(
                t["L"], t["B_noise"], s=11, facecolors="none", edgecolors=inks, lw=0.6, zorder=2,
                label="gradient noise scale",
            )  # fmt: skip
        if critical.law is not None:
            law = critical.law
            L = np.geomspace(t["L"].min(), t["L"].max(), 61)
            below, above = law.predict_interval(critical.level, L=L)
            exponent = law.interval(critical.level).loc["alpha_B"]
            ax.fill_between(L, below, above, color=style.FIT, alpha=0.15, lw=0)
            ax.plot(
                L, law.predict(L=L), color=style.FIT,
                label=f"$B_\\mathrm{{crit}} = {latex(law.params['B_star'])}\\,L^{{-1/"
                f"{law.params['alpha_B']:.3f}}}$\n"
                + between("alpha_B", exponent["low"], exponent["high"]),
            )  # fmt: skip
        keys = [*ax.get_legend_handles_labels()[0], *arrows]
        if critical.law is not None:
            keys.append(band_key(f"{in_percent(critical.level)} interval of the law", style.FIT))
        legend_above(ax, handles=keys)
        ax.set(yscale="log", xlabel=LABELS["L"], ylabel="Critical batch size [tokens]")
        ax.set_ylim(low / 1.15, high * 1.15)
        style.count_axis(ax, which="y")
        style.loss_axis(ax, which="x")
        ax.invert_xaxis()
        if colour is not None:
            colour.bar(figure, [ax])
    return figure
