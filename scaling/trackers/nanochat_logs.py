"""Runs of nanochat: logs of base_train, meta_*.json of checkpoints, and pages of its report.

The formats are those from October 2025 to commit 92d63d4 (July 2026); the report was removed in
commit f10bd75. Names are those that nanochat logs to W&B: `val/bpb` is in bits per byte, and
`train/loss`, a running mean, in nats per token. None is converted here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scaling.trackers import log_files
from scaling.trackers.log_files import NUMBER, flat, number, numbers_of, step_of
from scaling.trackers.tracked_run import TrackedRun, by_step, last_values

_META = re.compile(r"meta_\d+\.json")
_PAGES = ("base-model-training.md", "report.md")
_LINE = re.compile(rf"^step (\d+)/(\d+) .*?\| loss: ({NUMBER})(?=[\s|])([^\n]*)", re.M | re.I)
_HELD_OUT = re.compile(rf"^Step (\d+) \| Validation bpb: ({NUMBER})(?=\s)", re.M | re.I)
_CORE = re.compile(rf"^Step (\d+) \| CORE metric: ({NUMBER})(?=\s)", re.M | re.I)
_FIELD = re.compile(rf"\|? ?([\w/ ]+?): ({NUMBER})(?=[\s|m%])", re.I)
_FIELDS = {
    "lrm": "train/lrm",
    "grad norm": "train/grad_norm",
    "tok/sec": "train/tok_per_sec",
    "bf16_mfu": "train/mfu",
    "mfu": "train/mfu",
}
"""{name in a line of the log: name in W&B}."""
_COUNT = re.compile(
    r"^(wte|value_embeds|bigram_embed|lm_head|transformer_matrices|scalars|total) *: ([\d,]+)$",
    re.M,
)
_COUNTS = {"total": "total_parameters", "lm_head": "lm_head_parameters"}
_TOLD = {
    "vocab_size": re.compile(r"^Vocab size: ([\d,]+)$", re.M),
    "total_parameters": re.compile(r"^Number of parameters: ([\d,]+)$", re.M),
    "tokens_per_step": re.compile(r"^Total batch size ([\d,]+) =>", re.M),
}
_PAGE_NAMES = {
    "Number of parameters": "total_parameters",
    "Number of training tokens": "training_tokens",
    "total_batch_size": "tokens_per_step",
    "Final validation bpb": "val/bpb",
    "Minimum validation bpb": "val/min_bpb",
    "CORE metric estimate": "core_metric",
}
_RESULTS = ("val/bpb", "val/min_bpb", "core_metric")


def is_run_file(path: Path) -> bool:
    """Return whether a file is a log, a checkpoint's metadata or a page of a report of nanochat."""
    if _META.fullmatch(path.name):
        return True
    if path.name == _PAGES[1]:
        return not path.with_name(_PAGES[0]).exists()
    return path.name == _PAGES[0] or log_files.is_console_log(path, re.compile(
        rf"{_LINE.pattern}|{_HELD_OUT.pattern}", re.M | re.I))  # fmt: skip


def read(folder: Path, found: list[Path]) -> list[TrackedRun]:
    """Return one run per log, page, or folder of checkpoints with the log beside them, if one.

    Lines of a resumed run replace earlier ones of the same step. Raises ValueError if no file holds
    a step.
    """
    metas: dict[Path, list[Path]] = {}
    others: list[Path] = []
    for path in found:
        if _META.fullmatch(path.name):
            metas.setdefault(path.parent, []).append(path)
        else:
            others.append(path)
    runs, errors = [], []
    for own, paths in metas.items():
        beside = [path for path in others if path.parent == own]
        beside = beside if len(beside) == 1 else []
        others = [path for path in others if path not in beside]
        runs.append(_run(folder, own, sorted(paths), beside, errors))
    runs += [_run(folder, path, [], [path], errors) for path in others]
    runs = [run for run in runs if run.history]
    if not runs:
        raise ValueError("; ".join(errors) or "its files hold no step that is complete")
    return sorted(runs, key=lambda run: log_files.natural(run.id))


