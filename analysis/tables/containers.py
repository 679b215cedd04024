"""Read files of tables, unchanged, whatever their format."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scaling.errors import TableError
from scaling.files import EncodingError, check_regular, check_utf8


def read_file(path: Path) -> pd.DataFrame:
    """Return the table of a file as it is written. Raises TableError if it cannot be read."""
    readers = {
        ".csv": _read_csv,
        ".tsv": lambda p: _read_csv(p, "\t"),
        ".parquet": pd.read_parquet,
        ".jsonl": lambda p: pd.read_json(p, lines=True, encoding="utf-8-sig"),
        ".json": lambda p: pd.read_json(p, encoding="utf-8-sig"),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TableError(
            f"{path}: {path.suffix or 'a file without suffix'} is not a table this reads; give a "
            f"sweep's folder or one of {', '.join(readers)}."
        )
    try:
        check_regular(path) if path.suffix.lower() == ".parquet" else check_utf8(path)
        table = reader(path)
        # Drop rows that hold only the row number that some tools write.
        named = [c for c in table.columns if not str(c).startswith("Unnamed:")]
        return table.dropna(how="all", subset=named or None)
    except EncodingError as error:
        raise TableError(f"{path} is {error}.") from None
    except (ValueError, OSError) as error:  # errors of pandas and pyarrow are subclasses of these
        raise TableError(f"{path} is not a readable {path.suffix} table: {error}") from None


def _read_csv(path: Path, separator: str = ",") -> pd.DataFrame:
    """Return the table with its column names as written, as pandas renames a second L to 'L.1'."""
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
    if separator not in first:  # one column, or another separator
        separator = next((s for s in (";", "\t") if s in first), separator)
    decimal = "," if separator == ";" else "."
    table = pd.read_csv(path, sep=separator, decimal=decimal, low_memory=False)
    header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str).iloc[0]
    if len(header) == len(table.columns):
        table.columns = [
            given if pd.isna(written) else written.strip()
            for given, written in zip(table.columns, header, strict=True)
        ]
    return table
