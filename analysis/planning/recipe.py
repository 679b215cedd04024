"""Batch size, steps and learning rate of a run that is only planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import laws
from analysis.critical_batch import CriticalBatch
from analysis.published import PublishedLaw

li2025_B = PublishedLaw(
    laws.batch_size, {"c": 0.58, "q": 0.571}, "Li et al. 2025 (arXiv 2503.04715), eq. 1"
)
li2025_lr = PublishedLaw(
    laws.learning_rate,
    {"c": 1.79, "p": -0.713, "q": 0.307},
    "Li et al. 2025 (arXiv 2503.04715), eq. 1",
)


@dataclass(frozen=True)
class Recipe:
    """How to train N parameters on D tokens."""

    B: float
    """Tokens a step."""
    S: float
    """Steps, D / B."""
    lr: float
    """Peak learning rate."""
    sources: dict[str, str]
    """Where B and lr come from."""

    def record(self) -> dict[str, Any]:
        return {"B": self.B, "S": self.S, "lr": self.lr, "sources": self.sources}


def recipe(
    *,
    N: float,
    D: float,
    L: float,
    runs: pd.DataFrame | None = None,
    critical: CriticalBatch | None = None,
) -> Recipe:
    """Batch size, steps and learning rate for N parameters, D tokens and the loss L to be reached.

    critical  gives B = B_crit(L), at which training takes twice the fewest steps and examples
              (Kaplan et al. 2020, section 6.1); where it is not given, or has no law, B = 0.58
              D^0.571 tokens.
    runs      whose learning rates followed one power law of N, D and B: that is continued; where
              they did not, lr = 1.79 N^-0.713 D^0.307.

    Both published rules are Li et al. 2025's, for AdamW at a vocabulary of 65536.
    """
    if critical is not None and critical.law is not None:
        B, why = float(critical.law.predict(L=L)), "B_crit(L) of these runs"
    else:
        B, why = float(li2025_B.predict(D=D)), f"0.58 D^0.571, {li2025_B.source}"
    own = None if runs is None else _rule(runs)
    if own is not None:
        lr, how = own[0](N, D, B), f"the rule of these runs, {own[1]}"
    else:
        lr = float(li2025_lr.predict(N=N, D=D))
        how = f"1.79 N^-0.713 D^0.307, {li2025_lr.source}"
    return Recipe(B, D / B, lr, {"B": why, "lr": how})


def _rule(runs: pd.DataFrame) -> tuple[Callable[[float, float, float], float], str] | None:
    """The power law of N, D and B that the runs' learning rates follow, to a percent; None where
    they do not."""
    if "lr_peak" not in runs.columns or not (runs["lr_peak"] > 0).all():
        return None
    names = [n for n in ("N", "D", "B") if n in runs.columns and runs[n].nunique() > 1]
    x = np.log(runs[names].to_numpy(float))
    y = np.log(runs["lr_peak"].to_numpy(float))
    design = np.column_stack([np.ones(len(y)), x])
    found = np.linalg.lstsq(design, y, rcond=None)[0]
    if np.abs(design @ found - y).max() > 0.01 or runs["N"].nunique() < 3:
        return None
    powers = {n: p for n, p in zip(names, found[1:], strict=True) if abs(p) > 1e-3}
    if not powers:  # one rate for all sizes is no rule to continue
        return None
    said = " ".join([f"{np.exp(found[0]):.3g}", *(f"{n}^{p:.3g}" for n, p in powers.items())])

    def rate(N: float, D: float, B: float) -> float:
        at = {"N": N, "D": D, "B": B}
        return float(np.exp(found[0]) * np.prod([at[n] ** p for n, p in powers.items()]))

    return rate, said
