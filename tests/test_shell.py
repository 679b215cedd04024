"""Shell conventions: one meaning per option, examples, usage, completion and NO_COLOR."""

from __future__ import annotations

import inspect
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from small import call

from scaling.cli import COMMANDS
from scaling.cli.help import usage
from scaling.cli.signature import options

ROOT = Path(__file__).parents[1]

QUANTITIES = {"flops", "params", "tokens", "weights", "to", "gpu", "loss"}
"""Options whose type depends on the command: a budget, a column or a range; a target loss, or the
metric that is the loss; the weights of rows in
a fit, or of the models that a results folder keeps; a tool or a folder to export to; a model of GPU
or the file of a benchmark of one."""

SAME_HELP = {
    "cluster", "critical", "delta", "filter", "json", "latex", "level", "map", "objective", "on",
    "rows", "seed", "strict", "tag", "where",
}  # fmt: skip


def parameters() -> dict[str, dict[str, object]]:
    """Return {option: {command: annotated type}} of the options of at least two commands."""
    found: dict[str, dict[str, object]] = {}
    for name, command in COMMANDS.items():
        for key, hint in get_type_hints(command, include_extras=True).items():
            if key not in ("return", "config", "execution"):
                found.setdefault(key, {})[name] = hint
    return {key: each for key, each in found.items() if len(each) > 1}


def helps(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return {option: its text} from the help of a command."""
    assert call(*name.split(), "--help") == 0
    lines = [line.strip("│| ") for line in capsys.readouterr().out.splitlines()]
    text = " ".join(" ".join(lines).split()).partition(" Example")[0]
    found = {}
    for part in re.split(r" (?=--[a-z])", text):
        if match := re.match(r"--([a-z-]+) (.*)", part):
            found[match[1]] = match[2]
    return found


@pytest.mark.parametrize("option", sorted(set(parameters()) - QUANTITIES - {"results", "runs"}))
def test_option_has_the_same_type_in_all_commands(option):
    plain = {str(get_args(hint)[0] if hasattr(hint, "__metadata__") else hint)
             for hint in parameters()[option].values()}  # fmt: skip
    if option == "law":  # some take several laws, and some choose one by default
        assert plain <= {"<class 'str'>", "str | None", "tuple[str, ...]"}
        return
    assert len(plain) == 1, parameters()[option]


def test_option_has_the_same_help_in_all_commands(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert set(parameters()) >= SAME_HELP
    shown: dict[str, set[str]] = {}
    for name in COMMANDS:
        if name != "train":
            for option, text in helps(name, capsys).items():
                shown.setdefault(option, set()).add(re.sub(r" \((default|repeatable).*", "", text))
    for option in SAME_HELP:
        assert len(shown[option]) == 1, shown[option]
    assert all("Output file" in text for text in shown["out"])


@pytest.mark.parametrize("name", list(COMMANDS))
def test_completion_knows_the_options_of_the_help(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert call(*name.split(), "--help") == 0
    shown = capsys.readouterr().out
    lines = [line.strip("│| ") for line in shown.splitlines()]
    begin = {word for line in lines for word in re.findall(r"^--[a-z][\w.-]*", line)}
    known = set(options(name, COMMANDS[name]))
    assert begin <= known <= set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", shown))


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_has_an_example_with_known_options(name):
    lines = re.findall(r"^Example: (scaling .*)$", inspect.getdoc(COMMANDS[name]) or "", re.M)
    assert len(lines) in (1, 2)
    known = options(name, COMMANDS[name])
    for words in map(shlex.split, lines):
        assert " ".join(words[1:]).startswith(name)
        assert {word for word in words if word.startswith("--")} <= set(known)


@pytest.mark.parametrize("name", [name for name in COMMANDS if usage(name, COMMANDS[name])])
def test_command_without_arguments_shows_its_usage(name, capsys):
    assert call(*name.split()) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == "" and len(lines) == 4
    assert lines[0].startswith(f"usage: scaling {name} ") and lines[2].startswith("example: ")


def test_usage_names_required_arguments():
    assert usage("export", COMMANDS["export"]).startswith(
        "usage: scaling export RESULTS [OPTIONS]\n"  # --out or --to
    )
    assert usage("verify-published", COMMANDS["verify-published"]).startswith(
        "usage: scaling verify-published --data FOLDER [OPTIONS]\n"
    )
    assert usage("laws", COMMANDS["laws"]) is None


def completed(script: str, *words: str) -> list[str]:
    """Return what bash offers to complete the last word."""
    code = (
        f"{script}\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '_scaling; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes(capsys):
    assert call("completion", "bash") == 0
    script = capsys.readouterr().out
    assert completed(script, "scaling", "fi") == ["fit", "figure"]
    assert {*completed(script, "scaling", "")} >= {name.split()[0] for name in COMMANDS}
    assert completed(script, "scaling", "data", "") == ["prepare", "list"]
    assert completed(script, "scaling", "data", "prepare", "--tok") == ["--tokenizer"]
    assert completed(script, "scaling", "fit", "runs.csv", "--obj") == ["--objective"]
    assert completed(script, "scaling", "fit", "--objective", "l") == ["ls", "lad"]
    assert completed(script, "scaling", "train", "--model.n-l") == ["--model.n-layer"]
    assert completed(script, "scaling", "sweep", "--no-p") == ["--no-packs"]
    assert completed(script, "scaling", "fit", "run") == []  # -o default completes files


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", "data/bash-completion/completions/scaling"),
        ("zsh", "zdot/.zfunc/_scaling"),
        ("fish", "config/fish/completions/scaling.fish"),
    ],
)
def test_completion_is_installed(shell, place, tmp_path, monkeypatch, capsys):
    for name, folder in (("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("ZDOTDIR", str(tmp_path / "zdot"))
    assert call("completion", shell, "--install") == 0
    assert str(tmp_path / place) in capsys.readouterr().out
    text = (tmp_path / place).read_text()
    assert all(word in text for word in ("objective", "huber", "prepare", "model.n-layer"))
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(tmp_path / place)], check=True)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color(no_color):
    """Help on a terminal is coloured unless NO_COLOR is set."""
    reader, writer = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    environment |= {"NO_COLOR": no_color, "COLUMNS": "80"}
    words = [sys.executable, "-m", "scaling.cli", "laws", "--help"]
    done = subprocess.Popen(words, stdout=writer, stderr=writer, env=environment)
    os.close(writer)
    shown = b""
    try:
        while part := os.read(reader, 4096):
            shown += part
    except OSError:  # the terminal was closed
        pass
    os.close(reader)
    assert done.wait() == 0 and b"usage: scaling laws" in re.sub(rb"\x1b\[[\d;]*m", b"", shown)
    assert (b"\x1b[" in shown) == (not no_color)


def test_where_selects_runs_of_plan_and_frontier(tmp_path, capsys):
    results = ROOT / "results" / "headline"
    options = ["--law", "chinchilla", "--flops", "1e15", "--where", "N > 1e4", "--seed", "1"]
    assert call("plan", results, *options) == 0
    assert "D = " in capsys.readouterr().out
    words = ["frontier", results, "--method", "envelope", "--bootstrap", "20", "--json"]
    assert call(*words) == 0
    everything = capsys.readouterr().out
    assert call(*words, "--where", "N > 1e5") == 0
    assert capsys.readouterr().out != everything
    assert call(*words, "--where", "N > 1e15") == 2
    assert "leaves an empty table" in capsys.readouterr().err
