"""Offline runs of W&B, TensorBoard and MLflow: their files, and as reports of commands."""

from __future__ import annotations

import math
import os
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracker_files import event, varint, wandb_log, wandb_records

from scaling.command_run import CommandRun
from scaling.trackers import TrackedRun, TrackerError, read, stamps
from scaling.trackers.wire import fields, single
from sweeps.runner.reports import MissingResult, ReportReader
from sweeps.runner.runner import Sources

STEPS = range(10, 101, 10)


def loss(step: int) -> float:
    return 4.5 - step / 64


# ------------------------------------------------------------------ files as they are written


def write_wandb(folder: Path) -> None:
    place = folder / "wandb" / "offline-run-20260101_000000-abc"
    place.mkdir(parents=True)
    history = [{"val/loss": loss(s), "global_step": s, "note": "x" * 9000} for s in STEPS]
    records = wandb_records(history, {"lr": 0.01, "model.n_params": 1005, "_wandb": {"v": 1}})
    (place / "run-abc.wandb").write_bytes(wandb_log(records))


def write_tensorboard(folder: Path) -> None:
    (folder / "val").mkdir(parents=True)
    events = b"".join(event(s, "loss", loss(s), tensor=s % 20 == 0) for s in STEPS)
    (folder / "val" / "events.out.tfevents.1.host.1.0").write_bytes(events)
    train = b"".join(event(s, "loss", 1.0) for s in STEPS)
    (folder / "train").mkdir()
    (folder / "train" / "events.out.tfevents.1.host.2.0").write_bytes(train)


def write_mlflow(folder: Path) -> None:
    run = folder / "mlruns" / "1" / "0a1b"
    (run / "metrics" / "val").mkdir(parents=True)
    (run / "params").mkdir()
    (run / "tags").mkdir()
    (run / "meta.yaml").write_text("!!python/object/apply:os.system ['touch hacked']")
    (run / "params" / "N").write_text("1005")
    (run / "tags" / "mlflow.runName").write_text("calm-sea-1")
    lines = [f"1700000000000 {loss(s)!r} {s}" for s in STEPS]
    (run / "metrics" / "val" / "loss").write_text("\n".join([*lines, "17000"]))


def write_database(folder: Path) -> None:
    folder.mkdir(parents=True)
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.executescript(
            "CREATE TABLE runs (run_uuid TEXT, name TEXT, start_time INT, lifecycle_stage TEXT);"
            "CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT);"
            "CREATE TABLE metrics (key TEXT, value REAL, timestamp INT, run_uuid TEXT, step INT, "
            "is_nan INT);"
            "INSERT INTO runs VALUES ('a', 'calm-sea-1', 1700000000000, 'active'), "
            "('b', 'gone', 1, 'deleted');"
            "INSERT INTO params VALUES ('N', '1005', 'a');"
            "INSERT INTO metrics VALUES ('odd', 0, 1, 'a', 10, 1);"
        )
        rows = [("val_loss", loss(s), 1, "a", s, 0) for s in STEPS]
        database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", rows)
    database.close()


WRITTEN = {
    "wandb": ("wandb", write_wandb),
    "tensorboard": ("tensorboard", write_tensorboard),
    "mlflow": ("mlflow", write_mlflow),
    "database": ("mlflow", write_database),
}


def reader(folder: Path, tracker: str, path: str = "t", **more: Any) -> ReportReader:
    run = CommandRun(command=("x",), keys={}, N=1000, D=12800, batch_tokens=128)
    sources = Sources(tracker=tracker, path=path, **more)
    return ReportReader(run, sources, folder, folder / "output.log")


