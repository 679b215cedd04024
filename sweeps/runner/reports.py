"""What a command has reported so far: the final numbers and the learning curve.

A command reports by whichever it has: result.json and curve.jsonl in its folder, JSON objects among
the lines of its output, regular expressions on these lines, or the offline run of a tracker. All of
them are read; where they differ, the first of that list counts. Nothing of a stranger's runs here.
"""

from __future__ import annotations

import ast
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling import trackers
from scaling.command_run import CommandRun, Value
from sweeps.runner.lines import NewLines, WholeFile, tail
from sweeps.runner.names import POINT_COLUMNS, Names, as_number
from sweeps.runner.runner import Sources

_SOURCES = ("tracker", "log", "output", "curve", "file")
"""Where numbers come from; later ones count where they differ."""

_TRACKER_SECONDS = 5.0
"""Seconds before the files of a tracker are read again while the command runs."""

_MATCHED = 1 << 14
"""Characters of a line that regular expressions see."""

_MOST_POINTS = 10_000
"""Points of a curve; of more, an even selection is kept."""

_MEASURED = frozenset({"N", "N_total", "L_stderr", "bits_per_byte", "tokens_per_second", "mfu",
                       "memory", "D_unique", "step_seconds", "peak_flops", "B"})  # fmt: skip
"""Columns that a point of a curve may report beside those of the curve; the last value counts."""

_SPELLINGS = {"step": "S", "steps": "S", "tokens": "D"}


class ReportError(ValueError):
    """What a command reported cannot be a result; the message says why and what to do."""


class MissingResult(ReportError):
    """A command ended without a result; the message names what was looked for, and where."""


