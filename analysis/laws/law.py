"""Scaling laws as plain functions.

A law is a function whose positional arguments are table columns and whose keyword-only arguments
are fitted. :func:`law` adds the region in which a fit starts to search for each parameter:

    @law(E=Range(0.3, 3), A=Range(1, 1e4), alpha=Range(0.1, 1))
    def floor_power(N, *, E, A, alpha):
        '''L(N) = E + A / N^alpha.'''
        return E + A / N**alpha

The first line of the docstring is the formula; a line that starts with ``Source:`` is the citation.
Write the function with numpy operations only: it is called with arrays of many parameter values at
once, and with numbers that carry their own derivatives (:mod:`analysis.fitting.autodiff`).
"""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaling.columns import COLUMNS


class LawError(ValueError):
    """A law is unknown or cannot be evaluated, or its signature and ranges disagree."""


@dataclass(frozen=True)
class Range:
    """The region in which a fit starts to search for one parameter; it is not a bound.

    A positive `low` makes the region log-spaced and declares the parameter positive; otherwise it
    is spaced evenly and the parameter may have either sign.
    """

    low: float
    high: float
    of: str | None = None
    """A column; `low` and `high` are then multiples of its smallest and largest value."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            raise LawError(f"Range({self.low}, {self.high}) must have finite ends.")
        if self.low > self.high or (self.low == self.high and self.of is None):
            raise LawError(f"Range({self.low}, {self.high}) is empty: low must be below high.")

    @property
    def positive(self) -> bool:
        """Whether the parameter is declared positive."""
        return self.low > 0

    def ends(self, columns: Mapping[str, np.ndarray]) -> tuple[float, float]:
        """Return (low, high) in the unit of the parameter, given the data."""
        if self.of is None:
            return self.low, self.high
        x = columns[self.of]
        low, high = self.low * float(np.min(x)), self.high * float(np.max(x))
        return (low, high) if high > low else (low * 0.5, high * 2)


@dataclass(frozen=True, eq=False)
class Law:
    """A functional form with named inputs and parameters. Call it like the wrapped function.

    Laws pickle by their origin: a module, a file, or the function that made them.
    """

    name: str
    function: Callable[..., Any] = field(repr=False)
    inputs: tuple[str, ...]
    """Table columns, in the order of the function's positional arguments."""
    ranges: Mapping[str, Range] = field(repr=False)
    """Starting region of each fitted parameter, in the order of the signature."""
    target: str = "L"
    """The column that the law predicts."""
    derived: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Named quantities of interest: expressions in the parameters."""
    exchangeable: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    """Groups of parameters that can be exchanged without changing the law, such as the breaks of a
    broken power law. A fit sorts them by the first parameter of each group."""
    optimum: Callable[..., Any] | None = field(default=None, repr=False)
    """Closed form of the N of least loss at C = 6 N D, for a law of N and D: a function of C and
    the parameters (arrays that broadcast), nan if there is no minimum. If None, it is found
    numerically."""
    best_of: tuple[str, ...] = field(default=(), repr=False)
    """Columns whose values define a search: of the runs that share them, the law describes the one
    with the lowest loss L, such as the best learning rate at each N and D. Empty: all runs."""
    origin: tuple[Callable[..., Law], tuple[Any, ...]] | None = field(default=None, repr=False)
    """A function that recreates this law, and its arguments; None for a law defined in a module."""

    def _identity(self) -> tuple[Any, ...]:
        return self.name, self.inputs, self.params, self.target, self.origin or self.function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Law) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __reduce__(self) -> tuple[Callable[..., Law], tuple[Any, ...]]:
        if self.origin is not None:
            return self.origin
        module, name = self.function.__module__, self.function.__qualname__
        if getattr(sys.modules.get(module), name, None) is not self:
            raise pickle.PicklingError(
                f"law {self.name} cannot be pickled: it is no longer {module}.{name}. Define it at "
                "the top of a module, or in a file that is named as file.py:name."
            )
        return _of_module, (module, name)

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the fitted parameters."""
        return tuple(self.ranges)

    @property
    def formula(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or self.name).splitlines()[0].rstrip(".")

    @property
    def source(self) -> str:
        """The citation in the function's docstring; '' if there is none."""
        lines = (inspect.getdoc(self.function) or "").splitlines()
        for i, line in enumerate(lines):
            if line.startswith("Source:"):
                end = next((j for j in range(i, len(lines)) if not lines[j].strip()), len(lines))
                return " ".join(part.strip() for part in lines[i:end])[len("Source:") :].strip()
        return ""

    def __call__(self, *inputs: Any, **params: Any) -> Any:
        return self.function(*map(_real, inputs), **params)

    def predict(self, params: Mapping[str, Any], **columns: Any) -> np.ndarray:
        """Evaluate the law at `columns` (arrays or numbers that broadcast), in its target's unit.

        `params` may hold further parameters. Raises LawError for a missing or unknown column.
        """
        missing = [name for name in self.inputs if name not in columns]
        unknown = [name for name in columns if name not in self.inputs]
        if missing or unknown:
            what = f"needs {', '.join(self.inputs)}"
            got = f"got {', '.join(columns) or 'nothing'}"
            raise LawError(f"{self.name} {what}; {got}. Pass them by name: {self._example()}.")
        x = [np.asarray(columns[name], float) for name in self.inputs]
        return np.asarray(self.function(*x, **{name: params[name] for name in self.params}), float)

    def _example(self) -> str:
        call = f"predict({', '.join(f'{name}=...' for name in self.inputs)})"
        units = {column.name: column.unit for column in COLUMNS}
        known = [f"{name} [{units[name]}]" for name in self.inputs if units.get(name)]
        out = f"{self.target} [{units[self.target]}]" if units.get(self.target) else self.target
        return f"{call} gives {out}" + (f" for {', '.join(known)}" if known else "")


