"""The files that identify the runs of a command, and what a results folder recorded of them.

The manifest of a results folder has, under `runner`, the hashes of the files and the sizes that the
`count` command printed. Commands that inspect the folder read them there and execute nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scaling.command_run import CommandRun, Run
from scaling.errors import ConfigError

_HEX = frozenset("0123456789abcdef")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Recorded:
    """What the manifest of a results folder says about a command."""

    code: Mapping[str, str] = field(default_factory=dict)
    """{file: sha256} of the files when the sweep last ran."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """{count command: N}, counted with these files."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Recorded:
        """Read a manifest; anything that is not a valid record is ignored."""
        record = manifest.get("runner")
        record = record if isinstance(record, dict) else {}
        code, counts = record.get("code"), record.get("counts")
        return cls(
            {
                file: digest
                for file, digest in (code if isinstance(code, dict) else {}).items()
                if isinstance(digest, str) and len(digest) == 64 and set(digest) <= _HEX
            },
            {
                command: N
                for command, N in (counts if isinstance(counts, dict) else {}).items()
                if type(N) is int and 0 < N < 2**63
            },
        )

    def record(self) -> dict[str, Any]:
        """Return plain values for the manifest."""
        return {"code": dict(self.code), "counts": dict(self.counts)}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Where the identity of a command's runs comes from."""

    recorded: Recorded = Recorded()
    """What the results folder says."""
    same_code: bool = False
    """Whether the hashes of the code are those recorded, as far as there are any."""
    executes: bool = False
    """Whether `count` may be executed; otherwise what is recorded counts."""


def as_recorded(manifest: Mapping[str, Any]) -> Callable[..., Identity]:
    """Return what makes a spec read without executing anything, as its manifest recorded it."""
    return lambda *_: Identity(recorded=Recorded.of(manifest))


def hashes(files: Sequence[str], folder: Path, where: str) -> dict[str, str]:
    """Return {file: sha256} of files that a spec names, relative to its folder.

    Raises ConfigError for a file that cannot be read.
    """
    found = {}
    for name in files:
        path = folder / name
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise ConfigError(
                f"{where} code: {name!r} cannot be read ({error.strerror or error}: {path}); it is "
                "looked for in the spec's folder."
            ) from None
        found[name] = digest.hexdigest()
    return found


def changed(now: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """Return the files whose content differs from what was recorded, in order."""
    return [name for name, digest in now.items() if before.get(name, digest) != digest]


def with_code(runs: Mapping[str, Run], code: Mapping[str, str]) -> dict[str, Run]:
    """Return the runs by id as they were while the files of their commands had these hashes."""
    found: dict[str, Run] = {}
    for run in runs.values():
        if isinstance(run, CommandRun):
            run = replace(run, code={file: code.get(file, now) for file, now in run.code.items()})
        found[run.run_id] = run
    return found


def code_remark(files: Sequence[str], finished: int) -> str:
    """Return a line about changed files, and the finished runs that are others than those of the
    spec now."""
    has = f"{files[0]} has" if len(files) == 1 else f"{', '.join(files)} have"
    those = (
        "1 finished run no longer belongs"
        if finished == 1
        else (f"{finished} finished runs no longer belong")
    )
    rows = "its row stays" if finished == 1 else "their rows stay"
    return (
        f"{has} changed, which makes new runs: {those} to this spec ({rows} in the table); "
        "--same-code keeps them"
    )
