"""Results on disk, safe against whatever ends a process.

    results/<sweep>/runs.csv, curves.parquet    the merged table (scaling.table); committed
                    manifest.json               spec, revision, versions, machine, corpora, wall time
                    lock                        held by the driver of the sweep
                    rounds/0001.json            a round of designed runs, decided (sweeps/interval.py)
                    runs/<run_id>/result.json   row and curve: it alone says that a run has finished
                                  config.json, attempts.jsonl, output.log
                                  checkpoint.pt, progress.json, lock    while it is under way
                    rungs/              where runs were compared on their way (sweeps.halving)

A result is written to a temporary file, synced and renamed. The merged table is derived, and a run
whose row is in it counts as finished even where its raw folder is gone, so a committed table can
be extended.

A store on a URI (s3://bucket/results/mine) keeps results and table there (sweeps/remote.py) and
works in a local folder: checkpoints, logs and leases are of the machine that trains.
Imports neither torch nor ray.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import json
import math
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from scaling import table
from scaling.config import RECIPE, RunConfig, fields_of, flatten
from sweeps.interval import Round
from sweeps.remote import Remote, is_uri, join, shown

FORMAT = 1
"""Version of result.json."""

Row = dict[str, Any]

_PULL_SECONDS = 5.0

_KEPT = ("result.json", "config.json", "attempts.jsonl", "output.log")
"""What stays of a finished run."""


class StoreError(ValueError):
    """A results folder that cannot be used or written: names the file and what to do."""


@dataclass(frozen=True)
class Finished:
    """A finished run as the store holds it."""

    row: Row
    """Keys of scaling.table.COLUMNS."""
    curve: list[Row]
    """Keys of scaling.table.CURVE_COLUMNS."""
    tests: list[Row] = field(default_factory=list)
    """Keys of scaling.table.TEST_COLUMNS."""


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
        self._odd = 0
        self.messages: list[str] = []
        """What was set aside or repaired while reading, for the user to see."""
        self.stop_file = self.folder / ".stop"
        """There while a sweep is being stopped: workers write their checkpoints."""

    # -------------------------------------------------------------- reading

    def run_folder(self, run_id: str) -> Path:
        return self.folder / "runs" / run_id

    def said(self, path: Path) -> Path | str:
        """A path in this store as messages name it: below the folder as it was given."""
        inner = path.relative_to(self.folder)
        if isinstance(self._given, Path):
            return self._given / inner
        return join(self._given, str(inner)) if inner.parts else self._given

    def rows(self) -> dict[str, Row]:
        """{run_id: row} of every finished run, from the merged table and from what came after it."""
        self.pull()
        rows = self._table_rows()
        for run_id in self._run_ids():
            if run_id not in rows and (finished := self.result(run_id)):
                rows[run_id] = finished.row
        return rows

    def merged(self) -> set[str]:
        """Runs whose rows are in the merged table."""
        return set(self._table_rows())

    def result(self, run_id: str) -> Finished | None:
        """The result of a run; None where it has not finished.

        A file that is no result is set aside, with a message, so that the run trains again.
        """
        path = self.run_folder(run_id) / "result.json"
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if self.remote is None or (found := self._fetch(run_id)) is None:
                return None
            text = found
        except OSError as error:
            raise StoreError(f"{self.said(path)} cannot be read: {_why(error)}") from None
        try:
            values = json.loads(text)
            if values["format"] > FORMAT:
                raise StoreError(self._newer(path, values["format"]))
            row, curve = _NEW_FIELDS | values["row"], values["curve"]
            tests = values.get("tests", [])
            if row["run_id"] != run_id or row["status"] not in table.STATUSES:
                raise ValueError(f"it belongs to run {row['run_id']} ({row['status']})")
            if not all(isinstance(point, dict) for point in curve):
                raise ValueError("its curve is no list of points")
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            aside = self.set_aside(path)
            self.messages.append(
                f"{self.said(path)} is damaged ({error}); kept as {aside.name}, trains again."
            )
            return None
        return Finished(row, curve, tests)

    def _newer(self, path: Path, format: int) -> str:
        return (
            f"{self.said(path)} was written by a newer version (format {format}, this one reads up to "
            f"{FORMAT}). Update the package, or use another results folder."
        )

    def has_result(self, run_id: str) -> bool:
        """Whether the result of a run lies on this machine; it is not read."""
        return (self.run_folder(run_id) / "result.json").exists()

    def results(self, run_ids: Iterable[str] | None = None) -> Iterator[Finished]:
        """Finished runs (all, or those named) with curves, from files of their own or the table."""
        self.pull()
        rows, files = self._table_rows(), set(self._run_ids())
        wanted = {*files, *rows} if run_ids is None else set(run_ids)
        alone = wanted & rows.keys() - files
        curves, tests = (
            self._table_points(name, alone) if alone else {}
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

    def attempts(self, run_id: str) -> list[Row]:
        """The events of a run's attempts, oldest first; a torn last line is left out."""
        try:
            lines = (self.run_folder(run_id) / "attempts.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        events = []
        for line in lines:
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        return [event for event in events if isinstance(event, dict)]

    def progress(self, run_id: str) -> Row | None:
        """What a run under way last said of itself; None where it has said nothing."""
        try:
            values = json.loads((self.run_folder(run_id) / "progress.json").read_bytes())
        except (OSError, ValueError):
            return None
        return values if isinstance(values, dict) else None

    def manifest(self) -> Row:
        """The manifest; empty where there is none yet, or where it cannot be read."""
        self.pull()
        try:
            values = json.loads((self.folder / "manifest.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def rounds(self) -> list[Round]:
        """Rounds of designed runs, oldest first. A file that holds none is set aside, with a message:
        that round was not decided."""
        self.pull()
        rounds = []
        for path in sorted((self.folder / "rounds").glob("????.json")):
            try:
                values = json.loads(path.read_bytes())
                if values["format"] > FORMAT:
                    raise StoreError(self._newer(path, values["format"]))
                rounds.append(Round.of(values))
            except StoreError:
                raise
            except OSError as error:
                raise StoreError(f"{self.said(path)} cannot be read: {_why(error)}") from None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                aside = self.set_aside(path)
                self.messages.append(
                    f"{self.said(path)} is damaged ({error}); kept as {aside.name}: its runs are no "
                    "longer part of the sweep."
                )
        return rounds

    def running(self, run_ids: Iterable[str]) -> list[str]:
        """Those of the runs whose lease is held by some process now."""
        return [run_id for run_id in run_ids if self._locked(self.run_folder(run_id) / "lock")]

    def driver(self) -> tuple[int, str] | None:
        """(pid, host) of the process that works on this sweep now; None where there is none."""
        path = self.folder / "lock"
        if not self._locked(path):
            return None
        try:
            said = re.fullmatch(r"process (\d+) on (.+)\n", path.read_text())
        except OSError:
            return None
        return (int(said[1]), said[2]) if said else None

    def tags(self) -> dict[str, str]:
        """{run_id: tag} of every run that has a row or a folder here; '' where it has none."""
        tags = {run_id: row.get("tag") or "" for run_id, row in self._table_rows().items()}
        for run_id in self._run_ids():
            if run_id not in tags:
                config: Row = {}
                with contextlib.suppress(OSError, ValueError):
                    config = json.loads((self.run_folder(run_id) / "config.json").read_bytes())
                tags[run_id] = config.get("tag") or ""
        return tags

    def litter(self) -> dict[Path, int]:
        """{path: bytes} of what finished runs and killed processes left and nobody needs any more.

        Only to be removed while the sweep is held (:meth:`drive`).
        """
        paths = [p for p in self.folder.glob(".*") if p.name.startswith((".merge-", ".probe-"))]
        for run_id in self.rows():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                folder = self.run_folder(run_id)
                paths += [path for path in folder.iterdir() if path.name not in _KEPT]
        return {
            path: sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
            for path in sorted(paths)
        }

    # -------------------------------------------------------------- writing

    def begin(self, run: RunConfig) -> Path:
        """Make a run's folder, holding its config; returns it."""
        folder = self.run_folder(run.run_id)
        path = folder / "config.json"
        with writing(self.said(path)):
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_atomic(path, _json({"run_id": run.run_id, "recipe": RECIPE} | flatten(run)))
        return folder

    def finish(self, row: Row, curve: list[Row], tests: list[Row] | None = None) -> None:
        """Write a run's result; from here on it has finished. Raises StoreError."""
        folder = self.run_folder(row["run_id"])
        values = {
            "format": FORMAT,
            "recipe": RECIPE,
            "row": row,
            "curve": curve,
            "tests": tests or [],
        }
        path = folder / "result.json"
        with writing(self.said(path)):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data := _json(values))
            if self.remote:
                self.remote.write(f"results/{row['run_id']}.json", data)
        for name in ("checkpoint.pt", "progress.json"):
            with contextlib.suppress(OSError):
                (folder / name).unlink()

    def decide(self, round: Round) -> None:
        """Record a round, before any of its runs begins. Only while the sweep is held (:meth:`drive`).

        Raises StoreError.
        """
        self.pull(at_once=True)
        folder = self.folder / "rounds"
        with writing(self.said(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            there = [int(path.stem) for path in folder.glob("????.json")]
            path = folder / f"{max(there, default=0) + 1:04d}.json"
            write_atomic(path, data := _json({"format": FORMAT} | round.record(), indent=1))
            if self.remote:
                self.remote.write(f"rounds/{path.name}", data)

    def note(self, run_id: str, event: str, **details: Any) -> None:
        """Append an event to a run's attempts."""
        path = self.run_folder(run_id) / "attempts.jsonl"
        values = {"event": event, "time": now(), **details}
        with writing(self.said(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                if file.tell() and not _ends_line(path):
                    file.write(b"\n")
                file.write(_json(values) + b"\n")

    def log(self, run_id: str, text: str) -> None:
        """Append to a run's output.log what its worker could not write itself."""
        path = self.run_folder(run_id) / "output.log"
        with writing(self.said(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{text.rstrip()}\n")

    def report_progress(self, run_id: str, values: Row) -> None:
        """Say how far a run is. Never fails: nothing measured hangs on it."""
        path = self.run_folder(run_id) / "progress.json"
        with contextlib.suppress(OSError):
            temporary = path.with_name(f".progress.{os.getpid()}")
            temporary.write_bytes(_json(values))
            os.replace(temporary, path)

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged file to the next free `<name>.bad-<n>`; returns the new path."""
        number = 1
        while (aside := path.with_name(f"{path.name}.bad-{number}")).exists():
            number += 1
        with writing(self.said(path)):
            os.replace(path, aside)
        return aside

    def forget(self, run_ids: Iterable[str]) -> None:
        """Let runs train again: their results are set aside and their rows leave the table."""
        run_ids = set(run_ids)
        if not run_ids:
            return
        if run_ids & self._table_rows().keys():
            self._write_table(without=run_ids)
        for run_id in sorted(run_ids):
            path = self.run_folder(run_id) / "result.json"
            with writing(self.said(self.folder / "rungs")):
                for record in self.folder.glob(f"rungs/*/{run_id}.json"):
                    record.unlink()
            if path.exists():
                self.set_aside(path)
            if self.remote:
                with writing(self.said(path)):
                    self.remote.delete(f"results/{run_id}.json")
            self.note(run_id, "retry")

    def merge(self) -> None:
        """Write runs.csv, curves.parquet and tests.parquet from everything that has finished."""
        self.pull(at_once=True)
        self._write_table(without=set())

    def write_manifest(self, values: Row) -> None:
        """Write manifest.json. Raises StoreError."""
        path = self.folder / "manifest.json"
        with writing(self.said(path)):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data := _json(values, indent=2) + b"\n")
            if self.remote:
                self.remote.write(path.name, data)

    def check_writable(self, need_bytes: int = 10 << 20) -> None:
        """Raise StoreError, before anything starts, where results could not be written."""
        probe = self.folder / f".probe-{os.getpid()}"
        with writing(self._given):
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"x")
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

    # -------------------------------------------------------------- a store on a URI

    def pull(self, *, at_once: bool = False) -> None:
        """Bring the local folder of a store on a URI level with it, both ways; else nothing.

        Looks again after some seconds, or at once. Raises StoreError where it cannot be reached.
        """
        if self.remote is None or not (at_once or time.monotonic() - self._pulled > _PULL_SECONDS):
            return
        with writing(self._given, "reached"):
            self.folder.mkdir(parents=True, exist_ok=True)
            there = self.remote.run_ids()
            for name in ("tests.parquet", "curves.parquet", "runs.csv", "manifest.json"):
                if (data := self.remote.read(name)) is not None:
                    write_atomic(self.folder / name, data)
            files = set(filter(self.has_result, self._run_ids()))
            rows = self._table_rows()
            for run_id, data in self.remote.results(there - files - rows.keys()):
                self._keep(run_id, data)
            for run_id in files - there - rows.keys():  # written here as the connection broke
                data = (self.run_folder(run_id) / "result.json").read_bytes()
                self.remote.write(f"results/{run_id}.json", data)
            self._pull_rounds(self.remote)
        self._say_odd(self.remote)
        self._pulled = time.monotonic()

    def _pull_rounds(self, remote: Remote) -> None:
        folder = self.folder / "rounds"
        here, there = ({path.name for path in folder.glob("????.json")}, remote.names("rounds"))
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
            if data is not None:
                self._keep(run_id, data)
        return data

    def _keep(self, run_id: str, data: bytes) -> None:
        folder = self.run_folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "result.json", data)

    # -------------------------------------------------------------- leases

    @contextlib.contextmanager
    def drive(self) -> Iterator[None]:
        """Hold the sweep: a second driver on one folder gets a StoreError that names the first."""
        path = self.folder / "lock"
        lease = self._lease(
            path, patience=0.5
        )  # whoever looks whether it is held, holds it shortly
        if lease is None:
            with contextlib.suppress(OSError):
                held = path.read_text().strip()
                raise StoreError(
                    f"{self._given} is being worked on by {held or 'another process'}. Wait for it "
                    "(`scaling status` shows it), or choose another folder with --results."
                )
            raise StoreError(f"{self._given} is being worked on by another process.")
        try:
            yield
        finally:
            lease.close()

    @contextlib.contextmanager
    def lease(self, run_id: str, *, patience: float = 0.0) -> Iterator[bool]:
        """Hold a run so that no second process trains it; False where another one still does.

        Waits up to `patience` seconds: a worker outlives a killed driver by a moment.
        """
        lease = self._lease(self.run_folder(run_id) / "lock", patience)
        try:
            yield lease is not None
        finally:
            if lease is not None:
                lease.close()

    def _lease(self, path: Path, patience: float) -> Any:
        """An open, locked file, or None where another process still holds it after `patience` s."""
        deadline = time.monotonic() + patience
        while (lease := self._try_lease(path)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return lease

    def _try_lease(self, path: Path) -> Any:
        with writing(self.said(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise StoreError(
                f"{self.said(path)} cannot be locked ({error.strerror}); keep results on a file system that "
                "supports flock."
            ) from None
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        return file

    @staticmethod
    def _locked(path: Path) -> bool:
        try:
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    # -------------------------------------------------------------- the merged table

    def _run_ids(self) -> list[str]:
        try:
            with os.scandir(self.folder / "runs") as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _table_rows(self) -> dict[str, Row]:
        """Rows of runs.csv. The csv module reads floats exactly, and starts in no time."""
        path = self.folder / "runs.csv"
        kinds = {c.name: c.dtype for c in table.COLUMNS}
        rows = {}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                header = next(reader, [])
                if "run_id" not in header or "status" not in header:
                    raise StoreError(
                        f"{self.said(path)} is not a results table (no run_id, no status). Move it away, or "
                        "choose another folder with --results."
                    )
                parse = [_PARSE[kinds.get(name, "str")] for name in header]
                index = header.index("run_id")
                new = {name: value for name, value in _NEW_FIELDS.items() if name not in header}
                for cells in reader:
                    if len(cells) != len(header):
                        raise ValueError(f"line {reader.line_num} has {len(cells)} cells")
                    row = {
                        name: read(cell) if cell or read is str else None
                        for name, read, cell in zip(header, parse, cells, strict=True)
                    }
                    rows[cells[index]] = new | row if new else row
        except FileNotFoundError:
            return {}
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"{self.said(path)} cannot be read: {_why(error)}") from None
        except (ValueError, csv.Error) as error:
            raise StoreError(
                f"{self.said(path)} is damaged: {error}. Restore it; or delete it, and it is written again "
                "from the finished runs in runs/."
            ) from None
        return rows

    def _table_points(self, name: str, run_ids: set[str]) -> dict[str, list[Row]]:
        """{run_id: points} as curves.parquet or tests.parquet has them; none where it has none."""
        found: dict[str, list[Row]] = {run_id: [] for run_id in run_ids}
        points = table.read_points(self.folder, name)
        for point in points[points.run_id.isin(run_ids)].to_dict("records"):
            plain = {str(k): v.tolist() if hasattr(v, "tolist") else v for k, v in point.items()}
            found[point["run_id"]].append(plain)
        return found

    def _write_table(self, *, without: set[str]) -> None:
        rows = self._table_rows()
        old = {name: table.read_points(self.folder, name) for name in table.POINTS}
        merged = rows.keys() & set(old["curves.parquet"].run_id)
        new: dict[str, list[Row]] = {name: [] for name in table.POINTS}
        for run_id in self._run_ids():
            if run_id not in merged and (finished := self.result(run_id)):
                rows[run_id] = finished.row
                new["curves.parquet"] += finished.curve
                new["tests.parquet"] += finished.tests
        fresh = {point["run_id"] for points in new.values() for point in points}
        stay = rows.keys() - fresh - without
        points = {
            name: table.points(name, old[name][old[name].run_id.isin(stay)], new[name])
            for name in table.POINTS
        }
        with writing(self.said(self.folder / "runs.csv")):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".merge-", dir=self.folder) as scratch:
                kept = [row for run_id, row in rows.items() if run_id not in without]
                table.write_points(scratch, kept, points)
                # The rows last: a run counts as finished by its row.
                for name in (*table.POINTS, "runs.csv"):
                    write_atomic(self.folder / name, data := Path(scratch, name).read_bytes())
                    if self.remote:
                        self.remote.write(name, data)


_NEW_FIELDS = {key.rpartition(".")[2]: default for key, (_, default) in fields_of().items()}
"""What a run of an older version was, in fields that it did not know: a field's default leaves
existing runs as they were."""
_NEW_FIELDS = table.config_row(_NEW_FIELDS)

_PARSE = {
    "str": str,
    "int": lambda cell: int(cell) if cell.lstrip("-").isdigit() else int(float(cell)),
    "float": float,
    "bool": lambda cell: cell == "True",
}


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that is either there in full or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _json(values: Row, indent: int | None = None) -> bytes:
    return json.dumps(table.finite(values), allow_nan=False, indent=indent, default=_plain).encode()


def _plain(value: Any) -> str:
    return str(value)


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


_OTHER_FOLDER = "choose another folder with --results."
_HINTS = {
    errno.ENOSPC: "the disk is full; free some space and start again: finished runs are kept.",
    errno.EDQUOT: "the disk quota is used up; free some space and start again: finished runs are kept.",
    errno.EROFS: f"the file system is read-only; {_OTHER_FOLDER}",
    errno.EACCES: f"no permission; {_OTHER_FOLDER}",
    errno.EPERM: f"no permission; {_OTHER_FOLDER}",
    errno.ENOTDIR: f"a file is where a folder should be; {_OTHER_FOLDER}",
    errno.EEXIST: f"a file is where a folder should be; {_OTHER_FOLDER}",
}


def _why(error: OSError) -> str:
    """What the system refused, and what to do."""
    return _HINTS.get(error.errno or 0, f"{error.strerror or error}.")


@contextlib.contextmanager
def writing(path: Path | str, what: str = "written") -> Iterator[None]:
    """Turn the system's refusals into one clear StoreError, which names `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ValueError):
            raise
        raise StoreError(f"{path} cannot be {what}: {_why(error)}") from None


def now() -> str:
    """The time of day with its zone, as events carry it."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def machine() -> Row:
    """Where this runs, for the manifest: what numbers and speed hang on, nothing that names it."""
    import platform

    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")
    return {
        "system": platform.system(),
        "release": ".".join(platform.release().split(".")[:2]),
        "architecture": platform.machine(),
        "cpu": model,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }
