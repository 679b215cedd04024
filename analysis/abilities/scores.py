"""The scores of runs on tasks, joined with the runs: one row per run, task and number of shots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.tables.load import load
from analysis.tables.rows import used_rows
from scaling.abilities import table as stored
from scaling.abilities.names import EXACT
from scaling.errors import TableError

_OF_RUNS = ("run_id", "N", "D", "L", "n_ctx", "seed")
"""Columns that the scores take from the runs, as far as these have them."""
_ALWAYS = {"run_id", "N", "D", "L"}


def has_scores(results: Path | str) -> bool:
    """Return whether a results folder holds scores of tasks."""
    return (Path(results) / stored.FILE).is_file()


def load_scores(results: Path | str, *, where: str | None = None) -> pd.DataFrame:
    """Return the main metric of every task of a results folder, with N, D, C and L of the run.

    where  A condition that selects runs, as for `load`.

    Raises TableError if the folder has no scores, or none of its finished runs.
    """
    folder = Path(results)
    found = stored.read(folder) if folder.is_dir() else pd.DataFrame()
    if found.empty:
        raise TableError(
            f"{folder} has no scores of tasks ({stored.FILE}); "
            f"`scaling eval {folder} --tasks agree,swap` makes them for runs that kept their "
            "weights."
        )
    return join(found, load(folder, where=where))


def join(scores: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Join rows of tasks.parquet with finished runs by run_id, and keep the main metric of each
    task, fixed in advance (:data:`scaling.abilities.names.MAIN`).

    If a task has several versions, that of the most runs counts. Raises TableError if no run with a
    score is left.
    """
    runs = used_rows(runs)
    if lacking := sorted(_ALWAYS - set(runs.columns)):
        raise TableError(f"scores of tasks need runs with {', '.join(lacking)}.")
    columns = [name for name in _OF_RUNS if name in runs.columns]
    main = scores[scores["main"].astype(bool)]
    both = main.merge(runs[columns].drop_duplicates("run_id"), on="run_id", how="inner")
    if both.empty:
        raise TableError(
            f"none of the {scores['run_id'].nunique()} runs with scores is among the "
            f"{len(runs)} finished runs; evaluate these with `scaling eval`."
        )
    both = both.astype({"N": float, "D": float, "L": float})
    both["C"] = 6.0 * both["N"] * both["D"]
    counts = both.groupby(["task", "shots", "version"])["run_id"].transform("nunique")
    most = counts.groupby([both["task"], both["shots"]]).transform("max")
    both = both[counts == most].drop_duplicates(["run_id", "task", "shots"])
    return both.sort_values(["task", "shots", "C"], kind="stable").reset_index(drop=True)


def of_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of runs whose column `tasks` holds their rows of tasks.parquet."""
    rows = [row for each in runs["tasks"] for row in each]
    return join(pd.DataFrame(rows), runs.drop(columns=["tasks"]))


def is_accuracy(scores: pd.DataFrame) -> pd.Series:
    """Return which rows are accuracies; others are losses, such as that of repeated text."""
    metric = scores["metric"].astype(str)
    return metric.str.startswith("accuracy") | (metric == EXACT)


def by_task(scores: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Yield (task, shots, rows) of every task with an accuracy: the rows of one context length,
    that of the most runs."""
    accuracies = scores[is_accuracy(scores)]
    for (task, shots), rows in accuracies.groupby(["task", "shots"], sort=False):  # pyright: ignore[reportGeneralTypeIssues]
        yield str(task), int(shots), one_context(rows).reset_index(drop=True)


def one_context(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the most common context length: loss and scores depend on it."""
    if "n_ctx" not in rows.columns or rows["n_ctx"].isna().all():
        return rows
    counts = rows["n_ctx"].value_counts()
    most = counts[counts == counts.max()].index.max()
    return rows[rows["n_ctx"] == most]


def item_noise(rows: pd.DataFrame) -> np.ndarray:
    """Return the standard error of each score over items, at least that of one item right or wrong
    by chance."""
    n = rows["n"].to_numpy(float)
    chance = rows["chance"].to_numpy(float)
    p = np.clip(rows["value"].to_numpy(float), 0.5 / n, 1 - 0.5 / n)
    guessing = np.where((chance > 0) & (chance < 1), chance * (1 - chance), 0.0)
    least = np.sqrt(np.minimum(guessing, p * (1 - p)) / n)
    stderr = np.nan_to_num(rows["stderr"].to_numpy(float))
    return np.maximum(np.maximum(stderr, least), 0.5 / n)


def seed_noise(rows: pd.DataFrame) -> float:
    """Return the standard deviation of scores among runs that differ in the seed only; 0 if no two
    do."""
    groups = rows.groupby(["N", "D"])["value"]
    freedom = (groups.count() - 1).clip(lower=0)
    if not freedom.sum():
        return 0.0
    return float(np.sqrt((groups.var(ddof=1).fillna(0) * freedom).sum() / freedom.sum()))


def at_chance(rows: pd.DataFrame) -> bool:
    """Return whether the 95 % intervals of the better runs hold the level of guessing.

    Those are the third of the runs with the lowest loss, by their median. The three best runs of
    all may still be above it: such a task has just begun to rise.
    """
    better = rows.sort_values("L", kind="stable").head(max(3, len(rows) // 3))
    z = ((better["value"] - better["chance"]) / item_noise(better)).to_numpy(float)
    return bool(abs(np.median(z)) <= 1.96 and not (z[:3] > 1.96).all())


def title(task: Any, shots: int) -> str:
    """Return the name of a task at a number of shots."""
    return f"{task}, {shots} shots" if shots > 1 else f"{task}, 1 shot" if shots else str(task)
