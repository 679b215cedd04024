"""Forecasts of runs: the values, and how they are shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.curves.departure import OffLaw
from analysis.in_words import aligned
from scaling.jsonable import finite
from scaling.units import clock, si

if TYPE_CHECKING:
    from analysis.curves.predictor import Predictor
    from analysis.curves.run_curve import RunCurves


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The final loss of one run that has not finished."""

    run: str
    status: str
    """running, cut off (it has begun and does not train now), planned, stopped, failed or diverged;
    ok for a finished run, whose loss is the measured one."""
    loss: float
    """Median of the final loss [nats/token]; nan for a diverged run."""
    low: float
    high: float
    level: float
    """Confidence level of the interval [low, high]."""
    steps: int
    """Steps of the whole run."""
    steps_left: int
    seconds_left: float | None
    flops_left: float | None
    p_best: float
    """Probability that its final loss is below that of the best finished run; nan without one."""
    off_law: OffLaw | None
    """Where and how it left the law, if it did; the forecast then only holds if it returns."""
    points: int
    """Evaluations after the warm-up that the forecast rests on; with none, it is the law's."""
    N: float | None = None
    D: float | None = None

    def record(self) -> dict[str, Any]:
        """Return the values as plain JSON."""
        off = self.off_law
        values = {name: value for name, value in vars(self).items() if name != "off_law"}
        values["off_law"] = None if off is None else vars(off)
        return finite(values)


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """The forecasts of the runs of a results folder or a table, as :func:`forecast` returns them.

    They can be iterated over, and printing them gives a table.
    """

    runs: Sequence[Forecast]
    source: str
    level: float
    law: str
    """The law, and what it is fitted to."""
    best: tuple[str, float] | None
    """The best finished run and its loss."""
    notes: Sequence[str] = ()
    curves: RunCurves = field(repr=False)
    predictor: Predictor | None = field(default=None, repr=False)
    """The fitted law; None if no run is unfinished."""

    def __iter__(self) -> Iterator[Forecast]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, run: str | int) -> Forecast:
        """Return a run's forecast by its name or the beginning of it, or by its place."""
        if isinstance(run, int):
            return self.runs[run]
        found = [f for f in self.runs if f.run == run] or [
            f for f in self.runs if f.run.startswith(run)
        ]
        if len(found) != 1:
            names = ", ".join(f.run for f in self.runs)
            raise KeyError(f"{run!r} is the name of {len(found)} runs; there are {names}")
        return found[0]

    @property
    def table(self) -> pd.DataFrame:
        """One row per run."""
        return pd.DataFrame(self.record())

    def record(self) -> list[dict[str, Any]]:
        """Return one entry per run as plain JSON."""
        return [each.record() for each in self.runs]

    def __str__(self) -> str:
        lines = [f"{self.source}: {self._counts()}"]
        if self.law:
            lines.append(f"law: {self.law}")
        if self.runs:
            table = [_HEAD(self.level), *map(_cells, self.runs)]
            lines += ["", *aligned(table, left={0, 1, len(table[0]) - 1}), ""]
        if self.best is not None:
            lines.append(f"best finished run: {self.best[0]}, loss {self.best[1]:.4f}")
        for each in self.runs:
            if each.off_law is not None:
                lines.append(f"{each.run}: off the law: {each.off_law}; {_ADVICE}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [_HEAD(self.level), *map(_cells, self.runs)]
        cells = "".join(
            "<tr>" + "".join(f"<{tag}>{_escaped(cell)}</{tag}>" for cell in row) + "</tr>"
            for tag, row in zip(["th"] + ["td"] * len(self.runs), rows, strict=True)
        )
        return f"<p>{_escaped(self._counts())}; law: {_escaped(self.law)}</p><table>{cells}</table>"

    def _counts(self) -> str:
        states: dict[str, int] = {}
        for each in self.curves.unfinished:
            states[each.status] = states.get(each.status, 0) + 1
        done = len(self.curves.finished)
        if not states:
            return f"all {done} runs have finished; nothing to forecast"
        listed = ", ".join(f"{n} {state}" for state, n in states.items())
        return f"{listed}; {done} finished"


_ADVICE = "its forecast holds only if it returns to it"


def _HEAD(level: float) -> list[str]:
    return ["run", "status", "steps left", "loss", f"{100 * level:g}% interval", "time left",
            "FLOPs left", "P(best)", "off the law"]  # fmt: skip


def _cells(f: Forecast) -> list[str]:
    known = math.isfinite(f.loss)
    off = f.off_law
    return [
        f.run,
        f.status,
        f"{f.steps_left:,} of {f.steps:,}",
        f"{f.loss:.4f}" if known else "-",
        f"{f.low:.4f} to {f.high:.4f}" if known and f.high > f.low else "-",
        "-" if f.seconds_left is None else clock(f.seconds_left),
        "-" if f.flops_left is None else si(f.flops_left),
        "-" if not math.isfinite(f.p_best) else f"{f.p_best:.2f}",
        "" if off is None else f"{off.kind}, step {off.step:,}",
    ]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
