"""Learning curves of runs of a command in a results folder.

Their schedules are not known beforehand, so they are read as a table of curves is: from the
learning rates that the command reported, or from a schedule that the user names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.curves.curve_tables import read_table
from analysis.curves.run_curve import RunCurves
from analysis.tables.conditions import matching
from analysis.tables.derive import RULES
from scaling import run_folders
from scaling.columns import is_command
from scaling.command_run import CommandRun
from scaling.config import RunConfig
from scaling.errors import TableError
from scaling.table import ordered, read, read_points

_OF_A_RUN = ("status", "N", "B", "D_total", "steps", "seed", "step_seconds")
_OF_A_POINT = ("run_id", "S", "L", "lr")


def are_of_commands(folders: Sequence[str | Path]) -> bool:
    """Return whether results folders hold runs of a command, not of the built-in trainer."""
    return any(_is_of_command(Path(folder)) for folder in folders)


def _is_of_command(folder: Path) -> bool:
    if (folder / "runs.csv").exists():
        rows = read(folder)
        if len(rows):
            return "command" in rows.columns and bool(rows["command"].map(_is_text).any())
    begun = run_folders.read(folder)
    return any(isinstance(run.config, CommandRun) for run in begun.open.values()) or any(
        is_command(row) for row, _ in begun.ended
    )


def of_command_folders(
    folders: Sequence[str | Path],
    *,
    schedule: RunConfig | None = None,
    warmup: int | None = None,
    where: str | None = None,
) -> RunCurves:
    """Return the curves of the runs of a command, finished or not.

    schedule: their learning rates, as far as the command did not report them.

    Raises TableError if nothing tells the learning rates of the runs that have not finished.
    """
    notes: list[str] = []
    tables = [_curves_of(Path(folder), where, notes) for folder in folders]
    table = pd.concat(tables, ignore_index=True).drop_duplicates(["run_id", "S"])
    source = ", ".join(map(str, folders))
    if not len(table):
        raise TableError(
            f"{source}: the command of these runs has reported no learning curve. Declare in "
            "[runner.results] of the spec where it reports the held-out loss by step."
        )
    if not table["lr"].notna().any():
        table = table.drop(columns="lr")
        if schedule is None:
            raise TableError(
                f"{source}: the command of these runs reports no learning rates, which a law of "
                "curves needs. Let it report lr beside L, or name the schedule, such as "
                "--lr-schedule cosine:peak=3e-4,warmup=2000,steps=72000."
            )
    table.attrs["source"] = source
    found = read_table(table, schedule=schedule, warmup=warmup)
    return RunCurves(runs=found.runs, source=source, notes=[*notes, *found.notes])


def _curves_of(folder: Path, where: str | None, notes: list[str]) -> pd.DataFrame:
    """Return the evaluations of a folder's runs, each with what is known of its run."""
    if (folder / "runs.csv").exists() or not (folder / "runs").is_dir():
        rows, points = read(folder), read_points(folder, "curves.parquet")
    else:
        rows, points = ordered([]), pd.DataFrame(columns=list(_OF_A_POINT))
    begun = run_folders.read(folder, set(rows["run_id"]))
    notes += [f"runs/{name} cannot be read; its run is left out" for name in begun.damaged]
    if begun.ended:
        rows = ordered([*rows.to_dict("records"), *(row for row, _ in begun.ended)])  # type: ignore[list-item]
        more = [point for _, curve in begun.ended for point in curve]
        points = pd.concat([points, pd.DataFrame(more)], ignore_index=True)
    known = run_folders.configs(folder)
    about = [_of_row(row, known.get(str(row["run_id"]))) for row in rows.to_dict("records")]
    waiting = 0
    for run_id, run in begun.open.items():
        if not isinstance(run.config, CommandRun):
            continue
        about.append(_of_open(run_id, run))
        waiting += not run.curve
        curve = [{"run_id": run_id, "S": S, "L": L, "lr": lr} for S, L, lr in run.curve]
        if curve:
            points = pd.concat([points, pd.DataFrame(curve)], ignore_index=True)
    if waiting:
        notes.append(f"{waiting} runs have begun and reported no loss; they are not forecast")
    table = pd.DataFrame(about)
    if where and len(table):
        table = matching(table, where, given=table, rules=RULES)
    if not len(table) or not len(points):
        return pd.DataFrame(columns=[*_OF_A_POINT, *_OF_A_RUN])
    kept = [name for name in _OF_A_RUN if name in table.columns]
    points = points[[name for name in _OF_A_POINT if name in points.columns]]
    return points.merge(table[["run_id", *kept]], on="run_id", how="inner")


def _of_row(row: Mapping[Any, Any], run: Any) -> dict[str, Any]:
    """Return what is known of a run that has ended: its row, and its horizon."""
    values = {str(name): value for name, value in row.items()}
    ended = values.get("status") == "ok"
    steps = values.get("S") if ended else getattr(run, "S", None)
    tokens = values.get("D") if ended else getattr(run, "D", None)
    seconds = values.get("step_seconds")
    if (seconds is None or pd.isna(seconds)) and _is_number(values.get("S")):
        seconds = values.get("seconds", float("nan")) / values["S"]
    return values | {"steps": steps, "D_total": tokens, "step_seconds": seconds}


def _of_open(run_id: str, run: run_folders.OpenRun) -> dict[str, Any]:
    """Return what is known of a run under way."""
    config = run.config
    assert isinstance(config, CommandRun)
    B = config.batch_tokens
    return {
        **config.values,
        "run_id": run_id,
        "status": "running" if run.running else "cut off",
        "N": config.N,
        "B": B,
        "D_total": config.D,
        "steps": config.S,
        "step_seconds": B / run.tokens_per_second if B and run.tokens_per_second else None,
    }


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not pd.isna(value) and value > 0
