"""Find the global minimum of one problem."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.fitting.problem import PowerSumModel, Problem, typical
from analysis.fitting.solver import Solutions, solve
from analysis.fitting.starts import linear_parameters, ranked, spaced, starts, unknowns_of

LAD = 1e-9
"""Huber's threshold for least absolute deviations: small enough to stand for zero."""
SAME = 1e-6
"""Two minima count as the same if their objectives differ by less than this fraction."""
_MANY_ROWS = 4000
"""With more rows, minima are searched in a random half as many rows, then refined in all rows."""
_GLOBAL = 60
"""Maximum number of iterations per start."""
_PATIENT = 240
"""Further iterations if few starts have converged by then, as in a long flat valley."""
_ROUNDS = 12
"""Maximum number of rounds in which the prior's weight and the fit settle."""
_STAGES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Thresholds of the stages that lead down to a small threshold."""


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The global minimum of one problem, and the other findings of the search."""

    theta: np.ndarray
    """(q, 1) unknowns."""
    objective: float
    """sum_i w_i rho(r_i)."""
    delta: float
    """Huber's threshold; infinite for least squares."""
    basins: np.ndarray
    """(q, K) distinct local minima, best first."""
    objectives: np.ndarray
    """(K,) objectives of the local minima."""
    pool: np.ndarray
    """(q, M) starting points, best first."""
    starts: int
    """Number of starts that were minimised from."""
    share: float
    """Fraction of the starts that reached the best objective."""
    converged: bool
    """Whether the solver met its tolerance."""
    strain: float = 0.0
    """The variance of a residual that weighs the prior; see Problem."""


