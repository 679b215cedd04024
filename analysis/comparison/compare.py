"""Compare two training recipes: effective speed-up, crossover, and regret of an early choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd

from analysis.arguments import expect
from analysis.comparison.joint import FLOOR, ROUNDING, JointFit, Share, compute_of, joint_fit
from analysis.comparison.small_runs import choices
from analysis.fitting.checks import FitError, check_level
from analysis.fitting.reference import NEXT
from analysis.fitting.status import worth_telling
from analysis.frontiers.choice import CANDIDATES, choose
from analysis.in_words import cell, interval, times
from analysis.laws import Law, floor_C, resolve
from analysis.planning.quantity import Quantity, quantity_of
from analysis.tables.objectives import check_same_objective
from analysis.tables.rows import insufficient, used_rows
from scaling.errors import ConfigError, TableError
from scaling.jsonable import finite
from scaling.table import missing_column, sensible

_POINTS = (1.0, 10.0, 100.0)
"""Multiples of the largest common compute at which the speed-up is stated, and the smallest."""
_SHARES = ("floor", "exponents", "nothing")


@dataclass(frozen=True, kw_only=True)
class RecipeComparison:
    """Two recipes compared, as returned by :func:`compare`."""

    names: tuple[str, str]
    """Names of recipe A and recipe B."""
    fit: JointFit = field(repr=False)
    """The joint fit."""
    target: float
    """The compute for which the recipes are compared."""
    level: float
    losses: tuple[Quantity, Quantity]
    """The losses of A and of B at the target."""
    speedup: Quantity
    """How many times the compute of A recipe B needs for the loss that A has at the target."""
    probability: float
    """Probability that A has the lower loss at the target: the share of draws; nan without
    draws."""
    by_compute: pd.DataFrame
    """The speed-up as a function of compute: C, L_A, L_B, speedup, low, high, probability."""
    leader: str | None
    """Name of the recipe that is better at the smallest compute of the runs; None if unknown."""
    crossover: Quantity
    """The compute at which the other recipe overtakes it; inf if it does not."""
    overtaken: float
    """Share of the draws in which it is overtaken beyond the smallest runs, up to
    :data:`analysis.comparison.joint.HORIZON` times the largest; nan without draws."""
    choices: pd.DataFrame
    """What it loses to choose by the small runs; columns as in
    :data:`analysis.comparison.small_runs.COLUMNS`, with the recipes' names."""
    why_no_choices: str
    """Why `choices` is empty; '' if it is not."""

    @property
    def better(self) -> str:
        """Name of the recipe with the lower loss at the target."""
        return self.names[0] if self.losses[0].value <= self.losses[1].value else self.names[1]

    @property
    def floor(self) -> Quantity | None:
        """The shared floor with its interval; None if the law has none, or each recipe its own."""
        result = self.fit.result
        if FLOOR not in result.params or f"d_{FLOOR}" in result.params:
            return None
        if self.fit.pinned is not None:
            return Quantity(self.fit.pinned, self.fit.pinned, self.fit.pinned)
        row = result.interval(self.level).loc[FLOOR]
        return Quantity(float(row["value"]), float(row["low"]), float(row["high"]))

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers that are not finite become None."""
        floor = self.floor
        a, b = self.names
        return finite(
            {
                "A": a,
                "B": b,
                "law": self.fit.law.name,
                "share": self.fit.share,
                "floor": None if floor is None else floor.record(),
                "floor_pinned": self.fit.pinned is not None,
                "n": {a: self._count(1), b: self._count(2)},
                "level": self.level,
                "target": self.target,
                "L": {"A": self.losses[0].record(), "B": self.losses[1].record()},
                "better": self.better,
                "speedup": self.speedup.record(),
                "probability_A_better": self.probability,
                "by_compute": self.by_compute.to_dict("records"),
                "crossover": {
                    **self.crossover.record(),
                    "better_below": self.leader,
                    "none_found": math.isinf(self.crossover.value),
                    "probability": self.overtaken,
                },
                "choices": self.choices.to_dict("records"),
                "why_no_choices": self.why_no_choices,
                "params": self.fit.result.interval(self.level).to_dict("index"),
                "status": list(map(str, self.fit.result.status)),
            }
        )

    def _count(self, recipe: int) -> int:
        return int((self.fit.result.runs["recipe"] == recipe).sum())

    def __str__(self) -> str:
        a, b = self.names
        beyond = self.target / self.fit.compute[1]
        place = (
            f"{times(beyond)} times the largest compute of the runs"
            if beyond > 1.001
            else ("within the runs")
        )
        lines = [
            f"A = {a} ({self._count(1)} runs), B = {b} ({self._count(2)} runs)",
            self._law_words(),
            f"at C = {self.target:.4g} FLOPs ({place}):",
            f"  {self._speedup_words()}",
            f"  loss: A {_with(self.losses[0])}, B {_with(self.losses[1])} nats/token",
            f"  probability that A is better: {_probability(self.probability)}",
            f"crossover: {self._crossover_words()}",
            f"effective speed-up of A over B by compute ({self.level:.0%} intervals):",
            self.by_compute.map(cell).to_string(index=False),
        ]
        if self.choices.empty:
            lines.append(f"choosing by the small runs: not judged, since {self.why_no_choices}")
        else:
            lines.append("choosing by the small runs, judged at the largest C (nats, FLOPs lost):")
            last = self.choices.sort_values("C", kind="stable")
            last = last.drop_duplicates(["rule", "cut"], keep="last").sort_values(["cut", "rule"])
            lines.append(last.map(cell).to_string(index=False))
            lines += self._mean_regret()
        lines += [f"  ! {line}" for line in worth_telling(self.fit.result.warnings)]
        return "\n".join(lines)

    def _law_words(self) -> str:
        floor, law = self.floor, self.fit.law.name
        if floor is None:
            shared = "nothing shared" if self.fit.share == "nothing" else "no floor"
            return f"{law}, {shared}"
        of = "pinned" if self.fit.pinned is not None else "shared"
        also = " and exponents shared" if self.fit.share == "exponents" else ""
        ends = "" if of == "pinned" else f" {interval(floor.low, floor.high, '.4g')}"
        return f"{law}, floor {of} at {floor.value:.4g}{ends}{also}"

    def _speedup_words(self) -> str:
        a, b = self.names
        s = self.speedup
        if math.isnan(s.value):
            return f"effective speed-up of {a} over {b}: not known"
        if math.isinf(s.value):
            return f"no compute brings {b} to the loss of {a} {_ends(s)}"
        return f"effective speed-up of {a} over {b}: {s.value:.4g} {_ends(s)}"

    def _crossover_words(self) -> str:
        if self.leader is None:
            return "not known"
        a, b = self.names
        other = b if self.leader == a else a
        ends = interval(self.crossover.low, self.crossover.high, ".3g", vast=1e30)
        share = f" ({self.overtaken:.0%} of the draws have one)"
        share = "" if math.isnan(self.overtaken) else share
        if math.isinf(self.crossover.value):
            return f"none found; {self.leader} is better from the smallest runs on{share}"
        at = f"{self.crossover.value:.3g} {ends}"
        return f"{other} overtakes {self.leader} at C = {at}{share}"

    def _mean_regret(self) -> list[str]:
        lines = []
        for rule, rows in self.choices.groupby("rule", sort=False):
            wrong = int((rows["chosen"] != rows["better"]).sum())
            lines.append(
                f"  {rule}: {wrong} of {len(rows)} choices wrong over all cut-offs and computes, "
                f"{rows['nats'].mean():.2g} nats lost on average"
            )
        return lines


def compare(
    A: pd.DataFrame,
    B: pd.DataFrame,
    *,
    law: Law | str | None = None,
    names: tuple[str, str] = ("A", "B"),
    share: Share = "floor",
    floor: float | None = None,
    C: float | None = None,
    level: float = 0.9,
    bootstrap: int = 1000,
    seed: int = 0,
) -> RecipeComparison:
    """Compare two recipes by the runs of each.

    Both tables are fitted at once with one law, whose floor is shared: a difference of floors
    cannot be told from one of exponents by runs of a few decades of compute.

    law        a law of N and D, or of C. None: of those of N and D, the one that predicts the
               larger runs of both tables best; or E + A / C^alpha if the tables have no N and D, or
               too few runs to tell N from D.
    share      what the recipes share: the 'floor', the floor and the 'exponents', or 'nothing'.
    floor      pins the irreducible loss of both.
    C          compute at which to compare. None: ten times the largest compute that both reach.
    bootstrap  number of draws for the intervals.

    With a law of N and D, losses are those of the best N at each C = 6 N D. Raises TableError for
    a table that cannot be used, ConfigError for a choice that does not suit, and FitError if the
    law cannot be fitted.
    """
    check_level(level)
    for name, table in (("A", A), ("B", B)):
        expect("compare(A, B)", name, table, pd.DataFrame)
    if share not in _SHARES:
        raise ConfigError(f"share={share!r} is not one of: {', '.join(_SHARES)}.")
    tables = (used_rows(A).reset_index(drop=True), used_rows(B).reset_index(drop=True))
    chosen = _law(law, tables, names, seed)
    _check(tables, chosen, names)
    check_same_objective(tables, names)
    if law is None and chosen == floor_C:
        tables = (_on_frontier(tables[0]), _on_frontier(tables[1]))
    joint = joint_fit(chosen, tables, share=share, floor=floor, bootstrap=bootstrap, seed=seed)
    common = min(float(compute_of(t, chosen).max()) for t in tables)
    target = NEXT * common if C is None else C
    if not sensible(target):
        raise ConfigError(f"the compute {target} must be positive and finite, in FLOPs.")
    lowest = max(float(compute_of(t, chosen).min()) for t in tables)
    points = sorted({*(common * f for f in _POINTS), min(lowest, common), target})
    at = joint.losses(np.array([target]))
    name, crossing = joint.crossovers()
    small, why_not = choices(tables, joint, share=share, floor=floor, seed=seed)
    for column in ("chosen", "better"):
        small[column] = small[column].map(dict(zip("AB", names, strict=True)))
    return RecipeComparison(
        names=names,
        fit=joint,
        target=float(target),
        level=level,
        losses=cast(
            tuple[Quantity, Quantity], tuple(quantity_of(each[:, 0], level) for each in at)
        ),
        speedup=quantity_of(joint.speedup(target), level),
        probability=_probability_of_less(at[0][:, 0], at[1][:, 0]),
        by_compute=pd.DataFrame([_at(joint, point, level) for point in points]),
        leader=None if name is None else names["AB".index(name)],
        crossover=quantity_of(crossing, level),
        overtaken=_share(np.isfinite(crossing) & (crossing >= joint.compute[0])),
        choices=small,
        why_no_choices=why_not,
    )


def _as_in_where(values: list[Any]) -> list[Any]:
    """Return values as a condition sees them: text that is a number is one."""
    values = [value.item() if hasattr(value, "item") else value for value in values]
    try:
        return [float(value) if isinstance(value, str) else value for value in values]
    except ValueError:
        return values


def split(runs: pd.DataFrame, by: str) -> dict[str, pd.DataFrame]:
    """Return the rows of the two values of a column, {name: rows}, in their order in the table.

    Raises ConfigError unless there are two.
    """
    where = runs.attrs.get("source", "the table")
    if by not in runs.columns:
        raise TableError(f"{where}: {missing_column(by, runs.columns)}")
    parts: Mapping[Any, pd.DataFrame] = dict(iter(runs.groupby(by, sort=False)))
    if len(parts) != 2:
        values = ", ".join(map(str, list(parts)[:6])) + (", ..." if len(parts) > 6 else "")
        hint = (
            f'Keep two of them, as with --where "{by} in {_as_in_where(list(parts)[:2])!r}".'
            if len(parts) > 2
            else "Name a column that tells two recipes apart."
        )
        raise ConfigError(
            f"{where}: column {by!r} has {len(parts)} value{'s'[: len(parts) != 1]} ({values}), "
            f"but two recipes are compared. {hint}"
        )
    return {str(value): rows for value, rows in parts.items()}


def _law(
    law: Law | str | None,
    tables: tuple[pd.DataFrame, pd.DataFrame],
    names: tuple[str, str],
    seed: int,
) -> Law:
    if law is not None:
        return resolve(law)
    if any(not {"N", "D", "L"} <= set(t.columns) or insufficient(t, ("N", "D")) for t in tables):
        return floor_C
    found = []
    for name, table in zip(names, tables, strict=True):
        try:
            found.append(choose(table, bootstrap=0, seed=seed))
        except (FitError, TableError) as error:
            raise type(error)(f"{name}: {error}") from None
    scores = {}
    for each in CANDIDATES:
        if all(each.name in choice.fits for choice in found):
            errors = [choice.errors[each.name] for choice in found]
            scores[each] = sum(math.log(max(error, 1e-12)) for error in errors)
    known = {each: score for each, score in scores.items() if math.isfinite(score)}
    if known:
        return min(known, key=lambda each: known[each])
    return found[0].first.law


def _on_frontier(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that no run of less compute beats, if D varies at equal N: the others say
    nothing about the best loss at their compute."""
    if not {"N", "D"} <= set(runs.columns) or runs.groupby("N")["D"].nunique().max() < 2:
        return runs
    ordered = runs.sort_values("C", kind="stable")
    return ordered[ordered["L"] <= ordered["L"].cummin()].reset_index(drop=True)


