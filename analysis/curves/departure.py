"""Whether and where a run leaves the law of its curve: a sequential test.

The law and the noise of the finished runs predict each loss of a run from the ones before it. The
standardised errors of these predictions, the innovations, are independent with variance one as long
as the run follows the law. Two cumulative sums (CUSUM: Page 1954, Biometrika 41), of losses that
are too high and of those that are too low, raise an alarm when they pass a threshold. Siegmund's
approximation of their run length (1985, Sequential Analysis, eq. 2.57) sets it to a rate of false
alarms for the whole curve. A sum counts at most :data:`_LARGEST` standard deviations of one point,
so that one bad evaluation is no alarm.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

FALSE_ALARMS = 0.01
"""Rate of false alarms per curve, if innovations are normal."""
_SLACK = 0.5
"""Standard deviations per point that do not count, half of the shift that is found fastest."""
_LARGEST = 4.0
"""Most standard deviations that one point counts."""
_SHIFT = 6.0
"""Standard deviations of one point that are a jump, if the points after it stay there."""
_LEVEL = 0.5
"""The part of a jump that the points after it keep at least."""
_STAYS = 3
"""Points after a jump that are looked at."""
_NEAR_START = 0.1
"""A run that leaves the law within this part of its points never followed it."""
_RISES = 2.0
"""Standard deviations by which the last losses exceed earlier ones if a run diverges."""


@dataclass(frozen=True)
class OffLaw:
    """Where and how a run left the law."""

    step: int
    """The step after which its losses are not those of the law."""
    kind: str
    """'diverging', 'jump' (such as other data) or 'another recipe' (another learning rate, batch
    or data from the start, or a drift)."""
    size: float
    """Mean relative difference of its losses from the law since then."""

    def __str__(self) -> str:
        return f"{self.kind} since step {self.step} ({100 * self.size:+.1f}%)"


@functools.lru_cache(maxsize=4096)
def threshold(points: int, false_alarms: float = FALSE_ALARMS) -> float:
    """Return the height of either sum that raises an alarm in a curve of `points` points."""
    wanted = -2 * max(points, 1) / math.log1p(-false_alarms)
    """Mean number of points until a false alarm of one of the two sums."""
    low, high = 0.0, 60.0
    for _ in range(60):
        h = (low + high) / 2
        b = h + 1.166
        length = (math.exp(2 * _SLACK * b) - 1 - 2 * _SLACK * b) / (2 * _SLACK**2)
        low, high = (h, high) if length < wanted else (low, h)
    return high


def departure(
    step: np.ndarray,
    loss: np.ndarray,
    law: np.ndarray,
    innovations: np.ndarray,
    false_alarms: float = FALSE_ALARMS,
) -> OffLaw | None:
    """Return where a run left the law; None if it follows it.

    step, loss: the run's points; law: the law's losses there; innovations: the standardised errors
    of predicting ln(loss) of each point from those before it.
    """
    n = len(step)
    if not n:
        return None
    start = _alarm(innovations, threshold(n, false_alarms))
    residual = np.log(loss) - np.log(law)
    jump = _jump(innovations, residual)
    if start is None and jump is None:
        return None
    jumps = jump is not None and (start is None or jump <= start + _STAYS)
    first = jump if jumps and jump is not None else start
    assert first is not None
    since = residual[first:]
    before = residual[:first]
    base = float(np.median(before)) if len(before) else 0.0
    kind = "jump" if jumps and first > _NEAR_START * n else "another recipe"
    if _diverges(loss[first:], since):
        kind = "diverging"
    return OffLaw(
        step=int(step[first - 1] if first else step[0]),
        kind=kind,
        size=float(np.expm1(np.mean(since) - (base if kind != "another recipe" else 0.0))),
    )


def _alarm(z: np.ndarray, height: float) -> int | None:
    """Return the first point of the excursion with which one of the sums passes the height."""
    for sign in (1.0, -1.0):
        total, begin = 0.0, 0
        for i, value in enumerate(np.clip(sign * z, -_LARGEST, _LARGEST)):
            if total <= 0:
                begin = i
            total = max(0.0, total + value - _SLACK)
            if total > height:
                return begin
    return None


def _jump(z: np.ndarray, residual: np.ndarray) -> int | None:
    """Return the first point of a jump to another level."""
    for i in np.flatnonzero(np.abs(z) > _SHIFT):
        after = residual[i + 1 : i + 1 + _STAYS]
        before = residual[max(0, i - _STAYS) : i]
        level = np.median(before) if len(before) else 0.0
        height = residual[i] - level
        if ((after - level) / height > _LEVEL).all():
            return int(i)
    return None


def _diverges(loss: np.ndarray, residual: np.ndarray) -> bool:
    """Return whether the loss rises since a run left the law, more than it varies."""
    if len(loss) < 3:
        return False
    at = np.arange(len(loss))
    noise = float(np.std(np.diff(np.log(loss)))) / math.sqrt(2) + 1e-12
    tail = max(3, len(loss) // 2)
    slope = np.polyfit(at[-tail:], np.log(loss[-tail:]), 1)[0]
    rise = slope * (tail - 1)
    return rise > _RISES * noise / math.sqrt(tail) and rise > 0 and residual[-1] > residual[0]
