"""Learning rates: schedules, and the best rate by size (Kaplan et al. 2020, appendix D.6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.curves.rates import Rates
from analysis.figures import style
from analysis.figures.formula import latex, spread
from analysis.figures.marks import line, near_lines
from analysis.figures.panels import LABELS, Colours, Width, key_above, legend_above, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.uncertainty import band_key, bar_key, beyond_key
from analysis.fitting.fit import fit as fit_law
from analysis.laws import Range, law
from analysis.tables.select import needed, usable
from scaling.errors import ConfigError, TableError
from scaling.lr_rule import peak_lr

_MINIMUM = Line2D(
    [], [], ls="", marker="D", color=style.GREY, mec=style.INK, mew=0.6, ms=3.7,
    label="minimum of a parabola (3 points)",
)  # fmt: skip
"""Legend entry of the best rates."""
_NEAR = 0.005
"""Relative rise of the loss that counts as none, where its standard error is unknown."""


@law("lr_peak", c=Range(1e-6, 1e4), p=Range(-1, 0.5))
def rate_of_size(N, *, c, p):
    """lr(N) = c N^p.

    Source: Bjorck et al. 2024 (arXiv 2409.19913), at one horizon
    """
    return c * N**p


@listed("kaplan22", "Kaplan et al. 2020, Fig. 22", needs=("schedule", "curves"), spec="schedules")
def schedules(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Learning-rate schedules, and the final loss against the summed learning rate.

    It uses the size and horizon with the most schedules; those of knots are named by the number of
    knots. Rates are those of every step by the run's
    config or, if the table does not hold it, linear between evaluations. The sum runs over steps.
    """
    points = needed(runs if curves is None else curves)
    if "lr" not in points.columns or points["lr"].isna().all():
        raise TableError("the learning curves have no column lr (schema version 1 has none).")
    runs = usable(runs)
    kinds = runs.groupby(["N", "D"])["schedule"].nunique()
    if kinds.max() < 2:
        raise TableError("no two runs of one size and horizon differ in their schedule.")
    N, D = kinds.idxmax()
    runs = runs[(runs["N"] == N) & (runs["D"] == D)]
    runs = runs.assign(kind=[_kind(row) for row in runs.to_dict("records")])
    points = points[points["run_id"].isin(runs["run_id"])]
    kinds = list(dict.fromkeys(runs.sort_values("L")["kind"]))
    hues = dict(zip(kinds, style.METHODS.values(), strict=False))
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.4)
        named = set()
        for run_id, curve in points.sort_values("S").groupby("run_id"):
            row = runs[runs["run_id"] == run_id].iloc[0]
            kind, L, rates = row["kind"], float(row["L"]), _rates(row, curve)
            left.plot(rates.steps, rates.lr, color=hues.get(kind, style.GREY), lw=0.9)
            right.plot(
                rates.cumulative(curve["S"].max()), L, "o", color=hues.get(kind, style.GREY),
                ms=3.5, mew=0, label=None if kind in named else style.words(kind),
            )  # fmt: skip
            named.add(kind)
        left.set(xlabel=LABELS["S"], ylabel="Learning rate", ylim=(0, None))
        right.set(xlabel="Learning rate summed over steps", ylabel=LABELS["L"])
        legend_above(right, ncols=max(len(named), 1), handletextpad=0.1, columnspacing=0.8)
        left.set_title(f"$N = {latex(float(N))}$", loc="right", fontsize=7, pad=3)
    return figure


def _kind(run: dict[Any, Any]) -> str:
    """Return the name of a run's schedule; one of knots is named by their number."""
    knots = run.get("knots")
    if run["schedule"] != "knots" or not isinstance(knots, str):
        return str(run["schedule"])
    return f"knots ({len(knots.split())})"


def _rates(row: pd.Series, curve: pd.DataFrame) -> Rates:
    """Return the learning rates of a run: by its config, if it agrees with those on its curve."""
    S, lr = curve["S"].to_numpy(float), curve["lr"].to_numpy(float)
    try:
        rates = Rates.from_row(row.to_dict())
    except (ConfigError, ArithmeticError):  # a table of other runs has no config
        rates = None
    if rates is not None and np.allclose(rates.at(S), lr, rtol=1e-3, atol=1e-3 * lr.max()):
        return rates
    steps, last = np.unique(np.maximum(np.round(S[::-1]), 1.0), return_index=True)
    return Rates.from_logged(steps, lr[::-1][last], warmup=int(steps[0]) + 1)


