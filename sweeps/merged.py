"""The merged table of a results folder, derived from the results of its runs.

    runs.csv, curves.parquet, tests.parquet     the table (scaling.table)
    .index.json                                 what these files were made from

The index holds size, time and hash of the table's files, and size and time of every result.json
that went into it. While the files match the index, there is nothing to merge or compare. Otherwise
something else has changed the files: the results are read again and take precedence, and the table
is rewritten. The index may be deleted at any time.

pandas is imported only for writing.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling import files, table
from scaling.columns import is_command
from sweeps.errors import StoreError, why
from sweeps.result import Finished, Point, Row, from_json, to_json
from sweeps.table_rows import DTYPES, TableRow, damaged, parse_rows

if TYPE_CHECKING:
    import pandas as pd

FILES = (*table.POINTS, "runs.csv")
"""Files of the table. runs.csv is written last, because a run counts as finished once its row
exists."""

INDEX = ".index.json"
_FORMAT = 1

Stamp = list[int]
"""Size [bytes] and time of the last change [ns] of a file."""

ReadResult = Callable[[str], Finished | None]
"""A function that returns the result of a run; None if it has not finished."""


class MergedTable:
    """The table of a results folder."""

    def __init__(self, folder: Path, shown: Callable[[Path], Path | str]) -> None:
        """`shown` returns the form of a path for messages."""
        self._folder = folder
        self._shown = shown
        self._read: tuple[Stamp, Mapping[str, TableRow]] | None = None
        """The rows as last read."""

    # -------------------------------------------------------------- rows

    def rows(self) -> Mapping[str, TableRow]:
        """Return {run_id: row} of runs.csv; empty if there is no such file.

        Raises StoreError, naming the line, for a file that is not a results table
        (:func:`sweeps.table_rows.parse_rows`) or has a cell of the wrong type.
        """
        path = self._folder / "runs.csv"
        try:
            stamp = _stamp(path)
        except OSError as error:
            raise StoreError(f"{self._shown(path)} cannot be read: {why(error)}") from None
        if stamp is None:
            return {}
        if self._read is None or self._read[0] != stamp:
            rows = self._parse(path)
            if not self.intact("runs.csv"):  # a table that this package wrote needs no check
                for row in rows.values():
                    row.check()
            self._read = stamp, rows
        return self._read[1]

    def _parse(self, path: Path) -> dict[str, TableRow]:
        where = str(self._shown(path))
        try:
            text = files.decode(files.read_bytes(path))
        except OSError as error:
            raise StoreError(f"{where} cannot be read: {why(error)}") from None
        except ValueError as error:
            raise damaged(where, str(error)) from None
        return parse_rows(text, where)

    # -------------------------------------------------------------- the index

    def intact(self, *names: str) -> bool:
        """Return whether these files of the table (by default all) are as they were written."""
        index = self._index()
        return all(self._is_unchanged(name, index) for name in names or FILES)

    def _is_unchanged(self, name: str, index: dict[str, Any]) -> bool:
        known = index["files"].get(name)
        stamp = _stamp(self._folder / name)
        if not (isinstance(known, list) and len(known) == 3) or stamp is None:
            return False
        if known[:2] == stamp:
            return True
        if known[0] != stamp[0]:
            return False
        try:  # a copy has a different time
            return known[2] == _digest(files.read_bytes(self._folder / name))
        except OSError:
            return False

    def _index(self, *, results: bool = False) -> dict[str, Any]:
        """Return the index, empty if it cannot be used; with `results`, both of its lines are
        read."""
        empty = {"files": {}, "results": {}}
        try:
            with files.open_regular(self._folder / INDEX) as file:
                first = from_json(file.readline())
                second = from_json(file.readline()) if results else {}
            good = first["format"] == _FORMAT and isinstance(first["files"], dict)
            good = good and isinstance(second, dict)
        except (OSError, ValueError, KeyError, TypeError):
            return empty
        return {"files": first["files"], "results": second} if good else empty

    def stamps(self, run_ids: Iterable[str]) -> dict[str, Stamp]:
        """Return {run_id: stamp of its result.json} for the runs that have one here."""
        runs = f"{self._folder}/runs"
        found = {run_id: _stamp(f"{runs}/{run_id}/result.json") for run_id in run_ids}
        return {run_id: stamp for run_id, stamp in found.items() if stamp is not None}

    # -------------------------------------------------------------- comparing and merging

    def differing(self, rows: Mapping[str, Row], results: Mapping[str, Row]) -> str:
        """Return a message about rows that differ from their runs' results; '' if none do."""
        first, number = "", 0
        for run_id in rows.keys() & results.keys():
            if name := _first_difference(rows[run_id], results[run_id]):
                number += 1
                there, here = rows[run_id].get(name), results[run_id].get(name)
                line = f"run {run_id}, {name}={there!r} in the table and {here!r} as measured"
                first = min(first, line) if first else line
        if not number:
            return ""
        what = "row differs" if number == 1 else "rows differ"
        return (
            f"{self._shown(self._folder / 'runs.csv')}: {number} {what} from the result of its run "
            f"({first}). The results in runs/ count, and the next sweep writes the table again "
            "from them; copy the table elsewhere before you edit it."
        )

    def pending(self, run_ids: Iterable[str]) -> bool:
        """Return whether the table lacks or contradicts results of `run_ids` in runs/.

        A table without the raw runs, as in a clone, is left as it is.
        """
        index = self._index(results=True)
        stamps = self.stamps(run_ids)
        if not stamps:
            return not (self._folder / "runs.csv").is_file()
        known = all(index["results"].get(run_id) == stamp for run_id, stamp in stamps.items())
        return not (known and all(self._is_unchanged(name, index) for name in FILES))

    def merge(
        self,
        run_ids: list[str],
        result: ReadResult,
        *,
        without: frozenset[str] = frozenset(),
        say: Callable[[str], None] = lambda message: None,
    ) -> dict[str, bytes]:
        """Write the table from all finished runs, and return {name: bytes} of the files written.

        `run_ids` are the folders in runs/, whose results `result` reads. Rows of runs whose results
        are gone are kept; rows of the runs in `without` are dropped. Only results that the index
        does not know are read, or all of them if the table's files are not as they were written. A
        damaged file of curves or tests is set aside first. Raises StoreError, OSError.
        """
        index = self._index(results=True)
        stamps = self.stamps(run_ids)
        intact = all(self._is_unchanged(name, index) for name in FILES)
        known = index["results"] if intact else {}
        fresh = [run_id for run_id in stamps if known.get(run_id) != stamps[run_id]]
        if intact and not fresh and not without:
            return {}
        rows: dict[str, Row] = dict(self.rows())
        old = {name: self._points_or_aside(name, say) for name in table.POINTS}
        results = {run_id: found for run_id in fresh if (found := result(run_id))}
        if not intact:
            measured = {run_id: found.row for run_id, found in results.items()}
            if message := self.differing(rows, measured):
                say(message)
        self.check_one_kind(rows | {run_id: found.row for run_id, found in results.items()})
        new: dict[str, list[Point]] = {name: [] for name in table.POINTS}
        for run_id, found in results.items():
            rows[run_id] = found.row
            new["curves.parquet"] += found.curve
            new["tests.parquet"] += found.tests
        stay = rows.keys() - results.keys() - without
        points = {
            name: table.points(name, old[name][old[name].run_id.isin(stay)], new[name])
            for name in table.POINTS
        }
        kept = [row for run_id, row in rows.items() if run_id not in without]
        written = self._write(kept, points)
        at = {
            name: [*(_stamp(self._folder / name) or ()), _digest(written[name])] for name in FILES
        }
        merged = {r: s for r, s in stamps.items() if r in rows and r not in without}
        lines = [to_json({"format": _FORMAT, "files": at}), to_json(merged), b""]
        files.write_atomic(self._folder / INDEX, b"\n".join(lines))
        return written

    def check_one_kind(self, rows: Mapping[str, Row]) -> None:
        """Raise StoreError if some rows are of the built-in trainer and others of a command."""
        kinds = {is_command(row): run_id for run_id, row in rows.items()}
        if len(kinds) > 1:
            raise mixed(self._shown(self._folder), kinds[False], kinds[True])

    def _write(self, rows: list[Row], points: dict[str, pd.DataFrame]) -> dict[str, bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        written: dict[str, bytes] = {}
        with tempfile.TemporaryDirectory(prefix=".merge-", dir=self._folder) as scratch:
            table.write_points(scratch, [dict(row) for row in rows], points)
            for name in FILES:
                written[name] = Path(scratch, name).read_bytes()
                files.write_atomic(self._folder / name, written[name])
        return written

    # -------------------------------------------------------------- points

    def points(self, name: str, run_ids: set[str]) -> dict[str, list[Point]]:
        """Return {run_id: points} from curves.parquet or tests.parquet; lists are empty for runs
        without points.

        Raises StoreError if the file cannot be read.
        """
        found: dict[str, list[Point]] = {run_id: [] for run_id in run_ids}
        try:
            points = self._points(name)
        except table.TableError as error:
            raise StoreError(
                f"{error} Restore the file; or delete it, and it is written again from the runs in "
                "runs/, if present."
            ) from None
        for point in points[points.run_id.isin(run_ids)].to_dict("records"):
            plain = {str(k): v.tolist() if hasattr(v, "tolist") else v for k, v in point.items()}
            found[point["run_id"]].append(plain)
        return found

    def _points(self, name: str) -> pd.DataFrame:
        path = self._folder / name
        if path.exists():
            files.check_regular(path)
        return table.read_points(self._folder, name)

    def _points_or_aside(self, name: str, say: Callable[[str], None]) -> pd.DataFrame:
        """Return the points of a file. A damaged file is set aside, and rebuilt later from
        runs/."""
        try:
            return self._points(name)
        except (table.TableError, OSError) as error:
            path = self._folder / name
            aside = set_aside(path)
            say(
                f"{self._shown(path)} is damaged ({_reason(error)}); kept as {aside.name}. It is "
                "written again from the runs in runs/."
            )
            return table.points(name)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to the next free `<name>.bad-<n>`, and return the new path."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.bad-{number}")):
        number += 1
    os.replace(path, aside)
    return aside


def mixed(folder: Path | str, built_in: str, of_command: str) -> StoreError:
    """Return the error for a folder with runs of the built-in trainer and runs of a command."""
    return StoreError(
        f"{folder} holds runs of the built-in trainer (run {built_in}) and of a command (run "
        f"{of_command}). Their columns differ, so each kind needs a folder of its own: choose "
        "another folder with --results."
    )


def _first_difference(row: Row, result: Row) -> str:
    """Return the first column in which a row differs from its run's result; '' if none does."""
    own = (row.keys() | result.keys()) - DTYPES.keys() if is_command(result) else ()
    for name in sorted(own):
        there, here = (row.get(name), result.get(name))
        if _is_nan(there) or (there in (None, "") and here in (None, "")):
            continue
        if str(there) != str(here):
            return name
    for name, dtype in DTYPES.items():
        there, here = row.get(name), result.get(name)
        if dtype == "str":
            there, here = ("" if value is None else str(value) for value in (there, here))
            there, here = there.replace("\r\n", "\n"), here.replace("\r\n", "\n")
        if there != here and not (_is_nan(there) and here is None):
            return name
    return ""


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and value != value


def _stamp(path: str | Path) -> Stamp | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text.partition("\n")[0].rstrip(".")
