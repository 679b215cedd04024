"""The words of a command line as the arguments of a command."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from scaling.cli.output import say
from scaling.config import ConfigError

_POSITIONAL = {"spec", "results", "runs", "name", "corpus", "run"}


def parse_and_call(name: str, command: Callable[..., None], words: Sequence[str]) -> None:
    """Parse the words after `scaling NAME` into the arguments of its function and call it."""
    import tyro

    def parsed(*args: Any, **options: Any) -> Callable[[], None]:
        return lambda: command(*args, **options)

    hints = get_type_hints(command)
    signature = inspect.signature(command)
    parameters = [
        parameter.replace(annotation=_marked(name, key, hints[key]))
        for key, parameter in signature.parameters.items()
    ]
    parsed.__doc__ = command.__doc__
    parsed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {each.name: each.annotation for each in parameters}
    with _masked_errors(words):
        call = tyro.cli(
            parsed,
            prog=f"scaling {name}",
            args=words,
            registry=_registry(),
            # a switch of a command is off by default; one of a run may be either
            config=() if name == "train" else (tyro.conf.FlagCreatePairsOff,),
        )
    call()


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


def _marked(name: str, key: str, hint: Any) -> Any:
    """A parameter's type with its place on the command line."""
    from tyro import conf

    if key == "config":  # its fields need no prefix: --model.n-layer 6 --tokens 2e8
        return Annotated[hint, conf.arg(name="")]
    if key in _POSITIONAL and not (key == "results" and name == "sweep"):
        return conf.Positional[hint]
    if hint == tuple[str, ...]:  # --set a=1 --set b=2
        return conf.UseAppendAction[hint]
    return hint


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
