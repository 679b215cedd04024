"""The wheel without extras fits tables; a command that needs an extra names it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scaling import extras
from scaling.cli import COMMANDS, main
from scaling.errors import ConfigError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

ALONE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

ELSEWHERE = {"datasets", "wandb", "mlflow", "tensorboard", "transformers", "lm_eval"}
"""Modules of extras that the environment of the tests need not have."""

FITS = [
    ["fit", "runs.csv", "--bootstrap", "50", "--json"],
    ["frontier", "results", "--bootstrap", "20", "--json"],
    ["plan", "results", "--flops", "1e15", "--law", "chinchilla", "--json"],
    ["validate", "runs.csv", "--against", "shared_exponent", "--bootstrap", "20", "--json"],
    ["figure", "kaplan1", "results", "--out", "kaplan1.png"],
    ["report", "depth", "--out", "page.html"],
]
NEEDS = [
    ("train", ["train", "--tokens", "1e4"]),
    ("sweep", ["sweep", "quickstart"]),
    ("sweep", ["sweep", "quickstart", "--dry-run"]),
    ("train", ["sweep", "quickstart", "--in-process"]),
    ("train", ["data", "prepare"]),
    ("train", ["generate", "results", "--prompt", "x"]),
    ("wandb", ["export", "results", "--to", "wandb"]),
]


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Return a folder with the sdist and the wheel, built from a copy to keep the source clean."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    for name in ("scaling", "sweeps", "analysis"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(words, check=True, capture_output=True)
    shutil.rmtree(source)
    return folder


def core_distributions(wheel: Path) -> set[str]:
    """Return the distributions that the wheel requires without extras, directly or not."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    prefix = "Requires-Dist: "
    due = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    found: set[str] = set()
    while due:
        requirement = Requirement(due.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        key = canonicalize_name(requirement.name)
        if key not in found:
            found.add(key)
            due += importlib.metadata.requires(key) or []
    return found


START = """\
import sys
class OnlyCore:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, OnlyCore())
sys.path.insert(0, {unpacked!r})
import scaling
assert scaling.__file__.startswith({unpacked!r}), scaling.__file__
from scaling.cli import COMMANDS, main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def unpacked(dist) -> list[str]:
    """Return the command of the unpacked wheel, run with only its core dependencies visible."""
    (wheel,) = dist.glob("*.whl")
    folder = dist / "unpacked"
    zipfile.ZipFile(wheel).extractall(folder)
    core = core_distributions(wheel)
    ours = {"scaling", "sweeps", "analysis"}
    absent = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if module not in ours and not core & {canonicalize_name(owner) for owner in owners}
    }
    assert set(extras.EXTRAS) - ELSEWHERE <= absent
    start = dist / "start.py"
    start.write_text(START.format(absent=sorted(absent), unpacked=str(folder)))
    return [sys.executable, "-P", str(start)]


@pytest.fixture(scope="module")
def bare(dist) -> list[str]:
    """Return the console script of the wheel, installed by pip into a new environment."""
    (wheel,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(dist / "venv")], check=True)
    pip = [str(dist / "venv/bin/python"), "-m", "pip", "--disable-pip-version-check"]
    pins = ["-c", str(ROOT / "constraints.txt")]
    install = [*pip, "install", "--quiet", *pins, str(wheel)]
    subprocess.run(install, check=True, env=ALONE, timeout=900)
    listed = subprocess.run(
        [*pip, "list", "--format=json"], check=True, env=ALONE, capture_output=True
    )
    names = {each["name"] for each in json.loads(listed.stdout)}
    assert not names & {"torch", "ray", "plotly", "tokenizers", "tiktoken"}
    return [str(dist / "venv/bin/scaling")]


@pytest.fixture
def here(tmp_path) -> Path:
    skip = shutil.ignore_patterns("runs", "figures")
    shutil.copytree(ROOT / "results" / "headline", tmp_path / "results", ignore=skip)
    shutil.copytree(ROOT / "results" / "depth", tmp_path / "depth", ignore=skip)
    shutil.copy(ROOT / "results" / "headline" / "runs.csv", tmp_path)
    return tmp_path


def run(command: list[str], words: list[str], here: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *words], cwd=here, env=ALONE, capture_output=True, text=True, timeout=200
    )


def check_fits(command: list[str], words: list[str], here: Path) -> None:
    done = run(command, words, here)
    assert done.returncode == 0, done.stderr
    if "--json" in words:
        assert json.loads(done.stdout)
    if "--out" in words:
        assert (here / words[-1]).stat().st_size > 10_000
    if words[0] == "report":
        assert 'id="plot-hero"' in (here / "page.html").read_text()  # it needs no extra


def check_needs(command: list[str], words: list[str], extra: str, here: Path) -> None:
    done = run(command, words, here)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert f"pip install 'scaling-laws-lab[{extra}]'" in done.stderr


@pytest.mark.parametrize("words", FITS, ids=lambda words: words[0])
def test_core_fits_tables(unpacked, here, words):
    check_fits(unpacked, words, here)


@pytest.mark.parametrize(("extra", "words"), NEEDS, ids=lambda value: "-".join(value)[:30])
def test_command_names_its_extra(unpacked, here, extra, words):
    check_needs(unpacked, words, extra, here)


@pytest.mark.slow
def test_bare_environment(bare, here):
    """Repeat the tests in an environment into which pip downloads the core dependencies."""
    for words in FITS:
        check_fits(bare, words, here)
    for extra, words in NEEDS:
        check_needs(bare, words, extra, here)
    listed = run(bare, ["doctor"], here).stdout
    assert "torch             not installed: pip install 'scaling-laws-lab[train]'" in listed


def test_sdist_and_wheel_pass_twine(dist):
    files = [str(path) for path in dist.iterdir() if path.suffix in (".whl", ".gz")]
    assert len(files) == 2
    words = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_extras_of_the_project():
    """Each module is required by exactly one extra, the one that its message names."""
    optional = PROJECT["optional-dependencies"]
    names = {
        extra: {
            re.split(r"[\[<>=;]", each)[0].strip().replace("pyyaml", "yaml")
            for each in requirements
        }
        for extra, requirements in optional.items()
    }
    for module, extra in extras.EXTRAS.items():
        assert [e for e, found in names.items() if module in found] == [extra]
    required = set().union(*(names[extra] for extra in set(extras.EXTRAS.values())))
    assert required - {"scaling-laws-lab"} == set(extras.EXTRAS)
    core = {re.split(r"[\[<>=;]", each)[0].strip() for each in PROJECT["dependencies"]}
    assert not core & set(extras.EXTRAS)


def test_missing_module_is_one_line(monkeypatch, capsys):
    """A failing import deep in a library call gives the same message."""

    def deep() -> None:
        """Fail."""
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setitem(COMMANDS, "doctor", deep)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 2
    assert (
        "torch is not installed: pip install 'scaling-laws-lab[train]'" in capsys.readouterr().err
    )


def test_require():
    extras.require("json", "re")
    with pytest.raises(ConfigError, match=r"nowhere is not installed: .*\[sweep\]"):
        extras.require("json", "nowhere", extra="sweep")
