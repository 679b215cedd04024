"""Runs that a tracker keeps in several places: copied, resumed, or split by their metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from scaling.column_words import meaning
from scaling.trackers import TrackedRun

_RESUMED = re.compile(r"(?:.*[./_])?resum(?:e|ed|es)_?from(?:_?run)?(?:_?id)?|resume_run_id", re.I)
"""Names of settings that name the run that a run continues."""
_SPLITS = re.compile(r"(?:.*[_-])?(train|training|val|valid|validation|eval|test)\d*", re.I)
"""Folders of TensorBoard that hold the metrics of one split of a run."""
_SESSION = re.compile(r"\d{9,}(?:\.\d+)?")
"""Folders that TensorBoard's add_hparams() makes inside that of a run."""


def joined(kind: str, runs: Sequence[TrackedRun]) -> tuple[list[TrackedRun], list[str]]:
    """Return each run once, in the order of their starts, and what was joined in words."""
    notes: list[str] = []
    if kind == "tensorboard":
        runs = _folders_joined(runs)
    runs = _ids_joined(runs, notes)
    runs = _resumed_joined(runs, notes)
    return sorted(runs, key=lambda run: (run.start, run.id)), notes


# ------------------------------------------------------------------ the same id


def _ids_joined(runs: Iterable[TrackedRun], notes: list[str]) -> list[TrackedRun]:
    parts: dict[str, list[TrackedRun]] = {}
    copied = 0
    for run in runs:
        same = parts.setdefault(run.id, [])
        if any(_equal(run, other) for other in same):
            copied += 1
        else:
            same.append(run)
    found, resumed = [], 0
    for same in parts.values():
        resumed += len(same) > 1
        found.append(_continued(sorted(same, key=lambda run: run.start)))
    if copied:
        notes.append(f"{copied} {_copies(copied)} left out: the same id and history")
    if resumed:
        notes.append(
            f"{resumed} {'runs were' if resumed > 1 else 'run was'} resumed under the same id: the "
            "parts are joined, and of a step that occurs twice the later part counts"
        )
    return found


def _copies(number: int) -> str:
    return "copies of runs are" if number > 1 else "copy of a run is"


def _equal(run: TrackedRun, other: TrackedRun) -> bool:
    return repr(run.history) == repr(other.history) and run.config == other.config


def _continued(parts: Sequence[TrackedRun]) -> TrackedRun:
    """Return the parts of a run, in the order of their starts, as one; the last one says how it
    ended."""
    whole = parts[0]
    for part in parts[1:]:
        whole = replace(
            part,
            id=whole.id,
            name=part.name or whole.name,
            config={**whole.config, **part.config},
            summary={**whole.summary, **part.summary},
            history=_history(whole.history, part.history),
            start=whole.start,
        )
    return whole


