"""Loss at fixed compute and fixed steps, sample efficiency and contours.

The figures follow Kaplan et al. 2020, section 6, Hoffmann et al. 2022 and Brown et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import laws
from analysis.critical_batch import contours, critical_batch, log_reached
from analysis.figures import style
from analysis.figures.formula import formula, latex
from analysis.figures.marks import BEYOND, frontier_line, headline, limits, lines, span
from analysis.figures.panels import LABELS, Colours, Width, panels
from analysis.figures.registry import figure as listed
from analysis.figures.shared_fits import chosen
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.result import FitResult
from analysis.frontiers.budgets import budgets_of, slices
from analysis.frontiers.choice import Choice
from analysis.frontiers.envelope import envelope
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Frontier
from analysis.tables.select import longest, needed, of_steps, settled, usable
from scaling.units import PF_DAY


def at_steps(curves: pd.DataFrame, steps: Iterable[float]) -> pd.DataFrame:
    """Return the least loss of every size at each number of steps: N, S, L, log-interpolated."""
    rows = []
    for _, run in curves.sort_values("S").groupby("run_id"):
        x, y = np.log(run["S"].to_numpy(float)), np.log(run["L"].to_numpy(float))
        rows += [
            (run["N"].iloc[0], S, np.exp(np.interp(np.log(S), x, y)))
            for S in steps
            if x[0] <= np.log(S) <= x[-1] + 1e-9
        ]
    table = pd.DataFrame(rows, columns=["N", "S", "L"])
    return table.groupby(["S", "N"], as_index=False)["L"].min()


@listed("kaplan11", "Kaplan et al. 2020, Fig. 11", needs=("curves", "S", "B"), spec="compute")
def fixed(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss against size at fixed compute, and at fixed numbers of steps, with L(N, S).

    Learning curves are cut at fixed C or S, after warm-up and before a wsd cooldown. Lines are
    kaplan_NS, fitted to the longest curve of every size.
    """
    points = needed(runs if curves is None else curves)
    late = of_steps(longest(points))
    law = fit_law(laws.kaplan_NS, late)
    B = float(points["B"].mode().iloc[0])
    late = late[late["B"] == B]
    budgets = slices(settled(points[points["B"] == B]), 6)
    ends = late.groupby("N")["S"].agg(["min", "max"])
    steps = at_steps(late, np.geomspace(ends["min"].max(), ends["max"].min(), 5))
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.5)
        groups: list[tuple[Axes, str, pd.DataFrame, Callable[..., np.ndarray]]] = [
            (left, "C", budgets, lambda C, N: law.predict(N=N, S=C / (6 * N * B))),
            (right, "S", steps, lambda S, N: law.predict(N=N, S=np.full(len(N), S))),
        ]
        for ax, x, table, predict in groups:
            colour = Colours(table[x])
            for value, same in table.sort_values("N").groupby(x):
                N = span(same["N"])
                ax.plot(N, predict(value, N), color=colour(value), lw=0.8)
                ax.plot(same["N"], same["L"], "o", color=colour(value), ms=2.8, mew=0)
            ax.set_xlabel(LABELS["N"])
            style.count_axis(ax)
            style.loss_axis(ax)
            colour.bar(figure, [ax], label=LABELS[x], own=True)
        both = pd.concat([budgets, steps])
        limits(left, both["N"].to_numpy(float), both["L"].to_numpy(float), above=0.35)
        right.set(xlim=left.get_xlim(), ylim=left.get_ylim())
        for ax in (left, right):
            style.loss_axis(ax)
        left.set_ylabel(LABELS["L"])
        headline(right, formula(law))
    return figure


@listed("kaplan18", "Kaplan et al. 2020, Fig. 18", needs=("curves", "B"), spec="batch")
def batch_scan(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Tokens against steps to reach each loss at several batch sizes.

    Panels are the smallest and the largest size. Lines are (S / S_min - 1)(E / E_min - 1) = 1
    (McCandlish et al. 2018), fitted to each loss.
    """
    points = contours(needed(runs if curves is None else curves))
    critical = critical_batch(points, bootstrap=0)
    sizes = sorted(critical.table["N"].unique())
    shown = sizes if len(sizes) < 3 else [sizes[0], sizes[-1]]
    with rc_context(style.paper()):
        figure, axes = panels(len(shown), width, height=2.5)
        colour = Colours(critical.table["L"])
        for ax, N in zip(axes, shown, strict=True):
            for size, L, tradeoff in zip(
                critical.table["N"], critical.table["L"], critical.fits, strict=True
            ):
                if size != N:
                    continue
                contour = points[(points["N"] == N) & (points["L"] == L)]
                B = span(contour["B"])
                S = tradeoff.predict(B=B)
                ax.plot(S, B * S, color=colour(L), lw=0.8)
                tokens = contour["B"] * contour["S"]
                ax.plot(contour["S"], tokens, "o", color=colour(L), ms=3, mew=0)
            ax.set_xlabel("Steps to reach the loss")
            style.count_axis(ax)
            style.count_axis(ax, which="y")
            headline(ax, f"$N = {latex(float(N))}$")
        axes[0].set_ylabel("Tokens to reach the loss")
        colour.bar(figure, axes, label=LABELS["L"], own=True, plain=True)
    return figure


@listed("kaplan19", "Kaplan et al. 2020, Fig. 19", needs=("curves",), spec="size")
def sample_efficiency(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Fewest tokens to reach a loss against size, one line per loss."""
    points = needed(runs if curves is None else curves)
    reached = points.groupby("N")["L"].min()
    start = points.groupby("run_id")["L"].max().min()
    least, most = reached.nsmallest(min(3, len(reached))).max(), min(start, reached.max() * 1.15)
    goals = np.geomspace(least, most, 7)
    rows = []
    for _, run in points.sort_values("D").groupby("run_id"):
        for goal in goals:
            log_D = log_reached(run, "D", goal)
            if log_D is not None:
                rows.append((goal, run["N"].iloc[0], np.exp(log_D)))
    table = pd.DataFrame(rows, columns=["L", "N", "D"]).groupby(["L", "N"], as_index=False).min()
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.6)
        colour = Colours(goals)
        for goal, same in table.groupby("L"):
            ax.plot(same["N"], same["D"], "o-", color=colour(goal), lw=0.9, ms=3, mew=0)
        ax.set(xlabel=LABELS["N"], ylabel="Tokens to reach the loss")
        style.count_axis(ax)
        style.count_axis(ax, which="y")
        colour.bar(figure, [ax], label=LABELS["L"], own=True, plain=True)
    return figure


