"""Accuracy on tasks against size, loss and number of examples in the prompt.

The figures follow Brown et al. 2020, Figs. 1.2 and 1.3. They use `tasks.parquet`, which the
registry passes in the column `tasks` of the runs.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.abilities.forms import FORMS, fit_form
from analysis.abilities.scores import (
    at_chance,
    by_task,
    is_accuracy,
    item_noise,
    of_runs,
    one_context,
)
from analysis.figures import style
from analysis.figures.panels import LABELS, Colours, Width, panels
from analysis.figures.registry import figure as listed
from analysis.figures.uncertainty import bar_key
from scaling.errors import TableError

ACCURACY = "Accuracy"
SHOTS = "Examples in the prompt"
_ACROSS = {"full": 4, "column": 2}
"""Panels side by side, by the width of the figure."""
_SHOT_NAMES = {0: "zero-shot", 1: "one-shot"}
"""Names of few numbers of examples, as in the paper."""


def _grid(count: int, width: Width | None) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels in rows; call it inside rc_context(style.paper())."""
    kind: Width = width or ("full" if count > 1 else "column")
    across = min(count, _ACROSS[kind])
    rows = math.ceil(count / across)
    wide = style.FULL if kind == "full" else style.COLUMN
    high = min(0.85 * wide / max(across, 2) + 0.25, 2.4)
    figure = Figure(figsize=(wide, rows * high))
    axes = list(figure.subplots(rows, across, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def _panel(ax: Axes, title: str, rows: pd.DataFrame, first: bool) -> None:
    """Give a panel its title, the level of guessing, and an axis from it to the scores."""
    ax.set_title(style.words(title), pad=3)
    chance = float(rows["chance"].iloc[0])
    ax.axhline(chance, color=style.GREY, lw=0.6, ls=(0, (3, 2)), zorder=0)
    y, noise = rows["value"].to_numpy(float), item_noise(rows)
    low, high = min((y - noise).min(), chance), max((y + noise).max(), chance)
    room = max(high - low, 0.06)
    ax.set_ylim(low - 0.1 * room, high + 0.1 * room)
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    if first:
        ax.set_ylabel(ACCURACY)


def _key(figure: Figure, mark: Line2D) -> None:
    """Put a legend of `mark` and of the level of guessing above all panels."""
    guessing = Line2D([], [], color=style.GREY, lw=0.6, ls=(0, (3, 2)), label="guessing")
    figure.legend(handles=[mark, guessing], loc="outside upper center", ncols=2)


def _name(task: str, rows: pd.DataFrame) -> str:
    return f"{task} (at chance)" if at_chance(rows) else task


def _without_examples(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the scores of every task without examples in the prompt."""
    found = [(task, rows) for task, shots, rows in by_task(of_runs(runs)) if not shots]
    if not found:
        raise TableError("no task has an accuracy without examples in the prompt.")
    return found


@listed("accuracy_N", needs=("tasks",), spec="abilities")
def accuracy_of_size(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Accuracy on each task against N, by number of training tokens.

    Bars on the runs with most tokens are standard errors over items; the dashed line is guessing.
    """
    found = _without_examples(runs)
    colour = Colours(pd.concat([rows["D"] for _, rows in found]))
    with rc_context(style.paper()):
        figure, axes = _grid(len(found), width)
        for k, (ax, (task, rows)) in enumerate(zip(axes, found, strict=True)):
            for D, line in rows.groupby("D"):
                mean = line.groupby("N")["value"].mean()
                ax.plot(mean.index, mean, "o-", color=colour(D), ms=2.2, mew=0, lw=0.7)
            most = rows[rows["D"] == rows["D"].max()]
            ax.errorbar(
                most["N"], most["value"], item_noise(most), fmt="none",
                ecolor=colour(rows["D"].max()), elinewidth=0.6,
            )  # fmt: skip
            _panel(ax, _name(task, rows), rows, first=k % _ACROSS[width or "full"] == 0)
            style.count_axis(ax)
        figure.supxlabel(LABELS["N"], fontsize=8)
        _key(figure, bar_key("standard error over items, most tokens"))
        colour.bar(figure, axes, label=LABELS["D"])
    return figure


@listed("accuracy_L", needs=("tasks",), spec="abilities")
def accuracy_of_loss(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Accuracy on each task against the test loss, with the fitted sigmoid.

    The sigmoid rises from the level of guessing, the dashed line. Tasks at chance have none, and a
    degenerate one is left out. Loss falls to the right.
    """
    found = _without_examples(runs)
    colour = Colours(pd.concat([rows["N"] for _, rows in found]))
    with rc_context(style.paper()):
        figure, axes = _grid(len(found), width)
        for k, (ax, (task, rows)) in enumerate(zip(axes, found, strict=True)):
            ax.scatter(rows["L"], rows["value"], s=5, c=[colour(N) for N in rows["N"]], lw=0)
            fitted = None if at_chance(rows) else fit_form(FORMS["sigmoid of L"], rows)
            if fitted is not None and not fitted.degenerate:
                L = np.geomspace(rows["L"].min(), rows["L"].max(), 101)
                ax.plot(L, fitted.predict({"L": L}), color=style.FIT, lw=0.9)
            _panel(ax, _name(task, rows), rows, first=k % _ACROSS[width or "full"] == 0)
            style.loss_axis(ax, which="x")
            ax.invert_xaxis()
        figure.supxlabel(LABELS["L"], fontsize=8)
        name = "sigmoid of $L$, where one can be fitted"
        _key(figure, Line2D([], [], color=style.FIT, lw=0.9, label=name))
        colour.bar(figure, axes)
    return figure


@listed("few_shot", "Brown et al. 2020, Fig. 1.2", needs=("tasks",), spec="abilities")
def few_shot(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Accuracy against the number of examples in the prompt, by N.

    Of each size the run with most tokens is drawn. Bars are standard errors over items.
    """
    scores = of_runs(runs)
    scores = scores[is_accuracy(scores)]
    shots = scores.groupby("task")["shots"].nunique()
    names = [task for task in dict.fromkeys(scores["task"]) if shots[task] > 1]
    if not names:
        raise TableError(
            "no task was scored at several numbers of examples (`scaling eval --shots 0,4,16`)."
        )
    colour = Colours(scores.loc[scores["task"].isin(names), "N"])
    with rc_context(style.paper()):
        figure, axes = _grid(len(names), width)
        for k, (ax, task) in enumerate(zip(axes, names, strict=True)):
            rows = _with_examples(scores[scores["task"] == task])
            for N, line in rows.groupby("N"):
                x = np.log2(1 + line["shots"].to_numpy(float))
                ax.errorbar(
                    x, line["value"], item_noise(line), fmt="o-", color=colour(N), ms=2.4, mew=0,
                    lw=0.8, elinewidth=0.5,
                )  # fmt: skip
            _panel(ax, _name(task, rows), rows, first=k % _ACROSS[width or "full"] == 0)
            marks = np.unique(rows["shots"].to_numpy(float))
            ax.xaxis.set_major_locator(FixedLocator(np.log2(1 + marks).tolist()))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{2**v - 1:.0f}"))
            ax.xaxis.set_minor_locator(NullLocator())
        figure.supxlabel(SHOTS, fontsize=8)
        _key(figure, bar_key("standard error over items"))
        colour.bar(figure, axes)
    return figure


def _with_examples(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of the runs that were asked with most examples, of each size the run with
    most tokens, ordered by number of examples."""
    asked = rows.groupby("run_id")["shots"].transform("nunique")
    rows = one_context(rows[asked == asked.max()])
    longest = rows.sort_values("D").drop_duplicates("N", keep="last")["run_id"]
    return rows[rows["run_id"].isin(longest)].sort_values(["N", "shots"])


@listed("aggregate", "Brown et al. 2020, Fig. 1.3", needs=("tasks",), spec="abilities")
def aggregate(
    runs: pd.DataFrame, curves: pd.DataFrame | None = None, *, width: Width | None = None
) -> Figure:
    """Mean accuracy over tasks against N, by number of examples in the prompt.

    Thick lines are means over the tasks that were scored at every number of examples, thin ones
    single tasks; of each size the run with most tokens.
    """
    scores = of_runs(runs)
    scores = scores[is_accuracy(scores)]
    counts = scores.groupby("task")["shots"].nunique()
    chosen = scores[scores["task"].map(counts) == counts.max()]
    parts = [_with_examples(rows) for _, rows in chosen.groupby("task", sort=False)]
    rows = pd.concat(parts)
    shots = sorted(rows["shots"].unique())
    shown = [s for s in (0, 1) if s in shots] + [s for s in shots[-1:] if s > 1]
    hues = dict(zip(shown, (style.METHODS["envelope"], style.METHODS["isoflop"], style.FIT)))  # noqa: B905
    with rc_context(style.paper()):
        figure, (ax,) = panels(1, width, height=2.6)
        for s in shown:
            part = rows[rows["shots"] == s]
            for _, line in part.groupby("task"):
                ax.plot(line["N"], line["value"], color=hues[s], lw=0.5, alpha=0.35)
            mean = part.groupby("N")["value"].mean()
            label = _SHOT_NAMES.get(int(s), f"few-shot ({s})")
            ax.plot(mean.index, mean, "o-", color=hues[s], lw=1.3, ms=3, mew=0, label=label)
        ax.plot([], [], color=style.GREY, lw=0.5, alpha=0.6, label="single tasks")
        chance = rows.drop_duplicates("task")["chance"].mean()
        ax.axhline(chance, color=style.GREY, lw=0.6, ls=(0, (3, 2)), zorder=0, label="guessing")
        count = rows["task"].nunique()
        ax.set(xlabel=LABELS["N"], ylabel=f"Mean accuracy over {count} tasks", ylim=(0, None))
        style.count_axis(ax)
        figure.legend(loc="outside upper center", ncols=3)
    return figure
