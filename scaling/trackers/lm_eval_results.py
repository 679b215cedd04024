"""Results of EleutherAI's lm-evaluation-harness: results_*.json.

The format is that of lm_eval 0.4.0 to 0.4.13 (commit 4e7e0d4). Metrics are called task/metric, with
a filter other than `none` after a comma, as in gsm8k/exact_match,strict-match. Checkpoints of one
model, such as revision=step1000 or checkpoint-1000, become the steps of one run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.trackers import log_files
from scaling.trackers.log_files import flat, numbers_of
from scaling.trackers.tracked_run import TrackedRun, by_step, with_unreadable

_STEP = re.compile(r"(?:^|[-_/])(?:step|checkpoint|global_step|iter)[-_]?(\d+)(?:-hf)?$", re.I)
_ABOUT = ("lm_eval_version", "transformers_version", "git_hash")
_WEIGHTS = ("peft", "delta", "pretrained", "model", "path", "engine")
"""Arguments that name a model, in the harness's order."""
_EXECUTION = ("device", "batch_size", "max_batch_size", "parallelize", "dtype", "trust_remote_code")


def is_results_file(path: Path) -> bool:
    """Return whether a file holds results of the harness."""
    return log_files.is_json_with(path, "results")


def read(folder: Path, found: list[Path]) -> list[TrackedRun]:
    """Return one run per model; of files that repeat a task of it, the later evaluation counts.

    Raises ValueError if no file holds results.
    """
    files = []
    errors: dict[str, str] = {}
    for path in found:
        try:
            values, _ = log_files.read_json(path)
            if not isinstance(values.get("results"), dict) or not values["results"]:
                raise ValueError(f"{path.name} holds no results that are complete")
        except (OSError, ValueError) as error:
            errors[log_files.name_below(folder, path)] = str(error)
            continue
        files.append((_date(values), path.name, path, values))
    models: dict[str, list[tuple[float, int | None, dict[str, Any]]]] = {}
    for date, _, path, values in sorted(files, key=lambda each: each[:2]):
        name, step = _model(values, path)
        models.setdefault(name, []).append((date, step, values))
    runs = [_run(name, evaluations) for name, evaluations in models.items()]
    return sorted(with_unreadable(runs, errors), key=lambda run: log_files.natural(run.id))


def _run(name: str, evaluations: list[tuple[float, int | None, dict[str, Any]]]) -> TrackedRun:
    steps: dict[int, dict[str, Any]] = {}
    without_step: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for _, step, values in evaluations:
        metrics = _metrics(values)
        if step is None:
            without_step |= metrics
        else:
            steps.setdefault(step, {}).update(metrics)
        config |= _settings(values)
    history = by_step(steps)
    last = dict(history[-1]) if history else {}
    return TrackedRun(
        id=name, name=name, config=config, summary=without_step or last, history=history,
        start=evaluations[0][0],
    )  # fmt: skip


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Return {task/metric: value} of the tasks and groups; "N/A" and names are left out."""
    found: dict[str, float] = {}
    for task, metrics in values["results"].items():
        if not isinstance(metrics, dict):
            continue
        for name, value in numbers_of(metrics).items():
            metric, _, filter_name = str(name).partition(",")
            if metric in ("sample_len", "alias", "name"):
                continue
            plain = filter_name in ("", "none")
            found[f"{task}/{metric}" if plain else f"{task}/{metric},{filter_name}"] = value
    return found


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the model, versions, and the version and shots of each task."""
    given = values.get("config")
    given = given if isinstance(given, dict) else {}
    found = {name: v for name, v in flat(given).items() if not name.startswith("model_args")}
    if (N := found.pop("model_num_parameters", None)) is not None:
        found["total_parameters"] = N  # embeddings and output layer included
    found |= _arguments(given.get("model_args"))
    found |= {name: values[name] for name in _ABOUT if values.get(name) is not None}
    for key, label in (("versions", "version"), ("n-shot", "n_shot")):
        of_tasks = values.get(key)
        for task, value in (of_tasks if isinstance(of_tasks, dict) else {}).items():
            found[f"{task}/{label}"] = value
    return found


def _arguments(given: Any) -> dict[str, Any]:
    """Return the arguments of a model, which are an object or a text such as 'a=1,b=2'."""
    if isinstance(given, dict):
        return flat(given)
    pairs = (pair.partition("=") for pair in str(given or "").split(","))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals and name.strip()}


def _model(values: Mapping[str, Any], path: Path) -> tuple[str, int | None]:
    """Return the name of the model, without its step, and the step of the checkpoint if it says."""
    given = values.get("config")
    arguments = _arguments(given.get("model_args") if isinstance(given, dict) else None)
    weights = next((str(arguments[name]) for name in _WEIGHTS if name in arguments), "")
    name = weights or str(values.get("model_name") or path.parent.name)
    revision = str(arguments.get("revision") or "")
    step = None
    if found := _STEP.search(revision):
        step, revision = int(found[1]), revision[: found.start()]
    elif found := _STEP.search(name.rstrip("/")):
        step, name = int(found[1]), name[: found.start()] or name
    others = {**arguments, "revision": revision}
    others = {k: v for k, v in others.items() if k not in (*_WEIGHTS, *_EXECUTION) and v != ""}
    more = ",".join(f"{key}={others[key]}" for key in sorted(others) if others[key] != "main")
    return (f"{name},{more}" if more else name), step


def _date(values: Mapping[str, Any]) -> float:
    date = values.get("date")
    return float(date) if isinstance(date, int | float) and date == date else 0.0