def _check(tables: tuple[pd.DataFrame, pd.DataFrame], law: Law, names: tuple[str, str]) -> None:
    if law.target != "L" or (set(law.inputs) != {"N", "D"} and law.inputs != ("C",)):
        raise ConfigError(
            f"{law.name} is a law of {', '.join(law.inputs)}; recipes are compared with a law of N "
            "and D, such as chinchilla, or of C, such as floor_C."
        )
    for name, table in zip(names, tables, strict=True):
        for column in (*law.inputs, "L"):
            if column not in table.columns:
                raise TableError(f"{name}: {missing_column(column, table.columns)}")
        if len(table) < 2:
            raise FitError(
                f"{name} has {len(table)} run{'s'[: len(table) != 1]}: two or more are needed for "
                "a trend in compute."
            )
        if np.ptp(compute_of(table, law)) == 0:
            raise FitError(
                f"all {len(table)} runs of {name} have the same compute: recipes are compared "
                "along compute. Add runs at another C."
            )


def _at(joint: JointFit, C: float, level: float) -> dict[str, float]:
    a, b = (each[:, 0] for each in joint.losses(np.array([C])))
    speedup = quantity_of(joint.speedup(C), level)
    return {
        "C": float(C),
        "L_A": float(a[0]),
        "L_B": float(b[0]),
        "speedup": speedup.value,
        "low": speedup.low,
        "high": speedup.high,
        "P(A better)": _probability_of_less(a, b),
    }


def _probability_of_less(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of draws (all but the first) in which a is less than b; ties count half."""
    a, b = a[1:], b[1:]
    known = np.isfinite(a) & np.isfinite(b)
    if not known.any():
        return math.nan
    a, b = a[known], b[known]
    tied = np.abs(a - b) <= ROUNDING * np.abs(b)
    return float(np.mean((a < b) & ~tied) + np.mean(tied) / 2)


def _share(which: np.ndarray) -> float:
    """Return the share of the draws (all but the first); nan without draws."""
    return float(np.mean(which[1:])) if len(which) > 1 else math.nan


def _with(q: Quantity) -> str:
    return f"{q.value:.4f} {interval(q.low, q.high, '.4f')}"


def _ends(q: Quantity) -> str:
    return interval(q.low, q.high, ".4g")


def _probability(p: float) -> str:
    if math.isnan(p):
        return "not known"
    return "less than 0.01" if p < 0.01 else "more than 0.99" if p > 0.99 else f"{p:.2f}"
