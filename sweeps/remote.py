"""A folder of an object store, or of whatever else pyarrow.fs or fsspec reaches by a URI.

    <uri>/results/<run_id>.json                    one object a run, written in one piece
          runs.csv, curves.parquet, manifest.json, rounds/   as in a local results folder

A :class:`sweeps.store.Store` on a URI works in a local folder and keeps it level with this one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_AT_ONCE = 32
"""Requests under way: an object store answers each slowly and many as fast as one."""


class Remote:
    """Objects below a URI. Errors of the store are OSErrors; travels between processes."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._opened: tuple[Any, str] | None = None

    def __reduce__(self) -> Any:
        return Remote, (self.uri,)

    @property
    def mirror(self) -> Path:
        """The local folder that stands for this one on this machine."""
        import hashlib

        from scaling.corpus import cache

        digest = hashlib.sha256(self.uri.encode()).hexdigest()[:12]
        return cache() / "stores" / digest / self.uri.rpartition("/")[2]

    def run_ids(self) -> set[str]:
        """Runs that have a result here."""
        return {name.removesuffix(".json") for name in self.names("results")}

    def names(self, folder: str) -> set[str]:
        """Names of the .json objects of a folder; none where it is not there."""
        from pyarrow.fs import FileSelector, FileType

        filesystem, root = self._open()
        selector = FileSelector(f"{root}/{folder}", allow_not_found=True)
        files = [f for f in filesystem.get_file_info(selector) if f.type == FileType.File]
        return {f.base_name for f in files if f.base_name.endswith(".json")}

    def read(self, name: str) -> bytes | None:
        """An object; None where there is none."""
        filesystem, root = self._open()
        try:
            with filesystem.open_input_stream(f"{root}/{name}") as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def results(self, run_ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """(run_id, object) of results, many at a time."""
        run_ids = sorted(run_ids)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(self.read, [f"results/{run_id}.json" for run_id in run_ids])
            yield from (
                (i, data) for i, data in zip(run_ids, found, strict=True) if data is not None
            )

    def write(self, name: str, data: bytes) -> None:
        """Write an object, which is there when this returns."""
        filesystem, root = self._open()
        path = f"{root}/{name}"
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        filesystem, root = self._open()
        with contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(f"{root}/{name}")

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            self._opened = _filesystem(self.uri)
        return self._opened


def _filesystem(uri: str) -> tuple[Any, str]:
    """A pyarrow file system and the path in it: pyarrow's own (s3, gs, hdfs, ...), or fsspec's."""
    import pyarrow
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(uri)
    except pyarrow.ArrowInvalid as refused:
        try:
            from fsspec.core import url_to_fs

            filesystem, path = url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise OSError(f"{refused} ({error})") from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path
