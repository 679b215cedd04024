"""Find a law by its name, or in a user's file."""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.laws.forms import broken, floor, logarithm, power
from analysis.laws.law import Law, LawError
from analysis.laws.registry import LAWS
from scaling.files import code_file


def resolve(name: str | Law) -> Law:
    """Return the law called `name`, or the one at ``path/to/file.py:name``.

    ``power_X``, ``floor_X``, ``logarithm_X`` and ``broken_X`` work for any column X;
    ``broken_X_2`` has two breaks. Raises LawError with the nearest known name.
    """
    if isinstance(name, Law):
        return name
    if not isinstance(name, str):
        raise LawError(f"{name!r:.200} is not a law: give a Law, its name, or 'file.py:name'.")
    if ".py:" in name or name.endswith(".py"):
        return _from_file(name)
    if name in LAWS:
        return LAWS[name]
    kind, _, column = name.partition("_")
    if column and kind in (forms := {"power": power, "floor": floor, "logarithm": logarithm}):
        return forms[kind](column)
    if column and kind == "broken":
        column, _, breaks = column.rpartition("_") if name[-1:].isdigit() else (column, "", "1")
        if column:
            return broken(column, int(breaks))
    raise LawError(f"no law is called {name!r}. {not_found(name)}; your own: file.py:name.")


def not_found(name: str) -> str:
    """Return a hint for a name that no law has: the nearest one, and all that are known."""
    close = difflib.get_close_matches(name.lower(), LAWS, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(LAWS)}"


def _from_file(reference: str) -> Law:
    path, _, name = reference.rpartition(":") if ".py:" in reference else (reference, "", "")
    file = code_file(reference)
    if not file.is_file():
        raise LawError(f"{path}: no such file (in the law {reference!r}).")
    spec = importlib.util.spec_from_file_location(f"law_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except LawError:
        raise
    except (Exception, SystemExit) as error:
        raise LawError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    found = {
        key: replace(value, origin=(_from_file, (f"{file.resolve()}:{key}",)))
        for key, value in vars(module).items()
        if isinstance(value, Law) and value.function.__module__ == module.__name__
    }
    if name in found:
        return _tried(found[name], path)
    if not found:
        raise LawError(f"{path} defines no law: put @law(...) above a function.")
    if not name and len(found) == 1:
        return _tried(next(iter(found.values())), path)
    raise LawError(f"{path} has no law {name!r}; it has {', '.join(found)}: use {path}:NAME.")


def _tried(law: Law, path: str) -> Law:
    """Return the law if it can be computed within its ranges; raise LawError otherwise."""
    columns = {name: np.array([1e6, 2e6]) for name in law.inputs}
    params = {
        name: sum(r.ends({r.of: np.ones(1)} if r.of else {})) / 2 for name, r in law.ranges.items()
    }
    try:
        with np.errstate(all="ignore"):
            law.predict(params, **columns)
    except (Exception, SystemExit) as error:
        raise LawError(
            f"{path}: the law {law.name} cannot be computed: {type(error).__name__}: {error}"
        ) from error
    return law


def table() -> pd.DataFrame:
    """List every known law: name, formula, inputs, parameters, target and source, one row each."""
    return pd.DataFrame(
        [
            {
                "name": each.name,
                "formula": each.formula,
                "inputs": ", ".join(each.inputs),
                "parameters": ", ".join(each.params),
                "target": each.target,
                "source": each.source,
            }
            for each in LAWS.values()
        ]
    )
