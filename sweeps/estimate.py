"""The time that a sweep still takes. The sweep itself and `scaling status` show the same estimate.

The driver records the seconds of the missing runs, corrected by the observed pace, in the results
folder; status reads them there. Imports neither ray nor torch.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling import files
from sweeps.folder import Folder
from sweeps.packing import makespan
from sweeps.result import to_json

FILE = ".estimate.json"
"""Name of the recorded estimate in a results folder."""

_LEAST_SECONDS = 1.0
"""A sweep with missing runs is never said to take less than this."""

_PRIOR_SECONDS = 10.0
"""Weight of the estimate before training, in seconds of one worker: as much observed time counts
as much."""

_KEY_PRIOR_SECONDS = 20.0
"""Weight of the pace of all runs against that of the runs of one pack key."""

_HALF_LIFE_SECONDS = 300.0
"""Age at which an observation counts half, because the load of a shared machine changes."""

_LONGEST_SECONDS = 1e12
_MAX_WORKERS = 10**6


def seconds_left(
    jobs: Iterable[Mapping[str, float]], done: Mapping[str, float], workers: int
) -> float:
    """Return the wall-clock seconds that unfinished runs take.

    `jobs` are {run_id: seconds on one worker} of runs that train on one worker, and `done` is the
    fraction of each run that is trained. The result is 0 only if there are no runs.
    """
    left = [
        sum(seconds * (1 - done.get(run_id, 0.0)) for run_id, seconds in job.items())
        for job in jobs
        if job
    ]
    return max(_LEAST_SECONDS, makespan(left, max(1, workers))) if left else 0.0


class Pace:
    """Observed seconds per estimated second of training, over all runs and by pack key."""

    def __init__(self) -> None:
        self._all = _Sums()
        self._by_key: dict[Hashable, _Sums] = {}

    def observe(
        self,
        seconds: float,
        work: float,
        by_key: Mapping[Hashable, tuple[float, float]],
        *,
        elapsed: float,
    ) -> None:
        """Add the last `elapsed` seconds of the wall clock.

        seconds: seconds of all workers in this time.
        work: what they trained, in estimated seconds of one worker.
        by_key: the same two numbers for each pack key.
        """
        kept = 0.5 ** (elapsed / _HALF_LIFE_SECONDS)
        for sums in (self._all, *self._by_key.values()):
            sums.seconds *= kept
            sums.work *= kept
        self._all.add(seconds, work)
        for key, numbers in by_key.items():
            self._by_key.setdefault(key, _Sums()).add(*numbers)

    def factor(self, key: Hashable = None) -> float:
        """Return the factor that corrects an estimate for a run of this pack key."""
        overall = self._all.ratio(_PRIOR_SECONDS, 1.0)
        sums = self._by_key.get(key)
        return overall if sums is None else sums.ratio(_KEY_PRIOR_SECONDS, overall)


@dataclass
class _Sums:
    """Sums of observations."""

    seconds: float = 0.0
    work: float = 0.0

    def add(self, seconds: float, work: float) -> None:
        self.seconds += seconds
        self.work += work

    def ratio(self, prior: float, expected: float) -> float:
        """Return seconds per work, drawn towards `expected` by `prior` seconds of observation."""
        return (self.seconds + prior) / (self.work + prior / expected)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the driver of a sweep records about the runs that are missing."""

    workers: int
    jobs: Sequence[Mapping[str, float]]
    """{run_id: seconds on one worker} of each job; the whole run counts."""
    state: str = ""
    """What the driver does other than train, such as 'stopping'."""

    def write(self, folder: Folder) -> None:
        """Record the estimate. Never fails, because no result depends on it."""
        values = {"time": time.time(), **vars(self)}
        path = folder.folder / FILE
        with contextlib.suppress(OSError, ValueError):
            files.check_inside(path, folder.folder)
            files.write_atomic(path, to_json(values), sync=False)


def recorded(folder: Folder) -> Estimate | None:
    """Return the estimate in a results folder; None if there is none that can be used."""
    values = folder.read_object(folder.folder / FILE) or {}
    workers, jobs, state = values.get("workers"), values.get("jobs"), values.get("state", "")
    if type(workers) is not int or not 1 <= workers <= _MAX_WORKERS or not isinstance(jobs, list):
        return None
    plausible = all(isinstance(job, dict) and all(map(_plausible, job.values())) for job in jobs)
    if not plausible or not isinstance(state, str):
        return None
    return Estimate(workers=workers, jobs=jobs, state=state)


def remove(folder: Folder) -> None:
    """Remove the recorded estimate."""
    with contextlib.suppress(OSError):
        (folder.folder / FILE).unlink()


def _plausible(seconds: Any) -> bool:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return is_number and math.isfinite(seconds) and 0 <= seconds < _LONGEST_SECONDS
