"""Learning curves of a sweep that follow the law of curves and sizes, with known noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.effects import Basis, CurveEffects
from analysis.curves.joint_read import rows_of
from analysis.curves.rates import Rates
from analysis.curves.size_law import UNKNOWNS, SizeLaw, joined

TRUTH = {
    "ln_E": 0.28, "ln_A": 0.48, "ln_B": 0.78, "ln_alpha": -1.88, "ln_beta": -1.94, "ln_k": 1.34,
    "ln_G": -0.47, "p": 0.0, "q": 0.0, "ln_K": 10.35, "u": -0.22, "v": 0.67, "ln_c": 1.18,
    "ln_B_0": np.inf, "m": 0.0,
}  # fmt: skip
"""Unknowns of the law fitted to the sweep `headline`, at N = 6e4 and T = 3e5."""


def true_law() -> tuple[SizeLaw, np.ndarray]:
    """Return the law of TRUTH and its unknowns."""
    z = np.array([TRUTH[name] for name in UNKNOWNS])
    return SizeLaw(6e4, 3e5, z, np.empty(0, int), np.empty((0, 0))), z


def wsd(S: int, *, warmup: int = 20, cooldown: float = 0.2) -> Rates:
    """Return warm-up, a constant rate, and a linear decay to 0 over the last part of S steps."""
    last = max(1, round(cooldown * S))
    return Rates(np.array([0, warmup, S - last, S]), np.array([0.0, 1.0, 1.0, 0.0]), warmup)


@dataclass(frozen=True, eq=False)
class Simulation:
    """One simulated sweep."""

    curves: pd.DataFrame
    """Columns run_id, N, B, S, D, lr, L and last: whether it is the final loss."""
    rates: dict[Any, Rates]


def simulate(
    sizes: list[float],
    horizons: list[float],
    *,
    points: int,
    batch: float = 512.0,
    noise: CurveEffects | None = None,
    law: tuple[SizeLaw, np.ndarray] | None = None,
    schedule: Any = wsd,
    seed: int = 0,
) -> Simulation:
    """Return the curves of all sizes and horizons, with points evenly spaced in ln step."""
    rng = np.random.default_rng(seed)
    noise = noise or CurveEffects(misfit=1e-6, annealing=1e-6)
    true, z = law or true_law()
    frames, rates = [], {}
    for N in sizes:
        parts = []
        for D in horizons:
            S = round(D / batch)
            run = f"{N:g}-{D:g}"
            rates[run] = schedule(S)
            steps = np.unique(np.round(np.geomspace(max(S / 100, 1), S, points)))
            steps = steps[steps > rates[run].warmup]
            parts.append((run, S, steps, rows_of(N, rates[run], steps, batch)))
        rows = joined([part[3] for part in parts])
        trunk = np.repeat(np.arange(len(parts)), [len(part[2]) for part in parts])
        basis = Basis.covering(np.log(rows.T), [part[0] for part in parts])
        P, _ = basis.precision(noise)
        effects = np.linalg.solve(np.linalg.cholesky(P).T, rng.standard_normal(basis.size))
        log_loss = np.log(true.loss(z, rows))
        log_loss += basis.design(np.log(rows.T), trunk, true.excess(z, rows)) @ effects
        log_loss += np.sqrt(noise.point_variance(rows.rate)) * rng.standard_normal(len(rows))
        for j, (run, S, steps, own) in enumerate(parts):
            frames.append(pd.DataFrame({
                "run_id": run, "N": N, "B": batch, "S": steps, "D": steps * batch, "lr": own.rate,
                "L": np.exp(log_loss[trunk == j]), "last": steps == S,
            }))  # fmt: skip
    return Simulation(pd.concat(frames, ignore_index=True), rates)
