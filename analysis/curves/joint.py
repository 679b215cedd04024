"""One law of size, schedule and step for all learning curves of a sweep."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analysis import in_words, notebook
from analysis.curves.effects import Basis, CurveEffects, Whitening
from analysis.curves.joint_read import SweepCurves, read_sweep, rows_of
from analysis.curves.joint_solve import Minimum, Problem, draws, solve
from analysis.curves.rates import Rates
from analysis.curves.read import Columns
from analysis.curves.size_law import FORMULA, NAME, UNKNOWNS, Rows, SizeLaw, joined
from analysis.fitting.checks import FitError, check_draws, check_level
from analysis.fitting.draws import parameter_intervals
from scaling.jsonable import finite


@dataclass(frozen=True, eq=False, kw_only=True)
class Outlook:
    """Normal distribution of ln L at n points, as returned by :meth:`JointFit.forecast_run`."""

    mean: np.ndarray
    """Mean of ln L (n,)."""
    covariance: np.ndarray
    """Covariance of ln L (n, n): of the law, of the deviations of the run, and of the points."""
    surprise: np.ndarray
    """Deviation of each of the run's own points from what the points before it let expect, in
    standard deviations (m,)."""

    @property
    def loss(self) -> np.ndarray:
        """Median loss (n,)."""
        return np.exp(self.mean)

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Return (low, high) of the loss at each point."""
        check_level(level)
        half = float(ndtri((1 + level) / 2)) * np.sqrt(np.diag(self.covariance))
        return np.exp(self.mean - half), np.exp(self.mean + half)


