"""The law by which runs are forecast: of one size, or of all sizes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from analysis.curves.conditional import Noise, condition
from analysis.curves.fit import PRECISION, CurveFit, fit_curves
from analysis.curves.laws import CURVE_LAWS, resolve
from analysis.curves.noise import STRETCHES
from analysis.curves.run_curve import RunCurve, RunCurves
from analysis.fitting.checks import FitError

AUTO = "auto"
_DROP = 0.06
"""Standard deviation of the factor by which a run's own drop with the learning rate differs from
the law's."""
_DRAWS = 200
"""Draws of the parameters behind an interval."""
_SCHEDULES = 3
"""Fewest different schedules with which the law with the most parameters is fitted."""
_FEWEST_SIZES = 3
"""Fewest sizes with finished runs for a law of the size."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a law and a run's own points say of the run's end."""

    log_loss: np.ndarray
    """The law's ln(loss) at each point."""
    end: float
    """Mean of ln(loss) at the end."""
    sd: float
    """Its standard deviation."""
    innovations: np.ndarray
    """Standardised error of predicting each point from those before it."""


class Predictor(Protocol):
    """A fitted law."""

    @property
    def law(self) -> str:
        """What is fitted to what, in words."""
        ...

    @property
    def notes(self) -> Sequence[str]: ...

    def expected(self, run: RunCurve) -> Expected:
        """Return what the law expects of a run, given the points after its warm-up."""
        ...


def law_of(runs: RunCurves, law: str = AUTO, *, seed: int = 0) -> Predictor:
    """Return the law that is fitted to the finished runs.

    Raises FitError, with what is missing, if they are too few.
    """
    finished = [run for run in runs.finished if run.used.any()]
    if law != AUTO:
        resolve(law)
    sizes = {run.N for run in finished}
    if not finished:
        raise FitError(_without_finished(runs))
    several = {run.N for run in runs.runs} - {None}
    if len(several) > 1:
        if len(sizes) >= _FEWEST_SIZES:
            return joint_law(finished, law, seed=seed)
        return _BySize.fitted(runs, finished, law, seed)
    return OneSize.fitted(finished, law, runs.source, seed=seed)


def _without_finished(runs: RunCurves) -> str:
    short = [run for run in runs.finished if not run.used.any()]
    if short:
        run = short[0]
        return (
            f"{runs.source}: run {run.run!r} has {len(run.step)} evaluations and none after its "
            f"warm-up, which ends at step {run.warmup}. A law of its curve needs some after it."
        )
    return (
        f"{runs.source}: no run has finished, and a law of their curves needs at least one that "
        "has. Forecast again once a run has finished; or add finished runs of the same recipe to "
        "the table."
    )


@dataclass(frozen=True)
class OneSize:
    """A law of the curves of one size."""

    fit: CurveFit
    length: float
    """ln(step) over which a deviation from the law fades."""
    law: str
    notes: Sequence[str] = field(default_factory=list)

    @classmethod
    def fitted(
        cls, finished: Sequence[RunCurve], law: str, source: str, *, seed: int = 0
    ) -> OneSize:
        chosen = _chosen(finished) if law == AUTO else law
        points = sum(int(run.used.sum()) for run in finished)
        parameters = len(CURVE_LAWS[chosen].params)
        if points < parameters + 3:
            shortest = min(finished, key=lambda run: int(run.used.sum()))
            raise FitError(
                f"{source}: the finished runs have {points} evaluations after their warm-up, and "
                f"the law {chosen} has {parameters} parameters; it needs {parameters + 3}. Run "
                f"{shortest.run!r} has {int(shortest.used.sum())} after step {shortest.warmup}."
            )
        notes = []
        if not any(_decays(run) for run in finished):
            notes.append(
                "no finished run decays its learning rate, so the law does not know what a decay "
                "brings; forecasts of runs that decay are guesses"
            )
        table, rates = long_table(finished)
        fit = fit_curves(
            chosen, table, run="run_id", step="S", loss="L", rates=rates, n_boot=_DRAWS, seed=seed
        )
        spans = [np.log(run.step[run.used][-1] / run.step[run.used][0]) for run in finished]
        length = max(float(np.median(spans)) / STRETCHES, 1e-3)
        n = len(finished)
        return cls(fit, length, f"{chosen}, fitted to {n} finished run{'s'[: n != 1]}", notes)

    def expected(self, run: RunCurve) -> Expected:
        return _expected(self.fit, run, self.length)