def minimise(
    problem: Problem,
    objective: str,
    delta: float | None,
    seed: int,
    warm: np.ndarray | None = None,
) -> Minimum:
    """Minimise the objective 'huber', 'ls' or 'lad' globally.

    warm: (q, K) minima of a similar problem, which are tried first; a third of the usual starts
        then suffices.
    delta: Huber's threshold. None ties it to the scale of the residuals: 1.345 times 1.4826 times
        their median size (95 % efficient under Gaussian noise), found as a fixed point.
    """
    if problem.penalty is not None and not problem.strain:
        problem, delta = weighed(problem, objective, delta, seed, warm)
    if problem.n > _MANY_ROWS:
        thin = _thinned(problem, seed)
        rough = minimise(thin, objective, delta, seed, warm)
        return _polish(problem, rough, thin, objective, delta)
    pool = starts(problem, seed, count=None if warm is None else 128)
    pool, _ = ranked(problem, pool, np.inf)
    if pool.shape[1] == 0:
        raise FloatingPointError("not finite at any starting point")
    count = 24 if isinstance(problem.model, PowerSumModel) else 48
    least = 1e-9 * problem.unit
    # Starts are ranked by least absolute deviations, which no outlier dominates.
    pool, _ = ranked(problem, pool, max(typical(problem, pool[:, :1]), least) * 1e-2)
    if warm is None:
        first = spaced(pool, count)
    else:
        first = np.concatenate([warm[:, :8], spaced(pool, count // 3)], 1)
    threshold, found = _search(problem, first, objective, delta)
    for _ in problem.law.exchangeable if warm is None else ():
        better = _exchanged(problem, found, threshold, seed)
        if better is None:
            break
        first = np.concatenate([better, first], 1)
        threshold, found = _search(problem, first, objective, delta)
    return _minimum(problem, threshold, found, pool, first.shape[1])


def _thinned(problem: Problem, seed: int) -> Problem:
    """Return the problem on a random part of its rows."""
    return problem.take(np.random.default_rng(seed).permutation(problem.n)[: _MANY_ROWS // 2])


def _threshold(problem: Problem, objective: str, delta: float | None) -> float:
    """Return Huber's threshold for an objective whose threshold is not tied to the residuals."""
    return LAD * problem.unit if objective == "lad" else np.inf if delta is None else delta


def weighed(
    problem: Problem, objective: str, delta: float | None, seed: int, warm: np.ndarray | None
) -> tuple[Problem, float | None]:
    """Return the problem with the variance that weighs its prior, and Huber's threshold.

    Both follow from the typical residual, as a fixed point; a threshold that is given is kept.
    """
    few = _thinned(problem, seed) if problem.n > _MANY_ROWS else problem
    pool, _ = ranked(few, starts(few, seed, count=512), np.inf)
    if pool.shape[1] == 0:
        raise FloatingPointError("not finite at any starting point")
    first = spaced(ranked(few, pool, max(typical(few, pool[:, :1]), 1e-9) * 1e-2)[0], 12)
    if warm is not None:
        first = np.concatenate([warm[:, :4], first], 1)
    assert problem.prior is not None
    spread, tied = 1.4826 * typical(few, first[:, :1]), delta
    for _ in range(_ROUNDS):
        inflated = max(problem.prior.inflation * spread, 1e-9)
        few = replace(few, strain=inflated**2)
        if objective == "huber" and delta is None:
            tied = 1.345 * inflated
        found = _continue(few, first, _threshold(few, objective, tied))
        first = found.theta[:, np.argsort(found.objective, kind="stable")[:4]]
        before, spread = spread, 1.4826 * typical(few, first[:, :1])
        if abs(spread - before) <= 1e-6 * before:
            break
    return replace(problem, strain=few.strain), tied


def _search(
    problem: Problem, first: np.ndarray, objective: str, delta: float | None
) -> tuple[float, Solutions]:
    """Return Huber's threshold for the objective, and the minima reached from each start."""
    if objective == "huber" and delta is None:
        return _tied(problem, first)
    threshold = _threshold(problem, objective, delta)
    return threshold, _continue(problem, first, threshold)


def _exchanged(problem: Problem, found: Solutions, delta: float, seed: int) -> np.ndarray | None:
    """Return unknowns (q, K) below the minima found so far, by moving one break at a time.

    Sharp breaks between two rows are local minima. The parameters of each break in turn (see
    Law.exchangeable) are searched on a grid, linear parameters are solved for again, and the others
    are held. Returns None if that finds nothing lower.
    """
    best = int(np.argmin(found.objective))
    if found.objective[best] <= 100 * problem.rounding * problem.weights.sum():
        return None
    at = {p: float(v[0]) for p, v in problem.params(found.theta[:, [best]]).items()}
    linear = linear_parameters(problem, seed)
    tried = []
    for group in problem.law.exchangeable:
        kept = {p: v for p, v in at.items() if p not in (*linear, *group)}
        part = replace(problem, fixed={**kept, **problem.fixed})
        if not part.q:
            continue
        pool, _ = ranked(part, starts(part, seed), delta)
        tried.append(unknowns_of(problem, part.params(pool[:, :6])))
    if not tried:
        return None
    start = problem.model.centred(np.concatenate(tried, 1))
    again = _continue(problem, start, delta)
    lower = again.objective < found.objective[best] * (1 - SAME)
    return again.theta[:, lower] if lower.any() else None


def _minimum(
    problem: Problem, threshold: float, found: Solutions, pool: np.ndarray, count: int
) -> Minimum:
    """Collect the distinct minima; `share` counts the first `count` solutions."""
    order = np.argsort(found.objective, kind="stable")
    top = int(order[0])
    best = float(found.objective[top])
    if not np.isfinite(best):
        raise FloatingPointError("not finite anywhere the fit went")
    # Solve once more to full tolerance, in case the search was cut short.
    last = solve(problem, found.theta[:, [top]], threshold, limit=500)
    # The objective of an exact fit is rounding error: residuals below 1e-9 count as equal.
    tiny = 1e-9 * (problem.unit + np.abs(problem.y).max())
    slack = SAME * best + tiny * min(tiny, threshold) * float(problem.weights.sum())
    basins = [top]
    for i in order:
        if found.converged[i] and found.objective[i] > found.objective[basins[-1]] + 100 * slack:
            basins.append(int(i))
    return Minimum(
        theta=last.theta,
        objective=float(last.objective[0]),
        delta=threshold,
        basins=found.theta[:, basins],
        objectives=found.objective[basins],
        pool=pool,
        starts=count,
        share=float(np.mean(found.objective[:count] <= best + slack)),
        converged=bool(last.converged[0]),
        strain=problem.strain,
    )


def _polish(
    problem: Problem, rough: Minimum, thin: Problem, objective: str, delta: float | None
) -> Minimum:
    """Minimise over all rows from the minima of a part of them."""
    start = problem.model.centred(thin.model.natural(rough.basins[:, :4]))
    threshold, found = _search(problem, start, objective, delta)
    pool = problem.model.centred(thin.model.natural(rough.pool[:, :8]))
    fine = _minimum(problem, threshold, found, pool, start.shape[1])
    return replace(fine, starts=rough.starts, share=rough.share)


def _tied(problem: Problem, first: np.ndarray) -> tuple[float, Solutions]:
    """Return Huber's threshold tied to the residuals, and the minima at it, as a fixed point."""
    some = first[:, : max(6, first.shape[1] // 3)]
    rough = solve(problem, some, np.inf, limit=30)
    theta = rough.theta[:, [int(np.argmin(rough.objective))]]
    delta, found = np.inf, rough
    for turn in range(3):  # the best basin may change with the threshold
        delta, theta = _fixed_point(problem, theta)
        if turn == 0 and problem.few():
            delta, theta = _unmasked(problem, some, delta, theta)
        found = _continue(problem, np.concatenate([first, theta], 1), delta)
        best = int(np.argmin(found.objective))
        if found.objective[best] >= found.objective[-1] * (1 - 1e-9):
            break
        theta = found.theta[:, [best]]
    return delta, found


def _fixed_point(problem: Problem, theta: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the threshold tied to the residuals of its own minimum, and that minimum (q, 1)."""
    skip, least = problem.q if problem.few() else 0, 1e-9 * problem.unit
    delta = np.inf
    for _ in range(30):
        tied = max(1.345 * 1.4826 * typical(problem, theta, without=skip), least)
        if abs(tied - delta) <= 1e-9 * tied:
            break
        delta = tied
        theta = solve(problem, theta, delta).theta
    return delta, theta


def _unmasked(
    problem: Problem, starts: np.ndarray, delta: float, theta: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return another fixed point if its threshold is less than half as large.

    Least squares bends towards a gross error, and among few rows a threshold that begins there may
    stay too large to show it. The other fixed point begins at least absolute deviations.
    """
    small = max(1e-2 * delta, 1e-9 * problem.unit)
    for threshold in (delta, 0.1 * delta, small):
        starts = solve(problem, starts, threshold, limit=_GLOBAL).theta
    found = solve(problem, starts, small, limit=_GLOBAL)
    other, point = _fixed_point(problem, found.theta[:, [int(np.argmin(found.objective))]])
    return (other, point) if other < delta / 2 else (delta, theta)


def _continue(problem: Problem, theta: np.ndarray, delta: float) -> Solutions:
    """Minimise from each start, lowering a small threshold in stages.

    Far from the minimum, a small threshold amounts to least absolute deviations, with a kink at
    every row.
    """
    for stage in _STAGES:
        if stage > 3 * delta:
            theta = solve(problem, theta, stage, limit=_GLOBAL).theta
    found = solve(problem, theta, delta, limit=_GLOBAL)
    if found.converged.mean() >= 0.25:
        return found
    return solve(problem, found.theta, delta, limit=_PATIENT)
