"""The track record: how well predictions on record did, once runs near them had finished."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.in_words import interval, times
from analysis.planning.prediction import KINDS
from analysis.planning.records import (
    PlanRecord,
    content_hash,
    folder_of,
    is_near,
    is_positive,
    read_record,
    records_in,
    row_hashes,
)
from analysis.tables.containers import located
from analysis.tables.load import load
from analysis.tables.rows import finished
from analysis.tables.several import files_of, is_results_folder
from scaling import units
from scaling.errors import ConfigError, TableError
from scaling.jsonable import finite

TableState = Literal["unchanged", "changed", "not found"]
"""The rows behind a record now: the same, others, or none."""

_SAME = 1.005
"""A run whose N and D are within this factor of the predicted ones is the predicted run."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A record next to the nearest finished runs."""

    on_record: PlanRecord
    table: TableState
    """What became of the table that the laws were fitted to."""
    runs: int = 0
    """Number of runs at the nearest N and D; 0 if no run is near."""
    N: float = math.nan
    D: float = math.nan
    measured: float = math.nan
    """Their loss; of several runs at the same N and D, the geometric mean."""
    predicted: float = math.nan
    """The loss that the recorded laws predict at this N and D."""
    source: str = ""
    """Where the runs are from."""
    waiting: str = ""
    """Why there is no score yet."""

    @property
    def scored(self) -> bool:
        """Whether a run near the prediction has finished."""
        return self.runs > 0

    @property
    def error(self) -> float:
        """measured - predicted [nats/token]."""
        return self.measured - self.predicted

    @property
    def relative(self) -> float:
        """measured / predicted - 1."""
        return self.measured / self.predicted - 1

    @property
    def same(self) -> bool:
        """Whether the run has the predicted N and D."""
        return all(1 / _SAME <= factor <= _SAME for factor in self.factors.values())

    @property
    def factors(self) -> dict[str, float]:
        """N and D of the runs over those predicted."""
        values = self.on_record.values
        return {"N": self.N / values["N"], "D": self.D / values["D"]}

    def interval(self, kind: str) -> tuple[float, float] | None:
        """Return the recorded interval, moved as the prediction is from its N and D to the run's;
        None if the record has none."""
        ends = self.on_record.interval(kind)
        shift = self.predicted / self.on_record.values["L"]
        return None if ends is None else (ends[0] * shift, ends[1] * shift)

    def inside(self, kind: str) -> bool | None:
        """Whether the measured loss lies in an interval; None without run or interval."""
        ends = self.interval(kind)
        return None if ends is None or not self.scored else ends[0] <= self.measured <= ends[1]

    @property
    def other_laws(self) -> dict[str, float]:
        """{law without weight: measured / its prediction - 1}; empty unless the run is the
        predicted one."""
        laws = self.on_record.values["laws"] if self.scored and self.same else {}
        losses = {name: law.get("L") for name, law in laws.items() if not law.get("weight")}
        return {name: self.measured / L - 1 for name, L in losses.items() if is_positive(L)}

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = self.on_record.values
        found: dict[str, Any] = {
            "name": self.on_record.name,
            "file": str(self.on_record.path),
            "time": self.on_record.time,
            "N": values["N"],
            "D": values["D"],
            "L": values["L"],
            "level": values["level"],
            "laws": {name: law.get("weight") for name, law in values["laws"].items()},
            "table": self.table,
            "scored": self.scored,
            "waiting": self.waiting or None,
        }
        if self.scored:
            found["run"] = {
                "N": self.N, "D": self.D, "L": self.measured, "runs": self.runs,
                "source": self.source, "same": self.same,
            }  # fmt: skip
            found |= {
                "predicted": self.predicted,
                "error_nats": self.error,
                "error_percent": 100 * self.relative,
                "intervals": {kind: self.interval(kind) for kind in KINDS},
                "inside": {kind: self.inside(kind) for kind in KINDS},
                "other_laws_percent": {k: 100 * off for k, off in self.other_laws.items()},
            }
        return finite(found)

    def lines(self) -> Iterator[str]:
        """Yield the prediction, and what was measured or why nothing was."""
        values = self.on_record.values
        yield (
            f"{self.on_record.name} ({self.on_record.time[:10]}): loss {values['L']:.4f} predicted "
            f"for N = {values['N']:.3g}, D = {values['D']:.3g}, by {_names(values['laws'])}"
        )
        if not self.scored:
            yield f"  not scored yet: {self.waiting}"
        else:
            several = "" if self.runs == 1 else f"mean of {self.runs} runs, "
            yield (
                f"  measured {self.measured:.4f} ({several}{self.source}): {self.error:+.4f} nats, "
                f"{self.relative:+.2%}"
            )
            if not self.same:
                yield (
                    f"  the nearest run has N = {self.N:.3g}, D = {self.D:.3g}, where these laws "
                    f"predict {self.predicted:.4f}"
                )
            for kind in KINDS:
                if (ends := self.interval(kind)) is not None:
                    where = "inside" if self.inside(kind) else "OUTSIDE"
                    spread = interval(*ends, ".4f")
                    yield f"  {where} the {values['level']:.0%} {kind} interval {spread}"
            if others := self.other_laws:
                off = ", ".join(f"{name} {error:+.2%}" for name, error in others.items())
                yield f"  measured against the other laws: {off}"
        if self.table != "unchanged":
            what = {"changed": "has changed since", "not found": "is no longer there"}[self.table]
            yield f"  the table that it was predicted from {what}"


