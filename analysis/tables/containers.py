"""Read files of tables, unchanged, whatever their format, compression and encoding."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.tables.archives import file_in, is_tar, is_zip, names_in
from analysis.tables.delimited import read_delimited
from analysis.tables.headers import below_groups
from analysis.tables.records import flattened, table_of
from analysis.tables.separators import localised
from scaling import extras
from scaling.errors import TableError
from scaling.files import read_bytes

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|", ".txt": None, ".dat": None}
"""Suffixes of delimited text, with the delimiter that each promises."""

_JSON = (".jsonl", ".ndjson", ".json")
_EXCEL = (".xlsx", ".xlsm")
_ARCHIVES = (".zip", ".tar", ".tgz")
SUFFIXES = (
    ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".json", ".psv", ".tab", ".xlsx", ".feather",
    ".arrow", ".txt", ".dat",
)  # fmt: skip
"""Suffixes of tables among several files, those that most often are tables first."""
_ARROW_MAGIC = (b"ARROW1", b"FEA1", b"\xff\xff\xff\xff")
"""First bytes of Arrow files, of Feather files of the first version, and of Arrow streams."""

_COMPRESSED = {
    ".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd"
}  # fmt: skip
"""Suffixes of compressed files, with the bytes that each begins with."""

_CODE = (
    ".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth", ".ckpt", ".npy", ".npz", ".rds",
    ".rda", ".rdata",
)  # fmt: skip
"""Suffixes of formats that can run code when they are opened."""

_READABLE = ".csv, .tsv, .psv, .txt, .parquet, .feather, .arrow, .jsonl, .ndjson, .json, .xlsx"


def located(path: Path) -> tuple[Path, str | None]:
    """Return the file of a path such as runs.xlsx#Sheet2, and the part of it that is meant."""
    text = str(path)
    if "#" not in text or path.exists():
        return path, None
    for at in [at for at, sign in enumerate(text) if sign == "#"]:
        if text[at + 1 :] and Path(text[:at]).is_file():
            return Path(text[:at]), text[at + 1 :]
    name, _, part = path.name.partition("#")
    return (path.with_name(name), part) if name and part else (path, None)


def tables_in(path: Path) -> list[str]:
    """Return the names of the tables in an archive, of the most frequent suffix; [] if it is none.

    Raises TableError if it cannot be read.
    """
    if suffix_of(path.name) not in _ARCHIVES or not path.is_file():
        return []
    try:
        return _tables_of(_decompressed(read_bytes(path)))
    except Exception as error:
        raise TableError(f"{path} is not a readable archive: {_brief(error)}") from None


def _tables_of(data: bytes) -> list[str]:
    names = names_in(data) if is_tar(data) or is_zip(data) else []
    kinds = Counter(kind for n in names if (kind := suffix_of(n)) in SUFFIXES)
    most = max(kinds, key=lambda kind: (kinds[kind], -SUFFIXES.index(kind)), default=None)
    return sorted(name for name in names if suffix_of(name) == most)


def read_file(path: Path, decimal: str | None = None) -> pd.DataFrame:
    """Return the table of a file, with its columns named as there.

    decimal: the decimal mark, "," or ".", of numbers that can be read in two ways.

    Raises TableError if the file cannot be read.
    """
    file, part = located(path)
    suffix = suffix_of(file.name)
    try:
        _refuse_code(file, suffix)
        data = _decompressed(read_bytes(file))
        table, details = _read(data, suffix, part, str(file))
    except TableError:
        raise
    except Exception as error:  # the readers of foreign formats raise errors of any kind
        raise TableError(
            f"{path} is not a readable {suffix or 'file of a'} table: {_brief(error)}"
        ) from None
    if (below := below_groups(table)) is not table:
        table, details = below, {**details, "reread": None}
    table = localised(table, str(path), decimal, **details)
    for name in table.select_dtypes("float"):
        if table.columns.is_unique and np.isinf(table[name]).any():
            table[name] = table[name].where(np.isfinite(table[name]))
    # Drop rows that hold only the row number that some tools write.
    named = [c for c in table.columns if not str(c).startswith("Unnamed:")]
    return table.dropna(how="all", subset=named or None)


def _brief(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0] or type(error).__name__


