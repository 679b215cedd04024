"""What a sweep has left to do, and what that takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from scaling import schema, size
from scaling.config import RunConfig
from scaling.training.pack_key import pack_key
from scaling.units import clock, si
from sweeps import packing
from sweeps.budget import flops
from sweeps.costs import Costs
from sweeps.measure import OTHER_PRECISION
from sweeps.queue import Job

_PRECISION_GAINS = 0.1
"""Steps in the other precision must be shorter by this part to be spoken of."""

_LONGEST_SECONDS = 1e9
"""The longest estimate for which an end is shown (about 30 years)."""


@dataclass(frozen=True)
class Plan:
    """What a sweep has left to do."""

    runs: dict[str, RunConfig]
    """{run_id: run}: all of the spec."""
    finished: dict[str, str]
    """{run_id: status} of those that need no training."""
    missing: dict[str, RunConfig]
    """{run_id: run}, dearest first."""
    jobs: list[Job]
    """What the missing runs are trained in: alone, in packs, as trunks with branches."""
    seconds: dict[str, float]
    """{run_id: estimated seconds on one worker} of the missing ones; of a job, the run's share."""
    costs: Costs
    workers: int
    """That will run: no more than there are jobs."""
    price: float | None = None
    """Dollars an hour of wall clock."""
    grows: bool = False
    """More runs follow from the results of these: the spec has [until]."""
    said: tuple[str, ...] = ()
    """Where the searches of [until] stand, a line each."""
    again: frozenset[str] = frozenset()
    """Those of the missing runs that were stopped early, and are asked for to their end."""

    @property
    def tokens(self) -> int:
        """Training tokens to process."""
        return sum(run.D for run in self.missing.values())

    @property
    def flops(self) -> float:
        """Training FLOPs to spend, 6 N D."""
        return sum(flops(run) for run in self.missing.values())

    @property
    def wall_seconds(self) -> float:
        """Estimated wall clock: longest first, each job to the worker that is free first."""
        return packing.makespan((job.seconds for job in self.jobs), self.workers)

    def __str__(self) -> str:
        states = list(self.finished.values())
        counts = [f"{len(states)} finished"] if states else []
        for status in schema.STATUSES[1:]:
            if status in states:
                counts.append(f"{states.count(status)} of them {status}")
        lines = [
            f"{len(self.runs)} runs: {', '.join([*counts, f'{len(self.missing)} to train'])}",
        ]
        lines += self.said
        if not self.missing:
            return "\n".join(lines)
        sizes: dict[int, dict[str, RunConfig]] = {}
        for run_id, run in self.missing.items():
            N = size.parameters(run.model, run.data.vocab_size).N
            sizes.setdefault(N, {})[run_id] = run
        lines.append(
            f"{'N':>8}  {'shape':<22} {'runs':>5}  {'D [tokens]':<15} {'FLOPs':>8} {'time':>7}"
        )
        for N, by_id in sorted(sizes.items()):
            runs = list(by_id.values())
            shapes = {
                f"{r.model.n_layer} x {r.model.d_model}, {r.model.n_head} heads" for r in runs
            }
            D = sorted({run.D for run in runs})
            span = si(D[0]) if len(D) == 1 else f"{si(D[0])} .. {si(D[-1])}"
            seconds = sum(self.seconds[run_id] for run_id in by_id)
            shape = shapes.pop() if len(shapes) == 1 else f"{len(shapes)} shapes"
            total = si(sum(map(flops, runs)))
            lines.append(
                f"{si(N):>8}  {shape:<22} {len(runs):>5}  {span:<15} {total:>8} {clock(seconds):>7}"
            )
        samples = self.costs.speed.samples
        ground = {0: "a guess: nothing measured on this machine"}.get(
            samples, f"from {samples} measurements"
        )
        lines += [*self._packs(), *self.precisions()]
        early = f"{len(self.again)} of these were stopped early and are trained to the end"
        lines += [early] if self.again else []
        lines += ["more runs follow from the results of these ([until])"] if self.grows else []
        lines.append(
            f"total {si(self.flops, 'FLOPs')}, {si(self.tokens, ' tokens')}; about "
            f"{clock(self.wall_seconds)} {on_workers(self.workers)} ({ground}){self._end()}"
        )
        return "\n".join(lines)

    def _packs(self) -> list[str]:
        """What is compiled, and the jobs of several runs, each in one line; none where there are none."""
        compiled = sum(len(job.runs) for job in self.jobs if job.compile)
        lines = [f"{compiled} runs compiled, which was measured to be faster"] if compiled else []
        packed = [job for job in self.jobs if len(job.runs) > 1]
        if not packed:
            return lines
        runs = sum(len(job.runs) for job in packed)
        widest = max(job.slots for job in packed)
        trained = sum(map(packing.tokens, self.jobs))
        saved = f", {100 * (1 - trained / self.tokens):.0f}% of the tokens in common trunks"
        return [
            *lines,
            f"{len(self.jobs)} jobs: {runs} runs in {len(packed)} packs of up to {widest} at once"
            f"{saved if trained < self.tokens else ''}",
        ]

    def precisions(self) -> list[str]:
        """What the other precision would save, a line each, where that was measured to be much."""
        gains = {key for key, ratio in self.costs.other.items() if ratio < 1 - _PRECISION_GAINS}
        found: dict[str, list[tuple[float, float]]] = {}
        for run_id, run in self.missing.items() if gains else ():
            if (key := pack_key(run)) in gains:
                each = found.setdefault(run.precision, [])
                each.append((self.seconds[run_id], self.costs.other[key]))
        lines = []
        for precision, each in found.items():
            other = OTHER_PRECISION[precision]
            part = sum(s * ratio for s, ratio in each) / sum(s for s, _ in each)
            lines.append(
                f'precision = "{other}" would be faster for {len(each)} runs: a step of one alone, uncompiled, '
                f"takes {part:.2f} of its time in {precision} here"
            )
        return lines

    def _end(self) -> str:
        """When it would be done if it began now, and what that costs."""
        if self.wall_seconds > _LONGEST_SECONDS:
            return ""
        end = time.strftime("%a %H:%M", time.localtime(time.time() + self.wall_seconds))
        cost = (
            "" if self.price is None else f", {self.price * self.wall_seconds / 3600:.2f} dollars"
        )
        return f"; done by {end} if begun now{cost}"


def shares(jobs: list[Job]) -> dict[str, float]:
    """{run_id: its share of the estimated seconds of its job}."""
    return {
        run.run_id: job.seconds * run.D / sum(other.D for other in job.runs)
        for job in jobs
        for run in job.runs
    }


def on_workers(number: int, word: str = "with") -> str:
    return f"{word} {number} worker{'' if number == 1 else 's'}"
