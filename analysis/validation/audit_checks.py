"""The checks of an audit, each of which yields findings about claimed constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy

from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.held_out import compute_of_run, cutoffs, errors_of, rms
from analysis.fitting.intervals import design_effect, direction, held, scale
from analysis.fitting.result import FitResult
from analysis.in_words import cell
from analysis.validation.audit_cost import FACTORS, Beyond, Cost
from analysis.validation.audit_finding import Finding, constants
from analysis.validation.audit_minimum import EXCESS, Distance, distance, objective_at
from analysis.validation.claim import PAPERS_DELTA, Claim

_LIMIT = float(scipy.special.chdtri(1, 0.05))
_MATTERS = 1e-3
"""A relative change of the predicted loss below this is of no interest."""
_STOPPED_EARLY = 1.0
"""A likelihood ratio below this, of constants short of the minimum, says nothing against them."""
_ANOTHER = 1.0
"""Minima of different objectives are nearer to each other than this excess."""
_OTHERS: tuple[tuple[str, float | None, str], ...] = (
    ("lad", None, "log"), ("ls", None, "log"), ("huber", PAPERS_DELTA, "log"),
    ("ls", None, "raw"),
)  # fmt: skip
"""Objectives that a claim may have been obtained with, whatever it says."""
_NAMES = {"huber": "Huber", "ls": "least squares", "lad": "least absolute deviations"}

Params = Mapping[str, float]


# --- The minimum ----------------------------------------------------------------------------------


def not_at_minimum(
    claim: Claim, result: FitResult, far: Distance, beyond: Beyond
) -> Iterator[Finding]:
    """Yield a finding if no constants that round to the claim minimise its objective.

    A solver that stopped early, short of the minimum but where the rows cannot tell the difference,
    is no finding; a local optimum, or the minimum of another objective, is one.
    """
    if far.reached:
        return
    free = result.problem.free
    local = far.local is not None and result.objective_kind != "lad"
    other = None if local else _other_objective(claim, result, far)
    if not local and other is None and _statistic(result, far) < _STOPPED_EARLY:
        return
    where = constants(far.minimum, free, ".5g")
    higher = f"{100 * far.excess:.2g} %" if far.excess < 10 else f"{far.excess + 1:.2g} times"
    if local:
        text = (
            f"{', '.join(free)} are a local optimum of the claim's objective, {result.loss}: the "
            f"global minimum, {where}, is {higher} lower"
        )
    else:
        text = (
            f"the claim is not at the minimum of its own objective, {result.loss}: it is {higher} "
            f"above the minimum, which is at {where}"
        )
        if other is not None:
            text += f"; the constants are those of {other}"
    yield Finding(
        code="not_at_minimum",
        text=f"{text}.",
        cost=beyond.cost(far.within, far.minimum),
        facts={
            "excess": far.excess,
            "objective_at_claim": far.at_claim,
            "objective_within_rounding": far.at_within,
            "objective_at_minimum": far.least,
            "minimum": dict(far.minimum),
            "local_optimum": dict(far.local) if local and far.local else None,
            "minimum_of": other,
        },
    )


def _statistic(result: FitResult, far: Distance) -> float:
    """Return the likelihood ratio between the claim, within its rounding, and the minimum."""
    unit = max(scale(result.problem, result.minimum), result.problem.rounding)
    factor = result.minimum.delta if result.objective_kind == "lad" else 1.0
    return 2 * factor * (far.at_within - far.least) / unit


def _other_objective(claim: Claim, result: FitResult, own: Distance) -> str | None:
    """Return another objective whose minimum the claim is, in words; None if there is none."""
    if own.excess > _ANOTHER:
        return None
    for kind, delta, on in _OTHERS:
        if (kind, delta, on) == (claim.objective, claim.delta, claim.on):
            continue
        options: dict[str, Any] = {"objective": kind, "delta": delta, "on": on, "bootstrap": 0}
        options |= {"fixed": dict(result.problem.fixed), "warm": result}
        try:
            other = fit(result.law, result.runs, **options)
        except FitError:
            continue
        far = distance(other, claim.params, claim.digits)
        if far.excess < own.excess and (far.reached or far.excess < 2 * EXCESS):
            return f"{_NAMES[kind]} of {'log ' * (on == 'log')}{result.law.target}"
    return None


def rounding(claim: Claim, result: FitResult, far: Distance, beyond: Beyond) -> Iterator[Finding]:
    """Yield a finding if the digits left out of the constants move the predictions."""
    moved = np.log(_law_at(result, claim.params) / _law_at(result, far.within))
    size, bias = rms(moved), float(np.mean(moved))
    noise = _spread(result.log_residuals)
    lower = far.at_claim > far.at_within * 1.02
    if not np.isfinite(size) or not (lower and size > max(_MATTERS, 0.1 * noise)):
        return
    # The parameter whose digits matter most, for the reader who wants one more of them.
    cost = beyond.cost(claim.params, far.within)
    p = max(result.problem.free, key=lambda p: _moved_by_digit(result, claim, p))
    yield Finding(
        code="rounding",
        text=(
            f"the constants are rounded too far: as written they move the predictions of the rows "
            f"by {100 * size:.2g} % (mean {100 * bias:+.2g} %) against constants that round to "
            f"them, such as {constants(far.within, result.problem.free, '.5g')}; "
            f"{p} needs more digits first."
        ),
        cost=cost,
        facts={"rms": size, "mean": bias, "within_rounding": dict(far.within), "parameter": p},
    )


def _moved_by_digit(result: FitResult, claim: Claim, p: str) -> float:
    shifted = {**claim.params, p: claim.params[p] + claim.digits[p]}
    off = np.log(_law_at(result, shifted) / _law_at(result, claim.params))
    return rms(off) if np.isfinite(off).all() else 0.0


def _law_at(result: FitResult, params: Params) -> np.ndarray:
    with np.errstate(all="ignore"):
        return result.law.predict(params, **result.problem.columns)


def _spread(r: np.ndarray) -> float:
    """Return the robust standard deviation of residuals."""
    return float(1.4826 * np.median(np.abs(r - np.median(r))))


# --- Identified -----------------------------------------------------------------------------------


def not_identified(
    claim: Claim, result: FitResult, far: Distance, beyond: Beyond
) -> Iterator[Finding]:
    """Yield a finding for each parameter that could be arbitrarily large at no real cost, where
    that changes a prediction."""
    for p in result.problem.free:
        tried = _arbitrarily_large(result, p)
        if tried is None:
            continue
        at, rise = tried
        low = result.profile(p).low if result.intervals != "none" else np.nan
        cost = beyond.cost(at, far.minimum)
        worth = abs(beyond.loss(far.minimum, FACTORS[-1])) * _MATTERS
        if cost.nats is not None and cost.nats < worth:
            continue
        known = f"at least {low:.2g}" if low > 0 else "anything"
        yield Finding(
            code="not_identified",
            text=(
                f"{p} = {claim.params[p]:.4g} is hardly identified: the rows say that it is "
                f"{known}, without an upper limit (95 %); {p} = {at[p]:.2g} raises the objective "
                f"by only {100 * rise:.2g} %."
            ),
            cost=cost,
            facts={"parameter": p, "low": low, "high": np.inf, "minimum": far.minimum[p]},
        )


def _arbitrarily_large(result: FitResult, p: str) -> tuple[dict[str, float], float] | None:
    """Return constants with a practically infinite `p` that fit as well, and by how much the
    objective is higher, relatively; None if the data exclude them."""
    problem, minimum = result.problem, result.minimum
    if not result.law.ranges[p].positive:
        low, high = result.law.ranges[p].ends(problem.columns)
        shifts = np.array([[-20.0, 20.0]]) * (high - low)
    else:
        first = _smallest_that_acts(result, p)
        if first is None:
            return None
        shifts = np.log(np.array([[first * 1e6, first * 1e8]]) / result.params[p])
    with np.errstate(all="ignore"):
        value, theta = held(problem, minimum, [p], shifts)
    effect = design_effect(problem, minimum, direction(problem, p))
    unit = max(scale(problem, minimum) * effect, problem.rounding)
    statistic = 2 * (value[0] - minimum.objective) / unit
    k = int(np.argmin(statistic)) if not result.law.ranges[p].positive else 1
    if not statistic[k] < _LIMIT:
        return None
    params = {name: float(v[0]) for name, v in problem.params(theta[:, 0, [k]]).items()}
    rise = objective_at(result, params) / max(objective_at(result, result.params), 1e-300) - 1
    return params, rise


def _smallest_that_acts(result: FitResult, p: str) -> float | None:
    """Return the fitted value, or a larger one if the fitted one is practically zero; None if the
    law does not feel it at all."""
    at, value = _law_at(result, result.params), result.params[p]
    if value <= 0:
        return None
    for _ in range(40):
        larger = _law_at(result, {**result.params, p: value * 10})
        smaller = _law_at(result, {**result.params, p: value / 10})
        if not np.allclose(larger, at, rtol=1e-4) or not np.allclose(smaller, at, rtol=1e-4):
            return value
        value *= 10
    return result.params[p]


# --- Residuals ------------------------------------------------------------------------------------


def bias(claim: Claim, result: FitResult, far: Distance, beyond: Beyond) -> Iterator[Finding]:
    """Yield a finding if the claim's mean prediction is off by more than chance."""
    r = {
        who: np.log(result.problem.target / _law_at(result, params))
        for who, params in (("claim", claim.params), ("best", far.minimum), ("within", far.within))
    }
    if not all(np.isfinite(each).all() for each in r.values()):
        return
    # Huber's minimum need not have residuals of mean zero: compare with those that it has.
    mean = _mean(r["claim"]) - _mean(r["best"])
    noise = _spread(r["claim"]) / np.sqrt(result.problem.units())
    worse = abs(_mean(r["claim"])) > abs(_mean(r["best"]))
    if not worse or abs(mean) < max(_MATTERS, 3 * noise):
        return
    digits = 1 - (_mean(r["within"]) - _mean(r["best"])) / mean
    L = float(np.mean(result.problem.target))
    why = f"; {100 * min(digits, 1.0):.0f} % of that is rounding" if digits > 0.2 else ""
    side = "low" if mean > 0 else "high"
    yield Finding(
        code="bias",
        text=(
            f"the claim's mean prediction of the rows it was fitted to is {100 * abs(mean):.2g} % "
            f"too {side} ({abs(mean) / max(noise, 1e-12):.0f} standard errors{why})."
        ),
        cost=_in_nats(beyond, abs(mean) * L, far),
        facts={"mean": mean, "stderr": noise},
    )


