"""Help of the commands: its lines, its names of arguments, its examples, and its refusals."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_sweep
from small import SMALL, call
from tracker_files import write_mlflow_project, write_wandb_project

from analysis.figures import registry
from scaling import table
from scaling.abilities.table import COLUMNS
from scaling.cli import COMMANDS
from scaling.cli.help import coloured, help_text, wrapped
from scaling.cli.signature import options
from sweeps.export import EXPORTERS
from sweeps.options import SweepOptions

ROOT = Path(__file__).parents[1]
WIDTHS = (60, 80, 100, 140)


def examples(name: str) -> list[str]:
    return re.findall(r"^Example: (scaling .*)$", inspect.getdoc(COMMANDS[name]) or "", re.M)


# ------------------------------------------------------------------ lines


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_text_of_the_help_fills_the_terminal_without_lines_of_one_word(name, width):
    lines = help_text(name, COMMANDS[name], width=width).splitlines()
    assert max(map(len, lines)) <= width
    for line in lines:
        # The only single words are headings, options and names of arguments.
        if len(line.split()) == 1:
            assert re.match(r"\S.*:$|  (--|[A-Z{\[])", line), line
        assert line == line.rstrip()


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_says_the_same_at_every_width(name):
    def words(width: int) -> list[str]:
        return help_text(name, COMMANDS[name], width=width).replace("\\\n", " ").split()

    assert len({tuple(words(width)) for width in WIDTHS}) == 1


def test_narrower_lines_avoid_an_orphan_and_quotes_stay_whole():
    assert wrapped("one two three four", 13) == ["one two", "three four"]
    assert wrapped('rows such as "n_layer > 1" only', 20) == ["rows such as", '"n_layer > 1" only']
    assert wrapped("incomprehensibilities", 10) == ["incomprehensibilities"]


def test_help_in_a_terminal_and_in_a_pipe_has_the_same_text(monkeypatch):
    text = help_text("fit", COMMANDS["fit"], width=80)
    assert coloured(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured(text) != text and re.sub(r"\x1b\[\d+m", "", coloured(text)) == text


# ------------------------------------------------------------------ what the forms do


def test_a_switch_is_described_in_the_form_that_is_shown():
    """Every --no-x says what --no-x does, not what happens without it."""
    text = " ".join(help_text("sweep", COMMANDS["sweep"], width=100).split())
    assert "--no-packs Train each run alone" in text
    for name, command in COMMANDS.items():
        text = help_text(name, command, width=100)
        for form in [each for each in options(name, command) if "no-" in each]:
            if form.startswith("--no-"):
                (entry,) = re.findall(rf"^  {form} +(.*)", text, re.M)
                assert re.match(r"Do not |Without |Train each run alone", entry), entry
            else:  # a run's switches: the text is that of the first form, and says how to turn it
                plain = form.replace(".no-", ".")
                flat = " ".join(text.split())
                entry = flat.partition(f"{plain}, {form} ")[2].partition(" --")[0]
                assert "(default: off)" in entry or "(default: on;" in entry, (form, entry)


def test_a_switch_that_is_on_says_what_turns_it_off():
    for each in SweepOptions.__dataclass_fields__.values():
        assert each.default is not True or each.metadata["off"]


def test_arguments_are_named_by_what_they_are():
    usages = {name: help_text(name, c, width=140).splitlines()[0] for name, c in COMMANDS.items()}
    assert usages["figure"].startswith("usage: scaling figure [FIGURE] [RESULTS")
    assert usages["logs"] == "usage: scaling logs RESULTS RUN [OPTIONS]"
    assert usages["sweep"] == "usage: scaling sweep SPEC [OPTIONS]"
    for name in ("fit", "validate", "frontier", "plan", "design"):
        assert re.match(rf"usage: scaling {name} RUNS\b", usages[name])
    for name in ("status", "watch", "cancel", "clean", "export", "summary", "report"):
        assert re.match(rf"usage: scaling {name} RESULTS\b", usages[name])
    for name, command in COMMANDS.items():
        assert not re.search(r"\b(NAME|PATH)\b", help_text(name, command, width=140)), name


# ------------------------------------------------------------------ examples

STANDS_FOR = {
    # In the examples, and what stands for it here: a sweep of two runs instead of 51, in this
    # process instead of Ray, on a text of the tests; a run that exists; a folder of tables; a run
    # that kept its weights.
    "train": [("--tokens 2e6", "--tokens 2e4 --data.corpus corpus.txt --data.tokenizer bytes "
               "--batch-tokens 256 --model.n-ctx 32 --model.d-model 16 --eval.test-tokens 2048")],
    "sweep": [("quickstart", "small.toml"), ("--workers 2", "--in-process")],
    "logs": [("3f2a", "RUN")],
    "eval": [("results/abilities", "kept")],
    "export-model": [("results/abilities/3f2a", "kept")],
    "abilities": [("results/abilities", "scored")],
    "generate": [("3f2a", "RUN")],
    "transfer": [("results/transfer", str(ROOT / "results" / "transfer"))],
    "verify-published": [("--data published", "--data PUBLISHED")],
    "compare": [("adamw.csv muon.csv", "results/quickstart known"),
                ("runs.csv --by", "both.csv --by")],
    "report": [("--beside results/isoflop", "--beside known")],
    "data prepare": [("my_text.txt --tokenizer bpe-1024", "my_text.txt --tokenizer bpe-300")],
}  # fmt: skip
CLAIM = """
law = "chinchilla"
[params]
E = 1.7
A = 20.0
B = 60.0
alpha = 0.3
beta = 0.3
[map]
params = "N"
tokens = "D"
loss = "L"
"""
KEPT = (
    "--folder kept --execution.keep-weights --data.corpus corpus.txt --data.tokenizer bytes "
    "--model.n-ctx 256 --model.d-model 8 --model.n-head 1 --tokens 1024 --batch-tokens 512 "
    "--eval.test-tokens 2048"
)
"""A run with weights, whose context holds sixteen examples of a task."""
MANAGED = {"status", "watch", "logs", "cancel", "clean", "export", "generate"}
"""Commands that read the folder of a sweep that was trained here; the others read a table of a
known law."""


def scores_of(runs):
    """Return the scores of runs on two tasks, as `scaling eval` writes them."""
    rise = 1 / (1 + np.exp(2 * (runs["L"] - runs["L"].median())))
    scores = {name: pd.Series(1.0, runs.index, dtype=float) for name in COLUMNS}
    both = [
        pd.DataFrame(scores).assign(
            run_id=runs["run_id"], task=task, version="v", shots=0, metric="accuracy_sum", n=1000,
            value=0.5 + 0.4 * rise, stderr=0.015, nll=runs["L"], chance=0.5, main=True,
        )
        for task in ("agree", "swap")
    ]  # fmt: skip
    return pd.concat(both).astype(COLUMNS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, text_file):
    """A folder with a trained sweep, a table of a known law, and a text."""
    folder = tmp_path_factory.mktemp("examples")
    runs, curves = make_sweep()
    (folder / "known").mkdir()
    table.write(folder / "known", runs.to_dict("records"), curves.to_dict("records"))
    manifest = {"name": "quickstart", "description": "", "spec": 'name = "mine"', "schema": 1}
    (folder / "known" / "manifest.json").write_text(json.dumps(manifest))
    shutil.copytree(folder / "known", folder / "scored")
    scores_of(runs).to_parquet(folder / "scored" / "tasks.parquet")
    names = {"L": "loss", "N": "params", "D": "tokens"}
    runs[list(names)].rename(columns=names).to_csv(folder / "runs.csv", index=False)
    points = curves.assign(lr=3e-3)[["run_id", "S", "lr", "L"]]
    points.rename(columns={"run_id": "run", "S": "step", "L": "loss"}).to_csv(
        folder / "curves.csv", index=False
    )
    two = runs[["N", "D", "L"]].assign(optimizer=["adamw", "muon"] * (len(runs) // 2))
    two.to_csv(folder / "both.csv", index=False)
    for name in ("corpus.txt", "my_text.txt"):
        shutil.copy(text_file, folder / name)
    write_wandb_project(folder)
    write_mlflow_project(folder / "mlflow.db")
    (folder / "small.toml").write_text(SMALL)
    (folder / "claim.toml").write_text(CLAIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SCALING_CACHE", str(folder / "cache"))
        keep = ("--set", "execution.keep_weights=true")
        assert call("sweep", "small.toml", "--in-process", "--results", "trained", *keep) == 0
        assert call("train", *shlex.split(KEPT)) == 0
    return folder


@pytest.fixture
def here(folder, tmp_path, monkeypatch):
    """A copy of that folder as the current one."""
    place = tmp_path / "here"
    shutil.copytree(folder, place)
    monkeypatch.chdir(place)
    for name in ("SCALING_CACHE", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.setenv(name, str(place / "cache"))
    return place


DRIVER = """
import sys, time
from sweeps.driver import interruptible
from sweeps.store import Store
asked = []
with Store(sys.argv[1]).drive(), interruptible(lambda: asked.append(1)):
    print("holds", flush=True)
    try:
        while not asked:
            time.sleep(0.02)
    except KeyboardInterrupt:
        pass