@dataclass(frozen=True, kw_only=True)
class TrackRecord:
    """All records of some folders, and how well they did."""

    scores: tuple[Score, ...]
    """The records, oldest first."""
    unreadable: tuple[str, ...] = ()
    """Messages about files that are no records, or tables that cannot be read."""

    @property
    def scored(self) -> tuple[Score, ...]:
        """The records near which a run has finished."""
        return tuple(score for score in self.scores if score.scored)

    @property
    def rms(self) -> float:
        """The rms of ln(measured / predicted); nan without a scored record."""
        off = [math.log(score.measured / score.predicted) for score in self.scored]
        return float(np.sqrt(np.mean(np.square(off)))) if off else math.nan

    @property
    def coverage(self) -> dict[str, tuple[int, int]]:
        """{kind of interval: (scored records inside it, scored records that have one)}."""
        found = {}
        for kind in KINDS:
            inside = [score.inside(kind) for score in self.scored]
            known = [each for each in inside if each is not None]
            found[kind] = (sum(known), len(known))
        return found

    @property
    def summary(self) -> str:
        """The number of predictions, their rms error, and the coverage of the intervals."""
        n, scored = len(self.scores), len(self.scored)
        lead = f"{n} prediction{'' if n == 1 else 's'} on record, {scored} scored"
        if not scored:
            return lead
        parts = [f"rms error {self.rms:.2%}"]
        levels = {score.on_record.values["level"] for score in self.scored}
        level = f"{next(iter(levels)):.0%} " if len(levels) == 1 else ""
        parts += [
            f"{inside} of {known} inside the {level}{kind} interval"
            for kind, (inside, known) in self.coverage.items()
            if known
        ]
        return f"{lead}: {', '.join(parts)}"

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return finite(
            {
                "records": [score.record() for score in self.scores],
                "n": len(self.scores),
                "scored": len(self.scored),
                "rms_percent": 100 * self.rms,
                "coverage": {
                    kind: {"inside": inside, "of": known}
                    for kind, (inside, known) in self.coverage.items()
                },
                "unreadable": list(self.unreadable),
            }
        )

    def __str__(self) -> str:
        lines = [self.summary]
        for score in self.scores:
            lines += score.lines()
        return "\n".join(lines + [f"! {message}" for message in self.unreadable])


def track_record(
    sources: Sequence[str | Path],
    *,
    selection: Mapping[str, Any] | None = None,
    more: Sequence[str | Path] = (),
) -> TrackRecord:
    """Compare the predictions on record beside several tables with the runs in them.

    A run tests a record if its N and its D are within the record's factor (2) of the predicted
    ones, if it was not among the rows that the laws were fitted to, and if its loss is that of the
    same text and tokens, as far as this is known. The nearest N and D count.

    sources    results folders or tables; their records are in the folders `plans` beside them.
    selection  options that select rows of these tables, as for :func:`analysis.load`.
    more       further tables whose runs count; one that cannot be read is left out.

    Raises ConfigError for a source that does not exist and without a readable record, and
    TableError if no table can be read.
    """
    for source in sources:
        if not located(files_of(source)[0])[0].exists():
            raise ConfigError(f"{source}: no such file or folder.")
    folders = list(dict.fromkeys(folder_of([source]) for source in sources))
    records, unreadable = [], []
    for path in (path for folder in folders for path in records_in(folder)):
        try:
            records.append(read_record(path))
        except ConfigError as error:
            unreadable.append(str(error))
    if not records and unreadable:
        raise ConfigError(unreadable[0])
    if not records:
        where = ", ".join(map(str, folders[:3])) + (", ..." if len(folders) > 3 else "")
        raise ConfigError(
            f"no prediction is on record in {where}. `scaling plan RUNS --flops C --record NAME` "
            "keeps one."
        )
    tables, faults = _tables(sources, dict(selection or {}))
    tables = _tables(more, {})[0] | tables
    if not tables:
        raise TableError(faults[0])
    scores = [_score(record, tables) for record in sorted(records, key=lambda r: r.time)]
    return TrackRecord(scores=tuple(scores), unreadable=(*unreadable, *faults))


