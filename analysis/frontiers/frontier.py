"""The compute-optimal frontier: N_opt(C), D_opt(C), L_opt(C), by every method in use.

envelope     lower envelope of the learning curves (Kaplan et al. 2020, Figs. 1 and 13; Hoffmann
             et al. 2022, approach 1)
isoflop      minima of loss against size at fixed compute, by parabola (Hoffmann et al. 2022,
             approach 2)
akima        the same by Akima interpolation in log-log (Porian et al. 2024)
parametric   least loss of a fitted law of N and D at fixed compute (Hoffmann et al. 2022,
             approach 3): in closed form where there is one, numerically otherwise
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.fitting.checks import FitError, check_draws, check_level
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.budgets import budgets_of, slices
from analysis.frontiers.envelope import envelope
from analysis.frontiers.isoflop import isoflop
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Comparison, Frontier
from analysis.laws import Law
from analysis.tables.conventions import counted, in_words, per_token
from scaling.errors import TableError
from scaling.table import sensible

METHODS = ("envelope", "isoflop", "akima", "parametric")


def frontier(
    data: pd.DataFrame | FitResult,
    *,
    method: str | None = None,
    curves: pd.DataFrame | None = None,
    law: Law | str = "chinchilla",
    params: str = "N",
    flops: str | Callable[[Any], Any] = "C",
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    tolerance: float | None = None,
) -> Frontier | Comparison:
    """The compute-optimal frontier of runs, of learning curves, or of a fitted law of N and D.

    data     a FitResult; runs, one row a run; or learning curves, one row an evaluation (both as
             `load` gives them).
    method   'envelope', 'isoflop', 'akima', 'parametric', or 'all' for a Comparison. Where not
             given: parametric for a fit, envelope for curves, parametric for runs.
    curves   the learning curves of the runs in `data`, for the envelope within 'all'.
    law      what the parametric method fits to runs.
    params   what N counts: a column, or N_total, N_kaplan, N_head from the shape.
    flops    what C counts: a column, '6 N_total D', or C_kaplan, C_chinchilla, C_matmul from the
             shape (see analysis.tables.conventions); for the parametric method also a function of N that
             gives the FLOPs of one token.
    tolerance  how far apart, relatively, the C of one isoFLOP budget may lie (see `isoflop`).

    Intervals are percentile bootstraps: of whole runs (envelope, parametric), or of the noise
    about each minimum (isoflop, akima; there scaled up where the minima scatter more than that).
    Raises TableError where the data do not allow the method, saying what is lacking.
    """
    check_draws(bootstrap, seed)
    check_level(level)
    if tolerance is not None and not (sensible(tolerance) or tolerance == 0):
        raise FitError(f"tolerance={tolerance} must be a finite number, 0 or more, such as 0.1.")
    options: dict[str, Any] = {"bootstrap": bootstrap, "level": level, "seed": seed}
    if isinstance(data, FitResult):
        if method not in (None, "parametric"):
            raise TableError(
                f"method={method!r} needs runs or learning curves; a fitted law has the parametric "
                "frontier only."
            )
        return parametric(data, flops=flops, level=level)
    is_curve = "D_total" in data.columns
    method = method or ("envelope" if is_curve else "parametric")
    if method not in (*METHODS, "all"):
        raise TableError(
            f"method={method!r} is unknown; the methods are {', '.join(METHODS)} and all."
        )
    points = data if is_curve else curves
    runs = _last(data) if is_curve else data

    def one(name: str) -> Frontier:
        if name == "parametric":
            table = counted(runs, params, flops if isinstance(flops, str) else "C")
            fitted = fit(law, table, bootstrap=bootstrap, seed=seed)
            per = per_token(table) if isinstance(flops, str) else flops
            front = parametric(fitted, flops=per, level=level)
        elif callable(flops):
            raise TableError(
                f"flops as a function of N is for the parametric method; {name} needs a column."
            )
        elif name == "envelope":
            if points is None:
                raise TableError(
                    "the envelope needs learning curves: load(folder, curves=True), or give them "
                    "as frontier(runs, curves=...)."
                )
            front = envelope(counted(points, params, flops), **options)
        else:
            table = counted(runs, params, flops)
            if points is not None and not budgets_of(table):
                table = slices(counted(points, params, flops))
            elif flops != "C" and not budgets_of(table) and table["N"].duplicated().any():
                table = slices(table.assign(run_id=table["N"].astype(str)))
            front = isoflop(table, kind=name, tolerance=tolerance, **options)
        return replace(front, params=params, flops=in_words(flops))

    if method != "all":
        return one(method)
    fronts, skipped = {}, {}
    for name in METHODS:
        try:
            fronts[name] = one(name)
        except (TableError, FitError) as error:
            skipped[name] = str(error)
    if not fronts:
        raise TableError("no method works on these data: " + " | ".join(skipped.values()))
    return Comparison(fronts, skipped)


def _last(curves: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each run."""
    return curves.sort_values("D", kind="stable").drop_duplicates("run_id", keep="last")
