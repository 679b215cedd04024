"""Decision regret: what is lost by acting on the advice of a law fitted to smaller runs.

A law is used to decide. Its regret is the loss of the run that it advises, minus that of the best
run at the same compute, in nats; and the extra compute that would make up for them, in FLOPs. Runs
above a cut-off, which the law has not seen, say what each decision would have led to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.arguments import expect
from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.frontiers.optimum import optimum_at
from analysis.frontiers.result import Frontier
from analysis.in_words import cell
from analysis.laws import Law, resolve
from analysis.tables.conventions import flops_6N
from analysis.tables.rows import used_rows
from analysis.validation.compute_lost import Reference, reference_of
from analysis.validation.compute_targets import FEWEST, ComputeTarget, compute_targets
from analysis.validation.regret_of_settings import settings_regret
from scaling import progress
from scaling.errors import TableError
from scaling.jsonable import finite
from scaling.table import missing_column

CUTS = 5
_SAME_BUDGET = 0.05
"""Relative difference of C within one budget."""
COLUMNS = (
    "rule", "decision", "cut", "n_fit", "C", "factor", "advice", "best", "L_best", "nats", "flops",
    "at_least",
)  # fmt: skip
"""Columns of `Regret.table`."""

Advice = Callable[[float], float]
"""The number of parameters to train with a compute."""
Rule = Callable[[pd.DataFrame], Any]
"""A function of the rows below a cut-off. It returns the advised N as a function of C, or a fit, a
frontier, or anything else with `predict(N=, D=)`. A design is a rule that fits some of the rows
only."""


@dataclass(frozen=True, kw_only=True)
class Regret:
    """The regret of decisions, as returned by :func:`regret`."""

    table: pd.DataFrame
    """One row per rule, decision, cut-off and target. Columns: rule; decision ('N and D', 'lr', 'B'
    or 'lr and B'); cut (the largest compute that the rule saw); n_fit (rows up to there); C
    (compute of the target); factor (C / cut); advice and best (N, lr or B that was advised, and
    that of the best run); L_best (loss of the best run); nats (loss at the advice minus L_best);
    flops (extra compute to make up for them; inf if none does, nan if unknown); at_least (the
    advice lies beyond the runs: `nats` is that of the nearest one, and the regret is larger)."""
    absent: tuple[str, ...]
    """Why decisions or cut-offs are not in the table."""

    def summary(self) -> pd.DataFrame:
        """Return the mean and the largest regret of each rule, one row per decision and rule."""
        if self.table.empty:
            return pd.DataFrame(columns=["decision", "rule", "n", "nats", "worst", "flops"])
        share = self.table.assign(flops=self.table["flops"] / self.table["C"])
        rows = share.groupby(["decision", "rule"], sort=False).agg(
            n=("nats", "size"), nats=("nats", "mean"), worst=("nats", "max"),
            flops=("flops", "median"), at_least=("at_least", "sum"),
        )  # fmt: skip
        return rows.reset_index()

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers that are not finite become None."""
        return finite(
            {
                "regret": self.table.to_dict("records"),
                "summary": self.summary().to_dict("records"),
                "absent": list(self.absent),
            }
        )

    def __str__(self) -> str:
        if self.table.empty:
            return "\n".join(["no decision can be judged with these runs:", *self._reasons()])
        lines = []
        for decision, rows in self.table.groupby("decision", sort=False):
            lines.append(
                f"{decision}, advised by the runs up to a cut-off in C, against the best run at "
                "the largest C:"
            )
            lines.append(_shown(rows))
            lines.append(f"{decision}, over all cut-offs and computes:")
            summary = self.summary().query("decision == @decision").drop(columns="decision")
            names = {"flops": "median flops / C", "nats": "mean nats", "worst": "worst nats"}
            lines.append(summary.rename(columns=names).map(cell).to_string(index=False))
        lines.append(
            "nats: loss at the advice minus the loss of the best run; flops: extra compute to make "
            "up for them; >=: the advice lies beyond the runs."
        )
        return "\n".join([*lines, *self._reasons()])

    def _reasons(self) -> list[str]:
        return [f"- absent: {reason}" for reason in self.absent]


