"""Loss at fixed compute and fixed steps, sample efficiency and contours.

The figures follow Kaplan et al. 2020, section 6, Hoffmann et al. 2022 and Brown et al. 2020.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import laws
from analysis.critical_batch import contours, critical_batch, log_reached
from analysis.figures import style
from analysis.figures.contour_labels import label_contours
from analysis.figures.formula import formula, latex
from analysis.figures.marks import (
    BEYOND,
    along,
    envelope_line,
    frontier_line,
    headline,
    limits,
    line,
    lines,
    show_all,
    span,
)
from analysis.figures.panels import LABELS, Colours, Width, key_above, legend_above, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.shared_fits import chosen, known_frontier
from analysis.figures.uncertainty import band_key, beyond_key
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.result import FitResult
from analysis.frontiers.budgets import budgets_of, slices
from analysis.frontiers.choice import Choice
from analysis.frontiers.envelope import envelope
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Comparison, Frontier
from analysis.tables.select import joined, longest, needed, of_steps, settled, usable, with_trunks
from scaling.units import PF_DAY

_MOST_PANELS = 4
"""Most sizes that have a panel each."""
_TRADE_OFF = r"$(S/S_\mathrm{min} - 1)(E/E_\mathrm{min} - 1) = 1$"
"""Label of a fit of steps and tokens."""


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


def _apart(values: pd.Series, factor: float) -> list[float]:
    """Return values from the least up, without those within `factor` of the one below."""
    kept: list[float] = []
    for value in np.unique(values.to_numpy(float)):
        if not kept or value >= factor * kept[-1]:
            kept.append(float(value))
    return kept


@listed("kaplan11", "Kaplan et al. 2020, Fig. 11", needs=("curves", "S", "B"), spec="compute")
def fixed(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss against size at fixed compute, and at fixed numbers of steps, with L(N, S).

    Learning curves are cut at fixed C or S, after warm-up and before a wsd cooldown; budgets are at
    least a factor of 1.8 apart. Lines are kaplan_NS, fitted to the longest curve of every size, and
    the misfit is the relative root mean square over the points.
    """
    points = needed(runs if curves is None else curves)
    late = of_steps(longest(points))
    law = fit_law(laws.kaplan_NS, late)
    B = float(points["B"].mode().iloc[0])
    late = late[late["B"] == B]
    cut = slices(settled(points[points["B"] == B]), 24)
    budgets = cut[cut["C"].isin(_apart(cut["C"], 1.8))]
    ends = late.groupby("N")["S"].agg(["min", "max"])
    steps = at_steps(late, np.geomspace(ends["min"].max(), ends["max"].min(), 5))
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.5, share=True)
        figure.set_layout_engine("constrained", wspace=0.06)  # the label of the left colour bar
        groups: list[tuple[Axes, str, pd.DataFrame, Callable[..., np.ndarray]]] = [
            (left, "C", budgets, lambda C, N: law.predict(N=N, S=C / (6 * N * B))),
            (right, "S", steps, lambda S, N: law.predict(N=N, S=np.full(len(N), S))),
        ]
        off = []
        for ax, x, table, predict in groups:
            colour = Colours(table[x])
            fitted = predict(table[x].to_numpy(float), table["N"].to_numpy(float))
            off.append(fitted / table["L"].to_numpy(float) - 1)
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
            ax.label_outer(remove_inner_ticks=False)
        left.set_ylabel(LABELS["L"])
        rms = 100 * np.sqrt(np.mean(np.concatenate(off) ** 2))
        headline(right, f"{formula(law)}\n{rms:.2g} % rms")
    return figure


