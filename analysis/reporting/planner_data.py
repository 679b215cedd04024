"""What the planner of a report page holds: the fits as numbers, from which the page plans.

A page has no Python. It holds the draws of the fits (:mod:`analysis.reporting.law_numbers`) and
every constant of the intervals and doubts of :mod:`analysis.planning`; `planner_model.js` computes
with them what that package computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy

from analysis.fitting.checks import FitError
from analysis.fitting.reference import NEXT
from analysis.fitting.result import FitResult
from analysis.fitting.status import worth_telling
from analysis.frontiers.choice import OPEN, WIDE, WRONG, Choice, percent
from analysis.frontiers.parametric import parametric
from analysis.planning.accelerators import FREE, GPUS, MEMORIES, MFU
from analysis.planning.answer import DIFFERENT, LONGER, SIMILAR, searched
from analysis.planning.doubts import CLOSE, WIDE_LOSS, fit_doubts
from analysis.planning.extrapolation import ALWAYS, INSIDE, NEVER
from analysis.planning.model_shape import count_terms
from analysis.planning.plan import vocab_size_of
from analysis.planning.plans import ALIKE, APART
from analysis.planning.recipe import recipe
from analysis.planning.shape_family import TOLERANCE, WORDS, family_of
from analysis.published import muennighoff2023
from analysis.reporting.deviating import FACTORS, FLAT
from analysis.reporting.elements import rule
from analysis.reporting.law_numbers import CLOSE_LEVEL, FORMS, LEVEL, law_of
from analysis.reporting.plan_cards import MARKS
from analysis.reporting.summary import Summary
from analysis.validation.validate import tested_reach
from scaling.config import ModelConfig
from scaling.errors import TableError
from scaling.jsonable import finite


def data_of(summary: Summary) -> dict[str, Any] | None:
    """Return the data of the planner, ready for JSON; None if no fitted law gives a plan."""
    fit = planned_fit(summary)
    if fit is None or summary.plan is None or summary.choice is None:
        return None
    choice, runs = summary.choice, fit.runs
    return finite(
        {
            "command": summary.command,
            "start": {"C": summary.plan.C.value, "largest": float(runs["C"].max())},
            "next": NEXT,
            "level": LEVEL,
            "quantiles": {str(level): _quantiles(level) for level in (LEVEL, CLOSE_LEVEL)},
            "laws": [law_of(fit), *_rivals(choice, fit.name)],
            "R_D": muennighoff2023.params["R_D"],
            "recipe": _recipe(summary, fit),
            "shapes": _shapes(runs),
            "ranges": {"C": _hull(runs), **{name: _ends(runs[name]) for name in ("N", "D")}},
            "extrapolation": {
                "tested": tested_reach(fit), "always": ALWAYS, "never": NEVER, "inside": INSIDE,
            },
            "marks": MARKS,
            "doubts": _doubts(fit),
            "test": _test(choice, fit.name),
            "factors": FACTORS,
            "flat": FLAT,
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
            return fit if fit.law.name in FORMS else None
    return None


def _quantiles(level: float) -> dict[str, float]:
    return {
        "low": (1 - level) / 2,
        "high": (1 + level) / 2,
        "normal": float(scipy.special.ndtri((1 + level) / 2)),
    }


# ------------------------------------------------------------------ recipe, range and doubts


def _recipe(summary: Summary, fit: FitResult) -> dict[str, Any]:
    """Return B and lr as powers of N, D and L, which every rule of a recipe is."""
    critical = summary.critical
    at = {"N": float(fit.runs["N"].max()), "D": float(fit.runs["D"].max()), "L": 3.0}
    here = recipe(**at, runs=fit.runs, critical=critical)
    powers: dict[str, Any] = {
        "at": at,
        "sources": {name: rule(text) for name, text in here.sources.items()},
    }
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
    runs = fit.runs
    return {
        **_fit_lines(parametric(fit).status),
        "wide": WIDE,
        "wide_loss": WIDE_LOSS,
        "close": CLOSE,
        "close_level": str(CLOSE_LEVEL),
        "longer": LONGER,
        "searched": searched(runs),
        "one_seed": bool("seed" in runs.columns and runs["seed"].nunique() == 1),
    }


def _fit_lines(status: Iterable[str]) -> dict[str, list[str]]:
    """Return the lines of a fit by what they say: `wrong` makes any plan unreliable, `open` one
    whose N has a wide interval, and `notes` are worth telling."""
    wrong = [str(line) for line in status if getattr(line, "code", "") in WRONG]
    return {
        "wrong": wrong,
        "open": [str(line) for line in status if getattr(line, "code", "") in (*WRONG, *OPEN)],
        "notes": [line for line in map(str, worth_telling(status)) if line not in wrong],
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
        if other == name or fit.law.name not in FORMS:
            continue
        try:
            status = parametric(fit).status
        except (FitError, TableError):
            continue
        yield law_of(fit) | {
            "name": other,
            "error": choice.errors.get(other, math.nan),
            "missed": percent(choice.errors[other]) if choice.test.cuts else "",
            "wrong": bool(fit_doubts(status)),
            "doubts": _fit_lines(status),
        }


def _shapes(runs: pd.DataFrame) -> dict[str, Any]:
    """Return what a decoder of a given size needs: how its parameters are counted, the shapes of
    the runs, and the memory that it takes."""
    vocab, family, usual = vocab_size_of(runs), family_of(runs), ModelConfig()
    return {
        "count": count_terms("N", vocab),
        "total": None if vocab is None else count_terms("N_total", vocab),
        "vocab": vocab,
        "ctx": usual.n_ctx,
        "ff": usual.ff_width / usual.d_model,
        "ranges": {} if family is None else family.ranges,
        "words": WORDS,
        "tolerance": TOLERANCE,
        "free": FREE,
        "memory": {name: GPUS[name].memory for name in MEMORIES},
    }
