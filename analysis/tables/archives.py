"""Files in archives, of zip or tar, that may hold tables."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import PurePosixPath

_TAR_AT = 257
"""Where the bytes `ustar` stand in a tar archive."""


def is_tar(data: bytes) -> bool:
    return data[_TAR_AT : _TAR_AT + 5] == b"ustar"


def is_zip(data: bytes) -> bool:
    return data.startswith(b"PK\x03\x04")


def names_in(data: bytes) -> list[str]:
    """Return the names of the files in an archive, without those that systems add."""
    if is_tar(data):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            names = [member.name for member in archive.getmembers() if member.isfile()]
    else:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    return [name for name in names if not _is_of_system(name)]


def file_in(data: bytes, name: str) -> bytes:
    """Return the bytes of one file in an archive."""
    if not is_tar(data):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(name)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile(name)
        assert member is not None  # names_in() lists files only
        return member.read()


def _is_of_system(name: str) -> bool:
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.startswith("._") or path.name == ".DS_Store"
