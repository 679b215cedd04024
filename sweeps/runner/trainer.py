"""What trains the runs of a spec: our own trainer, or the command of [runner]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.errors import ConfigError
from sweeps.runner.count import Counts
from sweeps.runner.identity import Identity, Recorded, changed, hashes
from sweeps.runner.keys import CommandKeys
from sweeps.runner.parse import Definition, definition_of
from sweeps.runner.runner import Runner
from sweeps.spec_runs import ConfigKeys
from sweeps.spec_values import Point, RunKeys, subtable

_REFUSED = {
    "tasks": "tasks are evaluated on the weights of our own trainer",
    "execution": "it sets how our own trainer executes runs",
}
"""{section: why a spec with a command cannot have it}."""


@dataclass(frozen=True)
class Trainer:
    """What trains the runs of a spec."""

    keys: RunKeys = field(default_factory=ConfigKeys)
    """The keys of its runs."""
    runner: Runner | None = None
    same_code: bool = False
    code: Mapping[str, str] | None = None
    """{file: hash} of the code of a command."""
    counts: Counts | None = None

    @property
    def recorded(self) -> Recorded:
        """What the manifest records of a command."""
        return Recorded(self.code or {}, self.counts.known if self.counts else {})

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about the runs that were made."""
        return self.keys.notes() if isinstance(self.keys, CommandKeys) else ()


def trainer_of(
    values: dict[str, Any],
    changes: Point,
    name: str,
    path: Path | None,
    identity: Callable[[str, Definition], Identity],
    where: str,
) -> Trainer:
    """Return what trains the runs of the spec `values`, which lies at `path`.

    `changes` are those to [runner], {"runner.<key>": value}, and `name` is that of the sweep.
    Raises ConfigError.
    """
    if "runner" not in values:
        if changes:
            raise ConfigError(f"{where}: {next(iter(changes))} is set, but there is no [runner].")
        return Trainer()
    for section, why in _REFUSED.items():
        if section in values:
            raise ConfigError(f"{where}: {section!r} does not go with [runner]: {why}.")
    here = f"{where} [runner]"
    table = _changed(subtable(values, "runner", where), changes, f"{where}, changes")
    definition = definition_of(table, here, path.parent if path else Path())
    source = identity(name, definition)
    recorded = source.recorded
    known = recorded.code if source.same_code or not source.executes else {}
    lacking = [file for file in definition.code if file not in known]
    code = {**known, **hashes(lacking, definition.folder, here)}
    code = {file: code[file] for file in definition.code}
    same = recorded.code.keys() == code.keys() and not changed(code, recorded.code)
    counts = Counts(recorded.counts if same else {}, may_execute=source.executes)
    keys = CommandKeys(definition, here, code=code, counts=counts)
    return Trainer(keys, definition.runner, source.same_code, code, counts)


def _changed(table: dict[str, Any], changes: Point, where: str) -> dict[str, Any]:
    """Return the table with {"runner.<key>": value} changed."""
    table = dict(table)
    for key, value in changes.items():
        inner = table
        *path, last = key.split(".")[1:]
        for name in path:
            if not isinstance(inner.setdefault(name, {}), dict):
                raise ConfigError(f"{where}: {key} is set, but {name!r} is not a table.")
            inner[name] = dict(inner[name])
            inner = inner[name]
        inner[last] = value
    return table
