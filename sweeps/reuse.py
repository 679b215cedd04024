"""Reuse of results from other folders in place of training the same runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scaling.execution import Execution
from sweeps import kept_weights
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
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Finished]:
    """Return results in other folders, by run id, for runs that have none here.

    If the spec keeps weights, successful runs without weights are left out, and `say` is told so.
    Raises StoreError for a folder without finished runs.
    """
    found: dict[str, Finished] = {}
    usable = {"ok", "diverged"} | ({"stopped"} if spec.stops_early else set())
    for folder in folders:
        other = Store(folder)
        theirs = other.rows()
        if not theirs:
            raise StoreError(
                f"{other.shown(other.folder)} holds no finished runs to reuse; give a results "
                "folder."
            )
        weightless = _weightless(other, theirs) if spec.keep_weights else set()
        left_out = weightless & requested.growth(rows).runs.keys() - rows.keys()
        if left_out:
            say(
                f"{len(left_out)} finished runs in {other.shown(other.folder)} have no weights and "
                "are not reused"
            )
        more = True
        while more:  # these results may call for further runs
            known = {**rows, **{run_id: result.row for run_id, result in found.items()}}
            wanted = requested.growth(known).runs
            ids = [
                run_id
                for run_id in wanted.keys() & theirs.keys() - known.keys() - weightless
                if theirs[run_id]["status"] in usable
            ]
            more = False
            for result in other.results(ids) if ids else ():
                run_id, more = result.row["run_id"], True
                row = {**result.row, "tag": wanted[run_id].tag}
                found[run_id] = Finished(row, result.curve, result.tests)
    return found


def _weightless(store: Store, rows: Mapping[str, Row]) -> set[str]:
    """Return the successful runs of a store that have no weights."""
    ok = {run_id for run_id, row in rows.items() if row["status"] == "ok"}
    return ok - kept_weights.with_weights(store, ok)


def take(
    reused: Mapping[str, Finished],
    rows: Mapping[str, Row],
    *,
    spec: Spec,
    store: Store,
    requested: RequestedRuns,
    execution: Execution,
    folders: Sequence[str | Path],
) -> None:
    """Store results from other `folders`, after checking that they were trained on the same text.

    Raises ConfigError, StoreError.
    """
    store.check_writable()
    known = {**rows, **{run_id: result.row for run_id, result in reused.items()}}
    runs = requested.growth(known).runs
    wanted = [runs[run_id] for run_id in reused]
    prepare(spec.name, store, wanted, known, execution, runner=spec.runner)
    sources = _sources(folders, reused) if spec.keep_weights else {}
    for run_id, result in reused.items():
        store.begin(runs[run_id])
        if run_id in sources:
            kept_weights.copy(sources[run_id], store, run_id)
        store.finish(result.row, result.curve, result.tests)


def _sources(folders: Sequence[str | Path], reused: Mapping[str, Finished]) -> dict[str, Store]:
    """Return the store that the weights of each reused run come from, with the weights on this
    machine."""
    found: dict[str, Store] = {}
    for folder in folders:
        other = Store(folder)
        theirs = other.rows().keys() & reused.keys() - found.keys()
        ids = kept_weights.with_weights(other, theirs)
        kept_weights.fetch(other, ids)
        found |= dict.fromkeys(ids, other)
    return found
