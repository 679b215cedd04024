"""Learning curves in a results folder: of finished runs, and of those under way or planned."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.rates import Rates, config_of
from analysis.curves.run_curve import FINISHED, RunCurve, RunCurves
from analysis.tables.conditions import matching
from analysis.tables.derive import RULES
from analysis.tables.load import check_one_text
from scaling import run_folders, size
from scaling.columns import CURVE_COLUMNS, config_row
from scaling.config import RunConfig, flatten
from scaling.errors import ConfigError, TableError
from scaling.run_folders import OpenRun
from scaling.table import ordered, read, read_points
from scaling.training.pack_key import trunk
from scaling.training.schedule import warmup_steps

_OF_HORIZON = re.compile(r"at step \d+ of (\d+)")
"""How the message of a diverged run names the steps that it was to have."""


def read_folder(
    folder: str | Path,
    *,
    planned: Mapping[str, RunConfig] | None = None,
    where: str | None = None,
) -> RunCurves:
    """Return the runs of a results folder, with those that its sweep has not finished.

    planned: {run_id: config} of the runs that the sweep's spec asks for, if it is known.
    """
    folder = Path(folder)
    rows, points = _tables(folder)
    begun = run_folders.read(folder, set(rows["run_id"]))
    if begun.ended:
        rows = ordered([*rows.to_dict("records"), *(row for row, _ in begun.ended)])
        more = [{**point} for _, curve in begun.ended for point in curve]
        points = pd.concat([points, _as_points(more)], ignore_index=True)
    recorded = run_folders.configs(folder).items()
    configs = {run_id: run for run_id, run in recorded if isinstance(run, RunConfig)}
    configs |= planned or {}
    open_: dict[str, RunConfig] = {
        run_id: each.config
        for run_id, each in begun.open.items()
        if isinstance(each.config, RunConfig)
    }
    waiting = {
        run_id: run for run_id, run in (planned or {}).items()
        if run_id not in open_ and run_id not in set(rows["run_id"])
    }  # fmt: skip
    table = _all_rows(rows, {**open_, **waiting})
    if where:
        table = matching(table, where, given=table, rules=RULES)
    if not len(table):
        raise TableError(f"{folder} holds no run{' that meets --where' if where else ''}.")
    check_one_text(table, str(folder))
    reader = _Reader(table, points, configs, begun.open)
    records = [
        {str(name): value for name, value in row.items() if not _is_empty(value)}
        for row in table.to_dict("records")
    ]
    runs = [run for row in records if (run := reader.curve(row)) is not None]
    notes = [f"{n} evaluations without a loss are left out" for n in [reader.without_loss] if n]
    notes += [f"runs/{name} cannot be read; its run is left out" for name in begun.damaged]
    if reader.unknown:
        names = ", ".join(reader.unknown[:3]) + (", ..." if len(reader.unknown) > 3 else "")
        notes.append(
            f"{names}: stopped, and how long they were to train is not known without the sweep's "
            "spec; they are not forecast"
        )
    return RunCurves(runs=runs, source=str(folder), notes=notes)


def _tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs.csv and curves.parquet; empty tables if the sweep has not written them yet."""
    if (folder / "runs.csv").exists() or not (folder / "runs").is_dir():
        return read(folder), read_points(folder, "curves.parquet")
    return ordered([]), _as_points([])


def _as_points(points: list[dict[str, Any]]) -> pd.DataFrame:
    names = [column.name for column in CURVE_COLUMNS]
    return pd.DataFrame(points, columns=names)


def _all_rows(rows: pd.DataFrame, unfinished: Mapping[str, RunConfig]) -> pd.DataFrame:
    """Return the rows of ended runs and those of the others, whose status is empty."""
    more = []
    for run_id, run in unfinished.items():
        try:
            sizes = size.size_columns(run)
        except ConfigError:  # a custom family, whose code does not run here
            continue
        more.append(config_row(flatten(run)) | sizes | {"run_id": run_id, "status": None})
    if not more:
        return rows
    added = ordered(more)
    return pd.concat([rows, added], ignore_index=True) if len(rows) else added


