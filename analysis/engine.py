"""Minimise a law's robust misfit over many starts and many resamples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from analysis.laws import Law


@dataclass(frozen=True)
class Problem:
    """Data, law and objective of one fit. theta holds log(p) for positive parameters, p otherwise."""

    law: Law
    columns: Mapping[str, np.ndarray]
    target: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    """Group of each row: the unit that a bootstrap draws."""
    fixed: Mapping[str, float]
    on: str

    @property
    def free(self) -> tuple[str, ...]:
        return tuple(p for p in self.law.params if p not in self.fixed)

    def params(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Natural parameters of theta (..., q), fixed ones included."""
        out = {}
        for p in self.law.params:
            if p in self.fixed:
                out[p] = np.full(theta.shape[:-1], self.fixed[p])
            else:
                t = theta[..., self.free.index(p)]
                out[p] = np.exp(t) if self.law.ranges[p].positive else t
        return out

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        y = self.law.predict(self.params(theta), **self.columns)
        return np.log(y) - np.log(self.target) if self.on == "log" else y - self.target


def huber(r: np.ndarray, delta: float) -> np.ndarray:
    """rho(r): r^2 / 2 within delta, delta (|r| - delta / 2) beyond."""
    a = np.abs(r)
    return np.where(a <= delta, r * r / 2, delta * (a - delta / 2))


def minimise(
    problem: Problem, delta: float, weights: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, float]:
    best, value = starts[0], np.inf
    w = np.sqrt(weights)
    for start in starts:
        with np.errstate(all="ignore"):
            try:
                found = least_squares(
                    lambda t: np.nan_to_num(w * problem.residuals(t), nan=1e3, posinf=1e3),
                    start,
                    loss="linear" if np.isinf(delta) else "huber",
                    f_scale=1.0 if np.isinf(delta) else delta,
                    x_scale="jac",
                    max_nfev=300,
                )
            except ValueError:
                continue
        if found.cost < value:
            best, value = found.x, found.cost
    return best, value


def starts(problem: Problem, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.empty((count, len(problem.free)))
    for j, p in enumerate(problem.free):
        low, high = problem.law.ranges[p].ends(problem.columns)
        if problem.law.ranges[p].positive:
            low, high = np.log(low), np.log(high)
        out[:, j] = rng.uniform(low, high, count)
    return out
