"""What the linked figures of the page show: the frontier, how far its law was tested, where it is
off, how far laws disagree, and what other sizes cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.checks import FitError
from analysis.fitting.combination import Combination
from analysis.fitting.held_out import compute_of_run, rms
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import Choice
from analysis.frontiers.result import Frontier
from analysis.laws import LawError
from analysis.reporting.run_data import five_digits, places
from analysis.reporting.summary import Summary
from scaling.errors import ConfigError, TableError

_REACH = 1000.0
"""The frontier is drawn up to this many times the compute of the largest run."""
_GRID = 61
"""Points of the frontier."""


def law_frontier(summary: Summary) -> Frontier | None:
    """Return the frontier of the law that the plan uses; None without one."""
    return next((f for f in summary.frontiers.values() if f.fit is not None), None)


def drawn_frontier(summary: Summary) -> Frontier | None:
    """Return the frontier to draw: that of the law, else that of the envelope, else any."""
    fronts = summary.frontiers
    return law_frontier(summary) or fronts.get("envelope") or next(iter(fronts.values()), None)


def frontier_values(summary: Summary) -> dict[str, Any] | None:
    """Return the least loss at each compute, with the interval of the fit and, if the law may be
    wrong, the wider one; None without a frontier."""
    front = drawn_frontier(summary)
    if front is None:
        return None
    low, high = (float(summary.runs["C"].min()), float(summary.runs["C"].max()))
    C = np.geomspace(low, _REACH * high, _GRID)
    try:
        found = front.at(C=C)
    except (ConfigError, FitError, TableError, LawError):
        return None
    values = {name: found[name].to_numpy(float) for name in ("L", "L_low", "L_high")}
    out = {"C": C, **values, "N": found["N"].to_numpy(float), "D": found["D"].to_numpy(float)}
    best = {name: out[name] for name in ("N", "D")}
    with np.errstate(all="ignore"):
        if isinstance(front.fit, Combination):
            narrow = front.fit.predict_interval(front.level, kind="statistical", **best)
            wide = front.fit.predict_interval(front.level, noise=True, kind="extrapolation", **best)
            out |= {"wide_low": wide[0], "wide_high": wide[1]}
            out |= {"L_low": narrow[0], "L_high": narrow[1]}
        elif front.fit is not None:  # of these runs, as the plan's, not of each draw's own best one
            narrow = front.fit.predict_interval(front.level, **best)
            out |= {"L_low": narrow[0], "L_high": narrow[1]}
    return {name: five_digits(x) for name, x in out.items()} | {"title": front.title}


def held_out_runs(choice: Choice | None, runs: pd.DataFrame) -> list[int]:
    """Return the places of the runs that the tests of the law held out."""
    if choice is None or not choice.test.cuts:
        return []
    held = compute_of_run(choice.first) > choice.test.cuts[0]
    return sorted(set(places(runs, _ids(choice.first)[held])) - {-1})


def backtest_values(choice: Choice | None, runs: pd.DataFrame) -> dict[str, Any] | None:
    """Return the errors on held-out runs against how far beyond the fitted runs they lie.

    `points` are the runs, predicted by the first law; `laws` are the rms errors of each law at
    each cut-off, against the geometric mean of that distance.
    """
    if choice is None or not choice.test.cuts:
        return None
    lines = []
    for name, test in choice.tests.items():
        far = [float(np.exp(np.log(test.sizes[cut]).mean())) for cut in test.cuts]
        error = [rms(test.errors[cut]) for cut in test.cuts]
        order = np.argsort(far)
        lines.append({"name": name, "far": five_digits(np.array(far)[order]),
                      "error": five_digits(100 * np.array(error)[order])})  # fmt: skip
    size, ids = compute_of_run(choice.first), _ids(choice.first)
    run, far, error = [], [], []
    for cut in choice.test.cuts:
        run += places(runs, ids[size > cut])
        far += five_digits(choice.test.sizes[cut])
        error += five_digits(100 * np.abs(choice.test.errors[cut]))
    return {"laws": lines, "points": {"run": run, "far": far, "error": error}}


def residual_values(choice: Choice | None, runs: pd.DataFrame) -> dict[str, Any] | None:
    """Return ln(measured / fitted) of each run in percent; None without a law of N and D."""
    if choice is None:
        return None
    off = 100 * np.asarray(choice.first.log_residuals, float)
    if isinstance(choice.first, Combination):
        x = choice.first.problem.columns
        with np.errstate(all="ignore"):
            fitted = choice.first.predict(**{n: x[n] for n in choice.first.law.inputs})
            off = 100 * np.log(choice.first.problem.target / fitted)
    columns = choice.first.problem.columns
    return {"run": places(runs, _ids(choice.first)), "off": five_digits(off),
            "N": five_digits(columns["N"]), "D": five_digits(columns["D"])}  # fmt: skip


def law_losses(summary: Summary) -> list[dict[str, Any]]:
    """Return the loss that each law predicts at its best size for the plan's budget."""
    planned = summary.planned
    if planned is None or len(planned.plans) < 2:
        return []
    return [
        {"name": name, "L": p.L.value, "low": p.L.low, "high": p.L.high, "N": p.N.value,
         "D": p.D.value}
        for name, p in planned.plans.items()
        if math.isfinite(p.L.value)
    ]  # fmt: skip


def _ids(result: FitResult) -> np.ndarray:
    """Return the id of the run of each row that was fitted, or its number."""
    if "run_id" in result.runs.columns:
        return result.runs["run_id"].astype(str).to_numpy()
    return (result.runs.index.to_numpy() + 1).astype(str)
