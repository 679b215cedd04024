"""A finished sweep in one page of text: laws, held-out error, frontier, what to train next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures as drawings
from analysis.data_limits import DataRule, data_rule
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
from analysis.validation.validate import Validation, validate
from scaling.errors import ConfigError, TableError
from scaling.table import missing_column

NEXT = 10.0
"""The plan is for this many times the compute of the largest run."""


@dataclass(frozen=True)
class Summary:
    """What a sweep says."""

    folder: Path
    counts: dict[str, int]
    """Runs by status."""
    table: pd.DataFrame = field(repr=False)
    """Every run, however it ended."""
    runs: pd.DataFrame = field(repr=False)
    """The runs that the laws rest on: status 'ok'."""
    curves: pd.DataFrame = field(repr=False)
    """Their learning curves."""
    laws: dict[str, FitResult]
    """Kaplan's L(N), L(D), L(C), L(N, D) and Chinchilla's L(N, D), as far as the data allow."""
    skipped: dict[str, str]
    """Why a part is missing."""
    held_out: dict[str, Validation]
    rule: DataRule | None
    frontiers: dict[str, Frontier]
    plan: Plan | None
    """For NEXT times the compute of the largest run."""
    further: Plan | None
    """For NEXT times that, by the same law."""
    figures: tuple[Path, ...]

    def record(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
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
            lines += [f"      ! {word}" for word in result.warnings]
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
            parts = [
                f"{e.exponent} ~ C^{e.value:.2f} {interval(e.low, e.high, '.2f')}"
                for e in front.exponents.itertuples()
                if e.exponent in ("N_opt", "D_opt")
            ]
            lines.append(f"frontier, {name}: {', '.join(parts)}")
        if self.plan:
            lines += ["", f"next, with {NEXT:g} times the largest run: {self.plan.headline}"]
            lines.append(f"  from {self.plan.source}")
            lines += [f"  ! {note}" for note in self.plan.status]
        if self.further:
            lines.append(f"with {NEXT**2:g} times: {self.further.headline}")
        lines += [f"no {name}: {why}" for name, why in self.skipped.items()]
        lines += ["", "figures:", *(f"  {path}" for path in self.figures)]
        return "\n".join(lines)


def summarise(
    results: str | Path, *, figures: str | Path | None = None, draw: bool = True
) -> Summary:
    """Fit, validate, plan and draw all that the runs of a results folder allow.

    figures  where figures are written; <results>/figures where not given.
    draw     whether to write any.

    Raises TableError where there is no table or no usable run. What the data do not allow (one
    size only, too few runs) is left out, and `skipped` says why.
    """
    folder = Path(results)
    if folder.is_file():
        raise TableError(
            f"{folder} is a table; a summary needs the results folder of a sweep, with its learning "
            "curves. Of a table: `scaling fit`, `validate`, `frontier` and `plan`."
        )
    table = load(folder)
    if "status" not in table.columns:
        raise TableError(f"{folder}: {missing_column('status', table.columns)}")
    runs = table[table["status"] == "ok"]
    if runs.empty:
        said = ", ".join(f"{n} {word}" for word, n in table["status"].value_counts().items())
        raise TableError(f"{folder}: no run has status 'ok' ({said}): nothing to fit.")
    curves = load(folder, curves=True)
    curves = curves[curves["status"] == "ok"]
    skipped: dict[str, str] = {}

    def attempt(name: str, make: Any) -> Any:
        try:
            return make()
        except (FitError, TableError, ConfigError) as error:
            skipped[name] = str(error)
            return None

    laws = {
        "L(N)": attempt("L(N)", lambda: fit(kaplan_N, drawings.lower_edge(runs, "N"))),
        "L(D)": attempt("L(D)", lambda: fit(kaplan_D, drawings.lower_edge(runs, "D"))),
        "L(C)": attempt("L(C)", lambda: fit(kaplan_C, drawings.lower_edge(runs, "C"))),
        "Kaplan": attempt("L(N, D) by Kaplan", lambda: fit(kaplan_ND, runs)),
        "Chinchilla": attempt("L(N, D) by Chinchilla", lambda: fit(chinchilla, runs)),
    }
    laws = {name: result for name, result in laws.items() if result is not None}
    held_out = {
        name: attempt(
            f"held-out test of {name}", lambda name=name: validate(laws[name].law, runs, against=())
        )
        for name in ("Kaplan", "Chinchilla")
        if name in laws
    }
    compared = attempt("frontier", lambda: frontier(runs, method="all", curves=curves))
    fronts = compared.fronts if compared else {}
    if compared:
        skipped |= {f"frontier by {name}": why for name, why in compared.skipped.items()}
    C = NEXT * float(runs["C"].max())
    both = {
        result.law.name: result
        for name, result in laws.items()
        if "N" in result.law.inputs and "D" in result.law.inputs
    }
    envelope = fronts.get("envelope")
    kaplan = laws.get("Kaplan")
    rule = attempt("data rule", lambda: data_rule(kaplan)) if kaplan else None
    planned = attempt("plan", lambda: plans(both, rank=True, C=C)) if both else None
    following = planned.first if planned else None
    if planned:
        skipped |= {f"plan by {name}": why for name, why in planned.skipped.items()}
    elif envelope:
        following = attempt("plan by the envelope", lambda: plan(envelope, C=C))
    source = both[next(iter(planned.plans))] if planned else envelope
    further = None
    if following and source:
        further = attempt(f"plan for {NEXT**2:g} times", lambda: plan(source, C=NEXT * C))
    return Summary(
        folder=folder,
        counts=table["status"].value_counts().to_dict(),
        table=table,
        runs=runs,
        curves=curves,
        laws=laws,
        skipped=skipped,
        held_out={name: v for name, v in held_out.items() if v is not None},
        rule=rule,
        frontiers=fronts,
        plan=following,
        further=further,
        figures=_draw(
            runs,
            curves,
            laws,
            compared,
            Path(figures or folder / "figures"),
            None if figures else folder,
            attempt,
        )
        if draw
        else (),
    )


def _draw(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    laws: dict[str, FitResult],
    compared: Comparison | None,
    folder: Path,
    inside: Path | None,
    attempt: Any,
) -> tuple[Path, ...]:
    """Kaplan's Figs. 1 and 2 and the frontier, with the laws already fitted, in `folder`."""
    made: dict[str, Any] = {}
    envelope = compared.fronts.get("envelope") if compared else None
    if {"L(N)", "L(D)"} <= set(laws):
        made["kaplan1"] = attempt(
            "figure kaplan1",
            lambda: drawings.kaplan_triptych(
                runs, curves, by_C=envelope, by_D=laws["L(D)"], by_N=laws["L(N)"]
            ),
        )
    made["kaplan2"] = attempt("figure kaplan2", lambda: drawings.learning_curves(runs, curves))
    if compared:
        made["frontier"] = attempt("figure frontier", lambda: drawings.frontier(compared))
    return tuple(
        path
        for name, figure in made.items()
        if figure is not None
        for path in drawings.save(figure, folder / name, inside=inside)
    )


def _parameters(result: FitResult) -> str:
    rows = result.interval(0.95)
    return "  ".join(
        f"{row.Index} = {row.value:.4g} {interval(row.low, row.high, '.4g')}"  # pyright: ignore
        for row in rows.itertuples()
    )
