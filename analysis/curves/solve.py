"""Minimise the objective of a law of learning curves, from several starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from analysis.curves.laws import CurveLaw, Points

ALPHAS = (0.2, 0.5, 1.0)
"""Exponents of the power law that a fit starts from."""

POLISHED = 4
"""Number of starts, the best ones, that are minimised to the end."""


@dataclass(frozen=True, eq=False)
class Solution:
    """A minimum, and what was found from the other starts."""

    params: dict[str, float]
    unknowns: np.ndarray
    misfit: float
    """The sum of Huber's function of the log residuals."""
    objective: float
    """What was minimised: the weighted misfit and the penalty of the prior."""
    objectives: tuple[float, ...]
    """Objectives reached from the starts, ascending."""
    gradient: float
    """How far the objective could still fall by its quadratic model, relative to it."""


def huber(r: np.ndarray, delta: float) -> np.ndarray:
    """Return Huber's function of each residual: r^2 / 2 until delta, then linear."""
    a = np.abs(r)
    return np.where(a <= delta, 0.5 * a * a, delta * (a - 0.5 * delta))


class Objective:
    """The residuals of log losses as a function of unknowns that may take any value."""

    def __init__(
        self,
        law: CurveLaw,
        points: Points,
        log_loss: np.ndarray,
        *,
        delta: float = 1e-3,
        strength: float = 0.0,
        weight: np.ndarray | None = None,
    ) -> None:
        self.law, self.points, self.log_loss = law, points, log_loss
        self.delta, self.strength = delta, strength
        self.root = np.ones(points.n) if weight is None else np.sqrt(weight)
        self.log = np.array([True, True, True, True, *law.log])  # a loss has a positive floor
        believed = [law.prior.get(p) for p in law.params]
        self.believed = np.array([b is not None for b in believed])
        self.centre = np.array([b[0] if b else 0.0 for b in believed])
        self.width = np.array([b[1] if b else np.inf for b in believed])

    def penalty(self, u: np.ndarray) -> np.ndarray:
        """Return the residuals of the prior beliefs, one per parameter that has one."""
        pull = np.sqrt(self.strength) * (u - self.centre) / self.width
        return pull[self.believed] if self.strength else pull[:0]

    def penalty_slopes(self) -> np.ndarray:
        """Return the derivatives of the residuals of the prior beliefs."""
        slopes = np.diag(np.sqrt(self.strength) / self.width)
        return slopes[self.believed] if self.strength else slopes[:0]

    def value(self, u: np.ndarray) -> float:
        """Return what is minimised: Huber's function of the weighted residuals, and the penalty."""
        r, _ = self.residuals(u)
        return float(huber(r, self.delta).sum()) + float((self.penalty(u) ** 2).sum() / 2)

    def misfit(self, u: np.ndarray) -> float:
        """Return the sum of Huber's function of the log residuals, without weights."""
        return float(huber(self.log_residuals(u)[0], self.delta).sum())

    def params(self, u: np.ndarray) -> dict[str, float]:
        """Return the parameters at unknowns."""
        with np.errstate(over="ignore"):
            values = np.where(self.log, np.exp(np.clip(u, -700, 700)), u)
        return dict(zip(self.law.params, values.tolist(), strict=True))

    def unknowns(self, params: Mapping[str, float]) -> np.ndarray:
        """Return the unknowns of parameters."""
        values = np.array([params[p] for p in self.law.params])
        return np.where(self.log, np.log(np.where(self.log, np.maximum(values, 1e-300), 1)), values)

    def residuals(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weighted log residuals and their derivatives by the unknowns."""
        r, J = self.log_residuals(u)
        return self.root * r, self.root[:, None] * J

    def log_residuals(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log measured / law of each point and the derivatives by the unknowns."""
        params = self.params(u)
        with np.errstate(all="ignore"):
            loss, slopes = self.law.loss_and_slopes(params, self.points)
            slopes = slopes * np.where(self.log, np.array(list(params.values())), 1.0)
        low = loss < 1e-10
        safe = np.where(low, 1e-10, loss)
        r = self.log_loss - np.log(safe)
        J = -slopes / safe[:, None]
        J[low] = 0
        return np.nan_to_num(r, nan=1e3, posinf=1e3, neginf=-1e3), np.nan_to_num(J)


def linear_part(
    law: CurveLaw, points: Points, loss: np.ndarray, alpha: float, shape: tuple[float, ...]
) -> dict[str, float] | None:
    """Return the parameters with the best L0, A and coefficient; None if one is not positive."""
    drop = law.drop(points, shape).value
    X = np.stack([np.ones_like(loss), points.S1**-alpha, drop], axis=1)
    scale = np.abs(X).max(axis=0)
    if (scale == 0).any():
        X, scale = X[:, :2], scale[:2]
    found, *_ = np.linalg.lstsq(X / scale / loss[:, None], np.ones_like(loss), rcond=None)
    L0, A, *rest = (found / scale).tolist()
    B = rest[0] if rest else 1.0
    if A <= 0 or B <= 0:
        return None
    L0 = max(L0, 0.01 * float(loss.min()))
    return {"L0": L0, "A": A, "alpha": alpha, law.coefficient: B} | dict(
        zip(law.shape, shape, strict=True)
    )


def minimise(
    objective: Objective, start: np.ndarray, evaluations: int = 300
) -> tuple[np.ndarray, float]:
    """Return the unknowns at a local minimum, and the objective there."""
    delta = objective.delta
    prior = objective.penalty_slopes()
    n = objective.points.n

    def both(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r, J = objective.residuals(u)
        return np.concatenate([r, objective.penalty(u)]), np.concatenate([J, prior])

    # In coordinates in which the curvature at the start is 1, the trust region is a sphere.
    R = np.linalg.qr(both(start)[1], mode="r")
    inverse = np.linalg.inv(R + 1e-9 * (np.abs(R).max() or 1.0) * np.eye(len(start))) * delta
    last: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def at(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = v.tobytes()
        if key not in last:
            last.clear()
            last[key] = both(start + inverse @ v)
        return last[key]

    def rho(z: np.ndarray) -> np.ndarray:
        """Huber's function of the points and the square of the prior; with two derivatives."""
        outside = z > 1
        outside[n:] = False
        root = np.sqrt(np.where(outside, z, 1.0))
        return np.stack(
            [
                np.where(outside, 2 * root - 1, z),
                np.where(outside, 1 / root, 1.0),
                np.where(outside, -0.5 / root**3, 0.0),
            ]
        )

    found = least_squares(
        lambda v: at(v)[0], np.zeros(len(start)), lambda v: at(v)[1] @ inverse,
        loss=rho, f_scale=delta, max_nfev=evaluations, ftol=1e-10, xtol=1e-10, gtol=1e-14,
    )  # fmt: skip
    u = start + inverse @ found.x
    return u, objective.value(u)


def gradient(objective: Objective, u: np.ndarray) -> float:
    """Return how far the objective could still fall by its quadratic model, relative to it."""
    r, J = objective.residuals(u)
    inside = np.abs(r) <= objective.delta
    prior = objective.penalty_slopes()
    g = J.T @ np.clip(r, -objective.delta, objective.delta) + prior.T @ objective.penalty(u)
    H = J[inside].T @ J[inside] + prior.T @ prior
    scale = np.sqrt(np.maximum(np.diag(H), 1e-300))
    step = np.linalg.lstsq(H / np.outer(scale, scale), g / scale, rcond=1e-12)[0]
    exact = 1e-6 * objective.delta**2 * len(r)  # an objective as good as 0
    return float(abs(step @ (g / scale)) / (2 * max(objective.value(u), exact)))


def solve(objective: Objective, peak: float) -> Solution:
    """Return the best minimum from several starts.

    At each start the linear parameters are the best ones given the others.
    """
    law, loss = objective.law, np.exp(objective.log_loss)
    found = []
    for shape in law.starts:
        named = dict(zip(law.shape, shape, strict=True))
        if law.unit is not None:
            named = law.unit(named, peak)
        for alpha in ALPHAS:
            params = linear_part(law, objective.points, loss, alpha, tuple(named.values()))
            if params is None:
                continue
            u = objective.unknowns(params)
            found.append((objective.value(u), u))
    if not found:
        raise np.linalg.LinAlgError("no start gives a falling curve")
    found.sort(key=lambda each: each[0])
    minima = sorted((minimise(objective, u) for _, u in found[:POLISHED]), key=lambda each: each[1])
    u, value = minima[0]
    return Solution(
        objective.params(u), u, objective.misfit(u), value,
        tuple(each[1] for each in minima), gradient(objective, u),
    )  # fmt: skip
