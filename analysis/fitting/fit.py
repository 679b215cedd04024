"""Fit a law to a table of runs: :func:`fit` returns a frozen :class:`FitResult`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.arguments import expect_law_and_runs
from analysis.fitting.bootstrap import draw
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
from analysis.fitting.draws import FAR, spread
from analysis.fitting.minimise import Minimum, minimise
from analysis.fitting.noise import comparable_deviance, reweighted
from analysis.fitting.prior import Prior, prior_named
from analysis.fitting.problem import SMALL, Problem
from analysis.fitting.result import FitResult
from analysis.fitting.status import (
    Certificate,
    Status,
    certify,
    checkpoints_as_runs,
    natural_covariance,
    status_of,
    table_warnings,
)
from analysis.laws import Law, resolve
from scaling import progress

Objective = Literal["huber", "ls", "lad"]
IntervalMethod = Literal["auto", "bootstrap", "residual", "wild", "delta"]


def fit(
    law: Law | str,
    runs: pd.DataFrame,
    *,
    objective: Objective | Literal["auto"] = "auto",
    delta: float | None = None,
    on: Literal["log", "raw", "auto"] = "log",
    noise: Literal["constant", "sizes", "auto"] = "constant",
    reduce: Literal["sum", "mean"] = "sum",
    bootstrap: int = 1000,
    intervals: IntervalMethod = "auto",
    cluster: str | None = DEFAULT_CLUSTER,
    fixed: Mapping[str, float] | None = None,
    weights: Any = None,
    prior: Prior | str | None = None,
    seed: int = 0,
    warm: FitResult | None = None,
) -> FitResult:
    """Fit `law` to `runs`: find the global minimum, with draws for intervals and a certificate.

    law: a Law, its name, or 'file.py:name'; `analysis.fit` takes 'auto', too, and then returns a
        :class:`analysis.fitting.combination.Combination`: the default for losses at N and D.
    runs: one row per measurement, with the law's inputs and its target as columns. Rows whose
        column 'status', if present, is not 'ok' are left out. A law of the best learning rate or
        batch size is fitted to the best run of each search (see Law.best_of).
    objective: 'huber', 'ls' (half the sum of squares) or 'lad' (the sum of absolute values), of
        the residuals. 'auto' is 'huber'.
    delta: Huber's threshold. None ties it to the residuals, 1.345 times 1.4826 times their median
        size, which costs 5 % of efficiency under Gaussian noise. Hoffmann et al. 2022 and most
        papers since use 1e-3, which costs about 20 %.
    on: 'log' compares logarithms, as the papers do; 'raw' compares the values themselves. 'auto'
        fits both and takes the one with the higher likelihood.
    noise: 'constant' weighs all rows alike (but for `weights`). 'sizes' weighs each by the inverse
        of its variance, which is a product of powers of the law's inputs, estimated from repeated
        rows and residuals. 'auto' does so if a test rejects a constant variance.
    reduce: 'sum' or 'mean', how `FitResult.objective` is stated; the fit is the same.
    bootstrap: number of draws; 0 for none.
    intervals: 'bootstrap' (percentile, over runs), 'residual', 'wild', 'delta' (linearised, with
        Student's t; jackknifed over runs if rows share them), or 'auto': 'bootstrap', or 'delta'
        for fewer than 25 runs, and an error shared by the runs of one size, if there is a sign of
        one, widens them. Rows clustered in no more runs than there are parameters give no
        intervals.
    cluster: the column that names the run of each row; rows of one run are drawn together. The
        column must exist, unless it is the default 'run_id'. None treats each row as a run.
    fixed: parameters held at a value.
    weights: non-negative, one per row (an array, or the name of a column): relative precisions (a
        row's share of the objective), not counts of repeated rows; scaled to mean 1. Rows of weight
        0 are left out. A column whose name ends in '_stderr' or '_se' holds standard errors of the
        target: its rows weigh 1 / stderr^2 (with on='log', of the logarithm). 'stderr' finds that
        column. 'C' weighs rows in proportion to their compute, 6 N D if there is no such column:
        what is asked of a law is the loss of larger runs.
    prior: beliefs about parameters (a Prior), or 'field' for those of published sweeps. The fit is
        then the MAP estimate, and draws are draws from the posterior: their centres are resampled
        too. `FitResult.informed` says how much of each parameter is prior.
    seed: seeds starts and draws; the same seed gives the same result.
    warm: an earlier result of the same law, whose minima are tried first; saves time.

    Raises TableError for a table that cannot be used, LawError for a law that cannot, and FitError
    if no usable fit exists. `FitResult.status` reports lesser problems.
    """
    began = time.perf_counter()
    expect_law_and_runs("fit", law, runs)
    law = resolve(law)
    check_options(objective, delta, on, reduce, bootstrap, intervals, seed, noise)
    fixed = held_parameters(law, fixed or {})
    kind: Objective = "huber" if objective == "auto" else objective
    believed = None if prior is None else prior_named(prior, runs)
    rows = _rows(law, runs, weights, cluster, fixed, _first_scale(law, runs, on), believed)
    used = _intervals(rows.problem, intervals, bootstrap)
    progress.step(f"fitting {law.name}")
    with computable(rows.problem, rows.runs, seed):
        minimum = minimise(rows.problem, kind, delta, seed, _warm(rows.problem, warm))
        if on == "auto" and rows.problem.on == "log":
            raw = _rows(law, runs, weights, cluster, fixed, "raw", believed)
            rows, minimum = _likelier(rows, minimum, raw, kind, delta, seed)
        rows = rows._replace(problem=replace(rows.problem, shared=intervals == "auto"))
        problem, minimum, model = reweighted(rows.problem, minimum, noise, kind, delta, seed)
        problem = replace(problem, strain=minimum.strain)
        solved = time.perf_counter()
        certificate = certify(problem, minimum, used, rows.left_out)
        found = FitResult(
            law=law,
            params=_parameters(problem, minimum),
            stderr={},
            samples=pd.DataFrame(columns=list(law.params), dtype=float),
            runs=rows.runs,
            objective=_stated(problem, minimum, kind, reduce),
            loss=_loss_in_words(problem, kind, minimum.delta, reduce),
            objective_kind=kind,
            status=_of_rows(problem, minimum, rows),
            certificate=certificate,
            intervals=used,
            timings={"fit": solved - began, "certificate": time.perf_counter() - solved},
            noise=model,
            problem=problem,
            minimum=minimum,
        )
        return _with_draws(found, bootstrap, seed)


def with_draws(
    result: FitResult, bootstrap: int, *, intervals: IntervalMethod, seed: int
) -> FitResult:
    """Add draws to a fit that was made without them, as `fit` would. The minimum is kept."""
    check_options("auto", None, "log", "sum", bootstrap, intervals, seed, "constant")
    used = _intervals(result.problem, intervals, bootstrap)
    with computable(result.problem, result.runs, seed):
        left_out = result.certificate.left_out
        certificate = certify(result.problem, result.minimum, used, left_out)
        of_fit = status_of(result.problem, result.minimum, result.certificate)
        of_rows = tuple(each for each in result.status if each not in of_fit)
        found = replace(result, intervals=used, certificate=certificate, status=of_rows)
        return _with_draws(found, bootstrap, seed)


def _with_draws(result: FitResult, count: int, seed: int) -> FitResult:
    """Add the draws to a fit whose status is that of its rows, and all that follows from them."""
    began, problem, minimum = time.perf_counter(), result.problem, result.minimum
    samples, certificate = _draw(problem, minimum, result.certificate, count, seed)
    stderr = _standard_errors(problem, minimum, certificate, result.params, samples)
    timings = {name: result.timings[name] for name in ("fit", "certificate")}
    timings["intervals"] = time.perf_counter() - began
    return replace(
        result,
        samples=samples,
        certificate=certificate,
        stderr=stderr,
        status=(*status_of(problem, minimum, certificate), *result.status),
        timings=timings | {"total": sum(timings.values())},
    )


def why_not(law: Law | str, runs: pd.DataFrame) -> str:
    """Return why `law` cannot be fitted to `runs`, by the checks before a fit; "" if it can."""
    law = resolve(law)
    try:
        _rows(law, runs, None, DEFAULT_CLUSTER, {}, _first_scale(law, runs, "log"))
    except ValueError as error:  # TableError, FitError and LawError
        return str(error)
    return ""


class _Rows(NamedTuple):
    """The rows that are fitted, and the problem that they pose."""

    problem: Problem
    runs: pd.DataFrame
    left_out: dict[str, int]
    remarks: dict[str, str]


def _rows(
    law: Law,
    runs: pd.DataFrame,
    weights: Any,
    cluster: str | None,
    fixed: Mapping[str, float],
    on: str,
    prior: Prior | None = None,
) -> _Rows:
    runs, w, left_out, remarks = usable_rows(law, runs, weights, on)
    problem = Problem(
        law=law,
        columns={name: runs[name].to_numpy(float) for name in law.inputs},
        target=runs[law.target].to_numpy(float),
        weights=w,
        groups=group_codes(runs, cluster),
        fixed=fixed,
        on=on,
        prior=prior,
    )
    check_data(problem, left_out)
    return _Rows(problem, runs, left_out, remarks)


def _first_scale(law: Law, runs: pd.DataFrame, on: str) -> str:
    """Return the scale to fit first: for 'auto' the log, unless a target has none."""
    if on != "auto":
        return on
    target = pd.to_numeric(runs.get(law.target, pd.Series(dtype=float)), errors="coerce")
    return "raw" if bool((target <= 0).any()) else "log"


def _likelier(
    log: _Rows, minimum: Minimum, raw: _Rows, kind: Objective, delta: float | None, seed: int
) -> tuple[_Rows, Minimum]:
    """Return the rows and the minimum on the scale whose residuals are more likely."""
    warm = raw.problem.model.centred(log.problem.model.natural(minimum.basins))
    other = minimise(raw.problem, kind, delta, seed, warm)
    first = comparable_deviance(log.problem, minimum, kind)
    second = comparable_deviance(raw.problem, other, kind)
    return (raw, other) if second < first else (log, minimum)


def _of_rows(problem: Problem, minimum: Minimum, rows: _Rows) -> tuple[Status, ...]:
    """Return the warnings about the rows, which do not depend on the intervals."""
    return (
        *table_warnings(problem, rows.runs),
        *checkpoints_as_runs(problem, rows.runs, minimum),
        *(Status(code, text) for code, text in rows.remarks.items()),
    )


def _intervals(problem: Problem, intervals: str, bootstrap: int) -> str:
    """Return the method of the intervals: one of bootstrap.METHODS, or 'none'."""
    units = problem.units()
    clustered = units < problem.n
    if clustered and units <= problem.q:
        return "none"
    if not bootstrap:
        return "delta"
    if intervals == "residual" and clustered:
        raise FitError(
            f"the intervals 'residual' redraw single rows, but the rows belong to {units} runs: "
            "use 'wild' or 'bootstrap', which keep a run's rows together."
        )
    if intervals == "auto":
        return "delta" if units < SMALL else "bootstrap"
    return intervals


def _parameters(problem: Problem, minimum: Minimum) -> dict[str, float]:
    params = {p: float(v[0]) for p, v in problem.params(minimum.theta).items()}
    if not np.isfinite(problem.law.predict(params, **problem.columns)).all():
        raise FloatingPointError("not finite at its minimum")
    return params


def _draw(
    problem: Problem, minimum: Minimum, certificate: Certificate, count: int, seed: int
) -> tuple[pd.DataFrame, Certificate]:
    """Return the draws, one per row, and the certificate with the evidence about them."""
    if certificate.intervals == "none" or not count:
        return pd.DataFrame(columns=list(problem.law.params), dtype=float), certificate
    progress.step(f"computing the intervals of {problem.law.name}")
    draws = draw(problem, minimum, certificate.intervals, count, seed)
    samples = pd.DataFrame(problem.params(draws.theta))
    far = ~(samples[list(problem.free)].abs() < FAR).all(axis=1)
    return samples, replace(
        certificate,
        resamples=draws.converged,
        rescued=draws.rescued,
        overflowed=float(far.mean()),
    )


def _standard_errors(
    problem: Problem,
    minimum: Minimum,
    certificate: Certificate,
    params: Mapping[str, float],
    samples: pd.DataFrame,
) -> dict[str, float]:
    """Return the standard error of each parameter; see FitResult.stderr."""
    stderr = dict.fromkeys(problem.law.params, 0.0)
    if certificate.intervals == "none":
        return stderr | dict.fromkeys(problem.free, np.nan)
    if certificate.intervals == "delta" or not len(samples):
        cov, _ = natural_covariance(problem, minimum)
        for j, (p, log) in enumerate(zip(problem.free, problem.model.log, strict=True)):
            stderr[p] = float(np.sqrt(max(cov[j, j], 0))) * (params[p] if log else 1.0)
    else:
        stderr |= {p: spread(samples[p].to_numpy(float)) for p in problem.free}
    return stderr | dict.fromkeys(certificate.undetermined, np.inf)


def _warm(problem: Problem, result: FitResult | None) -> np.ndarray | None:
    """Return the minima of another result as unknowns of this problem."""
    if result is None:
        return None
    same = (result.law.name, result.law.inputs, result.law.params, result.law.target) == (
        problem.law.name, problem.law.inputs, problem.law.params, problem.law.target
    )  # fmt: skip
    if not same or result.problem.free != problem.free:
        raise FitError(
            f"warm: that result is of {result.law.name} with other free parameters; give a result "
            f"of {problem.law.name} with {', '.join(problem.free)} free."
        )
    return problem.model.centred(result.problem.model.natural(result.minimum.basins))


def _stated(problem: Problem, minimum: Minimum, objective: str, reduce: str) -> float:
    """Return the objective as `FitResult.objective` states it."""
    value, w = minimum.objective, problem.weights
    if objective == "lad":  # minimised as Huber's function with a vanishing threshold
        value = np.abs(problem.residuals(minimum.theta)[0]) @ w
    return float(value / (w.sum() if reduce == "mean" else 1.0))


def _loss_in_words(problem: Problem, objective: str, delta: float, reduce: str) -> str:
    target = problem.law.target
    of = f"log {target}" if problem.on == "log" else target
    name = {
        # The residuals of an exact fit set no threshold.
        "huber": f"Huber(delta={delta:.4g})" if np.isfinite(delta) else "Huber(without threshold)",
        "ls": "least squares",
        "lad": "least absolute deviations",
    }[objective]
    held = "" if problem.prior is None else f", with the prior {problem.prior.name!r}"
    return f"{name} of {of}, {reduce}{held}"
