"""The options of sbatch that a user gives to --slurm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from scaling.errors import ConfigError

_OURS = {
    "wrap": "the script of the sweep takes its place",
    "parsable": "the job id is read from it",
    "wait": "`scaling watch` follows the sweep",
    "test-only": "--dry-run prints the script",
    "chdir": "the job starts in the current folder, where the spec's paths lead",
    "ntasks": "the script starts one process per node; --workers sets how many runs train at once",
    "ntasks-per-node": "the script starts one process per node; --workers sets how many runs train "
    "at once",
}
"""{option of sbatch that is not the user's: why}."""

_SHORT = {
    "A": "account", "C": "constraint", "J": "job-name", "N": "nodes", "c": "cpus-per-task",
    "d": "dependency", "G": "gpus", "p": "partition", "q": "qos", "t": "time", "w": "nodelist",
    "x": "exclude",
}  # fmt: skip
"""{short name of an option of sbatch: its long name}."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What --slurm asks for."""

    nodes: int = 1
    """Number of nodes of the allocation."""
    tasks: int | None = None
    """Number of tasks of the array job; None for one allocation."""
    at_once: int | None = None
    """Number of tasks that may run at once; None for all."""
    options: dict[str, str | None]
    """{option of sbatch: value}, without those above; None for an option without a value."""

    def has(self, *names: str) -> bool:
        """Return whether the user gave any of these options."""
        return not self.options.keys().isdisjoint(names)


def parse(words: Sequence[str]) -> Settings:
    """Return the settings in KEY=VALUE words. Raises ConfigError."""
    options: dict[str, str | None] = {}
    for word in words:
        key, value = _option(word)
        if key in options:
            raise ConfigError(f"--slurm {word}: {key} is given twice.")
        options[key] = value
    nodes, array = options.pop("nodes", "1"), options.pop("array", None)
    if nodes is None or not re.fullmatch("[1-9][0-9]{0,5}", nodes):
        raise ConfigError(
            f"--slurm nodes={nodes or ''}: must be a whole number of nodes, such as nodes=4."
        )
    if array is None:
        return Settings(nodes=int(nodes), options=options)
    found = re.fullmatch("([1-9][0-9]{0,5})(?:%([1-9][0-9]{0,5}))?", array)
    if found is None:
        raise ConfigError(
            f"--slurm array={array}: must be the number of tasks, such as array=16, or array=16%4 "
            "for 4 of them at once."
        )
    if nodes != "1":
        raise ConfigError(
            f"--slurm array={array} nodes={nodes}: each task of an array has one node. Leave out "
            "nodes=, or leave out array= for one allocation of several nodes."
        )
    at_once = int(found[2]) if found[2] else None
    return Settings(tasks=int(found[1]), at_once=at_once, options=options)


def _option(word: str) -> tuple[str, str | None]:
    """Return the long name and the value in KEY=VALUE, or KEY for an option without a value."""
    given, equals, value = word.partition("=")
    key = given.strip().removeprefix("--").replace("_", "-")
    key = _SHORT.get(key.removeprefix("-"), key)
    if not re.fullmatch("[a-z][a-z0-9-]+", key):
        raise ConfigError(
            f"--slurm {word}: must be KEY=VALUE with the long name of an option of sbatch, such "
            "as partition=gpu."
        )
    if key in _OURS:
        raise ConfigError(f"--slurm {word}: leave it out; {_OURS[key]}.")
    if equals and not value.strip():
        raise ConfigError(f"--slurm {word}: a value is missing, as in partition=gpu.")
    if re.search(r'[\x00-\x1f\x7f"]', value):
        raise ConfigError(f"--slurm {word!r}: the value has characters that a script cannot hold.")
    return key, value.strip() if equals else None
