"""Read delimited text: find its header and its delimiter, then leave the rest to pandas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

_CANDIDATES = (",", "\t", ";", "|", r"\s{2,}", r"\s+")
"""Delimiters in the order of preference, those of aligned columns last."""

_HEAD = 1 << 16
"""Characters at the start of a file in which its header and delimiter are sought."""

_NUMERAL = re.compile(r"\s*[+-]?[\d.,]*\d[\d.,]*(?:[eE][+-]?\d+)?\s*[kKmMbBtT]?\s*")
"""A field that is a number, for the choice of a delimiter."""

_RULE = re.compile(r"[\s|:+=-]*-[\s|:+=-]*")
"""A line below a header that only draws a rule, as in Markdown."""


def read_delimited(
    text: str, promised: str | None, *, sure: bool
) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """Return the table of a text, and what `localised` wants to know of it.

    promised: the delimiter that the file's suffix stands for.
    sure: whether the text is known to be a table. Otherwise it must look like one, and None is
        returned if it does not.
    """
    text, given = _from_header(text)
    lines = _lines(text[:_HEAD])[:40]
    if lines and lines[0].lstrip().startswith("|"):
        text = _without_frame(text)
        lines = _lines(text)[:40]
    if lines:
        text = _with_row_numbers(text, lines)
        lines = _lines(text[:_HEAD])[:40]
    delimiter = given or _delimiter(lines, promised)
    if given is None and (below := _below_titles(lines, promised)):
        text = text[text.index(lines[below]) :]
        lines = lines[below:]
        delimiter = _delimiter(lines, promised)
    if delimiter and not delimiter.startswith("\\"):
        text = _with_notes_quoted(text, delimiter)
        lines = _lines(text[:_HEAD])[:40]
    if not sure and (delimiter is None or not re.search(r"\d", "".join(lines[1:]))):
        return None, {}
    delimiter = delimiter or promised or ","
    options = _options(lines, delimiter)

    def read(**more: Any) -> pd.DataFrame:
        try:
            return pd.read_csv(io.StringIO(text), **(options | more))
        except pd.errors.ParserError as error:
            found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
            if not found:
                raise
            header = len(next(iter(_rows(lines[:1], delimiter)), []))
            raise ValueError(
                f"row {int(found[2]) - 2} has {found[3]} fields, but the header has {header}; put "
                f"quotes around what holds a {delimiter!r}, or use another delimiter"
            ) from None

    table = read()
    if not isinstance(table.index, pd.RangeIndex):  # a column of row names without a header
        _check_row_names(table, delimiter)
        table = table.reset_index(names="run_id" if "run_id" not in table.columns else "row")
        return table, {}
    table.columns = _names(table, lines, delimiter)
    while (
        table.shape[1]
        and str(table.columns[-1]).startswith("Unnamed:")
        and table.iloc[:, -1].isna().all()
    ):
        table = table.iloc[:, :-1]  # each line ends with a delimiter
    return table, {"likely": "," if delimiter == ";" else None, "reread": _reread(read)}


def _check_row_names(table: pd.DataFrame, delimiter: str) -> None:
    """Raise ValueError if each row has a field more than the header, whose first is no row name.

    Row names are words, or numbers that count the rows. Other numbers are the first column, and
    one of the others was split at a decimal comma.
    """
    names = table.index.to_numpy()
    if not pd.api.types.is_numeric_dtype(names) or len(names) < 2 or (names[1:] > names[:-1]).all():
        return
    raise ValueError(
        f"each row has {table.shape[1] + 1} fields, but the header has {table.shape[1]}; are these "
        f"numbers with a {delimiter!r} in them? Put quotes around them, or use another delimiter"
    )


def _with_row_numbers(text: str, lines: Sequence[str]) -> str:
    """Return a table as pandas prints it, whose rows begin with their numbers, with a name for
    these."""
    fields = [line.split() for line in lines]
    numbers = [row[0] for row in fields[1:] if row]
    counted = len(numbers) > 1 and numbers == [str(at) for at in range(len(numbers))]
    if not counted or not lines[0].startswith(" ") or len(fields[1]) != len(fields[0]) + 1:
        return text
    return text.replace(lines[0], "row" + lines[0], 1)


def _below_titles(lines: Sequence[str], promised: str | None) -> int:
    """Return the number of lines above the header that are titles: they have fewer fields than
    the lines below, which agree."""
    for start in range(min(10, len(lines) - 1)):
        delimiter, share = _chosen(lines[start:], promised)
        if delimiter and share > (0.5 if start == 0 else 0.8):
            header, *below = _rows(lines[start : start + 2], delimiter)
            fields = len(header)
            if start and all(map(_NUMERAL.fullmatch, header)):
                return 0  # a row of numbers: the header is above
            if any(len(row) > fields and not any(map(_NUMERAL.fullmatch, row)) for row in below):
                continue  # the header is below
            above = [len(row) for row in _rows(lines[:start], delimiter)]
            return start if all(n < fields for n in above) else 0
    return 0


def _with_notes_quoted(text: str, delimiter: str) -> str:
    """Return a text without comments, and with each note below the header as one quoted field.

    A note is a line of words with another number of fields than the header; the rows that remain
    of notes are left out, and counted, when the columns are known.
    """
    ends = re.split("(\r\n|\n|\r)", text)
    lines, marks = ends[0::2], [*ends[1::2], ""]
    header = len(next(iter(_rows(lines[:1], delimiter)), []))
    comments = sum(line.lstrip().startswith("#") for line in lines[1:])
    few, quoted, kept = 2 * comments < len(lines), False, []
    for place, (line, mark) in enumerate(zip(lines, marks, strict=True)):
        odd = '"' in line and line.count('"') % 2 == 1
        whole, quoted = not (quoted or odd), quoted ^ odd
        if whole and place and few and line.lstrip().startswith("#"):
            continue
        if whole and place and line.count(delimiter) + 1 != header and line.strip():
            fields = line.split(delimiter)
            if '"' not in line and not any(map(_NUMERAL.fullmatch, fields)):
                line = f'"{line}"'
        kept.append(line + mark)
    return "".join(kept)


def _reread(read: Callable[..., pd.DataFrame]) -> Callable[[Sequence[int]], pd.DataFrame]:
    def columns(places: Sequence[int]) -> pd.DataFrame:
        return read(usecols=list(places), dtype=str)

    return columns


def _lines(text: str) -> list[str]:
    """Return the lines of a text that are not empty."""
    return [line for line in re.split("\r\n|\n|\r", text) if line.strip()]


def _from_header(text: str) -> tuple[str, str | None]:
    """Return a text from its header on, and the delimiter that a line sep=; names.

    Empty lines and lines that begin with # are left out before the header. If what follows is
    numbers only, the last of these lines is the header.
    """
    at, given, comment = 0, None, None
    for found in re.finditer("[^\r\n]*(?:\r\n|\n|\r|$)", text):
        line = found[0].strip()
        if named := re.fullmatch(r"\"?sep=(.)\"?", line, re.IGNORECASE):
            given = named[1]
        elif line.startswith("#") and not _names_with_hashes(line):
            comment = found
        elif line.strip(",;\t| "):
            at = found.start()
            break
        elif found[0].startswith("\t") or line:  # a row of delimiters only
            pass
        if found.end() == len(text):
            at = found.start() if line and comment is not found else len(text)
            break
    if comment is None:
        return text[at:], given
    header = comment[0].strip().lstrip("#").strip()
    if _only_numbers(text[at : at + 2000]) and len(_fields(header)) == len(
        _fields(_lines(text[at : at + 2000])[0])
    ):
        return header + "\n" + text[at:], given
    first = _lines(text[at : at + 2000])[:1]
    if comment.end() == at and first and header and _is_header_of(header, first[0]):
        return header + "\n" + text[at:], given
    return text[at:], given


def _names_with_hashes(line: str) -> bool:
    """Return whether a line is a header in which # begins names, as in '#params,#tokens'."""
    return any(field.startswith("#") for field in _fields(line)[1:])


