"""The figure of a suite of backtests: error against the factor of extrapolation, by rule."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures import style
from analysis.figures.panels import Width, panels
from analysis.validation.suite import Suite

_LOOKS = tuple(
    zip((style.INK, style.FIT, *style.METHODS.values(), "#56b4e9", "#e69f00"), "osD^v<>p",
        strict=True)
)  # fmt: skip
"""Colours and marks that tell rules apart, for colour-blind readers too."""
_MOST = 8
"""Rules that are drawn unless others are asked for: the best, and the baseline."""


def backtest_errors(
    suite: Suite, *, rules: Sequence[str] | None = None, width: Width | None = None
) -> Figure:
    """Error on larger runs against the factor of extrapolation, a line for each rule.

    The error is the rms of ln(measured / predicted), as the mean over the groups of tables. There
    is a panel for each axis that was extrapolated. The baseline is dashed and grey.

    rules: the rules to draw; by default the eight best of the first axis and the baseline.
    """
    summary = suite.summary()
    axes = list(dict.fromkeys(summary["axis"]))
    if rules is None:
        first = summary[summary["axis"] == axes[0]]["rule"].tolist()
        rules = list(dict.fromkeys([*first[:_MOST], suite.baseline]))
    factors = sorted(suite.rows["factor"].unique())
    looks = dict(zip(rules, itertools.cycle(_LOOKS), strict=False))
    with rc_context(style.paper()):
        figure, places = panels(len(axes), width, height=3.0)
        for ax, axis in zip(places, axes, strict=True):
            part = summary[summary["axis"] == axis].set_index("rule")
            for rule in rules:
                if rule not in part.index:
                    continue
                error = [100 * part.loc[rule].get(f"rms_{f:g}", np.nan) for f in factors]
                base = rule == suite.baseline
                colour, mark = (style.GREY, "o") if base else looks[rule]
                ax.plot(
                    factors, error, mark, ls="--" if base else "-", color=colour, lw=0.9, ms=3.5,
                    label=style.words(rule),
                )  # fmt: skip
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator(factors))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            ax.set_xlabel(f"Largest ${axis}$ predicted, over the largest fitted")
            style.loss_axis(ax)
        places[0].set_ylabel("Error on larger runs, rms of $\\ln L$ [%]")
        handles, names = places[0].get_legend_handles_labels()
        baseline = style.words(suite.baseline)
        names = [f"{name} (baseline)" if name == baseline else name for name in names]
        ncols = 2 if len(places) == 1 or width == "column" else 4
        figure.legend(handles, names, loc="outside upper center", ncols=ncols)
    return figure
