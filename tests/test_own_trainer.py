"""Sweeps of trainers that know nothing of this project: from a script to a law, a plan, a report.

The trainers are in tests/trainers: a small GPT in one file, a script for the Trainer of
transformers, and a shell one-liner. Each test is what a user would type.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import load
from scaling import table
from scaling.command_run import CommandRun
from scaling.config import flatten
from scaling.extras import installed
from sweeps.runner.names import Names
from sweeps.spec import Spec

ROOT = Path(__file__).parents[1]
TRAINERS = ROOT / "tests" / "trainers"


@pytest.fixture(scope="module")
def here(tmp_path_factory, text_file) -> Path:
    """A user's folder: the trainers, their specs, and a text."""
    folder = tmp_path_factory.mktemp("mine")
    for file in TRAINERS.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    shutil.copy(text_file, folder / "text.txt")
    return folder


def scaling(folder: Path, *words: str, code: int = 0) -> str:
    """Run a command in a folder; return its standard output, or its errors if it is to fail."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "SCALING_PROGRESS": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "scaling.cli", *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr + done.stdout
    return done.stdout if code == 0 else done.stderr


def runs_of(path: Path) -> tuple[CommandRun, ...]:
    """The runs of a spec, read without executing anything."""
    runs = Spec.from_text(path.read_text(), path=path).runs
    return tuple(run for run in runs if isinstance(run, CommandRun))


@pytest.fixture(scope="module")
def one_line(here) -> Path:
    scaling(here, "sweep", "one_line.toml", "--workers", "2")
    return here / "results" / "one_line"


@pytest.fixture(scope="module")
def nano(here) -> Path:
    scaling(here, "sweep", "nano.toml", "--workers", "2")
    return here / "results" / "nano"


# ------------------------------------------------------------------ a shell one-liner


def test_a_shell_one_liner_becomes_a_table(one_line):
    runs = table.read(one_line)
    assert len(runs) == 30 and set(runs.status) == {"ok"}
    law = 1.8 + 12 / runs.N**0.28 + 40 / runs.D**0.3
    assert np.allclose(runs.L, law, atol=1e-4)
    assert np.allclose(runs.C, 6 * runs.N * runs.D)
    assert runs.command.str.contains("awk").all()
    assert "d_model" not in runs and "optimizer" not in runs  # ours, which the command has not


def test_the_law_behind_a_one_liner_is_found(here, one_line):
    found = json.loads(scaling(here, "fit", "results/one_line", "--law", "chinchilla", "--json"))
    values = {name: found["params"][name]["value"] for name in ("E", "alpha", "beta")}
    assert values == pytest.approx({"E": 1.8, "alpha": 0.28, "beta": 0.3}, rel=1e-3)
    plan = scaling(here, "plan", "results/one_line", "--flops", "1e17", "--law", "chinchilla")
    assert "train " in plan
    assert "loss" in scaling(here, "summary", "results/one_line")


def test_finished_commands_are_not_run_again(here, one_line):
    before = {path: path.stat().st_mtime_ns for path in one_line.glob("runs/*/result.json")}
    assert len(before) == 30
    scaling(here, "sweep", "one_line.toml", "--workers", "2")
    assert before == {path: path.stat().st_mtime_ns for path in one_line.glob("runs/*/result.json")}
    assert "30 ok" in scaling(here, "status", "results/one_line")


def test_the_output_of_a_command_is_shown(here, one_line):
    run_id = table.read(one_line).run_id[0]
    assert "loss " in scaling(here, "logs", "results/one_line", run_id[:6])


# ------------------------------------------------------------------ nanoGPT in one file


def test_a_script_becomes_a_table_with_curves(nano):
    runs, curves = table.read(nano), table.read_curves(nano)
    assert len(runs) == 12 and set(runs.status) == {"ok"}
    assert (runs.depth * (12 * runs.width**2 + 2 * runs.width) + runs.width == runs.N).all()
    assert (
        (runs.tokens == runs.D).all() and (runs.B == 256).all() and (runs.S == runs.D / 256).all()
    )
    assert runs.L.between(1.5, math.log(256)).all()
    points = curves.groupby("run_id").size()
    assert set(points.index) == set(runs.run_id) and points.min() >= 4
    last = curves.sort_values("S").groupby("run_id").last()
    assert np.allclose(last.L[runs.run_id], runs.L) and last.L_train.notna().all()
    means = runs.groupby("width").L.mean()
    assert means.is_monotonic_decreasing


def test_a_script_gets_laws_a_plan_and_a_report(here, nano):
    fit = scaling(here, "fit", "results/nano", "--law", "chinchilla", "--bootstrap", "20")
    assert "alpha" in fit and "beta" in fit
    plan = scaling(here, "plan", "results/nano", "--flops", "1e13", "--law", "chinchilla")
    assert "train " in plan
    scaling(here, "report", "results/nano", "--out", "page.html")
    page = (here / "page.html").read_text()
    assert "width" in page or "nano" in page


def test_a_count_command_gives_the_size(here, nano):
    text = (here / "nano.toml").read_text()
    count = 'count = "python nano.py --depth {depth} --width {width} --count-only"\n'
    lines = [line for line in text.splitlines() if not line.startswith("N =")]
    text = "\n".join(lines).replace("timeout_hours", f"{count}timeout_hours")
    (here / "counted.toml").write_text(text.replace('"nano"', '"counted"', 1))
    scaling(here, "sweep", "counted.toml", "--dry-run", "--set", "seed=1")
    by_formula = {run.keys["width"]: run.N for run in runs_of(here / "nano.toml")}
    plan = scaling(here, "sweep", "counted.toml", "--dry-run")
    assert by_formula[4] == 204 and "204" in plan


def test_flops_become_tokens_where_the_size_is_known(here):
    text = (here / "nano.toml").read_text()
    text = re.sub(r"^tokens = .*", "flops = [1e8]", text, flags=re.M)
    (here / "budget.toml").write_text(text)
    for run in runs_of(here / "budget.toml"):
        assert abs(6 * run.N * run.D - 1e8) <= 6 * run.N * 256  # whole steps


def test_changed_code_makes_new_runs_unless_the_user_says_otherwise(here):
    mine = here / "changed"
    mine.mkdir()
    (mine / "law.py").write_text("import sys\nprint('loss', 2 + 1 / float(sys.argv[1]))\n")
    (mine / "changed.toml").write_text(
        'name = "changed"\n[runner]\ncommand = "python law.py {N}"\ncode = ["law.py"]\n'
        "[runner.results]\nlog = { L = 'loss (\\S+)' }\n[base]\ntokens = 1000\n"
        "[axes]\nN = [100, 200]\n"
    )
    words = ["sweep", "changed.toml", "--workers", "1"]
    scaling(mine, *words)
    (mine / "law.py").write_text("import sys\nprint('loss', 3 + 1 / float(sys.argv[1]))\n")
    scaling(mine, *words, "--same-code")
    assert len(table.read(mine / "results" / "changed")) == 2
    said = subprocess.run(
        [sys.executable, "-m", "scaling.cli", *words],
        cwd=mine, capture_output=True, text=True, timeout=250,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SCALING_PROGRESS": "0",
                          "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert said.returncode == 0 and "law.py" in said.stdout + said.stderr
    runs = table.read(mine / "results" / "changed")
    assert sorted(round(L) for L in runs.L) in ([2, 2, 3, 3], [3, 3])


def test_the_script_resumes_from_its_checkpoint(here, tmp_path):
    words = ["nano.py", "--data", "text.txt", "--width", "16", "--heads", "1", "--block-size", "32"]
    words += ["--max-iters", "400", "--eval-interval", "100", "--eval-tokens", "1024", "--resume"]
    whole = subprocess.run(
        [sys.executable, *words, "--out", str(tmp_path / "whole")],
        cwd=here, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, *words, "--out", str(tmp_path / "cut")],
        cwd=here, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 200"):
            break
    process.kill()
    process.communicate()
    rest = subprocess.run(
        [sys.executable, *words, "--out", str(tmp_path / "cut")],
        cwd=here, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert rest[0].startswith("resuming from step ")
    assert rest[-1] == whole[-1] and whole[-1].startswith("step 400")


def test_at_the_settings_of_headline_the_script_computes_what_our_trainer_does():
    import torch

    from scaling.config import from_dict
    from scaling.model import build
    from scaling.training.optim import Optimizer
    from scaling.training.schedule import peaks, schedule

    loaded = importlib.util.spec_from_file_location("nano", TRAINERS / "nano.py")
    nano = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(nano)
    headline = Spec.from_toml("headline").runs[16]
    run = from_dict({**flatten(headline), "tokens": 100 * 512})
    words = "--vocab-size 1024 --depth 2 --width 28 --heads 1 --bias --schedule wsd"
    lr, other = peaks(run)
    o = nano.options([*words.split(), *f"--max-iters 100 --warmup-iters 40 --lr {lr}".split()])
    o.lr_embedding = other
    assert [nano.lr_factor(i, o) for i in range(100)] == [schedule(run, i) for i in range(100)]

    ours, theirs = build(run.model, 1024), nano.GPT(o)
    assert theirs.size() == ours.count().N
    flat_1p = ours.init([0]).requires_grad_()
    names = {"qkv": "attention.qkv", "projection": "attention.out"}
    with torch.no_grad():
        p = {name: tensor[0] for name, tensor in ours.named(flat_1p).items()}
        for name, tensor in theirs.named_parameters():
            kind = name.removeprefix("blocks.")
            for mine, its in names.items():
                kind = kind.replace(its, mine)
            kind = {"embedding.weight": "token_embedding", "head.weight": "head"}.get(kind, kind)
            is_matrix = tensor.dim() > 1 and name.startswith("blocks.")
            assert p[kind].std().item() == pytest.approx(tensor.std().item(), abs=0.01)
            tensor.copy_(p[kind].T if is_matrix else p[kind])
    optimizer = theirs.optimizer(o)
    mine = Optimizer(flat_1p, ours, [run.optim])
    windows = torch.randint(1024, (4, 129), generator=torch.Generator().manual_seed(0))
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"]
        loss = theirs(windows[:, :-1], windows[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), o.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        our_loss = ours.mean_loss(flat_1p, windows[None])
        (grad_1p,) = torch.autograd.grad(our_loss.sum(), flat_1p)
        mine.step(grad_1p, [(lr, other)])
        assert loss.item() == pytest.approx(our_loss.item(), abs=2e-4), step
    assert loss.item() < 6


# ------------------------------------------------------------------ the Trainer of transformers

needs_transformers = pytest.mark.skipif(
    not (installed("transformers") and installed("accelerate")),
    reason="needs transformers and accelerate: make test-hf",
)


@needs_transformers
def test_a_script_of_transformers_gets_laws_a_plan_and_a_report(here):
    scaling(here, "sweep", "hf.toml", "--workers", "2")
    runs = load(here / "results" / "hf")
    assert len(runs) == 9 and set(runs.status) == {"ok"}
    assert runs.lr_peak.eq(0.01).all() and runs.L.between(1, math.log(256)).all()
    curves = table.read_curves(here / "results" / "hf")
    assert curves.groupby("run_id").size().min() >= 2
    fit = scaling(here, "fit", "results/hf", "--law", "chinchilla", "--bootstrap", "20")
    assert "alpha" in fit
    plan = scaling(here, "plan", "results/hf", "--flops", "1e12", "--law", "chinchilla")
    assert "train " in plan
    scaling(here, "report", "results/hf", "--out", "hf.html")
    assert (here / "hf.html").stat().st_size > 10_000


# ------------------------------------------------------------------ bad input


def a_spec(command: str, more: str = "", name: str = "bad") -> str:
    return (
        f'name = "{name}"\n[runner]\ncommand = {command}\n{more}\n[runner.results]\n'
        "log = { L = 'loss (\\S+)' }\n[base]\ntokens = 1000\nwidth = 8\n[axes]\nN = [1000]\n"
    )


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        ('"train {widht}"', "", ("widht", "width")),
        ('"no-such-program-here {width}"', "", ("no-such-program-here",)),
        ('"sh -c true | cat"', "", ("shell",)),
        ('"sh {folder}"', 'code = ["missing.py"]', ("missing.py",)),
        ('"sh {folder}"', "timeout = 3", ("timeout",)),
        ('"sh {folder}"', '[runner.derived]\na = "b + 1"\nb = "a"', ("a", "b")),
        ('"sh {folder}"', '[runner.derived]\na = "width / 0"', ("width / 0",)),
        ('"sh {folder}"', "[runner.derived]\na = \"__import__('os')\"", ("__import__",)),
    ],
)
def test_a_spec_that_cannot_work_is_refused_with_one_message(here, command, more, words):
    (here / "bad.toml").write_text(a_spec(command, more))
    said = scaling(here, "sweep", "bad.toml", "--in-process", code=2)
    assert all(word in said for word in words), said
    assert len(said.strip().splitlines()) <= 8


ENDS = {
    "without a result": ("""["sh", "-c", "echo nothing to see"]""", "", "failed", "nothing to see"),
    "with an error": (
        """["sh", "-c", "echo loss 3; echo broken >&2; exit 7"]""",
        "",
        "failed",
        "7",
    ),
    "with NaN": ("""["sh", "-c", "echo loss nan"]""", "", "diverged", "nan"),
    "not at all": ("""["sh", "-c", "sleep 60"]""", "timeout_hours = 0.0003", "failed", "time"),
    "by a declared pattern": (
        """["sh", "-c", "echo exploded; exit 1"]""",
        '[runner.failures]\ndiverged = ["explod"]',
        "diverged",
        "explod",
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_command_that_ends_badly_has_a_stored_status(here, how):
    command, more, status, word = ENDS[how]
    folder = here / f"ends-{list(ENDS).index(how)}"
    folder.mkdir()
    (folder / "bad.toml").write_text(a_spec(command, more))
    words = ["sweep", "bad.toml", "--workers", "1", "--retries", "0"]
    path = os.environ | {"PYTHONPATH": str(ROOT), "SCALING_PROGRESS": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "scaling.cli", *words, "--in-process"],
        cwd=folder, env=path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    (row,) = table.read(folder / "results" / "bad").to_dict("records")
    assert row["status"] == status
    if status == "failed":
        assert word in row["error"]


def test_output_without_end_is_bounded_and_a_child_that_stays_is_ended(here):
    folder = here / "flood"
    folder.mkdir()
    script = "sleep 77 & i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done; echo loss 2"
    more = "log_bytes = 20000"
    (folder / "bad.toml").write_text(a_spec(json.dumps(["sh", "-c", script]), more))
    scaling(folder, "sweep", "bad.toml", "--workers", "1", "--in-process")
    (row,) = table.read(folder / "results" / "bad").to_dict("records")
    assert row["status"] == "ok" and row["L"] == 2
    logs = list((folder / "results" / "bad" / "runs").glob("*/output*"))
    assert logs and sum(path.stat().st_size for path in logs) < 40_000
    left = subprocess.run(["pgrep", "-f", "^sleep 77$"], capture_output=True, text=True)
    assert not left.stdout.strip()


def test_a_spec_from_elsewhere_needs_permission(here, tmp_path):
    (tmp_path / "theirs.toml").write_text(a_spec('["sh", "-c", "echo loss 2.5"]', name="theirs"))
    theirs = str(tmp_path / "theirs.toml")
    said = scaling(here, "sweep", theirs, "--in-process", code=2)
    assert "echo loss 2.5" in said and "--allow-code" in said
    assert not (here / "results" / "theirs" / "runs").exists()
    scaling(here, "sweep", theirs, "--in-process", "--allow-code", theirs)
    assert table.read(here / "results" / "theirs").L[0] == 2.5


def test_a_counter_that_was_not_used_is_no_size():
    """As num_input_tokens_seen in the trainer_state.json of transformers."""
    names = Names({"L": "eval_loss"})
    unused, _ = names.columns_of({"num_input_tokens_seen": 0, "eval_loss": 3.0}, point=False)
    assert unused == {"L": 3.0, "num_input_tokens_seen": 0}
    used, _ = names.columns_of({"num_input_tokens_seen": 512, "eval_loss": 3.0}, point=False)
    assert used == {"L": 3.0, "D": 512}
    assert names.columns_of({"D": 0}, point=False)[0] == {"D": 0}