def _shown(rows: pd.DataFrame) -> str:
    """Return the rows of the largest target of each rule and cut-off as text."""
    last = rows.sort_values("C", kind="stable").drop_duplicates(["rule", "cut"], keep="last")
    last = last.sort_values(["cut", "rule"], kind="stable")
    mark = np.where(last["at_least"], ">= ", "")
    shown = last.drop(columns=["decision", "at_least"]).map(cell)
    shown["nats"] = mark + last["nats"].map("{:.4f}".format)
    shown["flops"] = mark + shown["flops"]
    return shown.to_string(index=False)


def regret(
    rules: Law | str | Sequence[Law | str] | Mapping[str, Law | str | Rule],
    runs: pd.DataFrame,
    *,
    cuts: int = CUTS,
    **options: Any,
) -> Regret:
    """Return the regret of acting on laws or rules that are fitted to the smaller runs.

    Decisions are N and D at each larger compute at which the table has four sizes (isoFLOP budgets,
    or a grid read across); and the learning rate, the batch size or both, where the table has
    searches over them (rows of one N and D). A decision that the table does not allow is absent,
    and `Regret.absent` says why.

    rules    laws, or {name: law or function}, see :data:`Rule`. The rule 'same D / N', which keeps
             the tokens per parameter of the best run below the cut-off, is added for comparison.
    cuts     largest number of cut-offs.
    options  passed to :func:`analysis.fit` with each law.

    Raises TableError for a table without N, D or L, and FitError for options that do not suit.
    """
    expect("regret(rules, runs)", "runs", runs, pd.DataFrame)
    runs = _numbers(runs)
    named = _named(rules, options)
    reference, why_not = reference_of(reduced(runs))
    absent = [f"FLOPs lost, as no law fits all runs: {why_not}"] if why_not else []
    rows, missing = _of_sizes(named, runs, reference, cuts)
    more, missing_too = settings_regret(runs, reference, cuts)
    table = pd.DataFrame([*rows, *more], columns=list(COLUMNS))
    return Regret(table=table, absent=(*absent, *missing, *missing_too))


