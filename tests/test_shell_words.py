"""Values in the scripts of shells: whatever they hold, they are data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import command_run, new_store, run_all
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import ConfigError
from sweeps.runner.shell import filled_words
from sweeps.spec import Spec

SHOW = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))'"

SCRIPTS = {
    "{show} {v}": "{v}",
    "{show} {v}/b": "{v}/b",
    '{show} "{v}"': "{v}",
    '{show} "a {v}.txt"': "a {v}.txt",
    "{show} 'a {v}.txt'": "a {v}.txt",
    "{show} \"$(printf %s {v})\"": "{v}",
    "{show} \"$(printf %s \"{v}\")\"": "{v}",
    "x=$(printf %s {v}); {show} \"$x\"": "{v}",
    "({show} {v})": "{v}",
    "# it's a comment\n{show} {v}": "{v}",
    "echo it\\'s >&2; {show} {v}": "{v}",
    "{show} '\"' >&2; {show} {v}": "{v}",
    'echo "it\'s \\" $((1 + (2))) $(echo "a)b")" >&2; {show} {v}': "{v}",
}  # fmt: skip
"""{script: word that the program receives}."""

NASTY = (
    "1; touch owned", "$(touch owned)", "`touch owned`", "it's", '"', "\\", "a b", "*", "$HOME",
    "a\nb", "--x y", "~", "'; touch owned; '", '"; touch owned; "', ")", "# no", "&", "!!",
)  # fmt: skip


def received(script: str, value: str, cwd: Path) -> list[str]:
    words = filled_words(["sh", "-c", script], {"v": value, "show": "show"})
    show = cwd / "show"
    if not show.exists():
        show.write_text(f'#!/bin/sh\nexec {SHOW} "$@"\n')
        show.chmod(0o755)
    done = subprocess.run(
        words, cwd=cwd, env={"PATH": f"{cwd}:/usr/bin:/bin", "HOME": "/h"},
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_value_in_a_script_is_data(tmp_path: Path, script: str):
    for value in NASTY if "{v}" in SCRIPTS[script] else ():
        assert received(script, value, tmp_path) == [SCRIPTS[script].replace("{v}", value)]
    assert not (tmp_path / "owned").exists()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(list(SCRIPTS)),
    st.text("ab $`\"'\\;|&()<>*?#~=%!{}[]\n", min_size=1).filter(lambda v: v.strip("\n") == v),
)
def test_any_value_arrives_as_it_is(tmp_path_factory, script: str, value: str):
    folder = tmp_path_factory.getbasetemp()
    assert received(script, value, folder) == [SCRIPTS[script].replace("{v}", value)]


@pytest.mark.parametrize("script", ["echo `echo {v}`", "cat <<E\n{v}\nE", "true # {v}"])
def test_where_nothing_can_be_quoted_only_plain_values_are_taken(script: str):
    assert filled_words(["bash", "-ec", script], {"v": "a-1.5e-3"})[2] == script.replace(
        "{v}", "a-1.5e-3"
    )
    with pytest.raises(ValueError, match=r"'1; ls' of \{v\} cannot be quoted"):
        filled_words(["bash", "-ec", script], {"v": "1; ls"})
    with pytest.raises(ConfigError, match="cannot be quoted"):
        text = f"name='x'\n[runner]\ncommand = ['sh', '-c', {json.dumps(script + ' {tokens}')}]\n"
        Spec.from_text(f"{text}[base]\nv = '1; ls'\n[axes]\ntokens = [1]\n")


@pytest.mark.parametrize(
    "words, filled",
    [
        (["sh", "-c", "{v}"], ["sh", "-c", "'a b'"]),
        (["/bin/bash", "-l", "-c", "{v}"], ["/bin/bash", "-l", "-c", "'a b'"]),
        (["srun", "bash", "-lc", "{v}", "{v}"], ["srun", "bash", "-lc", "'a b'", "a b"]),
        (["python", "-c", "{v}"], ["python", "-c", "a b"]),
        (["sh", "{v}"], ["sh", "a b"]),
        (["sh", "script.sh", "-c", "{v}"], ["sh", "script.sh", "-c", "a b"]),
        (["sh", "-c"], ["sh", "-c"]),
    ],
)
def test_only_scripts_of_shells_are_quoted(words: list[str], filled: list[str]):
    assert filled_words(words, {"v": "a b"}) == filled


def test_formats_and_empty_values_stay(tmp_path: Path):
    words = ["sh", "-c", "train --lr {lr:.2e} {flag} {{}} ${{HOME}}"]
    assert filled_words(words, {"lr": 0.001, "flag": ""})[2] == "train --lr 1.00e-03  {} ${HOME}"


def test_a_folder_with_any_name_works_in_a_script(tmp_path: Path):
    folder = tmp_path / "a $HOME `x` 'q' \"d\" ;"
    folder.mkdir()
    line = '{{"L": 2.5, "N": 1000}}'
    run = command_run(f"echo '{line}' > {{folder}}/result.json")
    store, queue = run_all(folder / "runs", [run])
    finished = store.result(run.run_id)
    assert queue.fatal is None and finished is not None and finished.row["status"] == "ok"
    other = command_run(f"echo '{line}' > \"$(echo `echo {{folder}}`)/result.json\"")
    store, _ = run_all(folder / "runs", [other])
    failed = store.result(other.run_id)
    assert failed is not None and "cannot be quoted" in failed.row["error"]
    assert new_store(folder / "runs").result(run.run_id) is not None
