"""Results on disk, safe against whatever ends a process.

    results/<sweep>/runs.csv, curves.parquet    the merged table (sweeps/merged.py); committed
                    manifest.json               spec, revision, versions, machine, corpora, wall time
                    lock                        held by the driver of the sweep
                    rounds/0001.json            a round of designed runs, decided (adaptive/interval.py)
                    runs/<run_id>/result.json   row and curve: it alone says that a run has finished
                                  config.json, attempts.jsonl, output.log
                                  checkpoint.pt, progress.json, lock    while it is under way
                    rungs/              where runs were compared on their way (sweeps.early_stopping)

A result is written to a temporary file, synced and renamed. The merged table is derived, and a run
whose row is in it counts as finished even where its raw folder is gone, so a committed table can
be extended.

The folder may be somebody else's. Ids of runs are single plain words, only regular files are read,
symbolic links in it are neither written through nor deleted through, and results are checked
against the schema.

A store on a URI (s3://bucket/results/mine) keeps results and table there (sweeps/remote.py) and
works in a local folder: checkpoints, logs and leases are of the machine that trains.
Imports neither torch nor ray.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from scaling import files
from scaling.config import RECIPE, RunConfig, flatten
from scaling.files import write_atomic
from sweeps import leases
from sweeps.adaptive.interval import Round
from sweeps.errors import StoreError, why, writing
from sweeps.merged import INDEX, MergedTable, set_aside
from sweeps.remote import Remote, is_uri, join, shown
from sweeps.result import (
    FORMAT,
    Finished,
    NewerFormat,
    Point,
    Row,
    dump,
    from_json,
    is_run_id,
    parse,
    to_json,
)

_PULL_SECONDS = 5.0

_ITS_ROW = "its row in the table counts."

_LITTER = re.compile(
    r"(checkpoint\.pt|result\.json|config\.json)\.bad-\d+|checkpoint\.(pt|pt\.new|damaged)"
    r"|progress\.json|lock"
)
"""What nobody needs any more in the folder of a finished run."""

_TEMPORARY = re.compile(
    r"\.(((result|config|manifest|\.index|\d{4,9}|[0-9a-f]{12})\.json|runs\.csv"
    r"|(curves|tests)\.parquet|progress)\.|probe-)(?P<pid>[1-9]\d{0,6})"
)
"""Names that files have while a process writes them."""

_OURS = ("lock", ".stop", "ray.log", "runs", "rounds", "rungs", "tensorboard", "wandb", INDEX)
"""Names in a results folder that are written to, or below."""


class Store:
    """The results folder of one sweep."""

    def __init__(self, folder: str | Path) -> None:
        """A local folder, or the URI of one that pyarrow.fs or fsspec reaches. StoreError where the
        URI cannot be split."""
        given = str(folder).removeprefix("file://")
        self.remote = None
        if isinstance(folder, Path) and re.match(r"[a-z][a-z0-9+.-]+:/", given):
            raise StoreError(
                "a Path takes the '//' out of a URI; give the URI of a store as a string."
            )
        if is_uri(given):
            with writing(shown(given), "used"):
                self.remote = Remote(given)
        self._given = shown(self.remote.uri) if self.remote else Path(given)
        self.folder = self.remote.mirror if self.remote else Path(given).absolute()
        self._pulled = -math.inf
        self._told: set[str] = set()
        self._table = MergedTable(self.folder, self.said)
        self._odd = 0
        self.messages: list[str] = []
        """What was set aside or repaired while reading, for the user to see."""
        self.stop_file = self.folder / ".stop"
        """There while a sweep is being stopped: workers write their checkpoints."""

    # -------------------------------------------------------------- reading

    def run_folder(self, run_id: str) -> Path:
        """Where a run keeps its files. Raises StoreError for what cannot be the id of a run."""
        if not is_run_id(run_id):
            raise StoreError(
                f"{self._given}: {run_id!r} cannot be the id of a run, which is one plain word."
            )
        return self.folder / "runs" / run_id

    def said(self, path: Path) -> Path | str:
        """A path in this store as messages name it: below the folder as it was given."""
        inner = path.relative_to(self.folder)
        if isinstance(self._given, Path):
            return self._given / inner
        return join(self._given, str(inner)) if inner.parts else self._given

    def rows(self) -> dict[str, Row]:
        """{run_id: row} of every finished run, from the merged table and from what came after it.

        Where the table is not as it was written, and a row differs from the result of its run, the
        result counts, and a message says so.
        """
        self.pull()
        rows: dict[str, Row] = dict(self._table.rows())
        ids = self._run_ids()
        # Behind a URI the table is another machine's as often as not.
        edited = bool(rows) and self.remote is None and not self._table.intact("runs.csv")
        measured: dict[str, Row] = {}
        for run_id in ids:
            if run_id not in rows:
                if finished := self.result(run_id):
                    rows[run_id] = finished.row
            elif edited and self.has_result(run_id) and (finished := self.result(run_id)):
                measured[run_id] = finished.row
        if measured:
            self._say(self._table.differing(rows, measured))
        return rows | measured

    def result(self, run_id: str) -> Finished | None:
        """The result of a run; None where it has not finished.

        A file that is no result is set aside, with a message, so that the run trains again.
        """
        path = self.run_folder(run_id) / "result.json"
        try:
            data = files.read_bytes(path)
        except (FileNotFoundError, NotADirectoryError):
            if self.remote is None or (found := self._fetch(run_id)) is None:
                return None
            data = found
        except OSError as error:
            raise StoreError(f"{self.said(path)} cannot be read: {why(error)}") from None
        try:
            return parse(data, run_id)
        except NewerFormat as error:
            raise StoreError(self._newer(path, error)) from None
        except ValueError as error:
            kept = run_id in self._table.rows()
            self._set_aside(path, error, f"and {_ITS_ROW if kept else 'the run will train again.'}")
            return None

    def _set_aside(self, path: Path, error: Exception, what: str) -> None:
        aside = self.set_aside(path)
        self._say(f"{self.said(path)} is damaged ({error}); it was kept as {aside.name}, {what}")

    def _newer(self, path: Path, error: Exception) -> str:
        return (
            f"{self.said(path)} was written by a newer version ({error}). Update the package, or use "
            "another results folder."
        )

    def _say(self, message: str) -> None:
        """Tell the user, once."""
        if message and message not in self._told:
            self._told.add(message)
            self.messages.append(message)

    def has_result(self, run_id: str) -> bool:
        """Whether the result of a run lies on this machine; it is not read."""
        return (self.run_folder(run_id) / "result.json").exists()

    def results(self, run_ids: Iterable[str] | None = None) -> Iterator[Finished]:
        """Finished runs (all, or those named) with curves, from files of their own or the table."""
        self.pull()
        rows = self._table.rows()
        wanted = {*self._run_ids(), *rows} if run_ids is None else set(run_ids)
        alone = {run_id for run_id in wanted & rows.keys() if not self.has_result(run_id)}
        curves, tests = (
            self._table.points(name, alone) if alone else {}
            for name in ("curves.parquet", "tests.parquet")
        )
        for run_id in sorted(wanted):
            if finished := self.result(run_id) if run_id not in alone else None:
                yield finished
            elif run_id in rows:
                yield Finished(rows[run_id], curves.get(run_id, []), tests.get(run_id, []))

    def killed(self, run_id: str) -> int:
        """How often a worker died under this run since it was last let loose."""
        deaths = 0
        for attempt in self.attempts(run_id):
            deaths = 0 if attempt.get("event") == "retry" else deaths
            deaths += attempt.get("event") == "killed"
        return deaths

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """The events of a run's attempts, oldest first; what is no event, such as a torn last line,
        is left out."""
        try:
            lines = files.read_bytes(self.run_folder(run_id) / "attempts.jsonl").splitlines()
        except OSError:
            return []
        events = []
        for line in lines:
            with contextlib.suppress(ValueError):
                events.append(from_json(line))
        return [event for event in events if isinstance(event, dict)]

    def progress(self, run_id: str) -> dict[str, float] | None:
        """What a run under way last reported, its numbers; None where it has reported nothing."""
        values = self._object(self.run_folder(run_id) / "progress.json")
        if values is None:
            return None
        numbers = {k: v for k, v in values.items() if type(v) in (int, float) and abs(v) < 2**63}
        return {key: value for key, value in numbers.items() if value >= 0}

    def _object(self, path: Path) -> dict[str, Any] | None:
        """The object of a JSON file; None where there is none that can be read."""
        try:
            values = from_json(files.read_bytes(path))
        except (OSError, ValueError):
            return None
        return values if isinstance(values, dict) else None

    def manifest(self) -> dict[str, Any]:
        """The manifest; empty where there is none yet, or where it cannot be read."""
        self.pull()
        return self._object(self.folder / "manifest.json") or {}

    def rounds(self) -> list[Round]:
        """Rounds of designed runs, oldest first. A file that cannot be read is set aside, with a
        message, and its round counts as undecided."""
        self.pull()
        rounds = []
        for path in self._round_files():
            try:
                values = from_json(files.read_bytes(path))
                if values["format"] > FORMAT:
                    newer = NewerFormat(f"format {values['format']}, this one reads up to {FORMAT}")
                    raise StoreError(self._newer(path, newer))
                rounds.append(Round.of(values))
            except StoreError:
                raise
            except OSError as error:
                raise StoreError(f"{self.said(path)} cannot be read: {why(error)}") from None
            except (
                ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError
            ) as error:  # fmt: skip
                self._set_aside(path, error, "and its runs are no longer part of the sweep.")
        return rounds

    def _round_files(self) -> list[Path]:
        paths = (self.folder / "rounds").glob("*.json")
        return sorted((p for p in paths if _is_round(p.name)), key=lambda path: int(path.stem))

    def running(self, run_ids: Iterable[str]) -> list[str]:
        """Those of the runs whose lease is held by some process now."""
        return [run_id for run_id in run_ids if leases.locked(self.run_folder(run_id) / "lock")]

    def driver(self) -> tuple[int, str] | None:
        """(pid, host) of the process that works on this sweep now; None where there is none."""
        return leases.holder(self.folder / "lock")

    def tags(self) -> dict[str, str]:
        """{run_id: tag} of every run that has a row or a folder here; '' where it has none."""
        tags = {run_id: row.get("tag") or "" for run_id, row in self._table.rows().items()}
        for run_id in self._run_ids():
            if run_id not in tags:
                config = self._object(self.run_folder(run_id) / "config.json") or {}
                tag = config.get("tag")
                tags[run_id] = tag if isinstance(tag, str) else ""
        return tags

    def _run_ids(self) -> list[str]:
        """Names of the run folders. Links and what cannot be the id of a run are left out."""
        try:
            with os.scandir(self.folder / "runs") as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(
                f"{self.said(self.folder / 'runs')} cannot be read: {why(error)}"
            ) from None
        return sorted(name for name, is_folder in found if is_folder and is_run_id(name))

    # -------------------------------------------------------------- tidying up

    def litter(self) -> dict[Path, int]:
        """{path: bytes} of what finished runs and killed processes left and nobody needs any more.

        Only to be removed while the sweep is held (:meth:`drive`).
        """
        paths = self._leftovers(self._run_ids())
        for run_id in self.rows():
            folder = self.run_folder(run_id)
            with contextlib.suppress(OSError):
                files.check_inside(folder, self.folder)
                paths += [path for path in folder.iterdir() if _LITTER.fullmatch(path.name)]
        return {path: _size(path) for path in sorted(set(paths))}

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete files and folders of this store. Raises StoreError for what lies outside it."""
        for path in paths:
            with writing(path, "removed"):
                files.remove(path, self.folder)

    def remove_leftovers(self) -> None:
        """Delete what killed processes left half written. Only while the sweep is held."""
        finished = self._table.rows().keys()
        self.remove(self._leftovers([i for i in self._run_ids() if i not in finished]))

    def _leftovers(self, run_ids: Sequence[str]) -> list[Path]:
        """Temporary files and folders whose process is gone. Here and in rounds/ only the driver
        writes; in a run's folder, and of its rungs, who holds its lease."""
        found = [p for p in self.folder.glob(".merge-*") if p.is_dir()]
        found += [p for p in self.folder.glob("rungs/*/.*") if _is_left(p.name)]
        for folder in (self.folder, self.folder / "rounds"):
            found += [path for path in folder.glob(".*") if _is_left(path.name)]
        for run_id in run_ids:
            with contextlib.suppress(OSError), os.scandir(self.run_folder(run_id)) as entries:
                left = [entry.name for entry in entries if _is_left(entry.name)]
                if left and not self.running([run_id]):
                    found += [self.run_folder(run_id) / name for name in left]
        return [path for path in found if self._is_inside(path)]

    def _is_inside(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            files.check_inside(path, self.folder)
            return True
        return False

    # -------------------------------------------------------------- writing

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """As :func:`sweeps.errors.writing`, of a path that no link leads to."""
        with writing(self.said(path)):
            files.check_inside(path, self.folder)
            yield

    def begin(self, run: RunConfig) -> Path:
        """Make a run's folder, holding its config; returns it. Raises StoreError where the folder or
        anything in it is a symbolic link: it would be written through."""
        folder = self.run_folder(run.run_id)
        path = folder / "config.json"
        with self._writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            with os.scandir(folder) as entries:
                for link in [entry.path for entry in entries if entry.is_symlink()]:
                    files.check_inside(Path(link), self.folder)
            if not path.exists():
                write_atomic(path, to_json({"run_id": run.run_id, "recipe": RECIPE} | flatten(run)))
        return folder

    def finish(
        self, row: Row, curve: Sequence[Point], tests: Sequence[Point] | None = None
    ) -> None:
        """Write a run's result; from here on it has finished. Raises StoreError."""
        folder = self.run_folder(row["run_id"])
        path = folder / "result.json"
        with self._writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data := dump(row, curve, tests or []))
            if self.remote:
                self.remote.write(f"results/{row['run_id']}.json", data)
                os.utime(path)  # not older than what lies there
        for name in ("checkpoint.pt", "progress.json"):
            with contextlib.suppress(OSError):
                (folder / name).unlink()

    def decide(self, round: Round) -> None:
        """Record a round, before any of its runs begins. Only while the sweep is held (:meth:`drive`).

        Raises StoreError.
        """
        self.pull(at_once=True)
        folder = self.folder / "rounds"
        with self._writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            there = [int(path.stem) for path in self._round_files()]
            path = folder / f"{max(there, default=0) + 1:04d}.json"
            write_atomic(path, data := to_json({"format": FORMAT} | round.record(), indent=1))
            if self.remote:
                self.remote.write(f"rounds/{path.name}", data)

    def note(self, run_id: str, event: str, **details: Any) -> None:
        """Append an event to a run's attempts."""
        path = self.run_folder(run_id) / "attempts.jsonl"
        values = {"event": event, "time": now(), **details}
        with self._writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.open_to_append(path) as file:
                torn = os.fstat(file.fileno()).st_size and not _ends_line(path)
                file.write(("\n" if torn else "") + to_json(values).decode() + "\n")

    def log(self, run_id: str, text: str) -> None:
        """Append to a run's output.log what its worker could not write itself."""
        path = self.run_folder(run_id) / "output.log"
        with self._writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.open_to_append(path) as file:
                file.write(f"{text.rstrip()}\n")

    def report_progress(self, run_id: str, values: Row) -> None:
        """Say how far a run is. Never fails: nothing measured hangs on it."""
        path = self.run_folder(run_id) / "progress.json"
        with contextlib.suppress(OSError):
            temporary = path.with_name(f".progress.{os.getpid()}")
            files.write_new(temporary, to_json(values))
            os.replace(temporary, path)

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged file to the next free `<name>.bad-<n>`; returns the new path."""
        with self._writing(path.parent if path.is_symlink() else path):
            return set_aside(path)

    def forget(self, run_ids: Iterable[str]) -> None:
        """Let runs train again: their results are set aside and their rows leave the table."""
        run_ids = set(run_ids)
        if not run_ids:
            return
        if run_ids & self._table.rows().keys():
            self._merge(without=run_ids)
        for run_id in sorted(run_ids):
            path = self.run_folder(run_id) / "result.json"
            self.remove(self.folder.glob(f"rungs/*/{run_id}.json"))
            if path.exists():
                self.set_aside(path)
            if self.remote:
                with writing(self.said(path)):
                    self.remote.delete(f"results/{run_id}.json")
            self.note(run_id, "retry")

    def merge(self) -> None:
        """Write runs.csv, curves.parquet and tests.parquet from everything that has finished; nothing
        where they are as this would write them."""
        self.pull(at_once=True)
        self._merge(without=set())

    def _merge(self, *, without: set[str]) -> None:
        with self._writing(self.folder / "runs.csv"):
            written = self._table.merge(
                self._run_ids(), self.result, without=frozenset(without), say=self._say
            )
            for name, data in written.items() if self.remote else ():
                assert self.remote
                self.remote.write(name, data)

    def merge_is_due(self) -> bool:
        """Whether the table differs from what :meth:`merge` would write."""
        return self._table.pending(self._run_ids())

    def write_manifest(self, values: Row) -> None:
        """Write manifest.json. One that cannot be read is set aside first, with a message. Raises
        StoreError."""
        path = self.folder / "manifest.json"
        if path.is_file() and self._object(path) is None:
            self._set_aside(path, ValueError("it is not a JSON object"), "and begun anew.")
        with self._writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data := to_json(values, indent=2) + b"\n")
            if self.remote:
                self.remote.write(path.name, data)

    def check_writable(self, need_bytes: int = 10 << 20) -> None:
        """Raise StoreError, before anything starts, where results could not be written."""
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
        """Raise OSError where a link stands in place of what is written here."""
        for name in _OURS:
            files.check_inside(self.folder / name, self.folder)

    # -------------------------------------------------------------- a store on a URI

    def pull(self, *, at_once: bool = False) -> None:
        """Bring the local folder of a store on a URI level with it, both ways; else nothing.

        Looks again after some seconds, or at once. Raises StoreError where it cannot be reached.
        """
        if self.remote is None or not (at_once or time.monotonic() - self._pulled > _PULL_SECONDS):
            return
        with writing(self._given, "reached"):
            self.folder.mkdir(parents=True, exist_ok=True)
            stamps = self.remote.results_here()
            there = stamps.keys()
            for name in ("tests.parquet", "curves.parquet", "runs.csv", "manifest.json"):
                data = self.remote.read(name)
                if data is not None and data != self._bytes(self.folder / name):
                    write_atomic(self.folder / name, data)
            here = set(filter(self.has_result, self._run_ids()))
            rows = self._table.rows()
            older = {run_id for run_id in here & there if self._is_older(run_id, *stamps[run_id])}
            for run_id, data in self.remote.results((there - here - rows.keys()) | older):
                self._keep(run_id, data)
            for run_id in here - there - rows.keys():  # written here as the connection broke
                data = (self.run_folder(run_id) / "result.json").read_bytes()
                self.remote.write(f"results/{run_id}.json", data)
            self._pull_rounds(self.remote)
        self._say_odd(self.remote)
        self._pulled = time.monotonic()

    @staticmethod
    def _bytes(path: Path) -> bytes | None:
        with contextlib.suppress(OSError):
            return files.read_bytes(path)
        return None

    def _is_older(self, run_id: str, size: int, changed: float) -> bool:
        """Whether another machine has replaced a result since it was written, or fetched, here."""
        status = (self.run_folder(run_id) / "result.json").stat()
        return status.st_size != size or status.st_mtime < changed

    def _pull_rounds(self, remote: Remote) -> None:
        folder = self.folder / "rounds"
        here = {path.name for path in self._round_files()}
        there = {name for name in remote.objects("rounds") if _is_round(name)}
        for name in there - here:
            if (data := remote.read(f"rounds/{name}")) is not None:
                folder.mkdir(exist_ok=True)
                write_atomic(folder / name, data)
        for name in here - there:
            remote.write(f"rounds/{name}", (folder / name).read_bytes())

    def _say_odd(self, remote: Remote) -> None:
        """Name once the objects whose names could not be those of files here."""
        if odd := remote.odd[self._odd :]:
            some = ", ".join(map(repr, odd[:3])) + (", ..." if len(odd) > 3 else "")
            self.messages.append(
                f"{self._given} has {len(odd)} objects whose names are no plain words ({some}); they "
                "are left alone."
            )
            self._odd = len(remote.odd)

    def _fetch(self, run_id: str) -> bytes | None:
        """A result that another machine has stored since the last look."""
        assert self.remote is not None
        with writing(self._given, "reached"):
            data = self.remote.read(f"results/{run_id}.json")
            if data is not None and self._keep(run_id, data):
                return data
        return None

    def _keep(self, run_id: str, data: bytes) -> bool:
        """Store a result of the URI here; one that is damaged stays there until the run is trained
        again, and a message says so."""
        path = self.run_folder(run_id) / "result.json"
        try:
            parse(data, run_id)
        except NewerFormat as error:
            raise StoreError(self._newer(path, error)) from None
        except ValueError as error:
            self._say(f"{self.said(path)} is damaged ({error}); the run will train again.")
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        return True

    # -------------------------------------------------------------- leases

    @contextlib.contextmanager
    def drive(self) -> Iterator[None]:
        """Hold the sweep: a second driver on one folder gets a StoreError that names the first."""
        path = self.folder / "lock"
        with writing(self._given):
            self._check_links()
        # Others take the lock for a moment to see whether it is held.
        lease = leases.take(path, self.said(path), patience=0.5)
        if lease is None:
            held = "another process"
            with contextlib.suppress(OSError, ValueError):
                held = files.read_text(path).strip() or held
            raise StoreError(
                f"{self._given} is being worked on by {held}. Wait for it (`scaling status` shows "
                "it), or choose another folder with --results."
            )
        try:
            yield
        finally:
            lease.close()

    @contextlib.contextmanager
    def lease(self, run_id: str, *, patience: float = 0.0) -> Iterator[bool]:
        """Hold a run so that no second process trains it; False where another one still does.

        Waits up to `patience` seconds: a worker outlives a killed driver by a moment.
        """
        path = self.run_folder(run_id) / "lock"
        with self._writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lease = leases.take(path, self.said(path), patience)
        try:
            yield lease is not None
        finally:
            if lease is not None:
                lease.close()


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder; links are not followed."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            return sum(_size(inner) for inner in path.iterdir())
        return path.lstat().st_size
    return 0


def _is_round(name: str) -> bool:
    return re.fullmatch(r"[0-9]{4,9}\.json", name) is not None


def _is_left(name: str) -> bool:
    """Whether a temporary file of this name, one that we give, is of a process that is gone from this
    machine."""
    found = _TEMPORARY.fullmatch(name)
    if found is None:
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def now() -> str:
    """The time of day with its zone, as events carry it."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
