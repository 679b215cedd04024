"""Parse the words of a command line into the arguments of a command."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from scaling import progress
from scaling.cli.output import say
from scaling.errors import ConfigError
from scaling.fields import leaves

_WITHOUT_PREFIX = {"config", "options"}
"""Parameters whose fields become options without a prefix: --model.n-layer 6, --workers 2."""

_POSITIONAL = {"spec", "results", "runs", "name", "corpus", "run", "shell"}
"""Parameters given by position, except the option `--results` of `scaling sweep`."""


def parse_and_call(name: str, command: Callable[..., None], words: Sequence[str]) -> None:
    """Parse the words after `scaling NAME` and call the function of that command."""
    import tyro

    def parsed(*args: Any, **options: Any) -> Callable[[], None]:
        return lambda: command(*args, **options)

    pairs = name == "train"  # a run's switches have two forms; a command's are off by default
    parameters = [
        each.replace(annotation=_marked(name, each, pairs)) for each in _parameters(command)
    ]
    # tyro keeps the line breaks of a docstring's arguments, so each is put on one line.
    parsed.__doc__ = re.sub(r"\n {8}", " ", inspect.getdoc(command) or "")
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {each.name: each.annotation for each in parameters}
    with _masked_errors(words), _plain_if_asked():
        call = tyro.cli(
            parsed,
            prog=f"scaling {name}",
            args=words,
            registry=_registry(pairs),
            config=() if pairs else (tyro.conf.FlagCreatePairsOff,),
        )
    progress.step(f"running {name}")
    call()


def options(name: str, command: Callable[..., None]) -> dict[str, tuple[str, ...]]:
    """Return the long options of a command, each with its choices (empty: any value)."""
    found: dict[str, tuple[str, ...]] = {"--help": ()}

    def add(key: str, hint: Any, default: Any, pair: bool) -> None:
        prefix, dot, name = key.replace("_", "-").rpartition(".")
        plain, negated = f"--{prefix}{dot}{name}", f"--{prefix}{dot}no-{name}"
        names = [plain]
        if _bare(hint) is bool:
            names = [plain, negated] if pair else [negated] if default else [plain]
        found.update(dict.fromkeys(names, _choices(hint)))

    for each in _parameters(command):
        if dataclasses.is_dataclass(each.annotation):
            prefix = "" if each.name in _WITHOUT_PREFIX else f"{each.name}."
            for key, (hint, default) in leaves(each.annotation, prefix).items():
                add(key, hint, default, pair=name == "train")
        elif not _positional(name, each.name):
            add(each.name, each.annotation, each.default, pair=False)
    return found


def usage(name: str, command: Callable[..., None]) -> str | None:
    """Return a short usage text with an example, or None if the command needs no arguments."""
    needed = []
    for each in _parameters(command):
        if each.default is not each.empty or dataclasses.is_dataclass(each.annotation):
            continue
        word = "|".join(_choices(each.annotation)) or each.name.upper()
        needed.append(word if _positional(name, each.name) else f"--{each.name} {word}")
    if not needed:
        return None
    text = inspect.getdoc(command) or ""
    example = re.search(r"^Example: (.*)$", text, re.M)
    lines = [f"usage: scaling {name} {' '.join(needed)} [OPTIONS]", text.partition("\n")[0]]
    if example:
        lines.append(f"example: {example[1]}")
    return "\n".join([*lines, f"`scaling {name} --help` explains every option."])


def _parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters of a command with evaluated types."""
    hints = get_type_hints(command, include_extras=True)
    return [
        each.replace(annotation=hints[each.name])
        for each in inspect.signature(command).parameters.values()
    ]


def _positional(name: str, key: str) -> bool:
    return key in _POSITIONAL and not (key == "results" and name == "sweep")


def _bare(hint: Any) -> Any:
    """Return a type without its annotations."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _choices(hint: Any) -> tuple[str, ...]:
    hint = _bare(hint)
    each = [hint, *get_args(hint)]
    return tuple(str(v) for h in each if get_origin(h) is Literal for v in get_args(h))


def _registry(pairs: bool) -> Any:
    """Return the rules by which tyro reads integers, paths and dataclasses.

    `pairs` is whether a switch has two forms, --x and --no-x.
    """
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
        """Like tyro's own rule, with the help of a field on one line."""
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
                    type=_shown(hints[each.name], each.default, pairs),
                    default=tyro.MISSING_NONPROP if nested else each.default,
                    helptext=functools.partial(_field_help, kind, each.name),
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

    read_as(int, "INT", _whole)  # accepts 2e8
    read_as(Path, "PATH", _folder)  # accepts the URI of a results folder
    return registry


