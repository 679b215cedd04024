"""Loss against size, data and compute (Kaplan et al. 2020, sections 1 and 3)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from analysis import laws
from analysis.critical_batch import CriticalBatch, adjusted
from analysis.figures import style
from analysis.figures.formula import formula
from analysis.figures.marks import (
    BEYOND,
    dots,
    envelope_line,
    fitted,
    frontier_line,
    headline,
    law_line,
    limits,
    lines,
    outside_band,
    show_all,
    span,
)
from analysis.figures.panels import LABELS, Colours, Width, key_above, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.shared_fits import critical_batch_of, default_frontier, known_fit
from analysis.figures.uncertainty import (
    band,
    band_key,
    bar_key,
    beyond_key,
    outline_key,
    test_bars,
)
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.result import FitResult
from analysis.frontiers.result import Comparison, Frontier
from analysis.tables.select import longest, lower_edge, needed, of_steps, usable, with_trunks
from scaling.units import PF_DAY


@listed("kaplan1", "Kaplan et al. 2020, Fig. 1", spec="headline")
def kaplan_triptych(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    by_C: Frontier | None = None,
    by_D: FitResult | None = None,
    by_N: FitResult | None = None,
    compared: Comparison | None = None,
    fits: Iterable[FitResult] = (),
    unit: Literal["FLOPs", "PF-days"] = "FLOPs",
    width: Width | None = None,
) -> Figure:
    """Loss against compute, data and parameters.

    Learning curves are coloured by N, with the compute-optimal frontier, and the envelope that
    touches them from below. Branches of one trunk show all evaluations of their shared part. Final
    losses are shown against D and N, with the law fitted to the lower edge: the runs that no run
    with as little D (or N) beats. Bands are 95 % intervals of the laws, which single runs may
    leave; lines are dashed beyond the data.

    by_C  A frontier; the default is the envelope of the curves (parametric without curves), from
          `compared`, the frontier by every method, if that is known.
    by_D  A fitted law of D; the default is kaplan_D on the lower edge, from `fits` if known.
    by_N  A fitted law of N; the default is kaplan_N on the lower edge, from `fits` if known.
    unit  Unit of compute on the axis: 'FLOPs', or 'PF-days' as in the paper.
    """
    runs = usable(runs)
    curves = None if curves is None else usable(curves)
    by_C = by_C or default_frontier(runs, curves, compared)
    by_D, by_N = (
        given or known_fit(fits, law) or fit_law(law, lower_edge(runs, law.inputs[0]))
        for given, law in ((by_D, laws.kaplan_D), (by_N, laws.kaplan_N))
    )
    with rc_context(style.paper()):
        figure, axes = panels(3, width, height=2.4)
        colour = Colours(runs["N"])
        scale = PF_DAY if unit == "PF-days" else 1.0
        left = axes[0]
        shown = runs if curves is None else with_trunks(curves, runs)
        shown = shown.assign(C=shown["C"] / scale)
        (dots if curves is None else lines)(left, shown, "C", colour)
        limits(left, shown["C"].to_numpy(float), shown["L"].to_numpy(float))
        frontier_line(left, by_C, scale)
        if curves is not None:
            envelope_line(left, shown, by_C, scale)
        left.set_xlabel(LABELS["C" if scale == 1 else "PF"])
        texts: dict[Axes, list[Text]] = {}
        for ax, result, x in ((axes[1], by_D, "D"), (axes[2], by_N, "N")):
            dots(ax, runs, x, colour, faint=True)
            dots(ax, result.runs, x, colour, edge=True)
            limits(ax, runs[x].to_numpy(float), runs["L"].to_numpy(float))
            law_line(ax, result, x)
            texts[ax] = outside_band(ax, result, x)
            ax.set_xlabel(LABELS[x])
        axes[0].set_ylabel(LABELS["L"])
        key_above(figure, [band_key(colour=style.FIT), beyond_key()])
        colour.bar(figure, axes)
        for ax in axes:
            show_all(ax)
            make_room(ax, *texts.get(ax, []), ax.legend(loc="upper right", handlelength=1.4))
            style.count_axis(ax)
            style.loss_axis(ax)
    return figure


@listed("kaplan2", "Kaplan et al. 2020, Fig. 2", needs=("curves",), spec="headline")
def learning_curves(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss against tokens and against compute, coloured by size.

    Dots mark the ends of runs. A table of curves suffices.
    """
    points = needed(runs if curves is None else curves)
    with rc_context(style.paper()):
        figure, axes = panels(2, width, height=2.5, share=True)
        colour = Colours(points["N"])
        for ax, x in zip(axes, ("D", "C"), strict=True):
            lines(ax, points, x, colour, ends=True)
            ax.set_xlabel("Tokens processed" if x == "D" else LABELS[x])
        axes[0].set_ylabel(LABELS["L"])
        colour.bar(figure, axes)
        end = Line2D([], [], ls="", marker="o", color=style.GREY, ms=2.5, mew=0)
        make_room(axes[1], axes[1].legend([end], ["end of a run"], loc="lower left"))
        for ax in axes:
            style.count_axis(ax)
            style.loss_axis(ax)
            ax.label_outer(remove_inner_ticks=False)
    return figure


