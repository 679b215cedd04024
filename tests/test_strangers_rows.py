"""Tables as other tools write them: which of their rows count.

The tables are not part of this repository; SCALING_STRANGERS names their folder, and without it
these tests are skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small import call

NAMES = ("--map", "loss=L,params=N,tokens=D")
EXPORT = ("--map", "val/loss=L,n_params=N,train/tokens=D")
QUICK = {
    "fit": ("--bootstrap", "20"),
    "validate": ("--bootstrap", "20", "--against", "kaplan_ND"),
    "frontier": ("--bootstrap", "20"),
    "plan": ("--flops", "1e22"),
    "design": ("--budget", "1e21", "--bootstrap", "20"),
    "figure deviation": ("--out", "figure.png"),
    "figure frontier": ("--out", "figure.png"),
}


@pytest.fixture
def strangers() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "strangers"
    folder = Path(os.environ.get("SCALING_STRANGERS", beside))
    if not folder.is_dir():
        pytest.skip(f"no tables of other tools at {folder}; set SCALING_STRANGERS")
    return folder


def fitted(capsys, *words: object) -> dict:
    assert call("fit", *words, "--bootstrap", "20", "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("file", "names", "n", "left_out"),
    [
        ("01-wandb-nan-infinity/wandb_export.csv", EXPORT, 22, {"without a loss": 3}),
        ("03-duplicated-rows/twice.csv", NAMES, 25, {"exact duplicates": 25}),
        ("08b-tracker-states/small_lowercase.csv", NAMES, 20, {"crashed": 2, "running": 1}),
        ("24-resumed-runs/runs.csv", NAMES, 25, {"earlier evaluations of their runs": 5}),
    ],
)
def test_rows_that_do_not_count_are_left_out_and_counted(
    strangers, capsys, file, names, n, left_out
):
    found = fitted(capsys, strangers / file, *names)
    assert found["n"] == n and found["left_out"] == left_out
    assert 0.2 < found["params"]["alpha"]["value"] < 0.5


def test_rows_of_step_0_go_by_a_condition(strangers, capsys):
    table = strangers / "01-wandb-nan-infinity" / "zero_tokens.csv"
    assert call("fit", table, *NAMES) == 2
    assert '--where "D > 0"' in capsys.readouterr().err
    assert fitted(capsys, table, *NAMES, "--where", "D > 0")["n"] == 25
    assert fitted(capsys, table, *NAMES, "--where", "tokens > 0")["n"] == 25


def test_a_learning_rate_law_takes_the_best_run_of_each_size_and_horizon(strangers, capsys):
    table = strangers / "13-lr-width-nan" / "lr_nd.csv"
    names = ("--map", "loss=L,params=N,tokens=D,lr=lr_peak", "--law", "learning_rate")
    found = fitted(capsys, table, *names)
    assert found["n"] == 8 and found["left_out"] == {"not the best lr_peak of their N and D": 64}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", list(QUICK))
def test_no_command_gives_a_traceback(strangers, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tables = {
        "01-wandb-nan-infinity/wandb_export.csv": EXPORT,
        "01-wandb-nan-infinity/zero_tokens.csv": (*NAMES, "--where", "D > 0"),
        "03-duplicated-rows/twice.csv": NAMES,
        "08b-tracker-states/small_lowercase.csv": NAMES,
        "24-resumed-runs/runs.csv": NAMES,
    }
    if command not in ("fit", "validate"):  # the others read rows alike, and take longer
        tables = dict(list(tables.items())[::2])
    for file, names in tables.items():
        code = call(*command.split(), strangers / file, *names, *QUICK[command])
        error = capsys.readouterr().err
        assert code == 0 and "This is a bug" not in error, (file, error)