def _run(
    folder: Path, own: Path, metas: list[Path], others: list[Path], errors: list[str]
) -> TrackedRun:
    steps: dict[int, dict[str, Any]] = {}
    config: dict[str, Any] = {}
    planned = None
    for path in others:
        text = log_files.read_text(path)
        if path.suffix == ".md":
            planned = _add_page(text, steps, config)
        else:
            planned = _add_log(text, steps, config)
    for path in metas:
        try:
            meta, _ = log_files.read_json(path)
        except (OSError, ValueError) as error:
            errors.append(str(error))
            continue
        _add_meta(meta, steps, config)
    history = by_step(steps)
    state = ""
    if planned is not None and history:
        state = "finished" if history[-1]["step"] >= planned else "unfinished"
    name = log_files.name_below(folder, own if metas else own.with_suffix(""))
    return TrackedRun(
        id=name or own.name, name=name, config=config, summary=last_values(history),
        history=history, state=state,
    )  # fmt: skip


def _add_log(text: str, steps: dict[int, dict[str, Any]], config: dict[str, Any]) -> int | None:
    """Add the steps and settings of a log; return the number of steps that was planned."""
    planned = None
    for step, last, loss, rest in _LINE.findall(text):
        planned = int(last)
        row = steps.setdefault(int(step), {})
        row["train/loss"] = _float(loss)
        for name, value in _FIELD.findall(rest + "\n"):
            if name.strip() in _FIELDS:
                row[_FIELDS[name.strip()]] = _float(value)
    for pattern, name in ((_HELD_OUT, "val/bpb"), (_CORE, "core_metric")):
        for step, value in pattern.findall(text):
            steps.setdefault(int(step), {})[name] = _float(value)
    config |= flat(log_files.object_after(text, "Model config:\n"))
    for name, value in _COUNT.findall(text):
        config[_COUNTS.get(str(name), str(name))] = number(value)
    for name, pattern in _TOLD.items():
        if given := pattern.findall(text):
            config[name] = number(given[-1])
    return planned


def _add_meta(
    meta: dict[str, Any], steps: dict[int, dict[str, Any]], config: dict[str, Any]
) -> None:
    """Add the step and the settings in a checkpoint's metadata."""
    step = step_of(meta.get("step"))
    if step is None:
        return
    row = steps.setdefault(step, {})
    row |= numbers_of({"val/bpb": meta.get("val_bpb")})
    for name in ("user_config", "model_config"):
        values = meta.get(name)
        found = flat(values) if isinstance(values, dict) else {}
        config |= {key: value for key, value in found.items() if value != -1}  # not given
    batch = config.pop("total_batch_size", None)
    batch = meta.get("total_batch_size", batch)
    if isinstance(batch, int) and batch > 0:  # in tokens
        config["tokens_per_step"] = batch


def _add_page(text: str, steps: dict[int, dict[str, Any]], config: dict[str, Any]) -> int | None:
    """Add the settings and results on a page of the report; return its number of steps."""
    section = text.partition("## Base model training\n")[2].partition("\n## ")[0]
    found: dict[str, Any] = {}
    for line in log_files.complete_lines(section):
        name, colon, value = line.removeprefix("- ").partition(": ")
        if line.startswith("- ") and colon and value != "None":
            plain = number(value)
            found[_PAGE_NAMES.get(name, name)] = value if plain is None else plain
    planned = step_of(found.get("Calculated number of iterations", found.get("num_iterations")))
    results = {name: found.pop(name) for name in _RESULTS if name in found}
    config |= {name: value for name, value in found.items() if value != -1}
    if results and planned is not None:
        steps.setdefault(planned, {}).update(numbers_of(results))
    return planned


def _float(text: str) -> float:
    value = number(text)
    return float("nan") if value is None else float(value)
