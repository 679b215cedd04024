"""A summary of a finished sweep: laws, held-out errors, frontier, and what to train next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from analysis.data_limits import DataRule, data_rule
from analysis.figures.frontier import frontier as frontier_figure
from analysis.figures.loss import kaplan_triptych, learning_curves
from analysis.figures.registry import save
from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.intervals import interval
from analysis.fitting.result import FitResult
from analysis.frontiers.frontier import frontier
from analysis.frontiers.result import Comparison, Frontier
from analysis.laws.forms import chinchilla, kaplan_C, kaplan_D, kaplan_N, kaplan_ND
from analysis.planning.plan import Plan, plan
from analysis.planning.plans import plans
from analysis.tables.load import load
from analysis.tables.select import lower_edge
from analysis.validation.validate import Validation, validate
from scaling import progress
from scaling.errors import ConfigError, TableError
from scaling.table import missing_column

NEXT = 10.0
"""The plan is for the compute of the largest run times this factor."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of a sweep."""

    folder: Path
    counts: dict[str, int]
    """Number of runs by status."""
    table: pd.DataFrame = field(repr=False)
    """All runs, of any status."""
    runs: pd.DataFrame = field(repr=False)
    """The runs that the laws are fitted to: status 'ok'."""
    curves: pd.DataFrame = field(repr=False)
    """Their learning curves."""
    laws: dict[str, FitResult]
    """Kaplan's L(N), L(D), L(C), L(N, D) and Chinchilla's L(N, D), if the data allow."""
    skipped: dict[str, str]
    """Reason why an item is missing, by its name."""
    held_out: dict[str, Validation]
    rule: DataRule | None
    frontiers: dict[str, Frontier]
    plan: Plan | None
    """The plan for NEXT times the compute of the largest run."""
    further: Plan | None
    """The plan for NEXT times that, by the same law."""
    figures: tuple[Path, ...]

    def record(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, ready for JSON."""
        return {
            "folder": str(self.folder),
            "counts": self.counts,
            "laws": {name: result.record() for name, result in self.laws.items()},
            "held_out": {name: v.record() for name, v in self.held_out.items()},
            "data_rule": self.rule.record() if self.rule else None,
            "frontiers": {name: front.record() for name, front in self.frontiers.items()},
            "plan": self.plan.record() if self.plan else None,
            "further": self.further.record() if self.further else None,
            "skipped": self.skipped,
            "figures": [str(path) for path in self.figures],
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self.counts.items())
        spans = [
            f"{name} {self.runs[name].min():.3g} .. {self.runs[name].max():.3g}"
            for name in ("N", "D", "C", "L")
        ]
        lines = [f"{self.folder}: {counts}; {', '.join(spans)}", "", "laws (95 % intervals)"]
        for result in self.laws.values():
            lines.append(f"  {result.law.formula}   [{result.n} points]")
            lines.append(f"      {_parameters(result)}")
            lines += [f"      ! {warning}" for warning in result.warnings]
        if self.held_out:
            lines += ["", "held out: laws fitted to the smaller runs predict the larger ones"]
        for name, validation in self.held_out.items():
            for row in validation.backtest.tail(2).itertuples():
                lines.append(
                    f"  {name:<11} runs up to C = {row.cut:.2g} predict {row.n_held} larger ones: "
                    f"{row.error:.2%} rms, {row.bias:+.2%} bias"
                )
        lines.append("")
        if self.rule:
            lines.append(str(self.rule))
        for name, front in self.frontiers.items():
            powers = [
                f"{row.exponent} ~ C^{row.value:.2f} {interval(row.low, row.high, '.2f')}"
                for row in front.exponents.itertuples()
                if row.exponent in ("N_opt", "D_opt")
            ]
            lines.append(f"frontier, {name}: {', '.join(powers)}")
        if self.plan:
            lines += ["", f"next, with {NEXT:g} times the largest run: {self.plan.headline}"]
            lines.append(f"  from {self.plan.source}")
            lines += [f"  ! {note}" for note in self.plan.status]
        if self.further:
            lines.append(f"with {NEXT**2:g} times: {self.further.headline}")
        lines += [f"no {name}: {why}" for name, why in self.skipped.items()]
        lines += ["", "figures:", *(f"  {path}" for path in self.figures)]
        return "\n".join(lines)


class _Attempts:
    """Calls that the data may not allow, and the reasons of those that fail."""

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}
        """Reason why a call failed, by the name of its result."""

    def __call__(
        self, name: str, function: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T | None:
        """Return function(*args, **options); None, and the reason in `skipped`, if it fails."""
        try:
            with progress.part(f"computing {name}"):
                return function(*args, **options)
        except (FitError, TableError, ConfigError) as error:
            self.skipped[name] = str(error)
            return None


def summarise(
    results: str | Path, *, figures: str | Path | None = None, draw: bool = True
) -> Summary:
    """Fit, validate, plan and draw everything that the runs of a results folder allow.

    figures  The folder that figures are written to; the default is <results>/figures.
    draw     Whether to write figures.

    Raises TableError if there is no table or no usable run. Items that the data do not allow (one
    size only, too few runs) are left out, with the reason in `skipped`.
    """
    folder = Path(results)
    table, runs, curves = _read(folder)
    attempt = _Attempts()
    laws = _fit(attempt, runs)
    held_out = _validate(attempt, laws, runs)
    compared = attempt("frontier", frontier, runs, method="all", curves=curves)
    if isinstance(compared, Comparison):
        fronts = compared.fronts
        attempt.skipped |= {f"frontier by {name}": why for name, why in compared.skipped.items()}
    else:
        fronts = {}
    kaplan = laws.get("Kaplan")
    rule = attempt("data rule", data_rule, kaplan) if kaplan else None
    C = NEXT * float(runs["C"].max())
    following, further = _plan(attempt, laws, fronts.get("envelope"), C)
    files: tuple[Path, ...] = ()
    if draw:
        inside = None if figures else folder
        drawn = _draw(attempt, runs, curves, laws, compared)
        files = tuple(
            path
            for name, figure in drawn.items()
            for path in save(figure, Path(figures or folder / "figures") / name, inside=inside)
        )
    return Summary(
        folder=folder,
        counts=table["status"].value_counts().to_dict(),
        table=table,
        runs=runs,
        curves=curves,
        laws=laws,
        skipped=attempt.skipped,
        held_out=held_out,
        rule=rule,
        frontiers=fronts,
        plan=following,
        further=further,
        figures=files,
    )


def _read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the table of a results folder, its runs with status 'ok', and their learning
    curves."""
    if folder.is_file():
        raise TableError(
            f"{folder} is a table; a summary needs the results folder of a sweep, with its "
            "learning curves. For a table use `scaling fit`, `validate`, `frontier` and `plan`."
        )
    table = load(folder)
    if "status" not in table.columns:
        raise TableError(f"{folder}: {missing_column('status', table.columns)}")
    runs = table[table["status"] == "ok"]
    if runs.empty:
        counts = ", ".join(f"{n} {word}" for word, n in table["status"].value_counts().items())
        raise TableError(f"{folder}: no run has status 'ok' ({counts}): nothing to fit.")
    curves = load(folder, curves=True)
    return table, runs, curves[curves["status"] == "ok"]


def _fit(attempt: _Attempts, runs: pd.DataFrame) -> dict[str, FitResult]:
    """Fit the laws of a summary that the data allow."""
    laws = {
        "L(N)": attempt("L(N)", fit, kaplan_N, lower_edge(runs, "N")),
        "L(D)": attempt("L(D)", fit, kaplan_D, lower_edge(runs, "D")),
        "L(C)": attempt("L(C)", fit, kaplan_C, lower_edge(runs, "C")),
        "Kaplan": attempt("L(N, D) by Kaplan", fit, kaplan_ND, runs),
        "Chinchilla": attempt("L(N, D) by Chinchilla", fit, chinchilla, runs),
    }
    return {name: result for name, result in laws.items() if result is not None}


def _validate(
    attempt: _Attempts, laws: dict[str, FitResult], runs: pd.DataFrame
) -> dict[str, Validation]:
    """Test the laws of N and D on held-out runs."""
    tested = {
        name: attempt(f"held-out test of {name}", validate, laws[name].law, runs, against=())
        for name in ("Kaplan", "Chinchilla")
        if name in laws
    }
    return {name: validation for name, validation in tested.items() if validation is not None}


def _plan(
    attempt: _Attempts, laws: dict[str, FitResult], envelope: Frontier | None, C: float
) -> tuple[Plan | None, Plan | None]:
    """Plan for C FLOPs and NEXT times as many, by the best law of N and D, else by the envelope."""
    of_both = {
        result.law.name: result for result in laws.values() if {"N", "D"} <= {*result.law.inputs}
    }
    planned = attempt("plan", plans, of_both, rank=True, C=C) if of_both else None
    source: FitResult | Frontier | None
    if planned is not None:
        following, source = planned.first, of_both[next(iter(planned.plans))]
        attempt.skipped |= {f"plan by {name}": why for name, why in planned.skipped.items()}
    elif envelope is not None:
        following, source = attempt("plan by the envelope", plan, envelope, C=C), envelope
    else:
        following, source = None, None
    if following is None or source is None:
        return following, None
    return following, attempt(f"plan for {NEXT**2:g} times", plan, source, C=NEXT * C)


def _draw(
    attempt: _Attempts,
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    laws: dict[str, FitResult],
    compared: Frontier | Comparison | None,
) -> dict[str, Figure]:
    """Draw Kaplan's Figs. 1 and 2 and the frontier, using the laws already fitted."""
    drawn: dict[str, Figure | None] = {}
    if {"L(N)", "L(D)"} <= set(laws):
        envelope = compared.fronts.get("envelope") if isinstance(compared, Comparison) else None
        drawn["kaplan1"] = attempt(
            "figure kaplan1", kaplan_triptych, runs, curves,
            by_C=envelope, by_D=laws["L(D)"], by_N=laws["L(N)"],
        )  # fmt: skip
    drawn["kaplan2"] = attempt("figure kaplan2", learning_curves, runs, curves)
    if compared is not None:
        drawn["frontier"] = attempt("figure frontier", frontier_figure, compared)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _parameters(result: FitResult) -> str:
    """Return the parameters of a fit with their intervals, in one line."""
    return "  ".join(
        f"{name} = {row['value']:.4g} {interval(row['low'], row['high'], '.4g')}"
        for name, row in result.interval(0.95).iterrows()
    )
