"""Examples in the README, how-to pages and concepts are run, planned or parsed."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import tyro
from tracker_files import write_wandb_project

from analysis import laws
from scaling import cli
from scaling.cli.signature import options
from scaling.trackers import is_source

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "docs" / "getting_started.md",
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
    *sorted((ROOT / "docs" / "concepts").glob("*.md")),
]
PACKAGES = ("scaling", "sweeps", "analysis")
DOCUMENTS = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "notebooks" not in page.parts),
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def commands(page: Path) -> list[list[str]]:
    lines = "\n".join(blocks(page, "sh")).splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [w[1:] for w in words if w and w[0] == "scaling"]


def every_command() -> dict[str, tuple[Path, list[str]]]:
    """Return each command of the pages once, or once per page if it reads a file that the page
    shows."""
    found = {}
    for page in PAGES:
        for words in commands(page):
            own = any(word.partition(":")[0].endswith((".toml", ".py")) for word in words)
            key = f"{page.stem}: {shlex.join(words)}" if own else shlex.join(words)
            found.setdefault(key, (page, words))
    return found


EVERY = every_command()
# Commands that need several GPUs, a cluster, the network or a minute are only parsed.
PARSED = {
    key
    for key, (_, words) in EVERY.items()
    if {"--devices", "--execution.devices", "--scale"} & set(words)
    or any(word.startswith("hub:") for word in words)
    or words[0] == "report"  # a minute; tests/test_report.py writes the same page
    or words[0] == "eval"  # needs weights; tests/test_eval_command.py evaluates some
    or words[0] in ("export-model", "harness")  # likewise; tests/test_exchange.py, tests/test_hf.py
    or words[0] == "abilities"  # needs scores of tasks; tests/test_ability_laws.py runs it
    or words[0] == "generate"  # needs weights; tests/test_generate.py and test_help.py run it
    or (any(map(is_source, words)) and "wandb:wandb" not in words)  # of other tools' files
    or "--init" in words  # needs weights; tests/test_init.py and test_classify.py run it
    or words[:2] in (["sweep", "transfer"], ["sweep", "classify"])  # likewise
    or {"children.toml", "results/children"} & set(words)  # likewise; tests/test_transfer.py
}
# Commands that train for minutes are only planned; `make demo` and the tests of sweeps run some.
PLANNED = {
    key for key, (_, w) in EVERY.items() if w[0] == "sweep" and "--dry-run" not in w
} - PARSED
RUN = {key for key in EVERY if key not in PARSED | PLANNED}


@pytest.fixture
def here(tmp_path, monkeypatch, text_file, own_cache):
    """Set up a reader's folder: results of the demo and of headline, a text, and external
    tables."""
    results = tmp_path / "results"
    for name in ("headline", "batch", "isoflop", "size", "lstm", "transfer", "bert", "classify"):
        shutil.copytree(
            ROOT / "results" / name, results / name, ignore=shutil.ignore_patterns("runs")
        )
    shutil.copytree(results / "headline", results / "quickstart")
    shutil.copy(text_file, tmp_path / "my_text.txt")
    runs = pd.read_csv(results / "headline" / "runs.csv").query("status == 'ok'")
    names = {"L": "loss", "N": "params", "D": "tokens"}
    runs[list(names)].rename(columns=names).to_csv(tmp_path / "runs.csv", index=False)
    text = runs.L.map("{:.4f} ± 0.01".format)
    errors = pd.DataFrame({"loss": text, "params": runs.N, "tokens": runs.D})
    errors.to_csv(tmp_path / "errors.csv", index=False)
    other = {"bits": runs.L / 0.6931, "params_M": runs.N / 1e6, "tokens_B": runs.D / 1e9}
    pd.DataFrame(other).to_csv(tmp_path / "other.csv", index=False)
    points = pd.read_parquet(results / "headline" / "curves.parquet")
    points = points[points.run_id.isin(runs.run_id[runs.N.min() == runs.N])]
    logged = {"run_id": "run", "S": "step", "lr": "lr", "L": "loss"}
    points[list(logged)].rename(columns=logged).to_csv(tmp_path / "curves.csv", index=False)
    runs[["run_id", "N", "D", "L"]].to_csv(tmp_path / "sizes.csv", index=False)
    write_wandb_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALING_CACHE")
    return tmp_path


def write_files_of(page: Path, folder: Path) -> None:
    """Write the files that a page shows: specs by name, a claim, the first Python block of
    own_*.md."""
    for toml in blocks(page, "toml"):
        if name := re.search(r'^name = "(\w+)"', toml, flags=re.M):
            (folder / f"{name[1]}.toml").write_text(toml)
        elif toml.startswith("law = "):
            (folder / "claim.toml").write_text(toml)
    if page.stem == "own_trainer":
        shutil.copy(ROOT / "tests" / "trainers" / "nano.py", folder / "train.py")
    if page.stem in ("own_law", "own_family"):
        name = {"own_law": "my_laws.py", "own_family": "my_family.py"}[page.stem]
        (folder / name).write_text(blocks(page, "python")[0])


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=250,
    )


@pytest.mark.parametrize("key", sorted(RUN))
def test_command(here, key):
    page, words = EVERY[key]
    write_files_of(page, here)
    done = run("-m", "scaling.cli", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or "--out" in words


@pytest.mark.parametrize("key", sorted(PLANNED))
def test_sweep_is_planned(here, key):
    """The flags and the spec are valid for a sweep too long to run here."""
    page, words = EVERY[key]
    write_files_of(page, here)
    done = run("-m", "scaling.cli", *words, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "runs" in done.stdout


@pytest.mark.parametrize("key", sorted(PARSED))
def test_command_is_parsed(monkeypatch, key):
    """The flags are valid for commands that need GPUs, a cluster or the network."""
    parse, calls = tyro.cli, []

    def parse_only(*arguments, **options):
        calls.append(parse(*arguments, **options))
        return lambda: None

    monkeypatch.setattr(tyro, "cli", parse_only)
    cli.main(EVERY[key][1])
    assert len(calls) == 1


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.stem)
def test_python(here, page):
    """The Python blocks of a page run in order in one session."""
    write_files_of(page, here)
    code = "\n".join(blocks(page, "python"))
    code = code.replace("runs = sweep.run(workers=2)", "# shown by the tests of sweeps:")
    (here / "session.py").write_text(code)
    done = run("session.py")
    assert done.returncode == 0, done.stderr
    shown = {"README": ("train ", "bottleneck"), "own_law": ("kappa",), "plan": ("train ",)}
    for words in shown.get(page.stem, ()):
        assert words in done.stdout


def shows_specs(page: Path) -> bool:
    """Return whether a page shows specs that need nothing else; tests/test_transfer.py trains those
    of fine_tune.md."""
    specs = any(not toml.startswith("law = ") for toml in blocks(page, "toml"))
    return specs and page.stem != "fine_tune"


@pytest.mark.parametrize("page", [*filter(shows_specs, PAGES)], ids=lambda p: p.stem)
def test_specs(tmp_path, monkeypatch, page):
    from sweeps.spec import Spec

    monkeypatch.chdir(tmp_path)  # where a spec may name a command

    write_files_of(page, tmp_path)
    runs = {file.stem: len(Spec.from_toml(file).runs) for file in tmp_path.glob("*.toml")}
    shown = {"sweep": {"mine": 6, "adaptive": 2, "stopped": 15}, "own_corpus": {"mine": 2}}
    shown |= {"schedules": {"cooldowns": 6, "wsds": 4}, "gpu": {}, "README": {}}
    shown["own_trainer"] = {"own": 16, "titan": 4, "chat": 12, "olmo": 9}
    assert runs == shown[page.stem]


def test_readme_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    used = re.findall(r"^make ([a-z-]+)", "\n".join(blocks(README, "sh")), flags=re.M)
    assert used == ["demo", "test"] and set(used) <= set(targets)


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda p: p.stem)
def test_names_exist(page):
    """Dotted names, paths of the repository, bare file names and tests."""
    text = page.read_text()
    for name in re.findall(rf"(?<![\w/.-])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+", text):
        pkgutil.resolve_name(name)  # raises if there is no such module or attribute
    folders = "|".join((*PACKAGES, "benchmarks", "docs", "tests"))
    for path in re.findall(rf"(?<![\w/.-])((?:{folders})/[\w/.*-]*)", text):
        assert list(ROOT.glob(path.rstrip("./"))), path
    for name in re.findall(r"`([\w*]+\.py)`", text):
        assert list(ROOT.rglob(name)) or name.startswith("my_"), name
    assert set(re.findall(r"\btest_\w+", text)) <= names_of_tests()


@pytest.mark.parametrize("package", PACKAGES)
def test_names_in_docstrings_exist(package):
    """Cross-references such as :func:`analysis.fit`."""
    for file in (ROOT / package).rglob("*.py"):
        for name in re.findall(rf":\w+:`~?((?:{'|'.join(PACKAGES)})\.[\w.]+)`", file.read_text()):
            pkgutil.resolve_name(name)


def names_of_tests() -> set[str]:
    """The names of test functions and of their files."""
    files = list((ROOT / "tests").glob("test_*.py"))
    functions = re.findall(r"def (test_\w+)", "\n".join(file.read_text() for file in files))
    return {*functions, *(file.stem for file in files)}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda p: p.stem)
def test_options_exist(page):
    """Options in prose; those in code blocks may belong to other programs."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    known = {"--help", "--version", "--all-files"}  # the last one is pre-commit's
    for name, command in cli.COMMANDS.items():
        known |= set(options(name, command))
    code = "\n".join(re.findall(r"`([^`]+)`", prose))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", code)) <= known


