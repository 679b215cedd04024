"""Budgets of a plan: the FLOPs that money buys, and the best schedule for a number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.cli.output import note, show, show_json
from scaling.cli.tables import one_source
from scaling.errors import ConfigError
from scaling.mapping import parse


def budget(flops: float | None, **bought: Any) -> tuple[float | None, str | None]:
    """Return the FLOPs of a plan, and what buys them in words if that was given instead."""
    from analysis.planning.accelerators import compute_budget

    sums = ("gpus", "hours", "dollars", "dollars_per_hour", "mfu")
    if all(bought[name] is None for name in sums):
        return flops, None
    found = compute_budget(**bought)
    if flops is not None:
        raise ConfigError("give one budget: --flops, or --gpus and --hours, or --dollars.")
    return found.C, found.description


def show_schedule(
    results: Sequence[Path],
    asked: Mapping[str, float | None],
    selection: Mapping[str, Any],
    laws: Sequence[str],
    warmup: int | None,
    *,
    level: float,
    seed: int,
    json: bool,
) -> None:
    """Print the best schedule for a budget: one of steps, tokens and FLOPs of `asked`."""
    from analysis.curves.best_schedule import best_schedule
    from analysis.curves.command_folders import are_of_commands, of_command_folders
    from analysis.curves.curve_folders import is_unmerged, of_folders
    from analysis.curves.curve_tables import read_table
    from analysis.curves.fit import fit_curves
    from analysis.curves.predictor import long_table

    if len(laws) > 1:
        raise ConfigError("--schedule plans with one law of learning curves: give --law once.")
    if all(path.is_dir() and is_unmerged(path) for path in results):
        read = of_command_folders if are_of_commands(results) else of_folders
        found = read(results, where=selection["where"])
    else:
        found = read_table(
            one_source(results), map=parse(selection["map"]), warmup=warmup,
            where=selection["where"], decimal=selection["decimal"],
        )  # fmt: skip
    for each in found.notes:
        note(f"{found.source}: {each.rstrip('.')}.")
    runs = [run for run in found.runs if run.used.any() and run.status != "diverged"]
    runs = _of_one_size(runs, asked.get("--params"), found.source)
    steps = _steps(runs, asked)
    table, rates = long_table(runs)
    fit = fit_curves(laws[0] if laws else "multi_power", table, rates=rates, seed=seed)
    best = best_schedule(fit, steps, level=level)
    show_json(best.to_json()) if json else show(best)


def check_no_schedule(steps: int | None, warmup: int | None) -> None:
    """Raise ConfigError for options that only a plan of a schedule has."""
    for option, value in (("--steps", steps), ("--warmup", warmup)):
        if value is not None:
            raise ConfigError(f"{option} {value} belongs to --schedule; add that, or leave it out.")


def _of_one_size(runs: Sequence[Any], N: float | None, source: str) -> list[Any]:
    """Return the runs of one size: the given one, or the only one."""
    sizes = sorted({run.N for run in runs if run.N is not None})
    if N is None and len(sizes) > 1:
        shown = ", ".join(f"{size:g}" for size in sizes)
        raise ConfigError(
            f"{source} has runs of several sizes, and a schedule is planned for one: give "
            f"--params, one of {shown}."
        )
    if N is None or not sizes:
        return list(runs)
    near = min(sizes, key=lambda size: abs(size - N))
    if abs(near - N) > 0.02 * N:
        raise ConfigError(f"--params {N:g}: {source} has no run of this size; {near:g} is nearest.")
    return [run for run in runs if near == run.N]


def _steps(runs: Sequence[Any], asked: Mapping[str, float | None]) -> int:
    """Return the steps of the run that is planned."""
    given = {k: v for k, v in asked.items() if v is not None and k != "--params"}
    possible = ("--steps", "--tokens", "--flops")
    if len(given) != 1 or next(iter(given)) not in possible:
        raise ConfigError(
            f"--schedule needs one budget: {', '.join(possible)}"
            + (f"; given: {', '.join(given)}." if given else ".")
        )
    (name, value), B = next(iter(given.items())), {run.B for run in runs}
    per_step = 1.0
    if name != "--steps":
        if len(B) != 1 or None in B:
            raise ConfigError(
                f"{name}: the tokens per step (B) of the runs are not known or differ"
                "; give --steps."
            )
        per_step = B.pop()
    if name == "--flops":
        N = runs[0].N
        if N is None:
            raise ConfigError("--flops: the size N of the runs is not known; give --steps.")
        per_step *= 6 * N
    if not value > 0:
        raise ConfigError(f"{name} must be positive, not {value:g}.")
    return round(value / per_step)
