"""Choose runs that make one target as certain as possible: c-optimal design."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fitting.result import FitResult
from analysis.frontiers.optimum import optimum_at
from analysis.laws import Law
from analysis.tables.conventions import flops_6N
from scaling.errors import ConfigError
from scaling.table import sensible

_DRAWS = 48
"""Draws of the parameters that the criterion is averaged over."""
_STEP = 0.01
"""Step of finite differences in ln(parameter): wide, because optima are found to 1e-6 of N."""
_ROUNDS = 3
"""Rounds of exchanges at most."""
_SMALLEST_GAIN = 1e-6
"""An exchange must lower the criterion by more than this."""
_LEAST = 1e-300
"""Least variance of a target, in place of that of one which is the same in all draws."""


@dataclass(frozen=True, kw_only=True)
class DesignProblem:
    """Choose candidates within a budget so that the target's variance g' M^-1 g becomes small.

    Arrays have k draws of the q parameters and n candidates.
    """

    J: np.ndarray
    """Gradient of each run's ln L over its noise, (k, n, q)."""
    g: np.ndarray
    """Gradient of the target, (k, q)."""
    prior: np.ndarray
    """Information without new runs, (k, q, q)."""
    cost: np.ndarray
    """FLOPs of each candidate, (n,)."""
    budget: float
    """FLOPs of all chosen runs at most."""
    seeds: np.ndarray
    """How often each candidate may be chosen, (n,) or ()."""
    most: int
    """Maximum number of chosen runs."""

    def width(self, chosen: np.ndarray) -> float:
        """Return the target's standard error: the root of the geometric mean over the draws."""
        return float(np.exp(0.5 * self._value(chosen)))

    def solve(self) -> np.ndarray:
        """Return the best of several greedy choices, each improved by exchanges.

        They rank candidates by gain per cost^power, for several powers.
        """
        found = [self._exchanged(self._greedy(power)) for power in (1.0, 0.6, 0.3, 0.0)]
        return min(found, key=self._value)

    def _inverse(self, chosen: np.ndarray) -> np.ndarray:
        rows = self.J[:, chosen]
        return np.linalg.inv(self.prior + np.einsum("kni,knj->kij", rows, rows))

    def _value(self, chosen: np.ndarray) -> float:
        V = self._inverse(chosen)
        variance = np.einsum("ki,kij,kj->k", self.g, V, self.g)
        return float(np.mean(np.log(np.maximum(variance, _LEAST))))

    def _after(self, chosen: np.ndarray) -> np.ndarray:
        """Return the criterion after each candidate is added, (n,), by a Sherman-Morrison step."""
        V = self._inverse(chosen)
        Vg = np.einsum("kij,kj->ki", V, self.g)
        VJ = np.einsum("kij,knj->kni", V, self.J)
        now = np.einsum("ki,ki->k", self.g, Vg)[:, None]
        less = np.einsum("kni,ki->kn", VJ, self.g) ** 2 / (1 + np.einsum("kni,kni->kn", VJ, self.J))
        return np.mean(np.log(np.maximum(now - less, _LEAST)), axis=0)

    def _free(self, chosen: np.ndarray) -> np.ndarray:
        """Return which candidates may still be added."""
        used = np.bincount(chosen, minlength=len(self.cost))
        return (used < self.seeds) & (self.cost[chosen].sum() + self.cost <= self.budget)

    def _greedy(self, power: float) -> np.ndarray:
        chosen = np.array([], int)
        while (free := self._free(chosen)).any() and len(chosen) < self.most:
            gain = self._value(chosen) - self._after(chosen)
            gain = np.where(free, gain, -np.inf) / self.cost**power
            chosen = np.append(chosen, int(np.argmax(gain)))
        return chosen

    def _exchanged(self, chosen: np.ndarray) -> np.ndarray:
        """Take one run out and spend what that frees, for as long as it helps."""
        best = self._value(chosen) if len(chosen) else math.inf
        for _ in range(_ROUNDS):
            before = best
            for i in np.argsort(-self.cost[chosen]).tolist():
                if i >= len(chosen):
                    continue
                again = np.delete(chosen, i)
                while (free := self._free(again)).any() and len(again) < self.most:
                    after = np.where(free, self._after(again), np.inf)
                    again = np.append(again, int(np.argmin(after)))
                if (value := self._value(again)) < best - _SMALLEST_GAIN:
                    chosen, best = again, value
            if best > before - 1e-3:
                break
        return chosen


def target_function(law: Law, name: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Return the function from parameters, (k,) each, to the target, (k,).

    Raises ConfigError for an unknown target.
    """
    what, _, at = name.partition("@")
    if (parameter := name.removeprefix("ln ")) in law.params and name != "a":
        return lambda p: np.log(p[parameter])
    if name == "a":
        around = np.array([1e-1, 1e1])

        def slope(p: Mapping[str, np.ndarray]) -> np.ndarray:
            N = np.log(optimum_at(law, dict(p), 1e18 * around, flops_6N)["N"])
            return (N[:, 1] - N[:, 0]) / np.log(around[1] / around[0])

        return slope
    try:
        C = float(at)
    except ValueError:
        C = math.nan
    if what not in ("L", "N") or not sensible(C):
        raise ConfigError(
            f"target={name!r} is not known. Give 'a' for the exponent of N_opt, 'L@1e18' or "
            f"'N@1e18' for the best loss or size at that many FLOPs, or a parameter of {law.name}: "
            f"{', '.join(law.params)}."
        )
    return lambda p: np.log(optimum_at(law, dict(p), np.array([C]), flops_6N)[what][:, 0])


def draws_of(result: FitResult, seed: int) -> dict[str, np.ndarray]:
    """Return some draws of the parameters, and the estimate as the last one: (k,) each."""
    if not len(result.samples):
        raise ConfigError("a design needs bootstrap draws of the fit, such as 400 (--bootstrap).")
    rng = np.random.default_rng(seed)
    rows = result.samples.iloc[rng.permutation(len(result.samples))[:_DRAWS]]
    draws = {p: np.append(rows[p].to_numpy(float), result.params[p]) for p in result.law.params}
    usable = np.all([np.isfinite(v) & (v > 0) for v in draws.values()], axis=0)
    return {p: v[usable] for p, v in draws.items()}


def gradient_of(
    function: Callable[[Mapping[str, np.ndarray]], np.ndarray], draws: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return d function / d ln(parameter) by central differences.

    It is (k, n, parameters) for a (k, n) result.
    """
    columns = []
    with np.errstate(all="ignore"):
        for name in draws:
            ends = [
                function({**draws, name: draws[name] * np.exp(sign * _STEP)}) for sign in (1, -1)
            ]
            columns.append((ends[0] - ends[1]) / (2 * _STEP))
    return np.stack(columns, axis=-1)


def information(law: Law, draws: Mapping[str, np.ndarray], N: Any, D: Any) -> np.ndarray:
    """Return d ln L / d ln(parameter) at each run: (k, n, parameters)."""
    columns = {"N": np.asarray(N, float), "D": np.asarray(D, float)}

    def log_loss(p: Mapping[str, np.ndarray]) -> np.ndarray:
        broadcast = {name: v[:, None] for name, v in p.items()}
        return np.log(law(*(columns[name] for name in law.inputs), **broadcast))

    return gradient_of(log_loss, draws)


def noise_of(result: FitResult) -> float:
    """Return a robust standard deviation of the residuals of ln L.

    It is corrected for the number of fitted parameters.
    """
    r = result.log_residuals
    free = max(result.n - len(result.law.params), 1)
    return float(1.4826 * np.median(np.abs(r)) * np.sqrt(result.n / free))
