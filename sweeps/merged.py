"""The merged table of a results folder, which is derived from the results of its runs.

    runs.csv, curves.parquet, tests.parquet     the table (scaling.table)
    .index.json                                 what these files were made from

The index holds size, time and hash of the files of the table, and size and time of every result.json
that went into it. Where they agree there is nothing to merge and nothing to compare. Where they do
not, something else has changed them: the results are read again and take precedence, and the table is
written anew. The index may be deleted at any time.

Imports pandas only to write.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling import files, schema, table
from sweeps.errors import StoreError, why
from sweeps.result import (
    NEW_FIELDS,
    Finished,
    Point,
    Row,
    fault_of,
    from_json,
    is_run_id,
    to_json,
)

if TYPE_CHECKING:
    import pandas as pd

FILES = (*table.POINTS, "runs.csv")
"""The rows come last: a run counts as finished by its row."""

INDEX = ".index.json"
_FORMAT = 1

Stamp = list[int]
"""Size [bytes] and time of the last change [ns] of a file."""

ReadResult = Callable[[str], Finished | None]
"""The result of a run; None where it has not finished."""

_KINDS = {column.name: column.dtype for column in table.COLUMNS}


class TableRow(Mapping[str, Any]):
    """A row of runs.csv, parsed when more than its id and status is asked for."""

    __slots__ = ("_cells", "_columns", "_line", "_where", "run_id", "status")

    def __init__(
        self, run_id: str, status: str, line: str, columns: _Columns, where: _Line
    ) -> None:
        self.run_id, self.status = run_id, status
        self._line, self._columns, self._where = line, columns, where
        self._cells: dict[str, Any] | None = None

    def whole(self) -> dict[str, Any]:
        """All cells, by column. Raises StoreError for one that is no value of its column."""
        if self._cells is None:
            self._cells = self._columns.parse(self._line, self._where)
            self._line = ""
        return self._cells

    def check(self) -> None:
        """Raise StoreError for a cell that is no value of its column, and an 'ok' row without sizes or
        loss."""
        if fault := fault_of(self.whole()):
            raise StoreError(_damaged(self._where, fault))

    def __getitem__(self, name: str) -> Any:
        if name == "run_id":
            return self.run_id
        return self.status if name == "status" else self.whole()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole())

    def __len__(self) -> int:
        return len(self.whole())


class _Columns:
    """The header of a runs.csv, and how its cells are read. The csv module reads floats exactly."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._parse = [_PARSE[_KINDS.get(name, "str")] for name in names]
        self._new = {name: value for name, value in NEW_FIELDS.items() if name not in names}

    def parse(self, line: str, where: _Line) -> dict[str, Any]:
        try:
            cells = next(csv.reader([line] if "\n" not in line else io.StringIO(line, newline="")))
            if len(cells) != len(self.names):
                raise ValueError(f"it has {len(cells)} cells, and the header {len(self.names)}")
            return self._new | self._values(cells)
        except (ValueError, OverflowError, csv.Error) as error:
            raise StoreError(_damaged(where, str(error))) from None

    def _values(self, cells: list[str]) -> dict[str, Any]:
        values = {}
        for name, parse, cell in zip(self.names, self._parse, cells, strict=True):
            try:
                values[name] = parse(cell) if cell or parse is str else None
            except (ValueError, OverflowError):
                raise ValueError(f"{name}={cell[:60]!r} is not {_IN_WORDS[_KINDS[name]]}") from None
        return values


_Line = tuple[str, int]
"""A file and the number of a line in it."""


def _damaged(where: _Line | str, why: str) -> str:
    """One message for a table that cannot be used as it is."""
    place = where if isinstance(where, str) else f"{where[0]}, line {where[1]}"
    return (
        f"{place}: {why}. Correct or restore the file; or delete it, and it is written again from "
        "the finished runs in runs/."
    )


def _integer(cell: str) -> int:
    value = int(cell) if cell.lstrip("+-").isdigit() else float(cell)
    if value % 1:
        raise ValueError
    value = int(value)
    if not -(2**63) <= value < 2**63:
        raise OverflowError
    return value


