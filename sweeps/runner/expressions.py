"""Arithmetic expressions of a spec, such as "12 * depth * (64 * depth)**2".

They consist of numbers, names of keys, + - * / // % **, parentheses and :data:`FUNCTIONS`, with the
meaning that they have in Python. Nothing else is evaluated.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from scaling.errors import ConfigError, did_you_mean

Number = int | float

_MOST_DIGITS = 300
"""Digits before or after the point that round() may keep."""


def _round(value: Number, digits: int | None = None) -> Number:
    if digits is not None and abs(digits) > _MOST_DIGITS:
        raise NotArithmetic(f"round() to {digits} digits")
    return round(value, digits)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "round": _round,
    "ceil": math.ceil,
    "floor": math.floor,
    "min": min,
    "max": max,
    "sqrt": math.sqrt,
    "log2": math.log2,
    "abs": abs,
    "int": int,
}
"""{name: function} that expressions may call."""

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}

_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}

_MOST_CHARACTERS = 2000
_MOST_BITS = 10_000
"""Integers with more bits are rejected before they are computed."""


class NotArithmetic(ValueError):
    """An expression cannot be read or evaluated; the message says why."""


def names_in(text: str) -> frozenset[str]:
    """Return the keys that an expression uses. Raises NotArithmetic if it cannot be read."""
    return _parsed(text)[1]


def evaluate(text: str, value_of: Callable[[str], object]) -> Number:
    """Return the value of an expression, given a function that returns the value of a key.

    Raises NotArithmetic if the expression cannot be read or has no finite real value, and whatever
    `value_of` raises.
    """
    tree, _ = _parsed(text)
    try:
        value = _value(tree, value_of)
    except ZeroDivisionError:
        raise NotArithmetic("it divides by zero") from None
    except RecursionError:
        raise NotArithmetic("it is nested too deeply") from None
    except OverflowError:
        raise NotArithmetic("its value is too large") from None
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        if isinstance(error, NotArithmetic):
            raise
        raise NotArithmetic(str(error)) from None
    if isinstance(value, int):
        _check_size(value)
    elif not math.isfinite(value):
        raise NotArithmetic(f"its value is {value}")
    return value


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> tuple[ast.expr, frozenset[str]]:
    """Return the tree of an expression and the keys in it."""
    if len(text) > _MOST_CHARACTERS:
        raise NotArithmetic(f"it has more than {_MOST_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        names = frozenset(_checked(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, NotArithmetic):
            raise
        what = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise NotArithmetic(f"it is not an expression: {what}") from None
    return tree, names


def _checked(node: ast.expr) -> list[str]:
    """Return the keys in a tree. Raises NotArithmetic for anything that is not arithmetic."""
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            return []
        case ast.Name() | ast.Attribute():
            return [_name(node)]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _checked(left) + _checked(right)
        case ast.BinOp(op=ast.BitXor()):
            raise NotArithmetic("a power is written **, not ^")
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
            return _checked(operand)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            if name not in FUNCTIONS:
                raise NotArithmetic(
                    f"there is no function {name!r}.{did_you_mean(name, FUNCTIONS)} Functions are "
                    f"{', '.join(FUNCTIONS)}"
                )
            return [inner for argument in arguments for inner in _checked(argument)]
    raise NotArithmetic(
        f"{ast.unparse(node)!r} is not arithmetic: numbers, keys, + - * / // % **, parentheses and "
        f"{', '.join(FUNCTIONS)}"
    )


def _name(node: ast.expr) -> str:
    """Return a key, which may have dots."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=name):
            return f"{_name(inner)}.{name}"
    raise NotArithmetic(f"{ast.unparse(node)!r} is not the name of a key")


def _value(node: ast.expr, value_of: Callable[[str], object]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return _number(_name(node), value_of)
        case ast.UnaryOp(op=op, operand=operand):
            return _SIGNS[type(op)](_value(operand, value_of))
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(op, _value(left, value_of), _value(right, value_of))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name](*(_value(argument, value_of) for argument in arguments))
    raise AssertionError(node)  # _checked lets nothing else pass


def _number(name: str, value_of: Callable[[str], object]) -> Number:
    value = value_of(name)
    if not isinstance(value, int | float):
        raise NotArithmetic(f"{name}={value!r} is not a number")
    return value


def _combined(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Pow):
        if isinstance(left, int) and isinstance(right, int) and right > 0:
            _check_bits(left.bit_length() * right)
        if left < 0 and not float(right).is_integer():
            raise NotArithmetic(f"({left:g})**{right:g} is not a real number")
    value = _OPERATORS[type(op)](left, right)
    if isinstance(value, int):
        _check_size(value)
    return value


def _check_size(value: int) -> None:
    _check_bits(value.bit_length())


def _check_bits(bits: int) -> None:
    if bits > _MOST_BITS:
        raise NotArithmetic("its value is a number with thousands of digits")
