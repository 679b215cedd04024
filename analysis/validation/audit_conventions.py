"""What N, D and C count in a claim: its units, its convention, and whether another one matters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.fitting.result import FitResult
from analysis.laws import LawError
from analysis.tables.conventions import counted, flops_6N
from analysis.validation.audit_cost import FACTORS, Beyond, Cost
from analysis.validation.audit_finding import Finding
from analysis.validation.audit_minimum import Distance, distance
from analysis.validation.claim import Claim
from scaling.errors import TableError, did_you_mean
from scaling.units import PF_DAY

_UNITS = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}
_MATTERS = 2e-3
"""A relative change of the predicted loss below this is of no interest."""
_VARIES = 1.05
"""C / (6 N D) that varies by less is taken as constant."""
_WORDS = {"N": ("total", "non-embedding"), "C": ("6 N D",)}

Fitted = tuple[FitResult, Distance]


def fitted(claim: Claim, runs: pd.DataFrame, fixed: tuple[str, ...] = ()) -> Fitted:
    """Return the claim's law re-derived from a table, and the claim's distance from it.

    Raises FitError and TableError as :func:`analysis.fit` does.
    """
    result = fit(
        claim.law,
        runs,
        objective=claim.objective,
        delta=claim.delta,
        on=claim.on,
        fixed={p: claim.params[p] for p in fixed},
        bootstrap=0,
    )
    return result, distance(result, claim.params, claim.digits)


# --- What the claim says --------------------------------------------------------------------------


def as_stated(claim: Claim, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with N and C counted as the claim says.

    Raises TableError for a convention that is neither words nor a column.
    """
    for symbol in ("N", "C"):
        said = claim.convention.get(symbol)
        if said is None:
            continue
        column = said if said in runs.columns else _in_words(symbol, said, runs, claim)
        if column is not None and column != symbol:
            runs = runs.assign(**{symbol: pd.to_numeric(runs[column], errors="coerce")})
            _check_positive(runs, symbol, column)
    return runs


def _check_positive(runs: pd.DataFrame, symbol: str, column: str) -> None:
    if not runs[symbol].gt(0).all():
        row = runs.index[int(np.argmax(~runs[symbol].gt(0)))]
        raise TableError(
            f"[convention] {symbol} = {column!r}: that column is not a positive number at row "
            f"{row}."
        )


def _in_words(symbol: str, said: str, runs: pd.DataFrame, claim: Claim) -> str | None:
    """Return the column that a convention in words asks for; None for the mapped one."""
    text = said.lower().replace("_", " ").replace("-", " ")
    mapped = symbol in claim.map.values()
    if symbol == "N":
        without = any(word in text for word in ("non", "without", "exclu", "no emb"))
        total = any(word in text for word in ("total", "with", "inclu", "all"))
        if without or total:
            wanted = ("N", "N_no_embed", "N_kaplan") if without else ("N_total",)
            return None if mapped else next((c for c in wanted if c in runs.columns), None)
    elif text.replace(" ", "").replace("*", "") in ("6nd", "c=6nd"):
        return None
    raise TableError(
        f"{claim.source}: [convention] {symbol} = {said!r} is neither a column of the table nor "
        f"{' or '.join(map(repr, _WORDS[symbol]))}.{did_you_mean(said, map(str, runs.columns))}"
    )


# --- Units ----------------------------------------------------------------------------------------


