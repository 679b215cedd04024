"""A summary of a finished sweep: laws, held-out errors, frontier, and what to train next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from analysis.abilities.outlook import folder_with_scores, outlook
from analysis.abilities.tasks import AbilityPrediction
from analysis.critical_batch import CriticalBatch, critical_batch_for_plans
from analysis.curves.collapse import collapse
from analysis.curves.collapse_result import Collapse
from analysis.data_limits import DataRule, data_rule
from analysis.figures.frontier import frontier as frontier_figure
from analysis.figures.loss import kaplan_triptych, learning_curves
from analysis.figures.registry import Results, Shared, save
from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.reference import NEXT
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import Choice, choose
from analysis.frontiers.frontier import frontier
from analysis.frontiers.result import Comparison, Frontier
from analysis.laws import Law
from analysis.laws.forms import chinchilla, kaplan_C, kaplan_D, kaplan_N, kaplan_ND
from analysis.planning.answer import verdict
from analysis.planning.plan import Plan, plan
from analysis.planning.plans import Plans, plans
from analysis.planning.track_record import TrackRecord, track_record_of
from analysis.reporting.text import brief, detailed
from analysis.tables.containers import located
from analysis.tables.rows import Evaluations, used_rows
from analysis.tables.runs_and_curves import load_runs_and_curves
from analysis.tables.select import lower_edge
from analysis.tables.several import files_of, is_results_folder
from analysis.tables.tracked import path_for, sources_of
from analysis.validation.validate import Validation, validate
from scaling import progress
from scaling.errors import ConfigError, TableError
from scaling.mapping import option
from scaling.table import missing_column

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of a sweep."""

    folder: Path
    """The results folder, or the table."""
    counts: dict[str, int]
    """Number of runs by status."""
    table: pd.DataFrame = field(repr=False)
    """All runs, of any status."""
    runs: pd.DataFrame = field(repr=False)
    """The runs that the laws are fitted to: status 'ok'."""
    curves: pd.DataFrame | None = field(repr=False)
    """Their learning curves; None for a table without."""
    choice: Choice | None
    """The laws of N and D and their held-out tests, the one that the plan uses first."""
    laws: dict[str, FitResult]
    """Kaplan's L(N), L(D), L(C), and the laws of N and D of `choice`, if the data allow."""
    skipped: dict[str, str]
    """Reason why an item is missing, by its name."""
    rule: DataRule | None
    frontiers: dict[str, Frontier]
    plan: Plan | None
    """The plan for NEXT times the compute of the largest run."""
    further: Plan | None
    """The plan for NEXT times that, by the same law."""
    planned: Plans | None = None
    """The plans for NEXT times the compute by every law of `choice`; None without a choice."""
    critical: CriticalBatch | None = field(default=None, repr=False)
    """The critical batch size that gives the plans their batch size; None if these runs do not
    determine it."""
    abilities: AbilityPrediction | None
    """The accuracies on tasks of the run that the plan advises; None without scores of tasks."""
    collapse: Collapse | None
    """Whether the learning curves of a ladder of sizes fall on one; None without such a ladder."""
    track: TrackRecord | None
    """How well the predictions on record did; None if there are none."""
    verdict: tuple[str, str, str]
    """The answer in three sentences: the law, what to train, and the main doubts."""
    figures: tuple[Path, ...]
    command: str = "scaling plan"
    """The start of a `scaling plan` command on the same runs."""
    _tested: dict[str, Validation | str] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def held_out(self) -> dict[str, Validation]:
        """Tests of the law that the plan uses, of Kaplan's and of Chinchilla's, with coverage."""
        first = [] if self.choice is None else [self.choice.first.law]
        keys = dict.fromkeys(map(key_of, (*first, kaplan_ND, chinchilla)))
        found = {key: self.validation(key) for key in keys if key in self.laws}
        return {key: v for key, v in found.items() if isinstance(v, Validation)}

    def validation(self, key: str) -> Validation | str:
        """Return the test of one of `laws` on held-out runs, or the reason why there is none."""
        if key not in self._tested:
            try:
                self._tested[key] = validate(self.laws[key].law, self.runs, against=())
            except (FitError, TableError) as error:
                self._tested[key] = str(error)
        return self._tested[key]

    def shared(self) -> Shared:
        """Return what the figures of the same results need not compute again."""
        found = Shared(choice=self.choice, fits=tuple(self.laws.values()))
        if self.frontiers:
            found["compared"] = Comparison(self.frontiers, {})
        if self.collapse is not None:
            found["collapsed"] = self.collapse
        return found

    def record(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, ready for JSON."""
        return {
            "verdict": list(self.verdict),
            "folder": str(self.folder),
            "counts": self.counts,
            "choice": self.choice.record() if self.choice else None,
            "laws": {name: result.record() for name, result in self.laws.items()},
            "held_out": {name: v.record() for name, v in self.held_out.items()},
            "data_rule": self.rule.record() if self.rule else None,
            "frontiers": {name: front.record() for name, front in self.frontiers.items()},
            "plan": self.plan.record() if self.plan else None,
            "further": self.further.record() if self.further else None,
            "track_record": self.track.record() if self.track else None,
            **({"abilities": self.abilities.record()} if self.abilities else {}),
            **({"collapse": self.collapse.record()} if self.collapse else {}),
            "skipped": self.skipped
            | {f"held-out test of {k}": v for k, v in self._tested.items() if isinstance(v, str)},
            "figures": [str(path) for path in self.figures],
        }

    def __str__(self) -> str:
        return brief(self)

    def details(self) -> str:
        """Return every law, held-out error, frontier, plan and reason as text."""
        return detailed(self)


class Attempts:
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
    results: Results,
    *,
    figures: str | Path | None = None,
    draw: bool = True,
    map: Mapping[str, str] | None = None,
    where: str | None = None,
    strict: bool = False,
    rows: Evaluations = "auto",
    decimal: str | None = None,
) -> Summary:
    """Fit, validate, plan and draw everything that the runs of a results folder or table allow.

    figures  The folder that figures are written to; the default is <results>/figures. Those of a
             table are drawn only if it is given.
    draw     Whether to write figures.
    map      {column of the table: symbol}, as for `load`.
    where    A condition that selects runs, such as "D > 1e9".
    strict   Refuse rows that would be left out, as for `load`.
    rows     Which evaluations of a run count, as for `load`.
    decimal  The decimal mark of numbers in text, as for `load`.

    Raises TableError if there is no table or no usable run. Items that the data do not allow (one
    size only, too few runs) are left out, with the reason in `skipped`.
    """
    folder = source_path(results)
    given = {"map": map, "where": where, "strict": strict, "rows": rows, "decimal": decimal}
    selection = {key: value for key, value in given.items() if value}
    table, runs, curves = _read(results, selection)
    attempt = Attempts()
    choice = attempt("laws of N and D", choose, runs)
    if choice is not None:
        attempt.skipped |= {f"law {name}": why for name, why in choice.skipped.items()}
    laws = _fit(attempt, runs, choice)
    compared = attempt("frontier", frontier, runs, method="all", curves=curves, choice=choice)
    fronts: dict[str, Frontier] = {}
    if isinstance(compared, Comparison):
        fronts = compared.fronts
        attempt.skipped |= {f"frontier by {name}": why for name, why in compared.skipped.items()}
    kaplan = laws.get("Kaplan")
    rule = attempt("data rule", data_rule, kaplan) if kaplan else None
    critical = attempt("batch size of these runs", critical_batch_for_plans, runs, curves)
    planned, following, further = _plan(attempt, choice, fronts.get("envelope"), runs, critical)
    if folder.is_file() and draw and figures is None:
        attempt.skipped["figures"] = "figures of a table are drawn if --figures names a folder."
        draw = False
    drawn = _draw(attempt, runs, curves, laws, compared) if draw else {}
    why = attempt.skipped.get("plan") or attempt.skipped.get("laws of N and D", "")
    return Summary(
        folder=folder,
        counts=_counts(table),
        table=table,
        runs=runs,
        curves=curves,
        choice=choice,
        laws=laws,
        skipped=attempt.skipped,
        rule=rule,
        frontiers=fronts,
        plan=following,
        further=further,
        planned=planned,
        critical=critical,
        abilities=_accuracies(attempt, results, following, where),
        collapse=collapse_of_a_ladder(runs, curves),
        track=attempt("track record", track_record_of, results, selection=selection),
        verdict=planned.verdict
        if planned is not None
        else verdict(choice, following, runs=runs, why=why),
        figures=_saved(drawn, folder, figures),
        command=" ".join(["scaling plan", *command_words(results, selection)]),
    )


def command_words(results: Results, selection: Mapping[str, Any]) -> list[str]:
    """Return a source, and the options that select runs, as words of a command line."""
    sources = [results] if isinstance(results, str | Path) else list(results)
    words = [shlex.quote(str(source)) for source in sources]
    for name, value in selection.items():
        if value == "auto":
            continue
        if name == "map":
            words.append(option(value))
        elif value is True:
            words.append(f"--{name}")
        else:
            words.append(f"--{name} {shlex.quote(str(value))}")
    return words


def _saved(
    drawn: Mapping[str, Figure], folder: Path, figures: str | Path | None
) -> tuple[Path, ...]:
    """Save figures in a folder, or within the results folder; return the files written."""
    inside = None if figures else folder
    return tuple(
        path
        for name, figure in drawn.items()
        for path in save(figure, Path(figures or folder / "figures") / name, inside=inside)
    )


def _counts(table: pd.DataFrame) -> dict[str, int]:
    """Return the number of runs by status; without that column, all are 'ok'."""
    if "status" not in table.columns:
        return {"ok": len(table)}
    return table["status"].value_counts().to_dict()


def _read(
    results: Results, selection: dict[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]:
    """Return the selected rows of a results folder or of a table, those with status 'ok', and
    their learning curves."""
    table, curves = load_runs_and_curves(results, **selection)
    source = source_path(results)
    if source.is_dir() and "status" not in table.columns:
        raise TableError(f"{source}: {missing_column('status', table.columns)}")
    runs = used_rows(table)
    if runs.empty:
        counts = ", ".join(f"{n} {word}" for word, n in table["status"].value_counts().items())
        raise TableError(f"{source}: no run has status 'ok' ({counts}): nothing to fit.")
    return table, runs, None if curves is None else used_rows(curves)


def source_path(results: Results) -> Path:
    """Return the results folder, the first file of a table, or a name for a source of runs."""
    if sources := sources_of(results):
        return path_for(sources[0])
    first = Path(results if isinstance(results, str | Path) else results[0])
    return first if is_results_folder(first) else located(files_of(first)[0])[0]


def _fit(attempt: Attempts, runs: pd.DataFrame, choice: Choice | None) -> dict[str, FitResult]:
    """Return the laws of one quantity, fitted to the lower edge, and those of the choice."""
    laws = {
        "L(N)": attempt("L(N)", fit, kaplan_N, lower_edge(runs, "N")),
        "L(D)": attempt("L(D)", fit, kaplan_D, lower_edge(runs, "D")),
        "L(C)": attempt("L(C)", fit, kaplan_C, lower_edge(runs, "C")),
    }
    found = {name: result for name, result in laws.items() if result is not None}
    both = {} if choice is None else choice.fits
    return found | {key_of(result.law): result for result in both.values()}


def key_of(law: Law) -> str:
    """Return the key of a law of N and D in `Summary.laws`."""
    return {kaplan_ND: "Kaplan", chinchilla: "Chinchilla"}.get(law, law.name)


def _plan(
    attempt: Attempts,
    choice: Choice | None,
    envelope: Frontier | None,
    runs: pd.DataFrame,
    critical: CriticalBatch | None,
) -> tuple[Plans | None, Plan | None, Plan | None]:
    """Plan for NEXT times the compute of the largest run, and NEXT times that, by the law chosen,
    else by the envelope."""
    C = NEXT * float(runs["C"].max())
    planned = None
    if choice is not None:
        planned = attempt("plan", plans, choice, C=C, critical=critical)
    source: FitResult | Frontier
    if choice is not None and planned is not None:
        following, source = planned.first, choice.fits[next(iter(planned.plans))]
        attempt.skipped |= {f"plan by {name}": why for name, why in planned.skipped.items()}
    elif envelope is not None:
        following, source = (
            attempt("plan by the envelope", plan, envelope, C=C, critical=critical),
            envelope,
        )
    else:
        return None, None, None
    if following is None:
        return None, None, None
    further = attempt(f"plan for {NEXT**2:g} times", plan, source, C=NEXT * C, critical=critical)
    return planned, following, further


def collapse_of_a_ladder(runs: pd.DataFrame, curves: pd.DataFrame | None) -> Collapse | None:
    """Return the collapse of a ladder whose horizons grow with the size; None without one."""
    try:
        found = collapse(runs, curves)
    except (FitError, TableError, KeyError):
        return None
    return None if math.isnan(found.gamma) else found


def _accuracies(
    attempt: Attempts, results: Results, following: Plan | None, where: str | None
) -> AbilityPrediction | None:
    """Predict the accuracies of the run that is planned, if the results have scores of tasks."""
    if following is None or folder_with_scores(results) is None:
        return None
    return attempt("accuracies on tasks", outlook, results, following, where=where)


def _draw(
    attempt: Attempts,
    runs: pd.DataFrame,
    curves: pd.DataFrame | None,
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
    if curves is not None:
        drawn["kaplan2"] = attempt("figure kaplan2", learning_curves, runs, curves)
    if compared is not None:
        drawn["frontier"] = attempt("figure frontier", frontier_figure, compared)
    return {name: figure for name, figure in drawn.items() if figure is not None}
