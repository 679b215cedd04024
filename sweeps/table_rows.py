"""Rows of runs.csv, parsed only when more than their id and status is needed.

A table of 10,000 runs is read at each start of a sweep, so lines are split, not parsed, until a
cell is needed. The csv module reads floats exactly.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from scaling.columns import COLUMNS, CONFIG_DEFAULTS, STATUSES, is_command
from sweeps.errors import StoreError
from sweeps.result import EMPTY_OF_COMMAND, fault_of, is_run_id

DTYPES = {column.name: column.dtype for column in COLUMNS}
"""{column: dtype} of runs.csv."""


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


def of_any_type(cell: str) -> bool | int | float | str:
    """Return the value that a cell of a column outside the schema writes.

    A number that is not written as Python writes it, such as 007, stays text.
    """
    if cell in ("True", "False"):
        return cell == "True"
    for parse in (int, float):
        try:
            value = parse(cell)
        except ValueError:
            continue
        if str(value) == cell:
            return value
    return cell


_PARSE = {"str": str, "int": _integer, "float": float, "bool": _flag}
_IN_WORDS = {"int": "a whole number below 2^63", "float": "a number", "bool": "True or False"}


class Place(NamedTuple):
    """A line of a file."""

    file: str
    line: int


class TableRow(Mapping[str, Any]):
    """A row of runs.csv, parsed when more than its id and status is needed."""

    __slots__ = ("_cells", "_header", "_line", "_place", "run_id", "status")

    def __init__(self, run_id: str, status: str, line: str, header: _Header, place: Place) -> None:
        self.run_id, self.status = run_id, status
        self._line, self._header, self._place = line, header, place
        self._cells: dict[str, Any] | None = None

    def cells(self) -> dict[str, Any]:
        """Return all cells by column. Raises StoreError for a cell of the wrong type."""
        if self._cells is None:
            self._cells = self._header.parse(self._line, self._place)
            self._line = ""
        return self._cells

    def check(self) -> None:
        """Raise StoreError for a cell of the wrong type, or an 'ok' row without sizes or loss."""
        if fault := fault_of(self.cells()):
            raise damaged(self._place, fault)

    def __getitem__(self, name: str) -> Any:
        if name == "run_id":
            return self.run_id
        return self.status if name == "status" else self.cells()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cells())

    def __len__(self) -> int:
        return len(self.cells())


def parse_rows(text: str, file: str) -> dict[str, TableRow]:
    """Return {run_id: row} from the text of a runs.csv; `file` is its name in messages.

    Raises StoreError, naming the line, for text that is not a results table: a missing id, an id
    that is not a plain word, a run with two rows, an unknown status.
    """
    lines = _lines(text)
    first = next(lines, (1, ""))[1]
    names = next(csv.reader([first]), [])
    if "run_id" not in names or "status" not in names:
        raise StoreError(
            f"{file} is not a results table (no run_id, no status). Move it away, or choose "
            "another folder with --results."
        )
    if twice := {name for name in names if names.count(name) > 1}:
        raise damaged(file, f"two columns are called {sorted(twice)[0]!r}")
    header = _Header(names)
    id_, state = names.index("run_id"), names.index("status")
    commas, enough = len(names) - 1, max(id_, state) + 1
    rows: dict[str, TableRow] = {}
    numbers: dict[str, int] = {}
    for number, line in lines:
        place = Place(file, number)
        if '"' in line or line.count(",") != commas:
            cells = [str(header.parse(line, place)[name]) for name in names]
        else:
            cells = line.split(",", enough)
        run_id, status = cells[id_], cells[state]
        if not is_run_id(run_id):
            fault = f"run_id={run_id!r} is not one plain word" if run_id else "it has no run_id"
            raise damaged(place, fault)
        if status not in STATUSES:
            known = ", ".join(STATUSES)
            raise damaged(place, f"status={status!r} is none of {known}")
        if run_id in rows:
            raise damaged(place, f"run {run_id} is in line {numbers[run_id]} as well")
        rows[run_id] = TableRow(run_id, status, line, header, place)
        numbers[run_id] = number
    return rows


def damaged(place: Place | str, fault: str) -> StoreError:
    """Return the error for a table that cannot be used as it is."""
    where = place if isinstance(place, str) else f"{place.file}, line {place.line}"
    return StoreError(
        f"{where}: {fault}. Correct or restore the file; or delete it, and it is written again "
        "from the finished runs in runs/."
    )


class _Header:
    """The header of a runs.csv, and how to read the cells below it."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._parse = [_PARSE[DTYPES[name]] if name in DTYPES else of_any_type for name in names]
        defaults = {"command": "", **CONFIG_DEFAULTS}.items()
        self._absent = {name: value for name, value in defaults if name not in names}
        of_command = EMPTY_OF_COMMAND.items()
        self._absent_of_command = {name: v for name, v in of_command if name not in names}

    def parse(self, line: str, place: Place) -> dict[str, Any]:
        """Return {column: value} of a line, with defaults for columns newer than the table."""
        try:
            cells = next(csv.reader([line] if "\n" not in line else io.StringIO(line, newline="")))
            if len(cells) != len(self.names):
                raise ValueError(f"it has {len(cells)} cells, and the header {len(self.names)}")
            values = self._values(cells)
            return (self._absent_of_command if is_command(values) else self._absent) | values
        except (ValueError, OverflowError, csv.Error) as error:
            raise damaged(place, str(error)) from None

    def _values(self, cells: list[str]) -> dict[str, Any]:
        values = {}
        for name, parse, cell in zip(self.names, self._parse, cells, strict=True):
            try:
                values[name] = parse(cell) if cell or parse is str else None
            except (ValueError, OverflowError):
                kind = _IN_WORDS[DTYPES[name]]
                raise ValueError(f"{name}={cell[:60]!r} is not {kind}") from None
        return values


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the records of a CSV, empty lines left out.

    A record with line ends in quotes spans several lines; its number is that of the first.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    begun: list[str] = []
    """Lines of a record whose quotes are not closed yet."""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        closes = '"' in line and line.count('"') % 2 == 1
        if begun or closes:
            begun.append(line)
            if closes and len(begun) > 1:
                yield number - len(begun) + 1, "\n".join(begun)
                begun = []
        elif line:
            yield number, line
    if begun:
        yield len(lines) - len(begun) + 1, "\n".join(begun)
