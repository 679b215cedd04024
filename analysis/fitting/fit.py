"""Fit a law to a table of runs: :func:`fit` gives a frozen :class:`FitResult`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import SMALL, draw
from analysis.fitting.checks import (
    DEFAULT_CLUSTER,
    FitError,
    check_data,
    check_options,
    computable,
    group_codes,
    held_parameters,
    usable_rows,
)
from analysis.fitting.minimise import Minimum, minimise
from analysis.fitting.problem import Problem
from analysis.fitting.result import FAR, FitResult, spread
from analysis.fitting.status import (
    certify,
    natural_covariance,
    rows_alike,
    status_of,
    table_warnings,
)
from analysis.laws import Law, resolve


def fit(
    law: Law | str,
    runs: pd.DataFrame,
    *,
    objective: str = "auto",
    delta: float | None = None,
    on: str = "log",
    reduce: str = "sum",
    bootstrap: int = 1000,
    intervals: str = "auto",
    cluster: str | None = DEFAULT_CLUSTER,
    fixed: Mapping[str, float] | None = None,
    weights: Any = None,
    seed: int = 0,
    warm: FitResult | None = None,
) -> FitResult:
    """Fit `law` to `runs`: the global minimum, with draws for intervals and a certificate.

    law: a Law, its name, or 'file.py:name'.
    runs: one row a measurement, with the law's inputs and its target as columns. Where there is a
        column 'status', rows that are not 'ok' are left out.
    objective: 'huber', 'ls' (half the sum of squares) or 'lad' (the sum of absolute values), of
        the residuals. 'auto' is 'huber', or 'ls' for fewer than 25 rows that are all runs of
        their own.
    delta: Huber's threshold. None ties it to the residuals, 1.345 times 1.4826 times their median
        size, which costs 5 % of efficiency under Gaussian noise; Hoffmann et al. 2022 and most
        papers since use 1e-3, which costs about 20 %.
    on: 'log' compares logarithms, as the papers do; 'raw' the values themselves.
    reduce: 'sum' or 'mean', how `FitResult.objective` is stated; the fit is the same.
    bootstrap: how many draws; 0 for none.
    intervals: 'bootstrap' (percentile, over runs), 'residual', 'wild', 'delta' (linearised, with
        Student's t; jackknifed over runs where rows share them), or 'auto': 'bootstrap', or 'delta'
        for fewer than 25 runs. Rows clustered in no more runs than there are parameters give no
        intervals.
    cluster: the column that says which rows belong to one run and are drawn together; it must be
        there, unless it is the default 'run_id'. None makes every row its own.
    fixed: parameters held at a value.
    weights: non-negative, one a row (an array, or the name of a column): relative precisions (a
        row's share of the objective), not counts of repeated rows. Rows of weight 0 are left out.
    seed: of starts and draws: the same seed gives the same result.
    warm: an earlier result of the same law, whose minima are tried first; saves time.

    Raises TableError for a table that cannot be used, LawError for a law that cannot, FitError
    where no usable fit exists. Lesser trouble is told by `FitResult.status`.
    """
    began = time.perf_counter()
    law = resolve(law)
    check_options(objective, delta, on, reduce, bootstrap, intervals, seed)
    fixed = held_parameters(law, fixed or {})
    runs, w, left_out = usable_rows(law, runs, weights, on)
    problem = Problem(
        law,
        {name: runs[name].to_numpy(float) for name in law.inputs},
        runs[law.target].to_numpy(float),
        w,
        group_codes(runs, cluster),
        fixed,
        on,
    )
    check_data(problem)
    clustered = problem.units() < problem.n
    small = problem.units() < SMALL
    if objective == "auto":
        objective = "ls" if small and not clustered and delta is None else "huber"
    if clustered and problem.units() <= problem.q:
        intervals = "none"
    elif not bootstrap:
        intervals = "delta"
    elif intervals == "auto":
        intervals = "delta" if small else "bootstrap"
    if intervals == "residual" and clustered:
        raise FitError(
            f"intervals='residual' redraws single rows, but the rows belong to {problem.units()} "
            "runs: use 'wild' or 'bootstrap', which keep a run's rows together, or cluster=None."
        )
    with computable(problem, runs, seed):
        minimum = minimise(problem, objective, delta, seed, _warm(problem, warm))
        solved = time.perf_counter()
        certificate = certify(problem, minimum) | {
            "left_out": left_out,
            "intervals": intervals,
        }
        certified = time.perf_counter()
        cov, freedom = natural_covariance(problem, minimum)
        certificate["freedom"] = freedom
        params = {p: float(v[0]) for p, v in problem.params(minimum.theta).items()}
        if not np.isfinite(law.predict(params, **problem.columns)).all():
            raise FloatingPointError("not finite at its minimum")
        stderr = dict.fromkeys(law.params, 0.0)
        for j, (p, log) in enumerate(zip(problem.free, problem.model.log, strict=True)):
            stderr[p] = float(np.sqrt(max(cov[j, j], 0))) * (params[p] if log else 1.0)
        samples = pd.DataFrame(columns=list(law.params), dtype=float)
        if intervals == "none":
            stderr |= dict.fromkeys(problem.free, np.nan)
        elif bootstrap:
            draws = draw(problem, minimum, intervals, bootstrap, seed)
            samples = pd.DataFrame(problem.params(draws.theta))
            far = ~(samples[list(problem.free)].abs() < FAR).all(axis=1)
            certificate |= {
                "resamples": draws.converged,
                "rescued": draws.rescued,
                "overflowed": float(far.mean()),
            }
            if intervals != "delta":
                stderr |= {p: spread(samples[p].to_numpy(float)) for p in problem.free}
        if intervals != "none":
            stderr |= dict.fromkeys(certificate["undetermined"], np.inf)
        ended = time.perf_counter()
        return FitResult(
            law,
            params,
            stderr,
            samples,
            runs,
            _stated(problem, minimum, objective, reduce),
            _loss_in_words(objective, minimum.delta, on, law.target, reduce),
            (
                *status_of(problem, minimum, certificate),
                *table_warnings(problem, runs),
                *rows_alike(problem, runs, minimum),
            ),
            certificate,
            intervals,
            {
                "fit": solved - began,
                "certificate": certified - solved,
                "intervals": ended - certified,
                "total": ended - began,
            },
            problem,
            minimum,
            "ls" if objective == "ls" else "lad" if objective == "lad" else "huber",
        )


def _warm(problem: Problem, result: FitResult | None) -> np.ndarray | None:
    """The minima of another result as unknowns of this problem."""
    if result is None or result.problem is None or result.minimum is None:
        return None
    same = (result.law.name, result.law.inputs, result.law.params, result.law.target) == (
        problem.law.name, problem.law.inputs, problem.law.params, problem.law.target
    )  # fmt: skip
    if not same or result.problem.free != problem.free:
        raise FitError(f"warm: that result is of {result.law.name} with other free parameters.")
    return problem.model.centred(result.problem.model.natural(result.minimum.basins))


def _stated(problem: Problem, minimum: Minimum, objective: str, reduce: str) -> float:
    """The objective as reported."""
    value, w = minimum.objective, problem.weights
    if objective == "lad":  # solved for as Huber's function with a vanishing threshold
        value = np.abs(problem.residuals(minimum.theta)[0]) @ w
    return float(value / (w.sum() if reduce == "mean" else 1.0))


def _loss_in_words(objective: str, delta: float, on: str, target: str, reduce: str) -> str:
    of = f"log {target}" if on == "log" else target
    name = {
        # Where nothing is left of the residuals, their scale sets no threshold.
        "huber": f"Huber(delta={delta:.4g})" if np.isfinite(delta) else "Huber(without threshold)",
        "ls": "least squares",
        "lad": "least absolute deviations",
    }[objective]
    return f"{name} of {of}, {reduce}"
