"""What an isoFLOP method adds to the optimum, measured on the law that predicts the runs best.

The law's noiseless losses at the sizes of each budget are treated as measured ones, and the minimum
that the method finds is compared with the law's own. The bias comes from the width of the grid,
from where its middle lies and from alpha != beta (Czech et al. 2026, arXiv 2603.22339).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.budgets import budget_of
from analysis.frontiers.choice import Choice, choose
from analysis.frontiers.isoflop_curve import CurveMethod
from analysis.frontiers.optimum import optimum_at
from analysis.laws import Law
from scaling.errors import TableError

_REFERENCE_RUNS = 250
"""Number of runs that determine the reference law as well as thousands do."""
_LAW_DRAWS = 200
"""Draws of the law's parameters at most: the bias' own uncertainty needs no more."""
_EXACT = 1e-6
"""A held-out error below this is exact: laws are not told apart below it."""
_LEAST_WEIGHT = 0.01
"""Laws of less weight than this are left out."""


@dataclass(frozen=True, kw_only=True)
class ReferenceLaw:
    """The laws that a bias is measured on, with the weight of each."""

    laws: Mapping[str, FitResult]
    """The fitted laws by name, the one that gives the estimate first."""
    weights: Mapping[str, float]
    """Fractions of the draws of the bias that are measured on each law."""

    @property
    def name(self) -> str:
        """Name of the law that gives the estimate."""
        return next(iter(self.laws))

    @property
    def first(self) -> FitResult:
        """The law that gives the estimate."""
        return self.laws[self.name]

    @property
    def shares(self) -> dict[str, float]:
        """The weight of each law as a fraction of all."""
        total = sum(self.weights.values())
        return {name: self.weights[name] / total for name in self.laws}

    def predict(self, *, N: Any, D: Any) -> np.ndarray:
        """Return the loss under the law that gives the estimate."""
        return self.first.predict(N=N, D=D)

    def draws(self, count: int, seed: int) -> list[tuple[Law, dict[str, np.ndarray], np.ndarray]]:
        """Return (law, parameters, positions) for `count` draws, and the estimate at position 0.

        Each law has its share of the positions, in a random order.
        """
        rng = np.random.default_rng(seed)
        which = rng.choice(len(self.laws), count, p=list(self.shares.values()))
        found = []
        for i, (name, result) in enumerate(self.laws.items()):
            positions = 1 + np.flatnonzero(which == i)
            rows = result.samples
            take = rng.integers(len(rows), size=len(positions)) if len(rows) else None
            params = {
                p: np.full(len(positions), value) if take is None else rows[p].to_numpy(float)[take]
                for p, value in result.params.items()
            }
            if name == self.name:
                positions = np.append(0, positions)
                params = {p: np.append(result.params[p], v) for p, v in params.items()}
            if len(positions):
                found.append((result.law, params, positions))
        return found


def reference_law(
    runs: pd.DataFrame,
    given: Law | FitResult | Choice | ReferenceLaw | None,
    *,
    bootstrap: int,
    seed: int,
) -> ReferenceLaw | None:
    """Return the law that the bias is measured on; None if none can be fitted.

    given  A law of N and D to fit to the runs, a fit, the choice of the laws, or the result of an
           earlier call. By default the law that predicts the larger runs best is chosen. A few
           hundred of the runs, spread over N and C, are used.
    """
    if isinstance(given, ReferenceLaw):
        return given
    if isinstance(given, FitResult):
        return _alone(given)
    spread = runs.sort_values(["C", "N"], kind="stable")
    spread = spread.iloc[:: max(1, len(runs) // _REFERENCE_RUNS)]
    bootstrap = min(bootstrap, _LAW_DRAWS)
    try:
        if isinstance(given, Law):
            return _alone(fit(given, spread, bootstrap=bootstrap, seed=seed))
        chosen = given or choose(spread, bootstrap=bootstrap, seed=seed, alone=True)
    except (FitError, TableError):
        return None
    laws, weights = _members(chosen)
    return ReferenceLaw(laws=laws, weights=weights)


def _alone(result: FitResult) -> ReferenceLaw | None:
    if set(result.law.inputs) != {"N", "D"}:
        return None
    return ReferenceLaw(laws={result.law.name: result}, weights={result.law.name: 1.0})


def _members(chosen: Any) -> tuple[dict[str, FitResult], dict[str, float]]:
    """Return the laws of a choice or a combination, with weights, the heaviest first.

    The laws of a choice weigh as their held-out errors^-2, whether the data determine them beyond
    their sizes or not: the bias is measured within. A law that the caller asked for is alone, and
    so is the first of runs too few to hold any out.
    """
    if isinstance(chosen, Choice):
        if chosen.rule != "held_out":
            return {chosen.name: chosen.first}, {chosen.name: 1.0}
        weights = {name: max(error, _EXACT) ** -2 for name, error in chosen.errors.items()}
        fits: Mapping[str, FitResult] = chosen.fits
    else:
        weights, fits = dict(chosen.weights), chosen.laws
    laws = {name: fits[name] for name in sorted(weights, key=lambda name: -weights[name])}
    total = sum(weights.values())
    shares = {name: weights[name] / total for name in laws}
    first = next(iter(laws))
    kept = {n: r for n, r in laws.items() if n == first or shares[n] >= _LEAST_WEIGHT}
    return kept, {name: shares[name] for name in kept}


@dataclass(frozen=True, kw_only=True)
class Bias:
    """What the method adds to ln N and ln L at each budget, and its uncertainty."""

    N: np.ndarray
    """(1 + draws, budgets): the estimate first, then a draw of the law's parameters each. nan where
    the law has no minimum within the sizes."""
    L: np.ndarray

    @classmethod
    def unknown(cls, budgets: int, count: int) -> Bias:
        """Return the bias without a law to measure it on."""
        nothing = np.full((1 + count, budgets), np.nan)
        return cls(N=nothing, L=nothing.copy())

    def completed(self, x: np.ndarray) -> Bias | None:
        """Return the bias with that of each budget known, from the line in x through the others.

        A draw that is known at fewer than two budgets repeats another. Returns None if the estimate
        is known at fewer than two budgets, or if most of the draws are not.
        """
        known = np.isfinite(self.N) & np.isfinite(self.L)
        fine = known.sum(axis=1) >= 2
        if not fine[0] or fine.mean() < 0.5:
            return None
        rows = np.flatnonzero(fine)
        source = np.where(fine, np.arange(len(fine)), rows[np.arange(len(fine)) % len(rows)])
        known = known[source]
        both = [_filled(x, y[source], known) for y in (self.N, self.L)]
        return Bias(N=both[0], L=both[1])


def _filled(x: np.ndarray, y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return y with missing values on the line through the known ones of its row."""
    if known.all():
        return y
    w, y = known.astype(float), np.where(known, y, 0.0)
    count = w.sum(axis=1, keepdims=True)
    mean_x, mean_y = (
        (w * x).sum(axis=1, keepdims=True) / count,
        y.sum(axis=1, keepdims=True) / count,
    )
    offset = x - mean_x
    spread = (w * offset**2).sum(axis=1, keepdims=True)
    slope = (w * offset * (y - mean_y)).sum(axis=1, keepdims=True) / spread
    return np.where(known, y, mean_y + slope * offset)


