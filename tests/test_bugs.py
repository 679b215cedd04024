"""Report of an exception that is a bug, not a user error."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from scaling import cli
from scaling.errors import ConfigError

ROOT = Path(__file__).parents[1]


def deep() -> None:
    """Recurse forever."""
    deep()


def buggy(error):
    def command() -> None:
        """Fail."""
        raise error

    return command


@pytest.fixture
def ends(monkeypatch, capsys, tmp_path):
    """Run `function` as a command; return (exit code, its one line on standard error)."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("SCALING_DEBUG", raising=False)

    def run(function, *words):
        monkeypatch.setitem(cli.COMMANDS, "doctor", function)
        with pytest.raises(SystemExit) as ended:
            cli.main(["doctor", *words])
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and message.startswith("scaling: ")
        return ended.value.code, message

    return run


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (buggy(KeyError("abc")), "KeyError: 'abc'"),
        (buggy(ValueError("first line\nsecond line")), "ValueError: first line."),
        (buggy(RuntimeError()), "RuntimeError."),
        (buggy(AssertionError("x" * 5000)), "AssertionError: " + "x" * 200),
        (deep, "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_bug_is_reported_in_one_line_and_a_file(ends, tmp_path, function, what):
    code, message = ends(function)
    assert code == 70 == os.EX_SOFTWARE
    assert (
        message.startswith(f"scaling: {what}") and "This is a bug" in message and len(message) < 600
    )
    path = Path(re.search(r"its traceback is in (.*)\.\n", message)[1])
    assert path.parent == tmp_path and stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    first, second = text.splitlines()[:2]
    assert first == "scaling doctor"
    assert re.fullmatch(r"scaling-laws-lab \S+, Python 3\.\d+\.\d+, .+", second)
    assert "Traceback (most recent call last)" in text and "tests/test_bugs.py" in text
    assert len(text) < 100_000


def test_each_bug_has_its_own_file(ends, tmp_path):
    assert ends(deep)[1] != ends(deep)[1]
    assert len(list(tmp_path.glob("scaling-bug-*.txt"))) == 2


def test_traceback_that_cannot_be_written(ends, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    code, message = ends(buggy(KeyError("abc")))
    assert code == 70 and "KeyError: 'abc'" in message
    assert "its traceback cannot be written (No such file" in message


def test_traceback_is_printed_on_request(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("SCALING_DEBUG", "1")
    monkeypatch.setitem(cli.COMMANDS, "doctor", buggy(KeyError("abc")))
    with pytest.raises(KeyError, match="abc"):
        cli.main(["doctor"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 2, "out of memory: MemoryError. Use a smaller model"),
        (ConfigError("no such thing"), 2, "no such thing"),
        (PermissionError(13, "Permission denied", "/x"), 2, "Permission denied: /x."),
        (KeyboardInterrupt(), 130, "stopped."),
    ],
)
def test_user_error_leaves_no_file(ends, tmp_path, error, code, message):
    ended, line = ends(buggy(error))
    assert ended == code and line.startswith(f"scaling: {message}")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_a_bug_report_is_written(ends, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.mkstemp", stopped)
    assert ends(buggy(KeyError("abc"))) == (130, "scaling: stopped.\n")


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom scaling import cli\n{code}"],
        capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, timeout=120,
    )  # fmt: skip


SHOW = """\
def show():
    'Show.'
    print('L \\u2248 2 \\U0001f600 \\udcff')
cli.COMMANDS['doctor'] = show
"""


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1"])
def test_unencodable_characters_are_escaped(encoding):
    done = run(f"{SHOW}cli.main(['doctor'])", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout == b"L \\u2248 2 \\U0001f600 \\udcff\n"


def test_closed_standard_error():
    """A closed standard error causes no second error."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "scaling.cli", "fit", "nowhere.csv"]
    for buffered in ("", "1"):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": buffered}
        assert subprocess.run(words, stderr=writer, env=environment).returncode == 2
    os.close(writer)
