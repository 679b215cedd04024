"""Exchange between a store on a URI and its local mirror on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from scaling import files, progress
from scaling.files import write_atomic
from scaling.weights import RECORD, TENSORS, has_weights
from sweeps.folder import Folder, is_round
from sweeps.merged import MergedTable
from sweeps.remote import Remote
from sweeps.result import NewerFormat, parse

_WEIGHTS = (TENSORS, RECORD)
"""Files of a run's weights, in the order in which they are written."""

_TABLE_FILES = (
    "tests.parquet", "curves.parquet", "runs.csv", "manifest.json", "tasks.parquet"
)  # fmt: skip


def synchronize(remote: Remote, local: Folder, table: MergedTable) -> None:
    """Synchronise the local folder and the URI in both directions.

    The result of a run whose row is in `table`, the local merged table, is not fetched unless the
    local copy has been replaced at the URI. Raises OSError and StoreError.
    """
    progress.step(f"reading {local.shown(local.folder)}")
    local.folder.mkdir(parents=True, exist_ok=True)
    stamps = remote.results_here()
    there = stamps.keys()
    for name in _TABLE_FILES:
        data = remote.read(name)
        if data is not None and data != _bytes(local.folder / name):
            write_atomic(local.folder / name, data)
    merged = table.rows().keys()
    here = set(filter(local.has_result, local.run_ids()))
    replaced = {run_id for run_id in here & there if _is_replaced(local, run_id, *stamps[run_id])}
    for run_id, data in remote.results((there - here - merged) | replaced):
        _keep(local, run_id, data)
    for run_id in here - there - merged:  # written here while the connection was broken
        push_weights(remote, local, run_id)
        data = (local.run_folder(run_id) / "result.json").read_bytes()
        remote.write(f"results/{run_id}.json", data)
    _synchronize_files(remote, local, "rounds", is_round)
    _synchronize_files(remote, local, "plans", lambda name: True)
    if remote.odd:
        some = ", ".join(map(repr, remote.odd[:3])) + (", ..." if len(remote.odd) > 3 else "")
        local.say(
            f"{local.shown(local.folder)} has {len(remote.odd)} objects whose names are not plain "
            f"words ({some}); they are left alone."
        )


def fetch(remote: Remote, local: Folder, run_id: str) -> bytes | None:
    """Return a result that another machine has stored, and keep a local copy; None if there is
    none."""
    data = remote.read(f"results/{run_id}.json")
    return data if data is not None and _keep(local, run_id, data) else None


def push_weights(remote: Remote, local: Folder, run_id: str) -> None:
    """Send the weights of a run to the URI, if it has any. Raises OSError."""
    folder = local.run_folder(run_id)
    if has_weights(folder):
        for name in _WEIGHTS:
            remote.write(_weights_object(run_id, name), files.read_bytes(folder / name))


def weights_at(remote: Remote) -> dict[str, int]:
    """Return {run_id: bytes} of the runs whose weights are at the URI. Raises OSError."""
    records = {name.removesuffix(".json") for name in remote.objects("weights")}
    suffix = Path(TENSORS).suffix
    tensors = remote.objects("weights", suffix)
    sizes = {name.removesuffix(suffix): size for name, (size, _) in tensors.items()}
    return {run_id: size for run_id, size in sizes.items() if run_id in records}


def fetch_weights(remote: Remote, local: Folder, run_id: str) -> None:
    """Copy the weights of a run from the URI, unless the same are here. Raises OSError."""
    folder = local.run_folder(run_id)
    record = remote.read(_weights_object(run_id, RECORD))
    if record is None or (record == _bytes(folder / RECORD) and has_weights(folder)):
        return
    progress.step(f"fetching the weights of run {run_id}")
    tensors = remote.read(_weights_object(run_id, TENSORS))
    if tensors is not None:
        write_weights(local, run_id, tensors, record)


def write_weights(local: Folder, run_id: str, tensors: bytes, record: bytes) -> None:
    """Write the two files of a run's weights. Raises OSError."""
    folder = local.run_folder(run_id)
    for name, data in zip(_WEIGHTS, (tensors, record), strict=True):
        files.check_inside(folder / name, local.folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, data)


def delete_weights(remote: Remote, run_id: str) -> None:
    """Delete the weights of a run at the URI, if it has any. Raises OSError."""
    for name in reversed(_WEIGHTS):
        remote.delete(_weights_object(run_id, name))


def _weights_object(run_id: str, name: str) -> str:
    return f"weights/{run_id}{Path(name).suffix}"


def _synchronize_files(
    remote: Remote, local: Folder, folder: str, ours: Callable[[str], bool]
) -> None:
    """Copy the JSON files of a folder that are missing on one side; none is ever replaced."""
    place = local.folder / folder
    paths = place.glob("*.json") if not place.is_symlink() else ()
    here = {path.name for path in paths if ours(path.name) and path.is_file()}
    there = {name for name in remote.objects(folder) if ours(name)}
    for name in there - here:
        if (data := remote.read(f"{folder}/{name}")) is not None:
            place.mkdir(exist_ok=True)
            write_atomic(place / name, data)
    for name in here - there:
        remote.write(f"{folder}/{name}", (place / name).read_bytes())


def _is_replaced(local: Folder, run_id: str, size: int, changed: float) -> bool:
    """Return whether another machine has replaced a result since this one wrote or fetched it."""
    status = (local.run_folder(run_id) / "result.json").stat()
    return status.st_size != size or status.st_mtime < changed


def _keep(local: Folder, run_id: str, data: bytes) -> bool:
    """Store a result from the URI here; return False for a damaged one, after telling the user.

    A damaged result remains at the URI until the run has trained again.
    """
    path = local.run_folder(run_id) / "result.json"
    try:
        parse(data, run_id)
    except NewerFormat as error:
        raise local.newer_format(path, error) from None
    except ValueError as error:
        local.say(f"{local.shown(path)} is damaged ({error}); the run will train again.")
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    return True


def _bytes(path: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return files.read_bytes(path)
    return None
