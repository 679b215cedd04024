"""Prior beliefs about the parameters of laws, and the penalty that they add to a fit.

A fit with a prior minimises sum_i w_i rho(r_i) + v sum_j z_j^2 / 2. Here z_j = (ln p_j - m_j) / s_j
for each parameter p_j with a belief, and v is the assumed variance of a residual. This is the
maximum a posteriori (MAP) estimate. The variance is that of the residuals, inflated, because
residuals that follow the inputs say less than independent ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

from analysis.laws import Law, LawError


@dataclass(frozen=True)
class Belief:
    """A belief about one positive parameter: the logarithm is `centre` in the log, give or take
    `sd`."""

    centre: float
    """The median, in the unit of the parameter, or in units of the least measured target."""
    sd: float
    """Standard deviation of the natural logarithm."""
    relative: bool = False
    """Whether `centre` is a multiple of the smallest measured value of the law's target."""

    def __post_init__(self) -> None:
        for name, x in (("centre", self.centre), ("sd", self.sd)):
            if not (np.isfinite(x) and x > 0):
                raise LawError(f"Belief: {name}={x} must be positive and finite.")


@dataclass(frozen=True)
class Prior:
    """Beliefs about parameters by name; those that a law does not have are ignored."""

    beliefs: Mapping[str, Belief] = field(hash=False)
    name: str = "own"
    tail: float | None = None
    """Degrees of freedom of Student's t; None for a Gaussian. Fewer doubt the prior sooner."""
    inflation: float = 2.0
    """The standard deviation of a residual is taken as this many times that of the residuals."""
    source: str = ""
    """Where the beliefs come from."""

    def __post_init__(self) -> None:
        for name, x in (("inflation", self.inflation), ("tail", self.tail)):
            if x is not None and not (np.isfinite(x) and x > 0):
                raise LawError(f"Prior: {name}={x} must be positive and finite.")

    def for_law(self, law: Law, free: tuple[str, ...]) -> tuple[str, ...]:
        """Return the free parameters of a law about which there is a belief."""
        return tuple(p for p in free if p in self.beliefs and law.ranges[p].positive)


def field_prior() -> Prior:
    """Return the prior named 'field'."""
    record = json.loads(
        resources.files("analysis.fitting").joinpath("field_prior.json").read_text()
    )
    return Prior(
        beliefs={p: Belief(**belief) for p, belief in record["beliefs"].items()},
        name="field",
        tail=record["tail"],
        inflation=record["inflation"],
        source=record["source"],
    )


def prior_named(prior: Prior | str) -> Prior:
    """Return a prior, or the one of that name. Raises LawError for an unknown name."""
    if isinstance(prior, Prior):
        return prior
    if prior == "field":
        return field_prior()
    raise LawError(f"prior={prior!r} must be 'field' or a Prior.")


class Penalty:
    """The prior's part of an objective, as a function of natural unknowns u (q, S).

    Unknowns are logs of coefficients, and exponents (see :mod:`analysis.fitting.problem`).
    """

    def __init__(
        self, prior: Prior, law: Law, free: tuple[str, ...], log: list[bool], least: float
    ) -> None:
        names = prior.for_law(law, free)
        beliefs = [prior.beliefs[p] for p in names]
        self.names = names
        self.index = np.array([free.index(p) for p in names], int)
        self.log = np.array([log[i] for i in self.index], bool)[:, None]
        unit = [least if b.relative else 1.0 for b in beliefs]
        self.centre = np.log([b.centre * u for b, u in zip(beliefs, unit, strict=True)])[:, None]
        self.sd = np.array([b.sd for b in beliefs], float)[:, None]
        self.tail = prior.tail

    def _deviation(self, u: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
        x = u[self.index]
        with np.errstate(all="ignore"):
            x = np.where(self.log, x, np.log(x))
        return (x - self.centre - (0.0 if shift is None else shift)) / self.sd

    def value(self, u: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray:
        """Return the penalty (S,): infinite (nan) where a parameter is not positive.

        shift: (T, S) by how much each centre is moved, for draws.
        """
        z = self._deviation(u, shift)
        if self.tail is None:
            return 0.5 * np.sum(z * z, axis=0)
        return 0.5 * (self.tail + 1) * np.sum(np.log1p(z * z / self.tail), axis=0)

    def slopes(
        self, u: np.ndarray, shift: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the derivative of the penalty (T, S) by each unknown, and the second one.

        The second derivative is that of iteratively reweighted least squares: never negative.
        """
        z = self._deviation(u, shift)
        w = 1.0 if self.tail is None else (self.tail + 1) / (self.tail + z * z)
        with np.errstate(all="ignore"):
            rate = np.where(self.log, 1.0, 1.0 / u[self.index]) / self.sd
        return w * z * rate, w * rate * rate

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return shifts (T, count) of the centres, drawn from the prior."""
        shape = (len(self.index), count)
        z = rng.normal(size=shape) if self.tail is None else rng.standard_t(self.tail, shape)
        return z * self.sd