def suffix_of(name: str) -> str:
    """Return the suffix of a file without that of its compression, in lower case."""
    path = Path(name.lower())
    while path.suffix in _COMPRESSED or (path.suffix == ".zip" and Path(path.stem).suffix):
        path = Path(path.stem)
    return path.suffix


def _refuse_code(path: Path, suffix: str) -> None:
    if suffix in _CODE:
        raise TableError(
            f"{path}: a file {suffix} can run code when it is opened, so it is not read. Save the "
            f"table in one of {_READABLE}."
        )


def _decompressed(data: bytes) -> bytes:
    """Return data without their compression, if any."""
    for suffix, magic in _COMPRESSED.items():
        if not data.startswith(magic):
            continue
        if suffix == ".gz":
            return _decompressed(gzip.decompress(data))
        if suffix == ".xz":
            return _decompressed(lzma.decompress(data))
        if suffix == ".bz2":
            return _decompressed(bz2.decompress(data))
        import pyarrow

        with pyarrow.CompressedInputStream(pyarrow.py_buffer(data), "zstd") as stream:
            return _decompressed(stream.read())
    return data


def _read(
    data: bytes, suffix: str, part: str | None, source: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the table of decompressed data, and what :func:`localised` wants to know of it.

    The content decides where it is certain, the suffix otherwise.
    """
    if data.startswith(b"PAR1"):
        return flattened(with_index(pd.read_parquet(io.BytesIO(data)))), {}
    if data.startswith(_ARROW_MAGIC) or suffix in (".feather", ".arrow"):
        return flattened(_read_arrow(data)), {}
    if is_zip(data) or is_tar(data):
        return _read_archive(data, suffix, part, source)
    if suffix == ".parquet":
        raise ValueError("it does not begin with PAR1, as Parquet files do")
    if suffix in _EXCEL:
        raise ValueError("it is not a workbook of Excel")
    if data.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        _refuse_code(Path(source), ".pickle")
    if data.startswith(b"\xd0\xcf\x11\xe0") or suffix in (".xls", ".ods", ".numbers"):
        raise TableError(_unsupported(source))
    if suffix not in (*_DELIMITERS, *_JSON) and b"\x00" in data[:1000] and not _wide(data):
        raise TableError(_unknown(source, suffix))
    text = _decoded(data, source)
    if "\x00" in text[:1000]:
        raise ValueError("it is not text")
    if not text.strip():
        raise ValueError("the file is empty")
    start = text[:1000].lstrip()[:1]
    if start == "<":
        raise ValueError("it is a web page; download the file itself, not the page that shows it")
    if suffix in _JSON or start in ("{", "["):
        try:
            return table_of(text, part, source), {"quoted": True}
        except json.JSONDecodeError:
            if suffix in _JSON:
                raise
    table, details = read_delimited(text, _DELIMITERS.get(suffix), sure=suffix in _DELIMITERS)
    if table is None:
        raise TableError(_unknown(source, suffix))
    flat = flattened(table)
    return flat, details if flat.shape == table.shape else {}


def with_index(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the named levels of its index as columns."""
    named = [name for name in table.index.names if name is not None and name not in table.columns]
    return table.reset_index(named) if named else table


def _unsupported(source: str) -> str:
    return f"{source} is a spreadsheet of an unsupported format; save it as .xlsx or .csv."


def _unknown(source: str, suffix: str) -> str:
    return (
        f"{source}: {suffix or 'a file without suffix'} is not a table this reads; give a sweep's "
        f"folder or one of {_READABLE}, compressed or not ({', '.join(_COMPRESSED)})."
    )


# ------------------------------------------------------------------ text


def _wide(data: bytes) -> str | None:
    """Return the name of UTF-16 or UTF-32 if the data are such text, with or without a mark."""
    for mark, name in (
        (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
    ):  # fmt: skip
        if data.startswith(mark):
            return name
    head = data[:2000]
    odd, even = head[1::2].count(0), head[0::2].count(0)
    if len(head) > 3 and odd > 0.7 * len(head[1::2]) and not even:
        return "utf-16-le"
    if len(head) > 3 and even > 0.7 * len(head[0::2]) and not odd:
        return "utf-16-be"
    return None


def _decoded(data: bytes, source: str) -> str:
    """Return the text of a file in UTF-8, UTF-16, UTF-32 or, with a warning, Windows-1252."""
    wide = _wide(data)
    if wide:
        return data.decode(wide)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\x00" in data:
            raise ValueError("it is not text") from None
        at = error.start
    try:
        text, name = data.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        text, name = data.decode("latin-1"), "Latin-1"
    warnings.warn(f"{source} is not UTF-8 (byte {at}); it is read as {name}.", stacklevel=4)
    return text


# ------------------------------------------------------------------ binary formats


def _read_arrow(data: bytes) -> pd.DataFrame:
    """Return the table of an Arrow file or stream, or of a Feather file."""
    import pyarrow

    if data.startswith(b"FEA1"):
        return pd.read_feather(io.BytesIO(data))
    try:
        return pyarrow.ipc.open_file(io.BytesIO(data)).read_all().to_pandas()
    except pyarrow.ArrowInvalid:
        return pyarrow.ipc.open_stream(io.BytesIO(data)).read_all().to_pandas()


def _read_archive(
    data: bytes, suffix: str, part: str | None, source: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the table of a workbook, or of an archive that holds one table."""
    names = names_in(data)
    if "xl/workbook.xml" in names:
        return _read_excel(data, part, source)
    if "mimetype" in names:
        raise TableError(_unsupported(source))
    chosen = [n for n in names if part in (n, Path(n).name)] if part else _tables_of(data) or names
    if len(chosen) != 1:
        raise TableError(
            f"{source} holds {len(names)} files, {', '.join(names[:8])}: name one, as in "
            f"'{source}#{names[0] if names else 'runs.csv'}'."
        )
    _refuse_code(Path(chosen[0]), suffix_of(chosen[0]))
    return _read(_decompressed(file_in(data, chosen[0])), suffix_of(chosen[0]), None, source)


def _read_excel(data: bytes, part: str | None, source: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the sheet of a workbook that holds a table."""
    if not extras.installed("openpyxl"):
        raise TableError(f"{source}: {extras.missing('openpyxl')}; or save the table as .csv.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of drop-down lists and styles
        sheets = pd.read_excel(io.BytesIO(data), sheet_name=None, header=None, engine="openpyxl")
        _fill_merged(sheets, data)
    if part is not None and part not in sheets:
        raise TableError(f"{source} has no sheet {part!r}; it has {', '.join(map(str, sheets))}.")
    tables = {
        name: found
        for name, sheet in sheets.items()
        if part in (None, name) and (found := _below_header(sheet)) is not None
    }
    if len(tables) == 1:
        return next(iter(tables.values())), {}
    listed = ", ".join(map(str, tables or sheets))
    if not tables:
        raise ValueError(f"no sheet holds a table (sheets: {listed})")
    raise TableError(
        f"{source} has several sheets with tables: {listed}. Name one, as in "
        f"'{source}#{next(iter(tables))}'."
    )


def _fill_merged(sheets: dict[Any, pd.DataFrame], data: bytes) -> None:
    """Fill the cells that are merged down a column with their value, in place.

    Cells merged across columns, as in titles, stay empty.
    """
    parts = [name for name in names_in(data) if name.startswith("xl/worksheets/")]
    if not any(b"<mergeCell " in file_in(data, name) for name in parts):
        return
    import openpyxl

    for written in openpyxl.load_workbook(io.BytesIO(data)).worksheets:
        sheet = sheets[written.title]
        for cells in written.merged_cells.ranges:
            if cells.min_col == cells.max_col <= sheet.shape[1] and cells.min_row <= len(sheet):
                value = sheet.iat[cells.min_row - 1, cells.min_col - 1]
                sheet.iloc[cells.min_row - 1 : cells.max_row, cells.min_col - 1] = value


def _below_header(sheet: pd.DataFrame) -> pd.DataFrame | None:
    """Return a sheet as a table whose first full row names the columns; None if it holds none."""
    sheet = sheet.dropna(how="all").dropna(how="all", axis=1)
    if len(sheet) < 2 or sheet.shape[1] < 2:
        return None
    # Titles above a table fill one cell of their row.
    filled = sheet.notna().sum(axis=1)
    first = int(np.argmax((filled > max(1, sheet.shape[1] // 2)).to_numpy()))
    header, body = sheet.iloc[first], sheet.iloc[first + 1 :]
    if body.empty or not any(isinstance(name, str) for name in header):
        return None
    body.columns = [
        f"Unnamed: {at}" if pd.isna(name) else str(name).strip() for at, name in enumerate(header)
    ]
    return body.reset_index(drop=True).infer_objects()
