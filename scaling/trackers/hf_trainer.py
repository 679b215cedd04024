"""Runs of the Trainer of Hugging Face's transformers: trainer_state.json and config.json.

The format is that of transformers 4.40 to 5.24. A folder and its checkpoint-N folders are one run;
the state with the most steps counts. training_args.bin is a pickle and is never opened.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scaling.shape_count import count_of_shapes
from scaling.trackers import log_files
from scaling.trackers.log_files import flat, numbers_of, step_of
from scaling.trackers.tracked_run import TrackedRun, by_step, last_values, with_unreadable

_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_ABOUT = ("max_steps", "num_train_epochs", "logging_steps", "eval_steps", "save_steps")
_EXACT = 1e-4
"""How near to a whole number the tokens must be that follow from total_flos."""


def is_state_file(path: Path) -> bool:
    """Return whether a file is the state of a Trainer."""
    return path.name == _STATE


def read(folder: Path, found: list[Path]) -> list[TrackedRun]:
    """Return one run per output folder. Raises ValueError if none of the files can be read."""
    outputs: dict[Path, list[Path]] = {}
    for path in found:
        own = path.parent
        checkpoint = _CHECKPOINT.fullmatch(own.name) is not None and own != folder
        outputs.setdefault(own.parent if checkpoint else own, []).append(path)
    runs: list[TrackedRun] = []
    errors: dict[str, str] = {}
    for own, paths in outputs.items():
        try:
            runs.append(_run(folder, own, paths))
        except (OSError, ValueError) as error:
            errors[log_files.name_below(folder, own) or own.name] = f"{own / _STATE}: {error}"
    return sorted(with_unreadable(runs, errors), key=lambda run: log_files.natural(run.id))


def _run(folder: Path, own: Path, paths: list[Path]) -> TrackedRun:
    state, where = _latest(own, paths)
    steps: dict[int, dict[str, Any]] = {}
    ending: dict[str, float] = {}
    for row in state["log_history"]:
        values = numbers_of(row) if isinstance(row, dict) else {}
        step = step_of(values.pop("step", None))
        if step is None:
            continue
        if "train_loss" in values and "train_runtime" in values and "loss" not in values:
            ending = values  # written once, when training has ended: means over the whole run
        else:
            steps.setdefault(step, {}).update(values)
    history = by_step(steps)
    config = _config(own, where, state)
    S = step_of(state.get("global_step")) or max(steps, default=0)
    summary = last_values(history) | ending | _totals(state, S)
    if (D := _tokens(state, config)) is not None:
        summary["tokens_seen"] = D
        if S and D % S == 0:
            config["tokens_per_step"] = D // S
    finished = bool(ending) or _ended(state, S)
    name = log_files.name_below(folder, own)
    return TrackedRun(
        id=name or own.name, name=name, config=config, summary=summary, history=history,
        state="finished" if finished else "unfinished",
    )  # fmt: skip


def _latest(own: Path, paths: list[Path]) -> tuple[dict[str, Any], Path]:
    """Return the state with the most steps and its folder; damaged ones as far as they go."""
    best: tuple[tuple[int, bool, bool], dict[str, Any], Path] | None = None
    errors = []
    for path in paths:
        try:
            state, whole = log_files.read_json(path)
        except ValueError as error:
            errors.append(str(error))
            continue
        rows = state.get("log_history")
        if not isinstance(rows, list):
            errors.append(f"{path.name} has no log_history that is complete")
            continue
        steps = [step_of(row.get("step")) or 0 for row in rows if isinstance(row, dict)]
        key = (max([*steps, step_of(state.get("global_step")) or 0]), whole, path.parent == own)
        if best is None or key > best[0]:
            best = key, state, path.parent
    if best is None:
        raise ValueError("; ".join(errors))
    return best[1], best[2]


def _config(own: Path, where: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the model, of the state and of training arguments kept as JSON."""
    config: dict[str, Any] = {}
    for folder in (where, own, own.parent):
        if config := _object(folder / "config.json"):
            break
    config = flat(config)
    for folder in (own, where):
        config |= flat(_object(folder / "training_args.json"))
    config |= {name: state[name] for name in _ABOUT if state.get(name) is not None}
    if state.get("train_batch_size") is not None:  # of one device
        config["per_device_train_batch_size"] = state["train_batch_size"]
    trial = state.get("trial_params")
    return config | (flat(trial) if isinstance(trial, dict) else {})


def _object(path: Path) -> dict[str, Any]:
    try:
        return log_files.read_json(path)[0]
    except (OSError, ValueError):
        return {}


def _totals(state: dict[str, Any], S: int) -> dict[str, Any]:
    found: dict[str, Any] = {"global_step": S}
    for name in ("epoch", "total_flos", "best_metric", "num_input_tokens_seen"):
        value = state.get(name)
        if isinstance(value, int | float) and (value or name == "epoch"):
            found[name] = value
    return found


def _tokens(state: dict[str, Any], config: dict[str, Any]) -> int | None:
    """Return the training tokens, if the Trainer counted them or its FLOPs tell them.

    total_flos is 6 D times the parameters outside of embeddings, an untied output layer included.
    """
    seen = step_of(state.get("num_input_tokens_seen"))
    if seen:
        return seen
    flos, count = state.get("total_flos"), count_of_shapes(config)
    if not isinstance(flos, int | float) or not 0 < flos < 1e30 or count is None:
        return None
    if not count.exact:
        return None
    D = flos / (6.0 * (count.N + count.head))
    return round(D) if D >= 1 and abs(D - round(D)) < max(_EXACT, D * 1e-15) else None


def _ended(state: dict[str, Any], S: int) -> bool:
    """Return whether the state of a checkpoint is that of the last step."""
    if S and step_of(state.get("max_steps")) == S:
        return True
    control = state.get("stateful_callbacks")
    for name in ("TrainerControl", "args", "should_training_stop"):
        control = control.get(name) if isinstance(control, dict) else None
    return control is True
