"""Where each run of a table ends, and the learning rates that it follows until then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import least_squares

from analysis.curves.rates import Rates
from analysis.curves.run_curve import FINISHED, UNFINISHED, RunCurve
from scaling.config import RunConfig
from scaling.errors import TableError
from scaling.training.schedule import warmup_steps

_MATCH = 0.02
"""Largest difference between a logged and a scheduled learning rate, relative to the peak."""
_SAME_LR = 2e-3
"""Largest difference between the learning rates of runs of one schedule, relative to the peak."""
_DECAYED = 0.98
"""A rate below this part of its peak has begun to decay."""
_FLOORS = (0.0, 0.01, 0.05, 0.1, 0.2)
"""Final learning rates of a cosine, relative to the peak, that are tried."""
_COSINE_ERROR = 5e-4
"""Largest deviation of a logged cosine from its formula, relative to the peak."""
_CLEARER = 3.0
"""Factor by which the best of these fits better than the next, if the end is clear."""
_WAYS = (
    "Give the schedule with --lr-schedule cosine:peak=3e-4,warmup=2000,steps=72000, a column of "
    "all the steps of each run (--map COLUMN=steps), or rows with a learning rate and no loss for "
    "the steps to come"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a table tells of one run."""

    run: str
    status: str
    """A status, or "" if the table does not tell it."""
    step: np.ndarray
    loss: np.ndarray
    lr_step: np.ndarray
    lr: np.ndarray
    """The logged learning rates, and their steps."""
    coming_step: np.ndarray
    coming_lr: np.ndarray
    """Learning rates of rows after the last loss."""
    constants: Mapping[str, float | None] = field(default_factory=dict)
    """{column: the number that it holds for this run}."""

    @property
    def last(self) -> int:
        return int(self.step[-1])

    @property
    def total(self) -> int | None:
        """All the steps of the run, if a column tells them."""
        steps = self.constants.get("steps")
        D, B = self.constants.get("D_total"), self.constants.get("B")
        return round(steps) if steps else round(D / B) if D and B else None

    @property
    def peak(self) -> float:
        return float(self.lr.max()) if len(self.lr) else float("nan")


def planned(
    plans: Sequence[Plan], schedule: RunConfig | None, where: str, warmup: int | None = None
) -> tuple[list[RunCurve], list[str]]:
    """Return the runs with their ends and learning rates, and notes on what was assumed.

    Raises TableError if learning rates are missing or contradict the schedule, and if no end is
    known of any run that the table calls unfinished.
    """
    named = None if schedule is None else _Named.of(schedule)
    runs, notes, unknown = [], [], []
    if warmup is None and named is not None:
        warmup = named.warmup
    elif warmup is None and (warmup := _warmup_of_cosines(plans)) is not None:
        notes.append(
            f"the warm-up is taken as {warmup} steps, where the cosines begin; --warmup says others"
        )
    if named is not None:
        _check_schedule(plans, named, where)
    whole = [p for p in plans if p.status in ("", FINISHED) and len(p.lr)]
    for plan in plans:
        if not len(plan.lr) and named is None:
            raise TableError(f"{where}: run {plan.run!r} has no learning rate in any row. {_WAYS}.")
        found = _end(plan, named, whole, warmup)
        if found is None:
            unknown.append(plan.run)
            continue
        rates, end, note = found
        if note:
            notes.append(f"{plan.run}: {note}")
        runs.append(_curve(plan, rates, end, warmup))
    if unknown and not any(not run.finished for run in runs):
        raise TableError(
            f"{where}: run {unknown[0]!r} has not finished, and where it ends and with which "
            f"learning rates is not known. {_WAYS}."
        )
    if unknown:
        notes.append(f"{', '.join(unknown[:3])}: not forecast, for where they end is not known")
    return runs, notes


@dataclass(frozen=True)
class _Named:
    """The schedule that the user named."""

    rates: Rates
    steps: int
    warmup: int

    @classmethod
    def of(cls, run: RunConfig) -> _Named:
        return cls(Rates.from_config(run), run.S, warmup_steps(run))

    def mismatch(self, plan: Plan) -> tuple[int, float, float] | None:
        """Return (step, logged, scheduled) of the largest mismatch; None if the rates agree."""
        if not len(plan.lr):
            return None
        peak = max(self.rates.peak, plan.peak)
        near = [self.rates.at(np.maximum(plan.lr_step + shift, 0)) for shift in (-1, 0, 1)]
        off = np.min([np.abs(plan.lr - each) for each in near], axis=0)
        worst = int(off.argmax())
        if off[worst] <= _MATCH * peak:
            return None
        return int(plan.lr_step[worst]), float(plan.lr[worst]), float(near[1][worst])


