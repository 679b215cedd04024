"""Validation of fits: errors on held-out runs, and how well the data determine each parameter."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import laws
from analysis.figures import style
from analysis.figures.marks import headline
from analysis.figures.panels import Colours, Width, letters, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.shared_fits import chosen
from analysis.fitting.combination import AUTO, Combination
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.held_out import HeldOut, held_out_tests
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import Choice, choose, percent
from analysis.in_words import typeset
from analysis.latex import symbol
from analysis.laws import Law
from analysis.tables.select import usable
from scaling.errors import TableError

_DRAWS, _INTERVAL = "#c9d6df", "#8aa4b4"
"""Colours of bootstrap draws and their interval."""
_TITLES = {AUTO: f"{AUTO} (mean of laws)"}
"""Names of laws in the titles of panels; other laws keep their own."""


@listed("holdout", spec="headline")
def held_out(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    against: tuple[Law, ...] | None = None,
    choice: Choice | None = None,
    width: Width | None = None,
) -> Figure:
    """Error on larger runs that a fit has not seen, against the extrapolation factor.

    Each panel shows a law, fitted to the runs up to each cut-off in C; dots are its errors on
    larger runs. The number is the rms error, averaged over the cut-offs. The grey band marks errors
    within 1 %.

    against  The laws; the default is the first law of `choice`, the best single law, kaplan_ND and
             chinchilla.
    choice   The laws of N and D with their tests; by default chosen from the runs.
    """
    tests = _tests(usable(runs), against, choice)
    with rc_context(style.paper()):
        figure, axes = panels(len(tests), width, height=2.4, share=True)
        colour = Colours([6 * cut for test in tests.values() for cut in test.cuts])
        for ax, test in zip(axes, tests.values(), strict=True):
            for cut in test.cuts:
                off = 100 * np.expm1(-test.errors[cut])
                ax.plot(test.sizes[cut], off, "o", color=colour(6 * cut), ms=2.6, mew=0)
            ax.axhspan(-1, 1, color=style.GREY, alpha=0.2, lw=0, label="within 1 %")
            ax.axhline(0, color=style.INK, lw=0.5, zorder=1)
            ax.set_xlabel(r"$C\,/\,$largest $C$ fitted")
            style.count_axis(ax)
            ax.label_outer(remove_inner_ticks=False)
        axes[0].set_ylabel("Error of the predicted loss [%]")
        colour.bar(figure, axes, label="Fitted up to $C$ [FLOPs]", own=True)
        for ax, (name, test) in zip(axes, tests.items(), strict=True):
            title = f"{style.words(_TITLES.get(name, name))}\n{percent(test.error)} rms"
            key = [ax.legend(loc="lower left")] if ax is axes[0] else []
            make_room(ax, headline(ax, title, side="left"), *key)
    return figure


def _tests(
    runs: pd.DataFrame, against: tuple[Law, ...] | None, choice: Choice | None
) -> dict[str, HeldOut]:
    """Return the held-out tests to draw, by law. Raises TableError if nothing can be held out."""
    if against is not None:
        tests = held_out_tests({law.name: fit_law(law, runs, bootstrap=0) for law in against})
    else:
        choice = choice or choose(runs, alone=True)
        single = {name: test for name, test in choice.tests.items() if name != AUTO}
        if isinstance(choice.first, Combination):  # its law alone, not as a member with a weight
            law = choice.first.law
            single |= held_out_tests({law.name: fit_law(law, runs, bootstrap=0)})
        best = sorted(single, key=lambda name: single[name].error)[:1]  # nan if none is held out
        known = (choice.name, *best, laws.kaplan_ND.name, laws.chinchilla.name)
        tested = single | choice.tests
        tests = {name: tested[name] for name in known if name in tested}
    for name, test in tests.items():
        if not test.cuts:
            raise TableError(f"{name} could not be fitted below any cut-off.")
    return tests


@listed("profile", spec="headline")
def _parameters_of(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    choice: Choice | None = None,
    width: Width | None = None,
) -> Figure:
    """Bootstrap draws and profile likelihood of each parameter of the law that predicts best."""
    return parameters(chosen(usable(runs), choice), width=width)


def parameters(result: FitResult, *, width: Width | None = None) -> Figure:
    """Draw the bootstrap and the profile likelihood of every fitted parameter.

    Bars are bootstrap draws and the line is the profile likelihood, both over their maximum; the
    vertical line is the estimate. Below them are both 95 % intervals. If the two disagree, or an
    interval is unbounded, the data do not determine the parameter. The line ends where the profile
    was not computed further.
    """
    names = list(result.problem.free)
    intervals = result.interval()
    across = 1 if width == "column" else 3
    down = math.ceil(len(names) / across)
    with rc_context(style.paper()):
        size = (style.COLUMN if across == 1 else style.FULL, 1.5 * down)
        figure = Figure(figsize=(size[0], size[1] + 0.45))
        grid = figure.subplots(down, across, squeeze=False)
        for ax in grid.flat[len(names) :]:
            ax.set_axis_off()
        for ax, name in zip(grid.flat, names, strict=False):
            low, high = intervals.loc[name, ["low", "high"]].to_numpy(float)
            _parameter(ax, result, name, low, high)
        letters(list(grid.flat[: len(names)]))
        for ax in grid[:, 0]:
            ax.set_ylabel("Relative to its maximum")
        figure.legend(
            *grid.flat[0].get_legend_handles_labels(), loc="outside upper center",
            ncols=2 if across == 1 else 5, title=f"Parameters of {style.words(result.law.name)}",
            title_fontsize=8,
        )  # fmt: skip
    return figure


def _parameter(ax: Axes, result: FitResult, name: str, low: float, high: float) -> None:
    """Draw one parameter, with its bootstrap interval from `low` to `high`."""
    profile, value = result.profile(name), result.params[name]
    ends, log = _shown([low, high, profile.low, profile.high, value])
    scale = np.exp if log else np.asarray
    limits = tuple(scale(ends))
    draws = result.samples[name].to_numpy(float)
    heights, edges = np.histogram(draws, scale(np.linspace(ends[0], ends[1], 41)))
    if heights.any():
        ax.stairs(heights / heights.max(), edges, fill=True, color=_DRAWS, label="bootstrap draws")
    x = scale(np.linspace(ends[0], ends[1], 301))
    x = x[(x >= profile.value[0]) & (x <= profile.value[-1])]
    rise = np.interp(x, profile.value, profile.drop)
    ax.plot(x, np.exp(-0.5 * rise**2), color=style.FIT, lw=0.9, label="profile likelihood")
    ax.axvline(value, color=style.INK, lw=0.6, label="estimate")
    bar = {"lw": 2.5, "solid_capstyle": "butt"}
    ax.plot([low, high], [-0.08, -0.08], color=_INTERVAL, label="95 % of the bootstrap", **bar)
    inside = np.clip([profile.low, profile.high], *limits)
    ax.plot(inside, [-0.17, -0.17], color=style.FIT, label="95 % by the profile", **bar)
    ax.set(xlim=limits, ylim=(-0.23, 1.05), xlabel=f"${symbol(name)}$")
    ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    if log:
        style.count_axis(ax)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: typeset(f"{v:.4g}")))


def _shown(values: list[float]) -> tuple[np.ndarray, bool]:
    """Return the ends of an axis that shows the finite values, and whether it is logarithmic.

    The ends of a logarithmic axis are logarithms.
    """
    known = np.array(values)[np.isfinite(values)]
    log = bool((known > 0).all() and known.max() > 5 * known.min())
    ends = np.log(known) if log else known
    span = ends.max() - ends.min()
    low, high = ends.min() - 0.35 * span, ends.max() + 0.35 * span
    if not log and ends.min() >= 0:  # nothing is negative, as a floor of the loss is not
        low = max(low, -0.03 * span)
    return np.array([low, high]), log
