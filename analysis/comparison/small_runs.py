"""Choosing a recipe by its small runs: what the choice loses at larger compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.comparison.joint import JointFit, Share, compute_of, joint_fit
from analysis.fitting.checks import FitError
from analysis.laws import Law
from analysis.validation.compute_lost import extra_compute
from scaling import progress
from scaling.errors import TableError

COLUMNS = ("rule", "cut", "n_fit", "C", "factor", "chosen", "better", "nats", "flops")
"""Columns of a table of choices: the rule, the largest compute of the runs that it saw and their
number, the compute of the runs that judge it and its ratio to the cut-off, the recipe chosen and
the one that was better there, and what the choice loses: nats, and the FLOPs to make up for
them."""
CUTS = 5
_SAME = 0.02
"""Relative difference of C up to which runs of the two recipes are compared."""

_SAME_SETTING = 0.02
"""Largest difference of ln N and of ln D between runs of the same setting."""
_FEWEST_SHARED = 3
"""Fewest computes of shared settings, below which all runs are compared."""


class Pair(NamedTuple):
    """The best runs of both recipes at one compute."""

    C: float
    A: float
    B: float


def pairs(tables: tuple[pd.DataFrame, pd.DataFrame], law: Law) -> list[Pair]:
    """Return the best losses of both recipes at each compute that both have, in order of C.

    If both recipes have runs of the same N and D, only these are compared: a size that one recipe
    lacks says nothing about the other. Without two equal computes, the losses are interpolated
    between the runs.
    """
    both = [
        pd.DataFrame({"x": np.log(compute_of(t, law)), "L": t["L"].to_numpy(float), "recipe": k})
        for k, t in enumerate(tables)
    ]
    if law.inputs != ("C",):
        settings = [np.log(t[["N", "D"]].to_numpy(float)) for t in tables]
        same = [_shared(settings[0], settings[1]), _shared(settings[1], settings[0])]
        kept = [part[mask] for part, mask in zip(both, same, strict=True)]
        if kept[0]["x"].nunique() >= _FEWEST_SHARED:
            both = kept
    rows = pd.concat(both).sort_values("x", kind="stable").reset_index(drop=True)
    found, k = [], 0
    while k < len(rows):
        inside = rows[(rows["x"] >= rows["x"][k]) & (rows["x"] <= rows["x"][k] + np.log1p(_SAME))]
        best = inside.groupby("recipe")["L"].min()
        if len(best) == 2:
            found.append(Pair(float(np.exp(inside["x"].mean())), float(best[0]), float(best[1])))
        k = int(inside.index[-1]) + 1
    return found if len(found) >= 2 else _between(both)


def _between(both: list[pd.DataFrame]) -> list[Pair]:
    """Return pairs at the computes of either recipe, with the other one's loss interpolated (in
    logarithms) between its runs that no run of less compute beats."""
    lines = []
    for part in both:
        part = part.sort_values("x", kind="stable").drop_duplicates("x")
        part = part[part["L"] <= part["L"].cummin()]
        lines.append((part["x"].to_numpy(), np.log(part["L"].to_numpy())))
    low, high = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    at = np.unique(np.concatenate([x[(x >= low) & (x <= high)] for x, _ in lines]))
    losses = [np.exp(np.interp(at, x, y)) for x, y in lines]
    return [Pair(float(np.exp(u)), float(a), float(b)) for u, a, b in zip(at, *losses, strict=True)]


def _shared(settings: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which settings (n, 2), logarithms of N and D, are among the others."""
    distance = np.abs(settings[:, None] - others[None]).max(axis=2)
    return distance.min(axis=1) <= _SAME_SETTING


def choices(
    tables: tuple[pd.DataFrame, pd.DataFrame],
    reference: JointFit,
    *,
    share: Share,
    floor: float | None,
    seed: int = 0,
) -> tuple[pd.DataFrame, str]:
    """Return what it loses to choose a recipe by the runs below growing cut-offs in compute.

    Two rules choose: the lower loss at the largest compute below the cut-off that both recipes
    have, and the lower loss of the law, fitted below the cut-off, at the compute of the judges.
    Each pair of larger runs of equal compute judges. The reference, a fit to all runs, turns nats
    into FLOPs. Also returns why the table is empty; '' if it is not. A rule that a cut-off does not
    allow has no rows.
    """
    law = reference.law
    matched = pairs(tables, law)
    if len(matched) < 2:
        return _table([]), (
            "the runs of the recipes do not overlap in compute: two computes that both reach are "
            "needed"
        )
    cuts = [pair.C for pair in matched[:-1]]
    keep = np.unique(np.linspace(0, len(cuts) - 1, CUTS).round().astype(int))
    rows = []
    for k in keep:
        progress.step("choosing by the small runs")
        cut = cuts[k] * (1 + 1e-9)
        small = tuple(t[compute_of(t, law) <= cut * (1 + _SAME / 2)] for t in tables)
        rules: dict[str, Callable[[float], tuple[float, float]] | None] = {
            "small runs": lambda C, pair=matched[k]: (pair.A, pair.B),
            law.name: _by_law(law, (small[0], small[1]), share, floor, seed),
        }
        for rule, advice in rules.items():
            for pair in matched[k + 1 :]:
                if advice is None:
                    break
                a, b = advice(pair.C)
                if np.isfinite(a) and np.isfinite(b) and a != b:
                    n = len(small[0]) + len(small[1])
                    rows.append(_judged(rule, cuts[k], n, pair, a < b, reference))
    return _table(rows), "" if rows else "no rule could be judged on larger runs"


def _by_law(
    law: Law,
    small: tuple[pd.DataFrame, pd.DataFrame],
    share: Share,
    floor: float | None,
    seed: int,
) -> Callable[[float], tuple[float, float]] | None:
    """Return the losses that a law fitted to the small runs predicts; None without a fit."""
    if min(map(len, small)) <= len(law.params):
        return None
    try:
        fitted = joint_fit(law, small, share=share, floor=floor, bootstrap=0, seed=seed)
    except (FitError, TableError):
        return None

    def advice(C: float) -> tuple[float, float]:
        a, b = fitted.losses(np.array([C]))
        return float(a[0, 0]), float(b[0, 0])

    return advice


def _judged(
    rule: str, cut: float, n: int, pair: Pair, chose_a: bool, reference: JointFit
) -> dict[str, object]:
    nats = (pair.A if chose_a else pair.B) - min(pair.A, pair.B)

    def loss(C: np.ndarray) -> np.ndarray:
        return reference.losses(C)[0 if chose_a else 1][0]

    return {
        "rule": rule,
        "cut": cut,
        "n_fit": n,
        "C": pair.C,
        "factor": pair.C / cut,
        "chosen": "A" if chose_a else "B",
        "better": "A" if pair.A <= pair.B else "B",
        "nats": nats,
        "flops": extra_compute(loss, pair.C, nats),
    }


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS))
