"""The command `abilities`: laws of the accuracy on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling.cli.options import Json, Level, Seed, Where
from scaling.cli.output import note, show, show_json
from scaling.errors import ConfigError


def abilities(
    results: Path,
    *,
    tasks: str | None = None,
    flops: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    where: Where = None,
    level: Level = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Predict the accuracy on tasks, and say which tasks can be predicted.

    For each task that `scaling eval` scored, forms of the accuracy are fitted to the smaller runs
    and predict the larger ones from N and D. The form with the least error on them is used.

    Example: scaling abilities results/abilities
    Example: scaling abilities results/abilities --tasks agree,swap --params 1e7 --tokens 1e8

    Args:
        results: A sweep's results folder with scores of tasks (tasks.parquet).
        tasks: Tasks to fit, such as agree,swap. Default: all that have an accuracy.
        flops: Predict for the best run of this compute, in FLOPs. Default: ten times the compute of
            the largest run.
        params: Predict for a run of this number of parameters N; requires --tokens.
        tokens: Number of training tokens D of that run.
    """
    from analysis.abilities.scores import load_scores
    from analysis.abilities.tasks import table, task_laws

    if (params is None) != (tokens is None):
        raise ConfigError("give both --params and --tokens, or --flops.")
    if flops is not None and params is not None:
        raise ConfigError("give one run: --flops, or --params and --tokens.")
    names = None if tasks is None else [word.strip() for word in tasks.split(",") if word.strip()]
    if names == []:
        raise ConfigError(f"--tasks {tasks!r} names no task.")
    scores = load_scores(results, where=where)
    found = task_laws(scores, tasks=names, seed=seed)
    if params is not None and tokens is not None:
        run: tuple[float, float] | None = (params, tokens)
        about = ""
    else:
        run, about = _planned(results, scores, flops, where, seed)
    prediction = None if run is None else found.predict(*run, level)
    if json:
        predicted = None if prediction is None else prediction.record()
        show_json({"tasks": found.record(), "other": found.other, "prediction": predicted})
        return
    show(table(found, prediction))
    if prediction is not None:
        show(prediction.heading + about)


def _planned(
    results: Path, scores: Any, flops: float | None, where: str | None, seed: int
) -> tuple[tuple[float, float] | None, str]:
    """Return N and D of the best run of a compute, with words that say so; None, after a note, if
    the runs give no plan and no compute was asked for."""
    from analysis import load, plans
    from analysis.abilities.outlook import run_of
    from analysis.fitting.checks import FitError
    from analysis.fitting.reference import NEXT
    from analysis.frontiers.choice import choose
    from analysis.tables.rows import used_rows
    from scaling.errors import TableError

    C = NEXT * float(scores["C"].max()) if flops is None else flops
    try:
        choice = choose(used_rows(load(results, where=where)), alone=True, seed=seed)
        run = run_of(plans(choice, C=C))
    except (FitError, TableError) as error:
        if flops is not None:
            raise
        note(f"no prediction: {error}")
        return None, ""
    words = f", {NEXT:g} times the largest run" if flops is None else ""
    return run, f": the best run of {C:.3g} FLOPs{words}"
