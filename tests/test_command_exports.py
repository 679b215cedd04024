"""Exported tables and tracked runs of a command have its own keys and all that it reported."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small import call

from sweeps.export import EXPORTERS, export
from sweeps.store import Store

SPEC = """
name = "own"
[runner]
command = ["python", "t.py", "{depth}", "{act}"]
[runner.derived]
N = "1000 * depth"
width = "64 * depth"
[base]
batch_tokens = 100
tokens = 3000
act = "gelu"
lr = 0.1
[axes]
depth = [1, 2]
"""

SCRIPT = """
import json, sys
depth = int(sys.argv[1])
print(json.dumps({"step": 15, "L": 3.5, "lr": 0.05}))
print(json.dumps({"L": 3 + 1 / depth, "hellaswag": 0.25, "note": "fine", "eval": {"arc": depth}}))
"""

KEYS = {"depth": 1, "act": "gelu", "width": 64, "batch_tokens": 100, "tokens": 3000}
REPORTED = {"hellaswag": 0.25, "eval/arc": 1}


@pytest.fixture
def store(here: Path, capsys: pytest.CaptureFixture[str]) -> Store:
    (here / "t.py").write_text(SCRIPT)
    (here / "own.toml").write_text(SPEC)
    assert call("sweep", "own.toml", "--in-process") == 0, capsys.readouterr()
    return Store("results/own")


READERS: dict[str, Callable[[str], pd.DataFrame]] = {
    "csv": pd.read_csv,
    "tsv": lambda file: pd.read_csv(file, sep="\t"),
    "json": lambda file: pd.DataFrame(json.loads(Path(file).read_text())),
    "jsonl": lambda file: pd.read_json(file, lines=True),
    "parquet": pd.read_parquet,
}


@pytest.mark.parametrize("suffix", READERS)
def test_a_table_has_the_keys_of_a_command_and_its_reports(store: Store, suffix: str):
    assert call("export", "results/own", "--out", f"t.{suffix}") == 0
    table = READERS[suffix](f"t.{suffix}").set_index("depth", drop=False)
    row = table.loc[1].to_dict()
    expected = KEYS | REPORTED | {"note": "fine", "L": 4.0, "N": 1000}
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_a_printed_table_shows_the_keys_that_tell_runs_apart(store: Store, suffix: str):
    assert call("export", "results/own", "--out", f"t.{suffix}") == 0
    text = Path(f"t.{suffix}").read_text()
    assert "depth" in text and "act" not in text and "tokens" not in text
    assert call("export", "results/own", "--out", f"t.{suffix}", "--columns", "act,hellaswag") == 0
    text = Path(f"t.{suffix}").read_text()
    assert "gelu" in text and "0.25" in text and "depth" not in text


def wandb(runs: list[dict[str, Any]]) -> Any:
    def init(**options: Any) -> Any:
        runs.append(run := {"config": options["config"], "summary": {}})
        return types.SimpleNamespace(
            log=lambda values, step: None, summary=run["summary"], finish=lambda: None
        )

    return types.SimpleNamespace(init=init, Settings=lambda **_: None)


def test_trackers_get_keys_as_config_and_reports_as_results(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    runs: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "wandb", wandb(runs))
    assert export(store, "wandb") == 2
    run = next(run for run in runs if run["config"]["depth"] == 1)
    assert run["config"].items() >= (KEYS | {"note": "fine", "N": 1000}).items()
    assert "t.py {depth}" in run["config"]["command"]
    assert run["summary"].items() >= (REPORTED | {"L": 4.0, "lr_peak": 0.1}).items()
    assert not run["config"].keys() & run["summary"].keys()
    shutil.rmtree(store.folder / "runs")  # only the table is left, which does not tell them apart
    assert export(store, "wandb", again=True) == 2
    assert runs[-1]["config"].keys() >= KEYS.keys() | REPORTED.keys()


def test_a_real_tracker_takes_them(store: Store):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # pyright: ignore[reportMissingImports]

    assert export(store, "tensorboard") == 2
    folders = sorted((store.folder / "tensorboard").iterdir())
    seen = [EventAccumulator(str(folder)).Reload().Scalars("end/eval/arc") for folder in folders]
    assert {events[0].value for events in seen} == {1.0, 2.0}


@pytest.mark.parametrize("when", ["begin", "run"])
def test_a_tracker_that_refuses_is_told_plainly(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
):
    def refuse(*_: object) -> None:
        raise RuntimeError("no such server")

    monkeypatch.setitem(EXPORTERS, "wandb", refuse if when == "begin" else lambda _: refuse)
    assert call("export", "results/own", "--to", "wandb") == 2
    said = capsys.readouterr().err
    assert "no such server" in said and "export" in said and "bug" not in said
