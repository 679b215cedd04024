"""Runs of OLMo-core: console logs, metrics.json and metrics_step*.json, and config.json.

The formats are those of OLMo-core 2.0 to 3.0 (commit fa6c501), and the console log of OLMo 0.6.
Names are OLMo-core's own, such as `train/CE loss` and `eval/lm/c4-validation/CE loss`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scaling.trackers import log_files
from scaling.trackers.log_files import NUMBER, flat, number, numbers_of, step_of
from scaling.trackers.tracked_run import TrackedRun, by_step, last_values

_METRICS = re.compile(r"metrics(?:_step(\d+))?\.json")
_MARKER = re.compile(r"\[step=(\d+)/(\d+|\?\?\?)[,\]]")
_EVAL = re.compile(r"Finished (\S+) evals in ")
_VALUE = re.compile(rf"^\s+(\S[^=]*)=({NUMBER})([EPTB]?)\s*$", re.I)
_SUFFIXES = {"": 1.0, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
"""How OLMo-core shortens large numbers."""
_SIZES = re.compile(r"([\d,]+) total params, ([\d,]+) non-embedding params")
_RESUMED = re.compile(r"Will resume training from step (\d+)")
_TOKENS = "throughput/total tokens"


def is_run_file(path: Path) -> bool:
    """Return whether a file is a console log of OLMo-core, or metrics that it saved."""
    return bool(_METRICS.fullmatch(path.name)) or log_files.is_console_log(path, _MARKER)


def read(folder: Path, found: list[Path]) -> list[TrackedRun]:
    """Return one run per folder with metrics and the log in it, if one, and per other log.

    Lines of a resumed run replace earlier ones of the same step. Raises ValueError if no file holds
    a metric.
    """
    saved: dict[Path, list[Path]] = {}
    logs: list[Path] = []
    for path in found:
        if _METRICS.fullmatch(path.name):
            saved.setdefault(path.parent, []).append(path)
        else:
            logs.append(path)
    runs, errors = [], []
    for own, paths in saved.items():
        beside = [log for log in logs if log.parent == own]
        beside = beside if len(beside) == 1 else []
        logs = [log for log in logs if log not in beside]
        runs.append(_run(folder, own, paths, beside, errors))
    runs += [_run(folder, log, [], [log], errors) for log in logs]
    runs = [run for run in runs if run.history or run.summary]
    if not runs:
        raise ValueError("; ".join(errors) or "its files hold no metric that is complete")
    return sorted(runs, key=lambda run: log_files.natural(run.id))


def _run(
    folder: Path, own: Path, saved: list[Path], logs: list[Path], errors: list[str]
) -> TrackedRun:
    steps: dict[int, dict[str, Any]] = {}
    where = own if saved else own.parent
    config = _config(where) if saved or len(list(where.glob("*.log"))) < 2 else {}
    planned, ended = None, False
    for log in logs:
        text = log_files.read_text(log)
        planned = _add_log(text, steps)
        ended = "Training complete" in text
        if sizes := _SIZES.search(text):
            config |= {"total_params": number(sizes[1]), "non_embedding_params": number(sizes[2])}
    _add_tokens_per_step(config, steps)
    final: dict[str, Any] = {}
    for path in sorted(saved, key=_order):
        try:
            metrics = numbers_of(log_files.read_json(path)[0])
        except (OSError, ValueError) as error:
            errors.append(str(error))
            continue
        given = _METRICS.fullmatch(path.name)
        step = (
            int(given[1]) if given and given[1] else _step_of_final(where, metrics, config, steps)
        )
        if step is None:
            final |= metrics
        else:
            steps.setdefault(step, {}).update(metrics)
    for row in steps.values():
        if _TOKENS in row:
            row["tokens"] = row[_TOKENS]
    history = by_step(steps)
    summary = last_values(history) | final
    state = ""
    if logs:
        reached = bool(history) and history[-1]["step"] == planned
        state = "finished" if ended or reached else "unfinished"
    name = log_files.name_below(folder, own if saved else own.with_suffix(""))
    return TrackedRun(
        id=name or own.name, name=name, config=config, summary=summary, history=history, state=state
    )


def _order(path: Path) -> tuple[bool, list[tuple[int, int, str]]]:
    """Return a sort key of files of metrics: by step, metrics.json last."""
    return path.name == "metrics.json", log_files.natural(path.name)


def _add_log(text: str, steps: dict[int, dict[str, Any]]) -> int | None:
    """Add the metrics of a console log; return the number of steps that was planned.

    Metrics of an evaluation stand before the marker of their step, or after the last one.
    """
    planned, at = None, 0
    waiting: dict[str, float] = {}
    target: dict[str, float] | None = None
    prefix = ""
    for line in log_files.complete_lines(text):
        if marker := _MARKER.search(line):
            at = int(marker[1])
            planned = step_of(number(marker[2])) if marker[2] != "???" else planned
            target, prefix = steps.setdefault(at, {}), ""
            target |= waiting
            waiting = {}
        elif ended := _EVAL.search(line):
            target, prefix = waiting, f"eval/{ended[1]}/"
        elif resumed := _RESUMED.search(line):
            at, target = int(resumed[1]), None
        elif target is not None and (value := _VALUE.match(line)):
            name = value[1] if value[1].startswith(prefix) else prefix + value[1]
            found = number(value[2])
            if found is not None and not (name == _TOKENS and value[3]):  # which would be rounded
                target[name] = found * _SUFFIXES[value[3].upper()]
        elif line.strip() != "Metrics:":  # which a narrow terminal puts on a line of its own
            target = None
    if waiting:
        steps.setdefault(at, {}).update(waiting)
    empty = [step for step, row in steps.items() if not row]
    for step in empty:
        del steps[step]
    return planned


def _config(folder: Path) -> dict[str, Any]:
    """Return the config of the run, which is in its checkpoints or in its folder."""
    checkpoints = sorted(
        (path.parent for path in folder.glob("step*/config.json")),
        key=lambda path: log_files.natural(path.name),
        reverse=True,
    )
    for place in (folder, *checkpoints, folder.parent):
        try:
            values, _ = log_files.read_json(place / "config.json")
        except (OSError, ValueError):
            continue
        return {name: v for name, v in flat(values).items() if not name.endswith("_CLASS_")}
    return {}


def _add_tokens_per_step(config: dict[str, Any], steps: dict[int, dict[str, Any]]) -> None:
    """Add the tokens of a step, from the config (whose unit is tokens) or those of a log."""
    batch = config.pop("data_loader.global_batch_size", None)
    scheduled = any(name.startswith("trainer.callbacks.batch_size") for name in config)
    if isinstance(batch, int) and batch > 0 and not scheduled:
        config["tokens_per_step"] = batch
        return
    found = {row[_TOKENS] / step for step, row in steps.items() if step and _TOKENS in row}
    if len(found) == 1 and (ratio := found.pop()).is_integer():
        config["tokens_per_step"] = int(ratio)


def _step_of_final(
    folder: Path, metrics: dict[str, float], config: dict[str, Any], steps: dict[int, Any]
) -> int | None:
    """Return the step of metrics.json, which does not say it: from tokens, log or checkpoints."""
    batch, tokens = config.get("tokens_per_step"), metrics.get(_TOKENS)
    if batch and tokens and tokens % batch == 0:
        return int(tokens // batch)
    named = [re.fullmatch(r"step(\d+)", path.name) for path in folder.glob("step*")]
    return max([*(int(name[1]) for name in named if name), *steps], default=None)
