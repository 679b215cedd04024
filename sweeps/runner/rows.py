"""The row and the learning curve of a run of a command, from what it reported."""

from __future__ import annotations

import math
from typing import Any

from scaling.command_run import CommandRun
from sweeps.result import Point, Row
from sweeps.runner.command_row import DTYPES, column_of, command_row
from sweeps.runner.reports import Report, ReportError

_N_TOLERANCE, _D_TOLERANCE = 0.02, 0.02
"""Relative differences between sizes of the spec and those reported that are rounding: formulas
leave out biases and norms, and the last batch may be incomplete."""


class WrongSize(ReportError):
    """The sizes that a command reported contradict the spec."""


def row_of(
    run: CommandRun,
    report: Report,
    *,
    seconds: float,
    device: str,
    status: str = "ok",
    error: str = "",
) -> tuple[Row, list[Point], list[Point]]:
    """Return the row, the learning curve and the tests of a run that has ended.

    A run whose loss is not finite has the status 'diverged', whatever `status` says. Raises
    WrongSize, which names both values, if an 'ok' run has other sizes than the spec gives.
    """
    final = dict(report.final)
    L = _float(final.get("L"))
    if L is not None and not math.isfinite(L) and status in ("ok", "diverged"):
        status, error = "diverged", error or f"its loss is {L:g}{_at(report)}"
    if status == "ok":
        check_sizes(run, report)
    N = _whole(final.get("N")) or run.N
    S = _steps(run, report, status)
    D = _tokens(run, report, status, S)
    B = run.batch_tokens or _whole(final.get("B")) or (round(D / S) if D and S else None)
    sizes: dict[str, Any] = {"N": N, "D": D, "C": 6.0 * N * D if N and D else None, "B": B, "S": S}
    measured = {
        "run_id": run.run_id,
        "status": status,
        "L": L if L is not None and math.isfinite(L) else None,
        "seconds": seconds,
        "device": device,
        "error": error,
    }
    if report.conversions:
        measured["converted"] = ", ".join(
            f"{column} = {text}" for column, text in sorted(report.conversions.items())
        )
    row = command_row(run) | _reported(run, report) | sizes | measured
    return row, _curve(run, report, N, D, S), []


def check_sizes(run: CommandRun, report: Report) -> None:
    """Raise WrongSize if the reported sizes contradict those of the spec."""
    final = report.final
    N = _float(final.get("N"))
    if N is not None and not (math.isfinite(N) and N >= 1):
        raise WrongSize(f"the command reported N={N:g}, which is no number of parameters.")
    if run.N is not None and N is not None and abs(N / run.N - 1) > _N_TOLERANCE:
        raise WrongSize(
            f"the command reported N={N:,.0f} and the spec gives N={run.N:,}. N counts "
            "non-embedding parameters: correct the formula, or declare in [runner.results] that "
            'the command counts all of them: columns = { N_total = "N" }.'
        )
    D = _float(final.get("D")) if "D" in report.stated else None
    slack = max(_D_TOLERANCE * run.D, run.batch_tokens or 0)
    if D is not None and not abs(D - run.D) <= slack:
        raise WrongSize(
            f"the command reported D={D:,.0f} and the spec gives D={run.D:,}. Its options must "
            "set the number of training tokens that the spec asks for (a key such as {tokens} or "
            "{steps} in the command)."
        )
    steps = run.S
    if steps is None:
        return
    allowed = max(1, round(_D_TOLERANCE * steps))
    where = report.L_step
    if where is not None and where < steps - allowed:
        raise WrongSize(
            f"the last held-out loss that the command reported is that of step {where:,} of "
            f"{steps:,} (tokens / batch_tokens). A result needs the loss at the end: let the "
            "command evaluate after its last step."
        )
    if report.step > steps + allowed:
        raise WrongSize(
            f"the command reported step {report.step:,}, and the spec gives {steps:,} steps "
            "(tokens / batch_tokens). Correct batch_tokens, or the steps of the command."
        )


def _reported(run: CommandRun, report: Report) -> dict[str, Any]:
    """Return the further columns that the command reported; keys of the spec count first."""
    row: dict[str, Any] = {}
    keys = run.values.keys()
    for name, value in report.final.items():
        if name in ("L", "N", "D", "S", "B", "L_train") or name in keys:
            continue
        if name == "lr":  # of the last step; the peak is a key
            continue
        column = column_of(name, value)
        if isinstance(value, float) and DTYPES.get(column) == "int":
            value = round(value)
        row[column] = value
    return row


def _steps(run: CommandRun, report: Report, status: str) -> int | None:
    """Return the optimiser steps of a run: those of the spec if it ended, else those reported."""
    stated = _whole(report.final.get("S")) if "S" in report.stated else None
    if status == "ok":
        return run.S or stated or report.step or None
    return report.step or stated or None


def _tokens(run: CommandRun, report: Report, status: str, S: int | None) -> int | None:
    """Return the tokens of a run: those it stated, those of the spec, or those until step S."""
    D = _whole(report.final.get("D"))
    if status == "ok":
        return (D if "D" in report.stated else None) or run.D or D
    if D is None and S and run.batch_tokens:
        D = S * run.batch_tokens
    return D or run.D or None


def _curve(
    run: CommandRun, report: Report, N: int | None, D: int | None, S: int | None
) -> list[Point]:
    """Return the learning curve: one row per held-out loss, or per report if there is none.

    As in our own curves, L_train is the mean since the row before, and lr that of the last step.
    """
    given = report.curve
    held_out = any("L" in point for point in given)
    per_step = run.batch_tokens or (D / S if D and S else None)
    points: list[Point] = []
    train: list[float] = []
    lr: float | None = None
    for point in given:
        train += [point["L_train"]] if "L_train" in point else []
        lr = point.get("lr", lr)
        if held_out and "L" not in point:
            continue
        tokens = point.get("D", point["S"] * per_step if per_step else None)
        if tokens is None or not math.isfinite(tokens):
            continue  # a point without tokens has no place in a law of curves
        points.append(
            {
                "run_id": run.run_id,
                "S": int(point["S"]),
                "D": round(tokens),
                "C": 6.0 * N * tokens if N else None,
                "L": _finite(point.get("L")),
                "L_train": _finite(math.fsum(train) / len(train)) if train else None,
                "lr": _finite(lr),
            }
        )
        train = []
    return points


def points_so_far(run: CommandRun, report: Report) -> list[Point]:
    """Return the evaluations of a run under way, as in its curve once it has ended."""
    S = _whole(report.final.get("S")) if "S" in report.stated else None
    return _curve(run, report, run.N, run.D if S else None, S)


def _at(report: Report) -> str:
    step = report.L_step if report.L_step is not None else report.step
    return f" at step {step:,}" if step else ""


def _float(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else None  # pyright: ignore[reportArgumentType]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _whole(value: object) -> int | None:
    """Return a positive number as a whole one; None for anything else."""
    number = _float(value)
    return round(number) if number is not None and 0 < number < 2**63 else None
