"""The law by which runs are forecast: of one size, or of all sizes together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from analysis.curves.conditional import Noise, condition
from analysis.curves.fit import PRECISION, CurveFit, fit_curves
from analysis.curves.laws import CURVE_LAWS, resolve
from analysis.curves.noise import STRETCHES
from analysis.curves.run_curve import RunCurve, RunCurves
from analysis.fitting.checks import FitError

if TYPE_CHECKING:
    from analysis.curves.joint import JointFit

AUTO = "auto"
_AFTER = 2.0
"""Multiple of the warm-up from which a law of several sizes holds."""
_FEW_DRAWS = 2
"""Draws of a fit whose intervals do not rest on draws."""
_LEAST = 0.05
"""Least loss of a prediction [nats per token]: the law of a few short runs can be negative where it
was not fitted."""

_UNSEEN = 2.0
"""How much more a run deviates from a law that was not fitted to it. On the published curves of Luo
et al. 2025 with 25 and 100 million parameters, 92 % of 168 forecasts from a quarter to nine tenths
of the steps, by laws of three to five of the curves, then lie in their 90 % intervals."""
_DRAWS = 200
"""Draws of the parameters behind an interval."""
_SCHEDULES = 3
"""Fewest different schedules with which the law with the most parameters is fitted."""
_FEWEST_SIZES = 3
"""Fewest sizes with finished runs for a law of the size."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a law and a run's own points say of later losses of the run."""

    log_loss: np.ndarray
    """The law's ln(loss) at each point."""
    later: np.ndarray
    """Mean of ln(loss) at the later steps, by default the last."""
    sd: np.ndarray
    """Their standard deviations."""
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

    def used(self, run: RunCurve) -> np.ndarray:
        """Return a mask of the points of a run that the law is for."""
        ...

    def expected(self, run: RunCurve, later: np.ndarray | None = None) -> Expected:
        """Return what the law expects of a run at later steps, given these points."""
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
    if len(several) < 2:
        return OneSize.fitted(finished, law, runs.source, seed=seed)
    if len(sizes) >= _FEWEST_SIZES:
        return AllSizes.fitted(finished, runs.source, seed=seed)
    begun = [run for run in runs.runs if run.used.any()]
    if len({run.N for run in begun}) >= _FEWEST_SIZES:  # the law cannot be told from bad runs
        return AllSizes.fitted(begun, runs.source, seed=seed)
    return _BySize.fitted(runs, finished, law, seed)


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

    def used(self, run: RunCurve) -> np.ndarray:
        return run.used

    def expected(self, run: RunCurve, later: np.ndarray | None = None) -> Expected:
        return _expected(self.fit, run, self.length, _or_end(run, later))


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

    def used(self, run: RunCurve) -> np.ndarray:
        return run.used

    def expected(self, run: RunCurve, later: np.ndarray | None = None) -> Expected:
        return self.laws[run.N].expected(run, later)