def _mean(x: np.ndarray) -> float:
    """Return the mean without the lowest and highest tenth, in which few rows may decide."""
    return float(scipy.stats.trim_mean(x, 0.1))


def trend(claim: Claim, result: FitResult, far: Distance, beyond: Beyond) -> Iterator[Finding]:
    """Yield a finding for the input along which the claim's residuals trend most."""
    r = np.log(result.problem.target / _law_at(result, claim.params))
    own = np.log(result.problem.target / _law_at(result, far.minimum))
    if result.n < result.problem.q + 4 or not np.isfinite(r).all():
        return
    noise = _spread(own)
    found = []
    for name, x in _axes(result).items():
        slope, t = _slope(np.log(x), r)
        span = float(np.ptp(np.log(x)))
        if abs(t) > 4 and abs(slope) * span > max(noise, _MATTERS):
            found.append((abs(slope) * span, name, slope, t))
    if not found:
        return
    size, name, slope, t = max(found)
    x = np.log(_axes(result)[name])
    point = beyond.point(far.minimum, FACTORS[-1])
    reach = np.log(point[name]) - x.mean() if point.get(name, 0) > 0 else np.nan
    left, right = 100 * slope * (x.min() - x.mean()), 100 * slope * (x.max() - x.mean())
    if abs(_slope(x, own)[0]) > 0.5 * abs(slope):
        cause = "so do those of the re-derived law: its form is at fault"
        nats = abs(slope * reach) * abs(point[result.law.target])
        cost = _in_nats(beyond, nats, far)
    else:
        cause = "those of the re-derived law do not: the constants are at fault"
        cost = beyond.cost(claim.params, far.minimum)
    yield Finding(
        code="trend",
        text=(
            f"the claim's residuals trend with {name}: from {left:+.2g} % at the smallest to "
            f"{right:+.2g} % at the largest "
            f"(t = {t:.1f}); {cause}."
        ),
        cost=cost,
        facts={"input": name, "slope": slope, "t": t, "range": size},
    )


