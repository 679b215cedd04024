"""What a slower term of the loss, which no fit can see, may do to its extrapolations.

Suppose that the measured losses hold a third term, s (C / C_max)^-gamma with a small exponent. Over
the data it is nearly constant, so that a fit takes it for a part of the irreducible loss; beyond
them it falls, and the fit does not. What the fit cannot absorb follows from its derivatives: the
term itself, minus the change in the fitted law that the term causes.
"""

from __future__ import annotations

import numpy as np

from analysis.fitting.intervals import curvature
from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem
from analysis.fitting.solver import gradients, prior_rows

SHARE = 0.02
"""Largest size of the term, as a fraction of the loss at the largest compute of the data."""
EXPONENTS = (0.05, 0.1, 0.15)
"""Exponents of compute that are considered."""
SLOPE_STEP = 1e-5
"""Step in the unknowns by which slopes of the law are computed."""


def slow_term(problem: Problem, minimum: Minimum, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return the largest relative error (m,) that such a term causes at N and D, (m,) each.

    For a law of N and D whose residuals are differences of ln L or L.
    """
    largest, top = largest_run(problem)
    there, loss = _slopes(problem, minimum, columns)
    errors = []
    for exponent, moved in zip(EXPONENTS, absorbed(problem, minimum), strict=True):
        beyond = SHARE * top * (columns["N"] * columns["D"] / largest) ** -exponent
        change = there @ moved
        if problem.on == "log":
            change = change * loss
        errors.append(np.abs(beyond - change) / loss)
    return np.max(errors, axis=0)


def largest_run(problem: Problem) -> tuple[float, float]:
    """Return N D of the largest run, and its loss."""
    size = problem.columns["N"] * problem.columns["D"]
    return float(np.max(size)), float(problem.target[np.argmax(size)])


def absorbed(problem: Problem, minimum: Minimum) -> np.ndarray:
    """Return how much such a term moves the unknowns of the fit, (exponents, q)."""
    x = problem.columns
    largest, top = largest_run(problem)
    J = gradients(problem, minimum.theta)
    w = problem.weights * curvature(problem, minimum)
    prior = prior_rows(problem, minimum.theta)
    solver = (
        np.linalg.pinv(J.T @ (J * w[:, None]) + prior.T @ prior, hermitian=True)
        @ (J * w[:, None]).T
    )
    unit = problem.target if problem.on == "log" else 1.0
    terms = [SHARE * top * (x["N"] * x["D"] / largest) ** -exponent for exponent in EXPONENTS]
    return np.array([solver @ (term / unit) for term in terms])


def _slopes(
    problem: Problem, minimum: Minimum, columns: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the derivative (m, q) of the law, or its log, by the unknowns, and the law (m,)."""
    step, q = SLOPE_STEP, problem.q
    moved = minimum.theta + step * np.concatenate([np.eye(q), -np.eye(q)], 1)
    at = {name: x[:, None] for name, x in columns.items()}
    with np.errstate(all="ignore"):
        loss = problem.law.predict(problem.params(minimum.theta), **at)[:, 0]
        y = problem.law.predict(problem.params(moved), **at)
    y = np.log(y) if problem.on == "log" else y
    return (y[:, :q] - y[:, q:]) / (2 * step), loss