@listed("kaplan4", "Kaplan et al. 2020, Fig. 4", needs=("curves", "S"), spec="compute")
def size_and_data(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    by_ND: FitResult | None = None,
    by_NS: FitResult | None = None,
    critical: CriticalBatch | None = None,
    fits: Iterable[FitResult] = (),
    width: Width | None = None,
) -> Figure:
    """Loss against data by size with L(N, D), and along learning curves with L(N, S).

    Right: the longest curve of every size after its warm-up, as in the paper (section 5.2), and
    before a wsd cooldown, within which the loss falls with the schedule. The axis is S_min = S /
    (1 + B_crit(L) / B) (eq. 5.4) if B_crit is given or the runs have several batch sizes, otherwise
    S as trained. Bars are 95 % intervals over the test contexts, bands those of the laws.

    by_ND     A fitted law of N and D; the default is kaplan_ND, fitted to all runs, from `fits` if
              known.
    by_NS     A fitted law of N and S, drawn over S as trained; the default is kaplan_NS, fitted to
              the points shown.
    critical  A result of `critical_batch`; the default is that of these runs.
    """
    runs = usable(runs)
    points = needed(runs if curves is None else curves)
    if by_NS is None and (critical is not None or points["B"].nunique() >= 3):
        critical = critical_batch_of(points, critical)
    points = of_steps(longest(points))
    if critical is not None:
        points = adjusted(points, critical)
        points["S"] = points["S_min"]
    by_ND = by_ND or known_fit(fits, laws.kaplan_ND) or fit_law(laws.kaplan_ND, runs)
    by_NS = by_NS or fit_law(laws.kaplan_NS, points)
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.7, share=True)
        colour = Colours(runs["N"])
        dots(left, runs, "D", colour)
        bars = test_bars(left, runs, "D", colour(runs["N"].to_numpy(float)))
        for N, curve in points.sort_values("S").groupby("N"):
            right.plot(curve["S"], curve["L"], ".", color=colour(N), ms=3, mew=0)
        for N in colour.sizes:
            trained = runs.loc[runs["N"] == N, "D"]
            D = span(trained, beyond=BEYOND)
            band(left, D, by_ND.predict_interval(N=N, D=D), colour(N))
            fitted(left, D, by_ND.predict(N=N, D=D), trained.max(), colour(N))
            taken = points.loc[points["N"] == N, "S"]
            if len(taken):
                S = span(taken, beyond=BEYOND)
                band(right, S, by_NS.predict_interval(N=N, S=S), colour(N))
                fitted(right, S, by_NS.predict(N=N, S=S), taken.max(), colour(N))
        L, heads = np.concatenate([runs["L"], points["L"]]), []
        for ax, x, result in ((left, "D", by_ND), (right, "S", by_NS)):
            data = runs if x == "D" else points
            limits(ax, data[x].to_numpy(float), L)
            ax.set_xlabel(LABELS[x])
            heads.append(headline(ax, formula(result)))
        show_all(left, right)
        key_above(figure, [*[bar_key()] * bars, band_key(), beyond_key()])
        if critical is not None:
            right.set_xlabel(r"Fewest steps $S_\mathrm{min}$")
        left.set_ylabel(LABELS["L"])
        colour.bar(figure, (left, right))
        for ax, head in zip((left, right), heads, strict=True):
            make_room(ax, head)
        for ax in (left, right):
            style.count_axis(ax)
            style.loss_axis(ax)
            ax.label_outer(remove_inner_ticks=False)
    return figure