def test_the_map_is_the_tree():
    """CONTRIBUTING.md lists every folder and file directly in the three packages."""
    mapped: dict[str, set[str]] = {}
    (house,) = blocks(ROOT / "CONTRIBUTING.md", "text")
    for line in house.splitlines():
        names = line.strip().partition("  ")[0].split(", ")
        if not line.startswith(" "):
            package = mapped.setdefault(names[0].rstrip("/"), set())
        else:
            package.update(name.rstrip("/") for name in names)
    for package in PACKAGES:
        found = (ROOT / package).iterdir()
        assert mapped[package] == {path.name for path in found if path.name[0] not in "_."}


def test_extras_exist():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    for page in PAGES:
        for names in re.findall(r"scaling-laws-lab\[([a-z,]+)\]", page.read_text()):
            assert set(names.split(",")) <= extras, page


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_pages_mention_every_command():
    text = "\n".join(page.read_text() for page in PAGES)
    named = {name for name in cli.COMMANDS if f"scaling {name}" in text}
    assert set(cli.COMMANDS) - named <= {"data list", "doctor", "verify-published"}


def test_laws_page_says_when_to_use_each():
    text = (ROOT / "docs" / "concepts" / "laws.md").read_text()
    for name in laws.LAWS:
        column = re.sub(r"_[NDC]$", "_X", name)
        assert f"`{name}`" in text or f"`{column}`" in text, name


def test_formulas_are_typeset():
    path = ROOT / "docs" / "_ext" / "formula.py"
    spec = importlib.util.spec_from_file_location("formula", path)
    formula = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formula)
    assert formula.tex("L(N, D) = E + A / N^alpha") == (
        r"L(N, D) = E + \frac{A}{{N}^{\alpha}}",
        "",
    )
    assert formula.tex("y(x) = (a_0 / x)^(1 / k), with x > 0") == (
        r"y(x) = {(a_{0} / x)}^{1 / k}",
        "with x > 0",
    )
    for law in laws.LAWS.values():
        assert formula.tex(law.formula)[0].startswith(
            ("L(", "L_{u}(", "B", "S(", r"\mathrm", r"\log")
        )
    with pytest.raises(ValueError):
        formula.tex("the loss, more or less")
