"""Files of trackers as their packages write them, written by hand: W&B, TensorBoard, MLflow."""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes | str) -> bytes:
    """Return a field of a Protocol Buffers message: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def item(key: str, value: Any) -> bytes:
    name = b"".join(field(2, part) for part in key.split("."))
    return field(1, name + field(16, json.dumps(value)))


def wandb_records(
    history: Iterable[Mapping[str, Any]],
    config: Mapping[str, Any],
    *,
    id: str = "abc",
    name: str = "calm-sea-1",
    start: int = 77,
    exit_code: int | None = None,
) -> list[bytes]:
    """Return the records of a run; it has no end without an exit code."""
    settings = b"".join(item(k, v) for k, v in config.items())
    about = field(1, id) + field(8, name) + field(4, settings) + field(17, field(1, start))
    records = [field(17, about)]
    for number, row in enumerate(history):
        values = b"".join(item(k, v) for k, v in row.items() if k != "_step")
        step = row.get("_step", number)
        records.append(field(2, values + field(2, field(1, step))))
    if exit_code is not None:
        records.append(field(18, field(1, exit_code)))
    return records


def wandb_log(records: list[bytes]) -> bytes:
    """Return records as a log in blocks of 32 KiB, each with a header of 7 bytes."""
    data = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        first = True
        while True:
            room = 32768 - len(data) % 32768
            if room < 7:
                data += bytes(room)
                continue
            part, record = record[: room - 7], record[room - 7 :]
            kind = (1 if not record else 2) if first else (4 if not record else 3)
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
            if not record:
                break
    return bytes(data)


def write_wandb_run(
    folder: Path,
    history: Iterable[Mapping[str, Any]],
    config: Mapping[str, Any],
    *,
    id: str,
    exit_code: int | None = 0,
    start: int = 77,
    name: str = "",
) -> None:
    """Write an offline run in a folder of its own, as W&B names it."""
    place = folder / "wandb" / f"offline-run-20260101_{start:06d}-{id}"
    place.mkdir(parents=True)
    records = wandb_records(
        history, config, id=id, name=name or f"run {id}", start=start, exit_code=exit_code
    )
    (place / f"run-{id}.wandb").write_bytes(wandb_log(records))


def event(step: int, tag: str, value: float, *, tensor: bool = False) -> bytes:
    number = struct.pack("<f", value)
    kind = field(1, 1) + field(4, number)
    scalar = field(8, kind) if tensor else varint(2 << 3 | 5) + number
    summary = field(5, field(1, field(1, tag) + scalar))
    message = varint(1 << 3 | 1) + struct.pack("<d", 5.0) + field(2, step) + summary
    return struct.pack("<Q", len(message)) + bytes(4) + message + bytes(4)


def write_mlflow_run(
    folder: Path,
    history: Mapping[str, Mapping[int, float]],
    params: Mapping[str, Any],
    *,
    id: str,
    status: int = 3,
    stage: str = "active",
) -> None:
    """Write a run of a file store: {metric: {step: value}} and parameters."""
    run = folder / "mlruns" / "1" / id
    (run / "params").mkdir(parents=True)
    (run / "metrics").mkdir()
    (folder / "mlruns" / "1" / "meta.yaml").write_text("experiment_id: '1'\nname: sizes\n")
    (run / "meta.yaml").write_text(
        f"lifecycle_stage: {stage}\nrun_id: {id}\nstatus: {status}\nstart_time: 1700000000000\n"
    )
    for name, value in params.items():
        (run / "params" / name).write_text(str(value))
    for name, values in history.items():
        path = run / "metrics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"1700000000000 {v!r} {s}\n" for s, v in values.items()))


def write_mlflow_database(path: Path, runs: Mapping[str, tuple[str, Mapping[str, Any], Any]]):
    """Write {id: (status, parameters, {metric: {step: value}})} as MLflow's tables."""
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE experiments (experiment_id INT, name TEXT);"
            "CREATE TABLE runs (run_uuid TEXT, name TEXT, start_time INT, status TEXT, "
            "lifecycle_stage TEXT, experiment_id INT);"
            "CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT);"
            "CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);"
            "CREATE TABLE metrics (key TEXT, value REAL, timestamp INT, run_uuid TEXT, step INT, "
            "is_nan INT);"
            "INSERT INTO experiments VALUES (1, 'sizes');"
        )
        for id, (status, params, history) in runs.items():
            database.execute(
                "INSERT INTO runs VALUES (?, ?, 1700000000000, ?, 'active', 1)", (id, id, status)
            )
            rows = [(name, str(value), id) for name, value in params.items()]
            database.executemany("INSERT INTO params VALUES (?, ?, ?)", rows)
            points = [
                (n, v, 1, id, s, 0) for n, values in history.items() for s, v in values.items()
            ]
            database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", points)
    database.close()


# ------------------------------------------------------------------ runs of a known law

SHAPES = ((2, 128), (4, 256), (8, 512))
HORIZONS = (400, 1600, 6400)
BATCH, CONTEXT = 64, 512


def law(N: Any, D: Any) -> Any:
    return 1.8 + 400 / N**0.34 + 1500 / D**0.36


def settings(n_layer: int, d_model: int, steps: int) -> dict[str, Any]:
    return {
        "n_layer": n_layer, "d_model": d_model, "batch_size": BATCH, "seq_len": CONTEXT,
        "lr": 3e-3, "max_steps": steps, "vocab_size": 32000, "optimizer": "adamw",
    }  # fmt: skip


def history(N: float, steps: int, points: int = 8) -> list[dict[str, Any]]:
    """Return what a training script logs: the held-out loss at every other entry."""
    rows = []
    for k in range(1, points + 1):
        step = steps * k // points
        D = step * BATCH * CONTEXT
        rows.append({"_step": step, "train/loss": law(N, D) + 0.02, "tokens_seen": D,
                     "lr": 3e-3 * (1 - k / points)})  # fmt: skip
        if k % 2 == 0:
            rows.append({"_step": step, "val/loss": law(N, D)})
    return rows


def ladder() -> Iterator[tuple[str, float, dict[str, Any], list[dict[str, Any]]]]:
    """Yield (id, N, settings, history) of nine runs."""
    for n_layer, d_model in SHAPES:
        for steps in HORIZONS:
            N = 12 * n_layer * d_model**2
            id = f"r{n_layer}x{d_model}s{steps}"
            yield id, N, settings(n_layer, d_model, steps), history(N, steps)


def write_wandb_project(folder: Path) -> None:
    """Write the nine runs as an offline project of W&B."""
    for start, (id, _, config, rows) in enumerate(ladder()):
        write_wandb_run(folder, rows, config, id=id, start=start)


def write_mlflow_project(path: Path) -> None:
    """Write the nine runs into a database of MLflow."""
    metrics = ("val/loss", "tokens_seen")
    runs = {
        id: ("FINISHED", config, {m: {r["_step"]: r[m] for r in rows if m in r} for m in metrics})
        for id, _, config, rows in ladder()
    }
    write_mlflow_database(path, runs)
