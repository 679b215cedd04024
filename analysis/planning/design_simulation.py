"""How certain sets of runs make a target: by simulation on the fitted law.

A truth is drawn from the distribution of the law's parameters, the runs are measured with noise,
the law is refitted to them (and to the runs so far), and the target is compared with that of the
truth. Unlike the linearised variance that a design minimises, this includes the curvature of the
law and that the truth is not the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fitting.result import FitResult
from analysis.laws import Law
from analysis.planning.design_spec import Point
from analysis.planning.optimal_design import information

SIMULATIONS = 160
"""Truths that each set of runs is simulated for."""
_STEPS = 8
"""Steps of the refit, which begins at the truth."""
_CLIPPED = 8.0
"""An error beyond this many times the median one counts as that, as its size is arbitrary."""
_LOST = 1e6
"""Error of a refit under which the target does not exist."""

Target = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Truths, and the runs so far that are counted beside the simulated ones."""

    law: Law
    target: Target
    truths: Mapping[str, np.ndarray]
    """Parameters of each truth: (k,) each."""
    estimate: Mapping[str, float]
    sigma: float
    """Standard deviation of ln L about the law."""
    N: np.ndarray
    """Sizes of the runs so far, empty if they are not counted."""
    D: np.ndarray
    log_L: np.ndarray
    prior_sd: float
    """Standard deviation of a prior of each parameter's logarithm, about the estimate."""
    seed: int

    @classmethod
    def of(
        cls,
        result: FitResult,
        target: Target,
        sigma: float,
        prior_sd: float,
        seed: int,
        *,
        kept: bool,
    ) -> Simulation:
        """Take truths from the draws of a fit at which the target exists."""
        rng = np.random.default_rng(seed)
        rows = result.samples.iloc[rng.permutation(len(result.samples))[: 2 * SIMULATIONS]]
        draws = {p: rows[p].to_numpy(float) for p in result.law.params}
        with np.errstate(all="ignore"):
            usable = np.all([np.isfinite(v) & (v > 0) for v in draws.values()], axis=0)
            usable &= np.isfinite(target(draws))
        if not usable.any():
            draws = {p: np.array([v]) for p, v in result.params.items()}
            usable = np.ones(1, bool)
        chosen = np.resize(np.flatnonzero(usable), SIMULATIONS)
        runs = result.runs if kept else result.runs.iloc[:0]
        return cls(
            law=result.law, target=target, truths={p: v[chosen] for p, v in draws.items()},
            estimate=result.params, sigma=sigma, N=runs["N"].to_numpy(float),
            D=runs["D"].to_numpy(float), log_L=np.log(runs["L"].to_numpy(float)),
            prior_sd=prior_sd, seed=seed,
        )  # fmt: skip

    def error(self, points: Sequence[Point]) -> float:
        """Return the root mean square error of the target after these runs."""
        if points:
            found = self.target(self._refitted(points))
        else:
            found = self.target({p: np.array([v]) for p, v in self.estimate.items()})
        off = np.abs(found - self.target(self.truths))
        off = np.where(np.isfinite(off), np.minimum(off, _LOST), _LOST)
        median = float(np.median(off))
        return float(np.sqrt(np.mean(np.minimum(off, _CLIPPED * median) ** 2)))

    def _refitted(self, points: Sequence[Point]) -> dict[str, np.ndarray]:
        """Return the parameters refitted to the measured runs, by Levenberg-Marquardt steps."""
        N = np.append(self.N, [p.N for p in points])
        D = np.append(self.D, [p.D for p in points])
        k = len(next(iter(self.truths.values())))
        noise = np.random.default_rng(self.seed).standard_normal((k, len(points)))
        new = self._log_loss(self.truths, N[len(self.N) :], D[len(self.D) :]) + self.sigma * noise
        y = np.hstack([np.broadcast_to(self.log_L, (k, len(self.N))), new])
        names = list(self.law.params)
        centre = np.log([self.estimate[p] for p in names])
        theta = np.log(np.stack([self.truths[p] for p in names], axis=1))
        damping = np.full(k, 1e-3)
        cost = self._cost(theta, y, N, D, centre)
        for _ in range(_STEPS):
            p = {name: np.exp(theta[:, i]) for i, name in enumerate(names)}
            J = np.nan_to_num(information(self.law, p, N, D)) / self.sigma
            r = np.nan_to_num((y - self._log_loss(p, N, D)) / self.sigma)
            H = np.einsum("kni,knj->kij", J, J) + np.eye(len(names)) / self.prior_sd**2
            g = np.einsum("kni,kn->ki", J, r) - (theta - centre) / self.prior_sd**2
            H += damping[:, None, None] * np.eye(len(names)) * np.einsum("kii->ki", H)[:, None, :]
            step = np.clip(np.linalg.solve(H, g[..., None])[..., 0], -1, 1)
            after = self._cost(theta + step, y, N, D, centre)
            better = after < cost
            theta = np.where(better[:, None], theta + step, theta)
            cost = np.where(better, after, cost)
            damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-9, 1e9)
        return {name: np.exp(theta[:, i]) for i, name in enumerate(names)}

    def _cost(
        self, theta: np.ndarray, y: np.ndarray, N: np.ndarray, D: np.ndarray, centre: np.ndarray
    ) -> np.ndarray:
        p = {name: np.exp(theta[:, i]) for i, name in enumerate(self.law.params)}
        r = (y - self._log_loss(p, N, D)) / self.sigma
        prior = np.sum((theta - centre) ** 2, axis=1) / self.prior_sd**2
        return np.nan_to_num(np.sum(r**2, axis=1) + prior, nan=np.inf)

    def _log_loss(self, p: Mapping[str, np.ndarray], N: np.ndarray, D: np.ndarray) -> np.ndarray:
        columns = {"N": N, "D": D}
        broadcast = {name: v[:, None] for name, v in p.items()}
        with np.errstate(all="ignore"):
            return np.log(self.law(*(columns[name] for name in self.law.inputs), **broadcast))
