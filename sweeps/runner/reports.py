"""What a command has reported. A stand-in that reads {folder}/result.json and curve.jsonl only."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.command_run import CommandRun
from sweeps.runner.runner import Sources


class MissingResult(ValueError):
    """A command has ended without a result."""


@dataclass(frozen=True)
class Report:
    """What is known so far."""

    final: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)


class ReportReader:
    """Reads the reports of one run."""

    def __init__(self, run: CommandRun, sources: Sources, folder: Path, log: Path) -> None:
        self._run, self._sources, self._folder, self._log = run, sources, folder, log

    def read(self) -> Report:
        """Return what is known so far."""
        curve: dict[float, dict[str, float]] = {}
        for line in _lines(self._folder / self._sources.curve):
            try:
                point = json.loads(line)
                point["S"] = point.get("S", point.get("step"))
                curve[point["S"]] = point
            except (ValueError, KeyError, AttributeError):
                continue
        final: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            final = json.loads((self._folder / self._sources.file).read_bytes())
        if final.get("run_id", self._run.run_id) != self._run.run_id:
            final = {}
        return Report(final, [curve[S] for S in sorted(curve)])

    def finish(self) -> Report:
        """Return what is known at the end. Raises MissingResult if there is no loss."""
        report = self.read()
        if "L" not in report.final:
            raise MissingResult(f"no loss L in {self._sources.file} of {self._folder}")
        return report


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
