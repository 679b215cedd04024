"""Backtests over a suite of tables: which rule predicts larger runs best?

:func:`backtest` fits the runs of each table below a cut-off by each rule, predicts the runs above
it, and compares the rules over the tables. Defaults are chosen by it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.checks import FitError, check_draws, check_level
from analysis.validation.suite_cache import Cache, Score
from analysis.validation.suite_cells import Cell, cells_of
from analysis.validation.suite_predict import one_thread, score
from analysis.validation.suite_rules import BASELINE, Rule, rules_named
from analysis.validation.suite_tables import tables_of
from scaling import progress
from scaling.errors import ConfigError
from scaling.jsonable import finite

FACTORS = (4.0, 16.0, 64.0)
"""Factors of extrapolation: the largest value of the axis over the cut-off."""
AXES = ("C", "N", "D")
COLUMNS = (
    "table", "group", "law", "rule", "axis", "factor", "rms", "bias", "coverage", "width",
    "log_score", "n", "n_fit",
)  # fmt: skip
_LEAST_ERROR = 1e-9
"""Errors below this count as this in ratios, where exact predictions would divide by zero."""
_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The result of :func:`backtest`."""

    rows: pd.DataFrame
    """One row per table, rule, axis and factor that the table allows. Columns: table, group, law
    (that carried the prediction), rule, axis, factor, rms and bias of ln(measured / predicted),
    coverage and width of the predictive intervals, log_score, n (runs predicted), n_fit (runs
    fitted)."""
    baseline: str
    """The rule to which the others are compared."""
    level: float
    """Level of the predictive intervals."""
    skipped: dict[str, str]
    """Reason why a table is not in the suite, by its name."""
    failed: dict[str, int]
    """Number of cells in which a rule had no fit, by its name."""
    reasons: dict[str, str] = field(default_factory=dict, repr=False)
    """One of the reasons, by the rule's name."""

    def summary(self) -> pd.DataFrame:
        """Return one row per axis and rule, the best ratio first.

        rms_F is the error at factor F and `rms` that over all factors, as means over groups. ratio
        is the geometric mean over groups of the error over that of the baseline, with its 90 %
        interval over groups [low, high]; worst is the largest ratio of a group. coverage, width
        and log_score are means over groups. cells counts the tables and factors.
        """
        parts = [self._of_axis(axis, part) for axis, part in self.rows.groupby("axis", sort=False)]
        return pd.concat(parts, ignore_index=True)

    def _of_axis(self, axis: Any, part: pd.DataFrame) -> pd.DataFrame:
        base = self._base(axis)
        found = []
        for rule, rows in part.groupby("rule", sort=False):
            row = {
                "axis": axis,
                "rule": rule,
                "cells": len(rows),
                "groups": rows["group"].nunique(),
            }
            for factor, same in rows.groupby("factor"):
                row[f"rms_{factor:g}"] = _over_groups(same, "rms")
            row["rms"] = _over_groups(rows, "rms")
            ratios = _ratios(rows, base)
            if len(ratios):
                row |= {"ratio": float(np.exp(ratios.mean()))}
                row |= dict(zip(("low", "high"), _interval(ratios), strict=True))
                row |= {"worst": float(np.exp(ratios.max())), "worst_group": ratios.idxmax()}
            for name in ("bias", "coverage", "width", "log_score"):
                row[name] = _over_groups(rows, name)
            found.append(row)
        table = pd.DataFrame(found)
        return table.sort_values("ratio" if "ratio" in table.columns else "rms", kind="stable")

    def by_group(self) -> pd.DataFrame:
        """Return one row per axis, rule and group: cells, rms over all factors, the ratio to the
        baseline, and the coverage."""
        found = []
        for (axis, rule, group), rows in self.rows.groupby(["axis", "rule", "group"], sort=False):
            base = self._base(rows["axis"].iloc[0])
            ratios = _ratios(rows, base)
            found.append(
                {
                    "axis": axis,
                    "rule": rule,
                    "group": group,
                    "cells": len(rows),
                    "rms": float(rows["rms"].mean()),
                    "ratio": float(np.exp(ratios.iloc[0])) if len(ratios) else np.nan,
                    "coverage": float(rows["coverage"].mean()),
                }
            )
        return pd.DataFrame(found)

    def _base(self, axis: str) -> pd.Series:
        """Return the errors of the baseline by table and factor."""
        base = self.rows[(self.rows["rule"] == self.baseline) & (self.rows["axis"] == axis)]
        return base.set_index(["table", "factor"])["rms"]

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON; cells that a table does not allow are absent."""
        return finite(
            {
                "rows": self.rows.to_dict("records"),
                "summary": self.summary().to_dict("records"),
                "groups": self.by_group().to_dict("records"),
                "baseline": self.baseline,
                "level": self.level,
                "skipped": self.skipped,
                "failed": self.failed,
            }
        )

    def __str__(self) -> str:
        tables = self.rows["table"].nunique()
        groups = self.rows["group"].nunique()
        what = f"{tables} tables of {groups} groups" if tables > 1 else self.rows["table"].iloc[0]
        head = f"{what}: rms error of ln L on larger runs [%]; ratio to {self.baseline}"
        return f"{head}\n{self._text()}"

    def details(self) -> str:
        """Return the summary, and the ratio to the baseline of each rule in each group."""
        order = self.summary()[["axis", "rule"]]
        table = self.by_group().pivot(index=["axis", "rule"], columns="group", values="ratio")
        table = table.loc[[tuple(row) for row in order.to_numpy()]].reset_index()
        if order["axis"].nunique() == 1:
            table = table.drop(columns="axis")
        text = table.to_string(index=False, float_format="{:.2f}".format, na_rep="-")
        return f"{self}\n\nratio to {self.baseline} by group:\n{text}"

    def _text(self) -> str:
        table = self.summary()
        errors = [name for name in table.columns if name == "rms" or name.startswith("rms_")]
        percent = [*errors, "bias"]
        shown = table.assign(**{name: 100 * table[name] for name in percent})
        shown = shown.drop(columns=["groups", *(["axis"] if table["axis"].nunique() == 1 else [])])
        if table["groups"].max() == 1:  # there is nothing to compare
            shown = shown.drop(columns=["low", "high", "worst", "worst_group"], errors="ignore")
        shown = shown.dropna(axis="columns", how="all")
        names = {name: f"f={name.removeprefix('rms_')}" for name in errors} | {"rms": "all"}
        shown = shown.rename(columns=names)
        formats = dict.fromkeys(shown.select_dtypes("float").columns, "{:.2f}".format)
        return shown.to_string(index=False, na_rep="-", formatters=formats)


def backtest(
    sources: Sequence[str | Path | pd.DataFrame] | str | Path | pd.DataFrame,
    *,
    rules: Sequence[str] = (),
    axes: Sequence[str] = ("C",),
    factors: Sequence[float] = FACTORS,
    baseline: str = BASELINE,
    level: float = 0.9,
    bootstrap: int = 0,
    seed: int = 0,
    root: str | Path | None = None,
    cache: str | Path | None = None,
    workers: int = 1,
    **selection: Any,
) -> Suite:
    """Predict the larger runs of tables from their smaller runs by several rules.

    sources: tables, results folders, folders of them, suite files (.toml), or DataFrames with N, D
        and L. Each table is taken by itself.
    rules: names of rules, or patterns such as 'bottleneck*'; all by default.
    axes: the columns to extrapolate, of C, N and D. Runs with at most the largest value of the
        column over a factor are fitted, and those above are predicted.
    factors: these factors, above 1.
    baseline: the rule to which the others are compared.
    level: level of the predictive intervals whose coverage is counted.
    bootstrap: number of draws for the intervals; with 0 they are linearised, which is faster.
    root: the folder to which the paths in suite files are relative.
    cache: a folder in which scores are kept by the content of table, rule and code, so that a
        second call is quick.
    workers: number of processes. With several, a script must call this under
        ``if __name__ == "__main__"``.
    selection: `map`, `where`, `rows` and other options of :func:`analysis.load`, for tables that
        no suite file describes.

    Raises ConfigError for unknown names, and FitError if no table has a cell in which a rule can be
    fitted. Tables and cells that cannot be used are left out, with the reason in `skipped`.
    """
    check_level(level)
    check_draws(bootstrap, seed)
    if workers < 1:
        raise ConfigError(f"workers={workers} must be at least 1.")
    chosen = _checked(rules, axes, factors, baseline)
    alone = isinstance(sources, str | Path) or hasattr(sources, "columns")
    several: list[Any] = [sources] if alone else [*sources]  # pyright: ignore[reportGeneralTypeIssues]
    tables, skipped = tables_of(several, root=root, **selection)
    cells: list[Cell] = []
    for table in tables:
        found, why = cells_of(table, axes, factors)
        cells += found
        if why:
            skipped[table.name] = why
    kept = Cache(
        None if cache is None else Path(cache), level=level, bootstrap=bootstrap, seed=seed
    )
    scored = _scored(cells, chosen, kept, workers, level=level, bootstrap=bootstrap, seed=seed)
    rows: list[dict[str, Any]] = []
    failed: dict[str, list[str]] = {}
    for cell, scores in zip(cells, scored, strict=True):
        for rule in chosen:
            if isinstance(score := scores[rule], str):
                failed.setdefault(rule.name, []).append(score)
            else:
                rows.append(_named(cell, rule) | score)
    if not rows:
        raise FitError(_nothing(skipped, failed))
    return Suite(
        rows=pd.DataFrame(rows, columns=list(COLUMNS)),
        baseline=baseline,
        level=level,
        skipped=skipped,
        failed={name: len(each) for name, each in failed.items()},
        reasons={name: each[0] for name, each in failed.items()},
    )


def _checked(
    rules: Sequence[str], axes: Sequence[str], factors: Sequence[float], baseline: str
) -> tuple[Rule, ...]:
    """Return the rules to test, the baseline among them."""
    for axis in axes:
        if axis not in AXES:
            raise ConfigError(f"there is no axis {axis!r}: extrapolate in {', '.join(AXES)}.")
    if not axes or not factors:
        raise ConfigError("give at least one axis (C, N or D) and one factor.")
    for factor in factors:
        if not 1 < factor < np.inf:
            raise ConfigError(f"factor {factor:g} must be larger than 1, such as 16.")
    chosen, (first, *more) = rules_named(rules), rules_named([baseline])
    if more:
        raise ConfigError(f"the baseline {baseline!r} must be one rule, such as {first.name!r}.")
    return chosen if first in chosen else (first, *chosen)


def _named(cell: Cell, rule: Rule) -> dict[str, Any]:
    return {
        "table": cell.table.name,
        "group": cell.table.group,
        "rule": rule.name,
        "axis": cell.axis,
        "factor": cell.factor,
        "n_fit": len(cell.below),
    }


def _scored(
    cells: Sequence[Cell], rules: Sequence[Rule], cache: Cache, workers: int, **asked: Any
) -> list[dict[Rule, Score]]:
    """Return the scores of the rules in each cell, those that are not in the cache computed."""
    found = [
        {rule: score for rule in rules if (score := cache.get(cell, rule)) is not None}
        for cell in cells
    ]
    left = [
        (cell, [rule for rule in rules if rule not in known])
        for cell, known in zip(cells, found, strict=True)
    ]
    todo = [i for i, (_, missing) in enumerate(left) if missing]
    parts = [
        f"{left[i][0].table.name}, {left[i][0].axis} x {left[i][0].factor:g} ({k} of {len(todo)})"
        for k, i in enumerate(todo, 1)
    ]
    computed = _computed([left[i] for i in todo], parts, workers, asked)
    for i, scores in zip(todo, computed, strict=True):
        found[i] |= scores
        cache.put(left[i][0], scores)
    return found


def _computed(
    tasks: Sequence[tuple[Cell, list[Rule]]],
    names: Sequence[str],
    workers: int,
    asked: Mapping[str, Any],
) -> Iterator[dict[Rule, Score]]:
    """Yield the scores of each task, in order."""
    if workers == 1 or len(tasks) < 2:
        for (cell, rules), name in zip(tasks, names, strict=True):
            with progress.part(name):
                scores = score(cell, rules, **asked)
            yield scores
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), spawn, one_thread) as pool:
        futures = [pool.submit(score, cell, rules, **asked) for cell, rules in tasks]
        try:
            for future, name in zip(futures, names, strict=True):
                progress.step(name)
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _nothing(skipped: Mapping[str, str], failed: Mapping[str, Sequence[str]]) -> str:
    """Return why nothing could be tested."""
    if failed:
        name, why = next((name, each[0]) for name, each in failed.items())
        return f"no rule could be fitted to any of the tables ({name}: {why})"
    if not skipped:
        return "there is no table to test."
    name, why = next(iter(skipped.items()))
    more = f"; and {len(skipped) - 1} more" if len(skipped) > 1 else ""
    return f"no table can be tested: {name}: {why.rstrip('.')}{more}."


def _over_groups(rows: pd.DataFrame, name: str) -> float:
    """Return the mean over groups of the mean over their cells."""
    return float(rows.groupby("group")[name].mean().mean())


def _ratios(rows: pd.DataFrame, base: pd.Series) -> pd.Series:
    """Return the mean log ratio to the baseline's errors by group, over the cells of both."""
    both = rows.set_index(["table", "factor"]).join(base.rename("base"), how="inner")
    off, base_off = both["rms"].clip(lower=_LEAST_ERROR), both["base"].clip(lower=_LEAST_ERROR)
    both["log_ratio"] = np.log(off / base_off)
    return both.groupby(["group", "table"])["log_ratio"].mean().groupby("group").mean()


def _interval(ratios: pd.Series) -> tuple[float, float]:
    """Return the 90 % bootstrap interval over groups of a geometric mean ratio."""
    draws = np.random.default_rng(0).choice(ratios.to_numpy(), (_RESAMPLES, len(ratios)))
    low, high = np.exp(np.quantile(draws.mean(axis=1), [0.05, 0.95]))
    return float(low), float(high)