def law(
    target: str = "L",
    /,
    *,
    derived: Mapping[str, str] | None = None,
    exchangeable: tuple[tuple[str, ...], ...] = (),
    optimum: Callable[..., Any] | None = None,
    best_of: tuple[str, ...] = (),
    **ranges: Any,
) -> Callable[[Callable[..., Any]], Law]:
    """Make a :class:`Law` from a function.

    target: the column that the law predicts.
    derived: expressions in the parameters that every summary shows, by name.
    exchangeable: groups of parameters that can be exchanged; see Law.exchangeable.
    optimum: the closed form of the compute-optimal N; see Law.optimum.
    best_of: columns whose values define a search; see Law.best_of.
    ranges: the Range of each keyword-only argument.

    Raises LawError if signature and ranges disagree.
    """

    def wrap(function: Callable[..., Any]) -> Law:
        name = getattr(function, "__name__", "law")
        inputs, fitted, optional = [], [], []
        for p in inspect.signature(function).parameters.values():
            if p.kind is p.KEYWORD_ONLY:
                (fitted if p.default is p.empty else optional).append(p.name)
            elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
                inputs.append(p.name)
            else:
                raise LawError(f"law {name}: *{p.name} is not allowed; name every input.")
        if not inputs:
            raise LawError(f"law {name} has no input: its positional arguments are table columns.")
        if not fitted and not ranges:
            raise LawError(
                f"law {name} has nothing to fit: make its parameters keyword-only, "
                f"def {name}({', '.join(inputs)}, *, A, alpha)."
            )
        lost = [p for p in fitted if p not in ranges]
        extra = [p for p in ranges if p not in fitted + optional]
        if lost or extra:
            faults = []
            if lost:
                faults.append(f"keyword-only {_names(lost)} of its signature has no Range")
            if extra:
                faults.append(f"Range given for {_names(extra)}, not a keyword-only argument")
            raise LawError(
                f"law {name}: {'; '.join(faults)}. Write @law("
                + ", ".join(f"{p}=Range(low, high)" for p in fitted)
                + ")."
            )
        _check_ranges(name, ranges, inputs)
        for p in (p for group in exchangeable for p in group):
            if p not in ranges:
                raise LawError(f"law {name}: exchangeable names {p!r}, which is not fitted.")
        order = {p: ranges[p] for p in fitted + optional if p in ranges}
        return Law(
            name=name,
            function=function,
            inputs=tuple(inputs),
            ranges=order,
            target=target,
            derived=derived or {},
            exchangeable=exchangeable,
            optimum=optimum,
            best_of=best_of,
        )

    return wrap


def _check_ranges(law: str, ranges: Mapping[str, Any], inputs: list[str]) -> None:
    for p, r in ranges.items():
        if not isinstance(r, Range):
            raise LawError(f"law {law}: {p}={r!r} must be a Range(low, high).")
        if r.of is not None and r.of not in inputs:
            raise LawError(f"law {law}: {p} is a Range of {r.of!r}, which is not an input.")


def _of_module(module: str, name: str) -> Law:
    return getattr(importlib.import_module(module), name)


def _real(x: Any) -> Any:
    """Convert integers to floats, because N D of int64 columns overflows and int arrays reject
    7**-0.3."""
    if type(x) is int:
        return float(x)
    whole = getattr(getattr(x, "dtype", None), "kind", "") in ("i", "u")
    return x.astype(float) if whole else x


def _names(names: list[str]) -> str:
    return ", ".join(map(repr, names))
