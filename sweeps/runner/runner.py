"""The table [runner] of a spec: the command that trains each run, and how its results are read."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scaling.command_run import Value


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The table [runner.results]: where a command reports."""

    file: str = "result.json"
    """JSON file with the final numbers, or JSON lines with a curve; relative to the run's folder
    {folder}. Read if it exists."""
    curve: str = "curve.jsonl"
    """JSON lines with one evaluation each, relative to {folder}. Read if it exists."""
    stdout: bool = True
    """Whether lines of the output that are JSON objects count as reports."""
    log: Mapping[str, str] = field(default_factory=dict, hash=False)
    """{column: regular expression} for lines of the output; the first group is the value. Lines
    that give several columns at once may name the groups instead: {"*": "step (?P<step>...)"}."""
    tracker: str = ""
    """'wandb', 'tensorboard' or 'mlflow': an offline run that the command writes."""
    path: str = ""
    """Folder of the tracker's files, relative to {folder}."""
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    """{our column: name that the command uses}, such as {L: 'val/loss'}."""


@dataclass(frozen=True, kw_only=True)
class Failures:
    """The table [runner.failures]: how the end of a command is recognised."""

    diverged: tuple[str, ...] = ()
    """Regular expressions for lines of the output of a run whose loss exploded."""
    memory: tuple[str, ...] = ()
    """The same for a lack of memory, beside the built-in ones (scaling.errors.out_of_memory)."""
    exit_codes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """{exit code: 'diverged', 'memory', 'preempted' or 'failed'}."""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """How a command is executed and its results are read. It does not identify a run."""

    workdir: Path
    """Folder in which the command starts."""
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Environment variables, with placeholders, on top of those of the sweep."""
    timeout_seconds: float | None = None
    """Seconds after which an attempt is ended and fails."""
    grace_seconds: float = 20.0
    """Seconds between SIGTERM and SIGKILL."""
    log_bytes: int = 50_000_000
    """Bytes of output that are kept of an attempt: its beginning and its end."""
    cpus: float | None = None
    """CPUs of a run; None for --threads."""
    gpus: float | None = None
    """GPUs of a run, or a fraction of one; None for --devices, if there are GPUs."""
    nodes: int = 1
    """Nodes that a run takes; the command starts on each, with {node_rank}."""
    results: Sources = Sources()
    failures: Failures = Failures()


WORK = "work"
"""Folder, in that of a run, which the command may write to: {folder}."""

PLACEHOLDERS = {
    "folder": "folder of the run, which the command may write to and resume from",
    "run_id": "id of the run",
    "devices": "GPUs of the run on each node; 1 without GPUs",
    "threads": "CPU threads of the run",
    "nodes": "nodes of the run",
    "node_rank": "number of this node, from 0",
    "master_addr": "address of the first node",
    "master_port": "a free port of the first node",
}
"""{placeholder that every command knows: meaning}."""


def placeholders(text: str) -> list[str]:
    """Return the names of the {placeholders} in a text.

    Raises ValueError if braces do not match.
    """
    return [name for _, name, _ in parts(text) if name is not None]


def filled(text: str, values: Mapping[str, Value]) -> str:
    """Return `text` with its {placeholders} replaced; {{ and }} stand for braces.

    A placeholder may say how it is formatted, as in {lr:.2e}. Raises KeyError for an unknown
    placeholder, and ValueError for braces that do not match and for a format of another type.
    """
    return "".join(
        before if name is None else before + _as_word(values[name], how)
        for before, name, how in parts(text)
    )


def parts(text: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield (text, name of the placeholder after it, its format)."""
    for before, name, how, conversion in string.Formatter().parse(text):
        if name is not None and (not name or conversion):
            raise ValueError("a placeholder is {name} or {name:format}")
        if re.search(r"\d{4}", how or ""):
            raise ValueError(f"the format {how!r} is too wide")
        yield before, name, how or ""


def _as_word(value: Value, how: str) -> str:
    if how:
        return format(value, how)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)
