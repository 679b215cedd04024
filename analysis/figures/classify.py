"""Accuracy of classifiers: from trained weights and from scratch, by size and by the loss of
pre-training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.figures import style
from analysis.figures.panels import LABELS, Colours, Width, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.transfer.classifiers import best_classifiers

_ARMS = {"scratch": ("--", "from scratch"), "pretrained": ("-", "pre-trained")}
_WITH_LM = (":", "pre-trained, with language-model loss")


@listed(
    "classification", "Radford et al. 2018, Table 5",
    needs=("accuracy", "labels", "init_run"), spec="classify",
)  # fmt: skip
def classification(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Accuracy of classifiers against N and the loss of pre-training, with those from scratch.

    One panel per set of labels. Every point is the mean over seeds at the best learning rate, and
    its bar the standard error of seeds or of the test excerpts, whichever is larger. The dotted
    grey line is guessing. Triangles are encoders. The upper axis has the losses of the decoders if
    both kinds are there, because those of encoders are of masked tokens.
    """
    found = best_classifiers(runs)
    tasks = list(found.groupby(["labels", "examples"]))
    colour = Colours(found["N"])
    with rc_context(style.paper()):
        figure, axes = panels(len(tasks), width)
        for ax, ((labels, examples), rows) in zip(axes, tasks, strict=True):
            _panel(ax, rows, colour)
            ax.set_title(style.words(f"{labels}, {examples:.0f} examples"), pad=3)
        axes[0].set_ylabel("Accuracy")
        make_room(axes[0], axes[0].legend(loc="upper left", ncols=2, columnspacing=1.0))
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, colour: Colours) -> None:
    for (family, arm, lm_weight), line in rows.groupby(["family", "arm", "lm_weight"]):
        dashes, name = _WITH_LM if lm_weight else _ARMS[str(arm)]
        mark = "^" if family == "encoder" else "o"
        ink = style.INK if arm == "pretrained" else style.GREY
        ax.plot(line["N"], line["accuracy"], dashes, color=ink, lw=0.8, zorder=2)
        label = name if family != "encoder" else f"encoder, {name}"
        ax.plot([], [], mark + dashes, color=ink, lw=0.8, ms=2.6, mew=0, label=label)
        for _, row in line.iterrows():
            ax.errorbar(
                row["N"], row["accuracy"], row["stderr"], fmt=mark, color=colour(row["N"]), ms=3,
                mew=0, elinewidth=0.6, zorder=3,
            )  # fmt: skip
    ax.axhline(
        1 / rows["classes"].iloc[0], color=style.GREY, lw=0.6, ls=":", zorder=0, label="guessing"
    )
    style.count_axis(ax)
    ax.set_xlabel(LABELS["N"])
    pretrained = rows[(rows["arm"] == "pretrained") & (rows["lm_weight"] == 0)]
    decoders = pretrained[pretrained["family"] != "encoder"]  # losses of the two do not compare
    whose = "of pre-training" if len(decoders) == len(pretrained) else "of pre-trained decoders"
    if decoders.empty:
        decoders, whose = pretrained, "of pre-training"
    ticks = decoders.groupby("N")["L_pretrain"].mean().dropna()
    if np.isfinite(ticks).any():
        above = ax.secondary_xaxis("top")
        above.set_xticks(list(ticks.index), [f"{L:.2f}" for L in ticks])
        above.xaxis.set_minor_locator(NullLocator())
        above.set_xlabel(f"Loss {whose} [nats/token]")