@dataclass(frozen=True)
class Report:
    """What is known so far."""

    final: Mapping[str, Value] = field(default_factory=dict)
    """{column of ours or of its own: value} of the last state: L, N, D, S, lr, ..."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """Points with S and some of D, L, L_train, lr, in order of S; each S once."""
    stated: frozenset[str] = frozenset()
    """Columns of `final` that were reported as final, not taken from the last point."""
    step: int = 0
    """The last step reported."""
    L_step: int | None = None
    """Step of the point that gave L; None if L is stated or its step is unknown."""
    conversions: Mapping[str, str] = field(default_factory=dict)
    """{column: expression} of the values that were converted, such as {L: log(val_ppl)}."""


@dataclass
class _Source:
    """What one source has reported."""

    final: dict[str, Value] = field(default_factory=dict)
    last: dict[str, Value] = field(default_factory=dict)
    """Last values of points, also of those whose step is not known."""
    points: dict[int, dict[str, float]] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)
    """{column of `final`: expression that it was converted by, or ""}."""
    converted_points: dict[str, str] = field(default_factory=dict)
    step: int | None = None
    seen: set[str] = field(default_factory=set)
    """Names that were reported, for messages."""
    reports: int = 0


class ReportReader:
    """Reads the reports of one command while it runs, and when it has ended."""

    def __init__(self, run: CommandRun, sources: Sources, folder: Path, log: Path) -> None:
        """`folder` is the run's {folder}; `log` holds the output of the command."""
        self._run, self._sources = run, sources
        self._folder, self._log_path = folder, log
        self._names = {name: Names(sources.columns) for name in _SOURCES}
        self._from = {name: _Source() for name in _SOURCES}
        self._file = WholeFile(folder / sources.file) if sources.file else None
        self._curve = NewLines(folder / sources.curve) if sources.curve else None
        self._log = NewLines(log)
        self._patterns = [
            (_SPELLINGS.get(column, column), re.compile(pattern))
            for column, pattern in sources.log.items()
        ]
        self._matched = [0] * len(self._patterns)
        self._lines = 0
        self._tracker_read = -math.inf
        self._tracker_files: object = None
        self._tracker_error = ""
        self._found: Report | None = None

    def read(self) -> Report:
        """Return what has been reported so far. Never raises for what a command writes."""
        return self._read(last=False)

    def finish(self) -> Report:
        """Return all that a command which has succeeded reported.

        Raises MissingResult if it reported no loss, or no N although nobody else knows it.
        """
        report = self._read(last=True)
        if "L" not in report.final:
            raise MissingResult(self._missing("its held-out loss L", "L"))
        if self._run.N is None and "N" not in report.final:
            raise MissingResult(self._missing("its number of parameters N", "N"))
        return report

    # -------------------------------------------------------------- reading

    def _read(self, *, last: bool) -> Report:
        before = sum(source.reports for source in self._from.values())
        self._read_file()
        for text in self._curve.read(last=last) if self._curve else ():
            if (values := _object(text)) is not None:
                self._add("curve", values, point=True)
        for text in self._log.read(last=last):
            self._lines += 1
            self._add_line(text)
        self._read_tracker(last)
        if self._found is None or before != sum(s.reports for s in self._from.values()):
            self._found = self._report()
        return self._found

    def _read_file(self) -> None:
        data = self._file.changed() if self._file else None
        if data is None:
            return
        text = data.decode("utf-8-sig", "replace")
        values = _object(text)
        if values is not None:
            self._from["file"] = _Source(reports=self._from["file"].reports)
            self._add("file", values, point=False)
            for found in values.values():
                for point in found if isinstance(found, list) else ():
                    if isinstance(point, dict):
                        self._add("file", point, point=True)
            return
        for line in text.splitlines():
            if (values := _object(line)) is not None:
                self._add("file", values, point=_is_point(values))

    def _add_line(self, text: str) -> None:
        stripped = text.strip()
        if self._sources.stdout and stripped.startswith("{") and stripped.endswith("}"):
            values = _object(stripped)
            if values is not None:
                self._add("output", values, point=_is_point(values))
        self._match(text[:_MATCHED])

    def _match(self, text: str) -> None:
        """Take the values that the declared patterns find in a line of the output."""
        found: dict[str, Value] = {}
        for index, (column, pattern) in enumerate(self._patterns):
            match = pattern.search(text)
            if match is None:
                continue
            self._matched[index] += 1
            groups = match.groupdict() if column == "*" else {column: _group(match)}
            for name, word in groups.items():
                if word is not None:
                    value = as_number(word)
                    found[_SPELLINGS.get(name, name)] = word.strip() if value is None else value
        if not found:
            return
        source = self._from["log"]
        source.reports += 1
        if (S := _step(found.get("S"))) is not None:
            source.step = S
        for column, value in found.items():
            if column in POINT_COLUMNS and not isinstance(value, int | float):
                continue
            if column in POINT_COLUMNS and source.step is not None:
                _put(source, {column: value}, source.step)
            else:
                source.final[column] = value

    def _add(self, where: str, values: Mapping[str, Any], *, point: bool) -> None:
        """Add a reported object: a point of the curve, or the final numbers."""
        source, names = self._from[where], self._names[where]
        if self._is_foreign(values):
            source.seen.add(f"a report of run {values['run_id']}, which is another run")
            return
        columns, converted = names.columns_of(_flat(values), point=point)
        source.seen |= {str(name) for name in values} if len(source.seen) < 100 else set()
        if where == "output" and not point and not columns.keys() & names.ours:
            return  # a line of a structured log
        source.reports += 1
        if not point:
            source.final |= columns
            source.converted |= converted
            return
        source.converted_points |= converted
        S = _step(columns.get("S"))
        S = self._step_of(columns) if S is None else S
        _put(source, {k: v for k, v in columns.items() if k in POINT_COLUMNS}, S)
        kept = _MEASURED | self._sources.columns.keys()
        source.final |= {k: v for k, v in columns.items() if k in kept and k not in POINT_COLUMNS}

    def _is_foreign(self, values: Mapping[str, Any]) -> bool:
        """Return whether a report says that it is of another run of ours."""
        run_id = values.get("run_id")
        return run_id != self._run.run_id and _is_ours(run_id)

    def _step_of(self, columns: Mapping[str, Value]) -> int | None:
        """Return the step of a point that gives its tokens only."""
        D, B = columns.get("D"), self._run.batch_tokens
        return _step(float(D) / B) if B and isinstance(D, int | float) else None

    def _read_tracker(self, last: bool) -> None:
        if not self._sources.tracker:
            return
        now = time.monotonic()
        if not last and now - self._tracker_read < _TRACKER_SECONDS:
            return
        self._tracker_read = now
        folder = self._folder / self._sources.path
        try:
            if (stamps := trackers.stamps(folder)) == self._tracker_files:
                return
            runs = trackers.read(self._sources.tracker, folder)
        except trackers.TrackerError as error:
            self._tracker_error = str(error)
            return
        self._tracker_files, self._tracker_error = stamps, ""
        self._from["tracker"] = _Source(reports=self._from["tracker"].reports)
        for run in runs:
            prefix = _prefix(run.name)
            sizes, _ = self._names["tracker"].columns_of(run.config, point=False)
            for column in ("N", "N_total"):
                if column in sizes:
                    self._from["tracker"].final[column] = sizes[column]
            for values in run.history:
                named = {k if k == "step" else prefix + k: v for k, v in values.items()}
                self._add("tracker", named, point=True)
            source = self._from["tracker"]
            summary, converted = self._names["tracker"].columns_of(
                {prefix + k: v for k, v in run.summary.items() if not k.startswith("_")}, point=True
            )
            source.converted_points |= converted
            source.last |= {k: v for k, v in summary.items() if k in POINT_COLUMNS and k != "S"}
            source.final |= {k: v for k, v in summary.items() if k not in POINT_COLUMNS}
            source.reports += 1

    # -------------------------------------------------------------- reporting

    def _report(self) -> Report:
        final: dict[str, Value] = {}
        points: dict[int, dict[str, float]] = {}
        last: dict[str, Value] = {}
        converted: dict[str, str] = {}
        for name in _SOURCES:
            converted |= self._from[name].converted_points
        for name in _SOURCES:
            source = self._from[name]
            final |= source.final
            converted |= {column: source.converted.get(column, "") for column in source.final}
            last |= source.last
            for S, point in source.points.items():
                points[S] = points.get(S, {"S": S}) | point
        curve = [self._with_tokens(points[S]) for S in sorted(points)]
        stated = frozenset(final)
        step = max([_step(final.get("S")) or 0, *points])
        if step and "S" not in final:
            final["S"] = step
        L_step = None
        for column in ("L", "lr", "D", "L_train"):
            given = [p for p in curve if column in p]
            if column not in stated and given:
                final[column] = given[-1][column]
                L_step = int(given[-1]["S"]) if column == "L" else L_step
            elif column not in stated and column in last:
                final[column] = last[column]
        return Report(
            final,
            _thinned([p for p in curve if p.keys() & {"L", "L_train", "lr"}]),
            stated,
            step,
            L_step,
            {column: text for column, text in converted.items() if text and column in final},
        )

    def _with_tokens(self, point: dict[str, float]) -> dict[str, float]:
        """Return a point with its tokens, if the tokens per step are known."""
        B = self._run.batch_tokens
        return point if "D" in point or B is None else point | {"D": point["S"] * B}

    def _missing(self, what: str, column: str) -> str:
        """Return the message for a result that nothing reported."""
        looked = []
        sources = self._sources
        for name, path in (("file", sources.file), ("curve", sources.curve)):
            if path:
                looked.append(f"{path} ({self._state(name, self._folder / path)})")
        if sources.stdout:
            looked.append(f"JSON objects in the output ({self._names_seen('output')})")
        for (target, pattern), number in zip(self._patterns, self._matched, strict=True):
            text = f"{target} = {pattern.pattern!r}"
            looked.append(f"the pattern {text} (it matched {number} of {self._lines} lines)")
        if sources.tracker:
            state = self._tracker_error or self._names_seen("tracker")
            looked.append(f"the {sources.tracker} run in {sources.path or '.'} ({state})")
        declared = sources.columns.get(column)
        name = f"{column} (called {declared!r} in [runner.results.columns])" if declared else column
        message = (
            f"the command ended without reporting {what}. Looked for {name} in "
            f"{'; '.join(looked)}; files are relative to {self._folder}. Declare in "
            f"[runner.results] where the command reports it, with columns = "
            f'{{ {column} = "its name" }} if it has another name.'
        )
        lines = tail(self._log_path)
        end = "".join(f"\n  {line}" for line in lines)
        return message + (f"\nThe last lines of the log:{end}" if lines else "\nThe log is empty.")

    def _state(self, name: str, path: Path) -> str:
        if not path.exists():
            return "it does not exist"
        if not path.is_file():
            return "it is not a file"
        source = self._from[name]
        known = source.reports or source.seen
        return self._names_seen(name) if known else "it holds no JSON object"

    def _names_seen(self, name: str) -> str:
        seen = sorted(self._from[name].seen)
        if not seen:
            return "none"
        return "with " + ", ".join(s[:60] for s in seen[:12]) + (", ..." if seen[12:] else "")


