"""Fitted laws as numbers: what a report page needs to predict with them and to plan.

All laws have one form on the page (:func:`analysis.laws.bottleneck` contains them).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from analysis.fitting.combination import BACKTEST_FACTOR, SLOW_FACTOR, Combination
from analysis.fitting.intervals import covariance, root
from analysis.fitting.result import FitResult
from analysis.fitting.slow_term import EXPONENTS, SHARE, SLOPE_STEP, absorbed, largest_run
from analysis.laws import Law

LEVEL = 0.95
"""The level of the intervals on the page, that of `scaling plan` by default."""
CLOSE_LEVEL = 0.9
"""The level at which a plan doubts its loss (:data:`analysis.planning.doubts.CLOSE`)."""

COLUMNS = ("E", "log A", "log B", "alpha", "beta", "k")
"""The numbers of a law on the page: L = E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k)."""


def law_of(fit: FitResult) -> dict[str, Any]:
    """Return a fit, combined or of one law, as numbers: its parameters, its draws, and how its
    intervals are made."""
    members = fit.laws if isinstance(fit, Combination) else {fit.law.name: fit}
    return {
        "name": fit.name,
        "closed": fit.law.optimum is not None,
        "point": _rows(fit.law, fit.params)[0].tolist(),
        "count": len(fit.samples),
        "members": [
            _member(name, each, fit.weights[name] if isinstance(fit, Combination) else 1.0)
            for name, each in members.items()
        ],
        "mixed": mixed_counts(fit),
        "combined": _combined(fit) if isinstance(fit, Combination) else None,
    }


def _as_bottleneck(p: Mapping[str, Any]) -> tuple[Any, ...]:
    return p["E"], np.log(p["A"]), np.log(p["B"]), p["alpha"], p["beta"], p["k"]


def _as_sum(p: Mapping[str, Any]) -> tuple[Any, ...]:
    return p["E"], np.log(p["A"]), np.log(p["B"]), p["alpha"], p["beta"], 1.0


def _as_kaplan(p: Mapping[str, Any]) -> tuple[Any, ...]:
    N, D = p["alpha_N"], p["alpha_D"]
    return 0.0, N * np.log(p["N_c"]), D * np.log(p["D_c"]), N, D, 1 / D


def _as_shared(p: Mapping[str, Any]) -> tuple[Any, ...]:
    A, alpha = np.log(p["A"]), p["alpha"]
    return p["E"], A, A + alpha * np.log(p["kappa"]), alpha, alpha, 1 / alpha


FORMS = {
    "bottleneck": _as_bottleneck,
    "chinchilla": _as_sum,
    "kaplan_ND": _as_kaplan,
    "shared_exponent": _as_shared,
}
"""The numbers of COLUMNS from the parameters of each law."""


def _rows(law: Law, params: Mapping[str, Any]) -> np.ndarray:
    """Return parameters of a law as rows of COLUMNS."""
    arrays = {name: np.atleast_1d(np.asarray(params[name], float)) for name in law.params}
    with np.errstate(all="ignore"):  # a draw may lie far out
        return np.column_stack(np.broadcast_arrays(*FORMS[law.name](arrays)))


def _member(name: str, fit: FitResult, weight: float) -> dict[str, Any]:
    """Return one law of the answer: its parameters, its draws, and how its intervals are made."""
    on_log = fit.problem.on == "log"
    noise = 1.0 if fit.noise is None else fit.noise.sd(**{n: fit.runs[n] for n in ("N", "D")})
    off = fit.log_residuals if on_log else (fit.runs[fit.law.target] - fit.fitted).to_numpy(float)
    freedom_left = max(fit.n - fit.problem.q, 1)
    kind = "draws" if fit.intervals not in ("none", "delta") else fit.intervals
    made: dict[str, Any] = {
        "name": name,
        "weight": weight,
        "kind": "draws" if kind == "delta" and not fit.problem.q else kind,
        "log": on_log,
        "point": _rows(fit.law, fit.params)[0].tolist(),
        "draws": packed(_rows(fit.law, fit.samples)) if len(fit.samples) else "",
    }
    if fit.noise is not None:
        made["noise"] = {
            "constant": fit.noise.constant,
            "exponents": dict(fit.noise.exponents),
            "ends": {name: list(ends) for name, ends in fit.noise.columns.items()},
        }
    if made["kind"] == "draws" and len(fit.samples):
        # The same draws of the residuals as in FitResult.predict_interval.
        scaled = off * np.sqrt(fit.n / freedom_left) / noise
        chosen = np.random.default_rng(0).choice(scaled, (1, len(fit.samples)))
        made["residuals"] = packed(chosen)
    if made["kind"] == "delta":
        cov, freedom = covariance(fit.problem, fit.minimum)
        one = root(cov)
        step = 1e-4 / np.maximum(1.0, np.abs(one).max(axis=0))
        theta = np.concatenate([one * step, -one * step], axis=1) + fit.minimum.theta
        made |= {
            "moved": packed(_rows(fit.law, fit.problem.params(theta))),
            "step": step.tolist(),
            "t": {
                str(level): float(scipy.special.stdtrit(freedom, (1 + level) / 2))
                for level in (LEVEL, CLOSE_LEVEL)
            },
            "variance": float(np.sum((off / noise) ** 2) / freedom_left),
        }
    return made


def mixed_counts(fit: FitResult) -> list[int]:
    """Return how many of the first draws of each law are the draws of the answer."""
    if not isinstance(fit, Combination):
        return [len(fit.samples)]
    counts, left = [], len(fit.samples)
    names = fit.law.params[0]
    for each in fit.laws.values():
        own, at = each.samples[names].to_numpy(float), len(fit.samples) - left
        all_ = fit.samples[names].to_numpy(float)[at:]
        same = np.nonzero(own[: len(all_)] != all_[: len(own)])[0]
        counts.append(int(same[0]) if len(same) else min(len(own), len(all_)))
        left -= counts[-1]
    return counts


def _combined(fit: Combination) -> dict[str, Any]:
    """Return the constants of `Combination.model_error`."""
    lead = fit.laws[fit.lead]
    eye = np.eye(lead.problem.q)
    moved = lead.minimum.theta + SLOPE_STEP * np.concatenate([eye, -eye], 1)
    size, loss = largest_run(lead.problem)
    return {
        "tested": BACKTEST_FACTOR * fit.test.excess if fit.test.cuts else 0.0,
        "distance": fit.test.distance if fit.test.cuts else 1.0,
        "largest": size,
        "slow": SLOW_FACTOR,
        "term": SHARE * loss,
        "exponents": EXPONENTS,
        "absorbed": absorbed(lead.problem, lead.minimum).tolist(),
        "moved": packed(_rows(lead.law, lead.problem.params(moved))),
        "step": SLOPE_STEP,
        "log": lead.problem.on == "log",
    }


def packed(values: np.ndarray) -> str:
    """Return floats, row by row, as text: base64 of 8 bytes each, the least first."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode()
