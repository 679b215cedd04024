"""What the planner of a report page holds: the fit as numbers, from which the page plans.

A page has no Python. It holds the draws of the fit, all laws in one form
(:func:`analysis.laws.bottleneck` contains them), and every constant of the intervals and doubts of
:mod:`analysis.planning`; `planner_model.js` computes with them what that package computes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy

from analysis.critical_batch import CriticalBatch, contours, critical_batch
from analysis.fitting.checks import FitError
from analysis.fitting.combination import BACKTEST_FACTOR, SLOW_FACTOR, Combination
from analysis.fitting.intervals import covariance, root
from analysis.fitting.result import FitResult
from analysis.fitting.slow_term import EXPONENTS, SHARE, SLOPE_STEP, absorbed, largest_run
from analysis.frontiers.choice import OPEN, WIDE, WRONG, Choice, percent
from analysis.frontiers.parametric import parametric
from analysis.laws import Law
from analysis.planning.accelerators import GPUS, MFU
from analysis.planning.answer import DIFFERENT, LONGER, SIMILAR, searched
from analysis.planning.doubts import CLOSE, WIDE_LOSS, fit_doubts
from analysis.planning.extrapolation import ALWAYS, INSIDE, NEVER
from analysis.planning.plans import ALIKE, APART
from analysis.planning.price import FACTORS
from analysis.planning.recipe import recipe
from analysis.published import muennighoff2023
from analysis.reporting.summary import Summary
from analysis.validation.validate import tested_reach
from scaling.errors import TableError
from scaling.jsonable import finite

LEVEL = 0.95
"""The level of the intervals on the page, that of `scaling plan` by default."""
_CLOSE_LEVEL = 0.9
"""The level at which a plan doubts its loss (:data:`analysis.planning.doubts.CLOSE`)."""
_MANY = 3
"""From this many batch sizes on, `scaling plan` looks for a critical batch size."""

COLUMNS = ("E", "log A", "log B", "alpha", "beta", "k")
"""The numbers of a law on the page: L = E + ((A / N^alpha)^k + (B / D^beta)^k)^(1/k)."""


def data_of(summary: Summary) -> dict[str, Any] | None:
    """Return the data of the planner, ready for JSON; None if no fitted law gives a plan."""
    fit = planned_fit(summary)
    if fit is None or summary.plan is None or summary.choice is None:
        return None
    choice, runs = summary.choice, fit.runs
    members = fit.laws if isinstance(fit, Combination) else {fit.law.name: fit}
    return finite(
        {
            "command": summary.command,
            "start": {"C": summary.plan.C.value, "largest": float(runs["C"].max())},
            "level": LEVEL,
            "quantiles": {str(level): _quantiles(level) for level in (LEVEL, _CLOSE_LEVEL)},
            "closed": fit.law.optimum is not None,
            "point": _rows(fit.law, fit.params)[0].tolist(),
            "count": len(fit.samples),
            "members": [
                _member(name, each, fit.weights[name] if isinstance(fit, Combination) else 1.0)
                for name, each in members.items()
            ],
            "mixed": mixed_counts(fit),
            "combined": _combined(fit) if isinstance(fit, Combination) else None,
            "R_D": muennighoff2023.params["R_D"],
            "recipe": _recipe(summary, fit),
            "ranges": {"C": _hull(runs), **{name: _ends(runs[name]) for name in ("N", "D")}},
            "extrapolation": {
                "tested": tested_reach(fit), "always": ALWAYS, "never": NEVER, "inside": INSIDE,
            },
            "doubts": _doubts(fit),
            "test": _test(choice, fit.name),
            "rivals": list(_rivals(choice, fit.name)),
            "factors": FACTORS,
            "devices": {name: dict(gpu.peak) for name, gpu in GPUS.items()},
            "mfu": MFU,
        }
    )  # fmt: skip


def planned_fit(summary: Summary) -> FitResult | None:
    """Return the fit behind the plan of the summary; None if a frontier without a law made it."""
    if summary.choice is None or summary.plan is None:
        return None
    for fit in summary.choice.fits.values():
        if summary.plan.source.startswith(f"parametric frontier, {fit.name} ("):
            return fit if fit.law.name in _FORMS else None
    return None


# ------------------------------------------------------------------ the law and its draws


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


_FORMS = {
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
        return np.column_stack(np.broadcast_arrays(*_FORMS[law.name](arrays)))


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
                for level in (LEVEL, _CLOSE_LEVEL)
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


def _quantiles(level: float) -> dict[str, float]:
    return {
        "low": (1 - level) / 2,
        "high": (1 + level) / 2,
        "normal": float(scipy.special.ndtri((1 + level) / 2)),
    }


# ------------------------------------------------------------------ recipe, range and doubts


def _recipe(summary: Summary, fit: FitResult) -> dict[str, Any]:
    """Return B and lr as powers of N, D and L, which every rule of a recipe is."""
    critical = _critical(summary)
    at = {"N": float(fit.runs["N"].max()), "D": float(fit.runs["D"].max()), "L": 3.0}
    here = recipe(**at, runs=fit.runs, critical=critical)
    powers: dict[str, Any] = {"at": at, "sources": here.sources}
    moved = {x: recipe(**at | {x: math.e * at[x]}, runs=fit.runs, critical=critical) for x in at}
    for name in ("B", "lr"):
        value = getattr(here, name)
        slopes = {x: math.log(getattr(then, name) / value) for x, then in moved.items()}
        powers[name] = {"value": value, "powers": slopes}
        column = {"lr": "lr_peak"}.get(name, name)
        if name in here.beyond:
            used = pd.to_numeric(fit.runs[column], errors="coerce")
            powers[name]["range"] = _ends(used[(used > 0) & np.isfinite(used)])
    return powers


def _critical(summary: Summary) -> CriticalBatch | None:
    """Return the critical batch size that `scaling plan` uses, if there is one."""
    runs, curves = summary.runs, summary.curves
    if curves is None or "B" not in runs.columns or runs["B"].nunique() < _MANY:
        return None
    try:
        return critical_batch(contours(curves), seed=0)
    except (FitError, TableError):
        return None


def _ends(values: pd.Series) -> list[float]:
    return [float(values.min()), float(values.max())]


def _hull(runs: pd.DataFrame) -> list[list[float]]:
    """Return training FLOPs and FLOPs of each token served of the runs that can be the smallest or
    largest in their sum, for any number of tokens served."""
    N, D = runs["N"].to_numpy(float), runs["D"].to_numpy(float)
    points = sorted(set(zip((6.0 * N * D).tolist(), (2.0 * N).tolist(), strict=True)))

    def chain(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for x, y in points:
            while len(kept) > 1 and (
                (kept[-1][0] - kept[-2][0]) * (y - kept[-2][1])
                <= (kept[-1][1] - kept[-2][1]) * (x - kept[-2][0])
            ):
                kept.pop()
            kept.append((x, y))
        return kept

    return [list(point) for point in sorted({*chain(points), *chain(points[::-1])})]


def _doubts(fit: FitResult) -> dict[str, Any]:
    """Return what makes a plan by this fit unreliable or doubtful, and the limits of intervals."""
    status = parametric(fit).status
    runs = fit.runs
    return {
        "wrong": [str(line) for line in status if getattr(line, "code", "") in WRONG],
        "open": [str(line) for line in status if getattr(line, "code", "") in (*WRONG, *OPEN)],
        "wide": WIDE,
        "wide_loss": WIDE_LOSS,
        "close": CLOSE,
        "close_level": str(_CLOSE_LEVEL),
        "longer": LONGER,
        "searched": searched(runs),
        "one_seed": bool("seed" in runs.columns and runs["seed"].nunique() == 1),
    }


def _test(choice: Choice, name: str) -> dict[str, Any]:
    """Return how far the law was tested."""
    test = choice.tests[name]
    return {
        "name": name,
        "cuts": len(test.cuts),
        "runs": test.runs,
        "reach": test.reach,
        "error": test.error,
        "missed": percent(test.error) if test.cuts else "",
        "similar": SIMILAR,
        "different": DIFFERENT,
        "alike": ALIKE,
        "apart": APART,
    }


def _rivals(choice: Choice, name: str) -> Iterator[dict[str, Any]]:
    """Yield the other laws of the choice that give a plan."""
    for other, fit in choice.fits.items():
        if other == name or fit.law.name not in _FORMS:
            continue
        try:
            status = parametric(fit).status
        except (FitError, TableError):
            continue
        yield {
            "name": other,
            "point": _rows(fit.law, fit.params)[0].tolist(),
            "closed": fit.law.optimum is not None,
            "error": choice.errors.get(other, math.nan),
            "missed": percent(choice.errors[other]) if choice.test.cuts else "",
            "wrong": bool(fit_doubts(status)),
        }
