"""Stop arms that cannot win early, by asynchronous successive halving.

The method is that of Li et al. 2020 (arXiv 1810.05934), in the variant that stops arms instead of
pausing them, as Ray Tune's AsyncHyperBandScheduler does.

The runs of a search that differ in their learning rate only are the arms of one family. They have
one horizon and are evaluated at the same steps, so their curves can be compared. At two rungs, a
quarter and half of the horizon (:func:`rungs`), an arm continues if its held-out loss is among
the best 1/eta of the arms that have reached the rung so far (:func:`verdict`).

The rule differs from the paper for few arms, because a search by bracketing has only three to a
dozen. No arm is stopped before eta arms have reached the rung, nor unless an arm that is better
there has finished or is still training. So the best arm at a rung always continues, and an arm is
only stopped in favour of one that can still win. If curves do not cross, the search takes the
same path as without halving, because it only asks which arm is best. If they cross, a late winner
may be lost. Large learning rates look worse before the decay than at the end, most of all under
wsd, whose decay comes last. A smaller eta stops fewer arms early.

With `win`, the forecast decides instead of the rank (:func:`hopeless`): an arm stops if it is less
likely than that to end with the lowest loss of the arms that can still win. Rungs, the least
number of arms, and the rule that the most promising arm continues are the same.

Sizes at one budget (isoFLOP) are not compared this way. After a quarter of their budgets the best
size is that of a quarter of the budget, half as large (N_opt grows as C^0.5: Hoffmann et al.
2022). This error is larger than what such a search must resolve.

Imports nothing heavy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scaling.command_run import CommandRun, Run
from scaling.training.schedule import evaluation_steps, warmup_steps

_RUNG_FRACTIONS = (1 / 4, 1 / 2)
"""Fractions of the horizon at which arms are compared."""


@dataclass
class Arm:
    """What is known of an arm."""

    passed: dict[int, tuple[float, bool | None]] = field(default_factory=dict)
    """{S: (L, whether it continued)} at the rungs it has reached; None while undecided."""
    status: str = ""
    """Status of its result; empty while it is training."""


@functools.lru_cache(maxsize=2**16)
def rungs(run: Run) -> tuple[int, ...]:
    """Return the steps at which a run is compared with others.

    They are the first evaluations after a quarter and after half of the horizon, after the
    warm-up and before the last step. The result is empty if there are no such evaluations. Those of
    a command are not known beforehand: it is compared at the first that it reports from there on.
    """
    if isinstance(run, CommandRun):
        S = run.S or 0
        return tuple(sorted({s for f in _RUNG_FRACTIONS if (s := math.ceil(f * S)) < S}))
    steps = [s for s in evaluation_steps(run.S, run.eval.points) if warmup_steps(run) < s < run.S]
    first = (next((s for s in steps if s >= f * run.S), None) for f in _RUNG_FRACTIONS)
    return tuple(sorted({s for s in first if s is not None}))


def verdict(arm: str, S: int, arms: Mapping[str, Arm], eta: float) -> str:
    """Return why an arm must stop at the rung S, or an empty string if it continues.

    `arms` are all arms of its family, {run_id: arm}, including itself. Of n arms that have
    reached S, not counting those that diverged or failed, the best floor(n / eta) continue, and at
    least one. All continue while n < eta. An arm also continues if every better one was stopped.
    """
    reached = {
        run_id: (other.passed[S][0], other.status in ("", "ok"))
        for run_id, other in arms.items()
        if S in other.passed and other.status not in ("diverged", "failed")
    }
    L, _ = reached[arm]
    better = [can_win for loss, can_win in reached.values() if loss < L]
    n = len(reached)
    if n < eta or len(better) < max(1, math.floor(n / eta)) or not any(better):
        return ""
    return f"at step {S} its loss {L:.4g} is number {len(better) + 1} of {n} arms"


def hopeless(
    arm: str,
    S: int,
    arms: Mapping[str, Arm],
    eta: float,
    *,
    win: float,
    probabilities: Mapping[str, float],
) -> str:
    """Return why an arm must stop at the rung S by its forecast, or an empty string.

    `probabilities` are those of ending with the lowest loss, {run_id: probability}. As in
    :func:`verdict`, all arms continue while fewer than `eta` have reached S, and the most likely
    winner always does.
    """
    n = sum(S in a.passed and a.status not in ("diverged", "failed") for a in arms.values())
    chance = probabilities.get(arm)
    others = [
        probability
        for run_id, probability in probabilities.items()
        if run_id != arm and run_id in arms and arms[run_id].status in ("", "ok")
    ]
    if n < eta or chance is None or not chance < win or max(others, default=0.0) <= chance:
        return ""
    return f"at step {S} it ends as the best of {n} arms with probability {chance:.2g}"