def track_record_of(
    results: str | Path | Sequence[str | Path], *, selection: Mapping[str, Any] | None = None
) -> TrackRecord | None:
    """Return the track record of a results folder or a table, None if it has no records.

    Runs of the results folders beside it count too. Raises as :func:`track_record` does.
    """
    sources = [results] if isinstance(results, str | Path) else list(results)
    if not any(records_in(folder_of([source])) for source in sources):
        return None
    home = folder_of(sources).parent
    parent = home / ".." if home.name in ("", "..") else home.parent
    beside = sorted(parent.glob("*/runs.csv")) if is_results_folder(home) else ()
    more = [path.parent for path in beside if not path.parent.samefile(home)]
    return track_record(sources, selection=selection, more=more)


def _tables(
    sources: Sequence[str | Path], selection: Mapping[str, Any]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return the finished runs of each source, and the messages for those without any."""
    tables, faults = {}, []
    for source in dict.fromkeys(map(str, sources)):
        try:
            tables[source] = _runs(source, selection)
        except (TableError, OSError) as error:
            faults.append(str(error))
    return tables, faults


def _runs(source: Any, selection: Mapping[str, Any]) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        table = load(source, need=("N", "D", "L"), mixed=True, **{"rows": "auto", **selection})
        return finished(table, str(source))


def _score(record: PlanRecord, tables: Mapping[str, pd.DataFrame]) -> Score:
    """Return the record next to the nearest runs of all tables."""
    values = record.values
    state = _state(record)
    best: tuple[float, str, pd.DataFrame] | None = None
    for source, runs in tables.items():
        distance = _distance(runs, values).to_numpy()
        tests = _tests(record, runs).to_numpy()
        if tests.any() and (best is None or distance[tests].min() < best[0]):
            least = float(distance[tests].min())
            best = least, source, runs[tests & (distance <= least + 1e-9)]
    if best is None:
        return Score(on_record=record, table=state, waiting=_why_not(record, tables))
    _, source, nearest = best
    N, D = float(nearest["N"].iloc[0]), float(nearest["D"].iloc[0])
    nearest = nearest[(nearest["N"] == N) & (nearest["D"] == D)]
    return Score(
        on_record=record,
        table=state,
        runs=len(nearest),
        N=N,
        D=D,
        measured=float(np.exp(np.log(nearest["L"].to_numpy(float)).mean())),
        predicted=record.predict(N, D),
        source=source,
    )


def _distance(runs: pd.DataFrame, values: Mapping[str, Any]) -> pd.Series:
    """Return how far rows lie from the prediction: the distance in ln N and ln D."""
    off = [np.log(runs[name] / values[name]) for name in ("N", "D")]
    return np.hypot(off[0], off[1])


def _tests(record: PlanRecord, runs: pd.DataFrame) -> pd.Series:
    """Return which rows test a record."""
    values = record.values
    near = is_near(runs, values["N"], values["D"], values["within"])
    near &= _same_text(record, runs)
    fitted = set(values["table"]["near"])
    if fitted and near.any():
        near[near] = [row not in fitted for row in row_hashes(runs[near])]
    return near


def _same_text(record: PlanRecord, runs: pd.DataFrame) -> pd.Series:
    """Return which rows have losses on the same text and tokens, as far as this is known."""
    same = pd.Series(True, runs.index)
    for name, value in record.values["table"]["text"].items():
        if name in runs.columns:
            same &= runs[name].isna() | (runs[name].astype(str) == str(value))
    return same


def _why_not(record: PlanRecord, tables: Mapping[str, pd.DataFrame]) -> str:
    """Return why no run tests a record, with the nearest that does not."""
    values = record.values
    within = f"no run has its N and its D within a factor of {values['within']:g} of the predicted"
    runs = pd.concat([t[["N", "D", "L"]][_same_text(record, t)] for t in tables.values()])
    if runs.empty:
        return "no run has the loss of the same text"
    if is_near(runs, values["N"], values["D"], values["within"]).any():
        return "all runs near it are among those that it was predicted from"
    nearest = runs.iloc[int(np.argmin(_distance(runs, values)))]
    off = {name: float(nearest[name]) / values[name] for name in ("N", "D")}
    words = " and ".join(
        f"{times(max(x, 1 / x))} times {'more' if x > 1 else 'fewer'} {what}"
        for what, x in (("parameters", off["N"]), ("tokens", off["D"]))
        if max(x, 1 / x) > 1.05
    )
    size = (
        f"{units.count(float(nearest['N']))} parameters, {units.count(float(nearest['D']))} tokens"
    )
    return f"{within}; the nearest ({size}) has {words}"


def _state(record: PlanRecord) -> TableState:
    """Return whether the rows behind a record are still the same."""
    table = record.values["table"]
    folder = record.path.parent.parent
    sources = [str(folder / source) for source in table["sources"]]
    try:
        runs = _runs(sources[0] if len(sources) == 1 else sources, table["selection"])
    except (TableError, ConfigError, OSError, TypeError):
        return "not found"
    return "unchanged" if content_hash(runs) == table.get("sha256") else "changed"


def _names(laws: Mapping[str, Any]) -> str:
    carry = [name for name, law in laws.items() if law.get("weight")]
    return ", ".join(carry) or "no law"
