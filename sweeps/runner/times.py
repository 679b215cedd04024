"""The time that the commands of a sweep still take, as they finish and report their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scaling import size
from scaling.command_run import CommandRun
from sweeps.runner.speed import CommandSpeed, Sample

_OVERDUE = 0.1
"""A run is expected to take at least this fraction of the time since its last report, or since its
start, even if it has taken longer than estimated."""


@dataclass
class _UnderWay:
    """What was seen of a run that a worker executes."""

    run: CommandRun
    began: float
    first: tuple[float, float] | None = None
    """(fraction, time) at the first step that was reported."""
    last: tuple[float, float] = (0.0, 0.0)
    """The same at the last one; fraction 0 and the start if there is none."""


class CommandTimes:
    """Watches the commands of a sweep."""

    def __init__(self, speed: CommandSpeed) -> None:
        """`speed` is what is known before the sweep."""
        self._finished = list(speed.measured)
        self._under_way: dict[str, _UnderWay] = {}
        self.speed = speed

    def ended(self, run: CommandRun, seconds: float) -> None:
        """Take note of a run that has finished well in this time."""
        if seconds > 0:
            self._finished.append(Sample(1, float(run.D), size.flops_of(run), seconds))

    def observe(self, running: Mapping[str, CommandRun], done: Mapping[str, float], now: float):
        """Take note of the runs that are executed now, and of the fraction done of each."""
        self._under_way = {
            run_id: self._under_way.get(run_id) or _UnderWay(run, now, last=(0.0, now))
            for run_id, run in running.items()
        }
        for run_id, seen in self._under_way.items():
            if done[run_id] != seen.last[0]:
                seen.last = done[run_id], now
                seen.first = seen.first or seen.last
        self.speed = CommandSpeed([*self._finished, *self._parts()])

    def seconds_left(self, run: CommandRun, now: float) -> float:
        """Return the expected seconds that a run still takes."""
        whole = self.speed.seconds(run)
        if (seen := self._under_way.get(run.run_id)) is None:
            return whole
        part, since = seen.last
        return max(whole * (1 - part) - (now - since), _OVERDUE * (now - since))

    def _parts(self) -> list[Sample]:
        """Return the measurements that the reports of runs under way make."""
        samples = []
        for seen in self._under_way.values():
            (before, start), (part, end) = seen.first or seen.last, seen.last
            if (part := part - before) > 0 and end > start:
                D, C = part * seen.run.D, part * size.flops_of(seen.run)
                samples.append(Sample(part, D, C, end - start))
        return samples