@dataclass(frozen=True, eq=False, kw_only=True)
class JointFit:
    """The law of curves and sizes fitted to a sweep, as returned by :func:`fit_joint`.

    Predictions for a size that was fitted include its deviation from the law; those for a run or
    trunk that was fitted include that one's, too. Elsewhere the deviations widen the interval.
    """

    law: SizeLaw = field(repr=False)
    params: dict[str, float]
    objective: float
    """Generalised sum of squares: about the number of points for a law that fits."""
    draws: pd.DataFrame = field(repr=False)
    """Draws of the parameters, one row per draw."""
    noise: CurveEffects
    sweep: SweepCurves = field(repr=False)
    problem: Problem = field(repr=False)
    minimum: Minimum = field(repr=False)
    converged: bool
    notes: tuple[str, ...]
    unknowns: np.ndarray = field(repr=False)
    """Draws of the unknowns (n_boot, q)."""
    seconds: float = field(repr=False, default=0.0)

    @property
    def n(self) -> int:
        """Number of fitted points."""
        return len(self.sweep.log_loss)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 90 % interval of each parameter."""
        return self.interval(0.9)

    def interval(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """Return (low, high) of each parameter."""
        return parameter_intervals(self.draws, self.params, level)

    def predict(
        self, *, N: float, step: Any, lr: Any = None, B: float | None = None, run: Any = None,
        rates: Rates | None = None, warmup: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Return the loss of a run of N parameters at each step.

        N: Number of parameters.
        step: Steps of the run.
        lr: Learning rate at each of them; between them it is as in `Rates.from_logged`.
        B: Tokens per step; by default, those of the fitted runs if they agree.
        run: Id of a fitted run whose deviation from the law continues.
        rates: The learning rates of the run, instead of `lr`.
        warmup: Steps of linear warm-up before the first of `lr`.
        """
        rows = self._rows(N, step, lr, B, rates, warmup)
        return self.outlook(rows, run=run).loss

    def predict_interval(
        self, level: float = 0.9, *, N: float, step: Any, lr: Any = None, B: float | None = None,
        run: Any = None, rates: Rates | None = None, warmup: int | None = None, noise: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Return (low, high) of the loss at each step, of a measured point if `noise`."""
        rows = self._rows(N, step, lr, B, rates, warmup)
        return self.outlook(rows, run=run, points=noise).interval(level)

    def predict_final(
        self, *, N: float, D: float, B: float | None = None, rates: Rates, run: Any = None
    ) -> float:
        """Return the final loss of N parameters trained on D tokens with these learning rates."""
        batch = self._batch(B)
        return float(self.predict(N=N, step=[round(D / batch)], rates=rates, B=batch, run=run)[0])

    def final_draws(self, N: Any, D: Any, rates: Any, B: float | None = None) -> np.ndarray:
        """Return draws of L(N, D) (n_boot, points): the law at the end of given schedules.

        N: Number of parameters of each point.
        D: Tokens of each point.
        rates: A function of the number of steps of a run; it returns the learning rates (Rates).
        B: Tokens per step.
        """
        batch = self._batch(B)
        N, D = np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float))
        parts = []
        for n, d in zip(N.ravel(), D.ravel(), strict=True):
            S = round(d / batch)
            parts.append(rows_of(n, rates(S), np.array([S]), batch))
        rows = joined(parts)
        return np.array([self.law.loss(z, rows) for z in self.unknowns])

    def forecast_run(
        self, *, N: float, rates: Rates, target: Any, step: Any = (), loss: Any = (),
        B: float | None = None, run: Any = None,
    ) -> Outlook:  # fmt: skip
        """Return what is known of a run's loss at later steps, given its own curve until now.

        The law, the deviation of its size and that of the run itself are updated by the run's own
        points: the best linear unbiased prediction under the noise of the fit.

        N: Number of parameters.
        rates: Learning rates of the whole run, also those to come.
        target: Steps to forecast (n,), such as the last one.
        step: Steps of the run's own points that the fit has not seen (m,), after warm-up.
        loss: Loss at each of them (m,).
        B: Tokens per step.
        run: Id of a fitted run; its points in the fit count as well. Give only others in
            `step`, or none.
        """
        target, step = np.atleast_1d(target).astype(float), np.asarray(step, float)
        batch = self._batch(B)
        rows = rows_of(N, rates, np.r_[step, target], batch)
        whole = self.outlook(rows, run=run)
        m = len(step)
        if not m:
            return whole
        residual = np.log(np.asarray(loss, float)) - whole.mean[:m]
        factor = np.linalg.cholesky(whole.covariance[:m, :m])
        surprise = np.linalg.solve(factor, residual)
        K = np.linalg.solve(factor, whole.covariance[:m, m:])
        return Outlook(
            mean=whole.mean[m:] + K.T @ surprise,
            covariance=whole.covariance[m:, m:] - K.T @ K,
            surprise=surprise,
        )

    def outlook(self, rows: Rows, *, run: Any = None, points: bool = True) -> Outlook:
        """Return the distribution of ln L at rows of one run; `points` adds the points' noise."""
        mean, J = self.law.log_loss_and_slopes(self.minimum.z, rows)
        annealed = self.law.excess(self.minimum.z, rows)
        white, trunk = self._deviations(float(rows.N[0]), run)
        if white is None:
            log_T = np.log(rows.T)
            basis = Basis.covering(log_T, ["new"])
            Z = basis.design(log_T, np.zeros(len(rows), int), annealed)
            P, _ = basis.precision(self.noise)
            covariance = J @ self.minimum.covariance @ J.T + Z @ np.linalg.inv(P) @ Z.T
        else:
            at = white.block.rows
            both = np.column_stack([self.minimum.residual[at], self.minimum.slopes[at]])
            Z = white.block.basis.design(np.log(rows.T), np.full(len(rows), trunk), annealed)
            known = Z @ white.effects(both)
            mean, J = mean + known[:, 0], J - known[:, 1:]
            covariance = J @ self.minimum.covariance @ J.T
            covariance = covariance + Z @ white.effects_covariance() @ Z.T
            if trunk < 0:
                covariance = covariance + self._new_trunk(np.log(rows.T))
        if points:
            covariance = covariance + np.diag(self.noise.point_variance(rows.rate))
        return Outlook(mean=mean, covariance=covariance, surprise=np.empty(0))

    def _new_trunk(self, log_T: np.ndarray) -> np.ndarray:
        """Return the covariance of the deviations of a run of a size that others have."""
        basis = Basis.covering(log_T, ["new"])
        Z = basis.design(log_T, np.zeros(len(log_T), int), np.zeros(len(log_T)))
        own = slice(basis.knots + 1, None)
        P, _ = basis.precision(self.noise)
        return Z[:, own] @ np.linalg.inv(P[own, own]) @ Z[:, own].T

    def _deviations(self, N: float, run: Any) -> tuple[Whitening | None, int]:
        """Return what is known of the size, and the index of the run's trunk (-1: a new one)."""
        near = [i for i, s in enumerate(self.sweep.sizes) if abs(s / N - 1) < 1e-6]
        if run is not None and run not in self.sweep.trunk_of:
            raise FitError(f"no fitted run is called {run!r}; leave out run for a new one.")
        if not near:
            if run is not None:
                raise FitError(f"the run {run!r} has N = {self.sweep.N[run]:g}, not {N:g}.")
            return None, -1
        if run is None:
            return self.minimum.whitenings[near[0]], -1
        names = self.sweep.trunks[near[0]]
        return self.minimum.whitenings[near[0]], names.index(self.sweep.trunk_of[run])

    def _rows(
        self, N: float, step: Any, lr: Any, B: float | None, rates: Rates | None,
        warmup: int | None,
    ) -> Rows:  # fmt: skip
        at = np.atleast_1d(np.asarray(step, float))
        if rates is None:
            if lr is None:
                raise FitError("predict needs the learning rates of the run: lr or rates.")
            given = np.broadcast_to(np.asarray(lr, float), at.shape)
            order = np.argsort(at, kind="stable")
            rates = Rates.from_logged(at[order], given[order], warmup)
        return rows_of(N, rates, at, self._batch(B))

    def _batch(self, B: float | None) -> float:
        known = set(self.sweep.batch.values())
        if B is None and len(known) > 1:
            raise FitError("the fitted runs have several batch sizes: give B, tokens per step.")
        return float(B) if B is not None else known.pop()

    def to_json(self) -> dict[str, Any]:
        """Return the fit as plain values for JSON."""
        return finite({
            "law": NAME, "formula": FORMULA, "params": self.params,
            "intervals": {p: list(ends) for p, ends in self.intervals.items()}, "level": 0.9,
            "objective": self.objective, "n": self.n, "runs": [str(r) for r in self.sweep.N],
            "noise": vars(self.noise), "converged": self.converged, "notes": list(self.notes),
        })  # fmt: skip

    def __str__(self) -> str:
        lines = [
            f"{NAME}: {FORMULA}",
            f"{self.n} points of {len(self.sweep.N)} runs, {len(self.sweep.sizes)} sizes; "
            f"{'converged' if self.converged else 'not converged'}",
        ]
        for p, (low, high) in self.intervals.items():
            ends = in_words.interval(low, high, "{:.4g}".format)
            lines.append(f"  {p:<6} {self.params[p]:.4g}  {ends} (90 %)")
        n = self.noise
        lines.append(
            f"  noise  {100 * n.white:.2g} % per point and {100 * n.jitter:.2g} % at the peak "
            f"rate, {100 * n.misfit:.2g} % along sizes, {100 * n.drift:.2g} % along runs, "
            f"{100 * n.offset:.2g} % between runs"
        )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return notebook.joint_curves(self, NAME, FORMULA)


def fit_joint(
    curves: pd.DataFrame,
    runs: pd.DataFrame | None = None,
    *,
    run: str = "run_id",
    step: str = "S",
    lr: str = "lr",
    loss: str = "L",
    N: str = "N",
    batch: str = "B",
    tokens: str = "D",
    trunk: str | None = None,
    warmup: int | None = None,
    rates: Mapping[Any, Rates] | None = None,
    fit_on: Collection[Any] | None = None,
    after: float = 2.5,
    fixed: Mapping[str, float] | None = None,
    n_boot: int = 500,
    seed: int = 0,
) -> JointFit:
    """Fit one law of size, schedule and step to the learning curves of a sweep.

    curves: One row per logged step of each run, or `curves.parquet` of a results folder.
    runs: `runs.csv` of that folder. Sizes, batches, schedules and trunks are taken from it.
    run: Column of run ids.
    step: Column of steps.
    lr: Column of learning rates.
    loss: Column of losses.
    N: Column of numbers of parameters.
    batch: Column of tokens per step.
    tokens: Column of tokens so far, used where there is no `batch`.
    trunk: Column that is equal for runs that share their first steps; None: every run is
        trained on its own.
    warmup: Steps of linear warm-up from 0 where rows begin later.
    rates: Learning rates of each run, instead of the logged ones.
    fit_on: Runs to fit; all by default.
    after: Rows before this multiple of the warm-up are left out.
    fixed: Values of unknowns (:data:`UNKNOWNS`) that are not fitted, such as ln_k = 0.
    n_boot: Number of draws.
    seed: Seed of the draws.
    """
    begun = time.perf_counter()
    check_draws(n_boot, seed)
    for name in fixed or {}:
        if name not in UNKNOWNS:
            raise FitError(f"fixed: {name!r} is not an unknown: {', '.join(UNKNOWNS)}.")
    sweep = read_sweep(
        curves, Columns(run, step, lr, loss), runs=runs, N=N, batch=batch, tokens=tokens,
        trunk=trunk, warmup=warmup, rates=rates, fit_on=fit_on, after=after,
    )  # fmt: skip
    _check(sweep)
    batches = np.ptp(np.log(list(sweep.batch.values()))) > 0.2
    law = SizeLaw.around(
        sweep.rows,
        np.exp(sweep.log_loss),
        batches=bool(batches),
        fixed=dict(fixed or {}),
    )
    problem = Problem(law, sweep.rows, sweep.log_loss, sweep.size, sweep.trunk, sweep.trunks)
    minimum = solve(problem)
    found = draws(problem, minimum, n_boot, seed)
    params = pd.DataFrame([law.params(z) for z in found], columns=list(law.params(minimum.z)))
    notes = list(sweep.notes)
    if not (sweep.rows.rate < 0.98).any():
        notes.append(
            "no row follows a fall of the learning rate: what annealing brings is a belief."
        )
    return JointFit(
        law=law, params=law.params(minimum.z), objective=minimum.objective, noise=minimum.noise,
        draws=params, sweep=sweep, minimum=minimum,
        problem=problem, converged=minimum.converged, notes=tuple(notes), unknowns=found,
        seconds=time.perf_counter() - begun,
    )  # fmt: skip


def _check(sweep: SweepCurves) -> None:
    """Raise FitError for a sweep that does not determine the law."""
    if len(sweep.sizes) < 3:
        raise FitError(
            f"the curves have {len(sweep.sizes)} sizes N; {NAME} needs at least 3. Fit curves of "
            "one size with multi_power."
        )
    if len(sweep.log_loss) < 20:
        raise FitError(
            f"{NAME} needs at least 20 points after warm-up; there are {len(sweep.log_loss)}."
        )
