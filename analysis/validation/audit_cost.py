"""What a difference between two sets of constants costs at larger compute, in nats and FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.frontiers.optimum import optimum_at
from analysis.laws import Law
from analysis.tables.conventions import flops_6N, per_token

FACTORS = (10.0, 100.0)
"""Multiples of the table's largest compute at which laws are compared."""
_FURTHEST = 1e9
"""Compute beyond this multiple counts as out of reach."""

Params = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A difference of predicted loss at 10 and 100 times the compute, the larger of the two."""

    nats: float | None
    """In the unit of the loss; None if the law does not predict a loss."""
    flops: float | None = None
    """Further training FLOPs that make it up, by the re-derived law; None if none do, or if the
    law does not tell."""
    factor: float | None = None
    """The multiple of the table's compute."""
    share: float | None = None
    """`flops` relative to the compute at that multiple."""


class Beyond:
    """A law at its compute-optimal point at multiples of the largest compute of a table.

    Inputs other than N, D and C are held at their value in the largest run. A law without N and D
    is evaluated at larger inputs instead: all of the factor for C, its root for N or D.
    """

    def __init__(self, law: Law, runs: pd.DataFrame) -> None:
        self.law = law
        largest = runs.iloc[int(np.argmax(_size(law, runs)))]
        self.at = {name: float(largest[name]) for name in law.inputs}
        self.allocates = {"N", "D"} <= set(law.inputs)
        self.flops_of: Any = flops_6N
        if self.allocates and "C" in runs.columns and runs["C"].gt(0).all():
            self.flops_of = per_token(runs)
        self.C: float | None = None
        if self.allocates:
            each = self.flops_of(runs["N"].to_numpy(float)) * runs["D"].to_numpy(float)
            self.C = float(np.max(each))
        elif "C" in law.inputs:
            self.C = self.at["C"]
        if "D_unique" in law.inputs:
            self.at["D_unique"] = float(runs["D_unique"].max())
        self._reduced = _in_N_and_D(law, self.at) if self.allocates else law

    def point(self, params: Params, factor: float) -> dict[str, float]:
        """Return the inputs and the target at the optimum of `factor` times the compute."""
        if self.allocates:
            C = np.array([factor * float(self.C or np.nan)])
            each = {p: np.array([float(v)]) for p, v in params.items()}
            with np.errstate(all="ignore"):
                best = optimum_at(self._reduced, each, C, self.flops_of)
            found = {name: float(v[0, 0]) for name, v in best.items()}
            return {**self.at, **found, "C": float(C[0]), self.law.target: found["L"]}
        power = {"C": 1.0, "S": 1.0, "B": 0.0}
        at = {n: v * factor ** power.get(n, 0.5) for n, v in self.at.items()}
        return {**at, self.law.target: self._value(params, at)}

    def loss(self, params: Params, factor: float) -> float:
        """Return the predicted target at the optimum of `factor` times the compute."""
        return self.point(params, factor)[self.law.target]

    def difference(self, one: Params, other: Params, factor: float) -> float:
        """Return the difference of the two predictions; at the point of `other` if `one` has no
        optimum there."""
        there = self.point(other, factor)
        first = self.loss(one, factor)
        if not np.isfinite(first) and np.isfinite(there[self.law.target]):
            first = self._value(one, {name: there[name] for name in self.law.inputs})
        return first - there[self.law.target]

    def cost(self, one: Params, other: Params) -> Cost:
        """Return the larger difference at the two multiples, and the FLOPs that make it up by the
        law of `other`."""
        if self.law.target != "L":
            return Cost(nats=None)
        found = [(abs(self.difference(one, other, f)), f) for f in FACTORS]
        known = [each for each in found if np.isfinite(each[0])]
        if not known:
            return Cost(nats=None)
        nats, factor = max(known)
        return self.priced(nats, other, factor)

    def priced(self, nats: float, params: Params, factor: float = FACTORS[-1]) -> Cost:
        """Return a cost in nats with the FLOPs that make it up by a law."""
        if self.law.target != "L":
            return Cost(nats=None)
        share = self._made_up(nats, params, factor)
        flops = None if share is None or self.C is None else share * factor * self.C
        return Cost(nats=nats, flops=flops, factor=factor, share=share)

    def _made_up(self, nats: float, params: Params, factor: float) -> float | None:
        """Return by which fraction compute must grow to lower the loss by so much."""
        if self.C is None:
            return None
        goal = self.loss(params, factor) - nats
        low, high = 0.0, float(np.log(_FURTHEST))
        if not self.loss(params, factor * _FURTHEST) <= goal:
            return None
        for _ in range(60):
            middle = (low + high) / 2
            if self.loss(params, factor * float(np.exp(middle))) <= goal:
                high = middle
            else:
                low = middle
        return float(np.expm1(high))

    def _value(self, params: Params, at: Params) -> float:
        with np.errstate(all="ignore"):
            return float(self.law.predict(params, **{n: at[n] for n in self.law.inputs}))


def _size(law: Law, runs: pd.DataFrame) -> np.ndarray:
    """Return what orders the rows by compute."""
    if "C" in runs.columns:
        return runs["C"].to_numpy(float)
    names = [name for name in ("N", "D") if name in law.inputs] or [law.inputs[0]]
    return runs[names].astype(float).prod(axis=1).to_numpy(float)


def _in_N_and_D(law: Law, at: Mapping[str, float]) -> Law:
    """Return the law as one of N and D, with its other inputs held."""
    if set(law.inputs) == {"N", "D"}:
        return law
    held = {name: v for name, v in at.items() if name not in ("N", "D")}

    def function(N: Any, D: Any, **params: Any) -> Any:
        columns = {"N": N, "D": D, **held}
        return law.function(*(columns[name] for name in law.inputs), **params)

    return replace(law, function=function, inputs=("N", "D"), optimum=None)
