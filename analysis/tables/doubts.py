"""Warnings about values that are legal but most likely a mistake."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from analysis.tables.conversions import numbers_in
from analysis.tables.rows import used_rows
from analysis.tables.searches import is_searched
from scaling.column_words import expression, meaning
from scaling.mapping import alternatives, in_expression, option


class SearchesMixed(UserWarning):
    """States that runs of several learning rates count alike."""


_LEAST = {"N": 1e3, "D": 1e5}
"""Numbers below which the median run is most likely not counted one by one."""
_HIGHEST_LOSS = 20.0
"""Loss, in nats per token, that only diverged runs exceed."""
_UNITS_APART = 100.0
"""Least factor between rows in millions and all others. Evaluations of a run lie closer."""


def suspect(
    table: pd.DataFrame,
    where: str,
    wanted: Iterable[str],
    origins: Mapping[str, str],
    *,
    sizes: bool,
    swapped: bool,
) -> None:
    """Warn about values in the columns `wanted` that are legal but most likely a mistake.

    origins: {symbol: column of the file} of the columns that are taken as they are.
    """
    used, wanted = used_rows(table), set(wanted)
    if used.empty:
        return
    doubts = [*_suspect_sizes(used, wanted, origins, swapped)] if sizes else []
    for doubt in (*doubts, *_suspect_loss(used, wanted, origins)):
        warnings.warn(f"{where}: {doubt}", stacklevel=3)
    for doubt in _suspect_search(used, wanted) if sizes else ():
        warnings.warn(f"{where}: {doubt}", SearchesMixed, stacklevel=3)


def _suspect_sizes(
    used: pd.DataFrame, wanted: set[str], origins: Mapping[str, str], swapped: bool
) -> Iterator[str]:
    tokens = "D_total" if "D_total" in used else "D"
    middle = {
        name: float(np.median(used[tokens if name == "D" else name]))
        for name in ("N", "D", "C")
        if name in wanted and name in used
    }
    units = "N counts parameters and D tokens, one by one"
    yield from _other_units(used, middle)
    small = [n for n, least in _LEAST.items() if n in middle and middle[n] < least]
    if small:
        has = " and ".join(f"{n} = {middle[n]:.3g}" for n in small)
        ways = " and ".join(_in_units(origins.get(n, n), n) for n in small)
        yield f"the median run has {has}; is that in millions or billions? {units}: say {ways}."
    elif {"N", "D"} <= set(middle):
        ratio = middle["D"] / middle["N"]
        if ratio < 0.1 and swapped:
            yield (
                f"the median run has {ratio:.2g} tokens per parameter; are N and D swapped, or D "
                "in millions? N is parameters, D is training tokens."
            )
        elif ratio > 1e5:
            yield (
                f"the median run has {ratio:.2g} tokens per parameter; is N in millions or "
                f"billions? {units}: say {_in_units(origins.get('N', 'N'), 'N')}."
            )
    if {"N", "D", "C"} <= set(middle):
        off = float(np.median(used["C"] / (6.0 * used["N"] * used["D"])))
        if not 0.1 < off < 10:
            yield (
                f"C is {off:.2g} times 6 N D; are their units FLOPs, parameters and tokens "
                "(1 PF-day = 8.64e19 FLOPs)?"
            )


def _suspect_search(used: pd.DataFrame, wanted: set[str]) -> Iterator[str]:
    """Yield a doubt if a law of N and D would mix the runs of searches of a learning rate."""
    if "lr_peak" in wanted or not {"N", "D", "L"} <= wanted or "lr_peak" not in used.columns:
        return
    rates = used.assign(lr_peak=numbers_in(used["lr_peak"]))
    if is_searched(rates):
        tried = int(rates.groupby(["N", "D"])["lr_peak"].nunique().max())
        yield (
            f"there are up to {tried} learning rates at one N and D, and all of these runs count. "
            "For a law of tuned runs, keep the best of each: in Python, "
            'table.loc[table.groupby(["N", "D"])["L"].idxmin()].'
        )


def _other_units(used: pd.DataFrame, middle: Mapping[str, float]) -> Iterator[str]:
    """Yield a doubt if a few rows of a column seem to be in millions or billions."""
    for name in [n for n, least in _LEAST.items() if middle.get(n, 0.0) >= least]:
        values = used[name].astype(float)
        is_small = values < min(_LEAST[name], middle[name] / 1e3)
        few, others = values.index[is_small], values[~is_small]
        if len(few) and others.min() >= _UNITS_APART * values[few].max():
            yield (
                f"{len(few)} of {len(used)} rows {'have' if len(few) > 1 else 'has'} {name} below "
                f"{_LEAST[name]:g}, first at row {few[0]} ({name}={used[name][few[0]]:.6g}), but "
                f"the median run has {middle[name]:.3g}: are these in millions or billions? Write "
                "all rows in one unit."
            )


def _in_units(column: str, symbol: str) -> str:
    """Return the option that maps a column in millions, or in the unit that its name says."""
    what = meaning(column)
    if what and what.symbol == symbol and (text := expression(column, what)) != column:
        return option({text: symbol})
    name = in_expression(column)
    return alternatives([f"1e6*{name}", f"1e9*{name}"], symbol)


def _suspect_loss(
    used: pd.DataFrame, wanted: set[str], origins: Mapping[str, str]
) -> Iterator[str]:
    if "L" not in wanted or "L" not in used:
        return
    L = used["L"].to_numpy(float)
    origin = origins.get("L", "L")
    what = meaning(origin)
    if (what and what.function == "bits_per_byte") or "per_byte" in origin.lower():
        yield (
            f"L comes from {origin!r}, which looks like bits; L is nats/token "
            f"(1 bit = {math.log(2):.4f} nat), and floors and coefficients scale with the unit."
        )
        return
    if "vocab_size" in used.columns and "D_total" not in used.columns:
        uniform = np.log(used["vocab_size"].to_numpy(float))
        above = uniform < L
        if np.mean(above) > 0.5:
            yield (
                f"{above.sum()} of {len(used)} losses are above ln(vocab_size), worse than "
                "guessing; is L in bits/token? It should be nats/token."
            )
            return
    if float(np.median(L)) > _HIGHEST_LOSS:
        yield (
            f"the median L is {np.median(L):.3g} nats/token; is it a perplexity? L is its "
            f"logarithm: say {option({f'log({in_expression(origin)})': 'L'})}."
        )
    elif (L > _HIGHEST_LOSS).any():
        few = used.index[L > _HIGHEST_LOSS]
        yield (
            f"{len(few)} of {len(used)} losses {'are' if len(few) > 1 else 'is'} above "
            f"{_HIGHEST_LOSS:g} nats per token, first at row {few[0]} (L={used['L'][few[0]]:.6g}). "
            f'Leave diverged runs out with --where "L < {_HIGHEST_LOSS:g}".'
        )
    elif float(np.median(L)) < 1 and {"N", "D"} <= wanted and "vocab_size" not in used.columns:
        yield (
            f"the median L is {np.median(L):.3g} nats/token, less than language models reach; is "
            "it in bits per byte? A law fits it as well, but with another floor and coefficients."
        )
