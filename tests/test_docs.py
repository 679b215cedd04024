"""What the README and the notebooks say is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from scaling import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.S | re.M)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("sh")).splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [w[1:] for w in words if w and w[0] == "scaling"]


# What trains for minutes is shown by `make demo` and the tests of sweeps.
TRAINS = [w for w in commands() if w[0] == "sweep" and "--dry-run" not in w]


@pytest.fixture
def here(tmp_path, monkeypatch, text_file, own_cache):
    """A folder as the README's reader has it: results of the demo and of headline, a text, a table."""
    results = tmp_path / "results"
    shutil.copytree(
        ROOT / "results" / "headline", results / "headline", ignore=shutil.ignore_patterns("runs")
    )
    shutil.copytree(results / "headline", results / "quickstart")
    shutil.copy(text_file, tmp_path / "my_text.txt")
    runs = pd.read_csv(results / "headline" / "runs.csv").query("status == 'ok'")
    names = {"L": "loss", "N": "params", "D": "tokens"}
    runs[list(names)].rename(columns=names).to_csv(tmp_path / "runs.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALING_CACHE")
    return tmp_path


@pytest.mark.parametrize(
    "words", [w for w in commands() if w not in TRAINS], ids=lambda w: "-".join(w)[:40]
)
def test_readme_command(here, words):
    done = subprocess.run(
        [sys.executable, "-m", "scaling.cli", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or "--out" in words


@pytest.mark.parametrize("words", TRAINS, ids=lambda w: "-".join(w)[:40])
def test_readme_sweeps_parse(here, words):
    """The flags and the spec of a sweep too long to run here."""
    done = subprocess.run(
        [sys.executable, "-m", "scaling.cli", *words, "--dry-run"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "runs" in done.stdout


def test_readme_python(here, capsys):
    """Every Python block, in order, in one session."""
    code = "\n".join(blocks("python"))
    code = code.replace("runs = sweep.run(workers=2)", "# shown by the tests of sweeps:")
    (here / "session.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "session.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "train " in done.stdout and "kappa" in done.stdout


def test_readme_spec(tmp_path):
    from sweeps.spec import Spec

    (toml,) = blocks("toml")
    (tmp_path / "mine.toml").write_text(toml)
    assert len(Spec.from_toml(tmp_path / "mine.toml").runs) == 6


def test_readme_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    used = re.findall(r"^make ([a-z-]+)", "\n".join(blocks("sh")), flags=re.M)
    assert used == ["demo", "test"] and set(used) <= set(targets)


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_readme_knows_every_command():
    named = {name for name in cli.COMMANDS if f"scaling {name}" in README}
    assert set(cli.COMMANDS) - named <= {"data list", "verify-published"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip the outputs"
    absent = (  # as on a machine without torch and ray
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'ray'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())"
    )
    if path.stem != "01_launch":
        notebook.cells.insert(0, nbformat.v4.new_code_cell(absent))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = NotebookClient(
        notebook, timeout=250, resources={"metadata": {"path": str(ROOT / "notebooks")}}
    )
    client.execute()
    drawn = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(drawn) >= {"01_launch": 1, "02_fit": 1, "03_figures": 6, "04_plan": 2}[path.stem]
