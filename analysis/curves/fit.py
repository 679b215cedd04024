"""Fit a law of learning curves to the curves of one model size."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analysis import in_words, notebook
from analysis.arguments import unknown_word
from analysis.curves import joint as joint_law
from analysis.curves import noise as noise_model
from analysis.curves.laws import CurveLaw, Points, resolve
from analysis.curves.noise import STRETCHES, CurveNoise
from analysis.curves.rates import Rates
from analysis.curves.read import Columns, Curve, read_curves
from analysis.curves.solve import Objective, Solution, solve
from analysis.fitting.checks import FitError, check_draws, check_level
from analysis.fitting.draws import parameter_intervals
from scaling.jsonable import finite

PRECISION = 1e-8
"""Relative error of the sums over steps in a fit, far below the noise of a loss."""

WEIGHTS = ("octaves", "equal")
"""How much the points of a run count."""

_WIDE = 5.0
"""Standard deviation of an unknown, mostly a logarithm, that the curves do not determine."""

_FLAT = 1e-6
"""Relative fall of the objective that a converged fit may leave."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CurveFit:
    """One law of learning curves fitted to some curves, as returned by :func:`fit_curves`."""

    law: CurveLaw
    params: dict[str, float]
    """Every parameter of the law."""
    objective: float
    """Sum over points of Huber's function of ln(measured / law)."""
    delta: float
    """Log residual at which Huber's function turns from a parabola to a line."""
    draws: pd.DataFrame = field(repr=False)
    """Draws of the parameters, one row per draw."""
    noise: CurveNoise
    """How points differ from the law."""
    curves: list[Curve] = field(repr=False)
    """The fitted curves."""
    notes: tuple[str, ...]
    """Rows that were dropped or put in order, and doubts about the fit."""
    converged: bool
    certificate: dict[str, Any] = field(repr=False)
    """The objectives reached from the starts, and what is left of the gradient."""
    warmup: int | None
    """Steps of warm-up before the first row, as given."""
    seconds: float = field(repr=False, default=0.0)
    unknowns: np.ndarray = field(repr=False)
    covariance: np.ndarray = field(repr=False)
    """Covariance of the unknowns: the parameters, on a log scale where they are positive."""
    log: np.ndarray = field(repr=False)
    """Which of the unknowns are logarithms."""

    @property
    def n(self) -> int:
        """Number of fitted points."""
        return sum(c.n for c in self.curves)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 90 % interval of each parameter."""
        return self.interval(0.9)

    def interval(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """Return (low, high) of each parameter."""
        return parameter_intervals(self.draws, self.params, level)

    def predict(self, *, step: Any, lr: Any = None, rates: Rates | None = None) -> np.ndarray:
        """Return the loss at each step of one run.

        step: Steps of the run.
        lr: Learning rate at each of the steps; between them it is as in
            :meth:`Rates.from_logged`, and before them as in the fit (warmup).
        rates: The learning rates of the run, instead of `lr`.
        """
        at, own = self._run(step, lr, rates)
        return self.law.loss(self.params, self.law.points([(own, at)], PRECISION))

    def predict_interval(
        self,
        level: float = 0.9,
        *,
        step: Any,
        lr: Any = None,
        rates: Rates | None = None,
        noise: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (low, high) of the loss at each step of one run.

        With `noise`, the interval is that of a measured point: it includes the noise of points and
        the misfit of the law (see :class:`CurveNoise`). Without, it is that of the law and knows
        only of its parameters.
        """
        check_level(level)
        at, own = self._run(step, lr, rates)
        points = self.law.points([(own, at)], PRECISION)
        loss, variance = self._spread(points)
        if noise:
            drop = self.law.annealed(self.params, points) / loss
            variance = variance + self.noise.variance(at, drop)
        half = float(ndtri((1 + level) / 2)) * np.sqrt(variance)
        return loss * np.exp(-half), loss * np.exp(half)

    def _spread(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss at points, and the variance of its logarithm by the parameters."""
        loss, slopes = self.law.loss_and_slopes(self.params, points)
        J = slopes * np.where(self.log, np.array(list(self.params.values())), 1.0)
        J = J / loss[:, None]
        return loss, np.einsum("ij,jk,ik->i", J, self.covariance, J)

    def _run(self, step: Any, lr: Any, rates: Rates | None) -> tuple[np.ndarray, Rates]:
        at = np.atleast_1d(np.asarray(step, float))
        if rates is not None:
            return at, rates
        if lr is None:
            raise FitError(
                "predict needs the learning rates of the run: lr, one per step, or rates."
            )
        given = np.broadcast_to(np.asarray(lr, float), at.shape)
        order = np.argsort(at, kind="stable")
        return at, Rates.from_logged(at[order], given[order], self.warmup)

    def summary(self, level: float = 0.9) -> pd.DataFrame:
        """Return value, low and high of each parameter, one row per parameter."""
        ends = self.interval(level)
        return pd.DataFrame(
            [(self.params[p], *ends[p]) for p in self.params],
            index=list(self.params),
            columns=["value", "low", "high"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fit as plain values for JSON."""
        return finite(
            {
                "law": self.law.name,
                "formula": self.law.formula,
                "params": self.params,
                "intervals": {p: list(ends) for p, ends in self.intervals.items()},
                "level": 0.9,
                "objective": self.objective,
                "n": self.n,
                "runs": [str(c.run) for c in self.curves],
                "noise": vars(self.noise),
                "converged": self.converged,
                "certificate": self.certificate,
                "notes": list(self.notes),
            }
        )

    def __str__(self) -> str:
        lines = [
            f"{self.law.name}: {self.law.formula}",
            f"{self.n} points of {len(self.curves)} runs; objective {self.objective:.4g} (Huber "
            f"{self.delta:g} of log residuals, sum); "
            f"{'converged' if self.converged else 'not converged'}",
        ]
        for p, row in self.summary().iterrows():
            ends = in_words.interval(row["low"], row["high"], "{:.4g}".format)
            lines.append(f"  {p:<6} {row['value']:.4g}  {ends} (90 %)")
        n = self.noise
        lines.append(
            f"  noise  {100 * n.white:.2g} % between points, {100 * n.misfit:.2g} % along runs "
            f"(correlation {n.correlation:.2f})"
        )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        rows = [
            (notebook.symbol(str(p)), notebook.number(r["value"]),
             notebook.interval(r["low"], r["high"]))
            for p, r in self.summary().iterrows()
        ]  # fmt: skip
        head = f"<p>{self.n} points of {len(self.curves)} runs; objective {self.objective:.4g}</p>"
        parameters = notebook.table(["", "value", "90 % interval"], rows)
        return notebook.card(
            f"{self.law.name}: {notebook.expression(self.law.formula)}",
            head,
            parameters,
            notes=self.notes,
        )


def fit_curves(
    law: str | CurveLaw,
    curves: pd.DataFrame,
    *,
    run: str = "run_id",
    step: str = "S",
    lr: str = "lr",
    loss: str = "L",
    warmup: int | None = None,
    rates: Mapping[Any, Rates] | None = None,
    fit_on: Collection[Any] | None = None,
    delta: float = 1e-3,
    prior: bool = True,
    weights: str = "octaves",
    n_boot: int = 200,
    seed: int = 0,
    **joint: Any,
) -> Any:
    """Fit a law of whole learning curves to runs of one model size, or of several.

    law: Name of the law, as listed by `scaling laws`: multi_power, annealing or
        multi_power_start; or multi_power_size, one law for all sizes of a sweep.
    curves: One row per logged step of each run.
    run: Column of the run's id.
    step: Column of the step, counted from 1.
    lr: Column of the learning rate of the step.
    loss: Column of the loss.
    warmup: Steps of linear warm-up from 0, where rows begin later; the last of them has the
        peak.
    rates: {run: its learning rates}, where they are known better than from logged rows;
        see :class:`Rates`.
    fit_on: The runs to fit; by default all.
    delta: Log residual at which Huber's function turns from a parabola to a line.
    prior: Whether weak beliefs about exponents (see the law) keep a fit to few curves from
        extremes. They count as much as one stretch of a curve that is off by `delta`.
    weights: octaves, so that each doubling of the step counts alike, or equal for each point,
        which with prior=False is the objective of Luo et al. 2025.
    n_boot: Number of draws of the parameters.
    seed: Seed of the draws.
    joint: Further options of multi_power_size: see :func:`analysis.curves.joint.fit_joint`,
        which also says how its points are weighted.

    Returns a :class:`CurveFit`, or a :class:`JointFit` for multi_power_size.
    """
    begin = time.perf_counter()
    if law == joint_law.NAME:
        return joint_law.fit_joint(
            curves, run=run, step=step, lr=lr, loss=loss, warmup=warmup, rates=rates,
            fit_on=fit_on, n_boot=n_boot, seed=seed, **joint,
        )  # fmt: skip
    if joint:
        raise FitError(f"{next(iter(joint))} is an option of {joint_law.NAME} alone.")
    form = resolve(law)
    check_draws(n_boot, seed)
    _check_options(delta, weights, warmup)
    found, notes = read_curves(
        curves, Columns(run, step, lr, loss), warmup=warmup, rates=rates, fit_on=fit_on
    )
    _check_enough(form, found, notes)
    return _fitted(form, found, notes, _Options(delta, prior, weights, warmup, n_boot, seed, begin))


class _Options(NamedTuple):
    """How to fit."""

    delta: float
    prior: bool
    weights: str
    warmup: int | None
    n_boot: int
    seed: int
    begin: float


def _fitted(form: CurveLaw, found: list[Curve], notes: list[str], options: _Options) -> CurveFit:
    """Fit a law to curves that have been read."""
    delta = options.delta
    points = form.points([(c.rates, c.step) for c in found], PRECISION)
    log_loss = np.log(np.concatenate([c.loss for c in found]))
    per_run = sum(min(c.n, STRETCHES) for c in found)
    strength = delta**2 * points.n / per_run if options.prior and form.prior else 0.0
    objective = Objective(
        form, points, log_loss, delta=delta, strength=strength,
        weight=_weights(found) if options.weights == "octaves" else None,
    )  # fmt: skip
    try:
        solution = solve(objective, max(c.rates.peak for c in found))
    except np.linalg.LinAlgError as error:
        raise FitError(f"{form.name} cannot be fitted to these curves: {error}.") from error
    residuals = objective.log_residuals(solution.unknowns)[0]
    noise = noise_model.estimate(found, residuals, len(form.params))
    covariance = _covariance(objective, solution, noise, points.n / per_run)
    return CurveFit(
        law=form,
        params=solution.params,
        objective=solution.misfit,
        delta=delta,
        draws=_draws(objective, solution, covariance, options.n_boot, options.seed),
        noise=noise,
        curves=found,
        notes=(*notes, *_doubts(form, found)),
        converged=solution.gradient < _FLAT,
        certificate={"objectives": list(solution.objectives), "gradient": solution.gradient},
        warmup=options.warmup,
        seconds=time.perf_counter() - options.begin,
        unknowns=solution.unknowns,
        covariance=covariance,
        log=objective.log,
    )


def _check_options(delta: float, weights: str, warmup: int | None) -> None:
    """Raise FitError for an option that is unknown or meaningless."""
    if not (delta > 0 and np.isfinite(delta)):
        raise FitError(f"delta={delta} must be positive and finite.")
    if weights not in WEIGHTS:
        raise FitError(unknown_word("weights", weights, WEIGHTS))
    if warmup is not None and not (warmup >= 0 and int(warmup) == warmup):
        raise FitError(f"warmup={warmup} must be a whole number of steps, 0 or more.")


def _weights(curves: list[Curve]) -> np.ndarray:
    """Return weights with which each octave of steps counts alike, 1 on average."""
    weight = 1 / np.concatenate([c.step for c in curves])
    return weight / weight.mean()


def _check_enough(law: CurveLaw, curves: list[Curve], notes: list[str]) -> None:
    """Raise FitError if there are too few points for the law's parameters."""
    n, need = sum(c.n for c in curves), len(law.params) + 1
    if n < need:
        why = f" ({'; '.join(notes).rstrip('.')})" if notes else ""
        raise FitError(
            f"{law.name} has {need - 1} parameters and needs at least {need} points after warm-up; "
            f"there {'is' if n == 1 else 'are'} {n}{why}. Give longer curves or more of them."
        )


def _doubts(law: CurveLaw, curves: list[Curve]) -> list[str]:
    """Return what the curves do not determine."""
    falls = any((np.diff(c.rates.at(c.step)) < 0).any() for c in curves)
    if falls:
        return []
    return [
        "no fitted curve has a falling learning rate: what a decay brings "
        f"({law.coefficient}{', ' if law.shape else ''}{', '.join(law.shape)}) is not determined."
    ]


def _covariance(
    objective: Objective, solution: Solution, noise: CurveNoise, points_per_stretch: float
) -> np.ndarray:
    """Return the covariance of the unknowns, for deviations that last whole stretches of a run."""
    _, J = objective.residuals(solution.unknowns)
    unit = (noise.white**2 + noise.misfit**2 * points_per_stretch) or 1e-300
    prior = objective.penalty_slopes()
    weight = unit / objective.strength if objective.strength else 0.0
    H = (J.T @ J + weight * prior.T @ prior) / unit + np.eye(J.shape[1]) / _WIDE**2
    scale = np.sqrt(np.diag(H))
    return np.linalg.inv(H / np.outer(scale, scale)) / np.outer(scale, scale)


def _draws(
    objective: Objective, solution: Solution, covariance: np.ndarray, n: int, seed: int
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    size, axes = np.linalg.eigh((covariance + covariance.T) / 2)
    root = axes * np.sqrt(np.maximum(size, 0.0))
    u = solution.unknowns + rng.standard_normal((n, len(root))) @ root.T
    return pd.DataFrame([objective.params(each) for each in u], columns=list(objective.law.params))
