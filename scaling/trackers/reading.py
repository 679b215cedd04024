"""Find and read the runs of a tracker, or the logs of a trainer, below a path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from scaling.trackers import (
    event_files,
    hf_trainer,
    lightning_files,
    lm_eval_results,
    mlflow_stores,
    nanochat_logs,
    olmo_core_logs,
    torchtitan_logs,
    wandb_files,
)
from scaling.trackers.tracked_run import TrackedRun

_MOST_FILES = 100_000
"""Files that are looked at below a path."""

TRACKERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, list[Path]], list[TrackedRun]]]]
TRACKERS = {
    "wandb": (wandb_files.is_run_file, wandb_files.read),
    "tensorboard": (event_files.is_event_file, event_files.read),
    "mlflow": (mlflow_stores.is_store_file, mlflow_stores.read),
    "hf": (hf_trainer.is_state_file, hf_trainer.read),
    "lightning": (lightning_files.is_run_file, lightning_files.read),
    "torchtitan": (torchtitan_logs.is_run_file, torchtitan_logs.read),
    "nanochat": (nanochat_logs.is_run_file, nanochat_logs.read),
    "olmo": (olmo_core_logs.is_run_file, olmo_core_logs.read),
    "lm_eval": (lm_eval_results.is_results_file, lm_eval_results.read),
}
"""{name: (whether a file belongs to it, function that reads such files below a folder)}."""


class TrackerError(ValueError):
    """The runs of a tracker cannot be read; the message names the path and what to do."""


def read(tracker: str, path: Path) -> list[TrackedRun]:
    """Return the runs that a tracker has written below a path, in the order of their start.

    tracker: a key of :data:`TRACKERS`, such as 'wandb' or 'hf'.
    path: a folder, or one file: .wandb, events.out.tfevents, MLflow's database, a trainer's log.

    Raises TrackerError if there is no such run, or nothing in it can be read.
    """
    if tracker not in TRACKERS:
        raise TrackerError(f"tracker {tracker!r} is unknown; there are {', '.join(TRACKERS)}.")
    belongs, reader = TRACKERS[tracker]
    if not path.exists():
        raise TrackerError(f"{path} does not exist; the run of {tracker} is expected there.")
    found = [file for file in _files(path) if belongs(file)]
    if not found:
        raise TrackerError(f"{path} holds no {_KINDS[tracker]}.")
    try:
        return reader(path if path.is_dir() else path.parent, found)
    except (OSError, ValueError) as error:
        raise TrackerError(f"{path}: the run of {tracker} cannot be read: {error}.") from None


_KINDS = {
    "wandb": "offline run of W&B (run-*.wandb; WANDB_MODE=offline and WANDB_DIR set where)",
    "tensorboard": "event file of TensorBoard (*tfevents*)",
    "mlflow": "store of MLflow (mlruns/ or a SQLite database)",
    "hf": "trainer_state.json of the Trainer of transformers (save_state and checkpoints write it)",
    "lightning": "run of Lightning (metrics.csv, or hparams.yaml beside event files)",
    "torchtitan": "console log of torchtitan (lines 'step: 1  loss: ...') and no event file",
    "nanochat": "log of nanochat's base_train ('Step 00000 | Validation bpb: ...'), meta_*.json or "
    "base-model-training.md",
    "olmo": "console log of OLMo-core ('[step=1/...'), metrics.json or metrics_step*.json",
    "lm_eval": "results_*.json of lm-evaluation-harness (--output_path writes it)",
}


def stamps(path: Path) -> dict[str, tuple[int, int]]:
    """Return {file: size and time of the last change} of what is below a path."""
    found = {}
    for file in _files(path):
        try:
            state = os.stat(file)
        except OSError:
            continue
        found[str(file)] = state.st_size, state.st_mtime_ns
    return found


def _files(path: Path) -> Iterator[Path]:
    """Yield the regular files below a path, without following links."""
    if path.is_file():
        yield path
        return
    number = 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                yield file
                number += 1
            if number >= _MOST_FILES:
                return