def measured_bias(
    law: ReferenceLaw | None,
    budgets: Sequence[pd.DataFrame],
    method: CurveMethod,
    flops_of: Callable[[Any], Any],
    *,
    count: int,
    seed: int,
) -> Bias:
    """Measure the bias of the method at each budget, for `count` draws of the reference law."""
    bias = Bias.unknown(len(budgets), count)
    if law is None:
        return bias
    for form, params, positions in law.draws(count, seed):
        for i, budget in enumerate(budgets):
            N, L = _bias_at(form, params, budget, method, flops_of)
            bias.N[positions, i], bias.L[positions, i] = N, L
    return bias


def _bias_at(
    law: Law,
    params: Mapping[str, np.ndarray],
    budget: pd.DataFrame,
    method: CurveMethod,
    flops_of: Callable[[Any], Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the method adds to ln N and ln L at one budget, for each set of parameters.

    The parabola passes through the same sizes as that of the measured losses.
    """
    C = budget_of(budget)
    u = np.log(budget["N"].to_numpy(float))
    columns = {
        "N": budget["N"].to_numpy(float),
        "D": budget["D"].to_numpy(float) * C / budget["C"].to_numpy(float),
    }
    p = {name: value[:, None] for name, value in params.items()}
    with np.errstate(all="ignore"):
        v = np.log(np.asarray(law(*(columns[name] for name in law.inputs), **p), float))
    v = np.broadcast_to(v, (len(next(iter(params.values()))), len(u)))
    true = optimum_at(law, dict(params), np.array([C]), flops_of)
    fine = np.isfinite(v).all(axis=1) & np.isfinite(true["N"][:, 0])
    N, L = np.full(len(v), np.nan), np.full(len(v), np.nan)
    if fine.any():
        used = method.used(u, np.log(budget["L"].to_numpy(float)))
        at, least = method.minima(u, v[fine], used)
        inside = (at > u[0]) & (at < u[-1])
        N[fine] = np.where(inside, at, np.nan) - np.log(true["N"][fine, 0])
        L[fine] = np.where(inside, least, np.nan) - np.log(true["L"][fine, 0])
    return N, L
