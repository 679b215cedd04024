"""Untrusted files: only regular ones are read, and only UTF-8 text."""

import codecs
import errno
import os
import socket

import pytest

from scaling.files import EncodingError, check_regular, decode, open_regular, read_bytes, read_text


def test_a_regular_file_is_read_even_through_a_link(tmp_path):
    (tmp_path / "a").write_bytes(b"text\0")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "a") == read_bytes(tmp_path / "b") == b"text\0"
    with open_regular(tmp_path / "a") as file:
        assert file.read(2) == b"te"


def test_pipes_devices_and_sockets_are_refused_at_once_by_kind(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))  # names of sockets must be short
        for path, kind in (
            (tmp_path / "pipe", "a named pipe"),
            (tmp_path / "socket", "a socket"),
            ("/dev/zero", "a device"),
        ):
            for read in (read_bytes, read_text, open_regular, check_regular):
                with pytest.raises(OSError, match=f"it is {kind}, not a regular file") as refused:
                    read(path)
                assert refused.value.errno == errno.EINVAL
                assert refused.value.filename == str(path)


def test_folders_loops_and_missing_files_raise_the_errors_of_the_system(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")
    with pytest.raises(OSError) as refused:
        read_bytes(tmp_path / "loop")
    assert refused.value.errno == errno.ELOOP


def test_text_loses_its_byte_order_mark_and_other_encodings_are_named():
    assert decode(b"abc") == decode(codecs.BOM_UTF8 + b"abc") == "abc"
    for name in ("utf-16", "utf-32"):
        with pytest.raises(EncodingError, match=f"not UTF-8 text but {name.upper()} "):
            decode("abc".encode(name))
    with pytest.raises(EncodingError, match=r"not UTF-8 text \(byte 1\)"):
        decode(b"a\xff")
