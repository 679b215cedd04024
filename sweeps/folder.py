"""A results folder and the folders of its runs: names, safe reading, and a run's attempts.

The folder may come from an untrusted source. Run ids are single plain words, only regular files
are read, and nothing is written or deleted through symbolic links in the folder.

:class:`sweeps.store.Store` adds results, the merged table and leases. Needs neither torch nor
ray.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from scaling import files, run_progress
from sweeps.errors import StoreError, why, writing
from sweeps.merged import set_aside
from sweeps.remote import join
from sweeps.result import from_json, is_run_id, to_json


class Folder:
    """The local folder of a store."""

    def __init__(self, folder: Path, given: Path | str) -> None:
        """`given` is the folder as messages name it: as the user gave it, or a URI."""
        self.folder = folder
        self._given = given
        self._told: set[str] = set()
        self.messages: list[str] = []
        """Messages about what was set aside or repaired while reading, to be shown to the user."""

    # -------------------------------------------------------------- names

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run. Raises StoreError for a name that cannot be a run id."""
        if not is_run_id(run_id):
            raise StoreError(
                f"{self._given}: {run_id!r} cannot be a run id; a run id is a single plain word."
            )
        return self.folder / "runs" / run_id

    def run_ids(self) -> list[str]:
        """Return the names of the run folders, without links and names that are not run ids."""
        try:
            with os.scandir(self.folder / "runs") as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(
                f"{self.shown(self.folder / 'runs')} cannot be read: {why(error)}"
            ) from None
        return sorted(name for name, is_folder in found if is_folder and is_run_id(name))

    def round_files(self) -> list[Path]:
        """Return the files of the rounds of designed runs, oldest first."""
        paths = (self.folder / "rounds").glob("*.json")
        return sorted((p for p in paths if is_round(p.name)), key=lambda path: int(path.stem))

    def shown(self, path: Path) -> Path | str:
        """Return a path in this folder as messages name it: below the folder as it was given."""
        inner = path.relative_to(self.folder)
        if isinstance(self._given, Path):
            return self._given / inner
        return join(self._given, str(inner)) if inner.parts else self._given

    # -------------------------------------------------------------- reading and writing

    def has_result(self, run_id: str) -> bool:
        """Return whether the result of a run is on this machine, without reading it."""
        return (self.run_folder(run_id) / "result.json").exists()

    def read_object(self, path: Path) -> dict[str, Any] | None:
        """Return the object in a JSON file; None if it is missing or cannot be read."""
        return files.read_object(path)

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Do as :func:`sweeps.errors.writing` does, for a path that must not lead through a
        link."""
        with writing(self.shown(path)):
            files.check_inside(path, self.folder)
            yield

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged file to the next free `<name>.bad-<n>`; returns the new path."""
        with self.writing(path.parent if path.is_symlink() else path):
            return set_aside(path)

    def set_damaged_aside(self, path: Path, error: Exception, consequence: str) -> None:
        """Set a damaged file aside and tell the user, including the consequences."""
        aside = self.set_aside(path)
        self.say(
            f"{self.shown(path)} is damaged ({error}); it was kept as {aside.name}, {consequence}"
        )

    def newer_format(self, path: Path, error: Exception) -> StoreError:
        """Return the error for a file written by a newer version of this package."""
        return StoreError(
            f"{self.shown(path)} was written by a newer version ({error}). Update the package, or "
            "use another results folder."
        )

    def say(self, message: str) -> None:
        """Tell the user, once."""
        if message and message not in self._told:
            self._told.add(message)
            self.messages.append(message)

    def slurm_job(self) -> str:
        """Return the id of the Slurm job that was submitted last; empty if there is none."""
        job = (self.read_object(self.folder / "slurm" / "job.json") or {}).get("job")
        return job if isinstance(job, str) and re.fullmatch("[0-9]+", job) else ""

    # -------------------------------------------------------------- a run's attempts

    def note(self, run_id: str, event: str, **details: Any) -> None:
        """Append an event to a run's attempts."""
        path = self.run_folder(run_id) / "attempts.jsonl"
        values = {"event": event, "time": now(), **details}
        with self.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.open_to_append(path) as file:
                torn = os.fstat(file.fileno()).st_size and not _ends_line(path)
                file.write(("\n" if torn else "") + to_json(values).decode() + "\n")

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """Return the events of a run's attempts, oldest first.

        Lines that are not events are left out, such as a last line that was half written.
        """
        try:
            lines = files.read_bytes(self.run_folder(run_id) / "attempts.jsonl").splitlines()
        except OSError:
            return []
        events = []
        for line in lines:
            with contextlib.suppress(ValueError):
                events.append(from_json(line))
        return [event for event in events if isinstance(event, dict)]

    def has_begun(self, run_id: str) -> bool:
        """Return whether there was an attempt to train a run."""
        return (self.run_folder(run_id) / "attempts.jsonl").exists()

    def killed(self, run_id: str) -> int:
        """Return how often a worker died while it trained this run, since its last `retry`."""
        deaths = 0
        for attempt in self.attempts(run_id):
            deaths = 0 if attempt.get("event") == "retry" else deaths
            deaths += attempt.get("event") == "killed"
        return deaths

    def log(self, run_id: str, text: str) -> None:
        """Append to a run's output.log what its worker could not write."""
        path = self.run_folder(run_id) / "output.log"
        with self.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.open_to_append(path) as file:
                file.write(f"{text.rstrip()}\n")

    def report_progress(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Write the progress of a run. Never fails, because no result depends on it."""
        path = self.run_folder(run_id) / "progress.json"
        with contextlib.suppress(OSError):
            files.write_atomic(path, to_json(values), sync=False)

    def begin_pack(self, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Let the first of these runs hold the reports of all of them; return their last ones."""
        last = run_progress.read(self.folder / "runs", run_ids)
        reports = {run_id: last.get(run_id, {}) for run_id in run_ids}
        self.report_pack(run_ids[0], reports)
        for run_id, report in reports.items():
            self.report_progress(run_id, run_progress.pointer(run_ids[0], report))
        return reports

    def report_pack(self, leader: str, reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the progress of the runs of a pack. Never fails, as :meth:`report_progress`."""
        path = self.run_folder(leader) / run_progress.PACK
        with contextlib.suppress(OSError):
            files.write_atomic(path, to_json(run_progress.pack_report(reports)), sync=False)

    def end_pack(self, leader: str) -> None:
        """Remove the progress of a pack whose runs have finished."""
        with contextlib.suppress(OSError):
            (self.run_folder(leader) / run_progress.PACK).unlink()

    def progress(self, run_id: str) -> dict[str, float] | None:
        """Return the numbers that a running run reported last; None if there is no report."""
        return self.progress_of([run_id]).get(run_id)

    def progress_of(
        self, run_ids: Iterable[str], *, one_job: bool = False
    ) -> dict[str, dict[str, float]]:
        """Return {run_id: numbers that it reported last} for the runs that have reported.

        With `one_job`, they are runs that one job trains now, which takes one or two files.
        """
        found = {}
        reports = run_progress.read(self.folder / "runs", run_ids, one_job=one_job)
        for run_id, values in reports.items():
            known = {k: v for k, v in values.items() if type(v) in (int, float)}
            found[run_id] = {k: v for k, v in known.items() if 0 <= v < 2**63}
        return found

    def fraction_done(
        self, run_id: str, D: int, *, running: bool, report: Mapping[str, float] | None = None
    ) -> float:
        """Return the fraction of a run's D tokens that is trained and not lost.

        That is what a running run reported last, and otherwise what its checkpoint holds. `report`
        is its :meth:`progress`, if that is known.
        """
        folder = self.run_folder(run_id)
        if not running and not (folder / run_progress.CHECKPOINT).exists():
            return 0.0
        progress = (self.progress(run_id) if report is None else report) or {}
        trained = progress.get("D", 0.0)
        return min(1.0, (trained if running else progress.get("stored", trained)) / D)


def is_round(name: str) -> bool:
    """Return whether `name` is the name of a round's file."""
    return re.fullmatch(r"[0-9]{4,9}\.json", name) is not None


def now() -> str:
    """Return the current time with its zone, in the format of events."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
