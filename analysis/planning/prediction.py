"""The loss that fitted laws predict for one run of given N and D, with its intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.data_limits import with_unique
from analysis.fitting.checks import check_level
from analysis.fitting.combination import Combination
from analysis.fitting.result import FitResult
from analysis.fitting.status import Status, as_status, worth_telling
from analysis.frontiers.choice import WRONG, Choice
from analysis.in_words import interval
from analysis.planning.doubts import VAST_LOSS, interval_doubts, loss_doubts
from analysis.planning.extrapolation import Extrapolation, extrapolation_beyond
from analysis.planning.plans import Plans
from analysis.planning.quantity import Quantity
from scaling import units
from scaling.errors import ConfigError
from scaling.jsonable import finite
from scaling.table import LARGEST, sensible

STATISTICAL, EXTRAPOLATION = "statistical", "extrapolation"
KINDS = (STATISTICAL, EXTRAPOLATION)
"""Kinds of intervals: if the law is right, and if it may be wrong."""

WITHIN = 2.0
"""A run tests a prediction if its N and its D are both within this factor of the predicted ones."""
_FACTORS = (1 / WITHIN, 1.0, WITHIN)
"""Factors of N and of D at which the loss near the predicted run is kept."""


@dataclass(frozen=True, kw_only=True)
class LawPrediction:
    """What one fitted law predicts for the run."""

    L: Quantity
    """The loss, with the statistical interval of one new run."""
    weight: float
    """Weight of the law in the prediction: between 0 and 1."""
    held_out: float
    """Relative error with which it predicts the larger runs from the smaller ones; nan if
    unknown."""
    formula: str
    params: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return finite(
            {
                "weight": self.weight,
                "held_out": self.held_out,
                "formula": self.formula,
                "params": dict(self.params),
                "L": self.L.value,
                "low": self.L.low,
                "high": self.L.high,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predicted loss of one run of N parameters and D tokens."""

    asked: dict[str, float]
    """The request: N and D, or the C, N, D or L whose optimum the run is."""
    N: float
    D: float
    L: float
    intervals: dict[str, tuple[float, float] | None]
    """{kind: (low, high)} of the loss measured by one new run, for each of KINDS; None for a kind
    that the laws do not give."""
    level: float
    laws: dict[str, LawPrediction]
    """What each law predicts, those that carry the prediction first."""
    extrapolation: Extrapolation
    """How far the run lies outside the data, and how far the law was tested."""
    nearby: tuple[tuple[float, ...], ...] = field(repr=False)
    """The predicted loss at N and D times each pair of the factors 1/2, 1 and 2, one row per N."""
    unique: float | None = None
    """Available tokens of data; None if unlimited."""
    status: tuple[Status, ...] = ()
    """Warnings, one line each, with codes."""

    @property
    def C(self) -> float:
        """Training FLOPs, 6 N D."""
        return 6.0 * self.N * self.D

    @property
    def doubts(self) -> tuple[Status, ...]:
        """The lines of the status that make the prediction unreliable."""
        codes = {
            *WRONG,
            "unreliable_extrapolation",
            "loss_uncertain",
            "no_interval",
            "wide_interval",
        }
        return tuple(line for line in self.status if line.code in codes)

    def record(self) -> dict[str, Any]:
        """Return plain numbers and strings, ready for JSON (infinite becomes None)."""
        return finite(
            {
                "asked": self.asked,
                "N": self.N,
                "D": self.D,
                "C": self.C,
                "L": self.L,
                "intervals": self.intervals,
                "level": self.level,
                "laws": {name: law.record() for name, law in self.laws.items()},
                "extrapolation": self.extrapolation.record(),
                "unique_tokens": self.unique,
                "nearby": {"factors": _FACTORS, "L": self.nearby},
                "reliable": not self.doubts,
                "doubts": [{"code": line.code, "text": str(line)} for line in self.doubts],
                "status": list(map(str, self.status)),
            }
        )

    def __str__(self) -> str:
        doubt = f"NOT RELIABLE: {'; '.join(self.doubts)} - " if self.doubts else ""
        lines = [
            f"{doubt}a run of {units.count(self.N)} parameters on {units.count(self.D)} tokens "
            f"({self.C:.3g} FLOPs) is predicted to reach a loss of {self.L:.4f} nats/token"
        ]
        for kind, ends in self.intervals.items():
            if ends is not None:
                spread = interval(*ends, ".4f", vast=VAST_LOSS)
                lines.append(f"  {spread:<20}{self.level:.0%} {kind} interval of one new run")
        carry = ", ".join(
            f"{name} (weight {law.weight:.2g}{_missed(law)})"
            for name, law in self.laws.items()
            if law.weight
        )
        lines.append(f"  from {carry}")
        others = [name for name, law in self.laws.items() if not law.weight]
        if others:
            lines.append("the same under other laws:")
            lines += [self._line(name) for name in others]
        told = [line for line in worth_telling(self.status) if line not in self.doubts]
        return "\n".join(lines + [f"  ! {line}" for line in told])

    def _line(self, name: str) -> str:
        law = self.laws[name]
        spread = interval(law.L.low, law.L.high, ".4f", vast=VAST_LOSS)
        return f"  {name:<16} L = {law.L.value:.4f} {spread}{_missed(law)}"


def _missed(law: LawPrediction) -> str:
    known = not math.isnan(law.held_out)
    return f"; larger runs missed by {law.held_out:.1%}" if known else ""


