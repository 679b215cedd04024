"""Proportions of the model, and other families (Kaplan et al. 2020, section 3)."""

from __future__ import annotations

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis import laws
from analysis.figures import style
from analysis.figures.marks import law_line, limits, show_all
from analysis.figures.panels import LABELS, Colours, Width, key_above, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.figures.uncertainty import band_key, bar_key, beyond_key, outline_key, test_bars
from analysis.fitting.fit import fit as fit_law
from analysis.tables.select import lower_edge, sizes, usable
from scaling.errors import TableError

_RATIOS = (
    ("feed_forward", "Feed-forward ratio $d_\\mathrm{ff} / d_\\mathrm{model}$"),
    ("aspect", "Aspect ratio $d_\\mathrm{model} / n_\\mathrm{layer}$"),
    ("heads", "Head width $d_\\mathrm{model} / n_\\mathrm{head}$"),
)
"""Tags of the spec `shape` and the ratio that each varies."""
FAMILIES = {"decoder": "Transformer", "lstm": "LSTM"}
"""Names of model families in legends; other families keep their own name."""


@listed(
    "kaplan5", "Kaplan et al. 2020, Fig. 5",
    needs=("n_layer", "d_model", "n_head", "d_ff", "tag"), spec="shape",
)  # fmt: skip
def proportions(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss over the best at the same size: feed-forward ratio, aspect ratio, head width.

    It uses the runs tagged feed_forward, aspect and heads. Dots are means over seeds; bars reach
    from the least to the greatest loss.
    """
    runs = usable(runs)
    d_ff = runs["d_ff"].fillna(4 * runs["d_model"])
    values = {
        "feed_forward": d_ff / runs["d_model"],
        "aspect": runs["d_model"] / runs["n_layer"],
        "heads": runs["d_model"] / runs["n_head"],
    }
    runs = runs.assign(size=sizes(runs["N"]), **values)
    present = [(tag, label) for tag, label in _RATIOS if (runs["tag"] == tag).any()]
    if not present:
        raise TableError("no run is tagged feed_forward, aspect or heads.")
    with rc_context(style.paper()):
        figure, axes = panels(len(present), width, height=2.3, share=True)
        colour = Colours(runs["size"])
        for ax, (tag, label) in zip(axes, present, strict=True):
            for size, same in runs[runs["tag"] == tag].groupby("size"):
                loss = same.groupby(tag)["L"].agg(["mean", "min", "max"])
                rise = 100 * (loss / loss["mean"].min() - 1)
                error = (rise["mean"] - rise["min"], rise["max"] - rise["mean"])
                ax.errorbar(
                    rise.index, rise["mean"], error, fmt="o-", color=colour(size), ms=3, lw=0.8,
                    elinewidth=0.6,
                )  # fmt: skip
            ax.axhline(0, color=style.GREY, lw=0.5, ls=":")
            ax.set(xscale="log", xlabel=label)
            ax.xaxis.set_major_locator(LogLocator(2, numticks=7))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.label_outer(remove_inner_ticks=False)
        axes[0].set_ylabel("Loss over the best [%]")
        if (runs.groupby(["tag", "size", *values])["L"].size() > 1).any():
            key_above(figure, [bar_key("from the least to the greatest loss of the seeds")])
        colour.bar(figure, axes, own=True)
    return figure


@listed("kaplan7", "Kaplan et al. 2020, Fig. 7", needs=("family", "n_layer"), spec="lstm")
def families(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss against size for transformers and LSTMs, with a law of each.

    Symbols are depths, colours are families; dots are the best run of every shape. Laws are fitted
    to the outlined dots: the runs that no run of their family with as few parameters beats. Bars
    are 95 % intervals over the test contexts, bands those of the laws.
    """
    runs = usable(runs)
    kinds = runs["family"].fillna("decoder")
    names = sorted(kinds.unique(), key=lambda f: f != "decoder")
    if len(names) < 2:
        raise TableError(f"all runs are of one family, {names[0]!r}: there is nothing to compare.")
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.8)
        marks = dict(zip(sorted(runs["n_layer"].unique()), "osD^v<>p", strict=False))
        handles, bars = [], False
        for name, colour in zip(names, style.METHODS.values(), strict=False):
            of_family = runs[kinds == name]
            best = of_family.sort_values("L", kind="stable").drop_duplicates(["N", "n_layer"])
            edge = lower_edge(of_family, "N")
            bars |= test_bars(ax, best, "N", colour)
            legend = style.words(FAMILIES.get(name, name))
            for layers, same in best.sort_values("N").groupby("n_layer"):
                mark = marks.get(layers, "P")
                handles += ax.plot(
                    same["N"], same["L"], mark, color=colour, ms=2.8, mew=0, zorder=3.2,
                    label=f"{legend}, {layers} layer{'s' * (layers > 1)}",
                )  # fmt: skip
                fitted = same[same["run_id"].isin(edge["run_id"])] if len(edge) >= 3 else same[:0]
                ax.plot(
                    fitted["N"], fitted["L"], mark, color=colour, ms=4.5, mec=style.INK, mew=0.6,
                    zorder=3.1,
                )  # fmt: skip
            if len(edge) >= 3:
                law = fit_law(laws.kaplan_N, edge)
                law_line(ax, law, "N", colour=colour)
                handles.append(ax.lines[-1])
        key_above(figure, [outline_key(), *[bar_key()] * bars, band_key(), beyond_key()])
        limits(ax, runs["N"].to_numpy(float), runs["L"].to_numpy(float))
        ax.set(xscale="log", yscale="log", xlabel=LABELS["N"], ylabel=LABELS["L"])
        show_all(ax)
        make_room(ax, ax.legend(handles=handles, loc="upper right", ncols=2, columnspacing=1.0))
        style.count_axis(ax)
        style.loss_axis(ax)
    return figure


@listed("kaplan17", "Kaplan et al. 2020, Fig. 17", needs=("n_repeat",), spec="recurrent")
def recurrence(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss of recurrent transformers against size, counting weights once, or at every use.

    Dots are the best run of every size, with 95 % intervals over the test contexts.
    These are the same for all runs, so differences between runs are more certain than the bars.
    """
    runs = usable(runs)
    uses = runs["n_repeat"].fillna(1).astype(int)
    if uses.nunique() < 2:
        raise TableError("all runs have the same n_repeat: there is nothing to compare.")
    runs = runs.assign(uses=uses, N_used=runs["N"] * uses)
    with rc_context(style.paper()):
        figure, axes = panels(2, width, height=2.5, share=True)
        colour, bars = Colours(uses), False
        for ax, x in zip(axes, ("N", "N_used"), strict=True):
            for count, same in runs.groupby("uses"):
                best = same.sort_values("L").drop_duplicates("N").sort_values(x)
                bars |= test_bars(ax, best, x, colour(count))
                ax.plot(
                    best[x], best["L"], "o-", color=colour(count), lw=0.8, ms=3,
                    label="weights used once" if count == 1 else f"weights used {count} times",
                )  # fmt: skip
            style.count_axis(ax)
            style.loss_axis(ax)
            ax.label_outer(remove_inner_ticks=False)
        axes[0].set(xlabel="Parameters $N$, each counted once", ylabel=LABELS["L"])
        axes[1].set_xlabel("Parameters, counted at every use")
        keys = axes[0].get_legend_handles_labels()[0]
        make_room(axes[0], axes[0].legend(handles=[*keys, *[bar_key()] * bars], loc="upper right"))
        for ax in axes:
            style.loss_axis(ax)
    return figure
