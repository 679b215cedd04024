"""Runs of Lightning: metrics.csv or TensorBoard's event files, with hparams.yaml.

The format is that of the loggers of Lightning 2.0 to 2.6 and of Fabric. YAML is read without
building objects: tags of Python, such as !!python/tuple, stand for plain lists, mappings and text.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from scaling import extras
from scaling.trackers import event_files, log_files
from scaling.trackers.log_files import flat, number, step_of
from scaling.trackers.tracked_run import TrackedRun, by_step, last_values, with_unreadable

_METRICS, _HPARAMS = "metrics.csv", "hparams.yaml"


def is_run_file(path: Path) -> bool:
    """Return whether a file belongs to a run of Lightning."""
    return path.name in (_METRICS, _HPARAMS)


def read(folder: Path, found: list[Path]) -> list[TrackedRun]:
    """Return one run per version folder. Raises ValueError if none of them can be read."""
    runs: list[TrackedRun] = []
    errors: dict[str, str] = {}
    for own in dict.fromkeys(path.parent for path in found):
        try:
            runs.append(_run(folder, own))
        except (OSError, ValueError) as error:
            errors[log_files.name_below(folder, own) or own.name] = f"{own}: {error}"
    return sorted(with_unreadable(runs, errors), key=lambda run: log_files.natural(run.id))


def _run(folder: Path, own: Path) -> TrackedRun:
    config = _hyperparameters(own / _HPARAMS)
    steps: dict[int, dict[str, Any]] = {}
    start = 0.0
    events = [path for path in own.iterdir() if event_files.is_event_file(path)]
    for run in event_files.read(own, events):
        config = dict(run.config) | config
        start = start or run.start
        for row in run.history:
            _add(steps, row["step"], row)
    if (own / _METRICS).is_file():
        for row in _rows(own / _METRICS):
            _add(steps, row.pop("step", None), row)
    if not steps:
        raise ValueError(f"it holds no row of {_METRICS} that is complete, and no event file")
    history = by_step(steps)
    name = log_files.name_below(folder, own)
    return TrackedRun(
        id=name or own.name, name=name, config=config, summary=last_values(history),
        history=history, start=start,
    )  # fmt: skip


def _add(steps: dict[int, dict[str, Any]], step: Any, row: dict[str, Any]) -> None:
    """Add values to their step; Lightning counts from 0, so step 9 is after ten optimiser steps."""
    number = step_of(step)
    if number is not None:
        values = {name: value for name, value in row.items() if name != "step"}
        steps.setdefault(number + 1, {}).update(values)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the numbers of each complete line of a table; blank fields are left out."""
    lines = log_files.complete_lines(log_files.read_text(path))
    rows = list(csv.reader(io.StringIO("\n".join(lines))))
    if not rows or "step" not in rows[0]:
        raise ValueError(f"{_METRICS} has no column 'step'; its first line must name the columns")
    found = []
    for fields in rows[1:]:
        if len(fields) == len(rows[0]):
            values = {name: number(text) for name, text in zip(rows[0], fields, strict=True)}
            found.append({name: value for name, value in values.items() if value is not None})
    return found


def _hyperparameters(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    text = log_files.read_text(path)
    if not text.strip().strip("{}"):
        return {}
    if not extras.installed("yaml"):
        raise ValueError(f"{path.name} needs PyYAML. {extras.missing('yaml')}")
    values = _plain_yaml(text)
    found = flat(values) if isinstance(values, dict) else {}
    return {name: value for name, value in found.items() if _is_plain(value)}


def _plain_yaml(text: str) -> Any:
    """Return the value that a YAML text writes; None if it is damaged."""
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader that ignores tags of Python."""

    def untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return node.value or suffix

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", untagged)
    Loader.add_multi_constructor("!", untagged)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError):
        return None


def _is_plain(value: Any) -> bool:
    """Return whether a setting is a number, a text, or a list of such."""
    items = value if isinstance(value, list) else [value]
    return all(item is None or isinstance(item, bool | int | float | str) for item in items)
