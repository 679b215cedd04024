"""Arms that cannot win are stopped early: asynchronous successive halving (Li et al. 2020, arXiv
1810.05934), in the variant that stops arms instead of pausing them, as Ray Tune's
AsyncHyperBandScheduler does.

The runs of a search that differ in their learning rate alone are the arms of one family: they have
one horizon and are measured at the same steps, so that their curves compare. At two rungs, a quarter
and half of the horizon (:func:`rungs`), an arm goes on if its held-out loss is among the best 1/eta
of the arms that have come so far by then (:func:`verdict`). It differs from the paper in what
it does with few arms, of which a search by bracketing has only three to a dozen: nobody is stopped
before eta arms have come to a rung, nor unless one that is better there has finished or is under
way: the best arm at a rung goes on, and what stopped arms were stopped for is alive. Where
curves do not cross the search, which asks for no more than which arm is best, takes the same path as
without; where they do, a late winner may be lost. Large learning rates look worse before they decay than
they end, most of all under wsd, whose decay comes last: the smaller eta, the less is decided before.

Sizes at one budget (isoFLOP) are not compared so: after a quarter of their budgets the best size is
that of a quarter of the budget, half as large (N_opt grows as C^0.5: Hoffmann et al. 2022), which is
more than such a search is to resolve.

Imports nothing heavy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scaling.config import RunConfig
from scaling.training.schedule import evaluation_steps, warmup_steps

_PARTS = (1 / 4, 1 / 2)
"""Of the horizon: where arms are compared."""


@dataclass
class Arm:
    """What is known of an arm."""

    passed: dict[int, tuple[float, bool | None]] = field(default_factory=dict)
    """{S: (L, whether it went on)} at the rungs that it has come to; None while undecided."""
    status: str = ""
    """Of its result; none while it is under way."""


@functools.lru_cache(maxsize=2**16)
def rungs(run: RunConfig) -> tuple[int, ...]:
    """The steps at which a run is compared: the first evaluations after a quarter and after half of
    its horizon, once the warm-up is over, the last step not among them. None where it is not
    measured in between."""
    steps = [s for s in evaluation_steps(run.S, run.eval.points) if warmup_steps(run) < s < run.S]
    first = (next((s for s in steps if s >= part * run.S), None) for part in _PARTS)
    return tuple(sorted({s for s in first if s is not None}))


def verdict(arm: str, S: int, arms: Mapping[str, Arm], eta: float) -> str:
    """Why an arm is to stop at the rung S, given all `arms` of its family, {run_id: arm}, itself
    among them; nothing where it goes on.

    Of n arms that have come to S, those that diverged or failed left out, the best floor(n / eta) go
    on, at least one; all do while n < eta, and an arm than which none is better that has finished or is
    under way.
    """
    there = {
        run_id: (other.passed[S][0], other.status in ("", "ok"))
        for run_id, other in arms.items()
        if S in other.passed and other.status not in ("diverged", "failed")
    }
    L, _ = there[arm]
    better = [alive for loss, alive in there.values() if loss < L]
    n = len(there)
    if n < eta or len(better) < max(1, math.floor(n / eta)) or not any(better):
        return ""
    return f"at step {S} its loss {L:.4g} is number {len(better) + 1} of {n} arms"
