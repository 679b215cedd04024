"""Prior beliefs about the parameters of laws, and the penalty that they add to a fit.

A fit with a prior minimises sum_i w_i rho(r_i) + v sum_j z_j^2 / 2. Here z_j = (ln p_j - m_j) / s_j
for each parameter p_j with a belief, and v is the assumed variance of a residual. This is the
maximum a posteriori (MAP) estimate. The variance is that of the residuals, inflated, because
residuals that follow the inputs say less than independent ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

import numpy as np
import pandas as pd

from analysis.laws import Law, LawError

_FILE = "field_prior.json"
_SAME = 0.5
"""A table belongs to a published collection if this fraction of its rows does."""


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


def field_prior(runs: pd.DataFrame | None = None) -> Prior:
    """Return the prior named 'field', for laws of N and D of language models.

    It is learned from published collections of runs, with as much weight for each. A collection
    whose rows are among the `runs` is left out, so that no table is its own prior. The file
    field_prior.json holds a median of each collection; benchmarks/field_prior.py derives it.
    """
    record = json.loads(resources.files("analysis.fitting").joinpath(_FILE).read_text())
    own = fingerprints(runs) if runs is not None else frozenset()
    kept = {
        name: values
        for name, values in record["collections"].items()
        if not own or len(own.intersection(values["rows"].split())) < _SAME * len(own)
    }
    beliefs = {
        p: Belief(
            centre=float(np.exp(np.mean([np.log(values[p]) for values in kept.values()]))),
            sd=sd,
            relative=p in record["relative"],
        )
        for p, sd in record["widths"].items()
    }
    return Prior(
        beliefs=beliefs,
        name="field",
        tail=record["tail"],
        inflation=record["inflation"],
        source=f"{record['source']}: {', '.join(kept)}",
    )


def fingerprints(runs: pd.DataFrame) -> frozenset[str]:
    """Return a short hash of each row's N, D and L, to three digits; empty without these."""
    if not {"N", "D", "L"} <= {*runs.columns}:
        return frozenset()
    numbers = runs[["N", "D", "L"]].apply(pd.to_numeric, errors="coerce").dropna()
    lines = (f"{N:.2e} {D:.2e} {L:.2e}" for N, D, L in numbers.itertuples(index=False))
    return frozenset(hashlib.sha256(line.encode()).hexdigest()[:6] for line in lines)


def prior_named(prior: Prior | str, runs: pd.DataFrame) -> Prior:
    """Return a prior, or the one of that name. Raises LawError for an unknown name."""
    if isinstance(prior, Prior):
        return prior
    if prior == "field":
        return field_prior(runs)
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