def _is_header_of(header: str, line: str) -> bool:
    """Return whether a commented line names the fields of the first line, which has numbers."""
    names, values = _fields(header), _fields(line)
    numbers = sum(bool(re.fullmatch(r"[+-]?[\d.,eE+-]+", v)) for v in values)
    return len(names) == len(values) > 1 and 2 * numbers > len(values)


def _fields(line: str) -> list[str]:
    for delimiter in ("\t", ";", ",", "|"):
        if delimiter in line:
            return [field.strip() for field in line.split(delimiter)]
    return line.split()


def _only_numbers(text: str) -> bool:
    lines = _lines(text)
    return bool(lines) and not re.search(r"[a-df-zA-DF-Z]", re.sub("nan|inf", "", lines[0]))


def _without_frame(text: str) -> str:
    """Return a table of Markdown as text delimited by |."""
    lines = [line.strip().strip("|") for line in _lines(text)]
    return "\n".join(line for line in lines if not _RULE.fullmatch(line)) + "\n"


def _delimiter(lines: Sequence[str], promised: str | None) -> str | None:
    """Return the delimiter by which the lines have as many fields as the header, or None."""
    best = _chosen(lines, promised)[0]
    if best is None and promised and lines and promised in lines[0]:
        return promised
    return best


def _chosen(lines: Sequence[str], promised: str | None) -> tuple[str | None, float]:
    """Return the best delimiter, and the share of lines with as many fields as the header."""
    best, score = None, (0.0, False, 0, 0)
    for place, each in enumerate(_CANDIDATES):
        counts = _counts(lines, each)
        if not counts or counts[0] < 2:
            continue
        spaces = each.startswith("\\")
        alike = [n in (counts[0], counts[0] + (not spaces)) for n in counts[1:]]
        share = sum(alike) / len(alike) if alike else 1.0
        if spaces and share < 1:
            continue
        numbers = _hold_numbers(lines, each)
        found = (round(share, 2), numbers, int(each == promised) - spaces, -place)
        if share > 0.5 and found > score:
            best, score = each, found
    return best, score[0]


