"""Commands on a sweep from another terminal, and the export to other tools."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scaling.cli import main
from scaling.errors import ConfigError
from sweeps import control
from sweeps.errors import StoreError
from sweeps.export import export, exporter
from sweeps.folder_status import status
from sweeps.result import failed_row
from sweeps.spec import Spec
from sweeps.store import Store

ROOT = Path(__file__).parents[1]

SPEC = """
name = "small"
[base]
data.tokenizer = "bytes"
[axes]
seed = [0, 1]
tokens = [8192, 81_920]
[[sets]]
name = "wide"
base.model = { n_layer = 1, d_model = 128 }
base.optim.lr = "kaplan"
axes.seed = [7]
"""


@pytest.fixture
def spec() -> Spec:
    return Spec.from_text(SPEC)


@pytest.fixture
def store(tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a store with an ok, a failed and three missing runs."""
    monkeypatch.chdir(tmp_path)
    store = Store("results/small")
    good, bad = spec.runs[:2]
    row = failed_row(good, "") | {"status": "ok", "L": 2.5, "seconds": 1.0}
    points = [
        {"run_id": good.run_id, "S": S, "D": 4096 * S, "L": 3.0 - S / 4, "lr": 1e-3} for S in (1, 2)
    ]
    store.begin(good)
    store.finish(row, [points[0] | {"L_train": float("nan")}, points[1]])
    store.begin(bad)
    store.note(bad.run_id, "start", pid=123)
    store.log(bad.run_id, "Traceback\nKeyError: 'a'")
    store.finish(failed_row(bad, "KeyError: 'a'"), [])
    store.write_manifest({"name": "small", "spec": SPEC})
    return store


def tell(store: Store, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    main([words[0], "results/small", *words[1:]])
    return capsys.readouterr().out


# ------------------------------------------------------------------ selecting runs


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["seed=1"], [1, 1]),
        (["D<=8192"], [0, 1]),
        (["seed!=0", "tokens>1e4"], [1, 7]),
        (["model.d_model=128"], [7]),
        (["optim.lr=kaplan"], [7]),
        (["optim.lr<1"], [0, 0, 1, 1]),
        (["N>1.5e5", "B=4096"], [7]),
        (["tag=wide"], [7]),
        (["optim.clip=none"], None),
        (
            ["model.n_layers=2"],
            "no field 'n_layers' (in 'model.n_layers'). Did you mean 'n_layer'?",
        ),
        (["seed=half"], "--filter 'seed=half': 'half' is not int."),
        (["seed"], "--filter 'seed' is not KEY OP VALUE"),
        (["C>-1"], "must be a positive number"),
    ],
)
def test_runs_are_selected_by_conditions(spec: Spec, words: list[str], seeds: Any):
    if isinstance(seeds, list):
        selected = spec.select(words)
        assert sorted(run.seed for run in selected.runs) == seeds
        assert selected.selection == tuple(w for word in words for w in ("--filter", word))
        return
    with pytest.raises(ConfigError) as error:
        spec.select(words)
    assert (seeds or "none of 5 runs matches") in str(error.value)


def test_runs_are_selected_by_tag(spec: Spec):
    assert [run.seed for run in spec.select(tag="wide").runs] == [7]
    with pytest.raises(ConfigError, match=r"none of 5 runs matches --tag 'a b'; tags are 'wide'"):
        spec.select(tag="a b")


def test_status_of_selected_runs(store: Store, capsys: pytest.CaptureFixture[str]):
    text = tell(store, "status", capsys=capsys)
    assert text.startswith("small: 5 runs: 1 ok, 1 failed, 3 missing; ")
    assert "failed: KeyError: 'a'" in text and "scaling logs results/small" in text
    assert tell(store, "status", "--tag", "wide", capsys=capsys).startswith(
        "small: 1 runs: 1 missing"
    )
    selected = status(store.folder, filters=["D=8192"])
    assert (selected.runs, selected.missing, selected.finished["ok"]) == (2, 1, 1)
    assert selected.C_done == selected.C / 2
    (store.folder / "manifest.json").unlink()
    with pytest.raises(StoreError, match="has no manifest"):
        status(store.folder, tag="wide")


# ------------------------------------------------------------------ watch, logs, cancel, clean

DRIVER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from sweeps.driver import interruptible
from sweeps.store import Store
store, asked = Store(sys.argv[1]), []
with store.drive(), interruptible(lambda: asked.append(1)):
    print("holds", flush=True)
    try:
        while not asked or sys.argv[3] == "stubborn":
            time.sleep(0.02)
    except KeyboardInterrupt:
        print("at once")
