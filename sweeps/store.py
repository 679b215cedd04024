"""Results on disk, safe however a process ends.

    results/<sweep>/runs.csv, curves.parquet    the merged table (sweeps/merged.py); committed
                    manifest.json               spec, revision, versions, machine, corpora, time
                    lock, .joined/              held by the drivers of the sweep (sharing.py)
                    .estimate.json              its estimate of the time left (sweeps.estimate)
                    rounds/0001.json            a round of designed runs (adaptive/interval.py)
                    runs/<run_id>/result.json   row and curve; a run has finished once it exists
                                  config.json, attempts.jsonl, output.log
                                  weights.safetensors, weights.json    if the spec keeps them
                                  checkpoint.pt, progress.json, lock    while the run is under way
                                  pack.json           progress of a pack that this run leads
                    rungs/, forecasts/  decisions (early_stopping.py, forecast_stopping.py)

A result is written to a temporary file, synced and renamed. The merged table is derived from the
results. A run whose row is in the table counts as finished even if its raw folder is gone, so a
committed table can be extended.

A store on a URI (s3://bucket/results/mine) keeps results and table there (sweeps/remote.py) and
works in a local folder: checkpoints, logs and leases stay there. Imports neither torch nor ray.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling import files, progress, run_progress, weights
from scaling.command_run import CommandRun, Run
from scaling.config import RECIPE, flatten
from scaling.files import write_atomic
from scaling.recorded_run import recorded
from sweeps import leases, leftovers, mirror, sharing
from sweeps.adaptive.interval import Round
from sweeps.errors import StoreError, why, writing
from sweeps.folder import Folder
from sweeps.leases import Holder
from sweeps.merged import INDEX, MergedTable
from sweeps.remote import Remote, is_uri, shown
from sweeps.result import (
    FORMAT,
    Finished,
    NewerFormat,
    Point,
    Row,
    dump,
    from_json,
    parse,
    to_json,
)
from sweeps.sharing import JOINED, Hold

_PULL_SECONDS = 5.0
"""Seconds before a store on a URI is looked at again."""

_WRITTEN = (
    "lock",
    ".stop",
    "ray.log",
    "runs",
    "rounds",
    "rungs",
    "forecasts",
    "tensorboard",
    "wandb",
    "slurm",
    JOINED,
    INDEX,
)
"""Names in a results folder that a sweep writes to, or below."""

_NEEDED_BYTES = 10 << 20
"""Free space [bytes] that a sweep needs to start."""


class Store(Folder):
    """The results folder of one sweep."""

    def __init__(self, folder: str | Path) -> None:
        """`folder` is a local folder, or a URI that pyarrow.fs or fsspec reaches.

        Raises StoreError for a URI that cannot be split into its parts.
        """
        given = str(folder).removeprefix("file://")
        self.remote = None
        if isinstance(folder, Path) and re.match(r"[a-z][a-z0-9+.-]+:/", given):
            raise StoreError(
                "a Path takes the '//' out of a URI; give the URI of a store as a string."
            )
        if is_uri(given):
            with writing(shown(given), "used"):
                self.remote = Remote(given)
        if self.remote:
            super().__init__(self.remote.mirror, shown(self.remote.uri))
        else:
            super().__init__(Path(given).absolute(), Path(given))
        self._pulled = -math.inf
        self._table = MergedTable(self.folder, self.shown)
        self.stop_file = self.folder / ".stop"
        """File that exists while a sweep is being stopped and workers write their checkpoints."""

    # -------------------------------------------------------------- reading

    def rows(self) -> dict[str, Row]:
        """Return {run_id: row} of every finished run, from the merged table and newer results.

        If the table has been edited and a row differs from the result of its run, the result takes
        precedence, and a message says so.
        """
        progress.step(f"reading the results in {self.shown(self.folder)}")
        self.pull()
        merged = self._table.rows()
        rows: dict[str, Row] = dict(merged)
        # At a URI, the table often comes from another machine.
        edited = bool(rows) and self.remote is None and not self._table.intact("runs.csv")
        measured: dict[str, Row] = {}
        for run_id in self.run_ids():
            if run_id not in merged:
                if finished := self.result(run_id):
                    rows[run_id] = finished.row
            elif edited and self.has_result(run_id) and (finished := self.result(run_id)):
                measured[run_id] = finished.row
        if measured:
            self.say(self._table.differing(merged, measured))
        return rows | measured

    def result(self, run_id: str) -> Finished | None:
        """Return the result of a run; None if it has not finished.

        A file that is not a valid result is set aside, with a message, so that the run trains
        again.
        """
        path = self.run_folder(run_id) / "result.json"
        try:
            data = files.read_bytes(path)
        except (FileNotFoundError, NotADirectoryError):
            if self.remote is None:
                return None
            with writing(self._given, "reached"):
                found = mirror.fetch(self.remote, self, run_id)
            if found is None:
                return None
            data = found
        except OSError as error:
            raise StoreError(f"{self.shown(path)} cannot be read: {why(error)}") from None
        try:
            return parse(data, run_id)
        except NewerFormat as error:
            raise self.newer_format(path, error) from None
        except ValueError as error:
            merged = run_id in self._table.rows()
            what = "its row in the table counts." if merged else "the run will train again."
            self.set_damaged_aside(path, error, f"and {what}")
            return None

    def results(self, run_ids: Iterable[str] | None = None) -> Iterator[Finished]:
        """Yield finished runs with their curves, by default all.

        Curves of a run whose own files are gone come from the merged table.
        """
        self.pull()
        rows = self._table.rows()
        wanted = {*self.run_ids(), *rows} if run_ids is None else set(run_ids)
        merged_only = {run_id for run_id in wanted & rows.keys() if not self.has_result(run_id)}
        curves, tests = (
            self._table.points(name, merged_only) if merged_only else {}
            for name in ("curves.parquet", "tests.parquet")
        )
        for run_id in sorted(wanted):
            if finished := self.result(run_id) if run_id not in merged_only else None:
                yield finished
            elif run_id in rows:
                yield Finished(rows[run_id], curves.get(run_id, []), tests.get(run_id, []))

    def manifest(self) -> dict[str, Any]:
        """Return the manifest; empty if it is missing or cannot be read."""
        self.pull()
        return self.read_object(self.folder / "manifest.json") or {}

    def rounds(self) -> list[Round]:
        """Return the rounds of designed runs, oldest first.

        A file that cannot be read is set aside, with a message; its round counts as undecided.
        """
        self.pull()
        rounds = []
        for path in self.round_files():
            try:
                values = from_json(files.read_bytes(path))
                if values["format"] > FORMAT:
                    newer = NewerFormat(f"format {values['format']}, this one reads up to {FORMAT}")
                    raise self.newer_format(path, newer)
                rounds.append(Round.of(values))
            except StoreError:
                raise
            except OSError as error:
                raise StoreError(f"{self.shown(path)} cannot be read: {why(error)}") from None
            except (
                ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError
            ) as error:  # fmt: skip
                consequence = "and its runs are no longer part of the sweep."
                self.set_damaged_aside(path, error, consequence)
        return rounds

    def running(self, run_ids: Iterable[str]) -> list[str]:
        """Return the runs whose lease some process holds now."""
        return [run_id for run_id in run_ids if leases.locked(self.run_folder(run_id) / "lock")]

    def drivers(self) -> list[Holder]:
        """Return the processes that work on this sweep now."""
        alone = leases.holder(self.folder / "lock")
        shared = sharing.joined(self)
        return [alone] if alone and not (shared and alone.sharing) else shared

    def driver(self) -> Holder | None:
        """Return a process that works on this sweep now; None if none does."""
        return next(iter(self.drivers()), None)

    def died(self, run_id: str) -> bool:
        """Return whether the last attempt at a run ended without a word, as by a kill."""
        events = self.attempts(run_id)
        return bool(events) and events[-1].get("event") == "start"

    def tags(self) -> dict[str, str]:
        """Return {run_id: tag} of every run with a row or a folder here; '' for a run without a
        tag."""
        tags = {run_id: row.get("tag") or "" for run_id, row in self._table.rows().items()}
        for run_id in self.run_ids():
            if run_id not in tags:
                config = self.read_object(self.run_folder(run_id) / "config.json") or {}
                tag = config.get("tag")
                tags[run_id] = tag if isinstance(tag, str) else ""
        return tags

    # -------------------------------------------------------------- writing

    def begin(self, run: Run) -> Path:
        """Create a run's folder with its config, and return the folder.

        Raises StoreError if the folder or anything in it is a symbolic link, which would be written
        through.
        """
        folder = self.run_folder(run.run_id)
        path = folder / "config.json"
        with self.writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            with os.scandir(folder) as entries:
                for link in [entry.path for entry in entries if entry.is_symlink()]:
                    files.check_inside(Path(link), self.folder)
            if not path.exists():
                config = recorded(run) if isinstance(run, CommandRun) else flatten(run)
                config = {"run_id": run.run_id, "recipe": RECIPE} | config
                # A run that has not begun is begun anew, so only a result needs to be synced.
                write_atomic(path, to_json(config), sync=not isinstance(run, CommandRun))
        return folder

    def finish(
        self,
        row: Row,
        curve: Sequence[Point],
        tests: Sequence[Point] | None = None,
        *,
        sync: bool = True,
    ) -> None:
        """Write a run's result, which marks it as finished. Raises StoreError.

        Without `sync`, the result reaches the disk by :meth:`sync_results`.
        """
        folder = self.run_folder(row["run_id"])
        path = folder / "result.json"
        with self.writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            if row["status"] != "ok":  # patience may have kept weights before the run failed
                weights.discard_unless(folder, None)
            write_atomic(path, data := dump(row, curve, tests or []), sync=sync)
            if self.remote:
                mirror.push_weights(self.remote, self, row["run_id"])
                self.remote.write(f"results/{row['run_id']}.json", data)
                os.utime(path)  # not older than the object, so that the object is not fetched
        for name in (run_progress.CHECKPOINT, run_progress.PROGRESS):
            with contextlib.suppress(OSError):
                (folder / name).unlink()

    def sync_results(self, run_ids: Iterable[str]) -> None:
        """Wait until the results of these runs are on the disk. Raises StoreError."""
        for run_id in run_ids:
            path = self.run_folder(run_id) / "result.json"
            with self.writing(path), contextlib.suppress(FileNotFoundError):
                files.sync(path)

    def decide(self, round: Round) -> None:
        """Record a round before any of its runs begins. Use only while the sweep is held.

        See :meth:`drive`. Raises StoreError.
        """
        self.pull(at_once=True)
        folder = self.folder / "rounds"
        with self.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            there = [int(path.stem) for path in self.round_files()]
            path = folder / f"{max(there, default=0) + 1:04d}.json"
            write_atomic(path, data := to_json({"format": FORMAT} | round.record(), indent=1))
            if self.remote:
                self.remote.write(f"rounds/{path.name}", data)

    def forget(self, run_ids: Iterable[str]) -> None:
        """Let runs train again: set their results aside and drop their rows from the table."""
        run_ids = set(run_ids)
        if not run_ids:
            return
        if run_ids & self._table.rows().keys():
            self._merge(without=run_ids)
        for run_id in sorted(run_ids):
            path = self.run_folder(run_id) / "result.json"
            for records in (f"rungs/*/{run_id}.json", f"forecasts/{run_id}.json"):
                self.remove(self.folder.glob(records))
            if path.exists():
                self.set_aside(path)
            if self.remote:
                with writing(self.shown(path)):
                    self.remote.delete(f"results/{run_id}.json")
            self.note(run_id, "retry")

    def merge(self) -> None:
        """Write runs.csv, curves.parquet and tests.parquet from everything that has finished.

        Nothing is written if the files are up to date.
        """
        progress.step("merging the results into the table")
        self.pull(at_once=True)
        self._merge(without=set())

    def _merge(self, *, without: set[str]) -> None:
        with self.writing(self.folder / "runs.csv"):
            written = self._table.merge(
                self.run_ids(), self.result, without=frozenset(without), say=self.say
            )
            for name, data in written.items() if self.remote else ():
                assert self.remote
                self.remote.write(name, data)

    def merge_is_due(self) -> bool:
        """Return whether the table differs from what :meth:`merge` would write."""
        return self._table.pending(self.run_ids())

    def write_manifest(self, values: Mapping[str, Any]) -> None:
        """Write manifest.json, after setting an unreadable one aside. Raises StoreError."""
        path = self.folder / "manifest.json"
        if path.is_file() and self.read_object(path) is None:
            error = ValueError("it is not a JSON object")
            self.set_damaged_aside(path, error, "and begun anew.")
        with self.writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data := to_json(values, indent=2) + b"\n")
            if self.remote:
                self.remote.write(path.name, data)

    def check_writable(self, need_bytes: int = _NEEDED_BYTES) -> None:
        """Raise StoreError if results could not be written here."""
        probe = self.folder / f".probe-{os.getpid()}"
        with writing(self._given):
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            self._check_links()
            files.write_new(probe, b"x")
            probe.unlink()
            if self.remote:
                self.remote.write("probe", b"x")
                self.remote.delete("probe")
            free = shutil.disk_usage(self.folder).free
        if free < need_bytes:
            raise StoreError(
                f"{self._given} has {free / 2**20:.0f} MiB free, too little for results and "
                "checkpoints. Free some space, or choose another folder with --results."
            )

    def _check_links(self) -> None:
        """Raise OSError if a link stands in place of something that a sweep writes."""
        for name in _WRITTEN:
            files.check_inside(self.folder / name, self.folder)

    def pull(self, *, at_once: bool = False) -> None:
        """Synchronise the local folder of a store on a URI with it; do nothing without a URI.

        Repeated calls within some seconds do nothing, unless `at_once`. Raises StoreError if the
        URI cannot be reached.
        """
        if self.remote is None or not (at_once or time.monotonic() - self._pulled > _PULL_SECONDS):
            return
        with writing(self._given, "reached"):
            mirror.synchronize(self.remote, self, self._table)
        self._pulled = time.monotonic()

    # -------------------------------------------------------------- tidying up

    def litter(self) -> dict[Path, int]:
        """Return {path: bytes} of what finished runs and killed processes left behind.

        Remove these only while the sweep is held (:meth:`drive`).
        """
        paths = leftovers.of_killed_processes(self, self.run_ids())
        paths += leftovers.of_finished_runs(self, self.rows())
        return {path: leftovers.size_of(path) for path in sorted(set(paths))}

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete files and folders of this store. Raises StoreError for a path outside of it."""
        for path in paths:
            with writing(path, "removed"):
                files.remove(path, self.folder)

    def remove_leftovers(self) -> None:
        """Delete half-written files of killed processes. Use only while the sweep is held."""
        finished = self._table.rows().keys()
        unfinished = [run_id for run_id in self.run_ids() if run_id not in finished]
        self.remove(leftovers.of_killed_processes(self, unfinished))

    # -------------------------------------------------------------- leases

    @contextlib.contextmanager
    def drive(self, *, share: bool = False) -> Iterator[Hold]:
        """Hold the sweep, alone or, with `share`, together with others that share it.

        A driver that cannot have that gets a StoreError that names who holds it.
        """
        with writing(self._given):
            self._check_links()
        with (sharing.shared if share else sharing.alone)(self) as hold:
            yield hold

    @contextlib.contextmanager
    def lease(self, run_id: str, *, patience: float = 0.0) -> Iterator[bool]:
        """Hold a run so that no other process trains it; yield False if one still does.

        Waits up to `patience` seconds: a worker outlives a killed driver by a moment.
        """
        path = self.run_folder(run_id) / "lock"
        with self.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lease = leases.take(path, self.shown(path), patience)
        try:
            yield lease is not None
        finally:
            if lease is not None:
                lease.close()