def in_its_units(claim: Claim, runs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the rows in the units of the claim's constants, and {input: unit} of those that the
    table has in others.

    A unit is accepted if it brings the typical error of the claim below a fifth, and below 5 %.
    """
    choices: list[dict[str, float]] = [{}]
    for name in claim.law.inputs:
        units = [*_UNITS] if name in ("N", "D", "D_unique") else [PF_DAY] if name == "C" else []
        choices += [{**each, name: unit} for each in choices for unit in units]
    errors = [_typical_error(claim, runs, each) for each in choices]
    best = int(np.argmin(errors))
    if best == 0 or not (errors[best] < 0.05 and errors[best] < 0.2 * errors[0]):
        return runs, {}
    found = choices[best]
    return runs.assign(**{name: runs[name] / unit for name, unit in found.items()}), found


def _typical_error(claim: Claim, runs: pd.DataFrame, units: Mapping[str, float]) -> float:
    x = {n: runs[n].to_numpy(float) / units.get(n, 1.0) for n in claim.law.inputs}
    with np.errstate(all="ignore"):
        off = np.log(runs[claim.law.target].to_numpy(float) / claim.law.predict(claim.params, **x))
    return float(np.median(np.abs(off))) if np.isfinite(off).all() else np.inf


def units(
    claim: Claim, runs: pd.DataFrame, found: Mapping[str, float], beyond: Beyond, far: Distance
) -> Iterator[Finding]:
    """Yield a finding for inputs that the claim counts in other units than the table.

    runs: the rows in the units of the table.
    """
    if not found:
        return
    words = " and ".join(f"{n} in {_UNITS.get(unit, 'PF-days')}" for n, unit in found.items())
    wrong = _typical_error(claim, runs, {})
    right = _typical_error(claim, runs, found)
    L = float(np.mean(runs[claim.law.target]))
    nats = abs(L * np.expm1(wrong)) if np.isfinite(wrong) else np.nan
    cost = beyond.priced(nats, far.minimum) if np.isfinite(nats) else Cost(nats=None)
    misses = f"by {100 * np.expm1(wrong):.2g} %" if np.isfinite(wrong) else "entirely"
    yield Finding(
        code="units",
        text=(
            f"the constants are for {words}: with the units of the table they miss typical rows "
            f"{misses}, with their own by {100 * right:.2g} %. The rest of this audit uses "
            "theirs."
        ),
        cost=cost,
        facts={"units": dict(found)},
    )


# --- Counts of N ----------------------------------------------------------------------------------


def counts_of_N(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """Return other counts of the parameters that the table has or that its shapes give."""
    found: dict[str, pd.Series] = {}
    N = runs["N"].astype(float)
    for name in map(str, runs.columns):
        word = name.lower()
        if name == "N" or not ("param" in word or "embed" in word or word.startswith("n_total")):
            continue
        values = pd.to_numeric(runs[name], errors="coerce")
        if values.gt(0).all() and _another_count(N, values.astype(float)):
            found[name] = values.astype(float)
    for name in ("N_total", "N_kaplan"):
        with contextlib.suppress(TableError, KeyError):
            counts = counted(runs.drop(columns="status", errors="ignore"), name, "C")["N"]
            values = pd.Series(counts.to_numpy(float), runs.index)
            if name not in found and _another_count(N, values):
                found[name] = values
    return found


def _another_count(N: pd.Series, other: pd.Series) -> bool:
    """Return whether a column counts the same models otherwise: similar, but in no fixed ratio."""
    ratio = other / N
    each = ratio.groupby(N).agg(["min", "max"])
    a_function = bool((each["max"] <= each["min"] * 1.001).all())
    near = ratio.between(1 / 30, 30).all()
    return a_function and bool(near) and float(ratio.max() / ratio.min()) > 1.01


def made_with_another_count(
    claim: Claim, runs: pd.DataFrame, fixed: tuple[str, ...]
) -> tuple[str, pd.DataFrame, Fitted] | None:
    """Return the count of N under which the claim is the minimum of its objective, the rows with
    that count, and the fit; None if there is none."""
    if "N" not in claim.law.inputs:
        return None
    for name, values in counts_of_N(runs).items():
        other = runs.assign(N=values)
        with contextlib.suppress(FitError, LawError, TableError):
            found = fitted(claim, other, fixed)
            if found[1].reached:
                return name, other, found
    return None


def another_count(claim: Claim, name: str, given: Fitted, found: Fitted, beyond: Beyond) -> Finding:
    """Return the finding that a claim was made with another count of N than the table's."""
    return Finding(
        code="convention_N",
        text=(
            f"the constants are those of N = {name}: with it the claim is the minimum of its "
            "objective, with the N of the table it is not. The rest of this audit uses it."
        ),
        cost=beyond.cost(claim.params, given[1].minimum),
        facts={"N": name, "excess": given[1].excess},
    )


def convention_of_N(
    claim: Claim, runs: pd.DataFrame, here: Fitted, beyond: Beyond
) -> Iterator[Finding]:
    """Yield a finding if another count of N would move the predictions at larger compute."""
    result, far = here
    if not {"N", "D"} <= set(claim.law.inputs):
        return
    moved = []
    for name, values in counts_of_N(runs).items():
        with contextlib.suppress(FitError, LawError, TableError):
            other, _ = fitted(claim, runs.assign(N=values), tuple(result.problem.fixed))
            there = Beyond(claim.law, other.runs)
            for f in FACTORS:
                delta = there.loss(other.params, f) - beyond.loss(far.minimum, f)
                if np.isfinite(delta):
                    moved.append((abs(delta), f, name, other))
    if not moved:
        return
    nats, factor, name, other = max(moved, key=lambda each: each[0])
    if nats < _MATTERS * abs(beyond.loss(far.minimum, factor)):
        return
    change = "".join(
        f"; {d} is {result.derived(d).value:.2f} or {other.derived(d).value:.2f}"
        for d in list(claim.law.derived)[:1]
    )
    yield Finding(
        code="convention_N",
        text=(
            f"what N counts matters: fitted with {name} in place of N, the law predicts another "
            f"loss at larger compute{change}. State the convention with the constants."
        ),
        cost=beyond.priced(nats, far.minimum, factor),
        facts={"N": name, "params": dict(other.params)},
    )


# --- Counts of C ----------------------------------------------------------------------------------


def convention_of_C(
    claim: Claim, runs: pd.DataFrame, far: Distance, beyond: Beyond
) -> Iterator[Finding]:
    """Yield a finding if the table's own FLOPs differ from 6 N D enough to move the optimum."""
    if not beyond.allocates:
        return
    six = 6 * runs["N"].astype(float) * runs["D"].astype(float)
    worst = None
    for name, C in _counts_of_C(runs):
        ratio = C / six
        if ratio.gt(0).all() and ratio.max() > _VARIES * ratio.min():
            table = runs.assign(C=C)
            own, simple = Beyond(claim.law, table), Beyond(claim.law, table)
            simple.flops_of = flops_6N
            lost = _lost(own, simple, far.minimum, float(ratio.median()))
            if lost is not None and (worst is None or lost[0] > worst[0]):
                worst = (*lost, name, own, float(ratio.min()), float(ratio.max()))
    if worst is None:
        return
    nats, size, name, own, low, high = worst
    if nats < 1e-4 * abs(own.loss(far.minimum, FACTORS[-1])) and abs(np.log(size)) < np.log(1.1):
        return
    yield Finding(
        code="convention_C",
        text=(
            f"what C counts matters: {name} is {low:.3g} to {high:.3g} times 6 N D, and the best "
            f"size at {FACTORS[-1]:g} times the compute is {size:.2g} times that of C = 6 N D."
        ),
        cost=own.priced(nats, far.minimum),
        facts={"C": name, "size": size},
    )


def _counts_of_C(runs: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    for name in map(str, runs.columns):
        word = name.lower()
        if name == "C" or name.startswith("C_") or "flop" in word:
            values = pd.to_numeric(runs[name], errors="coerce").astype(float)
            if values.notna().all() and values.gt(0).all():
                each = "per_tok" in word
                yield (f"{name} D" if each else name), (values * runs["D"] if each else values)


def _lost(own: Beyond, simple: Beyond, params: Any, ratio: float) -> tuple[float, float] | None:
    """Return the loss from choosing N by C = 6 N D at a compute that is counted otherwise, and the
    ratio of the two sizes."""
    factor = FACTORS[-1]
    best, C = own.point(params, factor), factor * float(own.C or np.nan)
    simple.C = float(own.C or np.nan) / ratio
    N = simple.point(params, factor)["N"]
    if not (np.isfinite(N) and np.isfinite(best["N"])):
        return None
    at = {**{name: best[name] for name in own.law.inputs}, "N": N, "D": C / float(own.flops_of(N))}
    loss = float(own.law.predict(params, **{name: at[name] for name in own.law.inputs}))
    return loss - best[own.law.target], best["N"] / N