print("asked", len(asked))
"""


def start_driver(store: Store, kind: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", DRIVER, str(store.folder), str(ROOT), kind]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert driver.stdout and driver.stdout.readline() == "holds\n"
    return driver


def test_cancel_stops_a_running_sweep_and_watch_ends_with_it(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(StoreError, match="no sweep is running on results/small"):
        control.cancel("results/small")
    driver = start_driver(store, "polite")
    assert (store.driver() or [0])[0] == driver.pid
    out = io.StringIO()
    console = Console(file=out)
    watcher = threading.Thread(
        target=control.watch, args=["results/small"], kwargs={"every": 0.1, "console": console}
    )
    watcher.start()
    time.sleep(0.5)
    assert watcher.is_alive()
    with pytest.raises(StoreError, match=f"is being worked on by process {driver.pid}"):
        control.clean("results/small")
    said = tell(store, "cancel", capsys=capsys)
    assert f"asked process {driver.pid} to stop" in said and "stopped" in said
    watcher.join(timeout=10)
    assert not watcher.is_alive() and store.driver() is None
    assert driver.communicate()[0] == "asked 1\n" and driver.returncode == 0
    shown = [line for line in out.getvalue().splitlines() if line.startswith("small: 5 runs")]
    assert len(shown) == 2  # at the start and at the end, not at every look


def test_cancel_now_and_a_driver_that_does_not_stop(store: Store, monkeypatch: pytest.MonkeyPatch):
    driver = start_driver(store, "stubborn")
    monkeypatch.setattr(control, "_STOP_SECONDS", 0.3)
    with pytest.raises(StoreError, match="--now stops it at once"):
        control.cancel("results/small")
    monkeypatch.undo()
    monkeypatch.chdir(store.folder.parents[1])
    control.cancel("results/small", now=True)
    assert driver.communicate()[0] == "at once\nasked 1\n"


def test_a_sweep_of_another_machine_is_not_cancelled_here(store: Store):
    with store.drive():
        (store.folder / "lock").write_text("process 1 on elsewhere\n")
        with pytest.raises(StoreError, match="process 1 on elsewhere; cancel it there"):
            control.cancel(store.folder)


def test_watch_in_a_terminal_ends_with_the_status(store: Store):
    out = io.StringIO()
    driver = start_driver(store, "polite")
    timer = threading.Timer(0.4, control.cancel, [store.folder])
    timer.start()
    console = Console(file=out, force_terminal=True, width=120)
    assert control.watch(store.folder, every=0.1, console=console).missing == 3
    timer.join()
    driver.communicate()
    assert "1 ok, 1 failed, 3 missing" in out.getvalue()


def test_logs_of_a_run(store: Store, spec: Spec, capsys: pytest.CaptureFixture[str]):
    good, bad = spec.runs[:2]
    text = tell(store, "logs", bad.run_id[:5], capsys=capsys)
    assert text.startswith(bad.run_id) and "start  pid=123" in text and "KeyError: 'a'" in text
    assert "it printed nothing" in control.logs(store.folder, good.run_id)
    store.begin(spec.runs[4])
    assert control.logs(store.folder, "wide").startswith(f"{spec.runs[4].run_id} wide")
    with pytest.raises(StoreError, match=r"'nothing' matches no run in .*; there are "):
        control.logs(store.folder, "nothing")
    with pytest.raises(StoreError, match=rf"'' matches 3 runs: .*{bad.run_id}"):
        control.logs(store.folder, "")
    store.merge()
    for path in store.run_folder(good.run_id).iterdir():
        path.unlink()
    store.run_folder(good.run_id).rmdir()  # only its row in the table is left
    assert control.logs(store.folder, good.run_id[:6]).startswith(good.run_id)


def test_clean_removes_leftovers_and_never_results(
    store: Store, spec: Spec, capsys: pytest.CaptureFixture[str]
):
    good, missing = spec.runs[0], spec.runs[2]
    store.begin(missing)
    litter = [
        store.run_folder(good.run_id) / n for n in ("checkpoint.pt", "result.json.bad-1", "lock")
    ]
    litter.append(store.folder / ".merge-abc")
    litter[-1].mkdir()
    kept = [store.run_folder(missing.run_id) / "checkpoint.pt"]
    for path in [*litter[:-1], litter[-1] / "runs.csv", *kept]:
        path.write_bytes(b"x" * 1_000_000)
    before = {run_id: store.result(run_id) for run_id in store.rows()}
    said = tell(store, "clean", "--dry-run", capsys=capsys)
    assert all(path.exists() for path in litter) and all(path.name in said for path in litter)
    assert said.endswith("4 files, 3.8 MiB would be removed\n")
    assert tell(store, "clean", capsys=capsys) == "4 files, 3.8 MiB removed\n"
    assert not any(path.exists() for path in litter) and all(path.exists() for path in kept)
    assert {run_id: store.result(run_id) for run_id in store.rows()} == before
    assert tell(store, "clean", capsys=capsys).startswith("0 files")


@pytest.mark.parametrize("command", ["status", "watch", "logs", "cancel", "clean", "export"])
def test_commands_on_a_folder_without_a_sweep(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    more = {"logs": ["abc"], "export": ["--to", "wandb"]}.get(command, [])
    with pytest.raises(SystemExit) as stop:
        main([command, str(tmp_path / "nowhere"), *more])
    assert stop.value.code == 2
    assert f"{tmp_path / 'nowhere'} is not there." in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([command, "nosuch://a/b", *more])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("scaling: nosuch://a/b cannot be reached: ")


def test_commands_need_neither_torch_nor_ray_nor_pandas(store: Store, spec: Spec):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from scaling.cli import main\n"
        "sys.modules['mlflow'] = None  # as if it were not installed\n"
        "for words in (['status'], ['watch'], ['logs', sys.argv[2]], ['clean'],):\n"
        "    main([words[0], 'results/small', *words[1:]])\n"
        "try: main(['export', 'results/small', '--to', 'mlflow'])\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert not {'ray', 'torch', 'pandas'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, str(ROOT), spec.runs[0].run_id]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stderr.startswith("scaling: export to mlflow needs its package")
    assert "pip install 'scaling-laws-lab[mlflow]'" in done.stderr


# ------------------------------------------------------------------ export


class Recorder:
    """Stands in for the module of a tracker and records calls with their arguments."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []

    def wandb(self) -> Any:
        def init(**options: Any) -> Any:
            run = {"options": options, "points": [], "summary": {}, "over": False}
            self.runs.append(run)
            return types.SimpleNamespace(
                log=lambda values, step: run["points"].append((step, values)),
                summary=run["summary"],
                finish=lambda: run.update(over=True),
            )

        return types.SimpleNamespace(init=init, Settings=lambda **_: None)