@listed("kaplan18", "Kaplan et al. 2020, Fig. 18", needs=("curves", "B"), spec="batch")
def batch_scan(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Tokens against steps to reach each loss at several batch sizes.

    There is a panel for each size, or for four of them, from the smallest to the largest. Lines are
    (S / S_min - 1)(E / E_min - 1) = 1 (McCandlish et al. 2018), fitted to each loss.
    """
    points = contours(needed(runs if curves is None else curves))
    critical = critical_batch(points, bootstrap=0)
    sizes = sorted(critical.table["N"].unique())
    if len(sizes) > _MOST_PANELS:
        sizes = [sizes[i] for i in np.linspace(0, len(sizes) - 1, _MOST_PANELS).round().astype(int)]
    with rc_context(style.paper()):
        figure, axes = panels(len(sizes), width, height=2.5, share=True)
        colour = Colours(critical.table["L"])
        for ax, N in zip(axes, sizes, strict=True):
            for size, L, tradeoff in zip(
                critical.table["N"], critical.table["L"], critical.fits, strict=True
            ):
                if size != N:
                    continue
                contour = points[(points["N"] == N) & (points["L"] == L)]
                B = span(contour["B"])
                S = tradeoff.predict(B=B)
                ax.plot(S, B * S, color=colour(L), lw=0.8, label=_TRADE_OFF)
                tokens = contour["B"] * contour["S"]
                ax.plot(contour["S"], tokens, "o", color=colour(L), ms=3, mew=0)
            ax.set_xlabel("Steps $S$ to reach the loss")
            style.count_axis(ax)
            ax.set_title(f"$N = {latex(float(N))}$", loc="right", pad=3)
            style.count_axis(ax, which="y")
        low, high = axes[0].get_ylim()
        for ax in axes:
            ax.set_ylim(low, high * (high / low) ** 0.12)  # room for the legend
            style.count_axis(ax, which="y")
            ax.label_outer(remove_inner_ticks=False)
        axes[0].set_ylabel("Tokens $E$ to reach the loss")
        axes[0].legend(handles=axes[0].lines[:1], loc="upper right")
        colour.bar(figure, axes, label=LABELS["L"], own=True, plain=True)
    return figure


@listed("kaplan19", "Kaplan et al. 2020, Fig. 19", needs=("curves",), spec="size")
def sample_efficiency(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Fewest tokens to reach a loss against size, one line per loss and depth."""
    points = needed(runs if curves is None else curves)
    if curves is not None and "n_layer" in runs.columns:
        points = joined(points, runs, "n_layer")
    points = points.assign(depth=points["n_layer"] if "n_layer" in points.columns else 0)
    reached = points.groupby("N")["L"].min()
    start = points.groupby("run_id")["L"].max().min()
    least, most = reached.nsmallest(min(3, len(reached))).max(), min(start, reached.max() * 1.15)
    goals = np.geomspace(least, most, 7)
    rows = []
    for _, run in points.sort_values("D").groupby("run_id"):
        for goal in goals:
            log_D = log_reached(run, "D", goal)
            if log_D is not None:
                rows.append((goal, run["depth"].iloc[0], run["N"].iloc[0], np.exp(log_D)))
    keys = ["L", "depth", "N"]
    table = pd.DataFrame(rows, columns=[*keys, "D"]).groupby(keys, as_index=False).min()
    depths = sorted(table["depth"].unique())
    marks = dict(zip(depths, itertools.cycle("osD^vP"), strict=False))
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.6)
        colour = Colours(goals)
        for (goal, depth), same in table.groupby(["L", "depth"]):
            ax.plot(
                same["N"], same["D"], f"{marks[depth]}-", color=colour(goal), lw=0.8, ms=3, mew=0
            )
        ax.set(xlabel=LABELS["N"], ylabel="Tokens to reach the loss")
        style.count_axis(ax)
        style.count_axis(ax, which="y")
        if len(depths) > 1:
            names = [f"{depth:.0f} layer{'s' if depth > 1 else ''}" for depth in depths]
            handles = [
                Line2D([], [], marker=marks[d], color=style.GREY, ms=3, mew=0, lw=0.8)
                for d in depths
            ]
            legend_above(ax, handles=handles, labels=names, ncols=min(len(depths), 3))
        colour.bar(figure, [ax], label=LABELS["L"], own=True, plain=True)
    return figure