def reduced(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per N and D: the lowest loss over learning rates and batch sizes, of means
    over repeats of a setting."""
    settings = [name for name in ("lr_peak", "B") if name in runs.columns]
    keys = ["N", "D", *settings]
    means = runs.groupby(keys, dropna=False, as_index=False)["L"].mean()
    best = means.sort_values("L", kind="stable").drop_duplicates(["N", "D"])
    return best[["N", "D", "L"]].sort_index().assign(C=lambda t: 6.0 * t["N"] * t["D"])


def _numbers(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished rows with N, D and L as numbers, and C. Raises TableError if one of the
    three is missing."""
    runs = used_rows(runs)
    for name in ("N", "D", "L"):
        if name not in runs.columns:
            raise TableError(missing_column(name, runs.columns))
    out = runs.copy()
    for name in out.columns.intersection(["N", "D", "L", "lr_peak", "B"]):
        out[name] = pd.to_numeric(out[name], errors="coerce").astype(float)
    if "C" not in out.columns:
        out["C"] = 6.0 * out["N"] * out["D"]
    good = np.isfinite(out[["N", "D", "L"]]).all(axis=1) & (out[["N", "D", "L"]] > 0).all(axis=1)
    return out[good].reset_index(drop=True)


def _named(rules: Any, options: Mapping[str, Any]) -> dict[str, Rule]:
    if isinstance(rules, Law | str):
        rules = [rules]
    if not isinstance(rules, Mapping):
        laws = [resolve(each) for each in rules]
        rules = {law.name: law for law in laws}
    named: dict[str, Rule] = {"same D / N": _same_ratio}
    for name, rule in rules.items():
        named[name] = _rule_of(resolve(rule), options) if isinstance(rule, Law | str) else rule
    return named


def _rule_of(law: Law, options: Mapping[str, Any]) -> Rule:
    if set(law.inputs) != {"N", "D"}:
        raise FitError(
            f"{law.name} is a law of {', '.join(law.inputs)}; only a law of N and D says which "
            "size to train. Choose chinchilla, kaplan_ND, bottleneck or shared_exponent."
        )
    return lambda rows: fit(law, rows, **{"bootstrap": 0, **options})


def _same_ratio(rows: pd.DataFrame) -> Advice:
    """Keep the tokens per parameter of the best run among those of the largest compute."""
    C = 6.0 * rows["N"] * rows["D"]
    at = rows[C.max() / 1.5 <= C]
    best = at.loc[at["L"].idxmin()]
    ratio = float(best["D"] / best["N"])
    return lambda C: float(np.sqrt(C / (6 * ratio)))


def _advice(found: Any) -> Advice:
    """Return the advised N as a function of C of whatever a rule returns."""
    if isinstance(found, FitResult):
        params = {p: np.array([v]) for p, v in found.params.items()}
        return lambda C: float(optimum_at(found.law, params, np.array([C]), flops_6N)["N"][0, 0])
    if isinstance(found, Frontier):
        return lambda C: float(found.at(C=[C])["N"][0])
    if hasattr(found, "predict"):
        return lambda C: _best_size(found, C)
    return found


def _best_size(found: Any, C: float) -> float:
    """Return the N of least predicted loss at C = 6 N D, from one parameter to one token."""
    low, high = 0.0, float(np.log(C / 6))
    for _ in range(4):
        u = np.linspace(low, high, 65)
        with np.errstate(all="ignore"):
            L = np.asarray(found.predict(N=np.exp(u), D=C / 6 / np.exp(u)), float)
        k = int(np.argmin(np.where(np.isfinite(L), L, np.inf)))
        low, high = u[max(k - 1, 0)], u[min(k + 1, 64)]
    return float(np.exp((low + high) / 2))


def _of_sizes(
    rules: Mapping[str, Rule], runs: pd.DataFrame, reference: Reference | None, cuts: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of the decision 'N and D', and why some are absent."""
    best = reduced(runs)
    targets = compute_targets(best)
    if not targets:
        return [], [
            f"N and D: no compute is reached by {FEWEST} sizes of which the best is neither the "
            "smallest nor the largest"
        ]
    C = (6.0 * runs["N"] * runs["D"]).to_numpy(float)
    at = _cuts(best["C"].to_numpy(float), targets[-1].C, cuts)
    rows: list[dict[str, Any]] = []
    absent = [] if at else ["N and D: no run lies below a compute that is reached by several sizes"]
    for cut in at:
        small = runs[cut >= C]
        for name, rule in rules.items():
            progress.step(f"advice of {name}")
            try:
                advice = _advice(rule(small))
            except (FitError, TableError) as error:
                absent.append(f"{name} up to {cut:.3g}: {error}")
                continue
            for target in (each for each in targets if cut < each.C):
                row = _judged(target, advice(target.C), reference)
                if row is None:
                    absent.append(f"{name} up to {cut:.3g}: it advises no size at {target.C:.3g}")
                    continue
                about = {"rule": name, "decision": "N and D", "cut": cut}
                rows.append(about | {"n_fit": len(small), "factor": target.C / cut} | row)
    return rows, absent


def _cuts(C: np.ndarray, highest: float, most: int) -> list[float]:
    """Return cut-offs: growing quantiles of the computes below the last target.

    A cut-off lies just above the runs of one budget, not among them.
    """
    x = np.sort(C)
    last = np.append(np.diff(np.log(x)) > _SAME_BUDGET, True)  # of the runs of about equal C
    ends = x[last] * (1 + _SAME_BUDGET / 2)
    below = x[x * (1 + _SAME_BUDGET) < highest]
    ends = ends[ends < highest]
    if not len(below) or not len(ends):
        return []
    wanted = np.quantile(below, np.linspace(0.4, 1, most), method="lower")
    chosen = ends[np.minimum(np.searchsorted(ends, wanted), len(ends) - 1)]
    return [float(cut) for cut in np.unique(chosen)]


def _judged(target: ComputeTarget, N: float, reference: Reference | None) -> dict[str, Any] | None:
    """Return the regret of training N parameters; None without a number."""
    if not (np.isfinite(N) and N > 0):
        return None
    best = target.best
    nats = max(target.loss(N) - float(target.L[best]), 0.0)
    return {
        "C": target.C,
        "advice": N,
        "best": float(target.N[best]),
        "L_best": float(target.L[best]),
        "nats": nats,
        "flops": np.nan if reference is None else reference.extra_compute(target.C, nats),
        "at_least": not target.N.min() <= N <= target.N.max(),
    }