def test_export_hands_over_each_run_once(
    store: Store, spec: Spec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder.wandb())
    with store.drive():  # as while a sweep is under way
        assert tell(store, "export", "--to", "wandb", capsys=capsys) == "2 runs exported to wandb\n"
    by_id = {run["options"]["id"]: run for run in recorder.runs}
    good = by_id[spec.runs[0].run_id]
    assert good["options"]["config"]["seed"] == 0 and good["options"]["config"]["d_model"] == 64
    assert good["points"][0] == (1, {"L": 2.75, "lr": 1e-3, "D": 4096.0})  # no NaN
    assert good["points"][1][0] == 2 and good["over"]
    assert good["summary"]["L"] == 2.5 and good["summary"]["status"] == "ok"
    assert by_id[spec.runs[1].run_id]["summary"]["status"] == "failed"
    assert export(store, "wandb") == 0 and len(recorder.runs) == 2
    assert export(store, "wandb", again=True) == 2
    store.forget([spec.runs[1].run_id])
    store.finish(failed_row(spec.runs[1], "again"), [])
    assert export(store, "wandb") == 1
    store.merge()
    subprocess.run(["rm", "-r", str(store.folder / "runs")], check=True)  # only the table is left
    assert export(store, "wandb") == 2 and len(recorder.runs[-1]["points"]) in (0, 2)
    assert sum(len(run["points"]) for run in recorder.runs[-2:]) == 2


def test_an_exporter_that_is_not_installed(store: Store):
    with pytest.raises(ConfigError, match="'neptune' is unknown; there are tensorboard"):
        exporter(store, "neptune")


def test_tensorboard_reads_exported_runs(store: Store, spec: Spec):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        export(store, "tensorboard", again=True)
    folder = store.folder / "tensorboard" / spec.runs[0].run_id
    seen = EventAccumulator(os.fspath(folder)).Reload()
    assert [(e.step, e.value) for e in seen.Scalars("L")] == [(1, 2.75), (2, 2.5)]
    assert seen.Scalars("end/L")[0].value == 2.5
