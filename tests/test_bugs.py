"""What a command says of an exception that is no user's mistake."""

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
    """Recurse for ever."""
    deep()


def buggy(error):
    def command() -> None:
        """Fail."""
        raise error

    return command


@pytest.fixture
def ends(monkeypatch, capsys, tmp_path):
    """Run a command that is `function`; (exit code, what it said in one line)."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("SCALING_DEBUG", raising=False)

    def run(function, *words):
        monkeypatch.setitem(cli.COMMANDS, "doctor", function)
        with pytest.raises(SystemExit) as ended:
            cli.main(["doctor", *words])
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith("scaling: ")
        return ended.value.code, said

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
def test_a_bug_is_one_line_and_a_file(ends, tmp_path, function, what):
    code, said = ends(function)
    assert code == 70 == os.EX_SOFTWARE
    assert said.startswith(f"scaling: {what}") and "This is a bug" in said and len(said) < 600
    path = Path(re.search(r"its traceback is in (.*)\.\n", said)[1])
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


def test_a_traceback_that_cannot_be_kept(ends, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    code, said = ends(buggy(KeyError("abc")))
    assert code == 70 and "KeyError: 'abc'" in said
    assert "SCALING_DEBUG=1 prints its traceback, which cannot be kept (No such file" in said


def test_a_traceback_is_printed_where_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("SCALING_DEBUG", "1")
    monkeypatch.setitem(cli.COMMANDS, "doctor", buggy(KeyError("abc")))
    with pytest.raises(KeyError, match="abc"):
        cli.main(["doctor"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 2, "out of memory: MemoryError. Use a smaller model"),
        (ConfigError("no such thing"), 2, "no such thing"),
        (PermissionError(13, "Permission denied", "/x"), 2, "Permission denied: /x."),
        (KeyboardInterrupt(), 130, "stopped."),
    ],
)
def test_what_is_no_bug_leaves_no_file(ends, tmp_path, error, code, said):
    ended, line = ends(buggy(error))
    assert ended == code and line.startswith(f"scaling: {said}")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_a_bug_is_written(ends, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.mkstemp", stopped)
    assert ends(buggy(KeyError("abc"))) == (130, "scaling: stopped.\n")


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom scaling import cli\n{code}"],
        capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, timeout=120,
    )  # fmt: skip


SHOW = "def show():\n    'Show.'\n    print('L \\u2248 2 \\U0001f600 \\udcff')\ncli.COMMANDS['doctor'] = show\n"


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1"])
def test_what_a_terminal_cannot_show_is_escaped(encoding):
    done = run(f"{SHOW}cli.main(['doctor'])", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout == b"L \\u2248 2 \\U0001f600 \\udcff\n"


def test_nobody_reads_what_went_wrong():
    """A closed standard error is no second error."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "scaling.cli", "fit", "nowhere.csv"]
    for buffered in ("", "1"):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": buffered}
        assert subprocess.run(words, stderr=writer, env=environment).returncode == 2
    os.close(writer)
