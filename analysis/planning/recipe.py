"""Batch size, steps and learning rate of a planned run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis import laws
from analysis.critical_batch import CriticalBatch
from analysis.in_words import times
from analysis.planning.extrapolation import INSIDE
from analysis.published import PublishedLaw

li2025_B = PublishedLaw(
    laws.batch_size, {"c": 0.58, "q": 0.571}, "Li et al. 2025 (arXiv 2503.04715), eq. 1"
)
li2025_lr = PublishedLaw(
    laws.learning_rate,
    {"c": 1.79, "p": -0.713, "q": 0.307},
    "Li et al. 2025 (arXiv 2503.04715), eq. 1",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train N parameters on D tokens."""

    B: float
    """Tokens per step."""
    S: float
    """Number of steps, D / B."""
    lr: float
    """Peak learning rate."""
    sources: dict[str, str]
    """Where B and lr come from."""
    beyond: dict[str, float] = field(default_factory=dict)
    """How many times B and lr lie outside those of the runs: 1 inside; absent if unknown."""

    def origin(self, name: str) -> str:
        """Return where B or lr comes from, and how far it is beyond those of the runs."""
        far = self.beyond.get(name, 1.0)
        return self.sources[name] + (f"; {times(far)}x beyond the runs" if far > INSIDE else "")

    def record(self) -> dict[str, Any]:
        """Return plain numbers and strings, ready for JSON."""
        return {
            "B": self.B,
            "S": self.S,
            "lr": self.lr,
            "sources": self.sources,
            "beyond": self.beyond,
        }


def recipe(
    *,
    N: float,
    D: float,
    L: float,
    runs: pd.DataFrame | None = None,
    critical: CriticalBatch | None = None,
) -> Recipe:
    """Return batch size, steps and learning rate for N parameters, D tokens and target loss L.

    critical  gives B = B_crit(L), at which training takes twice the fewest steps and examples
              (Kaplan et al. 2020, section 6.1); without it, or if it has no law, B = 0.58 D^0.571
              tokens.
    runs      if their learning rates follow one power law of N, D and B, it is continued;
              otherwise lr = 1.79 N^-0.713 D^0.307.

    Both published rules are from Li et al. 2025, for AdamW at a vocabulary of 65536.
    """
    if critical is not None and critical.law is not None:
        B, B_source = float(critical.law.predict(L=L)), "B_crit(L) of these runs"
    else:
        B, B_source = float(li2025_B.predict(D=D)), f"0.58 D^0.571, {li2025_B.source}"
    rule = None if runs is None else _rule(runs)
    if rule is not None:
        rate, formula = rule
        lr, lr_source = rate(N, D, B), f"the rule of these runs, {formula}"
    else:
        lr = float(li2025_lr.predict(N=N, D=D))
        lr_source = f"1.79 N^-0.713 D^0.307, {li2025_lr.source}"
    beyond = {} if runs is None else _beyond(runs, {"B": B, "lr": lr})
    return Recipe(B=B, S=D / B, lr=lr, sources={"B": B_source, "lr": lr_source}, beyond=beyond)


def _beyond(runs: pd.DataFrame, values: dict[str, float]) -> dict[str, float]:
    """Return how many times B and lr lie outside those of the runs: 1 inside."""
    beyond = {}
    for name, value in values.items():
        column = {"lr": "lr_peak"}.get(name, name)
        if column in runs.columns:
            used = pd.to_numeric(runs[column], errors="coerce")
            used = used[(used > 0) & np.isfinite(used)]
            if len(used):
                beyond[name] = float(max(1.0, value / used.max(), used.min() / value))
    return beyond


def _rule(runs: pd.DataFrame) -> tuple[Callable[[float, float, float], float], str] | None:
    """Return the power law of N, D and B that the runs' learning rates follow to within a percent,
    and its formula; None if there is none."""
    names = [n for n in ("lr_peak", "N", "D", "B") if n in runs.columns]
    runs = runs[names].apply(pd.to_numeric, errors="coerce").dropna(axis=1)
    if "lr_peak" not in runs.columns or not (runs > 0).all(axis=None):
        return None
    names = [n for n in ("N", "D", "B") if n in runs.columns and runs[n].nunique() > 1]
    x = np.log(runs[names].to_numpy(float))
    y = np.log(runs["lr_peak"].to_numpy(float))
    regressors = np.column_stack([np.ones(len(y)), x])
    found = np.linalg.lstsq(regressors, y, rcond=None)[0]
    if np.abs(regressors @ found - y).max() > 0.01 or runs["N"].nunique() < 3:
        return None
    exponents = {n: p for n, p in zip(names, found[1:], strict=True) if abs(p) > 1e-3}
    if not exponents:  # one rate for all sizes is no rule to continue
        return None
    factors = [f"{np.exp(found[0]):.3g}", *(f"{n}^{p:.3g}" for n, p in exponents.items())]

    def rate(N: float, D: float, B: float) -> float:
        values = {"N": N, "D": D, "B": B}
        return float(np.exp(found[0]) * np.prod([values[n] ** p for n, p in exponents.items()]))

    return rate, " ".join(factors)
