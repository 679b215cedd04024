"""A design beside the usual sets of runs of about equal cost, and how certain each is expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy import special

from analysis.fitting.result import FitResult
from analysis.frontiers.optimum import optimum_at
from analysis.planning.design_alternatives import alternatives
from analysis.planning.design_candidates import Candidates
from analysis.planning.design_simulation import Simulation
from analysis.planning.design_spec import Point
from analysis.planning.optimal_design import DesignProblem, information
from analysis.tables.conventions import flops_6N


def rivals(
    result: FitResult,
    problem: DesignProblem,
    candidates: Candidates,
    draws: Mapping[str, np.ndarray],
    sigma: float,
) -> dict[str, tuple[Point, ...]]:
    """Return the usual sets of about equal cost: of each kind, the best by linearisation."""
    law = result.law
    params = {p: np.array([v]) for p, v in result.params.items()}
    smallest, largest = candidates.sizes[0][1], candidates.sizes[-1][1]

    def optimum(C: float) -> float:
        N = float(optimum_at(law, params, np.array([C]), flops_6N)["N"][0, 0])
        return float(np.clip(N, smallest, largest)) if math.isfinite(N) else smallest

    found = {}
    kinds = alternatives(candidates.sizes, candidates.at, problem.budget, problem.most, optimum)
    for kind, sets in kinds.items():
        widths = []
        for points in sets:
            J = information(law, draws, [p.N for p in points], [p.D for p in points]) / sigma
            widths.append(replace(problem, J=J).width(np.arange(len(points))))
        if sets:
            found[kind] = tuple(sets[int(np.argmin(widths))])
    return found


def simulated_widths(
    simulated: Simulation,
    sets: Mapping[str, tuple[Point, ...]],
    level: float,
    *,
    kept: int,
) -> dict[str, float | None]:
    """Return the expected half-width of each set of runs, beside `kept` earlier runs."""
    widths: dict[str, float | None] = {"nothing more": None}
    q = len(simulated.estimate)
    for name, points in {"nothing more": (), **sets}.items():
        if points or kept:
            freedom = max(len(points) + kept - q, 1)
            factor = special.stdtrit(freedom, (1 + level) / 2)
            widths[name] = float(factor * simulated.error(points))
    return widths


def linearised_widths(
    problem: DesignProblem, chosen: np.ndarray, level: float, *, kept: int
) -> dict[str, float | None]:
    """Return the half-width that the linearised law expects, beside `kept` earlier runs."""
    widths: dict[str, float | None] = {}
    for name, runs in (("nothing more", chosen[:0]), ("optimal", chosen)):
        freedom = len(runs) + kept - problem.g.shape[1]
        factor = special.stdtrit(max(freedom, 1), (1 + level) / 2)
        widths[name] = float(factor * problem.width(runs)) if len(runs) or kept else None
    return widths
