"""Rows that are legal but most likely a mistake, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.result import FitResult
from analysis.inspecting.reading import Reading
from analysis.tables.conversions import numbers_in
from analysis.tables.rows import repeated, used_rows
from analysis.tables.searches import best_of_searches, is_searched
from analysis.tables.several import FILE
from scaling.errors import TableError
from scaling.table import sensible

_RATIOS = (1e-2, 1e6)
"""Tokens per parameter that runs have."""
_GAP = 1.5
"""Gap, in decades of tokens per parameter, that separates rows from the rest."""
_MINORITY = 0.2
"""Largest share of rows that count as different from the rest."""
_LARGEST_LOSS = 12.0
"""Nats per token above which a loss is worse than guessing for every usual vocabulary."""
_OFF_COMPUTE = math.log(2.0)
"""Factor between C / (6 N D) of a row and of runs of like size, in logs."""
_OFF_LAW = 6.0
"""Distance from the other rows' law, in standard errors, that is far."""
_OFF_LOSS = 0.02
"""Smallest such distance as a fraction of the loss."""
_RATES = (1e-7, 1.0)
"""Peak learning rates that optimisers take."""
_OFF_RATE = math.log(30.0)
"""Factor between a learning rate and those of runs of like size, in logs."""
_NEIGHBOURS = 7
"""Number of runs of like size that a row is compared with."""
_FEWEST = 5
"""Fewest rows of which one can differ from the rest."""


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A value that is most likely a mistake."""

    row: Any
    """Label of the row in the table, as in the messages of the loader; None for all rows."""
    run_id: Any
    """Id of its run; None if runs have none."""
    column: str | None
    """Column of the file, or the symbol that follows from it."""
    value: Any
    reason: str
    kind: str
    """What several rows have in common, such as 'C'."""

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "row": _plain(self.row), "run_id": _plain(self.run_id), "column": self.column,
            "value": _plain(self.value), "reason": self.reason,
        }  # fmt: skip


def suspicious(reading: Reading, quick: FitResult | None) -> list[Suspicion]:
    """Return what looks like a mistake: the whole table's units first, then single rows.

    A row whose tokens per parameter or loss are wrong in themselves is not listed again for what
    follows from that.

    quick: a fit of a law of N and D to some of the rows, to find those that are far off.
    """
    if not reading.rows.columns.is_unique or not len(reading.rows):
        return []
    rows = _Rows(reading, _numeric(reading))
    checks = (_not_finite, _duplicates, _ratios, _losses, _compute, _rates, _searches, _tokenizers)
    found = [each for check in checks for each in check(rows)]
    if quick is not None and reading.runs is not None:
        found += _far_off(rows, used_rows(reading.runs), quick)
    ratios = any(each.kind == "D/N" and each.row is None for each in found)
    doubts = [d for d in reading.doubts if not (ratios and "tokens per parameter" in d)]
    found = [_of_table(doubt, kind="table") for doubt in doubts] + found
    caused = {each.row for each in found if each.kind in ("D/N", "above guessing")} - {None}
    found = [e for e in found if not (e.kind in ("C", "far off") and e.row in caused)]
    seen: set[tuple[Any, Any]] = set()
    once = []
    for each in found:
        key = (each.row, each.kind)
        if each.row is None or key not in seen:
            once.append(each)
        seen.add(key)
    return once


def _of_table(reason: str, *, kind: str, column: str | None = None, value: Any = None) -> Suspicion:
    """Return a suspicion of the whole table."""
    return Suspicion(row=None, run_id=None, column=column, value=value, reason=reason, kind=kind)


class _Rows:
    """The finished runs of a table, with their numbers, before rows are left out."""

    def __init__(self, reading: Reading, table: pd.DataFrame):
        self.reading, self.table = reading, table
        self.origin = {s: c for c, s in reading.symbols.items()}
        ends = table
        if {"run_id", "D"} <= {*table.columns} and table["run_id"].duplicated().any():
            ends = table.sort_values("D", kind="stable").drop_duplicates("run_id", keep="last")
        self.ends = ends.sort_index()
        """The last row of each run."""

    def has(self, *names: str) -> bool:
        return {*names} <= {*self.table.columns}

    def of(self, row: Any, symbol: str, value: Any, reason: str, kind: str = "") -> Suspicion:
        ids = self.table["run_id"] if "run_id" in self.table.columns else None
        run = None if ids is None or pd.isna(ids[row]) else ids[row]
        return Suspicion(
            row=row, run_id=run, column=self.origin.get(symbol, symbol), value=value,
            reason=reason, kind=kind or symbol,
        )  # fmt: skip


def _numeric(reading: Reading) -> pd.DataFrame:
    """Return the finished runs with the columns of symbols as numbers."""
    table = used_rows(reading.named).drop(columns=FILE, errors="ignore").copy()
    for name in ("N", "D", "C", "L", "B", "S", "lr_peak", "vocab_size", "N_total"):
        if name in table.columns and table.columns.is_unique:
            table[name] = numbers_in(table[name])
    if {"S", "B"} <= {*table.columns} and "D" not in table.columns:
        table["D"] = table["S"] * table["B"]
    if reading.runs is not None and "N" in reading.runs.columns and "N" not in table.columns:
        table["N"] = reading.runs["N"].reindex(table.index).astype(float)
    return table


# ------------------------------------------------------------------ rows on their own


def _not_finite(rows: _Rows) -> Iterator[Suspicion]:
    """Losses and sizes that are missing, infinite or not positive."""
    for symbol in ("L", "N", "D", "C"):
        if not rows.has(symbol):
            continue
        x = rows.table[symbol]
        values = x.to_numpy(float)
        bad = ~sensible(values)
        if symbol == "C":
            bad &= np.isfinite(values)
        if bad.all() and len(bad) > 1:
            continue  # the whole column, which the loader reports
        for row in rows.table.index[bad]:
            written = _as_written(rows, symbol, row)
            lost = symbol == "L" and not np.isfinite(x[row])
            reason = "no finite loss; left out" if lost else "not a positive, finite number"
            yield rows.of(row, symbol, written, reason, f"no {symbol}")


def _as_written(rows: _Rows, symbol: str, row: Any) -> Any:
    """Return a value as it stands in the file."""
    column, table = rows.origin.get(symbol, symbol), rows.reading.rows
    value = table[column][row] if column in table.columns else rows.table[symbol][row]
    return None if value is None or value is pd.NA or value != value else value


def _duplicates(rows: _Rows) -> Iterator[Suspicion]:
    """Rows that repeat another, and runs that have the loss of another to the last digit."""
    given = rows.reading.rows.loc[rows.table.index].drop(columns=FILE, errors="ignore")
    if not len(given):
        return
    again = repeated(given)
    for row in again.index[again]:
        yield rows.of(row, "row", None, "repeats an earlier row exactly; counted once", "repeated")
    if rows.has("run_id") and (step := next((n for n in ("S", "D") if rows.has(n)), None)):
        keys = ["run_id", *(n for n in ("N", step) if rows.has(n))]
        twice = rows.table[~again].duplicated(keys, keep="last")
        for row in twice.index[twice]:
            reason = f"a resumed run wrote this {step} again; its last row counts"
            yield rows.of(row, step, rows.table[step][row], reason, "resumed")
    if rows.has("N", "D", "L"):
        ends = rows.ends[~rows.ends.index.isin(again.index[again])]
        ends = ends[ends["L"].map(lambda loss: len(f"{loss:.10g}".partition(".")[2]) >= 3)]
        same = ends.duplicated(["N", "D", "L"])
        for row in same.index[same]:
            reason = "N, D and all digits of the loss are those of an earlier row: the same run?"
            yield rows.of(row, "L", rows.table["L"][row], reason, "same loss")


def _losses(rows: _Rows) -> Iterator[Suspicion]:
    """Losses that are worse than guessing."""
    if not rows.has("L"):
        return
    ends = rows.ends
    loss = ends["L"]
    finite = loss[np.isfinite(loss)]
    if len(finite) and float(finite.median()) > _LARGEST_LOSS:
        return  # the unit of the column, which the loader doubts
    highest = pd.Series(_LARGEST_LOSS, ends.index)
    known = "vocab_size" in ends.columns
    if known:
        V = ends["vocab_size"]
        highest = np.log(V.where(V > 1)).fillna(_LARGEST_LOSS)
    for row in ends.index[np.isfinite(loss) & (loss > highest)]:
        limit = f"ln(vocab_size) = {highest[row]:.2f}" if known else f"{_LARGEST_LOSS:g} nats"
        reason = f"above {limit}: worse than guessing every token alike"
        yield rows.of(row, "L", loss[row], reason, "above guessing")


# ------------------------------------------------------------------ rows against the rest


def _ratios(rows: _Rows) -> Iterator[Suspicion]:
    """Tokens per parameter that no run has, or that are far from those of the rest."""
    if not rows.has("N", "D"):
        return
    ends = rows.ends
    good = sensible(ends["N"].to_numpy(float)) & sensible(ends["D"].to_numpy(float))
    ratio = (ends["D"] / ends["N"])[good]
    low, high = _RATIOS
    outside = (ratio < low) | (ratio > high)
    if len(ratio) and outside.mean() > 0.5:
        middle = float(ratio.median())
        reason = (
            f"the median run has {middle:.2g} tokens per parameter, and runs have {low:g} to "
            f"{high:g}: are N and D swapped, or is D in sequences or millions?"
        )
        yield _of_table(reason, kind="D/N", column="D/N", value=middle)
        return
    rest = _apart(np.log10(ratio))
    others = ratio[~rest & ~outside]
    for row in ratio.index[outside | rest]:
        span = f"; the others have {others.min():.3g} to {others.max():.3g}" if len(others) else ""
        off = _thousand(float(ratio[row]), others)
        reason = f"{ratio[row]:.3g} tokens per parameter{span}{off}"
        yield rows.of(row, "D/N", float(ratio[row]), reason, "D/N")


def _apart(x: pd.Series) -> pd.Series:
    """Return which values lie apart from the bulk: beyond a gap, and few."""
    apart = pd.Series(False, x.index)
    if len(x) < _FEWEST:
        return apart
    order = x.sort_values()
    group = (order.diff() > _GAP).cumsum()
    sizes = group.value_counts()
    if sizes.max() < (1 - _MINORITY) * len(x):
        return apart
    return (group != sizes.index[0]).reindex(x.index)


def _thousand(ratio: float, others: pd.Series) -> str:
    """Say that a factor of a thousand or a million would explain a ratio."""
    if not len(others):
        return ""
    low, high = 0.5 * others.min(), 2 * others.max()
    for factor, words in ((1e3, "a thousand"), (1e6, "a million")):
        if low <= ratio * factor <= high:
            return f": is D in units of {words}, or N given {words} times too large?"
        if low <= ratio / factor <= high:
            return f": is N in units of {words}, or D given {words} times too large?"
    return ": is the unit of N or D another one here?"


def _compute(rows: _Rows) -> Iterator[Suspicion]:
    """C that contradicts 6 N D."""
    if not rows.has("N", "D", "C"):
        return
    ends = rows.ends
    good = np.all([sensible(ends[n].to_numpy(float)) for n in "NDC"], axis=0)
    ends = ends[good]
    if not len(ends):
        return
    factor = ends["C"] / (6 * ends["N"] * ends["D"])
    middle = float(factor.median())
    if not 0.5 < middle < 2:
        reason = (
            f"C is {middle:.3g} times 6 N D at the median run: another unit, or another count of "
            "parameters (with embeddings?) or of FLOPs"
        )
        yield _of_table(reason, kind="C", column="C", value=middle)
    if len(ends) < _FEWEST:
        return
    off = np.abs(_off_neighbours(np.log(ends["N"]), np.log(factor)))
    for row in ends.index[off > _OFF_COMPUTE]:
        reason = f"C is {factor[row]:.3g} times 6 N D, in runs of like size {middle:.3g} times"
        yield rows.of(row, "C", ends["C"][row], reason)


def _off_neighbours(x: pd.Series, y: pd.Series) -> pd.Series:
    """Return y less its median over the rows next in x."""
    order = x.sort_values(kind="stable").index
    middle = y[order].rolling(_NEIGHBOURS, center=True, min_periods=1).median()
    ends = _NEIGHBOURS // 2
    if len(order) > _NEIGHBOURS:  # whole windows at the ends too
        middle.iloc[:ends], middle.iloc[-ends:] = middle.iloc[ends], middle.iloc[-ends - 1]
    else:
        middle[:] = float(y.median())
    return y - middle.reindex(y.index)


def _rates(rows: _Rows) -> Iterator[Suspicion]:
    """Learning rates that no optimiser takes, or far from those of runs of like size."""
    if not rows.has("lr_peak"):
        return
    ends = rows.ends[rows.ends["lr_peak"].notna()]
    rate = ends["lr_peak"]
    low, high = _RATES
    odd = (rate < low) | (rate > high)
    for row in rate.index[odd]:
        reason = f"a peak learning rate is {low:g} to {high:g}"
        if rate[row] < low:
            reason += ": is it the rate at the end of a schedule?"
        yield rows.of(row, "lr_peak", rate[row], reason, "rate")
    if not rows.has("N") or odd.sum() or len(ends) < _FEWEST or is_searched(ends):
        return
    N = ends["N"]
    kept = sensible(N.to_numpy(float))
    off = np.abs(_off_neighbours(np.log(N[kept]), np.log(rate[kept])))
    far = off[off > _OFF_RATE]
    if len(far) <= _MINORITY * len(ends):
        for row in far.index:
            reason = f"{np.exp(off[row]):.3g} times off the learning rates of runs of like size"
            yield rows.of(row, "lr_peak", rate[row], reason, "rate")


def _searches(rows: _Rows) -> Iterator[Suspicion]:
    """Searches of a learning rate that end at an edge, and that a law of N and D would mix."""
    if not rows.has("N", "D", "L", "lr_peak") or not is_searched(rows.ends):
        return
    tried = int(rows.ends.groupby(["N", "D"])["lr_peak"].nunique().max())
    reason = (
        f"up to {tried} learning rates at one N and D: a law of N and D takes all of these runs as "
        "they are, so keep the best of each first"
    )
    column = rows.origin.get("lr_peak", "lr_peak")
    yield _of_table(reason, kind="search", column=column, value=tried)
    try:
        remark = best_of_searches(rows.ends, "lr_peak", ("N", "D")).remarks.get("edge_of_search")
    except TableError as error:
        remark = str(error)
    if remark:
        yield _of_table(remark, kind="edge", column=column)


def _tokenizers(rows: _Rows) -> Iterator[Suspicion]:
    """Losses per token of different vocabularies, which do not compare."""
    if not rows.has("vocab_size", "L"):
        return
    counts = rows.ends["vocab_size"].dropna().value_counts()
    if len(counts) > 1:
        listed = ", ".join(f"{V:g} ({n} runs)" for V, n in counts.head(4).items())
        reason = (
            f"{len(counts)} vocabularies, {listed}: losses per token of different tokenizers do "
            "not compare"
        )
        column = rows.origin.get("vocab_size", "vocab_size")
        yield _of_table(reason, kind="tokenizers", column=column)


def _far_off(rows: _Rows, runs: pd.DataFrame, quick: FitResult) -> Iterator[Suspicion]:
    """Runs that the law of the others does not explain."""
    if "run_id" in runs.columns and "D" in runs.columns:
        runs = runs.sort_values("D", kind="stable").drop_duplicates("run_id", keep="last")
    if rows.has("N", "D", "lr_peak") and is_searched(rows.ends):
        return  # the spread is that of the learning rates
    found = quick.outliers(_OFF_LAW)
    bad = {row for row in found.index if row in runs.index}
    good = quick.runs.drop(index=list(found.index))
    expected = pd.Series(
        quick.law.predict(quick.params, **{n: runs[n].to_numpy(float) for n in quick.law.inputs}),
        runs.index,
    )
    off = np.log(runs["L"].astype(float)) - np.log(expected)
    spread = 1.4826 * float(np.median(np.abs(off.reindex(good.index).dropna()))) if len(good) else 0
    far = off[(np.abs(off) > _OFF_LOSS) & ((np.abs(off) > _OFF_LAW * spread) | off.index.isin(bad))]
    if len(far) > _MINORITY * len(runs):
        return
    for row in far.abs().sort_values(ascending=False).index:
        percent = 100 * abs(math.expm1(off[row]))
        reason = (
            f"{percent:.2g} % {'above' if off[row] > 0 else 'below'} the loss of the other runs' "
            f"law at its N and D ({expected[row]:.3g})"
        )
        yield rows.of(row, "L", runs["L"][row], reason, "far off")


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "item"):
        return value.item()
    return str(value)
