"""Collapse of learning curves (Qiu et al. 2025)."""

from __future__ import annotations

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.curves.collapse import collapse as collapse_of
from analysis.curves.collapse_result import LADDER, Collapse
from analysis.figures import style
from analysis.figures.marks import headline
from analysis.figures.panels import Colours, Width, panels
from analysis.figures.registry import figure as listed


@listed("collapse", "Qiu et al. 2025, Fig. 1", needs=("curves",), spec="headline")
def collapse(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    collapsed: Collapse | None = None,
    width: Width | None = None,
) -> Figure:
    """Learning curves of a ladder of sizes, normalised, and their spread beside that of seeds.

    Left: the reducible loss relative to its final value against the fraction of the run's compute.
    Runs of other settings at the ladder's sizes and horizons are grey; those that stand out are
    dashed. Dots are evaluations. Right: the standard deviation of the curves on the left between
    sizes, and between runs that differ in their seed alone, over the mean.

    collapsed  The collapse; the default is computed from the runs.
    """
    found = collapsed or collapse_of(runs, curves)
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.3, ratios=(1.2, 1))
        ladder = found.runs[found.runs["role"] == LADDER]
        colour = Colours(ladder["N"])
        info = found.runs.set_index("run_id")
        labelled = set()
        for run_id, path in found.points.groupby("run_id", sort=False):
            row = info.loc[run_id]
            on_ladder = row["role"] == LADDER
            kind = "stands out" if row["stands_out"] else "" if on_ladder else "other settings"
            left.plot(
                path["x"], path["value"], marker="." if on_ladder else "", ms=4, mew=0,
                lw=0.9 if on_ladder else 0.5,
                ls=(0, (3, 1.5)) if row["stands_out"] else "-",
                color=colour(row["N"]) if on_ladder else style.FIT if kind == "stands out"
                else style.GREY,
                label=kind if kind and kind not in labelled else None,
                zorder=3 if on_ladder else 2,
            )  # fmt: skip
            labelled.add(kind)
        high = found.points["value"].max() - 1
        outlying = found.points["run_id"].isin(found.outliers["run_id"])
        top = 1 + min(high, 1.5 * (found.points.loc[~outlying, "value"].max() - 1))
        left.set(ylim=(1 - 0.03 * (top - 1), top + 0.12 * (top - 1)))
        left.set_ylabel(r"$(L - L_0)\,/\,(L_\mathrm{final} - L_0)$")
        headline(left, f"floor $L_0 = {found.floor:.2f}$ nats/token")
        if labelled - {""}:
            left.legend(loc="lower left")
        right.plot(
            found.spread.index, 100 * found.spread, ".-", color=style.INK, label="between sizes"
        )
        if found.noise is not None:
            right.plot(
                found.noise.index, 100 * found.noise, ".--", color=style.METHODS["envelope"],
                label="between seeds",
            )  # fmt: skip
        right.set(ylabel="Standard deviation over the mean [%]", ylim=(0, None))
        for ax in (left, right):
            ax.set(xlabel="Fraction of compute", xlim=(0, 1.02), xticks=[0, 0.25, 0.5, 0.75, 1])
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        right.legend(loc="best")
        colour.bar(figure, (left, right))
    return figure