def _field_help(kind: type, name: str) -> str | None:
    return _field_docstrings(kind).get(name)


@functools.cache
def _field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, on one line."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    found = {}
    for field, after in itertools.pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                found[name] = " ".join(text.split())
    return found


def _shown(hint: Any, default: Any, pairs: bool) -> Any:
    """Leave None, and the default of a plain switch, out of the help of an option.

    The text of the help describes what happens by default.
    """
    from tyro import conf

    if default is None:
        return Annotated[hint, conf.arg(metavar=_metavar(hint), help_behavior_hint="")]
    if isinstance(default, bool) and not pairs:
        return Annotated[hint, conf.arg(help_behavior_hint="")]
    return hint


def _metavar(hint: Any) -> str:
    """Return the placeholder of an option's value, without None."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return f"{{{','.join(map(str, inner))}}}"
    if kind is tuple:
        return " ".join(map(_metavar, inner))
    if inner:
        return "|".join(_metavar(each) for each in inner if each is not type(None))
    return "PATH" if hint is Path else hint.__name__.upper()


def _marked(name: str, parameter: inspect.Parameter, pairs: bool) -> Any:
    """Return a parameter's type, annotated with its place and help on the command line."""
    from tyro import conf

    hint, key = _bare(parameter.annotation), parameter.name
    if key in _WITHOUT_PREFIX:
        return conf.UseAppendAction[Annotated[hint, conf.arg(name="")]]
    if _positional(name, key):
        needed = parameter.default is parameter.empty
        metavar = None if _choices(hint) else key.upper() if needed else f"[{key.upper()}]"
        default_hint = "" if parameter.default in (None, "") else None
        return conf.Positional[
            Annotated[hint, conf.arg(metavar=metavar, help_behavior_hint=default_hint)]
        ]
    hint = _shown(hint, parameter.default, pairs)
    marked = conf.UseAppendAction[hint] if hint == tuple[str, ...] else hint  # --set a=1 --set b=2
    if get_origin(parameter.annotation) is not Annotated:
        return marked
    return Annotated[marked, conf.arg(help=parameter.annotation.__metadata__[0])]


@contextlib.contextmanager
def _plain_if_asked() -> Iterator[None]:
    """Respect NO_COLOR, which tyro ignores, by presenting the terminal as one without colours."""
    terminal = os.environ.get("TERM")
    if terminal is None or not os.environ.get("NO_COLOR"):
        yield
        return
    os.environ["TERM"] = "dumb"
    try:
        yield
    finally:
        os.environ["TERM"] = terminal


@contextlib.contextmanager
def _masked_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Mask the credentials of URIs in the parser's errors, which quote rejected arguments."""
    if not any("://" in argument for argument in arguments):
        yield
        return
    from sweeps.remote import masked

    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "9999"  # keeps each URI on one line
    try:
        with contextlib.redirect_stderr(printed):
            yield
    finally:
        del os.environ["COLUMNS"]
        os.environ.update({} if columns is None else {"COLUMNS": columns})
        sys.stderr.write(masked(printed.getvalue()))


def _folder(text: str) -> Path:
    """Return a path, or the up-to-date local copy of a URI."""
    if "://" not in text:
        return Path(text)
    from sweeps.store import Store, StoreError

    try:
        store = Store(text)
        store.pull()
    except StoreError as error:  # a ValueError would be shown in tyro's box
        say(str(error))
        raise SystemExit(2) from None
    return store.folder


def _whole(text: str) -> int:
    """Return an integer, which may be written as 2e8."""
    value = float(text)
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
    """Parse COLUMN=SYMBOL pairs: ['loss=L,params=N'] -> {'loss': 'L', 'params': 'N'}."""
    mapping = {}
    for pair in ",".join(pairs).split(","):
        if not pair:
            continue
        column, equals, symbol = pair.partition("=")
        if not equals:
            raise ConfigError(f"--map {pair!r} is not COLUMN=SYMBOL, such as loss=L.")
        mapping[column.strip()] = symbol.strip()
    return mapping