def _check_schedule(plans: Sequence[Plan], named: _Named, where: str) -> None:
    """Raise TableError if the logged rates of every run contradict the schedule."""
    logged = [plan for plan in plans if len(plan.lr)]
    misses = {plan.run: named.mismatch(plan) for plan in logged}
    if not logged or None in misses.values():
        return
    run, miss = min(misses.items(), key=lambda item: abs(item[1][1] - item[1][2]))  # type: ignore[index]
    assert miss is not None
    step, found, scheduled = miss
    raise TableError(
        f"{where}: --lr-schedule does not match the logged learning rates of any run: of {run!r}, "
        f"which comes nearest, the table has {found:.4g} at step {step}, and the schedule "
        f"{scheduled:.4g}. Correct peak, warmup or steps, or leave --lr-schedule out."
    )


def _end(
    plan: Plan, named: _Named | None, whole: Sequence[Plan], warmup: int | None
) -> tuple[Rates, int, str] | None:
    """Return the rates of a run until its end, its last step, and a note on what was assumed.

    None if the run has not finished and its end is not known.
    """
    logged = _logged(plan, warmup) if len(plan.lr) else None
    if len(plan.coming_step):
        steps = np.r_[plan.lr_step, plan.coming_step]
        rates = Rates.from_logged(steps, np.r_[plan.lr, plan.coming_lr], warmup)
        return rates, int(plan.coming_step[-1]), ""
    if plan.status == FINISHED and logged is not None:
        return logged, plan.last, ""
    if named is not None and named.mismatch(plan) is None and plan.last <= named.steps:
        return named.rates, named.steps, ""
    assert logged is not None or named is not None
    if logged is None:
        return None
    if plan.total is not None and plan.last >= plan.total:
        return logged, plan.last, ""
    if twin := _twin(plan, whole):
        return _logged(twin, warmup), twin.last, f"taken to end like {twin.run}, at {twin.last}"
    if found := _cosine(plan):
        rates, end = found
        return rates, end, (
            f"its learning rates so far follow a cosine that ends at step {end}; if it ends "
            "otherwise, say so with --lr-schedule"
        )  # fmt: skip
    if plan.status in UNFINISHED or plan.total is not None:
        return None
    return logged, plan.last, ""


def _logged(plan: Plan, warmup: int | None) -> Rates:
    return Rates.from_logged(plan.lr_step, plan.lr, warmup)


def _twin(plan: Plan, whole: Sequence[Plan]) -> Plan | None:
    """Return a finished run whose learning rates are those of the run so far, and go on.

    Constant rates tell nothing: then the run must be known to be unfinished, and all longer runs
    with these rates must end at its number of steps, or at one step.
    """
    decayed = plan.lr[-1] < _DECAYED * plan.peak
    if not (decayed or plan.status in UNFINISHED or plan.total is not None):
        return None
    last = plan.last
    longer = [
        other for other in whole
        if other is not plan and other.last > last and plan.total in (None, other.last)
        and _same_rates(plan, other)
    ]  # fmt: skip
    ends = {other.last for other in longer}
    return longer[0] if len(ends) == 1 else None


def _same_rates(plan: Plan, other: Plan) -> bool:
    if len(plan.lr) < 2 or len(other.lr) < 2:
        return False
    at = plan.lr_step[(plan.lr_step >= other.lr_step[0])]
    if len(at) < 2:
        return False
    mine = plan.lr[plan.lr_step >= other.lr_step[0]]
    theirs = np.interp(at, other.lr_step, other.lr)
    return bool(np.abs(mine - theirs).max() <= _SAME_LR * plan.peak)


def _warmup_of_cosines(plans: Sequence[Plan]) -> int | None:
    """Return the step where the cosines of a table begin; None if runs were logged before it."""
    found = [shape.start for plan in plans if (shape := _shape(plan)) is not None]
    if not found:
        return None
    start = round(float(np.median(found)))
    begins = min(plan.lr_step[0] for plan in plans if len(plan.lr))
    return start if 1 < start <= begins + 1 else None


