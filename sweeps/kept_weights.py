"""The weights that finished runs of a store keep (scaling/weights.py).

A store on a URI sends weights with the result of their run, and fetches them only when they are
asked for. Imports neither torch nor ray.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from scaling import files
from scaling.weights import RECORD, TENSORS, has_weights
from sweeps import leftovers, mirror
from sweeps.errors import writing
from sweeps.store import Store


def with_weights(store: Store, run_ids: Iterable[str]) -> set[str]:
    """Return those of the runs whose weights are here or at the store's URI."""
    wanted = set(run_ids)
    found = {run_id for run_id in wanted if has_weights(store.run_folder(run_id))}
    return found if found == wanted else found | _at_uri(store).keys() & wanted


def missing(store: Store, run_ids: Collection[str]) -> str:
    """Return a line about those of these finished runs that have no weights; empty if all do."""
    number = len(set(run_ids) - with_weights(store, run_ids))
    if not number:
        return ""
    runs = "1 finished run has" if number == 1 else f"{number} finished runs have"
    return (
        f"{runs} no weights; the sweep does not train them again. --set name=NEW "
        f"--reuse {store.shown(store.folder)} does, into another folder"
    )


def local_folder(results: str | Path) -> Path:
    """Return the local folder of results, with all weights of a store on a URI fetched into it.

    Raises StoreError.
    """
    store = Store(results)
    if store.remote is not None:
        store.pull()
        fetch_all(store)
    return store.folder


def fetch_all(store: Store) -> None:
    """Bring all weights from the store's URI, if it has one, into the local folder."""
    fetch(store, _at_uri(store))


def fetch(store: Store, run_ids: Iterable[str]) -> None:
    """Bring the weights of runs from the store's URI, if it has one, into the local folder."""
    if store.remote is None:
        return
    for run_id in sorted(run_ids):
        with writing(store.shown(store.folder), "reached"):
            mirror.fetch_weights(store.remote, store, run_id)


def copy(source: Store, target: Store, run_id: str) -> None:
    """Copy the weights of a run from one local folder to another. Raises StoreError."""
    folder = source.run_folder(run_id)
    with target.writing(target.run_folder(run_id)):
        found = [files.read_bytes(folder / name) for name in (TENSORS, RECORD)]
        mirror.write_weights(target, run_id, *found)


def of_finished_runs(store: Store) -> dict[Path, int]:
    """Return {path: bytes} of the weights of finished runs.

    What is only at the store's URI has the path that it would have here.
    """
    rows = store.rows()
    paths = []
    for run_id in rows:
        folder = store.run_folder(run_id)
        with contextlib.suppress(OSError):
            files.check_inside(folder, store.folder)
            paths += [path for path in folder.iterdir() if path.name in (TENSORS, RECORD)]
    found = {path: leftovers.size_of(path) for path in sorted(paths)}
    for run_id, size in sorted(_at_uri(store).items()):
        if run_id in rows:
            found.setdefault(store.run_folder(run_id) / TENSORS, size)
    return found


def remove(store: Store) -> dict[Path, int]:
    """Delete the weights of finished runs, here and at the store's URI, and return what
    :func:`of_finished_runs` does. Use only while the sweep is held. Raises StoreError."""
    found = of_finished_runs(store)
    store.remove(path for path in found if os.path.lexists(path))
    if store.remote is None:
        return found
    for run_id in sorted(_at_uri(store).keys() & store.rows().keys()):
        with writing(store.shown(store.folder), "removed"):
            mirror.delete_weights(store.remote, run_id)
    return found


def _at_uri(store: Store) -> dict[str, int]:
    if store.remote is None:
        return {}
    with writing(store.shown(store.folder), "reached"):
        return mirror.weights_at(store.remote)