@listed("gpt3", "Brown et al. 2020, Fig. 3.1", needs=("curves",), spec="headline")
def loss_of_compute(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    front: Frontier | None = None,
    width: Width | None = None,
) -> Figure:
    """Learning curves against compute in PF-days, with the power law along their envelope.

    front  A frontier; the default is the envelope of the curves.
    """
    points = needed(runs if curves is None else curves)
    front = front or envelope(points)
    points = points.assign(C=points["C"] / PF_DAY)
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.6)
        colour = Colours(points["N"])
        lines(ax, points, "C", colour)
        limits(ax, points["C"].to_numpy(float), points["L"].to_numpy(float), above=0.2)
        frontier_line(ax, front, PF_DAY)
        ax.set(xlabel=LABELS["PF"], ylabel=LABELS["L"])
        style.count_axis(ax)
        style.loss_axis(ax)
        ax.legend(loc="upper right")
        colour.bar(figure, [ax])
    return figure


@listed("contours", "Hoffmann et al. 2022, Fig. 4", spec="isoflop")
def loss_contours(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    law: FitResult | None = None,
    choice: Choice | None = None,
    width: Width | None = None,
) -> Figure:
    """Contours of the fitted L(N, D) over compute and size, and slices at fixed compute.

    law     A fitted law of N and D; the default is that of `choice`.
    choice  The law of N and D; by default chosen from the runs.
    """
    runs = usable(runs)
    law = law or chosen(runs, choice)
    front = parametric(law)
    C = span(runs["C"], beyond=BEYOND)
    N = span([runs["N"].min() / 1.5, runs["N"].max() * 2])
    mesh_C, mesh_N = np.meshgrid(C, N)
    L = law.predict(N=mesh_N.ravel(), D=(mesh_C / (6 * mesh_N)).ravel()).reshape(mesh_C.shape)
    levels = np.geomspace(runs["L"].min() * 0.97, runs["L"].max() * 1.05, 12)
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.6)
        left.set(xlim=(C[0], C[-1]), ylim=(N[0], N[-1]), xlabel=LABELS["C"], ylabel=LABELS["N"])
        style.count_axis(left)
        style.count_axis(left, which="y")
        drawn = left.contour(C, N, L, levels, colors=style.GREY, linewidths=0.7)
        left.clabel(drawn, fmt="%.2f", fontsize=6, inline_spacing=2)  # placed by the axis scales
        left.plot(runs["C"], runs["N"], "o", color=style.INK, ms=1.8, mew=0)
        low, high = front.ranges["C"]
        best = front.at(C=C)
        left.fill_between(C, best["N_low"], best["N_high"], color=style.FIT, alpha=0.15, lw=0)
        known = high * (1 + 1e-9) >= C
        left.plot(C[known], best["N"][known], color=style.FIT, label="efficient frontier")
        left.plot(C[~known], best["N"][~known], color=style.FIT, ls=(0, (3, 2)))
        left.legend(loc="upper left")
        exact = budgets_of(runs)
        shown = np.array([b["C"].median() for b in exact]) if exact else np.geomspace(low, high, 6)
        colour = Colours(shown)
        for budget in shown:
            right.plot(N, law.predict(N=N, D=budget / (6 * N)), color=colour(budget), lw=0.8)
            at = front.at(C=budget).iloc[0]
            right.plot(at["N"], at["L"], "D", color=style.FIT, ms=3.5, mec="white", mew=0.4)
        for budget in exact:
            hue = colour(budget["C"].median())
            right.plot(budget["N"], budget["L"], "o", color=hue, ms=2.5, mew=0)
        right.set(xlabel=LABELS["N"], ylabel=LABELS["L"], xlim=(N[0], N[-1]))
        right.set_ylim(runs["L"].min() * 0.97, runs["L"].max() * 1.2)
        style.count_axis(right)
        style.loss_axis(right)
        right.text(
            0.99, 1.0, formula(law), transform=right.transAxes, ha="right", va="bottom", fontsize=7
        )
        colour.bar(figure, [right], label=LABELS["C"], own=len(shown) <= 10)
    return figure