def _cosine(plan: Plan) -> tuple[Rates, int] | None:
    """Return the rates and the end of a run that follows the first part of a cosine.

    The part must be long enough to tell its end; otherwise None.
    """
    shape = _shape(plan)
    if shape is None or shape.end <= plan.last + shape.spacing:
        return None
    floor, start, end = shape.floor, shape.start, shape.end
    ahead = np.unique(np.linspace(plan.last, end, 257).round())[1:]
    coming = shape.peak * _cosine_at(ahead, floor, start, end)
    longer = replace(plan, lr_step=np.r_[plan.lr_step, ahead], lr=np.r_[plan.lr, coming])
    return _logged(longer, max(0, round(start)) or None), end


@dataclass(frozen=True)
class _Cosine:
    """A cosine from `start` to `end`, whose last rate is `floor` relative to the first."""

    peak: float
    floor: float
    start: float
    end: int
    spacing: float
    """Steps between logged rates."""


def _shape(plan: Plan) -> _Cosine | None:
    """Return the cosine that the learning rates of a run follow; None if they follow none, or if
    they do not tell its end."""
    if len(plan.lr) < 6:
        return None
    peak = plan.peak
    decaying = plan.lr_step > plan.lr_step[int(plan.lr.argmax())]
    s, lr = plan.lr_step[decaying], plan.lr[decaying]
    if len(s) < 5 or lr[-1] > 0.9 * peak or (np.diff(lr) > 0).any():
        return None
    fits = []
    for floor in _FLOORS:
        share = (lr / peak - floor) / (1 - floor)
        if share.min() <= 0:
            continue
        u = np.arccos(np.clip(2 * share - 1, -1, 1)) / np.pi
        slope, level = np.polyfit(s, u, 1, w=np.sin(np.pi * u) + 1e-3)
        if slope <= 0:
            continue
        top, start, end = _best_cosine(s, lr / peak, floor, -level / slope, (1 - level) / slope)
        worst = float(np.abs(top * _cosine_at(s, floor, start, end) - lr / peak).max())
        fits.append((worst, floor, end, start, top))
    fits.sort()
    if not fits or fits[0][0] > _COSINE_ERROR:
        return None
    error, floor, end, start, top = fits[0]
    if len(fits) > 1 and fits[1][0] < _CLEARER * error:
        return None
    return _Cosine(top * peak, floor, start, _round(end), float(s[-1] - s[-2]))


def _cosine_at(step: np.ndarray, floor: float, start: float, end: float) -> np.ndarray:
    """Return the rate of a cosine relative to its first."""
    part = np.clip((step - start) / (end - start), 0, 1)
    return floor + (1 - floor) * (1 + np.cos(np.pi * part)) / 2


def _best_cosine(
    step: np.ndarray, relative: np.ndarray, floor: float, start: float, end: float
) -> tuple[float, float, float]:
    """Return the first rate, the start and the end of the cosine that fits relative rates best, by
    a search from a start and an end."""
    scale = max(end - start, 1.0)
    found = least_squares(
        lambda x: x[0] * _cosine_at(step, floor, scale * x[1], scale * x[2]) - relative,
        [1.0, start / scale, end / scale],
        xtol=1e-13,
        ftol=1e-13,
        gtol=1e-14,
    )
    return float(found.x[0]), float(scale * found.x[1]), float(scale * found.x[2])


def _round(end: float) -> int:
    """Return a round number of steps if one is within a thousandth, else a whole one."""
    for unit in (1000, 100, 10):
        near = round(end / unit) * unit
        if near and abs(near - end) < 1e-3 * end:
            return near
    return round(end)


def _curve(plan: Plan, rates: Rates, end: int, warmup: int | None) -> RunCurve:
    spacing = plan.step[-1] - plan.step[-2] if len(plan.step) > 1 else 1
    finished = plan.status == FINISHED or (plan.status == "" and plan.last + spacing > end)
    own = plan.constants
    N, B = own.get("N"), own.get("B")
    return RunCurve(
        run=plan.run,
        status=FINISHED if finished else plan.status or "cut off",
        step=plan.step,
        loss=plan.loss,
        rates_of=lambda: rates,
        end=plan.last if finished else end,
        done=plan.last,
        warmup=warmup if warmup is not None else _first_at_peak(plan, rates),
        N=N,
        B=B,
        D=None if B is None else B * end,
        flops_per_step=own.get("flops") or (6 * N * B if N and B else None),
        seconds_per_step=own.get("step_seconds"),
        settings=dict(own),
    )


def _first_at_peak(plan: Plan, rates: Rates) -> int:
    """Return the step at which the learning rate first reaches its peak, if it rises to it."""
    if not len(plan.lr) or plan.lr[0] >= _DECAYED * plan.peak:
        return rates.warmup
    return int(plan.lr_step[int(np.argmax(plan.lr >= 0.999 * plan.peak))])