def predict_run(
    source: Choice | FitResult | Any,
    *,
    N: float,
    D: float,
    level: float = 0.95,
    unique: float | None = None,
    asked: Mapping[str, float] | None = None,
) -> Prediction:
    """Predict the loss of one run of N parameters and D tokens, which need not be optimal.

    source  the laws of a table (:func:`analysis.choose`), of which the first predicts; one fit; or
            a combination of fits with weights.
    unique  available tokens of data, as for :func:`analysis.planning.plan.plan`.
    asked   the request to record; by default N and D.

    The statistical interval is that of the loss measured by one new run if the law is right. Raises
    ConfigError unless N and D are positive and finite.
    """
    check_level(level)
    for name, value, least in (("N", N, 1.0), ("D", D, 1.0)):
        if not sensible(value) or value < least:
            raise ConfigError(f"{name}={value} must be a number from 1 to {LARGEST:g}.")
    if unique is not None and not sensible(unique):
        raise ConfigError(f"unique={unique} must be a positive number of tokens, at most 1e+30.")
    fits, weights, errors = _laws_of(source)
    source = source.first if isinstance(source, Choice) else source
    _check_inputs(fits)
    if unique is not None:
        fits = {name: with_unique(f, unique) for name, f in fits.items()}
        if isinstance(source, Combination):
            source = with_unique(source, unique)
        else:
            weights = {name: float(i == 0) for i, name in enumerate(fits)}  # the first law alone
    combined = hasattr(source, "weights") and (unique is None or isinstance(source, Combination))
    first = next(iter(fits.values()))
    at = {"N": float(N), "D": float(D)}
    predictor: Any = source if combined else first
    laws = {}
    for name, result in fits.items():
        low, high = _one_run(result, level, at)
        laws[name] = LawPrediction(
            L=Quantity(float(result.predict(**at)), low, high),
            weight=weights[name],
            held_out=errors[name],
            formula=result.law.formula,
            params=result.params,
        )
    intervals = _intervals(predictor, level, at, combined=combined)
    L = float(predictor.predict(**at))
    extrapolation = _extrapolation(first, at)
    low, high = intervals[EXTRAPOLATION] or intervals[STATISTICAL] or (math.nan, math.nan)
    steps = np.asarray(_FACTORS)
    nearby = predictor.predict(N=N * steps[:, None], D=D * steps[None, :])
    return Prediction(
        asked=dict(asked or at),
        **at,
        L=L,
        intervals=intervals,
        level=level,
        laws=laws,
        extrapolation=extrapolation,
        nearby=tuple(tuple(map(float, row)) for row in np.asarray(nearby)),
        unique=unique,
        status=(
            *loss_doubts(predictor, **at),
            *_status(first.warnings, extrapolation, Quantity(L, low, high)),
        ),
    )


def predict_plan(found: Plans | Prediction, *, unique: float | None = None) -> Prediction:
    """Return the prediction for the run that plans by a choice of laws advise.

    unique  available tokens of data that the plans were made for.
    """
    if isinstance(found, Prediction):
        return found
    if found.choice is None:
        raise ConfigError("plans made from fits alone have no choice of laws; use plans(choice).")
    best = found.first
    return predict_run(
        found.choice, N=best.N.value, D=best.D.value, level=best.level, unique=unique,
        asked=best.asked,
    )  # fmt: skip


def _check_inputs(fits: Mapping[str, FitResult]) -> None:
    """Raise ConfigError unless all laws are laws of N and D."""
    for result in fits.values():
        if set(result.law.inputs) != {"N", "D"}:
            raise ConfigError(
                f"the loss of a run of given N and D needs a law of both; {result.law.name} is a "
                f"law of {', '.join(result.law.inputs)}. Use another law, such as chinchilla."
            )


def _extrapolation(result: FitResult, at: Mapping[str, float]) -> Extrapolation:
    N, D = (result.runs[name].to_numpy(float) for name in ("N", "D"))
    ranges = {"C": 6.0 * N * D, "N": N, "D": D}
    return extrapolation_beyond(
        {name: (float(x.min()), float(x.max())) for name, x in ranges.items()},
        {"C": 6.0 * at["N"] * at["D"], **at},
        result,
    )


def _status(
    fit_lines: Iterable[str], extrapolation: Extrapolation, L: Quantity
) -> Iterator[Status]:
    """Yield the warnings: the distance, a wide interval, then the fit."""
    yield from extrapolation.lines()
    yield from interval_doubts({"L": L}, asked="N")
    yield from map(as_status, fit_lines)


def _laws_of(source: Any) -> tuple[dict[str, FitResult], dict[str, float], dict[str, float]]:
    """Return the fits, weights and held-out errors of the source, the heaviest first."""
    if isinstance(source, Combination):
        return dict(source.laws), dict(source.weights), source.errors
    if isinstance(source, FitResult):
        return {source.law.name: source}, {source.law.name: 1.0}, {source.law.name: math.nan}
    if isinstance(source, Choice):
        fits, weights, errors = _laws_of(source.first)
        rest = {name: each for name, each in source.fits.items() if name != source.name}
        return fits | rest, weights | dict.fromkeys(rest, 0.0), source.errors | errors
    fits = dict(sorted(source.laws.items(), key=lambda item: -source.weights[item[0]]))
    return fits, {name: float(source.weights[name]) for name in fits}, dict(source.errors)


def _intervals(
    predictor: Any, level: float, at: Mapping[str, float], *, combined: bool
) -> dict[str, tuple[float, float] | None]:
    if not combined:
        return {STATISTICAL: _one_run(predictor, level, at), EXTRAPOLATION: None}
    found = {}
    for kind in KINDS:
        low, high = predictor.predict_interval(level, noise=True, kind=kind, **at)
        found[kind] = (float(low), float(high))
    return found


def _one_run(result: FitResult, level: float, at: Mapping[str, float]) -> tuple[float, float]:
    low, high = result.predict_interval(level, noise=True, **at)
    return float(low), float(high)
