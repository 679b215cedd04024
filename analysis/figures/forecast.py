"""Learning curves of runs that have not finished, with the forecast of their losses."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import norm

from analysis.curves.forecast import forecast
from analysis.curves.forecasts import Forecast, Forecasts
from analysis.curves.run_curve import RunCurve
from analysis.figures import style
from analysis.figures.panels import Colours, Width, key_above, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.uncertainty import band_key, in_percent
from scaling.errors import TableError

_MOST_NAMED = 8
"""Most runs that have a legend."""


@listed("forecast", needs=(), spec="headline")
def forecast_bands(
    runs: Any = None,
    curves: Any = None,
    *,
    forecasts: Forecasts | None = None,
    results: Any = None,
    width: Width | None = None,
    **selection: Any,
) -> Figure:
    """Learning curves of unfinished runs, with bands of their forecasts.

    Finished runs are pale. A run that is off its law has no band; a cross marks where it left it.

    forecasts  The result of `analysis.forecast`; the default is that of `results`.
    results    A results folder or a table of learning curves.
    selection  The arguments map, where and decimal of `analysis.forecast`.
    """
    if forecasts is None:
        kept = {name: selection[name] for name in ("map", "where", "decimal") if name in selection}
        forecasts = forecast(results, **kept)
    if forecasts.predictor is None:
        n = len(forecasts.curves.finished)
        raise TableError(f"all {n} runs have finished; there is nothing to forecast.")
    own = {run.run: run for run in forecasts.curves.runs}
    shown = [each for each in forecasts if not own[each.run].finished]
    sizes = sorted({run.N for run in forecasts.curves.runs if run.N is not None})
    by_size = Colours(np.array(sizes)) if len(sizes) > 1 else None
    line = colormaps["viridis"](np.linspace(0, 0.85, max(len(shown), 1)))
    with rc_context(style.paper()):
        figure, axes = panels(1, width, height=2.8)
        ax = axes[0]
        for run in forecasts.curves.finished:
            ax.plot(run.step[run.used], run.loss[run.used], color="0.8", lw=0.6, zorder=1)
        for each, colour in zip(shown, line, strict=True):
            _draw(ax, forecasts, each, own[each.run], by_size(each.N) if by_size else colour)
        ax.set(xscale="log", yscale="log", xlabel="Step", ylabel="Loss [nats/token]")
        key_above(figure, _keys(forecasts, shown))
        if by_size:
            by_size.bar(figure, axes)
        elif len(shown) <= _MOST_NAMED:
            make_room(ax, ax.legend(loc="upper right", handlelength=1.4))
        style.count_axis(ax)
        style.loss_axis(ax)
    return figure


def _keys(forecasts: Forecasts, shown: list[Forecast]) -> list[Artist]:
    """Return the legend entries of the marks that are drawn."""
    keys: list[Artist] = []
    if forecasts.curves.finished:
        keys.append(Line2D([], [], color="0.8", lw=0.8, label="finished runs"))
    if followed := [each for each in shown if each.off_law is None]:
        dashes = Line2D([], [], color=style.GREY, lw=0.8, ls=(0, (3, 2)), marker="o", ms=2.5)
        dashes.set_label("forecast")
        keys += [dashes, band_key(f"{in_percent(followed[0].level)} interval")]
    if len(followed) < len(shown):
        cross = Line2D([], [], ls="", marker="x", color=style.INK, ms=5, label="off its law")
        keys.append(cross)
    return keys


def _draw(ax: Axes, found: Forecasts, each: Forecast, run: RunCurve, colour: Any) -> None:
    """Draw the points of a run, and the band of its forecast."""
    assert found.predictor is not None
    used = run.used
    ax.plot(run.step[used], run.loss[used], color=colour, lw=0.9, zorder=3, label=each.run)
    if each.off_law is not None:
        near = int(np.argmin(np.abs(run.step - each.off_law.step)))
        ax.plot(run.step[near], run.loss[near], "x", color=style.INK, ms=5, zorder=5)
        return
    first = max(run.done, run.warmup + 1, 1)
    later = np.unique(np.geomspace(min(first, run.end), run.end, 41).round())
    law = found.predictor.expected(run, later)
    half = float(norm.ppf((1 + each.level) / 2)) * law.sd
    mean = law.later
    ax.fill_between(
        later, np.exp(mean - half), np.exp(mean + half), color=colour, alpha=0.25, lw=0, zorder=2
    )
    ax.plot(later, np.exp(mean), color=colour, lw=0.8, ls=(0, (3, 2)), zorder=4)
    ax.plot(run.end, each.loss, "o", color=colour, ms=2.5, zorder=4)