def _prefix(folder: str) -> str:
    """Return what the folder of a tracker says of its tags: train/ and val/ for such folders."""
    last = folder.rpartition("/")[2]
    return f"{last}/" if last in _SPLITS else ""


_SPLITS = ("train", "val", "valid", "validation", "eval", "test")


def _put(source: _Source, values: Mapping[str, Value], S: int | None) -> None:
    """Add the columns of a point to its step, if that is known."""
    numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float) and k != "S"}
    source.last |= numbers
    if S is not None:
        point = source.points.setdefault(S, {})
        point |= numbers


def _object(text: str) -> dict[str, Any] | None:
    """Return the object that a text writes, as JSON or as Python prints one; None if none."""
    text = text.strip()
    if not text.startswith("{"):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        if not re.match(r"\{\s*'", text) or len(text) > _MATCHED:
            return None
        try:
            values = ast.literal_eval(re.sub(r"\b(nan|inf)\b", r"'\1'", text))
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    return values if isinstance(values, dict) else None


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those of inner objects under outer/inner; lists are left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}/{k}": v for k, v in value.items() if not isinstance(v, dict | list)}
        elif not isinstance(value, list):
            found[str(name)] = value
    return found


_AXES = ("step", "_step", "S", "iter", "iteration", "global_step", "trainer/global_step", "epoch")


