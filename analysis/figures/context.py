"""Loss on other text, and by position in the context (Kaplan et al. 2020, section 3.2.2, appendix
D.5). Both take `tests.parquet`, which the registry hands over as columns of the runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis import laws, style
from analysis.fit import fit as fit_law
from scaling.table import TableError

from .parts import LABELS, Colours, Width, latex, panels, usable
from .registry import figure as listed

POSITION = "Position in the context"


def _tested(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a run and distribution: `corpus`, L there, L_position; the run's own loss in L_own."""
    runs = usable(runs)
    rows = [
        {**run, "L_own": run["L"], **test}
        for run in runs.drop(columns=["corpus", "tests"]).to_dict("records")
        for test in runs.loc[runs["run_id"] == run["run_id"], "tests"].iloc[0]
    ]
    return pd.DataFrame(rows)


@listed("kaplan8", "Kaplan et al. 2020, Fig. 8", needs=("corpus", "tests"), spec="distributions")
def distributions(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Bits per byte on other distributions, by size, and against those on the training text.

    Left: the longest runs of every size. Right: all runs, those of one size joined in order of
    their data, so that training moves from right to left. Bits per byte, as losses a token of
    other text are not comparable.
    """
    table = _tested(runs)
    own = runs.set_index("run_id")["corpus"]
    table = table.assign(home=table["run_id"].map(own))
    base = table[table["corpus"] == table["home"]].set_index("run_id")["bits_per_byte"]
    table = table.assign(own=table["run_id"].map(base))
    names = [str(table["home"].iloc[0]), *sorted(set(table["corpus"]) - set(table["home"]))]
    if len(names) < 2:
        raise TableError("no run was measured on another corpus (config eval.others).")
    hues = dict(zip(names, [style.INK, *style.METHODS.values()] * 4, strict=False))
    with rc_context(style.paper()):
        figure, (left, right) = panels(2, width, height=2.6, share=True)
        last = table[table["D"] == table["D"].max()]
        for name in names:
            same = last[last["corpus"] == name].sort_values("N")
            left.plot(
                same["N"],
                same["bits_per_byte"],
                "o-",
                color=hues[name],
                lw=0.8,
                ms=3,
                mew=0,
                label=name,
            )
            for _, size in table[table["corpus"] == name].groupby("N"):
                size = size.sort_values("D")
                right.plot(
                    size["own"],
                    size["bits_per_byte"],
                    ".-",
                    color=hues[name],
                    lw=0.5,
                    ms=2.5,
                    alpha=0.8,
                )
        left.set(xlabel=LABELS["N"], ylabel="Loss [bits/byte]")
        right.set(xlabel=f"Loss on {names[0]} [bits/byte]")
        style.count_axis(left)
        style.loss_axis(left)
        style.loss_axis(right)
        style.loss_axis(right, which="x")
        right.invert_xaxis()
        right.label_outer(remove_inner_ticks=False)
        left.set_ylim(top=left.get_ylim()[1] * 1.25)
        left.legend(loc="upper right", ncols=2)
        style.loss_axis(left)
    return figure


@listed("kaplan20", "Kaplan et al. 2020, Figs. 20, 21", needs=("n_ctx", "tests"), spec="context")
def positions(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Loss by position in the context: by size with power laws, and for other context lengths.

    Left: the longest context, dashed E + A / T^alpha fitted to the positions from 2 on. Right: the
    largest size, a line a context length. Losses are averaged over bins of position, equally wide
    in log.
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
            ax.set(xscale="log", xlabel=POSITION)
            style.count_axis(ax)
            style.loss_axis(ax)
        right.label_outer(remove_inner_ticks=False)
        left.set_ylabel("Loss at the position [nats/token]")
        right.legend(
            title=f"context, $N = {latex(float(N))}$", title_fontsize=7, loc="upper right", ncols=2
        )
        if len(colour.sizes) <= 6:
            left.legend(title=LABELS["N"], title_fontsize=7, loc="upper right", ncols=2)
        else:
            colour.bar(figure, [left])
    return figure


def binned(L: np.ndarray, per_octave: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Positions (from 1) and losses, averaged over bins of equal width in log position."""
    T = np.arange(1, len(L) + 1, dtype=float)
    log_T = np.log2(T)
    bins = pd.DataFrame({"log_T": log_T, "L": L}).groupby(np.ceil(per_octave * log_T)).mean()
    return 2.0 ** bins["log_T"].to_numpy(), bins["L"].to_numpy()
