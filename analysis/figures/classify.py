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
from analysis.figures.panels import LABELS, Width, panels
from analysis.figures.registry import figure as listed
from analysis.figures.uncertainty import bar_key
from analysis.transfer.classifiers import best_classifiers

_ARMS = {
    "scratch": ("--", style.GREY, "from scratch"),
    "pretrained": ("-", style.INK, "pre-trained"),
}
_WITH_LM = (":", style.METHODS["isoflop"], "pre-trained, with language-model loss")


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
    with rc_context(style.paper()):
        figure, axes = panels(len(tasks), width, height=2.7)
        for ax, ((labels, examples), rows) in zip(axes, tasks, strict=True):
            _panel(ax, rows)
            ax.set_title(style.words(f"{labels}, {examples:.0f} examples"), pad=3)
        axes[0].set_ylabel("Accuracy")
        keys = {k.get_label(): k for ax in axes for k in ax.get_legend_handles_labels()[0]}
        figure.legend(
            handles=[*keys.values(), bar_key("standard error")], loc="outside upper center",
            ncols=1 if width == "column" else 3,
        )  # fmt: skip
    return figure


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    for (family, arm, lm_weight), line in rows.groupby(["family", "arm", "lm_weight"]):
        dashes, ink, name = _WITH_LM if lm_weight else _ARMS[str(arm)]
        mark = "^" if family == "encoder" else "s" if lm_weight else "o"
        label = name if family != "encoder" else f"encoder, {name}"
        ax.plot(
            line["N"], line["accuracy"], mark + dashes, color=ink, lw=0.8, ms=3.2, mew=0,
            zorder=3, label=label,
        )  # fmt: skip
        ends = line["accuracy"] - line["stderr"], line["accuracy"] + line["stderr"]
        ax.vlines(line["N"], *ends, color=ink, lw=0.6, zorder=2)
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