@listed("kaplanD1", "Kaplan et al. 2020, appendix D.6", needs=("lr_peak",), spec="lr")
def best_rates(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss against the learning rate by size, and the best rate against size with eq. D.1.

    The best rate is the minimum of a parabola through the three lowest points in log rate (means
    over seeds); a size whose lowest point is at an edge has none. Diamonds are these minima, to
    which the power law is fitted. Their bars are the rates around the best one whose loss is within
    one standard error (over the test contexts; 0.5 % if unknown) of the least. If sizes have
    several horizons, the longest that all of them share is used.
    """
    runs = usable(runs)
    counts = runs.groupby("D")["N"].nunique()
    D = counts[counts == counts.max()].index.max()
    runs = runs[runs["D"] == D]
    table = runs.groupby(["N", "lr_peak"], as_index=False)["L"].mean()
    stderr = runs["L_stderr"] if "L_stderr" in runs.columns else runs["L"] * np.nan
    error = stderr.groupby(runs["N"]).mean().dropna()
    best = []
    for N, same in table.groupby("N"):
        vertex = _vertex(same["lr_peak"], same["L"])
        if vertex is not None:
            near = _as_good(same["lr_peak"], same["L"], error.get(N, _NEAR * same["L"].min()))
            best.append((N, *vertex, min(near[0], vertex[0]), max(near[1], vertex[0])))
    if not best:
        raise TableError(
            "no size has its least loss between two other learning rates: widen the rates."
        )
    optima = pd.DataFrame(best, columns=["N", "lr_peak", "L", "low", "high"])
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.7)
        colour = Colours(table["N"])
        for N, same in table.groupby("N"):
            left.plot(same["lr_peak"], same["L"], "o-", color=colour(N), lw=0.8, ms=2.8, mew=0)
        left.set(xscale="log", xlabel="Peak learning rate", ylabel=LABELS["L"])
        diamond = {"marker": "D", "s": 14, "edgecolors": style.INK, "lw": 0.6, "zorder": 5}
        inks = colour(optima["N"].to_numpy(float))
        left.scatter(optima["lr_peak"], optima["L"], c=inks, **diamond)
        style.count_axis(left)
        style.loss_axis(left)
        right.scatter(optima["N"], optima["lr_peak"], c=inks, **diamond)
        right.vlines(optima["N"], optima["low"], optima["high"], color=inks, lw=0.8, zorder=4)
        low, high = float(optima["N"].min()), float(optima["N"].max())
        if len(optima) >= 3:
            found = fit_law(rate_of_size, optima, objective="ls")
            row = found.interval().loc["p"]

            def curve(N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
                return (found.predict(N=N), *found.predict_interval(N=N))

            power = f"{latex(found.params['c'])}\\,N^{{{found.params['p']:.2f}}}"
            label = f"rate $= {power}$\nexponent {spread(row['low'], row['high'], '.2f')}"
            line(right, curve, low, high, label, style.FIT)
        N = np.geomspace(table["N"].min(), table["N"].max(), 61)
        rates = [peak_lr("kaplan", N=n, D=float(D), B=1.0) for n in N]
        right.plot(N, rates, color=style.GREY, lw=0.9, ls="-.", label="Kaplan et al., eq. D.1")
        right.set(xscale="log", yscale="log", xlabel=LABELS["N"], ylabel="Best learning rate")
        near = bar_key("as good" + (" within 1 s.e. of $L$" if len(error) else " within 0.5 %"))
        fitted = [band_key("95 % interval", style.FIT), beyond_key()] if len(optima) >= 3 else []
        key_above(figure, [_MINIMUM, near, *fitted])
        colour.bar(figure, (left, right))
        near_lines(right)
        make_room(right, right.legend(loc="upper right"))
        style.count_axis(right)
        style.count_axis(right, which="y")
    return figure


@listed(
    "mup", "Yang et al. 2022, Fig. 1", needs=("lr_peak", "d_model", "mup_base_width"), spec="mup"
)
def transfer(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss against the learning rate by width, in the standard parametrisation and in muP.

    The rate is that of the base width, which muP divides for wider matrices. Rings are minima of
    parabolas through the three lowest points in log rate (means over seeds). Larger batches are
    dashed. Runs of the base width, the same model in both parametrisations, are in both panels.
    """
    runs = usable(runs)
    base = runs["mup_base_width"].astype(float)
    if base.isna().all() or base.notna().all():
        raise TableError(
            "the runs do not cover both parametrisations (config model.mup_base_width)."
        )
    if "optimizer" in runs and (runs["optimizer"] != "adamw").any():
        raise TableError("muP divides the rates of optimisers other than AdamW by another power.")
    runs = runs.assign(rate=runs["lr_peak"] * (runs["d_model"] / base).fillna(1.0))
    standard, mup = runs[base.isna()], runs[base.notna()]
    same = standard[standard["d_model"].isin(base.dropna().unique())]
    batches = sorted(runs["B"].unique())
    with rc_context(style.paper()):
        figure, axes = panels(2, width, height=2.5, share=True)
        colour = Colours(runs["d_model"])
        for ax, shown, name in zip(
            axes, (standard, pd.concat([same, mup])), ("standard", "muP"), strict=True
        ):
            table = shown.groupby(["B", "d_model", "rate"], as_index=False)["L"].mean()
            for (B, d), scan in table.groupby(["B", "d_model"]):
                first = batches[0] == B
                ax.plot(
                    scan["rate"], scan["L"], ".-" if first else ".--", color=colour(d), lw=0.8,
                    ms=3, label=f"{d:.0f}" if first else None,
                )  # fmt: skip
                vertex = _vertex(scan["rate"], scan["L"])
                if vertex is not None:
                    ax.plot(*vertex, "o", mfc="none", mec=colour(d), mew=0.9, ms=6)
            ax.set(xscale="log", xlabel=f"Peak learning rate ({name})")
            style.count_axis(ax)
        axes[0].set_ylabel(LABELS["L"])
        for ax in axes:
            style.loss_axis(ax)
        axes[1].label_outer(remove_inner_ticks=False)
        grey = {"color": style.GREY, "lw": 0.8}
        ring = {"marker": "o", "mfc": "none", "mec": style.GREY, "mew": 0.9, "ms": 6, "lw": 0}
        keys = [Line2D([], [], label="minimum of a parabola (3 points)", **ring)]
        if len(batches) > 1:
            keys += [
                Line2D([], [], ls=dashes, label=f"$B = {B:.0f}$", **grey)
                for B, dashes in zip((batches[0], batches[-1]), ("-", "--"), strict=True)
            ]
        legend_above(axes[0], handles=keys, ncols=3, columnspacing=1.0)
        sizes, names = axes[1].get_legend_handles_labels()
        names = [f"$d_\\mathrm{{model}} = {names[0]}$", *names[1:]]
        legend_above(axes[1], handles=sizes, labels=names, ncols=4, columnspacing=1.0)
    return figure


def _vertex(rate: pd.Series, L: pd.Series) -> tuple[float, float] | None:
    """Fit a parabola to the three lowest points in log rate; return the best rate and its loss.

    Rates ascend. None if the lowest point is at an edge.
    """
    i = int(np.argmin(L))
    if not 0 < i < len(L) - 1:
        return None
    x, y = np.log(rate.to_numpy(float)[i - 1 : i + 2]), L.to_numpy(float)[i - 1 : i + 2]
    a, b, c = np.polyfit(x - x[1], y, 2)
    return float(np.exp(x[1] - b / (2 * a))), float(c - b * b / (4 * a))


def _as_good(rate: pd.Series, L: pd.Series, tolerance: float) -> tuple[float, float]:
    """Return the lowest and highest rate around the best of the rates whose loss, interpolated in
    log rate, is within `tolerance` of the least."""
    x, rise = np.log(rate.to_numpy(float)), L.to_numpy(float) - L.min() - tolerance
    fine = np.linspace(x[0], x[-1], 2001)
    above = np.interp(fine, x, rise) > 0
    best = np.searchsorted(fine, x[int(np.argmin(L))])
    lower, upper = np.flatnonzero(above[:best]), np.flatnonzero(above[best:])
    low = fine[lower[-1] + 1] if len(lower) else fine[0]
    high = fine[best + upper[0] - 1] if len(upper) else fine[-1]
    return float(np.exp(low)), float(np.exp(high))
