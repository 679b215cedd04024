"""Too little data: overfitting and early stopping (Kaplan et al. 2020, sections 4.2 and 5.3)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis import laws
from analysis.data_limits import early_stop_of_gap, infinite_limit, relative_excess
from analysis.figures import style
from analysis.figures.formula import formula, latex
from analysis.figures.marks import BEYOND, dots, fitted, headline, limits, show_all, span
from analysis.figures.panels import LABELS, Colours, Width, key_above, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.uncertainty import band, band_key, bar_key, beyond_key, test_bars
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.result import FitResult
from analysis.tables.select import joined, longest, needed, of_steps, usable
from scaling.errors import TableError

UNIQUE = "Distinct tokens $D$"


def early_stopped(runs: pd.DataFrame, curves: pd.DataFrame | None) -> pd.DataFrame:
    """Return `runs` as Kaplan et al. use them for L(N, D).

    D is the number of distinct tokens, L the least test loss along the run, and S_stop the step of
    that loss (the last step if the loss still fell).
    """
    runs = usable(runs)
    if curves is None:
        return runs.assign(D=runs["D_unique"], S_stop=runs["S"])
    best = curves.loc[curves.groupby("run_id")["L"].idxmin()].set_index("run_id")
    known = runs[runs["run_id"].isin(best.index)]
    at = best.loc[known["run_id"]]
    return known.assign(D=known["D_unique"], L=at["L"].to_numpy(), S_stop=at["S"].to_numpy())


@listed("kaplan9", "Kaplan et al. 2020, Fig. 9", needs=("D_unique", "curves"), spec="data")
def overfitting(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    law: FitResult | None = None,
    width: Width | None = None,
) -> Figure:
    """Early-stopped loss against data by size, and the share of it that is overfitting.

    Right: L / L(N, infinity) - 1 against N^(alpha_N / alpha_D) / D, where all sizes fall on one
    line if the law holds (eqs. 4.2 and 4.3); L(N, infinity) is that of the law. Bars are 95 %
    intervals over the test contexts, bands those of the law.

    law  A fit of kaplan_ND; the default is fitted to the early-stopped runs.
    """
    stopped = early_stopped(runs, curves)
    law = law or fit_law(laws.kaplan_ND, stopped)
    exponent = law.params["alpha_N"] / law.params["alpha_D"]
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.7)
        colour = Colours(stopped["N"])
        dots(left, stopped, "D", colour)
        N = stopped["N"].to_numpy(float)
        bars = test_bars(left, stopped, "D", colour(N))
        for N in colour.sizes:
            trained = stopped.loc[stopped["N"] == N, "D"]
            D = span(trained, beyond=BEYOND)
            band(left, D, law.predict_interval(N=N, D=D), colour(N))
            fitted(left, D, law.predict(N=N, D=D), trained.max(), colour(N))
        limits(left, stopped["D"].to_numpy(float), stopped["L"].to_numpy(float), above=0.12)
        show_all(left)
        left.set(xlabel=UNIQUE, ylabel=LABELS["L"])
        key_above(figure, [*[bar_key()] * bars, band_key(), beyond_key()])
        N = stopped["N"].to_numpy(float)
        x = N**exponent / stopped["D"].to_numpy(float)
        limit = infinite_limit(law, N=N)
        right.scatter(x, stopped["L"].to_numpy(float) / limit - 1, c=colour(N), s=12, lw=0)
        test_bars(right, stopped, x, colour(N), unit=limit, above=1.0)
        grid = span(x)
        band(right, grid, _excess_interval(law, grid, float(np.exp(np.log(N).mean()))), style.FIT)
        right.plot(
            grid, relative_excess(law, ratio=grid), color=style.FIT,
            label=r"$(1 + D_c N^a / (N_c^a D))^{\alpha_D} - 1$",
        )  # fmt: skip
        right.axhline(0, color=style.GREY, lw=0.5, ls=":")
        right.set(
            xlabel=f"$N^a / D$, $a = \\alpha_N/\\alpha_D = {exponent:.2f}$",
            ylabel=r"Overfitting $L / L(N, \infty) - 1$",
        )
        colour.bar(figure, (left, right))
        make_room(left, headline(left, formula(law)))
        make_room(right, right.legend(loc="upper left"))
        for ax in (left, right):
            style.count_axis(ax)
        style.loss_axis(left)
    return figure


def _excess_interval(
    law: FitResult, ratio: np.ndarray, N: float, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return (low, high) of L(N, D) / L(N, infinity) - 1 over the draws of a fit, at one size.

    ratio  N^(alpha_N / alpha_D) / D with the estimated exponents; it stands for D.
    """
    D = N ** (law.params["alpha_N"] / law.params["alpha_D"]) / ratio
    draws = {name: law.samples[[name]].to_numpy(float) for name in law.samples.columns}
    if not len(law.samples):
        return np.full_like(ratio, np.nan), np.full_like(ratio, np.nan)
    with np.errstate(all="ignore"):  # a draw may lie far out
        a = draws["alpha_N"] / draws["alpha_D"]
        excess = (1 + draws["D_c"] * (N / draws["N_c"]) ** a / D) ** draws["alpha_D"] - 1
    low, high = np.nanquantile(excess, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


@listed("kaplan16", "Kaplan et al. 2020, Fig. 16", needs=("D_unique", "S", "curves"), spec="data")
def early_stopping(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """The step of least test loss against its lower bound, and train and test loss by data size.

    Left: runs whose test loss turned, against S_c / (L(N, D) - L(N, infinity))^(1 / alpha_S) of eq.
    5.7, with L(N, S) fitted to the runs that never saw a token twice. Right: the size with the most
    overfitted runs; train loss is dashed.
    """
    points = needed(runs if curves is None else curves)
    runs = usable(runs)
    stopped = early_stopped(runs, points)
    points = joined(points, runs, "D_unique")
    # A run that stopped early records the step of its least loss, so its last one is on its curve.
    last = points.groupby("run_id")["S"].max()
    turned = stopped[stopped["S_stop"] < 0.98 * stopped["run_id"].map(last)]
    fresh = runs.loc[runs["D_unique"] >= 0.99 * runs["D"], "run_id"]
    if turned.empty:
        raise TableError(
            "no run's test loss turned before its end, so none shows where to stop: train several "
            "epochs on a small data.unique_tokens."
        )
    if not len(fresh):
        raise TableError("every run repeats its data; L(N, S) takes runs of one epoch at most.")
    steps = of_steps(longest(points[points["run_id"].isin(fresh)]))
    law = fit_law(laws.kaplan_NS, steps, bootstrap=0)
    limit = infinite_limit(law, N=turned["N"])
    gap = turned["L"] - limit
    above = turned["L"] > limit * (1 + 1e-6)
    bounded = turned[above].assign(bound=early_stop_of_gap(law, gap[above]))
    N = turned["N"].value_counts().idxmax()
    shown = points[points["N"] == N]
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.5)
        colour = Colours(points["D_unique"])
        inks = colour(bounded["D_unique"].to_numpy(float))
        left.scatter(bounded["bound"], bounded["S_stop"], c=inks, s=12, lw=0)
        both = (bounded["bound"], turned["S_stop"])
        ends = np.array([min(x.min() for x in both), max(x.max() for x in both)])
        left.plot(ends, ends, color=style.FIT, lw=0.8, label="lower bound, eq. 5.7")
        left.set(
            xlabel=r"$S_c\,(L(N, D) - L(N, \infty))^{-1/\alpha_S}$",
            ylabel="Step of least test loss",
        )
        left.set(xscale="log", yscale="log")
        for _, run in shown.sort_values("S").groupby("run_id"):
            hue = colour(float(run["D_unique"].iloc[0]))
            right.plot(run["S"], run["L"], color=hue, lw=0.9)
            right.plot(run["S"], run["L_train"], color=hue, lw=0.7, ls=(0, (3, 2)))
        right.set(xlabel=LABELS["S"], ylabel="Loss [nats/token]", xscale="log", yscale="log")
        right.plot([], [], color=style.INK, lw=0.9, label="test")
        right.plot([], [], color=style.INK, lw=0.7, ls=(0, (3, 2)), label="train")
        title = f"$N = {latex(float(N))}$"
        colour.bar(figure, (left, right), label=UNIQUE)
        make_room(left, left.legend(loc="upper left"))
        make_room(right, right.legend(loc="lower left", title=title, title_fontsize=7))
        for axis in "xy":
            style.count_axis(left, which=axis)
        style.count_axis(right)
        style.loss_axis(right)
    return figure