def _history(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return two histories as one; where the second repeats steps of the first, it counts."""
    steps = [row["step"] for row in second if "step" in row]
    ends = [row["step"] for row in first if "step" in row]
    if not steps or not ends:
        return [dict(row) for row in (*first, *second)]
    shift = max(ends) + 1 - min(steps) if _counts_again(first, second) else 0
    kept = [dict(row) for row in first if row.get("step", -1) < min(steps) + shift]
    return kept + [{**row, **_later(row, shift)} for row in second]


def _later(row: Mapping[str, Any], shift: float) -> dict[str, Any]:
    return {"step": row["step"] + shift} if shift and "step" in row else {}


def _counts_again(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the second part counts its steps from 0, but its tokens or own steps on."""
    if min(r["step"] for r in second if "step" in r) > max(r["step"] for r in first if "step" in r):
        return False
    names = {name for row in (*first, *second) for name in row if name != "step"}
    for name in sorted(names):
        what = meaning(name)
        if what is None or what.symbol not in ("D", "S"):
            continue
        before, after = (_by_step(part, name) for part in (first, second))
        if before and after:
            step, value = after[0]
            there = np.interp(step, *np.array(before, float).T)  # what the first part had counted
            return bool(abs(value - there) > abs(value - max(v for _, v in before)))
    return False


def _by_step(part: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return sorted((r["step"], r[name]) for r in part if "step" in r and is_number(r.get(name)))


def is_number(value: object) -> bool:
    """Return whether a value is a number; NaN and infinity are."""
    return isinstance(value, int | float) and not isinstance(value, bool)


# ------------------------------------------------------------------ resumed under another id


def _resumed_joined(runs: Sequence[TrackedRun], notes: list[str]) -> list[TrackedRun]:
    """Return the runs with those that another one continues joined to it.

    A run that several continue stays a run of its own, and is the first part of each.
    """
    named = {run.name: run for run in runs if run.name} | {run.id: run for run in runs}
    before: dict[str, TrackedRun] = {}
    lost = []
    for run in runs:
        asked = _resumed_from(run)
        if not asked:
            continue
        words = (asked, *PurePosixPath(asked).parts)
        found = next((named[w] for w in words if w in named and named[w].id != run.id), None)
        if found is None or _leads_to(found, run.id, before):
            lost.append(run)
        else:
            before[run.id] = found
    children = Counter(run.id for run in before.values())
    whole: list[TrackedRun] = []
    for run in runs:
        if children[run.id] == 1 and run.id not in {r.id for r in lost}:
            continue  # a part of the run that continues it
        chain = [run]
        while chain[0].id in before and len(chain) <= len(runs):
            chain.insert(0, before[chain[0].id])
        whole.append(replace(_continued(chain), id=run.id, name=run.name) if chain[1:] else run)
    if before:
        notes.append(
            f"{len(before)} {'runs continue' if len(before) > 1 else 'run continues'} another "
            "(resumed_from): the curves are joined, and each is one run with its continuation"
        )
    if lost:
        notes.append(
            f"{len(lost)} {'runs say' if len(lost) > 1 else 'run says'} resumed_from, but what it "
            f"names is not here (first: {lost[0].name or lost[0].id}): only what is here counts"
        )
    return whole


def _resumed_from(run: TrackedRun) -> str:
    for name, value in run.config.items():
        if _RESUMED.fullmatch(name) and isinstance(value, str) and value.strip():
            return "" if value.strip().lower() in ("none", "null", "false", "no") else value.strip()
    return ""


def _leads_to(run: TrackedRun, id: str, before: Mapping[str, TrackedRun]) -> bool:
    seen = set()
    while run.id not in seen:
        if run.id == id:
            return True
        seen.add(run.id)
        if run.id not in before:
            return False
        run = before[run.id]
    return True


# ------------------------------------------------------------------ folders of TensorBoard


def _folders_joined(runs: Sequence[TrackedRun]) -> list[TrackedRun]:
    """Return runs whose splits or hyperparameters have folders of their own as one run each."""
    names = {run.name for run in runs}
    groups: dict[str, list[tuple[str, TrackedRun]]] = {}
    for run in runs:
        folder, _, last = run.name.rpartition("/")
        if split := _split(last, {n.rpartition("/")[2] for n in names if _beside(n, folder)}):
            groups.setdefault(folder, []).append((f"{split}/", run))
        elif _SESSION.fullmatch(last):
            groups.setdefault(folder, []).append(("", run))
        else:
            groups.setdefault(run.name, []).append(("", run))
    return [_one_folder(folder, parts) for folder, parts in groups.items()]


def _beside(name: str, folder: str) -> bool:
    return bool(name) and name.rpartition("/")[0] == folder


def _split(last: str, beside: Collection[str]) -> str:
    """Return the split that a folder is of: train, or loss_train if loss_val is beside it."""
    found = _SPLITS.fullmatch(last)
    if found is None:
        return ""
    before = last[: found.start(1)]
    others = {other for other in beside if other != last and other.startswith(before)}
    return found[1].lower() if not before or any(map(_SPLITS.fullmatch, others)) else ""


def _one_folder(folder: str, parts: Sequence[tuple[str, TrackedRun]]) -> TrackedRun:
    if len(parts) == 1 and not parts[0][0] and parts[0][1].name == folder:
        return parts[0][1]
    steps: dict[Any, dict[str, Any]] = {}
    config: dict[str, Any] = {}
    for prefix, run in parts:
        config |= run.config
        for row in run.history:
            named = {_with(prefix, name): value for name, value in row.items()}
            steps.setdefault(row.get("step"), {}).update(named)
    history = [steps[step] for step in sorted(steps, key=lambda s: (s is None, s))]
    start = min((run.start for _, run in parts if run.start), default=0.0)
    root = next((run.id for _, run in parts if run.name == folder), ".")
    id = folder or root
    return TrackedRun(id=id, name=folder, config=config, history=history, start=start)


def _with(prefix: str, name: str) -> str:
    """Return a metric with the split before it, unless it says it itself."""
    return name if name == "step" or name.startswith(prefix) else f"{prefix}{name}"
