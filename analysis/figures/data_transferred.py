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
from analysis.figures.uncertainty import bar_key
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
    are left out; an arrow marks an interval that is open above.
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
        left.set_yscale("log")
        style.loss_axis(left)
        left.legend()
        for N, each in found.cells.groupby("N"):
            _points(right, each, colour(N))
            if found.law is not None:
                D = np.geomspace(each["D_F"].min(), each["D_F"].max(), 50)
                law = found.law
                right.plot(D, law.k * D**law.alpha * float(N) ** law.beta, color=colour(N), lw=0.8)
        right.set_yscale("log")
        right.set_ylabel(D_T)
        style.count_axis(right, which="y")
        keys = [bar_key("interval of one size and $D_F$")]
        if found.law is not None:
            power = f"D_F^{{{found.law.alpha:.2f}}}\\,N^{{{found.law.beta:.2f}}}"
            label = f"$D_T = {latex(found.law.k)}\\,{power}$"
            keys = [Line2D([], [], color=style.GREY, lw=0.8, label=label), *keys]
        make_room(right, right.legend(handles=keys, loc="upper left"))
        style.count_axis(right, which="y")
        for ax in (left, right):
            ax.set_xlabel(D_F)
            style.count_axis(ax)
        left.set_ylabel(LABELS["L"])
        colour.bar(figure, [left, right], own=True)
    return figure


def _points(ax: object, cells: pd.DataFrame, colour: object) -> None:
    known = cells[cells["D_T"] > 0]
    low = (known["D_T"] - known["D_T_low"].clip(lower=0)).clip(lower=0)
    open_above = np.isinf(known["D_T_high"])
    high = (known["D_T_high"].where(~open_above, known["D_T"]) - known["D_T"]).clip(lower=0)
    ax.errorbar(  # type: ignore[attr-defined]
        known["D_F"], known["D_T"], [low, high], fmt="o", color=colour, ms=2.6, mew=0,
        elinewidth=0.6, lolims=open_above,
    )  # fmt: skip
