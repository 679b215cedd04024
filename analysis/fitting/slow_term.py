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


def slow_term(problem: Problem, minimum: Minimum, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return the largest relative error (m,) that such a term causes at N and D, (m,) each.

    For a law of N and D whose residuals are differences of ln L or L.
    """
    x = problem.columns
    largest = float(np.max(x["N"] * x["D"]))
    top = float(problem.target[np.argmax(x["N"] * x["D"])])
    J = gradients(problem, minimum.theta)
    w = problem.weights * curvature(problem, minimum)
    prior = prior_rows(problem, minimum.theta)
    solver = (
        np.linalg.pinv(J.T @ (J * w[:, None]) + prior.T @ prior, hermitian=True)
        @ (J * w[:, None]).T
    )
    there, loss = _slopes(problem, minimum, columns)
    unit = problem.target if problem.on == "log" else 1.0
    errors = []
    for exponent in EXPONENTS:
        term = SHARE * top * (x["N"] * x["D"] / largest) ** -exponent
        beyond = SHARE * top * (columns["N"] * columns["D"] / largest) ** -exponent
        absorbed = there @ (solver @ (term / unit))
        if problem.on == "log":
            absorbed = absorbed * loss
        errors.append(np.abs(beyond - absorbed) / loss)
    return np.max(errors, axis=0)


def _slopes(
    problem: Problem, minimum: Minimum, columns: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the derivative (m, q) of the law, or its log, by the unknowns, and the law (m,)."""
    step = 1e-5
    moved = minimum.theta + step * np.concatenate([np.eye(problem.q), -np.eye(problem.q)], 1)
    at = {name: x[:, None] for name, x in columns.items()}
    with np.errstate(all="ignore"):
        loss = problem.law.predict(problem.params(minimum.theta), **at)[:, 0]
        y = problem.law.predict(problem.params(moved), **at)
    y = np.log(y) if problem.on == "log" else y
    return (y[:, : problem.q] - y[:, problem.q :]) / (2 * step), loss