@listed("gpt3", "Brown et al. 2020, Fig. 3.1", needs=("curves",), spec="headline")
def loss_of_compute(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    front: Frontier | None = None,
    compared: Comparison | None = None,
    width: Width | None = None,
) -> Figure:
    """Learning curves against compute in PF-days, with their envelope and its power law.

    The envelope touches the curves from below. The law passes through it, with its 95 % interval.
    Branches of one trunk show all evaluations of their shared part.

    front     A frontier; the default is the envelope of the curves.
    compared  The frontier by every method, if it is known.
    """
    points = needed(runs if curves is None else curves)
    front = front or known_frontier(compared, "envelope") or envelope(points)
    points = points if curves is None else with_trunks(points, runs)
    points = points.assign(C=points["C"] / PF_DAY)
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.8)
        colour = Colours(points["N"])
        lines(ax, points, "C", colour)
        limits(ax, points["C"].to_numpy(float), points["L"].to_numpy(float))
        frontier_line(ax, front, PF_DAY)
        envelope_line(ax, points, front, PF_DAY)
        ax.set(xlabel=LABELS["PF"], ylabel=LABELS["L"])
        key_above(figure, [band_key(colour=style.FIT), beyond_key()])
        colour.bar(figure, [ax])
        show_all(ax)
        make_room(ax, ax.legend(loc="upper right"))
        style.count_axis(ax)
        style.loss_axis(ax)
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

    Left: runs are dots. Right: runs have the colours of their compute.

    law     A fitted law of N and D; the default is that of `choice`.
    choice  The law of N and D; by default chosen from the runs.
    """
    runs = usable(runs)
    law = law or chosen(runs, choice)
    front = parametric(law)
    low, high = front.ranges["C"]
    C = span([runs["C"].min() / 1.5, runs["C"].max() * BEYOND])
    best = front.at(C=C)
    N = span(_sizes_shown(runs["N"], best))
    exact = budgets_of(runs)
    shown = np.array([b["C"].median() for b in exact]) if exact else np.geomspace(low, high, 6)
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.9)
        left.set(xlim=(C[0], C[-1]), ylim=(N[0], N[-1]), xlabel=LABELS["C"], ylabel=LABELS["N"])
        style.count_axis(left)
        style.count_axis(left, which="y")
        line(left, along(front, "N"), low, high, "", style.FIT, start=C[0], end=C[-1])
        left.plot(runs["C"], runs["N"], "o", color=style.INK, ms=1.8, mew=0)
        _contours_of(left, law, C, N, runs, best["N"].to_numpy())
        colour = Colours(shown)
        _slices_of(right, law, front, shown, N, colour, runs if not exact else pd.concat(exact))
        diamond = {"marker": "D", "ms": 3.5, "mec": "white", "mew": 0.4, "lw": 0}
        key_above(figure, [
            Line2D([], [], color=style.FIT, label="efficient frontier"),
            band_key("95 % interval of the frontier", style.FIT), beyond_key(),
            Line2D([], [], color=style.INK, marker="o", ms=2, lw=0, label="runs"),
            Line2D([], [], color=style.FIT, label="least loss", **diamond),
        ])  # fmt: skip
        colour.bar(figure, [right], label=LABELS["C"], own=True, ticks="lines")
        make_room(right, headline(right, formula(law)))
        style.loss_axis(right)
    return figure


def _sizes_shown(N: pd.Series, best: pd.DataFrame) -> list[float]:
    """Return the least and the largest size of contours: those of the runs and the frontier, with
    its band as far as five times beyond the runs."""
    low, high = float(N.min()), float(N.max())
    ends = [np.fmax(best["N_low"].min(), low / 5), np.fmin(best["N_high"].max(), high * 5)]
    least, most = min(low / 1.5, best["N"].min()), max(high * 2, best["N"].max())
    return [float(np.fmin(least, ends[0] / 1.1)), float(np.fmax(most, ends[1] * 1.1))]


def _contours_of(
    ax: Axes, law: FitResult, C: np.ndarray, N: np.ndarray, runs: pd.DataFrame, best: np.ndarray
) -> None:
    """Draw contours of the law over C and N, labelled away from the runs and the frontier."""
    mesh_C, mesh_N = np.meshgrid(C, N)
    L = law.predict(N=mesh_N.ravel(), D=(mesh_C / (6 * mesh_N)).ravel()).reshape(mesh_C.shape)
    levels = np.geomspace(runs["L"].min() * 0.97, runs["L"].max() * 1.05, 12)
    drawn = ax.contour(C, N, L, levels, colors=style.GREY, linewidths=0.7)
    taken = [runs[["C", "N"]].to_numpy(float), np.column_stack([C, best])]
    label_contours(ax, drawn, np.concatenate(taken))


def _slices_of(
    ax: Axes,
    law: FitResult,
    front: Frontier,
    budgets: np.ndarray,
    N: np.ndarray,
    colour: Colours,
    runs: pd.DataFrame,
) -> None:
    """Draw the law at fixed compute with its minima, and runs in the colours of their compute."""
    top = runs["L"].max() * 1.05
    for budget in budgets:
        L = law.predict(N=N, D=budget / (6 * N))
        ax.plot(N[top >= L], L[top >= L], color=colour(budget), lw=0.8)
        at = front.at(C=budget).iloc[0]
        if at["L"] <= top:
            ax.plot(at["N"], at["L"], "D", color=style.FIT, ms=3.5, mec="white", mew=0.4, zorder=4)
    inks = colour(runs["C"].to_numpy(float))
    ax.scatter(runs["N"], runs["L"], c=inks, s=6, lw=0, zorder=3)
    ax.set(xlabel=LABELS["N"], ylabel=LABELS["L"], xlim=(N[0], N[-1]))
    least = min(runs["L"].min(), *(front.at(C=budgets)["L"]))
    ax.set_ylim(least * 0.97, top * 1.01)
    style.count_axis(ax)
    style.loss_axis(ax)
