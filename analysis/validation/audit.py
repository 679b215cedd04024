"""Audit of a claimed law: re-derive it from its table, and rank what is wrong by its cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.arguments import expect
from analysis.fitting.checks import FitError
from analysis.fitting.result import FitResult
from analysis.fitting.solver import gradients
from analysis.laws import LawError
from analysis.validation import audit_checks as checks
from analysis.validation import audit_conventions as conventions
from analysis.validation.audit_cost import FACTORS, Beyond
from analysis.validation.audit_finding import Finding, constants, ranked
from analysis.validation.audit_minimum import Distance
from analysis.validation.claim import Claim
from scaling import progress
from scaling.errors import TableError
from scaling.jsonable import finite

_STATIONARY = 3e-3
"""Largest cosine between residuals and a derivative at which a parameter counts as fitted."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a table says about a claim."""

    claim: Claim
    fit: FitResult
    """The claim's law, re-derived from the rows with the claim's objective."""
    distance: Distance = field(repr=False)
    """The claim compared with the minimum of its objective."""
    findings: tuple[Finding, ...]
    """What is wrong, the most expensive first."""
    predictions: pd.DataFrame
    """At multiples of the table's largest compute: C, and N, D and the loss at the optimum of the
    claim and of the re-derived law."""
    held: tuple[str, ...] = ()
    """Parameters that the claim took from elsewhere."""

    @property
    def ok(self) -> bool:
        """Whether there is no finding."""
        return not self.findings

    def record(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; what is not known is None."""
        rows = self.predictions.to_dict("records")
        return finite(
            {
                "claim": self.claim.record(),
                "n": self.fit.n,
                "objective": {
                    "what": self.fit.loss,
                    "at_claim": self.distance.at_claim,
                    "within_rounding": self.distance.at_within,
                    "at_minimum": self.distance.least,
                },
                "rederived": dict(self.distance.minimum),
                "held": list(self.held),
                "findings": [each.record() for each in self.findings],
                "predictions": rows,
            }
        )

    def __str__(self) -> str:
        law, free = self.claim.law, self.fit.problem.free
        lines = [
            f"{law.name}: {law.formula}",
            f"  claim: {constants(self.claim.params, law.params, '.6g')} ({self.claim.source})",
            f"  rows: {self.fit.n}; objective: {self.fit.loss}",
        ]
        if self.held:
            lines.append(f"  held at the claim: {', '.join(self.held)}")
        intervals = self.fit.interval(0.95)
        for p in free:
            lines.append(f"  re-derived {p} = {checks.in_words(intervals.loc[p])}")
        for row in self.predictions.to_dict("records"):
            lines.append("  " + _prediction(row, law.target))
        count = len(self.findings)
        if not count:
            lines.append("no finding: the claim is the minimum of its objective, and it predicts.")
        else:
            order = ", the most expensive first" if count > 1 else ""
            lines.append(f"{count} finding{'s'[: count != 1]}{order}:")
        lines += [f"  {k}. {each}" for k, each in enumerate(self.findings, 1)]
        return "\n".join(lines)


def _prediction(row: dict[Any, Any], target: str) -> str:
    at = f"at {row['factor']:g} times the compute"
    if np.isfinite(row.get("C", np.nan)):
        at += f" ({row['C']:.3g} FLOPs)"
    sides = []
    for who in ("claim", "rederived"):
        size = ""
        if np.isfinite(row.get(f"N_{who}", np.nan)):
            size = f" with N = {row[f'N_{who}']:.3g}, D = {row[f'D_{who}']:.3g}"
        name = "claim" if who == "claim" else "re-derived"
        sides.append(f"{name} {target} = {row[f'{target}_{who}']:.4g}{size}")
    return f"{at}: {'; '.join(sides)}"


def audit(claim: Claim, runs: pd.DataFrame, others: pd.DataFrame | None = None) -> Audit:
    """Audit a claim against the table it was obtained from.

    claim: as :func:`analysis.validation.claim.read_claim` reads it.
    runs: the rows that the claim was fitted to, as `load` gives them with the claim's `map` and
        `rows`.
    others: further rows, larger than those, which the law should predict.

    Raises TableError for a table without the columns of the law, and FitError if it has too few
    rows or sizes to re-derive the law.
    """
    expect("audit(claim, runs)", "runs", runs, pd.DataFrame)
    law = claim.law
    progress.step(f"auditing {law.name}")
    given = conventions.as_stated(claim, runs)
    runs, its_units = conventions.in_its_units(claim, given)
    here, held = _rederived(claim, runs)
    beyond = Beyond(law, here[0].runs)
    found: list[Finding] = []
    if not here[1].reached and here[1].local is None:
        other = conventions.made_with_another_count(claim, runs, held)
        if other is not None:
            name, runs, there = other
            found.append(conventions.another_count(claim, name, here, there, beyond))
            here, beyond = there, Beyond(law, there[0].runs)
    result, far = here
    found += conventions.units(claim, given, its_units, beyond, far)
    found += checks.not_at_minimum(claim, result, far, beyond)
    found += checks.rounding(claim, result, far, beyond)
    found += checks.not_identified(claim, result, far, beyond)
    found += checks.bias(claim, result, far, beyond)
    found += checks.trend(claim, result, far, beyond)
    larger = None if others is None else _in_units(others, its_units)
    found += checks.held_out(claim, result, far, beyond, larger)
    if not any(each.code == "convention_N" for each in found):
        found += conventions.convention_of_N(claim, result.runs, here, beyond)
    found += conventions.convention_of_C(claim, result.runs, far, beyond)
    return Audit(
        claim=claim,
        fit=result,
        distance=far,
        findings=ranked(found),
        predictions=_predictions(claim, far, beyond),
        held=held,
    )


def _in_units(rows: pd.DataFrame, units: dict[str, float]) -> pd.DataFrame:
    return rows.assign(**{name: rows[name].astype(float) / unit for name, unit in units.items()})


def _rederived(claim: Claim, runs: pd.DataFrame) -> tuple[conventions.Fitted, tuple[str, ...]]:
    """Return the re-derived law, and the parameters that were held at the claim.

    If the claim does not say which parameters were fitted, those are held in which its objective is
    not stationary, provided that the claim is then an optimum in the others: a law whose terms were
    fitted one after the other.
    """
    if claim.fixed is not None:
        return conventions.fitted(claim, runs, claim.fixed), claim.fixed
    here = conventions.fitted(claim, runs)
    if here[1].reached:
        return here, ()
    fitted = _stationary(here[0], claim)
    if 2 <= len(fitted) < len(claim.law.params):
        held = tuple(p for p in claim.law.params if p not in fitted)
        with contextlib.suppress(FitError, LawError, TableError):
            part = conventions.fitted(claim, runs, held)
            if part[1].reached or part[1].local is not None:
                return part, held
    return here, ()


def _stationary(result: FitResult, claim: Claim) -> list[str]:
    """Return the parameters in which the objective is stationary at the claim."""
    problem, delta = result.problem, result.minimum.delta
    if any(problem.law.ranges[p].positive and claim.params[p] <= 0 for p in problem.free):
        return []
    theta = problem.theta(claim.params)
    # Derivatives by the parameters, not by the unknowns, which may mix them.
    to_unknowns = np.linalg.pinv(problem.model.natural(np.eye(problem.q)))
    root = np.sqrt(problem.weights)
    J = gradients(problem, theta) @ to_unknowns * root[:, None]
    psi = np.clip(problem.residuals(theta)[0], -delta, delta) * root
    cosine = np.abs(psi @ J) / (np.linalg.norm(J, axis=0) * np.linalg.norm(psi) + 1e-300)
    return [p for p, c in zip(problem.free, cosine, strict=True) if c < _STATIONARY]


def _predictions(claim: Claim, far: Distance, beyond: Beyond) -> pd.DataFrame:
    """Return the optimum by the claim and by the re-derived law at multiples of the compute."""
    target = claim.law.target
    rows = []
    for factor in FACTORS:
        row: dict[str, float] = {"factor": factor}
        if beyond.C is not None:
            row["C"] = factor * beyond.C
        for who, params in (("claim", claim.params), ("rederived", far.minimum)):
            point = beyond.point(params, factor)
            names = ("N", "D", target) if beyond.allocates else (target,)
            row |= {f"{name}_{who}": point[name] for name in names}
        rows.append(row)
    return pd.DataFrame(rows)


def larger_rows(runs: pd.DataFrame, rest: pd.DataFrame) -> Iterator[int]:
    """Yield the positions in `rest` of rows that a law fitted to `runs` should predict.

    They are larger than any of `runs`, and alike in every column of text that does not vary there
    (a corpus, say), except one that tells apart what was fitted from what was not.
    """
    size = _compute(runs).max()
    alike = pd.Series(True, rest.index)
    for name in runs.columns:
        if name not in rest.columns or pd.api.types.is_numeric_dtype(runs[name]):
            continue
        values = runs[name].astype(str).unique()
        if len(values) == 1 and str(values[0]).lower() not in _FITTED:
            alike &= rest[name].astype(str) == values[0]
    wanted = alike.to_numpy() & (_compute(rest) > size)
    yield from np.flatnonzero(wanted).tolist()


_FITTED = ("train", "fit", "fitted", "small", "ladder", "training", "true", "ok")
"""Words that mark the rows of a fit, in a column that marks others as its test."""


def _compute(rows: pd.DataFrame) -> np.ndarray:
    if "C" in rows.columns:
        return pd.to_numeric(rows["C"], errors="coerce").to_numpy(float)
    names = [name for name in ("N", "D") if name in rows.columns]
    return rows[names].astype(float).prod(axis=1).to_numpy(float)
