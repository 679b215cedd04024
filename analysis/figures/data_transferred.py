"""What pre-training is worth: losses of both arms, and effective data transferred."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.formula import latex
from analysis.figures.panels import LABELS, Colours, Width, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.uncertainty import bar_key, in_percent, interval_bars, within_reach
from analysis.transfer.arms import arms
from analysis.transfer.effective_data import effective_data

D_F = "Tokens of the new distribution $D_F$"
D_T = "Effective data transferred $D_T$"


@listed("effective_data", "Hernandez et al. 2021, Figs. 1, 2", needs=("init_run",), spec="transfer")
def effective_data_transferred(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss from random and from trained weights, and the data that these are worth.

    Left, the mean loss of both arms against the tokens of the new distribution, at the best
    learning rate. Right, D_T with its interval and, as lines, its law. Points without a known D_T
    are left out; arrows mark intervals that reach further.
    """
    both, found = arms(runs), effective_data(runs)
    colour = Colours(both.scratch["N"])
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width)
        for rows, line, name in (
            (both.scratch, "--", "random weights"),
            (both.pretrained, "-", "trained weights"),
        ):
            for N, each in rows.groupby("N"):
                mean = each.groupby("D_F")["L"].mean()
                left.plot(mean.index, mean, f"o{line}", color=colour(N), ms=2.2, mew=0, lw=0.8)
            left.plot([], [], line, color=style.GREY, lw=0.8, label=name)
        left.set(xscale="log", yscale="log", xlabel=D_F, ylabel=LABELS["L"])
        known = found.cells[found.cells["D_T"] > 0]
        ends = known[["D_T_low", "D_T_high"]].to_numpy(float)
        inks = colour(known["N"].to_numpy(float))
        right.scatter(known["D_F"], known["D_T"], c=inks, s=7, lw=0, zorder=3)
        reach = within_reach(ends, known["D_T"])
        arrows = interval_bars(right, known["D_F"].to_numpy(float), ends, inks, reach)
        for N, each in found.cells.groupby("N"):
            if found.law is not None:
                D = np.geomspace(each["D_F"].min(), each["D_F"].max(), 50)
                law = found.law
                right.plot(D, law.k * D**law.alpha * float(N) ** law.beta, color=colour(N), lw=0.8)
        right.set(xscale="log", yscale="log", xlabel=D_F, ylabel=D_T)
        colour.bar(figure, [left, right], own=True)
        keys = [bar_key(f"{in_percent(found.level)} interval of one size and $D_F$")]
        if found.law is not None:
            power = f"D_F^{{{found.law.alpha:.2f}}}\\,N^{{{found.law.beta:.2f}}}"
            label = f"$D_T = {latex(found.law.k)}\\,{power}$"
            keys = [Line2D([], [], color=style.GREY, lw=0.8, label=label), *keys]
        make_room(right, right.legend(handles=[*keys, *arrows], loc="upper left"))
        make_room(left, left.legend(loc="upper right"))
        for ax in (left, right):
            style.count_axis(ax)
        style.loss_axis(left)
        style.count_axis(right, which="y")
    return figure
