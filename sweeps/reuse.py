"""Reuse of results from other folders in place of training the same runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scaling.execution import Execution
from sweeps.checks import prepare
from sweeps.errors import StoreError
from sweeps.requested import RequestedRuns
from sweeps.result import Finished, Row
from sweeps.spec import Spec
from sweeps.store import Store


def reusable_results(
    spec: Spec,
    requested: RequestedRuns,
    folders: Sequence[str | Path],
    rows: Mapping[str, Row],
) -> dict[str, Finished]:
    """Return results in other folders, by run id, for runs that have none here.

    Raises StoreError for a folder without finished runs.
    """
    found: dict[str, Finished] = {}
    usable = {"ok", "diverged"} | ({"stopped"} if spec.halving else set())
    for folder in folders:
        other = Store(folder)
        theirs = other.rows()
        if not theirs:
            raise StoreError(
                f"{other.shown(other.folder)} holds no finished runs to reuse; give a results "
                "folder."
            )
        more = True
        while more:  # these results may call for further runs
            known = {**rows, **{run_id: result.row for run_id, result in found.items()}}
            wanted = requested.growth(known).runs
            ids = [
                run_id
                for run_id in wanted.keys() & theirs.keys() - known.keys()
                if theirs[run_id]["status"] in usable
            ]
            more = False
            for result in other.results(ids) if ids else ():
                run_id, more = result.row["run_id"], True
                row = {**result.row, "tag": wanted[run_id].tag}
                found[run_id] = Finished(row, result.curve, result.tests)
    return found


def take(
    reused: Mapping[str, Finished],
    rows: Mapping[str, Row],
    *,
    spec: Spec,
    store: Store,
    requested: RequestedRuns,
    execution: Execution,
) -> None:
    """Store results from other folders, after checking that they were trained on the same text.

    Raises ConfigError, StoreError.
    """
    store.check_writable()
    known = {**rows, **{run_id: result.row for run_id, result in reused.items()}}
    runs = requested.growth(known).runs
    prepare(spec.name, store, [runs[run_id] for run_id in reused], known, execution)
    for run_id, result in reused.items():
        store.begin(runs[run_id])
        store.finish(result.row, result.curve, result.tests)