@dataclass(frozen=True)
class _BySize:
    """Laws of the curves of each size, where there are too few sizes for a law of them."""

    laws: dict[float | None, OneSize]
    notes: Sequence[str]

    @classmethod
    def fitted(cls, runs: RunCurves, finished: Sequence[RunCurve], law: str, seed: int) -> _BySize:
        needed = {run.N for run in runs.unfinished}
        laws = {}
        for N in {run.N for run in finished} & needed:
            own = [run for run in finished if run.N == N]
            laws[N] = OneSize.fitted(own, law, runs.source, seed=seed)
        lacking = [run for run in runs.unfinished if run.N not in laws]
        if lacking:
            N = lacking[0].N
            raise FitError(
                f"{runs.source}: run {lacking[0].run!r} has N={N:g}, and no run of this size has "
                f"finished. A law of the size needs finished runs of {_FEWEST_SIZES} sizes; there "
                f"are {len({run.N for run in finished})}. Leave it out with --where 'N != {N:g}', "
                "or finish one run of its size."
            )
        return cls(laws, [note for each in laws.values() for note in each.notes])

    @property
    def law(self) -> str:
        return "; ".join(f"N={N:g}: {each.law}" for N, each in self.laws.items() if N is not None)

    def expected(self, run: RunCurve) -> Expected:
        return self.laws[run.N].expected(run)


def joint_law(finished: Sequence[RunCurve], law: str, *, seed: int) -> Predictor:
    raise NotImplementedError


def long_table(runs: Sequence[RunCurve]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the points after warm-up of runs, a row per evaluation, and the rates by run."""
    rows = [
        pd.DataFrame(
            {"run_id": run.run, "S": run.step[run.used], "L": run.loss[run.used], "N": run.N,
             "B": run.B, "D": run.step[run.used] * (run.B or np.nan)}
        )
        for run in runs
    ]  # fmt: skip
    return pd.concat(rows, ignore_index=True), {run.run: run.rates for run in runs}


def _chosen(finished: Sequence[RunCurve]) -> str:
    """Return the law that the schedules of the finished runs can determine."""
    shapes = set()
    for run in finished:
        relative = run.rates.at(np.linspace(1, run.end, 9)) / run.rates.peak
        shapes.add((*np.round(relative, 2), round(float(np.log2(run.end)), 1)))
    return "multi_power" if len(shapes) >= _SCHEDULES else "multi_power_start"


def _decays(run: RunCurve) -> bool:
    return float(run.rates.at(run.end)) < 0.9 * run.rates.peak


def _expected(fit: CurveFit, run: RunCurve, length: float) -> Expected:
    step = run.step[run.used]
    points = fit.law.points([(run.rates, np.append(step, run.end))], PRECISION)
    loss, slopes = fit.law.loss_and_slopes(fit.params, points)
    J = slopes * np.where(fit.log, np.array(list(fit.params.values())), 1.0) / loss[:, None]
    shape = [fit.params[name] for name in fit.law.shape]
    drop = fit.params[fit.law.coefficient] * fit.law.drop(points, shape).value / loss
    slow = np.maximum(fit.noise.variance(points.S1) - fit.noise.white**2, 0.0)
    noise = Noise(
        point=fit.noise.white, along=np.sqrt(slow), length=length, factors=(_DROP * drop,)
    )
    log_loss = np.log(loss)
    own = np.log(run.loss[run.used])
    found = condition(step, own, run.end, log_loss, J @ fit.covariance @ J.T, noise)
    return Expected(
        log_loss=log_loss[:-1], end=found.mean, sd=found.sd, innovations=found.innovations
    )
