"""Protocol Buffers messages, read field by field without their schemas."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_LARGEST_SINGLE = 3.4028234e38

Field = tuple[int, int | bytes]
"""Number of a field, and its value: a varint as a whole number, all else as bytes."""


def fields(message: bytes) -> Iterator[Field]:
    """Yield the fields of a message. Raises ValueError where it is damaged."""
    at, end = 0, len(message)
    while at < end:
        key = message[at]  # most numbers are of one byte
        if key < 0x80:
            at += 1
        else:
            key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            if at < end and message[at] < 0x80:
                size = message[at]
                at += 1
            else:
                size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a message has a field of the unknown type {kind}")
        if at + size > end:
            raise ValueError("a message ends within a field")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a message ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def parts(message: bytes, number: int) -> list[bytes]:
    """Return the values of a repeated field that holds messages or text."""
    return [value for n, value in fields(message) if n == number and isinstance(value, bytes)]


def part(message: bytes, number: int) -> bytes | None:
    """Return the last value of a field that holds a message or text; None if it lacks."""
    found = parts(message, number)
    return found[-1] if found else None


def text(value: bytes | None) -> str:
    """Return a field as text."""
    return (value or b"").decode("utf-8", "replace")


def signed(value: int | bytes) -> int:
    """Return a varint as an int64."""
    if isinstance(value, bytes):
        raise ValueError("a message has bytes in place of a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def double(value: int | bytes) -> float:
    """Return a double."""
    return _unpacked("<d", value)


def single(value: int | bytes) -> float:
    """Return a float of 32 bits as the shortest decimal number that it stands for."""
    number = _unpacked("<f", value)
    for digits in (6, 7, 8):
        short = float(f"{number:.{digits}g}")
        if abs(short) <= _LARGEST_SINGLE and struct.pack("<f", short) == value:
            return short
    return number


def _unpacked(format: str, value: int | bytes) -> float:
    if isinstance(value, int) or len(value) != struct.calcsize(format):
        raise ValueError("a message has no number where one is expected")
    return struct.unpack(format, value)[0]
