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
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from analysis.arguments import expect, unknown_word
from analysis.fitting.checks import FitError, check_draws, check_level
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.budgets import budgets_of, slices
from analysis.frontiers.choice import Choice, choose
from analysis.frontiers.envelope import envelope
from analysis.frontiers.isoflop import isoflop, why_no_minima
from analysis.frontiers.isoflop_curve import NEAR
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Comparison, Frontier
from analysis.laws import Law, resolve
from analysis.tables.conventions import counted, in_words, per_token
from analysis.tables.objectives import check_one_objective, check_one_start
from scaling import progress
from scaling.errors import TableError
from scaling.table import sensible

METHODS = ("envelope", "isoflop", "akima", "parametric")
Method = Literal["envelope", "isoflop", "akima", "parametric", "all"]
USED = "the plan uses this one"
_USES = "the plan uses the {}"


def frontier(
    data: pd.DataFrame | FitResult,
    *,
    method: Method | None = None,
    curves: pd.DataFrame | None = None,
    law: Law | str | FitResult | None = None,
    choice: Choice | None = None,
    params: str = "N",
    flops: str | Callable[[Any], Any] = "C",
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    tolerance: float | None = None,
    correct_bias: bool = False,
    near: float = NEAR,
    on: Literal["log", "raw"] = "log",
) -> Frontier | Comparison:
    """Fit the compute-optimal frontier of runs, of learning curves, or of a law of N and D.

    data     A FitResult; runs, one per row; or learning curves, one evaluation per row (both as
             `load` returns them).
    method   'envelope', 'isoflop', 'akima', 'parametric', or 'all' for a Comparison. The default
             is the envelope for curves, and parametric otherwise.
    curves   The learning curves of the runs in `data`, for the envelope within 'all'.
    law      The law that the parametric method fits to runs, and that the bias of isoFLOP methods
             is measured on, or a fit of it. The default is the one that predicts the larger runs
             best (:func:`analysis.frontiers.choice.choose`).
    choice   The laws that were chosen and fitted already, in place of `law`.
    params   What N counts: a column, or N_total, N_kaplan, N_head from the shape.
    flops    What C counts: a column, '6 N_total D', or C_kaplan, C_chinchilla, C_matmul from the
             shape (see analysis.tables.conventions). The parametric method also takes a function
             of N that returns the FLOPs per token.
    tolerance  How far apart, relatively, the C of one isoFLOP budget may lie (see `isoflop`).
    correct_bias  Subtract the bias that isoFLOP methods have on the law.
    near, on  The sizes that a parabola uses, and whether it is one of ln L or of L (see `isoflop`).

    Intervals are percentile bootstraps: of whole runs (envelope, parametric), or of the noise about
    each minimum (isoflop, akima; scaled up if the minima scatter more than that). They hold the
    estimate, and an exponent that the data do not identify has infinite ends. Intervals of isoFLOP
    methods hold the method's bias or, if it is corrected, its uncertainty. Raises TableError,
    which names what is missing, if the data do not allow the method.
    """
    check_draws(bootstrap, seed)
    check_level(level)
    if tolerance is not None and not (sensible(tolerance) or tolerance == 0):
        raise FitError(f"tolerance={tolerance} must be a finite number, 0 or more, such as 0.1.")
    if isinstance(data, FitResult):
        if method not in (None, "parametric"):
            raise TableError(
                f"method={method!r} needs runs or learning curves; a fitted law has the parametric "
                "frontier only."
            )
        return parametric(data, flops=flops, level=level)
    expect(
        "frontier(data)", "data", data, pd.DataFrame,
        remedy="It must be a table, as load() returns it, or a fit.",
    )  # fmt: skip
    check_one_objective(data, one_task=True)
    check_one_start(data)
    is_curve = "D_total" in data.columns
    method = method or ("envelope" if is_curve else "parametric")
    if method not in (*METHODS, "all"):
        raise TableError(unknown_word("method", method, (*METHODS, "all")))
    source = _Source(
        runs=_last_evaluations(data) if is_curve else data,
        curves=data if is_curve else curves,
        law=resolve(law) if isinstance(law, str | Law) else law, choice=choice,
        params=params, flops=flops, tolerance=tolerance,
        options={"bootstrap": bootstrap, "level": level, "seed": seed},
        isoflop={"correct_bias": correct_bias, "near": near, "on": on},
    )  # fmt: skip
    return source.every_method() if method == "all" else source.by(method)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Data of a frontier, and how to count and resample them."""

    runs: pd.DataFrame
    curves: pd.DataFrame | None
    law: Law | FitResult | None
    choice: Choice | None
    params: str
    flops: str | Callable[[Any], Any]
    tolerance: float | None
    options: dict[str, Any]
    """The arguments bootstrap, level and seed."""
    isoflop: dict[str, Any]
    """The arguments correct_bias, near and on of isoFLOP methods."""
    chosen: dict[str, Choice] = field(default_factory=dict)
    """The choice of the laws for the runs, once it is made."""

    def every_method(self) -> Comparison:
        fronts, skipped = {}, {}
        for method in reversed(METHODS):  # the law of the parametric one is that of the biases
            try:
                fronts[method] = self.by(method)
            except (TableError, FitError) as error:
                skipped[method] = str(error)
        fronts = {method: fronts[method] for method in METHODS if method in fronts}
        skipped = {method: skipped[method] for method in METHODS if method in skipped}
        if not fronts:
            raise TableError("no method works on these data: " + " | ".join(skipped.values()))
        if "parametric" not in fronts and "envelope" in fronts:  # as `scaling summary` plans
            fronts = {
                name: replace(front, use=USED if name == "envelope" else _USES.format("envelope"))
                for name, front in fronts.items()
            }
        return Comparison(fronts, skipped)

    def by(self, method: str) -> Frontier:
        progress.step(f"computing the frontier by {method}")
        if method == "parametric":
            front = self._parametric()
        elif callable(self.flops):
            raise TableError(
                "only the parametric method takes flops as a function of N; "
                f"{method} needs a column."
            )
        elif method == "envelope":
            front = self._envelope(self.flops)
        else:
            front = self._isoflop("akima" if method == "akima" else "isoflop", self.flops)
        use = _USES.format("parametric frontier")
        if method == "parametric":
            law = self.law.law if isinstance(self.law, FitResult) else self.law
            use = USED if law is None else f"{USED} if {law.name} is asked for"
        return replace(front, params=self.params, flops=in_words(self.flops), use=use)

    def _parametric(self) -> Frontier:
        flops = self.flops if isinstance(self.flops, str) else "C"
        table = counted(self.runs, self.params, flops)
        bootstrap, seed = self.options["bootstrap"], self.options["seed"]
        usual = self.params == "N" and self.flops == "C"
        if isinstance(self.law, FitResult):
            fitted = self.law
        elif self.law is None and self.choice is not None and usual:
            fitted = self.choice.first
        elif self.law is None:
            self.chosen["runs"] = choose(table, bootstrap=bootstrap, seed=seed, alone=True)
            fitted = self.chosen["runs"].first
        else:
            fitted = fit(self.law, table, bootstrap=bootstrap, seed=seed)
        flops_of = per_token(table) if isinstance(self.flops, str) else self.flops
        return parametric(fitted, flops=flops_of, level=self.options["level"])

    def _envelope(self, flops: str) -> Frontier:
        _need_curves(self.curves)
        return envelope(counted(self.curves, self.params, flops), **self.options)

    def _isoflop(self, kind: Literal["isoflop", "akima"], flops: str) -> Frontier:
        """Fit the runs' own budgets or, without any, curves cut at fixed C.

        Runs at equal 6 N D differ in other counts of C; each size is then interpolated between its
        runs.
        """
        runs = counted(self.runs, self.params, flops)
        table = _budget_table(runs, self.curves, self.params, flops)
        if (
            table is runs
            and flops != "C"
            and not budgets_of(table)
            and table["N"].duplicated().any()
        ):
            table = slices(table.assign(run_id=table["N"].astype(str)))
        law = self.law
        if law is None and table is runs:
            usual = self.params == "N" and flops == "C"
            law = self.choice if self.choice is not None and usual else self.chosen.get("runs")
        return isoflop(
            table, kind=kind, tolerance=self.tolerance, law=law, **self.isoflop, **self.options
        )


def why_not(
    runs: pd.DataFrame, curves: pd.DataFrame | None, law: FitResult | None
) -> dict[str, str]:
    """Return why each method finds no frontier in these data; "" if it does. Draws no resamples.

    law  A fit of a law of N and D to the runs; None if there is none, which is the reason then.
    """

    def parametric_frontier() -> None:
        if law is None:
            raise FitError("no law of N and D can be fitted to these runs.")
        parametric(law)

    def envelope_of_curves() -> None:
        _need_curves(curves)
        envelope(counted(curves, "N", "C"), bootstrap=0)

    def reason(check: Callable[[], None]) -> str:
        try:
            check()
        except ValueError as error:  # TableError and FitError
            return str(error)
        return ""

    names = [name for name in ("run_id", "N", "D", "C", "L", "B") if name in runs.columns]
    slim = pd.DataFrame({name: runs[name] for name in names})  # without its attrs
    try:
        minima = why_no_minima(_budget_table(slim, curves, "N", "C"), law)
    except ValueError as error:
        minima = {"isoflop": str(error), "akima": str(error)}
    found = {
        "envelope": reason(envelope_of_curves), "parametric": reason(parametric_frontier), **minima
    }  # fmt: skip
    return {method: found[method] for method in METHODS}


def _need_curves(curves: pd.DataFrame | None) -> None:
    if curves is None:
        raise TableError(
            "the envelope needs learning curves: a results folder with curves.parquet, or a "
            "table with several rows for each run_id."
        )


def _budget_table(
    runs: pd.DataFrame, curves: pd.DataFrame | None, params: str, flops: str
) -> pd.DataFrame:
    """Return the runs if they have budgets or there are no curves, else curves cut at fixed C."""
    if curves is not None and not budgets_of(runs):
        return slices(counted(curves, params, flops))
    return runs


def _last_evaluations(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the last evaluation of each run."""
    return curves.sort_values("D", kind="stable").drop_duplicates("run_id", keep="last")
