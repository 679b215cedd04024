"""Messages for arguments of the wrong kind: swapped, a path instead of its table, unknown words."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.errors import TableError, did_you_mean

_KINDS = {
    "Comparison": "frontiers by several methods",
    "CriticalBatch": "a critical batch size",
    "DataFrame": "a table",
    "FitResult": "a fit",
    "Frontier": "a frontier",
    "Law": "a law",
    "Plan": "a plan",
    "Plans": "several plans",
    "Validation": "a validation",
}


class ArgumentError(TableError, TypeError):
    """An argument is of the wrong kind."""


def kind_of(value: Any) -> str:
    """Return what a value is, in words."""
    if isinstance(value, str | Path):
        return f"the text {str(value)!r}" if isinstance(value, str) else f"the path {value}"
    name = type(value).__name__
    return _KINDS.get(name, f"of type {name}")


def expect(call: str, parameter: str, value: Any, *kinds: type, remedy: str = "") -> None:
    """Raise ArgumentError unless `value` is of one of the kinds.

    `call` is how the function is called, such as 'fit(law, runs)'. A path in place of a table is
    answered with a call of `load`.
    """
    if isinstance(value, kinds):
        return
    is_it = f"is {kind_of(value)}"
    if isinstance(value, str | Path) and pd.DataFrame in kinds:
        remedy = f"Read it first: load({str(value)!r})."
    elif kinds == (pd.DataFrame,) and type(value).__name__ not in _KINDS:
        is_it, remedy = f"must be a pandas DataFrame, not {type(value).__name__}", ""
    raise ArgumentError(f"{call}: {parameter} {is_it}. {remedy}".rstrip())


def expect_law_and_runs(function: str, law: Any, runs: Any) -> None:
    """Raise ArgumentError unless `runs` is a table and `law` is none, nor a fit."""
    call = f"{function}(law, runs)"
    if isinstance(law, pd.DataFrame) and not isinstance(runs, pd.DataFrame):
        raise ArgumentError(f"{call}: the arguments are swapped; the law comes before the table.")
    if isinstance(law, pd.DataFrame) or type(law).__name__ == "FitResult":
        remedy = "Give its law: result.law." if hasattr(law, "law") else "Give a law or its name."
        raise ArgumentError(f"{call}: law is {kind_of(law)}. {remedy}")
    expect(call, "runs", runs, pd.DataFrame, remedy="It must be a table, as load() returns it.")


def unknown_word(name: str, value: Any, known: Collection[str]) -> str:
    """Return the message for a word that is not one of the known ones."""
    near = did_you_mean(value, known) if isinstance(value, str) else ""
    return f"{name}={value!r} is not known: use one of {', '.join(known)}.{near}"
