"""The learning rates of one run, from its config, from logged rows or from knots."""

from __future__ import annotations

import itertools
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import TableError

if TYPE_CHECKING:
    from scaling.config import RunConfig

TOLERANCE = 1e-5
"""Largest error of a linear piece of a config's schedule, relative to the peak."""

GRID = 2049
"""Number of steps of a schedule that are looked at before its pieces are halved."""

_SAME = 1e-9
"""Relative difference below which two learning rates are equal."""


@dataclass(frozen=True, eq=False)
class Rates:
    """Learning rates of one run, linear between knots.

    Steps are counted from 1; the rate at step 0 is where the first change starts from (0 with
    warm-up). A jump is two knots on neighbouring steps. After the last knot the rate is constant.
    """

    steps: np.ndarray
    """Increasing whole step numbers that start at 0."""
    lr: np.ndarray
    """The learning rate at each of them."""
    warmup: int = 0
    """Step of the last knot of the warm-up."""
    _sums: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        steps = np.asarray(self.steps, float)
        lr = np.asarray(self.lr, float)
        if steps.ndim != 1 or steps.shape != lr.shape or not len(steps):
            raise TableError("a schedule needs one learning rate for each of its steps.")
        if not np.isfinite(lr).all() or (lr < 0).any():
            bad = lr[~(np.isfinite(lr) & (lr >= 0))][0]
            raise TableError(f"a learning rate is {bad:g}; it must be finite and 0 or more.")
        if not (np.isfinite(steps).all() and (steps == np.round(steps)).all()):
            bad = steps[~(np.isfinite(steps) & (steps == np.round(steps)))][0]
            raise TableError(f"a step is {bad:g}; steps must be whole numbers.")
        if (np.diff(steps) <= 0).any() or steps[0] < 0:
            raise TableError("the steps of a schedule must increase, starting from 0 or later.")
        if steps[0] > 0:
            steps, lr = np.concatenate([[0.0], steps]), np.concatenate([lr[:1], lr])
        h = np.diff(steps)
        sums = np.concatenate(
            [[0.0], np.cumsum(h * (lr[:-1] + lr[1:]) / 2 + (lr[1:] - lr[:-1]) / 2)]
        )
        for name, value in (("steps", steps), ("lr", lr), ("_sums", sums)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @classmethod
    def from_knots(cls, steps: Any, lr: Any, warmup: int = 0) -> Rates:
        """Return the rates that are linear between knots; knots on a line are left out."""
        steps, lr = np.asarray(steps, float), np.asarray(lr, float)
        kept = _corners(steps, lr)
        return cls(steps[kept], lr[kept], warmup)

    @classmethod
    def from_logged(
        cls, step: Any, lr: Any, warmup: int | None = None, peak: float | None = None
    ) -> Rates:
        """Return the rates of a run whose learning rate was logged at some steps.

        Between two logged rows the rate is linear, with two exceptions. If it is constant before
        and after a pair of rows that differ, it jumps at the second of them, the first row that
        shows the new rate. If it is constant before the pair and changes after it, the change
        starts where the later decay, continued backwards, meets the constant.

        step: Steps of the logged rows, increasing.
        lr: Learning rate of each of these steps.
        warmup: Number of steps of linear warm-up from 0; the last of them has the peak. It is
            used where rows begin later. None: the warm-up is what was logged of it, and the
            rate before the first row is constant if none was.
        peak: Learning rate at the end of the warm-up; by default, that of the first row
            after it.
        """
        step, lr = np.asarray(step, float), np.asarray(lr, float)
        steps, rates = _between(step, lr)
        end = 0
        if warmup is None and (top := _logged_warmup(steps, rates)):
            start = np.array([0.0]) if steps[0] > 0 else np.empty(0)
            steps, rates, end = np.r_[start, steps], np.r_[start, rates], int(steps[top])
        if warmup and (end := max(int(warmup) - 1, 1)):
            # Rows of the warm-up itself are kept; the line from 0 leads to the first row.
            later = rates[steps >= end]
            top = peak if peak is not None else (later[0] if len(later) else rates[-1])
            if steps[0] > end:
                steps, rates = np.r_[0.0, end, steps], np.r_[0.0, top, rates]
            elif steps[0] > 0:
                steps, rates = np.r_[0.0, steps], np.r_[0.0, rates]
        return cls.from_knots(steps, rates, end)

    @classmethod
    def from_config(cls, run: RunConfig) -> Rates:
        """Return the rates of a run of this package, by its schedule and its peak.

        Pieces are as long as they can be without an error of more than TOLERANCE of the peak.
        """
        from scaling.training.schedule import peaks, schedule, warmup_steps

        return cls.from_function(
            lambda s: schedule(run, s - 1), run.S, peak=peaks(run)[0], warmup=warmup_steps(run)
        )

    @classmethod
    def from_function(
        cls, relative: Callable[[int], float], steps: int, *, peak: float = 1.0, warmup: int = 0
    ) -> Rates:
        """Return the rates peak * relative(step) of steps 1 to `steps`, as linear pieces."""
        known: dict[int, float] = {}

        def at(s: int) -> float:
            if s not in known:
                known[s] = float(relative(s))
            return known[s]

        grid = np.unique(np.round(np.linspace(1, steps, min(steps, GRID))).astype(int)).tolist()
        knots = _merged(at, [*_refined(at, grid), grid[-1]])
        lr = [peak * at(s) for s in knots]
        return cls.from_knots([0, *knots], [0.0 if warmup else lr[0], *lr], warmup)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Rates:
        """Return the rates of one row of ``runs.csv``, by its config columns."""
        return cls.from_config(config_of(row))

    @property
    def peak(self) -> float:
        """The largest learning rate."""
        return float(self.lr.max())

    def at(self, step: Any) -> np.ndarray:
        """Return the learning rate at each step."""
        return np.interp(np.asarray(step, float), self.steps, self.lr)

    def cumulative(self, step: Any) -> np.ndarray:
        """Return S1, the sum of the learning rates of steps 1 to `step`."""
        step = np.asarray(step, float)
        i = np.clip(np.searchsorted(self.steps, step, side="right") - 1, 0, len(self.steps) - 1)
        t = step - self.steps[i]
        return self._sums[i] + t * self.lr[i] + self._slopes[i] * t * (t + 1) / 2

    @property
    def _slopes(self) -> np.ndarray:
        """Change per step after each knot; 0 after the last."""
        return np.append(np.diff(self.lr) / np.diff(self.steps), 0.0)

    def pieces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return (start, end, lr at the start, change per step) of the pieces that change."""
        slope = self._slopes[:-1]
        changing = np.flatnonzero(slope)
        return (
            self.steps[changing],
            self.steps[changing + 1],
            self.lr[changing],
            slope[changing],
        )


def config_of(row: Mapping[str, Any]) -> RunConfig:
    """Return the config of a row of ``runs.csv``; D and B stand for tokens and batch_tokens."""
    from scaling.config import fields_of, from_dict

    values = {}
    for key, (hint, _) in fields_of().items():
        name = {"tokens": "D", "batch_tokens": "B"}.get(key, key.rpartition(".")[2])
        if name not in row:
            continue
        value = row[name]
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, float) and math.isnan(value):
            value = None
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if value is not None or type(None) in typing.get_args(hint):
            values[key] = value
    return from_dict(values, where="a row of runs")


def _refined(at: Callable[[int], float], grid: list[int]) -> Iterator[int]:
    """Return the starts of linear pieces: intervals are halved until a line fits them."""
    for start, end in itertools.pairwise(grid):
        yield from _halved(at, start, end)


def _merged(at: Callable[[int], float], knots: list[int]) -> list[int]:
    """Return the knots without those that are not needed to stay within TOLERANCE."""
    kept, place = [knots[0]], np.array(knots, float)
    value = np.array([at(s) for s in knots])
    i = 0
    while i < len(knots) - 1:
        # Double the length of the piece while it fits, then halve the last doubling.
        best, reach = i + 1, 1
        while reach >= 1:
            j = min(best + reach, len(knots) - 1)
            line = np.interp(place[i : j + 1], place[[i, j]], value[[i, j]])
            if j > best and np.abs(line - value[i : j + 1]).max() <= TOLERANCE:
                best, reach = j, reach * 2
            else:
                reach //= 2
        kept.append(knots[best])
        i = best
    return kept


def _halved(at: Callable[[int], float], start: int, end: int) -> Iterator[int]:
    """Return the starts of linear pieces between two steps of the grid."""
    stack = [(start, end)]
    while stack:
        a, b = stack.pop()
        inside = sorted({a + (b - a) * i // 4 for i in (1, 2, 3)} - {a, b})
        line = np.interp(inside, [a, b], [at(a), at(b)])
        if all(abs(at(s) - x) <= TOLERANCE for s, x in zip(inside, line, strict=True)):
            yield a
        else:
            middle = (a + b) // 2
            stack += [(middle, b), (a, middle)]


def _logged_warmup(steps: np.ndarray, lr: np.ndarray) -> int:
    """Return the index of the row where a logged warm-up ends; 0 if rows begin after it."""
    rises = np.diff(lr) > 0
    end = len(rises) if rises.all() else int(np.argmin(rises))
    return end if end and lr[0] < 0.9 * lr[end] and steps[0] < steps[end] else 0


def _corners(steps: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """Return which knots are needed: the ends, and those where the slope changes."""
    if len(steps) < 3:
        return np.ones(len(steps), bool)
    slope = np.diff(lr) / np.diff(steps)
    shorter = np.minimum(np.diff(steps)[:-1], np.diff(steps)[1:])
    bent = np.abs(np.diff(slope)) * shorter > 1e-12 * lr.max()
    return np.concatenate([[True], bent, [True]])


def _between(step: np.ndarray, lr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logged rows with the knots that lie between them."""
    steps, rates = [step[:1]], [lr[:1]]
    same = np.abs(np.diff(lr)) <= _SAME * np.maximum(lr[:-1], lr[1:])
    for i in range(len(step) - 1):
        flat_after = same[i + 1] if i + 2 < len(step) else True
        flat_before = same[i - 1] if i else flat_after
        if not same[i] and flat_before and step[i + 1] - step[i] > 1:
            start = step[i + 1] - 1
            if not flat_after:
                start = _start_of_decay(step[i : i + 4], lr[i : i + 4])
            if step[i] < start < step[i + 1]:
                steps.append(np.array([start]))
                rates.append(lr[i : i + 1])
        steps.append(step[i + 1 : i + 2])
        rates.append(lr[i + 1 : i + 2])
    return np.concatenate(steps), np.concatenate(rates)


def _start_of_decay(step: np.ndarray, lr: np.ndarray) -> float:
    """Return the step between the first two rows where the change of the later rows starts.

    The change is continued backwards geometrically if that meets a fourth row better than a
    straight line does.
    """
    apart = step[2] - step[1]
    slope = (lr[2] - lr[1]) / apart
    linear = step[1] + (lr[0] - lr[1]) / slope
    if len(step) < 4 or (lr <= 0).any():
        return float(np.round(linear))
    log_slope = np.log(lr[2] / lr[1]) / apart
    ahead = step[3] - step[2]
    off_line = abs(lr[2] + slope * ahead - lr[3])
    off_power = abs(lr[2] * np.exp(log_slope * ahead) - lr[3])
    geometric = step[1] + np.log(lr[0] / lr[1]) / log_slope
    return float(np.round(geometric if off_power < off_line else linear))
