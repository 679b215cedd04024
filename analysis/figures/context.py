"""Loss on other text, and by position in the context.

The figures follow Kaplan et al. 2020, section 3.2.2 and appendix D.5. They use `tests.parquet`,
which the registry passes in the column `tests` of the runs.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis import laws
from analysis.figures import style
from analysis.figures.formula import latex
from analysis.figures.panels import LABELS, Colours, Width, panels
from analysis.figures.registry import figure as listed
from analysis.figures.room import make_room
from analysis.fitting.fit import fit as fit_law
from analysis.tables.select import sizes, usable
from scaling.errors import TableError

POSITION = "Position in the context"
TEXTS = {
    "prose": "English prose",
    "sotu": "State of the Union addresses",
    "kjv": "King James Bible",
    "wikipedia": "Wikipedia",
    "api-docs": "documentation of web services",
    "stdlib": "Python's standard library",
}
"""Names of the bundled corpora in legends; other corpora keep their own name."""


def _tested(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and distribution: `corpus`, L, L_position, and the run's own L_own."""
    runs = usable(runs)
    rows = [
        {**run, "L_own": run["L"], **test}
        for run in runs.drop(columns=["corpus", "tests"]).to_dict("records")
        for test in runs.loc[runs["run_id"] == run["run_id"], "tests"].iloc[0]
    ]
    return pd.DataFrame(rows)


def _on_other_corpora(
    runs: pd.DataFrame,
) -> tuple[pd.DataFrame, list[str], dict[str, str]]:
    """Return `_tested` with the bits per byte on the training text in `own`.

    Also returns the corpora, that of training first, and a colour for each.
    """
    table = _tested(runs)
    home = table["run_id"].map(runs.set_index("run_id")["corpus"])
    base = table[table["corpus"] == home].set_index("run_id")["bits_per_byte"]
    table = table.assign(own=table["run_id"].map(base))
    names = [str(home.iloc[0]), *sorted(set(table["corpus"]) - set(home))]
    if len(names) < 2:
        raise TableError("no run was measured on another corpus (config eval.others).")
    hues = itertools.cycle([style.INK, *style.METHODS.values()])
    return table, names, dict(zip(names, hues, strict=False))


def _text(name: str) -> str:
    """Return the name of a corpus in a legend."""
    return style.words(TEXTS.get(name, name))


def _legend_above(figure: Figure, ax: Axes, width: Width | None, title: str = "") -> None:
    """Put the legend of `ax` above all panels."""
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside upper center", title=title or None,
        title_fontsize=7, ncols=1 if width == "column" else 3,
    )  # fmt: skip