def _hold_numbers(lines: Sequence[str], delimiter: str) -> bool:
    """Return whether most lines below the header hold a field that is a number alone."""
    rows = _rows(lines[1:], delimiter)
    found = [any(_NUMERAL.fullmatch(field) for field in row) for row in rows]
    return 2 * sum(found) > len(found)


def _counts(lines: Sequence[str], delimiter: str) -> list[int]:
    """Return the number of fields of each line."""
    return [len(row) for row in _rows(lines, delimiter)]


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the fields of each line; [] if they cannot be told."""
    if delimiter.startswith("\\"):
        return [re.split(delimiter, line.strip()) for line in lines]
    try:
        return list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:
        return []


def _options(lines: Sequence[str], delimiter: str) -> dict[str, Any]:
    """Return the options with which pandas reads a text."""
    if delimiter == r"\s+":
        return {"sep": r"\s+"}
    if delimiter.startswith("\\"):
        return {"sep": delimiter, "engine": "python"}
    options: dict[str, Any] = {"sep": delimiter, "low_memory": False}
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    # A line may end with a delimiter though the header does not.
    if len(rows) > 1 and all(len(r) == len(rows[0]) + 1 and not r[-1].strip() for r in rows[1:]):
        options |= {"index_col": False, "usecols": range(len(rows[0]))}
    return options


def _names(table: pd.DataFrame, lines: Sequence[str], delimiter: str) -> list[Any]:
    """Return the column names as written, as pandas renames a second L to 'L.1'."""
    names = list(table.columns)
    if delimiter.startswith("\\") or not lines:
        return [str(name).strip() for name in names]
    header = next(csv.reader((f"{line}\n" for line in lines), delimiter=delimiter), [])
    if len(header) != len(names):
        return [str(name).strip() for name in names]
    return [new.strip() or old for old, new in zip(names, header, strict=True)]