"""


def driver(results: Path) -> subprocess.Popen[str]:
    """Start a process that holds a results folder until it is asked to stop."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(results)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "holds\n"
    return process


EXAMPLES = [(name, example) for name in COMMANDS for example in examples(name)]


@pytest.mark.filterwarnings("always::UserWarning")  # notes of what was guessed
@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_an_example_of_the_help_runs(name, example, here, request, monkeypatch, capsys):
    if name == "harness":
        pytest.skip("it needs the extra hf; tests/test_hf.py runs the command")
    source = "trained/small" if name in MANAGED else "known"
    shutil.copytree(here / source, here / "results" / "quickstart")
    if name == "export" and importlib.util.find_spec("tensorboard") is None:
        monkeypatch.setitem(EXPORTERS, "tensorboard", lambda store: lambda finished: None)
    if name == "report":  # two figures are enough to write a page
        kept = {each: registry.FIGURES[each] for each in ("kaplan2", "frontier")}
        monkeypatch.setattr(registry, "FIGURES", kept)
    for shown, meant in STANDS_FOR.get(name, []):
        example = example.replace(shown, meant)
    if "PUBLISHED" in example:
        example = example.replace("PUBLISHED", str(request.getfixturevalue("published")))
    run_id = next((here / "trained" / "small" / "runs").iterdir()).name
    words = [re.sub(r"\bRUN\b", run_id[:4], word) for word in shlex.split(example)[1:]]
    process = driver(here / "results" / "quickstart") if name == "cancel" else None
    assert call(*words) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert printed.out.strip() and "Traceback" not in printed.err
    if process:
        process.communicate(timeout=20)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_ends_with_one_or_two_examples(name):
    text = help_text(name, COMMANDS[name], width=100)
    head, title, shown = text.rpartition("\nExample")
    assert title and len(examples(name)) in (1, 2)
    lines = shown.replace("\\\n     ", "").splitlines()[1:]
    assert [line.strip() for line in lines] == examples(name)
    assert "Example" not in head


