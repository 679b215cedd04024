"""Forward-mode derivatives of plain numpy functions.

A :class:`Dual` (a dual number) is an array with its partial derivatives, one array for each
parameter that it depends on. A function made of numpy operations and called with Duals returns its
exact Jacobian, at about the cost of evaluating it twice. An operation without a rule raises
TypeError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_LN2, _LN10 = np.log(2.0), np.log(10.0)

_UNARY: dict[np.ufunc, Callable[[Any, Any], Any]] = {
    np.negative: lambda x, y: -1.0,
    np.positive: lambda x, y: 1.0,
    np.exp: lambda x, y: y,
    np.expm1: lambda x, y: y + 1,
    np.exp2: lambda x, y: y * _LN2,
    np.log: lambda x, y: 1 / x,
    np.log1p: lambda x, y: 1 / (1 + x),
    np.log2: lambda x, y: 1 / (x * _LN2),
    np.log10: lambda x, y: 1 / (x * _LN10),
    np.sqrt: lambda x, y: 0.5 / y,
    np.cbrt: lambda x, y: y / (3 * x),
    np.square: lambda x, y: 2 * x,
    np.reciprocal: lambda x, y: -y * y,
    np.absolute: lambda x, y: np.sign(x),
    np.tanh: lambda x, y: 1 - y * y,
    np.arctan: lambda x, y: 1 / (1 + x * x),
    np.sin: lambda x, y: np.cos(x),
    np.cos: lambda x, y: -np.sin(x),
}
"""Slope d f / d x as a function of x and y = f(x)."""

_BINARY: dict[np.ufunc, tuple[Callable[..., Any], Callable[..., Any]]] = {
    np.add: (lambda a, b, y: 1.0, lambda a, b, y: 1.0),
    np.subtract: (lambda a, b, y: 1.0, lambda a, b, y: -1.0),
    np.multiply: (lambda a, b, y: b, lambda a, b, y: a),
    np.true_divide: (lambda a, b, y: 1 / b, lambda a, b, y: -y / b),
    np.maximum: (lambda a, b, y: 1.0 * (a >= b), lambda a, b, y: 1.0 * (a < b)),
    np.minimum: (lambda a, b, y: 1.0 * (a <= b), lambda a, b, y: 1.0 * (a > b)),
    np.logaddexp: (lambda a, b, y: np.exp(a - y), lambda a, b, y: np.exp(b - y)),
}
"""Slopes (d f / d a, d f / d b) as functions of a, b and y = f(a, b)."""

_RULES: dict[np.ufunc, tuple[Callable[..., Any], ...]] = {
    **{ufunc: (rule,) for ufunc, rule in _UNARY.items()},
    **_BINARY,
}

_FLAT = {np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal}
_FLAT |= {np.sign, np.floor, np.ceil, np.isfinite, np.isnan}
"""Operations whose result has no derivative: comparisons and steps."""


class Dual(np.lib.mixins.NDArrayOperatorsMixin):
    """A value and its partial derivatives, {parameter index: array that broadcasts to it}."""

    __slots__ = ("partials", "value")

    def __init__(self, value: Any, partials: dict[int, Any]) -> None:
        self.value = value
        self.partials = partials

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.value)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        x = [i.value if isinstance(i, Dual) else i for i in inputs]
        if ufunc in _FLAT:
            return ufunc(*x)
        if ufunc in (np.power, np.float_power):
            return _power(inputs[0], inputs[1])
        y = ufunc(*x)
        rules = _RULES.get(ufunc)
        if rules is None:
            return NotImplemented
        partials: dict[int, Any] = {}
        for each, rule in zip(inputs, rules, strict=True):
            if isinstance(each, Dual):
                _accumulate(partials, each, rule(*x, y))
        return Dual(y, partials)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.where and len(args) == 3 and not kwargs:
            condition, a, b = args
            if isinstance(condition, Dual):
                condition = condition.value
            x = [i.value if isinstance(i, Dual) else i for i in (a, b)]
            partials: dict[int, Any] = {}
            for each, mask in ((a, 1.0 * condition), (b, 1.0 - condition)):
                if isinstance(each, Dual):
                    _accumulate(partials, each, mask)
            return Dual(np.where(condition, *x), partials)
        if function is np.clip and len(args) == 3 and not kwargs:
            x, low, high = args
            x = x if low is None else np.maximum(x, low)
            return x if high is None else np.minimum(x, high)
        return NotImplemented


def _accumulate(partials: dict[int, Any], x: Dual, slope: Any) -> None:
    for j, d in x.partials.items():
        # Most slopes and partials are the number 1: skip the pass over the array.
        term = d if _is_one(slope) else slope if _is_one(d) else slope * d
        partials[j] = partials[j] + term if j in partials else term


def _is_one(x: Any) -> bool:
    return isinstance(x, float) and x == 1.0


def _power(base: Any, exponent: Any) -> Dual:
    """Return base**exponent as exp(exponent log base), several times faster than np.power."""
    a = base.value if isinstance(base, Dual) else base
    b = exponent.value if isinstance(exponent, Dual) else exponent
    partials: dict[int, Any] = {}
    if not isinstance(exponent, Dual) and np.ndim(b) == 0 and float(b).is_integer():
        y = np.power(a, float(b))
        _accumulate(partials, base, b * np.power(a, float(b) - 1))
        return Dual(y, partials)
    log_a = np.log(a)
    y = np.exp(b * log_a)
    if isinstance(base, Dual):
        _accumulate(partials, base, b * y / a)
    if isinstance(exponent, Dual):
        # 0^b is 0 for every b > 0, so it does not change with b; 0 log 0 would give nan.
        slope = y * log_a
        _accumulate(partials, exponent, slope if np.all(a) else np.where(y == 0, 0.0, slope))
    return Dual(y, partials)
