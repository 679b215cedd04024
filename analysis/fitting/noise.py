"""How the noise of runs is distributed: on the log or the raw loss, and how it varies with size.

Sources: Harvey 1976, Estimating Regression Models with Multiplicative Heteroscedasticity (the
variance as an exponential of a linear function, and its likelihood-ratio test); Lange, Little &
Taylor 1989, Robust Statistical Modeling Using the t Distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy

from analysis.fitting.minimise import Minimum, minimise
from analysis.fitting.problem import Problem, huber
from analysis.fitting.solver import gradients

SIGNIFICANT = 0.05
"""Largest p value at which noise='auto' takes the variance to change with the inputs."""
_FREEDOM = 5.0
"""Degrees of freedom of the t distribution by which the variance is estimated robustly."""
_LARGEST = 1e4
"""Largest ratio of two rows' variances: an exponent from few rows may give any ratio."""
_ROUNDS = 4
_SPREAD = 1.0
"""Standard deviation of the Gaussian prior on the exponents of the variance."""


# --- Scale ----------------------------------------------------------------------------------------


def deviance(problem: Problem, minimum: Minimum, kind: str) -> float:
    """Return minus twice the log likelihood per row, with the scale s of the residuals fitted too.

    The density is that of the objective: exp(-rho(r) / s^2) / Z(s), Gaussian for least squares,
    Huber 1964's (a normal middle with exponential tails) for Huber's function, Laplace's for the
    sum of absolute values.
    """
    delta, w = minimum.delta, problem.weights
    r = problem.residuals(minimum.theta)[0]
    if kind == "lad":
        mean = float(np.average(np.abs(r), weights=w))
        return 2 * np.log(2 * max(mean, 1e-300)) + 2
    F = max(float(np.average(huber(r, delta), weights=w)), 1e-300)
    if np.isinf(delta):
        return np.log(2 * np.pi * 2 * F) + 1

    def at(log_s: float) -> float:
        s = np.exp(log_s)
        t = delta / s
        normal = np.sqrt(2 * np.pi) * s * scipy.special.erf(t / np.sqrt(2))
        return 2 * F / s**2 + 2 * np.log(normal + 2 * s / t * np.exp(-(t**2) / 2))

    centre = 0.5 * np.log(2 * F)
    return float(
        scipy.optimize.minimize_scalar(at, bounds=(centre - 3, centre + 6), method="bounded").fun
    )  # pyright: ignore


def comparable_deviance(problem: Problem, minimum: Minimum, kind: str) -> float:
    """Return the deviance as one of the raw target, so that both scales compare.

    The density of L is that of ln L divided by L.
    """
    shift = 2 * float(np.average(problem.y, weights=problem.weights)) if problem.on == "log" else 0
    return deviance(problem, minimum, kind) + shift