def _axes(result: FitResult) -> dict[str, np.ndarray]:
    axes = {n: x for n, x in result.problem.columns.items() if (x > 0).all() and np.ptp(x) > 0}
    if "C" in result.runs.columns and result.runs["C"].gt(0).all():
        axes["C"] = result.runs["C"].to_numpy(float)
    return axes


def _slope(x: np.ndarray, r: np.ndarray) -> tuple[float, float]:
    """Return slope and t statistic of residuals, clipped at three robust deviations."""
    centre, spread = np.median(r), _spread(r)
    r = np.clip(r, centre - 3 * spread, centre + 3 * spread)
    u = x - x.mean()
    square = float(u @ u)
    if square <= 0 or len(r) < 4:
        return 0.0, 0.0
    slope = float(u @ r) / square
    left = r - r.mean() - slope * u
    stderr = np.sqrt(float(left @ left) / (len(r) - 2) / square)
    return slope, slope / max(stderr, 1e-300)


def _in_nats(beyond: Beyond, nats: float, far: Distance) -> Cost:
    if not np.isfinite(nats):
        return Cost(nats=None)
    return beyond.priced(nats, far.minimum)


# --- Larger rows ----------------------------------------------------------------------------------


def held_out(
    claim: Claim, result: FitResult, far: Distance, beyond: Beyond, others: pd.DataFrame | None
) -> Iterator[Finding]:
    """Yield a finding if larger rows, which the claim was not fitted to, are missed.

    others: such rows; without any, the law is refitted to the smaller rows and predicts the rest.
    """
    noise = rms(np.clip(result.log_residuals, *_three(result.log_residuals)))
    if others is not None and len(others):
        x = {name: others[name].to_numpy(float) for name in result.law.inputs}
        with np.errstate(all="ignore"):
            predicted = result.law.predict(claim.params, **x)
        off = np.log(others[result.law.target].to_numpy(float) / predicted)
        rows = f"{len(off)} larger row{'s'[: len(off) != 1]}"
        what = f"the claim misses {rows} that it was not fitted to"
    else:
        found = _refitted(result)
        if found is None:
            return
        off, factor = found
        what = (
            f"refitted to the rows up to 1/{factor:.2g} of the largest compute, the law misses the "
            f"{len(off)} larger ones"
        )
    error, mean = rms(off), float(np.mean(off))
    if not np.isfinite(error) or error < max(0.01, 3 * noise):
        return
    nats = error * abs(beyond.loss(far.minimum, FACTORS[0]))
    yield Finding(
        code="held_out",
        text=(
            f"{what}: by {100 * error:.2g} % (mean {100 * mean:+.2g} %), where residuals are "
            f"{100 * noise:.2g} %."
        ),
        cost=_in_nats(beyond, nats, far),
        facts={"error": error, "mean": mean, "rows": len(off)},
    )


def _three(r: np.ndarray) -> tuple[float, float]:
    return float(np.median(r) - 3 * _spread(r)), float(np.median(r) + 3 * _spread(r))


def _refitted(result: FitResult) -> tuple[np.ndarray, float] | None:
    """Return the errors of the law, refitted below a middle cut-off, at the larger rows."""
    if not {"N", "D"} <= set(result.law.inputs):
        return None
    size = compute_of_run(result)
    cuts = cutoffs(size, 5, result.problem.q + 2)
    for cut in cuts[len(cuts) // 2 :]:
        off = errors_of(result, size > cut)
        if off is not None and np.isfinite(off).all():
            return off, float(size.max() / cut)
    return None


def in_words(interval: pd.Series) -> str:
    """Return a row of FitResult.interval in words."""
    return f"{interval['value']:.5g} [{cell(interval['low'])}, {cell(interval['high'])}]"
