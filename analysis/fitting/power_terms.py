"""Recognise laws that are sums of power laws, by evaluating them once on symbols.

Many laws are sums of positive terms, each log-linear in the logarithms of its coefficients and in
its exponents: A / N^alpha has log A - alpha log N. Such a law is fitted as a
:class:`analysis.fitting.problem.PowerSumModel`. :func:`terms` evaluates a law with :class:`Trace`
objects in place of its parameters, which recognises any law written as such a sum, including
user-defined laws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.laws import Law


class NotPowerSumError(TypeError):
    """The law is not a sum of power-law terms."""


@dataclass(frozen=True)
class Term:
    """A positive term: log term = offset + sum of log(coefficient) power + exponent slope."""

    offset: Any = 0.0
    """The part that depends only on data: a number or an array (n,)."""
    coefficients: Mapping[str, float] = field(default_factory=dict)
    """Power of each coefficient."""
    exponents: Mapping[str, Any] = field(default_factory=dict)
    """Slope of the log term in each exponent: numbers or arrays like `offset`."""

    def times(self, other: Term, sign: float = 1.0) -> Term:
        """Multiply with `other` to the power of `sign`."""
        return Term(
            self.offset + sign * other.offset,
            _merge(self.coefficients, other.coefficients, sign),
            _merge(self.exponents, other.exponents, sign),
        )

    def to_the(self, exponent: float) -> Term:
        return Term().times(self, exponent)


def _merge(a: Mapping[str, Any], b: Mapping[str, Any], sign: float) -> dict[str, Any]:
    return {k: a.get(k, 0.0) + sign * b.get(k, 0.0) for k in dict.fromkeys([*a, *b])}


class Trace(np.lib.mixins.NDArrayOperatorsMixin):
    """A value within a law: a sum of positive terms, a linear form in parameters, or both."""

    def __init__(
        self, terms: list[Term] | None, linear: Mapping[str, Any] | None, constant: Any = 0.0
    ) -> None:
        self.terms = terms
        self.linear = linear
        """Factor of each parameter; the linear form is `constant` plus their sum."""
        self.constant = constant

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        rule = _RULES.get(ufunc)
        if method != "__call__" or options or rule is None:
            raise NotPowerSumError(f"{ufunc.__name__} of a parameter")
        out = rule(*(x if isinstance(x, Trace) else _data(x) for x in inputs))
        if out.terms is None and out.linear is None:
            raise NotPowerSumError(f"{ufunc.__name__} of these parameters")
        return out


def _data(x: Any) -> Trace:
    x = np.asarray(x, float)
    return Trace([Term(np.log(x))] if np.all(x > 0) else None, {}, x)


def _add(a: Trace, b: Trace) -> Trace:
    terms = a.terms + b.terms if a.terms is not None and b.terms is not None else None
    return _linear(a, b, 1.0, terms)


def _subtract(a: Trace, b: Trace) -> Trace:
    return _linear(a, b, -1.0, None)


def _linear(a: Trace, b: Trace, sign: float, terms: list[Term] | None) -> Trace:
    if a.linear is None or b.linear is None:
        return Trace(terms, None)
    return Trace(terms, _merge(a.linear, b.linear, sign), a.constant + sign * b.constant)


def _multiply(a: Trace, b: Trace) -> Trace:
    terms = None
    if a.terms is not None and b.terms is not None:
        terms = [x.times(y) for x in a.terms for y in b.terms]
    for x, y in ((a, b), (b, a)):
        if y.linear == {} and x.linear is not None:
            scaled = {k: v * y.constant for k, v in x.linear.items()}
            return Trace(terms, scaled, x.constant * y.constant)
    return Trace(terms, None)


def _divide(a: Trace, b: Trace) -> Trace:
    if b.linear == {}:
        return _multiply(a, _data(1 / b.constant))
    if a.terms is None or b.terms is None or len(b.terms) != 1:
        return Trace(None, None)
    return Trace([x.times(b.terms[0], -1.0) for x in a.terms], None)


def _power(base: Trace, exponent: Trace) -> Trace:
    if base.terms is None or len(base.terms) != 1 or exponent.linear is None:
        return Trace(None, None)
    term = base.terms[0]
    if exponent.linear == {} and np.ndim(exponent.constant) == 0:
        return Trace([term.to_the(float(exponent.constant))], None)
    if term.coefficients or term.exponents:  # a parameter to the power of a parameter
        return Trace(None, None)
    log_base = term.offset
    slopes = {k: v * log_base for k, v in exponent.linear.items()}
    return Trace([Term(exponent.constant * log_base, {}, slopes)], None)


def _exp(x: Trace) -> Trace:
    return Trace(None if x.linear is None else [Term(x.constant, {}, x.linear)], None)


_RULES = {
    np.add: _add,
    np.subtract: _subtract,
    np.multiply: _multiply,
    np.true_divide: _divide,
    np.power: _power,
    np.float_power: _power,
    np.exp: _exp,
    np.negative: lambda x: _linear(_data(0.0), x, -1.0, None),
    np.positive: lambda x: x,
    np.sqrt: lambda x: _power(x, _data(0.5)),
    np.square: lambda x: _power(x, _data(2.0)),
    np.reciprocal: lambda x: _power(x, _data(-1.0)),
}


def terms(
    law: Law, columns: Mapping[str, np.ndarray], fixed: Mapping[str, float]
) -> list[Term] | None:
    """Return the power-law terms of `law` on these data, or None if it is not such a sum.

    A parameter must be either a coefficient (its logarithm is then the unknown) or an exponent in
    all terms; otherwise the law does not count as a sum of powers.
    """
    params: dict[str, Any] = dict(fixed)
    for p, r in law.ranges.items():
        if p not in fixed:
            as_term = [Term(coefficients={p: 1.0})] if r.positive else None
            params[p] = Trace(as_term, {p: 1.0})
    try:
        with np.errstate(all="ignore"):
            out = law(*(columns[name] for name in law.inputs), **params)
    # An operation has no rule, or numpy cannot dispatch it.
    except (TypeError, ValueError, AttributeError):
        return None
    if not isinstance(out, Trace) or out.terms is None:
        return None
    coefficients = {p for t in out.terms for p in t.coefficients}
    exponents = {p for t in out.terms for p in t.exponents}
    if coefficients & exponents or coefficients | exponents != set(law.params) - set(fixed):
        return None
    return out.terms
