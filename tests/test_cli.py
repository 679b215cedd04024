"""The command line: fast help without torch or Ray, and one clear line per user error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from scaling import cli
from scaling.config import fields_of

ROOT = Path(__file__).parents[1]


def scaling(*words, code=0, cwd=ROOT, **environment):
    """Run the command in a separate process and return the finished process."""
    import os

    done = subprocess.run(
        [sys.executable, "-m", "scaling.cli", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "100", "PYTHONPATH": str(ROOT)} | environment,
        timeout=240,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def results(tmp_path, sweep):
    runs, curves = sweep()
    runs.to_csv(tmp_path / "runs.csv", index=False)
    curves.to_parquet(tmp_path / "curves.parquet")
    return tmp_path


def test_help_lists_every_command():
    shown = scaling("--help").stdout
    for name, command in cli.COMMANDS.items():
        assert f"  {name}" in shown
        assert (command.__doc__ or "").splitlines()[0] in shown
    assert scaling().stdout == shown


@pytest.mark.parametrize("words", [["--help"], ["sweep", "--help"], ["laws"], ["data", "list"]])
def test_help_imports_neither_torch_nor_ray(words):
    code = (
        "import sys; from scaling.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help(name):
    shown = scaling(*name.split(), "--help").stdout
    assert "usage: scaling" in shown


def test_train_help_shows_every_field():
    shown = scaling("train", "--help").stdout
    for key in fields_of():
        assert f"--{key.replace('_', '-')}" in shown


def test_version():
    assert scaling("--version").stdout.count(".") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["swep"], "there is no command 'swep'. Did you mean 'sweep'?"),
        (["data"], "needs one of: prepare, list"),
        (["status", "nowhere"], "nowhere"),
        (["summary", "nowhere"], "nowhere does not exist"),
        (["fit", "nowhere.csv"], "nowhere.csv"),
        (["sweep", "no-such-spec"], "no-such-spec"),
        (["sweep", "quickstart", "--set", "model.nlayer=3", "--dry-run"], "Did you mean 'n_layer'"),
        (["sweep", "quickstart", "--set", "seed"], "is not KEY=VALUE"),
        (["train", "--model.n-head", "3"], "n_head=3 does not divide"),
        (["train", "--data.corpus", "missing.txt", "--tokens", "1e3"], "neither a bundled corpus"),
        (["train", "--tokens", "1.5"], "tokens"),
    ],
)
def test_user_error_is_one_line_and_exit_code_2(words, message, tmp_path):
    done = scaling(*words, code=2, cwd=tmp_path)
    assert message in done.stderr
    if done.stderr.startswith("scaling: "):
        assert done.stderr.count("\n") <= 2


TINY = [
    "--batch-tokens",
    "256",
    "--model.n-ctx",
    "32",
    "--model.d-model",
    "16",
    "--model.n-head",
    "1",
    "--data.tokenizer",
    "bytes",
    "--eval.test-tokens",
    "1024",
]


def test_train_prints_its_row(text_file, own_cache):
    words = ["train", "--tokens", "2e4", *TINY, "--optim.lr", "kaplan", "--json"]
    done = scaling(*words, "--data.corpus", text_file, SCALING_CACHE=str(own_cache))
    row = json.loads(done.stdout)
    assert row["status"] == "ok" and row["D"] == 19968 and row["lr"] == "kaplan"


def test_summary_of_a_sweep(results):
    shown = scaling("summary", results).stdout
    for part in ("auto (bottleneck", "With 10 times", "alpha_N = ", "held-out error: "):
        assert part in shown
    shown = scaling("summary", results, "--details").stdout
    for part in ("alpha_N = ", "E = ", "held out", "data rule", "frontier, envelope", "next, with"):
        assert part in shown
    for name in ("kaplan1", "kaplan2", "frontier"):
        for suffix in (".pdf", ".png"):
            assert (results / "figures" / (name + suffix)).stat().st_size > 10_000


def test_fit_of_an_external_table(results, tmp_path):
    runs = pd.read_csv(results / "runs.csv")[["N", "D", "L"]]
    path = tmp_path / "external.csv"
    runs.rename(columns={"N": "params", "D": "tokens", "L": "loss"}).to_csv(path, index=False)
    words = ["fit", path, "--map", "loss=L,params=N,tokens=D", "--objective", "huber"]
    words += ["--delta", "1e-3", "--on", "log", "--reduce", "sum", "--bootstrap", "200", "--json"]
    found = json.loads(scaling(*words).stdout)
    assert found["law"] == "chinchilla" and found["n"] == 30
    assert found["params"]["alpha"]["low"] < found["params"]["alpha"]["value"]
    # without the map, the columns are guessed, and a note says how
    assert "--map params=N,tokens=D,loss=L: N 3k to 1M parameters" in scaling("fit", path).stderr


def test_fit_with_a_law_from_a_file(results, tmp_path):
    law = tmp_path / "my_laws.py"
    law.write_text(
        "from analysis import Range, law\n"
        "@law(E=Range(0.3, 3), A=Range(1, 1e4), alpha=Range(0.1, 1), kappa=Range(1e-3, 1e3))\n"
        "def mine(N, D, *, E, A, alpha, kappa):\n"
        '    """L(N, D) = E + A (1/N + kappa/D)^alpha."""\n'
        "    return E + A * (1 / N + kappa / D) ** alpha\n"
    )
    shown = scaling("fit", results, "--law", f"{law}:mine", "--bootstrap", "100").stdout
    assert "kappa" in shown


def test_fit_of_selected_rows(results):
    shown = scaling("fit", results, "--law", "kaplan_N", "--where", "D == D.max()").stdout
    assert "alpha_N" in shown
    assert "--where" in scaling("fit", results, "--where", "D ==", code=2).stderr


def test_frontier_and_plan(results):
    assert "envelope" in scaling("frontier", results, "--method", "envelope").stdout
    plan = json.loads(scaling("plan", results, "--flops", "1e16", "--json").stdout)
    assert plan["C"]["value"] == 1e16 and plan["shape"]["n_layer"] >= 1
    assert "exactly one of" in scaling("plan", results, code=2).stderr


def test_figure(results, tmp_path):
    assert "kaplan1" in scaling("figure", "--list").stdout
    scaling("figure", "kaplan2", results, "--out", tmp_path / "curves.pdf")
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert "Did you mean 'kaplan1'" in scaling("figure", "kaplan1x", results, code=2).stderr


def test_nan_losses_are_rejected(results):
    runs = pd.read_csv(results / "runs.csv")
    runs.loc[3, "L"] = float("nan")
    runs.to_csv(results / "runs.csv", index=False)
    assert "column 'L' must be positive and finite" in scaling("fit", results, code=2).stderr


def test_dry_run_trains_nothing(tmp_path, text_file, own_cache):
    spec = tmp_path / "tiny.toml"
    spec.write_text(
        f"""
        name = "tiny"
        [base]
        data = {{ corpus = "{text_file}", tokenizer = "bytes" }}
        model = {{ n_layer = 1, d_model = 16, n_head = 1, n_ctx = 32 }}
        batch_tokens = 256
        eval = {{ test_tokens = 1024, points = 2 }}
        [axes]
        tokens = [2048, 4096]
        """
    )
    done = scaling("sweep", spec, "--dry-run", cwd=tmp_path, SCALING_CACHE=str(own_cache))
    assert "2 runs" in done.stdout and "FLOPs" in done.stdout
    assert not (tmp_path / "results" / "tiny" / "runs.csv").exists()


def test_doctor_shows_where_packages_are_installed(tmp_path):
    shown = scaling("doctor").stdout
    assert str(ROOT / "analysis") in shown and "torch" in shown


def test_doctor_detects_a_shadowing_module(tmp_path):
    (tmp_path / "analysis.py").write_text("mine = 1\n")
    done = scaling("doctor", code=2, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert "NOT OURS" in done.stdout and "shadows" in done.stderr


def test_repeatable_options(results):
    words = ["--set", "seed=1", "--set", "name=mine", "--set", "eval.test_tokens=4096"]
    assert "24 runs" in scaling("sweep", "quickstart", "--dry-run", *words).stdout
    done = scaling("sweep", "quickstart", "--dry-run", *words, "--set", "seed=-1", code=2)
    assert "seed=-1" in done.stderr
    done = scaling("sweep", "quickstart", "--dry-run", "--set", "seed=-1", *words[2:], code=2)
    assert "seed=-1" in done.stderr
    shown = scaling("fit", results, "--law", "kaplan_N", "--law", "kaplan_D").stdout
    assert "alpha_N" in shown and "alpha_D" in shown


def test_diverged_run_has_a_row(text_file, own_cache):
    words = ["--data.corpus", text_file, "--optim.lr", "1e30", "--tokens", "2e4", *TINY]
    row = json.loads(scaling("train", *words, "--json", SCALING_CACHE=str(own_cache)).stdout)
    assert row["status"] == "diverged" and row["L"] is None


def test_interrupted_training_keeps_its_checkpoint(text_file, own_cache, tmp_path):
    import os
    import signal
    import time

    words = ["--data.corpus", str(text_file), "--tokens", "1e9", "--folder", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "scaling.cli", "train", *words, *TINY],
        cwd=ROOT,
        env=os.environ | {"SCALING_CACHE": str(own_cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run").exists():  # created when training begins
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the checkpoint is in" in message and (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("what", ["runs.csv", "curves.parquet"])
def test_damaged_results(results, what):
    (results / what).write_bytes(b"\xff\x00\xfe junk")
    done = scaling("summary", results, code=2)
    assert what in done.stderr and done.stderr.count("\n") <= 2


def test_train_prints_json_to_a_pipe_with_the_result_first_and_the_config_on_request():
    words = ["train", "--tokens", "2e4", *TINY]
    row = json.loads(scaling(*words).stdout)
    assert list(row)[:4] == ["run_id", "status", "L", "N"]
    assert "lr_peak" in row and "n_layer" not in row
    assert json.loads(scaling(*words, "--verbose").stdout)["n_layer"] == 2
