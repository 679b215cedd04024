"""The words of a command line as the arguments of a command."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from scaling.cli.output import say
from scaling.errors import ConfigError
from scaling.fields import leaves

_WITHOUT_PREFIX = {"config", "options"}
"""Dataclasses whose fields are options without a prefix: --model.n-layer 6, --workers 2."""

_POSITIONAL = {"spec", "results", "runs", "name", "corpus", "run", "shell"}


def parse_and_call(name: str, command: Callable[..., None], words: Sequence[str]) -> None:
    """Parse the words after `scaling NAME` into the arguments of its function and call it."""
    import tyro

    def parsed(*args: Any, **options: Any) -> Callable[[], None]:
        return lambda: command(*args, **options)

    parameters = [each.replace(annotation=_marked(name, each)) for each in _parameters(command)]
    parsed.__doc__ = command.__doc__
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {each.name: each.annotation for each in parameters}
    with _masked_errors(words), _plain_if_asked():
        call = tyro.cli(
            parsed,
            prog=f"scaling {name}",
            args=words,
            registry=_registry(),
            # a switch of a command is off by default; one of a run may be either
            config=() if name == "train" else (tyro.conf.FlagCreatePairsOff,),
        )
    call()


def options(name: str, command: Callable[..., None]) -> dict[str, tuple[str, ...]]:
    """The long options of a command, each with its values if it has a fixed set of them."""
    found: dict[str, tuple[str, ...]] = {"--help": ()}

    def add(key: str, hint: Any, default: Any, pair: bool) -> None:
        parts = key.replace("_", "-").rpartition(".")
        plain, negated = "--" + "".join(parts), f"--{parts[0]}{parts[1]}no-{parts[2]}"
        names = [plain]
        if _bare(hint) is bool:
            names = [plain, negated] if pair else [negated] if default else [plain]
        found.update(dict.fromkeys(names, _choices(hint)))

    for each in _parameters(command):
        if dataclasses.is_dataclass(each.annotation):  # switches of `train` have both forms
            prefix = "" if each.name in _WITHOUT_PREFIX else f"{each.name}."
            for key, (hint, default) in leaves(each.annotation, prefix).items():
                add(key, hint, default, pair=name == "train")
        elif not _positional(name, each.name):
            add(each.name, each.annotation, each.default, pair=False)
    return found


def usage(name: str, command: Callable[..., None]) -> str | None:
    """Usage in a few lines with an example; None for a command that needs no arguments."""
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
    """The parameters of a command, their types evaluated."""
    hints = get_type_hints(command, include_extras=True)
    return [
        each.replace(annotation=hints[each.name])
        for each in inspect.signature(command).parameters.values()
    ]


def _positional(name: str, key: str) -> bool:
    return key in _POSITIONAL and not (key == "results" and name == "sweep")


def _bare(hint: Any) -> Any:
    """A type without what is annotated to it."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _choices(hint: Any) -> tuple[str, ...]:
    hint = _bare(hint)
    each = [hint, *get_args(hint)]
    return tuple(str(v) for h in each if get_origin(h) is Literal for v in get_args(h))


def _registry() -> Any:
    """How words become whole numbers and paths."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

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

    read_as(int, "INT", _whole)  # lets an int be written 2e8
    read_as(Path, "PATH", _folder)  # lets a results folder be a URI
    return registry


def _marked(name: str, parameter: inspect.Parameter) -> Any:
    """A parameter's type with its place and help on the command line."""
    from tyro import conf

    hint, key = _bare(parameter.annotation), parameter.name
    if key in _WITHOUT_PREFIX:
        return conf.UseAppendAction[Annotated[hint, conf.arg(name="")]]
    if _positional(name, key):
        return conf.Positional[hint]
    marked = conf.UseAppendAction[hint] if hint == tuple[str, ...] else hint  # --set a=1 --set b=2
    if hint is parameter.annotation:
        return marked
    return Annotated[marked, conf.arg(help=parameter.annotation.__metadata__[0])]


@contextlib.contextmanager
def _plain_if_asked() -> Iterator[None]:
    """NO_COLOR, which the parser does not know, makes the terminal one without colours for it."""
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
    """Mask the credentials of URIs among the arguments, which the parser quotes where it refuses them."""
    if not any("://" in argument for argument in arguments):
        yield
        return
    from sweeps.remote import masked

    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "9999"  # no URI is broken into lines
    try:
        with contextlib.redirect_stderr(printed):
            yield
    finally:
        del os.environ["COLUMNS"]
        os.environ.update({} if columns is None else {"COLUMNS": columns})
        sys.stderr.write(masked(printed.getvalue()))


def _folder(text: str) -> Path:
    """A path; of a URI the local folder that stands for it, level with it."""
    if "://" not in text:
        return Path(text)
    from sweeps.store import Store, StoreError

    try:
        store = Store(text)
        store.pull()
    except StoreError as error:  # the parser would put it in a box
        say(str(error))
        raise SystemExit(2) from None
    return store.folder


def _whole(text: str) -> int:
    value = float(text)
    if value % 1:
        raise ValueError(f"{text} is not a whole number")
    return int(text) if text.lstrip("+-").isdigit() else int(value)


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """['data.corpus=my.txt', 'seed=3'] -> values as TOML reads them, bare words as strings."""
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
    """['loss=L,params=N'] -> {'loss': 'L', 'params': 'N'}."""
    mapping = {}
    for pair in ",".join(pairs).split(","):
        if not pair:
            continue
        there, equals, here = pair.partition("=")
        if not equals:
            raise ConfigError(f"--map {pair!r} is not COLUMN=SYMBOL, such as loss=L.")
        mapping[there.strip()] = here.strip()
    return mapping
