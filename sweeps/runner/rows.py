"""Rows of runs of a command. A stand-in."""

from __future__ import annotations

import math
from typing import Any

from scaling.columns import COLUMNS
from scaling.command_run import CommandRun
from sweeps.runner.reports import Report


def row_of(
    run: CommandRun,
    report: Report,
    *,
    seconds: float,
    device: str,
    status: str = "ok",
    error: str = "",
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (row, curve, tests)."""
    last = report.curve[-1] if report.curve else {}
    N, D = report.final.get("N", run.N), run.D
    L = report.final.get("L", last.get("L"))
    if L is not None and not math.isfinite(L):
        L, status = None, "diverged" if status == "ok" else status
    row: dict[str, Any] = {c.name: "" if c.dtype == "str" else None for c in COLUMNS}
    row |= {"run_id": run.run_id, "status": status, "error": error, "L": L, "N": N, "D": D}
    row |= {"C": 6 * N * D if N else None, "B": run.batch_tokens, "S": run.S, "tag": run.tag}
    row |= {"seconds": seconds, "device": device, "seed": run.seed, "run_id": run.run_id}
    curve = [
        {"run_id": run.run_id, "D": p["S"] * (run.batch_tokens or 1), "L_train": None} | p
        for p in report.curve
    ]
    return row, curve, []