def _flag(cell: str) -> bool:
    if cell not in ("True", "False"):
        raise ValueError
    return cell == "True"


_PARSE = {"str": str, "int": _integer, "float": float, "bool": _flag}
_IN_WORDS = {"int": "a whole number below 2^63", "float": "a number", "bool": "True or False"}


class MergedTable:
    """The table of the results folder `folder`; `said` names a path as messages show it."""

    def __init__(self, folder: Path, said: Callable[[Path], Path | str]) -> None:
        self._folder = folder
        self._said = said
        self._read: tuple[Stamp, dict[str, TableRow]] | None = None
        """The rows as they were last read."""

    # -------------------------------------------------------------- rows

    def rows(self) -> dict[str, TableRow]:
        """{run_id: row} of runs.csv; none where it is not there.

        Raises StoreError for a file that is no table of ours, naming the line: no id, an id that is
        no plain word, one run twice, an unknown status, a number that is none.
        """
        path = self._folder / "runs.csv"
        try:
            stamp = _stamp(path)
        except OSError as error:
            raise StoreError(f"{self._said(path)} cannot be read: {why(error)}") from None
        if stamp is None:
            return {}
        if self._read is None or self._read[0] != stamp:
            rows = self._rows_of(path)
            if not self.intact("runs.csv"):  # ours need no second look
                for row in rows.values():
                    row.check()
            self._read = stamp, rows
        return dict(self._read[1])

    def _rows_of(self, path: Path) -> dict[str, TableRow]:
        where = str(self._said(path))
        try:
            text = files.decode(files.read_bytes(path))
        except OSError as error:
            raise StoreError(f"{where} cannot be read: {why(error)}") from None
        except ValueError as error:
            raise StoreError(_damaged(where, str(error))) from None
        lines = _lines(text)
        first = next(lines, (1, ""))[1]
        names = next(csv.reader([first]), [])
        if "run_id" not in names or "status" not in names:
            raise StoreError(
                f"{where} is not a results table (no run_id, no status). Move it away, or choose "
                "another folder with --results."
            )
        if twice := {name for name in names if names.count(name) > 1}:
            raise StoreError(_damaged(where, f"two columns are called {sorted(twice)[0]!r}"))
        columns = _Columns(names)
        id_, state = names.index("run_id"), names.index("status")
        commas, enough = len(names) - 1, max(id_, state) + 1
        rows: dict[str, TableRow] = {}
        numbers: dict[str, int] = {}
        for number, line in lines:
            at = (where, number)
            if '"' in line or line.count(",") != commas:
                cells = [str(columns.parse(line, at)[name]) for name in names]
            else:
                cells = line.split(",", enough)
            run_id, status = cells[id_], cells[state]
            if not is_run_id(run_id):
                fault = f"run_id={run_id!r} is not one plain word" if run_id else "it has no run_id"
                raise StoreError(_damaged(at, fault))
            if status not in schema.STATUSES:
                known = ", ".join(schema.STATUSES)
                raise StoreError(_damaged(at, f"status={status!r} is none of {known}"))
            if run_id in rows:
                raise StoreError(_damaged(at, f"run {run_id} is in line {numbers[run_id]} as well"))
            rows[run_id] = TableRow(run_id, status, line, columns, at)
            numbers[run_id] = number
        return rows

    # -------------------------------------------------------------- the index

    def intact(self, *names: str) -> bool:
        """Whether these files of the table (all where none is named) are as they were written."""
        index = self._index()
        return all(self._same(name, index) for name in names or FILES)

    def _same(self, name: str, index: dict[str, Any]) -> bool:
        known = index["files"].get(name)
        stamp = _stamp(self._folder / name)
        if not (isinstance(known, list) and len(known) == 3) or stamp is None:
            return False
        if known[:2] == stamp:
            return True
        if known[0] != stamp[0]:
            return False
        try:  # a copy has another time
            return known[2] == _digest(files.read_bytes(self._folder / name))
        except OSError:
            return False

    def _index(self, *, results: bool = False) -> dict[str, Any]:
        """The index; empty where there is none that can be used. `results` are its second line."""
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
        """{run_id: stamp of its result.json} of the runs that have one here."""
        runs = f"{self._folder}/runs"
        found = {run_id: _stamp(f"{runs}/{run_id}/result.json") for run_id in run_ids}
        return {run_id: stamp for run_id, stamp in found.items() if stamp is not None}

    # -------------------------------------------------------------- comparing and merging

    def differing(self, rows: Mapping[str, Row], results: Mapping[str, Row]) -> str:
        """What to tell of rows that differ from the results of their runs; nothing where none does."""
        first, number = "", 0
        for run_id in rows.keys() & results.keys():
            if name := _differs(rows[run_id], results[run_id]):
                number += 1
                there, here = rows[run_id].get(name), results[run_id].get(name)
                line = f"run {run_id}, {name}={there!r} in the table and {here!r} as measured"
                first = min(first, line) if first else line
        if not number:
            return ""
        what = "row differs" if number == 1 else "rows differ"
        return (
            f"{self._said(self._folder / 'runs.csv')}: {number} {what} from the result of its run "
            f"({first}). The results in runs/ count, and the next sweep writes the table again "
            "from them; copy the table elsewhere before you edit it."
        )

    def pending(self, run_ids: Iterable[str]) -> bool:
        """Whether the table is missing or contradicts results of the runs `run_ids` in runs/. A table
        whose raw runs are gone, as in a clone, is left as it is."""
        index = self._index(results=True)
        stamps = self.stamps(run_ids)
        if not stamps:
            return not (self._folder / "runs.csv").is_file()
        known = all(index["results"].get(run_id) == stamp for run_id, stamp in stamps.items())
        return not (known and all(self._same(name, index) for name in FILES))

    def merge(
        self,
        run_ids: list[str],
        result: ReadResult,
        *,
        without: frozenset[str] = frozenset(),
        say: Callable[[str], None] = lambda message: None,
    ) -> dict[str, bytes]:
        """Write the table from all that has finished; returns {name: bytes} of what was written.

        `run_ids` are the folders in runs/, whose results `result` reads. Rows of runs whose results
        are no longer there are kept, those of `without` are left out. Only results that the
        index does not know are read, all of them where the files of the table are not as they
        were written. A damaged file of points is set aside first. Raises StoreError, OSError.
        """
        index = self._index(results=True)
        stamps = self.stamps(run_ids)
        intact = all(self._same(name, index) for name in FILES)
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
        """{run_id: points} as curves.parquet or tests.parquet has them; none where it has none.
        Raises StoreError where the file cannot be read."""
        found: dict[str, list[Point]] = {run_id: [] for run_id in run_ids}
        try:
            points = self._points(name)
        except table.TableError as error:
            raise StoreError(
                f"{error} Restore the file; or delete it, and it is written again from the runs in "
                "runs/, as far as they are there."
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
        """The points of a file. One that is damaged is set aside: what runs/ holds is written anew."""
        try:
            return self._points(name)
        except (table.TableError, OSError) as error:
            path = self._folder / name
            aside = set_aside(path)
            say(
                f"{self._said(path)} is damaged ({_reason(error)}); kept as {aside.name}. It is "
                "written again from the runs in runs/."
            )
            return table.points(name)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to the next free `<name>.bad-<n>`; returns the new path."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.bad-{number}")):
        number += 1
    os.replace(path, aside)
    return aside


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, text) of the records of a CSV; one with line ends in quotes is several lines long.
    Lines without anything in them are left out."""
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    begun: list[str] = []
    """Lines of a record whose quotes are not closed yet."""
    for number, line in enumerate(text.split("\n"), 1):
        closes = '"' in line and line.count('"') % 2 == 1
        if begun or closes:
            begun.append(line)
            if closes and len(begun) > 1:
                yield number - len(begun) + 1, "\n".join(begun)
                begun = []
        elif line:
            yield number, line
    if begun:
        yield number - len(begun) + 1, "\n".join(begun)


def _differs(row: Row, result: Row) -> str:
    """The first column in which a row of the table is not as its run's result; '' where none is."""
    for name, dtype in _KINDS.items():
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
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return said.partition("\n")[0].rstrip(".")