def _is_point(values: Mapping[str, Any]) -> bool:
    """Return whether a reported object is a point of a curve, by its names."""
    return any(name in values for name in _AXES)


def _is_ours(run_id: object) -> bool:
    """Return whether an id has the form of those of a sweep; trackers have ids too."""
    return isinstance(run_id, str) and re.fullmatch("[0-9a-f]{12}", run_id) is not None


def _step(value: object) -> int | None:
    """Return a number of steps; None for what cannot be one."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return round(value) if math.isfinite(value) and 0 <= value < 2**53 else None


def _group(match: re.Match[str]) -> str | None:
    return next((word for word in match.groups() if word is not None), None) or match.group()


def _thinned(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return at most the number of points that are stored, held-out losses first."""
    if len(curve) <= _MOST_POINTS:
        return curve
    held_out = {i for i, point in enumerate(curve) if "L" in point}
    if len(held_out) > _MOST_POINTS:
        return _evenly(sorted(held_out), curve, _MOST_POINTS)
    others = [i for i in range(len(curve)) if i not in held_out]
    stride = math.ceil(len(others) / max(1, _MOST_POINTS - len(held_out)))
    return [curve[i] for i in sorted(held_out | set(others[::stride]))]


def _evenly(
    indices: list[int], curve: list[dict[str, float]], number: int
) -> list[dict[str, float]]:
    stride = math.ceil(len(indices) / number)
    return [curve[i] for i in sorted({*indices[::stride], indices[-1]})]
