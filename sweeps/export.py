"""Export of finished runs to TensorBoard, Weights & Biases and MLflow, through one callback.

An exporter is a function of one finished run. The driver calls it as runs finish (`scaling sweep
--export`); :func:`export` calls it with every run in a results folder, whether or not a sweep is
under way. Each of the three packages is optional. Nothing here imports ray or torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from scaling import jsonable
from scaling.columns import COLUMNS
from scaling.config import fields_of
from scaling.errors import ConfigError
from scaling.extras import pip_install
from scaling.recorded_run import from_recorded
from sweeps.errors import StoreError
from sweeps.result import Finished, Row
from sweeps.runner.command_row import column_of
from sweeps.store import Store

Exporter = Callable[[Finished], None]

_METRICS = ("L", "L_train", "lr", "D", "C")
"""Columns of a learning curve that are exported; S is the step."""

_SCHEMA = frozenset(column.name for column in COLUMNS)


def export(store: Store, to: str, *, again: bool = False) -> int:
    """Pass every finished run to an exporter, and return how many were passed.

    A run is exported only once, unless `again`. Raises ConfigError if there is no such exporter,
    its package is missing, or it refuses a run.
    """
    send, number = exporter(store, to), 0
    for finished in store.results():
        if again or not _sent(store, to, finished.row["run_id"]):
            try:
                send(finished)
            except (StoreError, MemoryError):
                raise
            except Exception as error:  # of any kind that the package has
                run_id = finished.row["run_id"]
                raise ConfigError(
                    f"export of run {run_id} to {to} failed: {error}. {number} runs were exported "
                    "before it; the same command continues with the rest."
                ) from error
            number += 1
    return number


def exporter(store: Store, to: str) -> Exporter:
    """Return the callback that exports a finished run to 'tensorboard', 'wandb' or 'mlflow'.

    TensorBoard's files go to `<results folder>/tensorboard/<run_id>`; the destination of the others
    is set by their own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, ...). Raises
    ConfigError if there is no such exporter or its package is missing.
    """
    if to not in EXPORTERS:
        raise ConfigError(f"export to {to!r} is unknown; there are {', '.join(EXPORTERS)}.")
    try:
        send = EXPORTERS[to](store)
    except ImportError as error:
        raise ConfigError(
            f"export to {to} needs its package ({error}): {pip_install(to)}."
        ) from None
    except StoreError:
        raise
    except Exception as error:  # of any kind that the package has
        raise ConfigError(f"export to {to} cannot begin: {error}") from error

    def send_and_note(finished: Finished) -> None:
        send(finished)
        store.note(finished.row["run_id"], "exported", to=to)

    return send_and_note


def _sent(store: Store, to: str, run_id: str) -> bool:
    """Return whether the run's present result has been exported."""
    sent = False
    for event in store.attempts(run_id):
        sent &= event.get("event") != "retry"
        sent |= event.get("event") == "exported" and event.get("to") == to
    return sent


def _config(store: Store, row: Row) -> dict[str, Any]:
    """Return the fields of a row that were set, not measured; empty fields are left out.

    Those of a command are its keys, and the texts that it reported.
    """
    names = ["N", "N_total", "D", "C", "B", "S", "vocab_size", "device", "command"]
    names += [key.rpartition(".")[2] for key in fields_of()]
    names += _own(row).keys() - _reported(store, row).keys()
    return {name: row[name] for name in dict.fromkeys(names) if row.get(name) not in (None, "")}


def _summary(store: Store, row: Row) -> dict[str, float]:
    """Return the numbers that were measured at the end."""
    names = ("L", "L_stderr", "bits_per_byte", "lr_peak", "seconds", "tokens_per_second")
    known = {name: float(row[name]) for name in names if row.get(name) is not None}
    return known | _reported(store, row)


def _own(row: Row) -> dict[str, Any]:
    """Return the columns that only the command of a run knows."""
    values: dict[str, Any] = dict(row)
    return {name: value for name, value in values.items() if name not in _SCHEMA}


def _reported(store: Store, row: Row) -> dict[str, float]:
    """Return the numbers that a command reported beside the columns of the schema.

    They are known from its keys by what its folder recorded; none if that is gone.
    """
    path = store.run_folder(row["run_id"]) / "config.json"
    run = from_recorded(store.read_object(path) or {})
    keys = {column_of(key, value) for key, value in run.values.items()} if run else _own(row).keys()
    return {
        name: float(value)
        for name, value in _own(row).items()
        if name not in keys and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _points(finished: Finished) -> list[tuple[int, dict[str, float]]]:
    """Return (S, metrics) of the learning curve, without numbers that are not finite."""
    return [
        (int(point["S"]), {k: float(point[k]) for k in _METRICS if point.get(k) is not None})
        for point in map(jsonable.finite, finished.curve)
        if point.get("S") is not None
    ]


def _tensorboard(store: Store) -> Exporter:
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportMissingImports]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportMissingImports]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # pyright: ignore[reportMissingImports]

    def send(finished: Finished) -> None:
        folder = store.folder / "tensorboard" / finished.row["run_id"]
        store.remove([folder])
        writer = EventFileWriter(str(folder))
        wall_time = datetime.now().timestamp()
        points = _points(finished)
        end = points[-1][0] if points else 0
        for step, values in [
            *points,
            (end, {f"end/{k}": v for k, v in _summary(store, finished.row).items()}),
        ]:
            scalars = [Summary.Value(tag=name, simple_value=v) for name, v in values.items()]
            writer.add_event(Event(step=step, wall_time=wall_time, summary=Summary(value=scalars)))
        writer.close()

    return send


def _wandb(store: Store) -> Exporter:
    import wandb  # pyright: ignore[reportMissingImports]

    def send(finished: Finished) -> None:
        row = finished.row
        run = wandb.init(
            project=store.folder.name,
            id=row["run_id"],
            name=row["run_id"],
            tags=[word for word in (row.get("tag"), row["status"]) if word],
            config=_config(store, row),
            dir=str(store.folder),
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )
        for step, values in _points(finished):
            run.log(values, step=step)
        run.summary.update(_summary(store, row) | {"status": row["status"]})
        run.finish()

    return send


def _mlflow(store: Store) -> Exporter:
    import mlflow  # pyright: ignore[reportMissingImports]

    mlflow.set_experiment(store.folder.name)

    def send(finished: Finished) -> None:
        row = finished.row
        tags = {"run_id": row["run_id"], "status": row["status"], "tag": row.get("tag") or ""}
        with mlflow.start_run(run_name=row["run_id"], tags=tags):
            mlflow.log_params({_plain(k): v for k, v in _config(store, row).items()})
            for step, values in _points(finished):
                mlflow.log_metrics(values, step=step)
            ends = _summary(store, row)
            mlflow.log_metrics({_plain(f"end_{name}"): value for name, value in ends.items()})

    return send


def _plain(name: str) -> str:
    """Return the name of a column as MLflow takes it."""
    return re.sub(r"[^\w\-./: ]", "_", name)


EXPORTERS: dict[str, Callable[[Store], Exporter]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