@listed("kaplan8", "Kaplan et al. 2020, Fig. 8", needs=("corpus", "tests"), spec="distributions")
def distributions(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Bits per byte on other distributions by size, and their rise with that on the training text.

    Left: the longest runs of every size. Right: all runs, each text relative to its loss in the run
    that is best on the training text, with runs of one size joined in order of their data, so that
    training moves from right to left. Losses are in bits per byte, since losses per token are not
    comparable between texts.
    """
    table, names, hues = _on_other_corpora(runs)
    best = table.loc[table["corpus"] == names[0], ["run_id", "own"]]
    best = table[table["run_id"] == best.loc[best["own"].idxmin(), "run_id"]]
    lowest = best.set_index("corpus")["bits_per_byte"]
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.8)
        last = table[table["D"] == table["D"].max()]
        for name in names:
            same = last[last["corpus"] == name].sort_values("N")
            home = " (training text)" if name == names[0] else ""
            left.plot(
                same["N"], same["bits_per_byte"], "o-", color=hues[name], lw=0.8, ms=3, mew=0,
                label=_text(name) + home,
            )  # fmt: skip
            for _, size in table[table["corpus"] == name].groupby("N"):
                size = size.sort_values("D")
                rise = 100 * (size["bits_per_byte"] / lowest.get(name, np.nan) - 1)
                right.plot(size["own"], rise, ".-", color=hues[name], lw=0.5, ms=3, alpha=0.8)
        left.set(xlabel=LABELS["N"], ylabel="Loss [bits/byte]")
        right.set(
            xlabel=f"Loss on {_text(names[0])} [bits/byte]", ylabel="Loss over the best run's [%]"
        )
        style.count_axis(left)
        style.loss_axis(left)
        style.loss_axis(right, which="x")
        _legend_above(figure, left, width, "b: runs of one size are joined")
    return figure


@listed(
    "kaplan24", "Kaplan et al. 2020, Fig. 24", needs=("corpus", "tests", "n_layer"), spec="depth"
)
def generalization(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Bits per byte on other distributions against depth, at one size.

    It uses the longest runs of the size (N within 8 %) with the most depths. Left: losses. Right:
    their change from that of the fewest layers. Dots are means over seeds; bars reach from the
    least to the greatest loss. In the paper depth has no effect beyond the loss on the training
    distribution.
    """
    runs = usable(runs)
    runs = runs.assign(size=sizes(runs["N"]))
    depths = runs.groupby("size")["n_layer"].nunique()
    if depths.max() < 2:
        raise TableError("no two runs of one size (N within 8 %) differ in depth.")
    runs = runs[runs["size"] == depths.idxmax()]
    table, names, hues = _on_other_corpora(runs[runs["D"] == runs["D"].max()])
    with rc_context(style.paper()):
        figure, axes = panels(2, width, height=2.8)
        for name in names:
            by_depth = table[table["corpus"] == name].groupby("n_layer")["bits_per_byte"]
            losses = by_depth.agg(["mean", "min", "max"])
            change = 100 * (losses / losses["mean"].iloc[0] - 1)
            home = " (training text)" if name == names[0] else ""
            for ax, shown in zip(axes, (losses, change), strict=True):
                mean, low, high = (shown[k] for k in ("mean", "min", "max"))
                ax.errorbar(
                    mean.index, mean, (mean - low, high - mean), fmt="o-", color=hues[name], ms=3,
                    mew=0, lw=0.8, elinewidth=0.6, label=_text(name) + home,
                )  # fmt: skip
        fewest = int(runs["n_layer"].min())
        axes[0].set_ylabel("Loss [bits/byte]")
        axes[1].set_ylabel(f"Change from {fewest} layer{'s' * (fewest > 1)} [%]")
        axes[1].axhline(0, color=style.GREY, lw=0.5, ls=":")
        for ax in axes:
            ax.set(xscale="log", xlabel="Layers")
            ax.xaxis.set_major_locator(FixedLocator(sorted(runs["n_layer"].unique())))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            ax.xaxis.set_minor_locator(NullLocator())
        style.loss_axis(axes[0])
        seeds = "" if "seed" not in runs or runs["seed"].nunique() < 2 else "; bars: seeds"
        _legend_above(figure, axes[0], width, f"$N = {latex(float(runs['size'].iloc[0]))}$" + seeds)
    return figure


@listed("kaplan20", "Kaplan et al. 2020, Figs. 20, 21", needs=("n_ctx", "tests"), spec="context")
def positions(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss by position in the context: by size with power laws, and for other context lengths.

    Left: the longest context; dashed lines are E + A / T^alpha, fitted to positions from 2 on.
    Right: the largest size, with a line per context length. Losses are averaged over bins of
    position that are equally wide in log.
    """
    runs = usable(runs)
    own = [
        next((t for t in tests if t["corpus"] == corpus), None)
        for tests, corpus in zip(runs["tests"], runs["corpus"], strict=True)
    ]
    runs = runs.assign(L_position=[None if t is None else t["L_position"] for t in own])
    runs = runs[runs["L_position"].notna() & (runs["D"] >= 0.9 * runs["D"].max())]
    if runs.empty:
        raise TableError("tests.parquet has no losses by position of these runs.")
    longest = runs[runs["n_ctx"] == runs["n_ctx"].max()].sort_values("N")
    counts = runs.groupby("N")["n_ctx"].nunique()
    N = counts[counts == counts.max()].index.max()
    by_length = runs[runs["N"] == N].sort_values("n_ctx")
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.6, share=True)
        colour = Colours(longest["N"])
        for run in longest.drop_duplicates("N").itertuples():
            T, L = binned(np.asarray(run.L_position, float))
            left.plot(T, L, "o", color=colour(run.N), ms=2.6, mew=0, label=f"${latex(run.N)}$")
            table = pd.DataFrame({"T": T[T >= 2], "L": L[T >= 2]})
            if len(table) >= 5:
                law = fit_law(laws.floor("T"), table, bootstrap=0)
                grid = np.geomspace(table["T"].min(), table["T"].max(), 61)
                left.plot(grid, law.predict(T=grid), color=colour(run.N), lw=0.8, ls=(0, (3, 2)))
        lengths = Colours(runs["n_ctx"])
        for run in by_length.drop_duplicates("n_ctx").itertuples():
            T, L = binned(np.asarray(run.L_position, float))
            right.plot(T, L, "o-", color=lengths(run.n_ctx), ms=2.4, mew=0, lw=0.8, label=run.n_ctx)
        for ax in (left, right):
            ax.set(xscale="log", yscale="log", xlabel=POSITION)
        right.label_outer(remove_inner_ticks=False)
        left.set_ylabel("Loss at the position [nats/token]")
        context = f"context of {longest['n_ctx'].iloc[0]:.0f} tokens"
        left.plot(
            [], [], color=style.GREY, lw=0.8, ls=(0, (3, 2)), label=r"$E + A\,/\,T^\alpha$, $T > 1$"
        )
        title = f"context [tokens], $N = {latex(float(N))}$"
        make_room(right, right.legend(title=title, title_fontsize=7, loc="upper right", ncols=2))
        few = len(colour.sizes) <= 6
        if not few:
            colour.bar(figure, [left])
        made = left.legend(
            handles=None if few else left.lines[-1:], ncols=2 if few else 1, loc="upper right",
            title=f"{LABELS['N']}, {context}" if few else context, title_fontsize=7,
        )  # fmt: skip
        make_room(left, made)
        for ax in (left, right):
            style.count_axis(ax)
            style.loss_axis(ax)
    return figure


def binned(L: np.ndarray, per_octave: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Average losses over bins of equal width in log position; return positions (from 1) too."""
    T = np.arange(1, len(L) + 1, dtype=float)
    log_T = np.log2(T)
    bins = pd.DataFrame({"log_T": log_T, "L": L}).groupby(np.ceil(per_octave * log_T)).mean()
    return 2.0 ** bins["log_T"].to_numpy(), bins["L"].to_numpy()
