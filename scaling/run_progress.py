"""Reports of runs under way, as a sweep writes them to the folders runs/<run_id>/.

A job writes one file, however many runs it trains: progress.json if it is a single run, and for a
pack pack.json in the folder of its first run, to which progress.json of each run points. Imports no
torch. The folder may come from an untrusted source, so damaged files count as missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scaling import files

PROGRESS, PACK = "progress.json", "pack.json"

CHECKPOINT = "checkpoint.pt"
"""Name of a checkpoint in its run's folder."""

_POINTER = "pack"
"""Key of the run whose folder holds the reports of the pack."""

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of folders that can be runs."""


def pointer(leader: str, last: Mapping[str, Any]) -> dict[str, Any]:
    """Return what progress.json of a run in a pack holds: the pack's first run and the run's last
    report."""
    return {_POINTER: leader, **last}


def pack_report(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what pack.json holds for the reports of its runs."""
    return {"runs": reports}


def read(runs: Path, run_ids: Iterable[str], *, one_job: bool = False) -> dict[str, dict[str, Any]]:
    """Return {run_id: its last report} for those that have one. `runs` is the folder of the runs.

    Each pack is read once. With `one_job`, the runs are those that a job trains now; then the file
    of a pack is enough.
    """
    wanted = [run_id for run_id in run_ids if RUN_ID.fullmatch(run_id)]
    found: dict[str, dict[str, Any]] = {}
    packs: dict[str, dict[str, dict[str, Any]]] = {}
    for run_id in wanted:
        own = None if run_id in found else files.read_object(runs / run_id / PROGRESS)
        if own is None:
            continue
        leader = own.pop(_POINTER, None)
        if isinstance(leader, str) and RUN_ID.fullmatch(leader):
            if leader not in packs:
                packs[leader] = _reports(runs / leader / PACK)
            own = packs[leader].get(run_id, own)
            for other in wanted if one_job else ():
                if other in packs[leader]:
                    found.setdefault(other, packs[leader][other])
        found.setdefault(run_id, own)
    return found


def _reports(path: Path) -> dict[str, dict[str, Any]]:
    reports = (files.read_object(path) or {}).get("runs")
    reports = reports if isinstance(reports, dict) else {}
    return {run_id: report for run_id, report in reports.items() if isinstance(report, dict)}