def test_an_argument_that_takes_several_values_says_so():
    def compare(results: tuple[Path, ...], *, flops: float = 1.0) -> None:
        """Compare sweeps.

        Example: scaling compare a b

        Args:
            results: Results folders.
            flops: Compute.
        """

    text = help_text("compare", compare, width=80)
    assert text.startswith("usage: scaling compare RESULTS [RESULTS ...] [OPTIONS]\n")
    assert re.search(r"\n  RESULTS +Results folders", text) and "(default: 1)" in text


def test_a_long_example_can_be_pasted():
    """It is broken before options, with backslashes."""
    text = help_text("train", COMMANDS["train"], width=60)
    shown = text.rpartition("Examples:\n")[2].replace("\\\n", " ")
    assert [shlex.split(line) for line in shown.splitlines()] == [
        shlex.split(each) for each in examples("train")
    ]


# ------------------------------------------------------------------ refusals

REFUSALS = [
    ("fit a.csv --objectiv huber", "--objectiv huber: `scaling fit` has no option --obj"),
    ("fit a.csv --objective hubr", "--objective 'hubr' is not one of: auto, huber, ls, lad. Did"),
    ("fit a.csv --objective", "--objective needs a value: auto, huber, ls or lad."),
    ("fit a.csv --law", "--law needs a value."),
    ("fit a.csv --bootstrap many", "--bootstrap 'many' is not a number"),
    ("fit a.csv --seed 1.5", "--seed: 1.5 is not a whole number."),
    ("train --n-layer 4", "--n-layer 4: `scaling train` has no option --n-layer. Did "),
    ("train --zzz 4", "--zzz 4: `scaling train` has no option --zzz. `scaling train --help` li"),
    ("sweep quickstart --packs", "--packs: `scaling sweep` has no option --packs. Did"),
    ("logs a", "`scaling logs` needs RUN; usage: scaling logs RESULTS RUN [OPTIONS]."),
    ("export a", "`scaling export` needs --out, a file such as runs.xlsx, or --to, a tracker"),
    ("laws a", "`scaling laws` has no place for a; usage: scaling laws [OPTIONS]."),
    ("completion bsh", "SHELL 'bsh' is not one of: bash, zsh, fish. Did you mean bash?"),
    ("design a --params 1e6", "--params '1e6' is not FLOAT FLOAT."),
    (f"plan a --flops {'9x' * 300}", f"--flops '{'9x' * 300}' is not a number"),
    (f"fit a.csv --{'long-' * 60}x 1", f"--{'long-' * 60}x 1: `scaling fit` has no option --"),
]  # fmt: skip


@pytest.mark.parametrize("columns", [40, 100])
@pytest.mark.parametrize(("words", "message"), REFUSALS, ids=[w[:40] for w, _ in REFUSALS])
def test_a_refusal_is_one_whole_line(words, message, columns, monkeypatch, capsys):
    """It is not broken, boxed or cut at the width of the terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert call(*words.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"scaling: {message}")
    assert "..." not in printed.err and "\u2026" not in printed.err


def test_a_refusal_leaves_the_environment_as_it_was(monkeypatch):
    import os

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("TERM", raising=False)
    before = dict(os.environ)
    assert call("fit", "a.csv", "--bootstrap", "many") == 2
    assert call("laws") == 0
    assert dict(os.environ) == before


def test_a_wrong_option_is_answered_with_the_nearest(capsys):
    for words, near in (
        ("fit a.csv --objectiv huber", "Did you mean --objective?"),
        ("train --n-layer 4", "Did you mean --model.n-layer?"),
        ("sweep quickstart --packs", "Did you mean --no-packs?"),
        ("fit a.csv --no-json", "Did you mean --json?"),
    ):
        assert call(*words.split()) == 2
        assert near in capsys.readouterr().err
