"""What a command takes: its parameters, their names, types and texts on the command line."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from scaling.fields import leaves

WITHOUT_PREFIX = {"config", "options"}
"""Parameters whose fields become options without a prefix: --model.n-layer 6, --workers 2."""

_POSITIONAL = {"spec", "results", "runs", "name", "corpus", "run", "shell", "claim", "source"}
"""Parameters given by position."""

_OPTIONS = {("sweep", "results"), ("eval", "run")}
"""Parameters of a command that are options, although their name is one of these."""

_PLACES = {
    "backtest": {"runs": "TABLE"},
    "figure": {"name": "FIGURE"},
    "schema": {"name": "COMMAND"},
    "frontier": {"results": "RUNS"},
    "plan": {"results": "RUNS"},
    "design": {"results": "RUNS"},
}
"""What a positional argument is called, where that is not its name in Python."""


def parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters of a command with evaluated types."""
    hints = get_type_hints(command, include_extras=True)
    return [
        each.replace(annotation=hints[each.name])
        for each in inspect.signature(command).parameters.values()
    ]


def positional(name: str, key: str) -> bool:
    return key in _POSITIONAL and (name, key) not in _OPTIONS


def place(name: str, key: str) -> str:
    """Return what a positional argument of a command is called in its help and messages."""
    return _PLACES.get(name, {}).get(key, key.upper())


def bare(hint: Any) -> Any:
    """Return a type without its annotations."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def choices(hint: Any) -> tuple[str, ...]:
    hint = bare(hint)
    each = [hint, *get_args(hint)]
    return tuple(str(v) for h in each if get_origin(h) is Literal for v in get_args(h))


def options(name: str, command: Callable[..., None]) -> dict[str, tuple[str, ...]]:
    """Return the long options of a command, each with its choices (empty: any value)."""
    found: dict[str, tuple[str, ...]] = {"--help": ()}

    def add(key: str, hint: Any, default: Any, pair: bool) -> None:
        prefix, dot, name = key.replace("_", "-").rpartition(".")
        plain, negated = f"--{prefix}{dot}{name}", f"--{prefix}{dot}no-{name}"
        names = [plain]
        if bare(hint) is bool:
            names = [plain, negated] if pair else [negated] if default else [plain]
        found.update(dict.fromkeys(names, choices(hint)))

    for each in parameters(command):
        if dataclasses.is_dataclass(each.annotation):
            prefix = "" if each.name in WITHOUT_PREFIX else f"{each.name}."
            for key, (hint, default) in leaves(each.annotation, prefix).items():
                add(key, hint, default, pair=name == "train")
        elif not positional(name, each.name):
            add(each.name, each.annotation, each.default, pair=False)
    return found


@functools.cache
def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, on one line."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    found = {}
    for field, after in itertools.pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                found[name] = " ".join(text.split())
    return found


def metavar(hint: Any) -> str:
    """Return the placeholder of an option's value, without None."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return f"{{{','.join(map(str, inner))}}}"
    if kind is tuple:
        return " ".join(metavar(each) for each in inner if each is not ...)
    if inner:
        return "|".join(metavar(each) for each in inner if each is not type(None))
    return "FILE" if hint is Path else hint.__name__.upper()
