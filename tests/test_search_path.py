"""No file in the current folder is executed because it is called like a module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from disturbed import BASE, Project

from scaling import interpreter, table

PLANTED = """
import sys
with open({executed!r}, "a") as file:
    file.write(f"{name}: {{sys.orig_argv}}\\n")
raise ImportError("a file of the current folder was imported as {name}")
"""


@pytest.fixture
def executed(project: Project) -> Path:
    """A log of what was executed from the current folder, which has a file for every module that
    processes look for."""
    executed = project.folder / "executed"
    names = {
        *sys.stdlib_module_names,
        "pip",
        "numpy",
        "torch",
        "ray",
        "pandas",
        "psutil",
        "scaling",
    }
    for name in names - {*sys.builtin_module_names, "__main__"}:
        text = PLANTED.format(executed=str(executed), name=name)
        (project.folder / f"{name}.py").write_text(text)
    (project.folder / "git").write_text(f"#!/bin/sh\necho git >> '{executed}'\n")
    (project.folder / "git").chmod(0o755)
    return executed


def run(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the modules that `scaling` finds, as -P does for installed scripts."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_dry_run_executes_nothing_from_the_current_folder(project: Project, executed: Path):
    project.spec("dry", 'name = "dry"\n' + BASE + "tokens = 2560\n[axes]\nseed = [0]\n")
    words = "-P", "-m", "scaling.cli", "sweep", "dry.toml", "--dry-run", "--workers", "1"
    done = run(project, *words, "--devices", "2")  # a process that measures, and a rank of it
    assert not executed.exists(), executed.read_text()
    assert (done.returncode, done.stderr) == (0, "") and "1 measurements" in done.stdout


def test_a_download_executes_nothing_from_the_current_folder(project: Project, executed: Path):
    project.environment |= {"PIP_NO_INDEX": "1", "SCALING_CACHE": str(project.folder / "cache")}
    done = run(project, "-P", "-m", "scaling.cli", "data", "prepare", "wikipedia")
    assert not executed.exists(), executed.read_text()
    assert done.returncode == 2 and "could not download gensim" in done.stderr


def test_ray_workers_find_the_modules_of_the_script_and_no_others(
    project: Project, executed: Path, own_family: Path
):
    """Run a script in another folder whose family needs a module beside it."""
    scripts = project.folder / "scripts"
    scripts.mkdir()
    (scripts / "beside.py").write_text("from scaling.model import Model\n")
    own = own_family.read_text().replace("import Model, family", "import family")
    (scripts / "my.py").write_text(f"from beside import Model\n{own}")
    base = BASE.replace("n_layer = 1", 'family = "scripts/my.py:Mean", n_layer = 1')
    base = base.replace("corpus.txt", str(project.folder / "corpus.txt"))
    (scripts / "own.toml").write_text(f'name = "own"\n{base}tokens = 2560\n[axes]\nseed = [0]\n')
    (scripts / "run.py").write_text(
        "import beside, sys\n"
        "from sweeps import Sweep\n"
        "Sweep.from_toml('scripts/own.toml', 'results').run(workers=1, quiet=True)\n"
        "assert 'ray' in sys.modules\n"
    )
    done = run(project, "scripts/run.py")
    assert not executed.exists(), executed.read_text()
    assert (done.returncode, done.stderr) == (0, "")
    assert table.read(project.folder / "results" / "own").status.tolist() == ["ok"]


def test_child_processes_search_the_same_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (odd := tmp_path / "a:b 'c").mkdir()
    (odd / "beside.py").write_text("import sys\ndef say(): print(sys.path)\n")
    monkeypatch.setattr(sys, "path", ["", str(odd), *(p for p in sys.path if p)])
    done = subprocess.run(
        interpreter.command("beside", "say"), cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"{interpreter.search_path()}\n", "")
    assert str(odd) in interpreter.search_path() and str(tmp_path) not in interpreter.search_path()
