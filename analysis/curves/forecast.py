"""Forecast the final losses of runs that have not finished, by the law of the finished curves.

The law is fitted to the finished runs: of one size, or of all sizes together. A run's own curve
narrows and shifts what the law says of its end, and shows whether the run still follows the law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from analysis.curves.command_folders import are_of_commands, of_command_folders
from analysis.curves.curve_folders import of_folders
from analysis.curves.curve_tables import read_table
from analysis.curves.departure import OffLaw, departure
from analysis.curves.forecasts import Forecast, Forecasts
from analysis.curves.named_schedule import parse_schedule
from analysis.curves.predictor import Predictor, law_of, with_unfinished
from analysis.curves.run_curve import DIVERGED, RunCurve, RunCurves
from analysis.fitting.checks import check_level
from analysis.tables.several import is_results_folder
from scaling import progress
from scaling.config import RunConfig
from scaling.errors import ConfigError

_FEWEST = 2
"""Fewest points after its warm-up with which a run is tested against the law."""


def forecast(
    source: Any,
    *,
    law: str = "auto",
    level: float = 0.9,
    map: Mapping[str, str] | None = None,
    schedule: str | RunConfig | None = None,
    warmup: int | None = None,
    where: str | None = None,
    decimal: str | None = None,
    planned: Mapping[str, RunConfig] | None = None,
    finished: bool = False,
    seed: int = 0,
) -> Forecasts:
    """Forecast the final loss of every run that has not finished.

    source: a results folder, also one of a sweep under way; a table of learning curves (a row per
        evaluation, of many runs), as a file or a DataFrame; several files, one per run; or
        :class:`RunCurves`.
    law: the law of the curves: 'multi_power', 'annealing', 'multi_power_start', or 'auto', which
        takes the first if the finished runs have three schedules or more, and the last otherwise.
        Runs of several sizes are fitted with the form of this law that has the size in it.
    level: the confidence level of the intervals.
    map: {column of the table: symbol}: run, step, loss, lr, and N, B, steps.
    schedule: the learning rates until the end, such as
        'cosine:peak=3e-4,warmup=2000,steps=72000', for tables that do not hold them.
    warmup: steps of linear warm-up from 0, for tables whose rows begin later.
    where: a condition that selects runs or rows.
    planned: {run_id: config} of the runs that a sweep is to train, which have not begun.
    finished: list the finished runs too.
    seed: the seed of the draws.

    Raises TableError and FitError with what is missing.
    """
    check_level(level)
    runs = _read(source, map, schedule, warmup, where, decimal, planned)
    if not runs.unfinished:
        return Forecasts(
            runs=_listed(runs, level) if finished else [],
            source=runs.source,
            level=level,
            law="",
            best=_best(runs),
            notes=tuple(runs.notes),
            curves=runs,
        )
    progress.step("fitting the law of the curves")
    predictor = law_of(runs, law, seed=seed)
    best = _best(runs)
    off = {run.run: each for run in runs.unfinished if (each := _departure(run, predictor))}
    predictor = with_unfinished(predictor, runs, off, seed=seed)
    found = [_of_run(run, predictor, level, best, off.get(run.run)) for run in runs.unfinished]
    order = {run.run: i for i, run in enumerate(runs.runs)}
    found += _listed(runs, level) if finished else []
    notes = [*runs.notes, *predictor.notes]
    return Forecasts(
        runs=sorted(found, key=lambda f: order[f.run]),
        source=runs.source,
        level=level,
        law=predictor.law,
        best=best,
        notes=tuple(notes),
        curves=runs,
        predictor=predictor,
    )


def _read(
    source: Any,
    map: Mapping[str, str] | None,
    schedule: str | RunConfig | None,
    warmup: int | None,
    where: str | None,
    decimal: str | None,
    planned: Mapping[str, RunConfig] | None,
) -> RunCurves:
    progress.step("reading the learning curves")
    if isinstance(source, RunCurves):
        return source
    named = parse_schedule(schedule) if isinstance(schedule, str) else schedule
    paths = [source] if isinstance(source, str | Path) else source
    folders = not isinstance(source, pd.DataFrame) and [
        is_results_folder(path) or (Path(path) / "runs").is_dir() for path in paths
    ]
    if folders and all(folders):
        if not map and are_of_commands(paths):
            return of_command_folders(paths, schedule=named, warmup=warmup, where=where)
        if map or named is not None:
            raise ConfigError(
                f"{paths[0]} is a results folder, which holds the schedules of its runs; leave out "
                "--map and --lr-schedule."
            )
        return of_folders(paths, planned, where)
    if folders and any(folders):
        raise ConfigError("give results folders or tables of curves, not both at once.")
    return read_table(source, map=map, schedule=named, warmup=warmup, where=where, decimal=decimal)


def _departure(run: RunCurve, predictor: Predictor) -> OffLaw | None:
    """Return where and how a run left the law; None if it follows it."""
    used = predictor.used(run)
    off = None
    if used.sum() >= _FEWEST:
        law = predictor.expected(run)
        off = departure(run.step[used], run.loss[used], np.exp(law.log_loss), law.innovations)
    if run.status == DIVERGED:
        return off if off is not None and off.kind == "diverging" else _diverged(run, off)
    return off


def _of_run(
    run: RunCurve,
    predictor: Predictor,
    level: float,
    best: tuple[str, float] | None,
    off: OffLaw | None,
) -> Forecast:
    """Return the forecast of one run, of which it is known where it left the law."""
    points = int(predictor.used(run).sum())
    if run.status == DIVERGED:
        return _forecast(run, math.nan, math.nan, level, 0.0, off, points)
    law = predictor.expected(run)
    mean, sd = float(law.later[0]), float(law.sd[0])
    p_best = math.nan if best is None else float(norm.cdf((math.log(best[1]) - mean) / sd))
    return _forecast(run, mean, sd, level, p_best, off, points)


def _diverged(run: RunCurve, off: OffLaw | None) -> OffLaw:
    """Return where a run diverged that has no more points than those of the law."""
    if off is not None:
        return OffLaw(step=off.step, kind="diverging", size=off.size)
    last = int(run.step[-1]) if len(run.step) else run.done
    return OffLaw(step=last, kind="diverging", size=math.nan)


def _forecast(
    run: RunCurve, mean: float, sd: float, level: float, p_best: float, off: OffLaw | None, n: int
) -> Forecast:
    z = float(norm.ppf((1 + level) / 2))
    left = run.steps_left
    return Forecast(
        run=run.run,
        status=run.status,
        loss=math.exp(mean),
        low=math.exp(mean - z * sd),
        high=math.exp(mean + z * sd),
        level=level,
        steps=run.end,
        steps_left=left,
        seconds_left=None if run.seconds_per_step is None else left * run.seconds_per_step,
        flops_left=None if run.flops_per_step is None else left * run.flops_per_step,
        p_best=p_best,
        off_law=off,
        points=n,
        N=run.N,
        D=run.D,
    )


def _listed(runs: RunCurves, level: float) -> list[Forecast]:
    """Return the finished runs, with the losses that they have."""
    return [
        Forecast(
            run=run.run, status=run.status, loss=float(run.loss[-1]), low=float(run.loss[-1]),
            high=float(run.loss[-1]), level=level, steps=run.end, steps_left=0, seconds_left=0.0,
            flops_left=0.0, p_best=math.nan, off_law=None, points=int(run.used.sum()), N=run.N,
            D=run.D,
        )
        for run in runs.finished
    ]  # fmt: skip


def _best(runs: RunCurves) -> tuple[str, float] | None:
    """Return the finished run with the lowest final loss, and this loss."""
    losses = {run.run: float(run.loss[-1]) for run in runs.finished}
    if not losses:
        return None
    run = min(losses, key=lambda name: losses[name])
    return run, losses[run]
