"""Choose runs so that one target becomes as certain as possible: c-optimal design."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
"""Of finite differences in ln(parameter): wide, as optima are found to 1e-6 of N."""


class DesignProblem:
    """Choose rows of J (k draws, n candidates, q) within `room`, to make g' M^-1 g small."""

    def __init__(
        self,
        J: np.ndarray,
        g: np.ndarray,
        prior: np.ndarray,
        cost: np.ndarray,
        room: float,
        seeds: np.ndarray,
        most: int,
    ):
        self.J, self.g, self.prior, self.cost = J, g, prior, cost
        self.room, self.seeds, self.most = room, seeds, most

    def width(self, chosen: np.ndarray) -> float:
        """Standard error of the target: root of the geometric mean over the draws."""
        return float(np.exp(0.5 * self._value(chosen)))

    def solve(self) -> np.ndarray:
        """Greedy, by gain per cost to several powers, each bettered by exchanges; the best."""
        found = [self._exchanged(self._greedy(power)) for power in (1.0, 0.6, 0.3, 0.0)]
        return min(found, key=self._value)

    def _inverse(self, chosen: np.ndarray) -> np.ndarray:
        rows = self.J[:, chosen]
        return np.linalg.inv(self.prior + np.einsum("kni,knj->kij", rows, rows))

    def _value(self, chosen: np.ndarray) -> float:
        V = self._inverse(chosen)
        return float(np.mean(np.log(np.einsum("ki,kij,kj->k", self.g, V, self.g))))

    def _after(self, chosen: np.ndarray) -> np.ndarray:
        """The criterion after each candidate is added (n,): one Sherman-Morrison step."""
        V = self._inverse(chosen)
        Vg = np.einsum("kij,kj->ki", V, self.g)
        VJ = np.einsum("kij,knj->kni", V, self.J)
        now = np.einsum("ki,ki->k", self.g, Vg)[:, None]
        less = np.einsum("kni,ki->kn", VJ, self.g) ** 2 / (1 + np.einsum("kni,kni->kn", VJ, self.J))
        return np.mean(np.log(np.maximum(now - less, 1e-300)), axis=0)

    def _free(self, chosen: np.ndarray) -> np.ndarray:
        """Candidates that may still be added."""
        used = np.bincount(chosen, minlength=len(self.cost))
        return (used < self.seeds) & (self.cost[chosen].sum() + self.cost <= self.room)

    def _greedy(self, power: float) -> np.ndarray:
        chosen = np.array([], int)
        while (free := self._free(chosen)).any() and len(chosen) < self.most:
            gain = self._value(chosen) - self._after(chosen)
            gain = np.where(free, gain, -np.inf) / self.cost**power
            chosen = np.append(chosen, int(np.argmax(gain)))
        return chosen

    def _exchanged(self, chosen: np.ndarray) -> np.ndarray:
        """Take one run out and spend what that frees, as long as it helps."""
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
                if (value := self._value(again)) < best - 1e-6:
                    chosen, best = again, value
            if best > before - 1e-3:
                break
        return chosen


_ROUNDS = 3


def target_function(law: Law, name: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Parameters (k,) -> the target (k,)."""
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
            f"target={name!r} is not known: 'a' for the exponent of N_opt, 'L@1e18' or 'N@1e18' for "
            f"the best loss or size at so many FLOPs, or a parameter of {law.name}: "
            f"{', '.join(law.params)}."
        )
    return lambda p: np.log(optimum_at(law, dict(p), np.array([C]), flops_6N)[what][:, 0])


def draws_of(result: FitResult, seed: int) -> dict[str, np.ndarray]:
    """Some draws of the free parameters and the estimate: (k,) each."""
    if not len(result.samples):
        raise ConfigError("a design needs the draws of a fit: fit(..., bootstrap=200).")
    rng = np.random.default_rng(seed)
    rows = result.samples.iloc[rng.permutation(len(result.samples))[:_DRAWS]]
    draws = {p: np.append(rows[p].to_numpy(float), result.params[p]) for p in result.law.params}
    fine = np.all([np.isfinite(v) & (v > 0) for v in draws.values()], axis=0)
    return {p: v[fine] for p, v in draws.items()}


def gradient_of(
    function: Callable[[Mapping[str, np.ndarray]], np.ndarray], draws: Mapping[str, np.ndarray]
) -> np.ndarray:
    """d function / d ln(parameter) by central differences: (k, n, parameters) of a (k, n) result."""
    columns = []
    with np.errstate(all="ignore"):
        for name in draws:
            ends = [
                function({**draws, name: draws[name] * np.exp(sign * _STEP)}) for sign in (1, -1)
            ]
            columns.append((ends[0] - ends[1]) / (2 * _STEP))
    return np.stack(columns, axis=-1)


def information(law: Law, draws: Mapping[str, np.ndarray], N: Any, D: Any) -> np.ndarray:
    """d ln L / d ln(parameter) at each run: (k, n, parameters)."""
    columns = {"N": np.asarray(N, float), "D": np.asarray(D, float)}

    def log_loss(p: Mapping[str, np.ndarray]) -> np.ndarray:
        deep = {name: v[:, None] for name, v in p.items()}
        return np.log(law(*(columns[name] for name in law.inputs), **deep))

    return gradient_of(log_loss, draws)


def noise_of(result: FitResult) -> float:
    """Standard deviation of the residuals of ln L, robust, for the parameters fitted."""
    r = result.log_residuals
    free = max(result.n - len(result.law.params), 1)
    return float(1.4826 * np.median(np.abs(r)) * np.sqrt(result.n / free))