@dataclass(frozen=True)
class AllSizes:
    """A law of the curves of all sizes."""

    fit: JointFit
    fitted_runs: Sequence[RunCurve]
    law: str
    notes: Sequence[str] = field(default_factory=list)

    @classmethod
    def fitted(cls, runs: Sequence[RunCurve], source: str, *, seed: int = 0) -> AllSizes:
        from analysis.curves.joint import NAME, fit_joint

        lacking = next((run for run in runs if not run.B), None)
        if lacking is not None:
            raise FitError(
                f"{source}: run {lacking.run!r} does not say its tokens per step, which a law of "
                "several sizes needs. Map the column that holds them with --map COLUMN=B."
            )
        table, rates = long_table(runs)
        fit = fit_joint(
            table, trunk="trunk", rates=rates, after=_AFTER, n_boot=_FEW_DRAWS, seed=seed
        )
        done = sum(run.finished for run in runs)
        others = f" and {len(runs) - done} unfinished" if done < len(runs) else ""
        law = f"{NAME}, fitted to {done} finished{others} runs of {len({r.N for r in runs})} sizes"
        return cls(fit, runs, law, [] if fit.converged else ["the law's fit has not converged"])

    def used(self, run: RunCurve) -> np.ndarray:
        return run.used & (run.step >= _AFTER * run.rates.warmup)

    def expected(self, run: RunCurve, later: np.ndarray | None = None) -> Expected:
        used = self.used(run)
        step, loss = run.step[used], run.loss[used]
        known: dict[str, Any] = {"N": run.N, "rates": run.rates, "B": run.B}
        kin, shared = self._kin(run)
        new = np.array([pair not in shared for pair in zip(step, loss, strict=True)], bool)
        found = self.fit.forecast_run(
            target=_or_end(run, later), step=step[new], loss=loss[new], run=kin, **known
        )
        surprise = np.zeros(len(step))
        surprise[new] = found.surprise
        return Expected(
            log_loss=np.log(self.fit.predict(step=step, **known)) if len(step) else np.empty(0),
            later=found.mean,
            sd=np.sqrt(np.diag(found.covariance)),
            innovations=surprise,
        )

    def _kin(self, run: RunCurve) -> tuple[Any, set[tuple[float, float]]]:
        """Return a fitted run that is a run or shares its first steps, with the (step, loss) of all
        those that do; None and nothing if there is none."""
        own, fitted = run.trunk or run.run, self.fit.sweep.trunk_of
        kin = [r for r in self.fitted_runs if r.run in fitted and (r.trunk or r.run) == own]
        pairs = {pair for other in kin for pair in zip(other.step, other.loss, strict=True)}
        return (kin[0].run if kin else None), pairs


def with_unfinished(
    predictor: Predictor, runs: RunCurves, left: Collection[str], *, seed: int = 0
) -> Predictor:
    """Return the law fitted to the unfinished runs too, except those that `left` it.

    A law of one size stays as it is: it is conditioned on the points of a run anyway.
    """
    if not isinstance(predictor, AllSizes):
        return predictor
    good = [run for run in runs.runs if run.run not in left and predictor.used(run).any()]
    if len(good) == len(predictor.fitted_runs):
        return predictor
    return AllSizes.fitted(good, runs.source, seed=seed)


def long_table(runs: Sequence[RunCurve]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the points after warm-up of runs, a row per evaluation, and the rates by run."""
    rows = [
        pd.DataFrame(
            {"run_id": run.run, "S": run.step[run.used], "L": run.loss[run.used], "N": run.N,
             "B": run.B, "D": run.step[run.used] * (run.B or np.nan),
             "trunk": run.trunk or run.run}
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


def _or_end(run: RunCurve, later: np.ndarray | None) -> np.ndarray:
    return np.array([run.end], float) if later is None else np.asarray(later, float)


def _expected(fit: CurveFit, run: RunCurve, length: float, later: np.ndarray) -> Expected:
    step = run.step[run.used]
    points = fit.law.points([(run.rates, np.concatenate([step, later]))], PRECISION)
    loss, slopes = fit.law.loss_and_slopes(fit.params, points)
    loss = np.maximum(loss, _LEAST)
    J = slopes * np.where(fit.log, np.array(list(fit.params.values())), 1.0) / loss[:, None]
    drop = fit.law.annealed(fit.params, points) / loss
    at = np.concatenate([step, later])
    slow = np.maximum(fit.noise.variance(at, np.zeros(len(at))) - fit.noise.white**2, 0.0)
    noise = Noise(
        point=fit.noise.white,
        along=_UNSEEN * np.sqrt(slow),
        length=length,
        factors=(fit.noise.drop * drop,),
    )
    log_loss = np.log(loss)
    own = np.log(run.loss[run.used])
    found = condition(step, own, later, log_loss, J @ fit.covariance @ J.T, noise)
    return Expected(
        log_loss=log_loss[: len(step)],
        later=found.mean,
        sd=found.sd,
        innovations=found.innovations,
    )
