"""Compute-efficient training: what more compute buys, and where the laws break down.

The figures follow Kaplan et al. 2020, section 6. Each takes B_crit(L) from the runs' own batch
sizes, or from another sweep (`critical`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import laws
from analysis.critical_batch import CriticalBatch, Efficient, adjusted, efficient
from analysis.data_limits import contradiction
from analysis.figures import style
from analysis.figures.formula import formula, latex, spread
from analysis.figures.marks import Curve, along, limits, line, lines, near_lines, show_all
from analysis.figures.panels import LABELS, Colours, Width, key_above, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.shared_fits import critical_batch_of
from analysis.figures.uncertainty import band_key, beyond_key
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.result import FitResult
from analysis.frontiers.envelope import envelope
from analysis.frontiers.result import Frontier, exponent_interval
from analysis.tables.select import lower_edge, needed, usable
from scaling.errors import TableError

C_MIN = r"Compute $C_\mathrm{min}$ [FLOPs]"
PAPER = "Kaplan et al. 2020"
INCREASE = 1e9
"""The paper's example of more compute."""
_WEDGES = (
    ("S", "serial steps", "#f0c9a0", "#a3540b"),
    ("B", "batch size", "#a9cbe5", "#0a5488"),
    ("N", "model size", "#b4d8c0", "#1b6e3f"),
)
"""Quantities that share an increase of compute, from bottom to top: name, label, colour of the
wedge, colour of its line and text."""
_DASHES, _DOTS = (0, (3, 2)), ":"


def _efficient(
    runs: pd.DataFrame, curves: pd.DataFrame | None, critical: CriticalBatch | None
) -> Efficient:
    points = needed(runs if curves is None else curves)
    return efficient(points, critical_batch_of(points, critical))


def fixed_batch(points: pd.DataFrame) -> Frontier | None:
    """Return the envelope of the curves of the most common batch size, with a line of S = D / B.

    The envelope is over C as trained; None if there are too few curves for one with an interval.
    """
    B = float(points["B"].mode().iloc[0])
    try:
        front = envelope(points[points["B"] == B])
    except TableError:
        return None
    steps = front.lines["D"] - [np.log(B), 0.0]
    known = np.isfinite(steps[1:, 1]).mean()
    return replace(front, lines=front.lines | {"S": steps}) if known > 0.5 else None


def power_law(front: Frontier, name: str, symbol: str, compute: str) -> str:
    """Return a power law of compute as a formula, with the interval of its exponent."""
    slopes, form = front.lines[name][:, 1], ".3f" if name == "L" else ".2f"
    ends = spread(*exponent_interval(slopes, front.level), form)
    return (
        f"${symbol} = {latex(front.coefficient(name))}\\,{compute}^{{{slopes[0]:{form}}}}$ {ends}"
    )


@listed("kaplan3", "Kaplan et al. 2020, Fig. 3", needs=("curves", "B"), spec="batch")
def _allocation_of(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    critical: CriticalBatch | None = None,
    width: Width | None = None,
) -> Figure:
    """How a billion times the compute is best split: model size, batch size, serial steps."""
    return allocation(_efficient(runs, curves, critical), width=width)


def allocation(found: Efficient, *, width: Width | None = None) -> Figure:
    """Draw how a billion times the compute is best spent (Kaplan et al. 2020, Fig. 3).

    Serial steps, batch size and model size each have a wedge; their factors multiply to that of
    compute. The wedges follow the measured powers of C_min from the least compute of the frontier,
    and are pale beyond the data. Factors with 95 % intervals are at the end; the paper's powers are
    dotted, in the colour of the wedge. The wedge of a quantity that shrinks hangs below its
    neighbour.
    """
    front = found.frontier
    start, measured = front.ranges["C"]
    C = start * np.geomspace(1, INCREASE, 181)
    last = int(np.flatnonzero(measured * (1 + 1e-9) >= C)[-1])
    within, beyond = slice(None, last + 1), slice(last, None)
    paper = found.exponents.set_index("exponent")["paper"]
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.5)
        below, below_paper, ends = 0.0, 0.0, []
        for name, words, colour, ink in _WEDGES:
            slopes = front.lines[name][:, 1]
            above = below + slopes[0]
            low, high = (C / start) ** below, (C / start) ** above
            for part, alpha, dashes in ((within, 1.0, "-"), (beyond, 0.45, _DASHES)):
                ax.fill_between(C[part], low[part], high[part], color=colour, alpha=alpha, lw=0)
                ax.plot(C[part], high[part], color=ink, lw=1.1, ls=dashes)
            ends.append(((below + above) / 2, _factor(words, slopes, front.level), ink))
            below, below_paper = above, below_paper + paper[name]
            if name != "N":
                ax.plot(
                    C, (C / start) ** below_paper, color=ink, lw=1.0, ls=_DOTS,
                    label=PAPER if name == "B" else None,
                )  # fmt: skip
        ax.set(xlim=(C[0], C[-1]), xlabel=C_MIN, ylabel="Multiplicative contribution")
        ax.set_ylim(min(1.0, INCREASE ** front.lines["S"][0, 1]), INCREASE)
        style.count_axis(ax)
        style.count_axis(ax, which="y")
        ax.set_title(
            f"factors for $10^{{{np.log10(INCREASE):.0f}}}$ times the compute", loc="right",
            fontsize=7, pad=3,
        )  # fmt: skip
        _write_beside(ax, ends)
        kinds = (("within the data", "-"), ("extrapolated", _DASHES), (PAPER, _DOTS))
        ax.legend(
            handles=[
                Line2D([], [], color=style.INK, lw=1.0, ls=dashes, label=words)
                for words, dashes in kinds
            ],
            loc="upper left",
        )
    return figure


