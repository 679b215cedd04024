"""Parse the words of a command line into the arguments of a command."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from scaling import progress
from scaling.cli.output import masked, say
from scaling.cli.rejections import explain
from scaling.cli.signature import (
    WITHOUT_PREFIX,
    bare,
    choices,
    options,
    parameters,
    place,
    positional,
)
from scaling.errors import ConfigError
from scaling.mapping import parse
from scaling.units import number

__all__ = ["column_map", "options", "parse_and_call", "settings"]


def parse_and_call(name: str, command: Callable[..., None], words: Sequence[str]) -> None:
    """Parse the words after `scaling NAME` and call the function of that command.

    Words that do not fit are refused in one line, with exit code 2.
    """
    printed, before = io.StringIO(), dict(os.environ)
    _NAMED.clear()
    _NAMED.update(_keys(words))
    os.environ |= {"COLUMNS": "99999", "TERM": "dumb"}  # keeps each message on one line
    try:
        with contextlib.redirect_stderr(printed):
            call = _parsed(name, command, words)
    except SystemExit:
        text = masked(printed.getvalue())
        if not text or text.startswith("scaling: "):  # a message of ours
            sys.stderr.write(text)
            raise
        say(explain(name, command, words, text))
        raise SystemExit(2) from None
    finally:
        for key in ("COLUMNS", "TERM"):
            os.environ.pop(key)
            os.environ |= {key: before[key]} if key in before else {}
    sys.stderr.write(printed.getvalue())
    progress.step(f"running {name}")
    call()


_NAMED: set[str] = set()


def named_options() -> frozenset[str]:
    """Return the dotted keys of the options in this command line, such as 'model.d_model'."""
    return frozenset(_NAMED)


def _keys(words: Sequence[str]) -> set[str]:
    options = (word[2:].partition("=")[0].replace("-", "_") for word in words if word[:2] == "--")
    return {re.sub(r"(^|\.)no_(?=[^.]*$)", r"\1", key) for key in options}


def _parsed(name: str, command: Callable[..., None], words: Sequence[str]) -> Callable[[], None]:
    """Return a call of the command with the arguments that tyro reads from the words."""
    import tyro

    def parsed(*args: Any, **options: Any) -> Callable[[], None]:
        return lambda: command(*args, **options)

    pairs = name == "train"  # a run's switches have two forms; a command's are off by default
    marked = [each.replace(annotation=_marked(name, each)) for each in parameters(command)]
    parsed.__signature__ = inspect.Signature(marked)  # type: ignore[attr-defined]
    parsed.__annotations__ = {each.name: each.annotation for each in marked}
    return tyro.cli(
        parsed,
        prog=f"scaling {name}",
        args=words,
        registry=_registry(),
        config=() if pairs else (tyro.conf.FlagCreatePairsOff,),
    )


def _registry() -> Any:
    """Return the rules by which tyro reads integers, paths and dataclasses."""
    import tyro
    from tyro.constructors import (
        ConstructorRegistry,
        PrimitiveConstructorSpec,
        StructConstructorSpec,
        StructFieldSpec,
    )

    registry = ConstructorRegistry()

    @registry.struct_rule
    def dataclass_rule(info: Any) -> Any:
        """Like tyro's own rule, without looking for help in the source."""
        kind: type = info.type
        if not dataclasses.is_dataclass(kind):
            return None
        hints = get_type_hints(kind)
        specs = []
        for each in dataclasses.fields(kind):
            nested = each.default is dataclasses.MISSING
            specs.append(
                StructFieldSpec(
                    name=each.name,
                    type=hints[each.name],
                    default=tyro.MISSING_NONPROP if nested else each.default,
                    helptext="",
                )
            )
        return StructConstructorSpec(kind, tuple(specs))

    def read_as(kind: type, metavar: str, read: Callable[[str], Any]) -> None:
        spec = PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: read(words[0]),
            is_instance=lambda value: isinstance(value, kind),
            str_from_instance=lambda value: [str(value)],
        )

        @registry.primitive_rule
        def rule(info: Any) -> Any:
            return spec if info.type is kind else None

    read_as(int, "INT", _whole)  # accepts 2e8 and 200M
    read_as(float, "FLOAT", number)  # accepts 7B and 1,000,000
    read_as(Path, "PATH", local_folder)  # accepts the URI of a results folder
    return registry


def _marked(name: str, parameter: inspect.Parameter) -> Any:
    """Return a parameter's type, annotated with its place on the command line."""
    from tyro import conf

    hint, key = bare(parameter.annotation), parameter.name
    if key in WITHOUT_PREFIX:
        return conf.UseAppendAction[Annotated[hint, conf.arg(name="")]]
    if positional(name, key):
        metavar = None if choices(hint) else place(name, key)
        return conf.Positional[Annotated[hint, conf.arg(metavar=metavar)]]
    return conf.UseAppendAction[hint] if hint == tuple[str, ...] else hint  # --set a=1 --set b=2


def local_folder(text: str) -> Path:
    """Return a path, or the up-to-date local copy of a URI; runs of a tracker stay where they
    are."""
    from scaling.trackers import is_source, kind_and_place

    if is_source(text):
        return Path(":".join(kind_and_place(text)))
    if "://" not in text:
        return Path(text)
    from sweeps.store import Store, StoreError

    try:
        store = Store(text)
        store.pull()
    except StoreError as error:  # a ValueError would be taken for a wrong word
        say(str(error))
        raise SystemExit(2) from None
    _STORES[store.folder] = store
    return store.folder


_STORES: dict[Path, Any] = {}
"""The stores on URIs that this command was given, by the folders of their local copies."""


def store_of(folder: Path) -> Any:
    """Return the store on a URI whose local copy is this folder; None if there is none."""
    return _STORES.get(folder)


def write_back(folder: Path, file: Path) -> str:
    """Write a new file of a results folder to its URI, if it has one; return its name for the
    user."""
    store = store_of(folder)
    if store is None:
        return str(file)
    store.pull(at_once=True)
    return str(store.shown(file))


def _whole(text: str) -> int:
    """Return an integer, which may be written as 2e8 or 200M."""
    value = number(text)
    if value % 1:
        raise ValueError(f"{text} is not a whole number")
    return int(text) if text.lstrip("+-").isdigit() else int(value)


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse KEY=VALUE pairs, such as ['data.corpus=my.txt', 'seed=3'].

    Values are read as TOML; whatever is not valid TOML is a string.
    """
    import tomllib

    changes = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair!r} is not KEY=VALUE, such as data.corpus=my.txt.")
        try:
            changes[key] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            changes[key] = text
    return changes


def column_map(pairs: Sequence[str]) -> dict[str, str]:
    """Parse COLUMN=SYMBOL pairs: ['loss=L,params=N'] -> {'loss': 'L', 'params': 'N'}.

    :mod:`scaling.mapping` has the grammar.
    """
    return parse(pairs)
