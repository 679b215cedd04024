"""Two recipes fitted together: one law, of which some parameters are shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import scipy

from analysis import notebook
from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.power_terms import terms
from analysis.fitting.result import FitResult
from analysis.frontiers.optimum import optimum_at
from analysis.laws import Law, Range
from analysis.tables.conventions import flops_6N

Share = Literal["floor", "exponents", "nothing"]
"""What the recipes share: the floor E, the floor and the exponents, or nothing."""

RECIPE = "recipe"
"""Column of the joint table: 1 for recipe A and 2 for recipe B."""
FLOOR = "E"
"""The parameter of every law with a floor that is its irreducible loss."""
_RATIO = Range(-2, 2)
"""Where the search for ln(coefficient of B / coefficient of A) starts."""
_DIFFERENCE = Range(-0.3, 0.3)
"""Where the search for the difference of two exponents starts."""
_GRID = 97
_REACH = 1e8
"""Losses are tabulated from 1 / _REACH to _REACH times the compute of the data."""
ROUNDING = 1e-10
"""Losses whose relative difference is smaller are equal."""
_CELL = 0.5
"""A root lies within this of its estimate from the table, in ln C."""
HORIZON = 1e6
"""A crossover beyond this times the largest compute of the runs counts as none."""


@dataclass(frozen=True, kw_only=True)
class JointFit:
    """Two recipes fitted with one law; parameter draws give their losses at any compute."""

    law: Law
    """The law of one recipe."""
    result: FitResult = field(repr=False)
    """The joint fit. Its parameters are those of A; `d_p` is what B adds to an exponent p or to the
    logarithm of a coefficient p."""
    share: Share
    pinned: float | None
    """The floor, if it was given rather than fitted."""

    @cached_property
    def draws(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Parameters of A and of B, (1 + draws,) each, the estimate first."""
        samples, params = self.result.samples, self.result.params
        every = {p: np.r_[params[p], samples[p].to_numpy(float)] for p in params}
        coefficients = _coefficients(self.law, self.result.runs)
        with np.errstate(all="ignore"):
            return every, _of_recipe(self.law, every, 1.0, coefficients)

    def _repr_html_(self) -> str:
        return notebook.joint(self)

    @property
    def compute(self) -> tuple[float, float]:
        """The smallest and largest compute of the runs of both recipes together."""
        C = compute_of(self.result.runs, self.law)
        return float(C.min()), float(C.max())

    def losses(self, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the least loss of A and of B at each C, (1 + draws, n); nan where there is none.

        For a law of N and D, this is the loss of the best N at C = 6 N D.
        """
        a, b = (self._losses(params, np.atleast_1d(C)) for params in self.draws)
        return a, b

    def _losses(self, params: dict[str, np.ndarray], C: np.ndarray) -> np.ndarray:
        if self.law.inputs == ("C",):
            columns = {p: params[p][:, None] for p in self.law.params}
            with np.errstate(all="ignore"):
                return np.asarray(self.law(C[None], **columns), float)
        one = {p: params[p] for p in self.law.params}
        return optimum_at(self.law, one, C, flops_6N)["L"]

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        low, high = self.compute
        C = np.geomspace(low / _REACH, high * _REACH, _GRID)
        return np.log(C), *self.losses(C)

    def speedup(self, C: float) -> np.ndarray:
        """Return the compute with which B has the loss of A at C, over C, (1 + draws,).

        It is infinite if no compute brings B to that loss, and nan if a loss is unknown.
        """
        if self.law.inputs == ("C",) and {"A", "alpha"} <= set(self.law.params):
            return self._exact_speedup(C)
        goal = self.losses(np.array([C]))[0][:, 0]
        x, _, b = self._table
        found = np.array([_crossed(x, row, y) for row, y in zip(b, goal, strict=True)])
        found[0] = self._refined(found[0], lambda a, b: b - goal[0])
        return found / C

    def _refined(self, C: float, gap: Callable[[float, float], float]) -> float:
        """Return the root near C of a function of the estimated losses of A and B."""
        if not (np.isfinite(C) and C > 0):
            return C

        def at(u: float) -> float:
            a, b = self._estimates(np.exp(u))
            return float(gap(a, b))

        ends = np.log(C) - _CELL, np.log(C) + _CELL
        if not at(ends[0]) * at(ends[1]) < 0:
            return C
        return float(np.exp(scipy.optimize.brentq(at, *ends, xtol=1e-13)))

    def _estimates(self, C: float) -> tuple[float, float]:
        a, b = ({p: v[:1] for p, v in params.items()} for params in self.draws)
        at = np.array([C])
        return float(self._losses(a, at)[0, 0]), float(self._losses(b, at)[0, 0])

    def _exact_speedup(self, C: float) -> np.ndarray:
        """The closed form for L = E + A / C^alpha, or A / C^alpha."""
        a, b = self.draws
        with np.errstate(all="ignore"):
            floors = b.get(FLOOR, 0.0) - a.get(FLOOR, 0.0)
            # (L_A - E_B) C^alpha_B; written so that it is 1 / d_A if all else is shared.
            own = a["A"] * C ** (b["alpha"] - a["alpha"]) - floors * C ** b["alpha"]
            ratio = b["A"] / own
            out = np.where(ratio > 0, ratio ** (1 / b["alpha"]), np.inf)
        return np.where(np.isnan(ratio), np.nan, out)

    def crossovers(self) -> tuple[str | None, np.ndarray]:
        """Return which recipe is better below the crossover, and its compute, (1 + draws,).

        The crossover is the first within the tabulated computes. Of the estimate it is inf if the
        recipe that is better at the smallest compute of the runs stays so; then the name is that
        recipe's. Of a draw it is inf if that recipe is better everywhere, 0 if the other one is.
        """
        x, a, b = self._table
        gap = np.log(a) - np.log(b)  # negative where A is better
        gap[np.abs(gap) < ROUNDING] = 0.0
        known = np.isfinite(gap)
        start = int(np.searchsorted(x, np.log(self.compute[0])))
        if not known[0, start] or gap[0, start] == 0:
            return None, np.full(len(gap), np.nan)
        sign = np.sign(gap[0, start])
        found = np.array([_first_change(x, sign * row, start) for row in gap])
        found[0] = self._refined(found[0], lambda a, b: np.log(a / b))
        found[found > self.compute[1] * HORIZON] = np.inf
        return ("A" if sign < 0 else "B"), found


def _crossed(x: np.ndarray, losses: np.ndarray, goal: float) -> float:
    """Return exp(x) at which falling losses reach the goal, by interpolation in logarithms."""
    if not np.isfinite(goal):
        return np.nan
    known = np.isfinite(losses)
    x, y = x[known], losses[known]
    if len(x) < 2:
        return np.nan
    below = np.flatnonzero(y <= goal)
    if not len(below):
        return np.inf
    k = int(below[0])
    if k == 0:
        return 0.0
    # Quadratic in between: the curvature of a floor matters at the width of a cell.
    at = slice(max(k - 2, 0), min(k + 2, len(x)))
    return float(np.exp(_inverse(x[at], y[at], goal)))


def _inverse(x: np.ndarray, y: np.ndarray, goal: float) -> float:
    """Return x of y = goal by Lagrange's polynomial of x over ln y (four points at most)."""
    u, v = np.log(y), np.log(goal)
    if np.any(np.diff(u) >= 0):
        return float(np.interp(-v, -u, x))
    total = 0.0
    for i in range(len(u)):
        others = np.delete(u, i)
        total += x[i] * np.prod((v - others) / (u[i] - others))
    return float(total)


def _first_change(x: np.ndarray, gap: np.ndarray, start: int) -> float:
    """Return exp(x) where the gap turns from positive to not positive: inf if it never does, 0 if
    it is nowhere positive, nan if it does the reverse."""
    known = np.isfinite(gap)
    if not known[start:].any():
        return np.nan
    x, gap = x[known], gap[known]
    first = min(int(known[:start].sum()), len(x) - 1)
    if gap[first] > 0:
        after = np.flatnonzero(gap[first:] <= 0)
        if not len(after):
            return np.inf
        k = first + int(after[0])
        return _root(x, gap, k)
    before = np.flatnonzero(gap[: first + 1] > 0)
    if len(before):  # the change lies below the runs
        return _root(x, gap, int(before[-1]) + 1)
    return np.nan if (gap[first:] > 0).any() else 0.0


def _root(x: np.ndarray, gap: np.ndarray, k: int) -> float:
    share = gap[k - 1] / (gap[k - 1] - gap[k])
    return float(np.exp(x[k - 1] + share * (x[k] - x[k - 1])))


def compute_of(runs: pd.DataFrame, law: Law) -> np.ndarray:
    """Return the compute of each run: column C for a law of C, otherwise 6 N D."""
    if law.inputs == ("C",):
        return runs["C"].to_numpy(float)
    return 6.0 * runs["N"].to_numpy(float) * runs["D"].to_numpy(float)


def stacked(law: Law, tables: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of both recipes in one table, with RECIPE and ids that tell them apart."""
    parts = []
    for k, table in enumerate(tables, start=1):
        part = pd.DataFrame({name: table[name].to_numpy(float) for name in (*law.inputs, "L")})
        ids = table["run_id"] if "run_id" in table.columns else pd.Series(range(len(table)))
        part["run_id"] = [f"{k}/{each}" for each in ids]
        parts.append(part.assign(**{RECIPE: float(k)}))
    return pd.concat(parts, ignore_index=True)


def joint_fit(
    law: Law,
    tables: tuple[pd.DataFrame, pd.DataFrame],
    *,
    share: Share = "floor",
    floor: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> JointFit:
    """Fit a law to the runs of two recipes at once.

    floor   pins the irreducible loss of both.

    Raises FitError if the law cannot be fitted, or has no floor to pin.
    """
    runs = stacked(law, tables)
    fixed: dict[str, float] = {}
    if floor is not None:
        if FLOOR not in law.params:
            raise FitError(
                f"{law.name} has no irreducible loss {FLOOR} that could be held at {floor:g}. "
                "Choose another law, such as chinchilla, or leave --floor out."
            )
        if not 0 <= floor < runs["L"].min():
            raise FitError(
                f"the floor of {floor:g} is not below every loss: the least is "
                f"{runs['L'].min():.6g}. Give a lower floor."
            )
        fixed[FLOOR] = floor
        if floor == 0:
            fixed[FLOOR] = 1e-300  # the logarithm of a coefficient must exist
    joint = _joint_law(law, runs, share, pinned=floor is not None)
    result = fit(joint, runs, bootstrap=bootstrap, fixed=fixed, seed=seed)
    return JointFit(law=law, result=result, share=share, pinned=floor)


def _coefficients(law: Law, runs: pd.DataFrame) -> frozenset[str]:
    """Return the parameters that B multiplies by a factor; to the others it adds a number."""
    found = terms(law, {name: runs[name].to_numpy(float) for name in law.inputs}, {})
    if found is not None:
        return frozenset(p for term in found for p in term.coefficients)
    return frozenset(p for p in law.params if law.ranges[p].high > 2)


def _of_recipe(law: Law, params, r, coefficients: frozenset[str]):
    """Return the parameters of a recipe: those of A for r = 0, those of B for r = 1."""
    out = {}
    for p in law.params:
        d = params.get(f"d_{p}")
        if d is None:
            out[p] = params[p]
        elif p in coefficients:
            out[p] = params[p] * np.exp(r * d)
        else:
            out[p] = params[p] + r * d
    return out


def _joint_law(law: Law, runs: pd.DataFrame, share: Share, *, pinned: bool) -> Law:
    coefficients = _coefficients(law, runs)
    shared = set()
    if FLOOR in law.params and (pinned or share != "nothing"):
        shared.add(FLOOR)
    if share == "exponents":
        shared |= set(law.params) - coefficients
    ranges = dict(law.ranges)
    for p in law.params:
        if p not in shared:
            ranges[f"d_{p}"] = _RATIO if p in coefficients else _DIFFERENCE

    def function(*inputs, **params):
        *columns, recipe = inputs
        return law.function(*columns, **_of_recipe(law, params, recipe - 1.0, coefficients))

    function.__doc__ = f"{law.formula} for two recipes"
    function.__name__ = law.name
    return Law(
        name=law.name, function=function, inputs=(*law.inputs, RECIPE), ranges=ranges,
        target=law.target,
    )  # fmt: skip