@listed("kaplan23", "Kaplan et al. 2020, Fig. 23", spec="headline")
def forms(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    fits: Iterable[FitResult] = (),
    width: Width | None = None,
) -> Figure:
    """L(N), L(D) and L(C) as power laws and as logarithms, with their misfit.

    The paper shows L(N). Laws are fitted to the lower edge: the runs that no run with as little N
    (D, C) beats. The misfit is the relative root mean square over these runs.
    """
    runs = usable(runs)
    with rc_context(style.paper()):
        figure, axes = panels(3, width, height=2.4, share=True)
        colour = Colours(runs["N"])
        for ax, x, power in zip(
            axes, "NDC", (laws.kaplan_N, laws.kaplan_D, laws.kaplan_C), strict=True
        ):
            edge = lower_edge(runs, x)
            dots(ax, edge, x, colour)
            grid = span([edge[x].min(), edge[x].max() * BEYOND**2])
            for law, hue in ((power, style.FIT), (laws.logarithm(x), style.METHODS["envelope"])):
                result = known_fit(fits, law) or fit_law(law, edge, bootstrap=0)
                off = result.predict(**{x: edge[x].to_numpy(float)}) / edge["L"] - 1
                label = f"{formula(result)}\n{100 * np.sqrt(np.mean(off**2)):.2g} % rms"
                fitted(ax, grid, result.predict(**{x: grid}), edge[x].max(), hue, label=label)
            limits(ax, grid, edge["L"].to_numpy(float))
            ax.set_xlim(right=grid[-1])
            ax.set_ylim(bottom=edge["L"].min() * 0.85)
            ax.set_xlabel(LABELS[x])
        axes[0].set_ylabel(LABELS["L"])
        key_above(figure, [beyond_key()])
        colour.bar(figure, axes)
        for ax in axes:
            make_room(ax, ax.legend(loc="upper right", handlelength=1.2))
        for ax in axes:
            style.count_axis(ax)
            style.loss_axis(ax)
            ax.label_outer(remove_inner_ticks=False)
    return figure


@listed("kaplan6", "Kaplan et al. 2020, Fig. 6", needs=("N_total", "n_layer"), spec="size")
def embeddings(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss against size with and without embeddings, by depth.

    Dots are the best run of every shape, with 95 % intervals over the test contexts. In
    the paper, depths differ if embeddings are counted; without, they agree, except for models of a
    single layer. The law is fitted to the outlined dots: the lower edge of the other depths.
    """
    runs = usable(runs)
    best = runs.sort_values("L", kind="stable").drop_duplicates(["N", "n_layer"])
    deep = best[best["n_layer"] >= 2] if (best["n_layer"] >= 2).sum() >= 3 else best
    edge = lower_edge(deep, "N")
    law = fit_law(laws.kaplan_N, edge)
    depths = sorted(best["n_layer"].unique())
    with rc_context(style.paper()):
        figure, axes = panels(2, width, height=2.7, share=True)
        colour, bars = Colours(depths), False
        for ax, x in zip(axes, ("N_total", "N"), strict=True):
            for depth, mark in zip(depths, itertools.cycle("osD^v<>p"), strict=False):
                same = best[best["n_layer"] == depth].sort_values(x)
                bars |= test_bars(ax, same, x, colour(depth))
                ax.plot(
                    same[x], same["L"], f"{mark}-", color=colour(depth), lw=0.7, ms=3, mew=0,
                    label=f"{depth} layer{'s' if depth > 1 else ''}",
                )  # fmt: skip
                if x == "N":
                    outlined = same[same["run_id"].isin(edge["run_id"])]
                    ax.plot(
                        outlined[x], outlined["L"], mark, color=colour(depth), ms=3.5,
                        mec=style.INK, mew=0.6, zorder=5,
                    )  # fmt: skip
            limits(ax, best[x].to_numpy(float), best["L"].to_numpy(float))
            if x == "N":
                law_line(ax, law, "N")
                show_all(*axes)
            ax.set_xlabel(LABELS[x] if x == "N_total" else "Parameters $N$ without embeddings")
        shared = [*[bar_key()] * bars, outline_key(), band_key(colour=style.FIT), beyond_key()]
        key_above(figure, shared)
        axes[0].set_ylabel(LABELS["L"])
        make_room(axes[0], axes[0].legend(loc="upper right"))
        make_room(axes[1], axes[1].legend(handles=axes[1].lines[-1:], loc="upper right"))
        for ax in axes:
            style.count_axis(ax)
            style.loss_axis(ax)
            ax.label_outer(remove_inner_ticks=False)
    return figure