@pytest.mark.parametrize("kind", WRITTEN)
def test_an_offline_run_is_a_report(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    tracker, write = WRITTEN[kind]
    write(tmp_path / "t")
    found = reader(tmp_path, tracker).finish()
    assert found.final["L"] == pytest.approx(loss(100)) and found.L_step == 100
    assert [point["S"] for point in found.curve] == list(STEPS)
    assert [point["L"] for point in found.curve] == pytest.approx([loss(s) for s in STEPS])
    assert found.final.get("N", 1005) == 1005
    if kind == "tensorboard":
        assert found.curve[0]["L_train"] == 1.0
    assert not (tmp_path / "hacked").exists()


def test_settings_and_names_of_a_run_are_read(tmp_path: Path):
    for kind, (tracker, write) in WRITTEN.items():
        write(tmp_path / kind)
        runs = read(tracker, tmp_path / kind)
        if kind == "tensorboard":
            assert [run.name for run in runs] == ["train", "val"]
            continue
        (run,) = runs
        assert run.name == "calm-sea-1" and run.history[-1]["step"] == 100
        N = run.config["model.n_params" if kind == "wandb" else "N"]
        assert N == 1005 and type(N) is int
    (run,) = read("wandb", tmp_path / "wandb")
    assert run.config == {"lr": 0.01, "model.n_params": 1005} and run.start == 77


def test_a_run_under_way_is_read_again_when_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = reader(tmp_path, "tensorboard")
    assert found.read().curve == []
    (tmp_path / "t").mkdir()
    path = tmp_path / "t" / "events.out.tfevents.1"
    path.write_bytes(event(10, "eval/loss", 4.0) + event(20, "eval/loss", 3.5)[:-9])
    monkeypatch.setattr("sweeps.runner.reports._TRACKER_SECONDS", 0.0)
    assert [point["L"] for point in found.read().curve] == [4.0]
    before = stamps(tmp_path / "t")
    path.write_bytes(event(10, "eval/loss", 4.0) + event(20, "eval/loss", 3.5))
    assert stamps(tmp_path / "t") != before
    assert [point["L"] for point in found.read().curve] == [4.0, 3.5]


def test_a_missing_run_of_a_tracker_is_named(tmp_path: Path):
    with pytest.raises(MissingResult, match=r"wandb run in t \(.*t does not exist"):
        reader(tmp_path, "wandb").finish()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "other.txt").write_text("x")
    with pytest.raises(TrackerError, match=r"holds no offline run of W&B.*WANDB_MODE=offline"):
        read("wandb", tmp_path / "t")
    (tmp_path / "t" / "run-a.wandb").write_bytes(b"no")
    with pytest.raises(TrackerError, match="it is not a file of W&B"):
        read("wandb", tmp_path / "t")
    (tmp_path / "t" / "a.db").write_bytes(b"SQLite format 3\x00" + bytes(100))
    with pytest.raises(TrackerError, match=r"a\.db is no database of MLflow"):
        read("mlflow", tmp_path / "t")
    with pytest.raises(TrackerError, match="'neptune' is unknown; there are wandb"):
        read("neptune", tmp_path)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 2000), at=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_damaged_file_never_raises_anything_but_a_tracker_error(cut: int, at: int, byte: int):
    import tempfile

    records = wandb_records([{"val/loss": loss(s)} for s in STEPS], {"lr": 0.01})
    events = b"".join(event(s, "loss", loss(s), tensor=True) for s in STEPS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for tracker, file, data in (
            ("wandb", "run-a.wandb", wandb_log(records)),
            ("tensorboard", "events.out.tfevents.1", events),
        ):
            damaged = bytearray(data[: len(data) - cut % len(data)])
            if damaged:
                damaged[at % len(damaged)] = byte
            (folder / file).write_bytes(damaged)
            try:
                runs = read(tracker, folder)
            except TrackerError:
                continue
            assert all(isinstance(run, TrackedRun) for run in runs)


@given(st.floats(width=32, allow_nan=False))
def test_numbers_of_32_bits_are_read_as_short_decimals_that_stand_for_them(value: float):
    data = struct.pack("<f", value)
    assert struct.pack("<f", single(data)) == data
    assert single(struct.pack("<f", 3.1)) == 3.1


def test_fields_of_an_unknown_type_are_refused():
    with pytest.raises(ValueError, match="unknown type 3"):
        list(fields(varint(1 << 3 | 3)))


# ------------------------------------------------------------------ the packages themselves


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_wandb_wrote_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = pytest.importorskip("wandb", reason="W&B is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = {"lr": 0.01, "n_params": 1005}
    run = wandb.init(project="x", mode="offline", dir=str(tmp_path), config=config)
    for step in STEPS:
        run.log({"val/loss": loss(step), "odd": math.nan}, step=step)
    run.finish()
    wandb.teardown()  # finish() may return before all is on the disk
    found = reader(tmp_path, "wandb", "wandb").finish()
    assert [point["L"] for point in found.curve] == [loss(s) for s in STEPS]
    assert found.final["N"] == 1005


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_tensorboard_wrote_is_read(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportMissingImports]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportMissingImports]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # pyright: ignore[reportMissingImports]

    writer = EventFileWriter(str(tmp_path))
    for step in STEPS:
        values = [Summary.Value(tag="eval/loss", simple_value=loss(step))]
        writer.add_event(Event(step=step, wall_time=1.0, summary=Summary(value=values)))
    writer.close()
    found = reader(tmp_path, "tensorboard", "").finish()
    assert [point["L"] for point in found.curve] == pytest.approx([loss(s) for s in STEPS])


@pytest.mark.filterwarnings("ignore")  # MLflow's own
@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_run_that_mlflow_wrote_is_read(tmp_path: Path, kind: str, monkeypatch: Any):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = tmp_path / ("m.db" if kind == "sqlite" else "mlruns")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{store}" if kind == "sqlite" else store.as_uri())
    mlflow.set_experiment("e")
    with mlflow.start_run(run_name="calm-sea-1"):
        mlflow.log_params({"N": 1005})
        for step in STEPS:
            mlflow.log_metrics({"val_loss": loss(step)}, step=step)
    found = reader(tmp_path, "mlflow", store.name).finish()
    assert [point["L"] for point in found.curve] == [loss(s) for s in STEPS]
    assert found.final["N"] == 1005 and os.fspath(store)
