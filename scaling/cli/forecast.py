"""The command that forecasts runs that have not finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.cli.arguments import column_map
from scaling.cli.options import Decimal, Json, Level, Map, Seed, Where
from scaling.cli.output import note, show, show_json
from scaling.cli.tables import one_source


def forecast(
    runs: tuple[Path, ...],
    *,
    all: bool = False,
    law: str = "auto",
    lr_schedule: str | None = None,
    warmup: int | None = None,
    level: Level = 0.9,
    map: Map = (),
    where: Where = None,
    decimal: Decimal = None,
    plot: Path | None = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Forecast the final losses of runs that have not finished.

    A law of whole learning curves is fitted to the finished runs. It forecasts the runs under way,
    cut off, stopped or planned: final loss with an interval, time and FLOPs left, the probability
    to beat the best finished run, and whether a run has left the law, and at which step.

    Example: scaling forecast results/quickstart
    Example: scaling forecast curves.csv --map step=step,loss=L,lr=lr

    Args:
        runs: A results folder, also of a sweep under way; a table of learning curves with a row per
            evaluation (step, loss, learning rate); or several files, one per run.
        all: List the finished runs too.
        law: Law of the curves: multi_power, annealing or multi_power_start (see `scaling laws`).
            auto: what the schedules of the finished runs can determine.
        lr_schedule: Learning rates of the runs until their end, such as
            cosine:peak=3e-4,warmup=2000,steps=72000, if the table does not hold them; the kinds and
            settings are those of optim.schedule.
        warmup: Steps of linear warm-up from 0, for a table whose rows begin later.
        plot: File for a figure of the curves and their forecasts (.pdf, .png or .svg).
    """
    from analysis import forecast as forecast_runs

    found = forecast_runs(
        one_source(runs),
        law=law,
        level=level,
        map=column_map(map),
        schedule=lr_schedule,
        warmup=warmup,
        where=where,
        decimal=decimal,
        planned=_planned(runs),
        finished=all,
        seed=seed,
    )
    for each in found.notes:
        note(f"{found.source}: {each}.")
    if plot is not None:
        from analysis import figures

        figures.save(figures.forecast_bands(forecasts=found), plot)
    show_json(found.record()) if json else show(found)


def _planned(paths: Sequence[Path]) -> dict[str, Any]:
    """Return {run_id: config} of the runs that the specs of results folders call for."""
    from sweeps.folder_status import requested_runs

    planned: dict[str, Any] = {}
    for path in paths:
        if path.is_dir() and (path / "manifest.json").is_file():
            requested, notes = requested_runs(path)
            planned |= requested
            for each in notes:
                note(each)
    return planned