def _factor(words: str, slopes: np.ndarray, level: float) -> str:
    """Return by how much a quantity grows over INCREASE, with its interval."""
    low, high = exponent_interval(slopes, level)
    between = spread(low, high, "")
    if np.isfinite([low, high]).all():
        between = f"[${latex(INCREASE**low)}$, ${latex(INCREASE**high)}$]"
    return f"{words} $\\times {latex(INCREASE ** slopes[0])}$\n{between}"


def _write_beside(ax: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write coloured texts to the right of the axes, moved up where they would touch.

    Heights are given as powers of INCREASE.
    """
    low, high = np.log(ax.get_ylim())
    last = -np.inf
    for exponent, words, ink in sorted(ends):
        height = (exponent * np.log(INCREASE) - low) / (high - low)
        last = min(max(height, last + 0.15, 0.05), 0.95)
        ax.text(1.03, last, words, transform=ax.transAxes, va="center", fontsize=7, color=ink)


@listed("kaplan13", "Kaplan et al. 2020, Fig. 13", needs=("curves", "B"), spec="batch")
def least_compute(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    critical: CriticalBatch | None = None,
    width: Width | None = None,
) -> Figure:
    """Loss against the least compute C_min, beside compute as trained.

    C_min = C / (1 + B / B_crit(L)) is the compute that a batch far below the critical one would
    have taken (eq. 5.5). Compute as trained is shown for the most common batch size, if its curves
    suffice.

    critical  A result of `critical_batch`; the default is that of these runs.
    """
    points = needed(runs if curves is None else curves)
    critical = critical_batch_of(points, critical)
    least = adjusted(points, critical)
    front, plain = efficient(points, critical).frontier, fixed_batch(points)
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.8)
        colour = Colours(points["N"])
        lines(ax, least.assign(C=least["C_min"]), "C", colour)
        both = np.concatenate([least["C_min"], points["C"]])
        limits(ax, both, points["L"].to_numpy(float))
        for fitted, compute, hue in (
            (plain, "C", style.METHODS["envelope"]), (front, r"C_\mathrm{min}", style.FIT)
        ):  # fmt: skip
            if fitted is not None:
                value = -fitted.lines["L"][0, 1]
                ends = spread(*exponent_interval(-fitted.lines["L"][:, 1], fitted.level), ".3f")
                label = f"$L \\propto {compute}^{{-{value:.3f}}}$ {ends}"
                line(ax, along(fitted, "L"), *fitted.ranges["C"], label, hue)
        beside = "" if plain is None else " (curves) or $C$"
        ax.set(xlabel=C_MIN.replace(" [", f"{beside} ["), ylabel=LABELS["L"])
        key_above(figure, [band_key(), beyond_key()])
        colour.bar(figure, [ax])
        show_all(ax)
        make_room(ax, ax.legend(loc="upper right"))
        style.count_axis(ax)
        style.loss_axis(ax)
    return figure


@listed("kaplan14", "Kaplan et al. 2020, Fig. 14", needs=("curves", "B"), spec="batch")
def optimal_steps(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    critical: CriticalBatch | None = None,
    width: Width | None = None,
) -> Figure:
    """The best size and the fewest steps against the least compute C_min, with power laws.

    Left: the size that is best at each C_min; right: S_min = C_min / (6 N B_crit(L)). Dots mark
    the compute at which the best size changes. A second line shows size and steps S = D / B
    against compute as trained at the most common batch size, if its curves suffice. Bands are 95 %
    intervals.

    critical  A result of `critical_batch`; the default is that of these runs.
    """
    points = needed(runs if curves is None else curves)
    found, plain = _efficient(runs, curves, critical), fixed_batch(points)
    front = found.frontier
    law = found.critical.require_law()
    at = front.optima[front.optima["kind"] == "crossing"]
    S = at["D"] / law.predict(L=front.at(C=at["C"])["L"].to_numpy())
    B = float(points["B"].mode().iloc[0])
    with rc_context(style.paper()):
        figure, axes = panels(2, width, height=2.8)
        for ax, name, y in zip(axes, "NS", (at["N"], S), strict=True):
            symbol = rf"{name}_\mathrm{{{'opt' if name == 'N' else 'min'}}}"
            label = power_law(front, name, symbol, r"C_\mathrm{min}")
            line(ax, along(front, name), *front.ranges["C"], label, style.FIT)
            if plain is not None:
                label = power_law(plain, name, name, "C") + f", $B$ = {B:.6g}"
                ends = plain.ranges["C"]
                line(ax, along(plain, name), *ends, label, style.METHODS["envelope"])
            ax.scatter(
                at["C"], y, color=style.FIT, s=14, lw=0.4, edgecolors="white", zorder=5,
                label=r"the best size changes, over $C_\mathrm{min}$",
            )  # fmt: skip
            ax.set_xlabel(C_MIN if plain is None else C_MIN.replace(" [", " or $C$ ["))
            ax.set_xscale("log")
            ax.set_yscale("log")
        axes[0].set_ylabel("Best size, " + LABELS["N"].lower().replace("$n$", "$N$"))
        axes[1].set_ylabel(r"Fewest steps $S_\mathrm{min}$" + ("" if plain is None else " or $S$"))
        key_above(figure, [band_key("95 % interval"), beyond_key()])
        for ax in axes:
            near_lines(ax)
            make_room(ax, ax.legend(loc="upper left"))
            style.count_axis(ax)
            style.count_axis(ax, which="y")
    return figure


@listed("kaplan15", "Kaplan et al. 2020, Fig. 15", needs=("curves", "B"), spec="batch")
def _meeting_of(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    critical: CriticalBatch | None = None,
    width: Width | None = None,
) -> Figure:
    """Where L(C_min) falls below L(D) of the tokens that compute-efficient training takes."""
    by_D = fit_law(laws.kaplan_D, lower_edge(usable(runs), "D"))
    return meeting(_efficient(runs, curves, critical), by_D, width=width)


def meeting(found: Efficient, by_D: FitResult, *, width: Width | None = None) -> Figure:
    """Draw L(C_min) and L(D(C_min)) to beyond where they meet (Kaplan et al. 2020, Fig. 15).

    D = 2 C_min / (6 N(C_min)). Where they meet, the laws contradict each other, so one of them must
    fail before that. The point is far outside the data and moves by decades with the exponents; the
    text gives 95 % intervals. Lines are solid over the data; dots are the measured losses that the
    frontier touches.

    by_D  A fit of kaplan_D; in the figure kaplan15 it is the one of kaplan1, to the lower edge.
    """
    front, met = found.frontier, contradiction(found, by_D)
    start, measured = front.ranges["C"]
    C_met = met.at["C"][0]
    end = min(C_met, measured * 1e12) * 1e3
    bound = replace(front, lines=front.lines | {"L": met.bound})
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.8)
        label = power_law(front, "L", r"L(C_\mathrm{min})", r"C_\mathrm{min}")
        pairs: tuple[tuple[Curve, str, str], ...] = (
            (along(front, "L"), label, style.FIT),
            (
                along(bound, "L"),
                power_law(bound, "L", r"L(D(C_\mathrm{min}))", r"C_\mathrm{min}")
                + f"\nfrom {formula(by_D)}",
                style.METHODS["envelope"],
            ),
        )
        for curve, words, hue in pairs:
            line(ax, curve, start, measured, words, hue, end=end)
        both = np.concatenate(
            [along(drawn, "L")(np.array([start, end]))[0] for drawn in (front, bound)]
        )
        ax.set(xscale="log", yscale="log", xlim=(start, end))
        ax.set_ylim(both.min() * 0.85, both.max() * 1.05)
        touched = front.optima[front.optima["kind"] == "touch"]
        ax.plot(
            touched["C"], touched["L"], "o", color=style.INK, ms=2.4, mew=0, zorder=5,
            label="where the curves touch the frontier",
        )  # fmt: skip
        where = "the two never meet"
        if np.isfinite(C_met):
            ax.plot(
                C_met,
                met.at["L"][0],
                "D",
                color=style.INK,
                ms=4,
                mec="white",
                mew=0.5,
                zorder=6,
                label="where the two meet",
            )
            where = "\n".join(
                f"${name}^* = {latex(value)}$ [${latex(low)}$, ${latex(high)}$]"
                for name, (value, low, high) in met.at.items()
            )
        text = ax.text(0.02, 0.02, where, transform=ax.transAxes, fontsize=7, va="bottom")
        ax.set(xlabel=C_MIN, ylabel=LABELS["L"])
        key_above(figure, [band_key("95 % interval"), beyond_key()])
        legend = ax.legend(loc="upper right")
        make_room(ax, text, legend)
        style.count_axis(ax)
        style.loss_axis(ax)
    return figure
