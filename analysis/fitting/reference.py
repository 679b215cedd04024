"""A fitted law inside its data: its value and local exponents at one point, and whether constants
that the data leave open matter for a prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.in_words import interval

if TYPE_CHECKING:
    from analysis.fitting.result import Estimate, FitResult

NEXT = 10.0
"""The multiple of the compute of the largest run for which a prediction is needed next."""
_KNOWN = 0.03
"""A prediction is known if its 95 % interval reaches no further than this fraction."""
_STEP = 1e-4


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A law at the middle of its rows: what the data determine best."""

    at: Mapping[str, float]
    """The geometric mean of each input."""
    value: Estimate
    """The target there."""
    exponents: Mapping[str, Estimate]
    """-d ln(target) / d ln(input) there, per input."""

    def record(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return {
            "at": dict(self.at),
            "value": self.value._asdict(),
            "exponents": {name: each._asdict() for name, each in self.exponents.items()},
        }


def reference(result: FitResult, level: float = 0.95) -> Reference:
    """Return the law's value and local exponents at the geometric mean of the rows."""
    law, at = result.law, {}
    for name, x in result.problem.columns.items():
        at[name] = float(np.exp(np.mean(np.log(x))) if (x > 0).all() else np.median(x))

    def value(params: Mapping[str, Any]) -> Any:
        return law.predict(params, **at)

    def exponent(name: str) -> Callable[[Mapping[str, Any]], Any]:
        def slope(params: Mapping[str, Any]) -> Any:
            with np.errstate(all="ignore"):
                up, down = (
                    np.log(law.predict(params, **{**at, name: at[name] * np.exp(step)}))
                    for step in (_STEP, -_STEP)
                )
            return (down - up) / (2 * _STEP)

        return slope

    varied = [name for name, x in result.problem.columns.items() if (x > 0).all()]
    return Reference(
        at=at,
        value=result.derived(value, level),
        exponents={name: result.derived(exponent(name), level) for name in varied},
    )


def in_words(result: FitResult, level: float) -> str:
    """Return the reference point in one line."""
    point, target = reference(result, level), result.law.target
    where = ", ".join(f"{name} = {x:.3g}" for name, x in point.at.items())
    parts = [f"{target} = {_estimate(point.value, '.4g')}"]
    parts += [
        f"-dln{target}/dln{name} = {_estimate(each, '.3g')}"
        for name, each in point.exponents.items()
    ]
    return f"{result.law.name} at {where}, inside these rows: {', '.join(parts)}"


def _estimate(each: Estimate, form: str) -> str:
    return f"{each.value:{form}} {interval(each.low, each.high, form)}"


def ahead(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the inputs of the largest run, at NEXT times its compute.

    N and D are scaled alike, C by NEXT; all other inputs are those of the largest run. A law of
    none of these has its first input scaled as if it were N.
    """
    both = "N" in columns and "D" in columns
    with np.errstate(all="ignore"):
        if both:
            size = np.log(columns["N"]) + np.log(columns["D"])
        else:
            size = next(columns[name] for name in (*"CND", *columns) if name in columns)
    top = int(np.argmax(np.nan_to_num(size)))
    out = {name: float(x[top]) for name, x in columns.items()}
    if "C" in out:
        out["C"] *= NEXT
    if both or "C" not in out:
        for name in {"N", "D"} & set(out) or [next(iter(out))]:
            out[name] *= np.sqrt(NEXT)
    return out


def uncertainty(result: FitResult) -> float:
    """Return how far, relatively, the 95 % interval of the law reaches at ten times the compute of
    the largest run; nan if there is no interval."""
    at: dict[str, Any] = ahead(result.problem.columns)
    low, high = (float(end) for end in result.predict_interval(0.95, **at))
    centre = float(result.predict(**at))
    if not (np.isfinite(centre) and centre > 0):
        return np.nan
    return max(high - centre, centre - low) / centre


def open_constants(result: FitResult) -> tuple[str, ...]:
    """Return the parameters that the data do not determine one by one."""
    c = result.certificate
    return tuple(p for p in result.problem.free if p in {*c.not_identified, *c.at_bound})


def matters(result: FitResult) -> bool:
    """Return whether open constants leave the prediction at ten times the compute open too."""
    return not uncertainty(result) <= _KNOWN