# --- Variance -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoiseModel:
    """ln variance = constant + sum of exponent * ln x, for the inputs x of a law."""

    constant: float
    exponents: dict[str, float]
    p: float
    """p value of the likelihood-ratio test that the variance is constant."""
    columns: Mapping[str, tuple[float, float]] = field(repr=False)
    """Range of each input; beyond it, the variance is that at its end."""

    def sd(self, **columns: Any) -> np.ndarray:
        """Return the standard deviation of a run's residual at these inputs."""
        log = np.asarray(self.constant, float)
        for name, exponent in self.exponents.items():
            low, high = self.columns[name]
            log = log + exponent * np.log(np.clip(np.asarray(columns[name], float), low, high))
        return np.exp(log / 2)

    def record(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {"constant": self.constant, "exponents": dict(self.exponents), "p": self.p}

    def __str__(self) -> str:
        powers = " ".join(f"{name}^{c / 2:+.2f}" for name, c in self.exponents.items())
        return f"standard deviation proportional to {powers} (constant: p = {self.p:.2g})"


def variance_model(
    problem: Problem, minimum: Minimum, given: np.ndarray | None = None
) -> NoiseModel | None:
    """Estimate how the variance of the residuals changes with the inputs; None if rows are few.

    given: (n,) relative precisions of the rows apart from this model; those of the problem if None.

    Rows that repeat the same inputs are compared with each other, which the form of the law does
    not affect; other rows with the law, corrected for its leverage.
    """
    names = [n for n, x in problem.columns.items() if (x > 0).all() and x.max() > 3 * x.min()]
    if not names or problem.n < 2 * (problem.q + len(names) + 1):
        return None
    r = _deviations(problem, minimum) * np.sqrt(problem.weights if given is None else given)
    if np.median(np.abs(r)) ** 2 <= 100 * problem.rounding:
        return None
    logs = np.array([np.log(problem.columns[n]) for n in names])
    centre = logs.mean(1)
    x = logs - centre[:, None]
    flat, _ = _scale(r, x[:0])
    free, estimate = _scale(r, x)
    p = float(scipy.special.chdtrc(len(names), max(flat - free, 0.0)))
    exponents = {n: float(c) for n, c in zip(names, estimate[1:], strict=True)}
    at = float(estimate[0] - estimate[1:] @ centre)
    spans = {n: (float(problem.columns[n].min()), float(problem.columns[n].max())) for n in names}
    return NoiseModel(constant=at, exponents=exponents, p=p, columns=spans)


def _deviations(problem: Problem, minimum: Minimum) -> np.ndarray:
    """Return residuals (n,) whose variance is that of the noise, to first order."""
    r = problem.residuals(minimum.theta)[0]
    root = np.sqrt(problem.weights)
    J = gradients(problem, minimum.theta) * root[:, None]
    basis, size, _ = np.linalg.svd(J / (np.linalg.norm(J, axis=0) + 1e-300), full_matrices=False)
    leverage = np.sum(basis[:, size > 1e-7 * size[0]] ** 2, axis=1)
    out = r / np.sqrt(np.maximum(1 - leverage, 0.1))
    inputs = np.array(list(problem.columns.values()))
    sets = np.unique(inputs, axis=1, return_inverse=True)[1].reshape(-1)
    rows = np.bincount(sets)
    mean = np.bincount(sets, r) / rows
    many = rows[sets] > 1
    within = (r - mean[sets]) * np.sqrt(rows[sets] / np.maximum(rows[sets] - 1, 1))
    return np.where(many, within, out)


def _scale(r: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
    """Fit ln variance = c_0 + c . x (k, n) to residuals of a t distribution.

    Returns minus twice the log likelihood (with the prior of the exponents), and c (1 + k,).
    """
    design = np.concatenate([np.ones((1, len(r))), x])
    typical = 2 * np.log(np.median(np.abs(r)) / 0.6745 + 1e-300)

    def minus(c: np.ndarray) -> tuple[float, np.ndarray]:
        log = np.clip(c @ design, -600, 600)
        u = r**2 * np.exp(-log) / _FREEDOM
        value = np.sum(log + (_FREEDOM + 1) * np.log1p(u)) + np.sum((c[1:] / _SPREAD) ** 2)
        slope = design @ (1 - (_FREEDOM + 1) * u / (1 + u))
        slope[1:] += 2 * c[1:] / _SPREAD**2
        return float(value), slope

    start = np.concatenate([[typical], np.zeros(len(x))])
    found = scipy.optimize.minimize(minus, start, jac=True, method="BFGS")
    return float(found.fun), np.asarray(found.x)


def reweighted(
    problem: Problem,
    minimum: Minimum,
    noise: str,
    objective: str,
    delta: float | None,
    seed: int,
) -> tuple[Problem, Minimum, NoiseModel | None]:
    """Return problem, minimum and noise model with rows weighted by 1 / variance.

    Fit and variance are estimated in turns. With noise='auto', the weights stay as they are unless
    a test rejects a constant variance.
    """
    model = variance_model(problem, minimum) if noise != "constant" else None
    if model is None or (noise == "auto" and model.p >= SIGNIFICANT):
        return problem, minimum, None
    given, before = problem.weights, np.zeros(problem.n)
    for _ in range(_ROUNDS):
        variance = model.sd(**problem.columns) ** 2
        w = given * np.maximum(variance.min() / variance, 1 / _LARGEST)
        w = w / w.mean()
        if np.allclose(w, before, rtol=1e-2):
            break
        before, problem = w, replace(problem, weights=w)
        minimum = minimise(problem, objective, delta, seed, minimum.basins)
        model = variance_model(problem, minimum, given) or model
    return problem, minimum, model
