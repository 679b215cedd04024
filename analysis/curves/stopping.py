"""Decide which runs of a sweep may stop: those whose ends a question does not need.

This module is the default forecaster of sweeps: sweeps.adaptive.protocols.CurveForecaster
describes its three functions, and a sweep loads it by name.

The law of curves and sizes is fitted to all curves so far. Near its minimum, the answer to the
question and the ends of the runs have a joint normal distribution: through the law, and through the
deviations of sizes and runs from it. Measuring an end narrows the answer by what the two have in
common. The ends of the unfinished runs are taken in the order of their cost. An end is needed if it
narrows the interval that the cheaper needed ends leave by at least `gain`, as long as that interval
is wider than asked. A run that is not needed stops, unless a needed run still trains on the same
trunk, so that its next evaluation costs nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analysis.curves.effects import Basis
from analysis.curves.joint import NAME, JointFit, fit_joint
from analysis.curves.joint_read import rows_of
from analysis.curves.rates import Rates
from analysis.curves.size_law import Rows, SizeLaw, joined
from analysis.fitting.checks import FitError
from scaling.columns import config_row
from scaling.config import RunConfig, flatten
from scaling.errors import ConfigError, TableError, did_you_mean
from scaling.size import size_columns
from scaling.training.pack_key import branch_step, trunk
from scaling.training.schedule import evaluation_steps

_PARAMETERS = ("a", "E", "A", "B", "alpha", "beta", "k", "G", "p", "q", "K", "u", "v", "c")
"""What may be asked for: parameters of the law, and the exponent of N_opt ~ C^a."""

_LEVEL = 0.95
_HALF = float(ndtri((1 + _LEVEL) / 2))
"""Half-width of an interval in standard deviations."""


class Question(Protocol):
    """What a sweep asks (sweeps.adaptive.forecast.Forecast)."""

    @property
    def N(self) -> float | None:
        """Parameters of the run whose loss is asked for."""
        ...

    @property
    def D(self) -> float | None:
        """Tokens of that run."""
        ...

    @property
    def parameter(self) -> str | None:
        """Parameter of the law that is asked for instead."""
        ...

    @property
    def width(self) -> float | None:
        """Width of the interval that is asked for."""
        ...

    @property
    def gain(self) -> float:
        """Fraction by which an end must narrow the interval to be needed."""
        ...

    @property
    def law(self) -> str:
        """Name of the law."""
        ...


class Curve(Protocol):
    """A run of the sweep and its evaluations so far (sweeps.adaptive.forecast.CurveSoFar)."""

    @property
    def run(self) -> RunConfig:
        """Its config."""
        ...

    @property
    def points(self) -> Sequence[Mapping[str, Any]]:
        """Its evaluations, with at least S and L."""
        ...

    @property
    def status(self) -> str:
        """How it ended; empty if it has not."""
        ...


def check_question(options: Question) -> None:
    """Raise ConfigError if there is no such law, or if it has no such parameter."""
    if options.law != NAME:
        raise ConfigError(
            f"[until] forecast.law={options.law!r}: runs are forecast by {NAME}, a law of curves "
            "and sizes."
        )
    known = _PARAMETERS
    if options.parameter is not None and options.parameter not in known:
        raise ConfigError(
            f"[until] forecast.parameter={options.parameter!r}: {NAME} has {', '.join(known)}."
            f"{did_you_mean(options.parameter, known)}"
        )


def decide_ends(
    options: Question, curves: Sequence[Curve], due: Sequence[str]
) -> dict[str, tuple[bool, str, dict[str, float]]]:
    """Return {run_id: (whether it stops, reason, numbers)} of the runs in `due`.

    `curves` are all runs of the sweep. While they do not determine the law, no run stops.
    """
    try:
        fit = fit_curves_so_far(curves)
    except (FitError, TableError, np.linalg.LinAlgError) as error:
        return {run_id: (False, f"no forecast yet: {error}", {}) for run_id in due}
    outlook = EndsOutlook(fit=fit, options=options, open=[c for c in curves if not c.status])
    return {run_id: outlook.decision(run_id) for run_id in due}


def win_probabilities(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], S: int, draws: int = 4000
) -> dict[str, float]:
    """Return {run_id: probability that it ends with the lowest loss at step S}.

    Arms that have not ended are expected to fall from their last evaluation as those did that have,
    with their scatter (as a Student t, for they are few). Empty while fewer than two have ended.
    """
    loss = {run_id: {p["S"]: float(p["L"]) for p in points} for run_id, points in curves.items()}
    ended = [run_id for run_id, at in loss.items() if S in at]
    if len(ended) < 2:
        return {}
    rng = np.random.default_rng(0)
    ends = []
    for at in loss.values():
        if S in at:
            ends.append(np.full(draws, at[S]))
            continue
        last = max(at, default=0)
        falls = [
            math.log(loss[other][last] / loss[other][S]) for other in ended if last in loss[other]
        ]
        if len(falls) < 2:
            return {}
        spread = float(np.std(falls, ddof=1)) * math.sqrt(1 + 1 / len(falls))
        t = rng.standard_t(len(falls) - 1, draws)
        ends.append(at[last] * np.exp(-(np.mean(falls) + spread * t)))
    winner = np.argmin(np.array(ends), axis=0)
    return {run_id: float(np.mean(winner == i)) for i, run_id in enumerate(loss)}


def fit_curves_so_far(curves: Sequence[Curve]) -> JointFit:
    """Fit the law to the curves of a sweep under way. Raises FitError, TableError."""
    begun = [c for c in curves if c.points and c.status not in ("failed", "diverged")]
    if not begun:
        raise FitError("no run has been evaluated.")
    runs = pd.DataFrame([
        config_row(flatten(c.run)) | size_columns(c.run) | {"run_id": c.run.run_id} for c in begun
    ])  # fmt: skip
    points = pd.DataFrame([
        {"run_id": c.run.run_id, "S": p["S"], "D": c.run.tokens_at(p["S"]), "L": p["L"]}
        for c in begun for p in c.points
    ])  # fmt: skip
    return fit_joint(points, runs, n_boot=2)


@dataclass(frozen=True, kw_only=True)
class EndsOutlook:
    """What is known of the answer and of the ends of the unfinished runs."""

    fit: JointFit
    options: Question
    open: Sequence[Curve]

    def decision(self, run_id: str) -> tuple[bool, str, dict[str, float]]:
        """Return whether a run stops, why, and the numbers."""
        i = next(i for i, curve in enumerate(self.open) if curve.run.run_id == run_id)
        needed, widths = self.needed
        half = _HALF * math.sqrt(self.ends[1][i, i])
        loss = math.exp(self.ends[2][i])
        numbers = {
            "loss": loss, "low": loss * math.exp(-half), "high": loss * math.exp(half),
            "width": self.width(math.sqrt(self.answer_variance)), "width_with_needed": widths[i],
            "gain": self.gains[i],
        }  # fmt: skip
        end = f"its end is known to be {loss:.4g} within {half:.1%}"
        if i in needed:
            return False, f"{end}; it would narrow the interval by {self.gains[i]:.1%}", numbers
        if (other := self._trains_anyway(i, needed)) is not None:
            return False, f"{end}; it shares steps with {other}, which is needed", numbers
        asked = self.options.width
        if asked is not None and widths[i] <= asked:
            return True, f"{end}; without it the width is {widths[i]:.2g}, {asked:g} asked", numbers
        return True, f"{end}; it would narrow the interval by only {self.gains[i]:.1%}", numbers

    @cached_property
    def needed(self) -> tuple[set[int], list[float]]:
        """Indices of the needed runs, and the width that is expected before each run's end is
        added, with the needed cheaper ones."""
        covariance = self.ends[1]
        common = self.ends[0] @ self.slopes_of_answer[1]
        chosen: list[int] = []
        widths = [0.0] * len(self.open)
        for i in self.by_cost:
            before = self._left(covariance, common, chosen)
            widths[i] = self.width(math.sqrt(before))
            if self.options.width is not None and widths[i] <= self.options.width:
                continue
            after = self._left(covariance, common, [*chosen, i])
            if 1 - math.sqrt(after / before) >= self.options.gain:
                chosen.append(i)
        return set(chosen), widths

    @cached_property
    def gains(self) -> list[float]:
        """Fraction by which each run's end narrows the interval that the others that are needed,
        and cheaper, leave."""
        covariance, common = self.ends[1], self.ends[0] @ self.slopes_of_answer[1]
        needed = self.needed[0]
        found, chosen = [0.0] * len(self.open), []
        for i in self.by_cost:
            before = self._left(covariance, common, chosen)
            after = self._left(covariance, common, [*chosen, i])
            found[i] = 1 - math.sqrt(after / before)
            chosen += [i] if i in needed else []
        return found

    @cached_property
    def by_cost(self) -> list[int]:
        """Indices of the unfinished runs, those with the fewest FLOPs left first."""

        def left(curve: Curve) -> float:
            done = curve.points[-1]["S"] if curve.points else 0
            return (curve.run.S - done) * size_columns(curve.run)["C"] / curve.run.S

        return sorted(range(len(self.open)), key=lambda i: left(self.open[i]))

    def width(self, sd: float) -> float:
        """Return the width of the answer's interval: high / low - 1 of a loss, or high - low."""
        if self.options.parameter is None:
            return math.expm1(min(2 * _HALF * sd, 700.0))
        return 2 * _HALF * sd

    @property
    def answer_variance(self) -> float:
        """Variance of the answer, with the curves so far."""
        slopes, times_covariance = self.slopes_of_answer
        return float(slopes @ times_covariance)

    @cached_property
    def slopes_of_answer(self) -> tuple[np.ndarray, np.ndarray]:
        """Slopes of the answer in the free unknowns (f,), and the covariance times these."""
        law, z, options = self.fit.law, self.fit.minimum.z, self.options
        if options.parameter is None:
            assert options.N is not None and options.D is not None
            like = self.open[0].run if self.open else None
            assert like is not None
            run = dataclasses.replace(like, tokens=round(options.D))
            slopes = law.log_loss_and_slopes(z, _end(options.N, run))[1][0]
        else:
            name, slopes = options.parameter, np.zeros(len(law.free))
            for j, unknown in enumerate(law.free):
                up, down = z.copy(), z.copy()
                up[unknown] += 1e-4
                down[unknown] -= 1e-4
                slopes[j] = (_parameters(law, up)[name] - _parameters(law, down)[name]) / 2e-4
        return slopes, self.fit.minimum.covariance @ slopes

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slopes of ln L at each end in the free unknowns (m, f), the covariance of the measured
        ends (m, m), and their means (m,)."""
        N = np.array([float(size_columns(curve.run)["N"]) for curve in self.open])
        slopes = np.zeros((len(N), len(self.fit.law.free)))
        deviations, mean = np.zeros((len(N), len(N))), np.zeros(len(N))
        for size in np.unique(N):
            at = np.flatnonzero(size == N).tolist()
            rows = joined([_end(size, self.open[i].run) for i in at])
            names = [hash(trunk(self.open[i].run)) for i in at]
            slopes[at], deviations[np.ix_(at, at)], mean[at] = self._ends_of_size(rows, names)
        covariance = slopes @ self.fit.minimum.covariance @ slopes.T + deviations
        return slopes, covariance, mean

    def _ends_of_size(
        self, rows: Rows, names: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return slopes, covariance of the deviations and means of ends of one size."""
        law, minimum, noise = self.fit.law, self.fit.minimum, self.fit.noise
        mean, J = law.log_loss_and_slopes(minimum.z, rows)
        annealed, log_T = law.excess(minimum.z, rows), np.log(rows.T)
        near = [i for i, s in enumerate(self.fit.sweep.sizes) if abs(s / rows.N[0] - 1) < 1e-6]
        known = self.fit.sweep.trunks[near[0]] if near else ()
        new = sorted({name for name in names if name not in known})
        if near:
            white = minimum.whitenings[near[0]]
            trunks = [known.index(name) if name in known else -1 for name in names]
            Z = white.block.basis.design(log_T, np.array(trunks), annealed)
            at = white.block.rows
            both = np.column_stack([minimum.residual[at], minimum.slopes[at]])
            effects = Z @ white.effects(both)
            mean, J = mean + effects[:, 0], J - effects[:, 1:]
            Q = Z @ white.effects_covariance() @ Z.T
        else:
            Q = np.zeros((len(rows), len(rows)))
        if new:
            basis = Basis.covering(log_T, list(new))
            trunks = [new.index(name) if name in new else -1 for name in names]
            Z = basis.design(log_T, np.array(trunks), annealed)
            shared = 0 if not near else basis.knots + 1  # the size's own deviation is known
            P, _ = basis.precision(noise)
            Z, P = Z[:, shared:], P[shared:, shared:]
            Q = Q + Z @ np.linalg.solve(P, Z.T)
        return J, Q + np.diag(noise.point_variance(rows.rate)), mean

    def _left(self, covariance: np.ndarray, common: np.ndarray, chosen: Sequence[int]) -> float:
        """Return the variance of the answer once these ends are measured."""
        if not chosen:
            return self.answer_variance
        at = list(chosen)
        c = common[at]
        explained = c @ np.linalg.solve(covariance[np.ix_(at, at)], c)
        return max(self.answer_variance - float(explained), 1e-12 * self.answer_variance)

    def _trains_anyway(self, i: int, needed: set[int]) -> str | None:
        """Return a needed run that trains the steps to the next evaluation of run i anyway."""
        curve = self.open[i]
        S = curve.points[-1]["S"] if curve.points else 0
        after = next(s for s in evaluation_steps(curve.run.S, curve.run.eval.points) if s > S)
        for j in sorted(needed):
            other = self.open[j].run
            same = trunk(other) == trunk(curve.run)
            if same and min(branch_step(other), branch_step(curve.run)) >= after:
                return other.run_id
        return None


def _parameters(law: SizeLaw, z: np.ndarray) -> dict[str, float]:
    """Return the parameters of the law, and the exponent a of N_opt ~ C^a that follows."""
    found = law.params(z)
    return found | {"a": found["beta"] / (found["alpha"] + found["beta"])}


def _end(N: float, run: RunConfig) -> Rows:
    """Return the row of the last step of a run, as if it had N parameters."""
    return rows_of(N, Rates.from_config(run), np.array([float(run.S)]), run.batch_tokens)
