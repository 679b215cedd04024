"""Runs of torchtitan: console logs, event files of TensorBoard, and configs in JSON or TOML.

The formats are those of torchtitan 0.1 to 0.3 (commit b5bcd76). Names are those of its event files;
`validation_metrics/loss` and `loss_metrics/global_avg_loss` are in nats per token.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from scaling.trackers import event_files, log_files
from scaling.trackers.log_files import NUMBER, flat, number
from scaling.trackers.tracked_run import TrackedRun, by_step, last_values

_LINE = re.compile(
    rf"(validate )?\bstep:\s*(\d+)\s+loss:\s*({NUMBER})(?=\s)([^\n]*)", re.IGNORECASE
)
_FIELD = re.compile(rf"(\w+):\s*({NUMBER})", re.IGNORECASE)
_FIELDS = {
    "grad_norm": "grad_norm",
    "tps": "throughput(tps)",
    "tflops": "tflops",
    "mfu": "mfu(%)",
    "memory": "memory/max_reserved(GiB)",
}
"""{name on the console: name in event files}."""
_MODEL = re.compile(r"Model (\S+) (\S+) size: ([\d,]+) total parameters")
_STARTED = {
    "global_batch_size": re.compile(r"global batch size (\d+)"),
    "seq_len": re.compile(r"(?:sequence length|maximum context length) (\d+)"),
    "tokens_per_step": re.compile(r"(\d+) tokens per train step"),
    "total_steps": re.compile(r"total steps (\d+)"),
}
"""What the line 'Trainer is initialized with' tells."""
_STAMP = re.compile(r"\d{8}-\d{4}|rank_\d+|replica_\d+")
"""Folders of one start, rank or replica below the one of event files."""


def is_run_file(path: Path) -> bool:
    """Return whether a file is a console log of torchtitan or holds events of TensorBoard."""
    return event_files.is_event_file(path) or log_files.is_console_log(path, _LINE)


def read(folder: Path, found: list[Path]) -> list[TrackedRun]:
    """Return one run per console log, or per folder with event files and the logs beside them.

    Lines of a resumed run replace earlier ones of the same step. Raises ValueError if no file holds
    a step.
    """
    events: dict[Path, list[Path]] = {}
    logs: list[Path] = []
    for path in found:
        if event_files.is_event_file(path):
            events.setdefault(_dump_folder(folder, path.parent), []).append(path)
        else:
            logs.append(path)
    runs = []
    for own, paths in events.items():
        beside = [log for log in logs if log.parent == own]
        logs = [log for log in logs if log not in beside]
        runs.append(_run(folder, own, paths, beside))
    runs += [_run(folder, log, [], [log]) for log in logs]
    runs = [run for run in runs if run.history]
    if not runs:
        raise ValueError("its files hold no step that is complete")
    return sorted(runs, key=lambda run: log_files.natural(run.id))


def _run(folder: Path, own: Path, events: list[Path], logs: list[Path]) -> TrackedRun:
    steps: dict[int, dict[str, Any]] = {}
    where = own if events else own.parent
    config = _config(where, alone=len(logs) < 2)
    text = ""
    for log in logs:
        text = log_files.read_text(log)
        config |= _settings(text)
        _add_lines(text, steps)
    start = 0.0
    for run in sorted(event_files.read(where, events), key=lambda run: (run.start, run.id)):
        start = start or run.start
        for row in run.history:
            values = {name: value for name, value in row.items() if name != "step"}
            steps.setdefault(row["step"], {}).update(values)
    _add_tokens_per_step(config)
    history = by_step(steps)
    state = ""
    if logs:
        ended = "Training completed" in text or max(steps, default=0) == config.get("total_steps")
        state = "finished" if ended else "unfinished"
    elif config.get("training.steps"):
        ended = max(steps, default=0) >= config["training.steps"]
        state = "finished" if ended else "unfinished"
    name = log_files.name_below(folder, own if events else own.with_suffix(""))
    return TrackedRun(
        id=name or own.name, name=name, config=config, summary=last_values(history),
        history=history, start=start, state=state,
    )  # fmt: skip


def _dump_folder(folder: Path, own: Path) -> Path:
    """Return the folder of a run that event files belong to: above tb/ and the time of a start."""
    while own != folder and _STAMP.fullmatch(own.name):
        own = own.parent
    return own.parent if own.name == "tb" and own != folder else own


def _add_lines(text: str, steps: dict[int, dict[str, Any]]) -> None:
    for line in _LINE.finditer(text):
        validation, step, loss, rest = line.groups()
        row = steps.setdefault(int(step), {})
        value = number(loss)
        if value is None:
            continue
        if validation:
            row["validation_metrics/loss"] = float(value)
            continue
        row["loss_metrics/global_avg_loss"] = float(value)
        for name, field in _FIELD.findall(rest):
            if name in _FIELDS and (found := number(field)) is not None:
                row[_FIELDS[name]] = found


def _settings(text: str) -> dict[str, Any]:
    """Return the settings that a console log tells."""
    config = flat(log_files.object_after(text, "Running with configs:"))
    if building := log_files.object_after(text, "Building "):
        config |= flat({"model_args": building}) if "dim" in building else {}
    if model := _MODEL.search(text):
        config |= {"model.name": model[1], "model.flavor": model[2]}
        config["total_parameters"] = number(model[3])
    at = text.rfind("Trainer is initialized with")
    if at >= 0:
        line = text[at : text.find("\n", at)]
        for name, pattern in _STARTED.items():
            if given := pattern.search(line):
                config[name] = int(given[1])
    return config


def _config(folder: Path, *, alone: bool) -> dict[str, Any]:
    """Return the job's config, if the folder holds one only: save_config_file, or a TOML file."""
    found = []
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.toml")):
        try:
            if path.suffix == ".toml":
                values = tomllib.loads(log_files.read_text(path))
            else:
                values, _ = log_files.read_json(path)
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(values.get("training"), dict):
            found.append(values)
    return flat(found[0]) if len(found) == 1 and alone else {}


def _add_tokens_per_step(config: dict[str, Any]) -> None:
    """Add the tokens of a step, from what the log or the config tells."""
    batch = config.pop("global_batch_size", None) or config.get("training.global_batch_size")
    length = config.get("seq_len") or config.get("training.seq_len")
    given = config.get("training.num_tokens_per_train_step")
    if "tokens_per_step" in config:
        return
    if isinstance(given, int) and given > 0:
        config["tokens_per_step"] = given
    elif isinstance(batch, int) and isinstance(length, int) and batch > 0:
        config["tokens_per_step"] = batch * length
