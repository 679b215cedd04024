"""The figure of a suite of backtests: error against the factor of extrapolation, by rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures import style
from analysis.figures.panels import Width, panels
from analysis.validation.suite import Suite

_MOST = 8
"""Rules that are drawn unless others are asked for: the best, and the baseline."""


def backtest_errors(
    suite: Suite, *, rules: Sequence[str] | None = None, width: Width | None = None
) -> Figure:
    """Error on larger runs against the factor of extrapolation, a line for each rule.

    The error is the rms of ln(measured / predicted), as the mean over the groups of tables. There
    is a panel for each axis that was extrapolated. The baseline is dashed.

    rules: the rules to draw; by default the eight best of the first axis and the baseline.
    """
    summary = suite.summary()
    axes = list(dict.fromkeys(summary["axis"]))
    if rules is None:
        first = summary[summary["axis"] == axes[0]]["rule"].tolist()
        rules = list(dict.fromkeys([*first[:_MOST], suite.baseline]))
    factors = sorted(suite.rows["factor"].unique())
    colours = dict(zip(rules, colormaps["viridis"](np.linspace(0, 0.9, len(rules))), strict=True))
    with rc_context(style.paper()):
        figure, places = panels(len(axes), width, height=2.6)
        for ax, axis in zip(places, axes, strict=True):
            part = summary[summary["axis"] == axis].set_index("rule")
            for rule in rules:
                if rule not in part.index:
                    continue
                error = [100 * part.loc[rule].get(f"rms_{f:g}", np.nan) for f in factors]
                base = rule == suite.baseline
                ax.plot(
                    factors, error, "--o" if base else "-o", color=colours[rule],
                    lw=0.9, label=style.words(rule),
                )  # fmt: skip
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator(factors))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            ax.set_xlabel(f"Largest ${axis}$ over the largest fitted")
            style.loss_axis(ax)
        places[0].set_ylabel("Error on larger runs, rms of $\\ln L$ [%]")
        places[0].legend()
    return figure