class _Reader:
    """Makes the curves of runs from their rows."""

    def __init__(
        self,
        rows: pd.DataFrame,
        points: pd.DataFrame,
        configs: Mapping[str, RunConfig],
        open_: Mapping[str, OpenRun],
    ) -> None:
        self.configs, self.open = configs, open_
        self.points = {str(run): p for run, p in points.groupby("run_id", sort=False)}
        self.speed = _Speed(rows[rows["status"] == FINISHED])
        self.without_loss = 0
        self.unknown: list[str] = []
        self.rates: dict[Any, Rates] = {}

    def curve(self, row: Mapping[str, Any]) -> RunCurve | None:
        """Return a run's curve; None if its config is unknown, or it ended without a loss."""
        run_id, status = str(row["run_id"]), _status(row)
        begun = self.open.get(run_id)
        config = self._config(row, status)
        if config is None:
            self.unknown.append(run_id)
            return None
        step, loss = self._measured(run_id, begun)
        end = int(row["S"]) if status == FINISHED else config.S
        kept = step <= end
        if status == FINISHED and not kept.any():
            return None
        if not status:
            running = begun is not None and begun.running
            status = "running" if running else "cut off" if begun is not None else "planned"
        done = end if status == FINISHED else int(step[kept].max(initial=0))
        if begun is not None:
            done = max(done, begun.step)
        tokens, C = row.get("D"), row.get("C")
        per_token = C / tokens if _is_number(C) and _is_number(tokens) and tokens else None
        N, B = float(row["N"]), float(config.batch_tokens)
        return RunCurve(
            run=run_id,
            status=status,
            step=step[kept],
            loss=loss[kept],
            rates_of=functools.partial(self._rates, config),
            end=end,
            done=done,
            warmup=warmup_steps(config),
            N=N,
            B=B,
            D=float(config.tokens_at(end)),
            flops_per_step=None if per_token is None else per_token * B,
            seconds_per_step=self._seconds(row, begun, N, B),
            trunk=repr(trunk(config)),
            settings=row,
        )

    def _config(self, row: Mapping[str, Any], status: str) -> RunConfig | None:
        """Return the config of a run with its whole horizon; None if that is not known."""
        run_id = str(row["run_id"])
        if (known := self.configs.get(run_id)) is not None:
            return known
        if status in (FINISHED, "failed"):
            return config_of(row)
        found = _OF_HORIZON.search(str(row.get("error") or ""))
        if found is None:
            return None
        steps = int(found[1])
        return config_of({**row, "S": steps, "D": steps * int(row["B"])})

    def _rates(self, config: RunConfig) -> Rates:
        key = (config.optim, config.S, config.batch_tokens, config.model)
        if key not in self.rates:
            self.rates[key] = Rates.from_config(config)
        return self.rates[key]

    def _measured(self, run_id: str, begun: OpenRun | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps and losses of a run's evaluations, in order."""
        if begun is not None:
            step = np.array([point[0] for point in begun.curve], float)
            loss = np.array([point[1] for point in begun.curve], float)
        elif run_id in self.points:
            points = self.points[run_id].sort_values("S", kind="stable")
            step = points["S"].to_numpy(float)
            loss = pd.to_numeric(points["L"], errors="coerce").to_numpy(float)
        else:
            return np.array([]), np.array([])
        good = np.isfinite(loss) & (loss > 0) & (step > 0)
        self.without_loss += int((~good).sum())
        return step[good], loss[good]

    def _seconds(
        self, row: Mapping[str, Any], begun: OpenRun | None, N: float, B: float
    ) -> float | None:
        if begun is not None and begun.tokens_per_second:
            return B / begun.tokens_per_second
        own = row.get("step_seconds")
        return float(own) if _is_number(own) and own else self.speed(N, B)  # type: ignore[arg-type]


class _Speed:
    """Seconds per step of runs that have not reported theirs, from those of finished runs."""

    def __init__(self, rows: pd.DataFrame) -> None:
        if "step_seconds" not in rows.columns:
            rows = rows.assign(step_seconds=np.nan)
        seconds = pd.to_numeric(rows["step_seconds"], errors="coerce").to_numpy(float)
        work = np.log(rows["N"].to_numpy(float) * rows["B"].to_numpy(float))
        good = np.isfinite(seconds) & (seconds > 0) & np.isfinite(work)
        self.work, at = np.unique(np.round(work[good], 6), return_inverse=True)
        logs = np.log(seconds[good])
        self.seconds = np.array([np.median(logs[at == i]) for i in range(len(self.work))])

    def __call__(self, N: float, B: float) -> float | None:
        if not len(self.work):
            return None
        return float(np.exp(np.interp(np.log(N * B), self.work, self.seconds)))


def _status(row: Mapping[str, Any]) -> str:
    status = row.get("status")
    return status if isinstance(status, str) else ""


def _is_empty(value: Any) -> bool:
    return value is None or (not isinstance(value, list) and bool(pd.isna(value)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def is_unmerged(folder: str | Path) -> bool:
    """Return whether a folder holds runs of a sweep, merged into a table or not."""
    folder = Path(folder)
    return (folder / "runs.csv").exists() or (folder / "runs").is_dir()


def of_folders(
    folders: Iterable[str | Path],
    planned: Mapping[str, RunConfig] | None = None,
    where: str | None = None,
) -> RunCurves:
    """Return the runs of several results folders; a run that is in two is counted once."""
    found = [read_folder(folder, planned=planned, where=where) for folder in folders]
    runs: dict[str, RunCurve] = {}
    for run in (run for each in found for run in each.runs):
        if run.run not in runs or run.finished:
            runs[run.run] = run
    return RunCurves(
        runs=list(runs.values()),
        source=", ".join(each.source for each in found),
        notes=[note for each in found for note in each.notes],
    )
