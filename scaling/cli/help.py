"""The help of a command: its usage, arguments, options and examples, wrapped to the terminal."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from scaling.cli.signature import (
    WITHOUT_PREFIX,
    bare,
    choices,
    field_docstrings,
    metavar,
    parameters,
    place,
    positional,
)

_WIDEST = 120
"""Lines are no longer than this, however wide the terminal."""
_KEEP = 32
"""Quoted text up to this long is not broken across lines."""

_VALUES = {
    "achieved": "RESULTS",
    "allow_code": "FILE",
    "beside": "RESULTS",
    "by": "COLUMN",
    "cluster": "COLUMN",
    "columns": "COLUMNS",
    "critical": "RESULTS",
    "cache": "FOLDER",
    "csv": "FILE",
    "data": "FOLDER",
    "device": "DEVICE",
    "figures": "FOLDER",
    "file": "FILE",
    "filter": "CONDITION",
    "flops": "FLOPS",
    "folder": "FOLDER",
    "judge": "RUN",
    "law": "LAW",
    "against": "LAW",
    "map": "COLUMN=SYMBOL",
    "out": "FILE",
    "plot": "FILE",
    "results": "FOLDER",
    "root": "FOLDER",
    "rows": "ROWS",
    "prompt": "TEXT",
    "prompts": "FILE",
    "reuse": "RESULTS",
    "run": "RUN",
    "set": "KEY=VALUE",
    "shots": "SHOTS",
    "stop": "TEXT",
    "tag": "TAG",
    "tasks": "TASKS",
    "tasks_dir": "FOLDER",
    "to": "FOLDER",
    "tokenizer": "TOKENIZER",
    "where": "CONDITION",
}
"""What the value of an option is called, where its type does not say it."""


@dataclass(frozen=True)
class _Entry:
    """An argument or option of a command: its form on the command line, and its text."""

    form: str
    text: str


def help_text(name: str, command: Callable[..., None], *, width: int | None = None) -> str:
    """Return the help of `scaling NAME`, in lines of at most `width` characters.

    The width is by default that of the terminal.
    """
    width = min(shutil.get_terminal_size().columns if width is None else width, _WIDEST)
    summary, examples = _docstring(command)
    lines = [*wrapped(usage_line(name, command), width, "       "), ""]
    lines += [line for part in summary for line in [*wrapped(part, width), ""]]
    groups = list(_groups(name, command))
    forms = [entry.form for _, _, entries in groups for entry in entries]
    column = min(max(map(len, forms)) + 4, max(width // 4, 16), 30)
    for title, about, entries in groups:
        lines += [f"{title}:", *wrapped(about, width, "  ", first="  ")]
        for entry in entries:
            lines += _entry(entry, width, column)
        lines.append("")
    lines.append("Examples:" if len(examples) > 1 else "Example:")
    lines += [line for example in examples for line in _command_line(example, width)]
    return "\n".join(lines)


def usage_line(name: str, command: Callable[..., None]) -> str:
    """Return a line with the positional arguments and required options of a command."""
    return " ".join(["usage: scaling", name, *_forms(name, command), "[OPTIONS]"])


def usage(name: str, command: Callable[..., None]) -> str | None:
    """Return a short usage text with an example, or None if the command needs no arguments."""
    needed = []
    for each in parameters(command):
        if each.default is not each.empty or dataclasses.is_dataclass(each.annotation):
            continue
        word = "|".join(choices(each.annotation))
        if positional(name, each.name):
            needed.append(word or place(name, each.name))
        else:
            word = word or _VALUES.get(each.name, each.name.upper())
            needed.append(f"--{each.name} {word}")
    if not needed:
        return None
    summary, examples = _docstring(command)
    lines = [f"usage: scaling {name} {' '.join(needed)} [OPTIONS]", summary[0]]
    lines += [f"example: {example}" for example in examples[:1]]
    return "\n".join([*lines, f"`scaling {name} --help` explains every option."])


def coloured(text: str) -> str:
    """Return help with bold headings and options if it goes to a terminal that shows them."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    if plain or not sys.stdout.isatty():
        return text
    bold = "\x1b[1m\\1\x1b[0m"
    text = re.sub(r"^(usage: scaling [a-z-]+)", bold, text)
    return re.sub(r"^((?! )[\w ]+:$|  (?:-h, )?--[\w.-]+(?:, --[\w.-]+)*)", bold, text, flags=re.M)


def wrapped(text: str, width: int, indent: str = "", *, first: str = "") -> list[str]:
    """Return a paragraph in lines of at most `width` characters.

    No line consists of a single short word if narrower lines avoid that, and quoted text stays
    on one line.
    """
    held = re.sub(
        rf"`[^`]{{1,{_KEEP}}}`|\"[^\"]{{1,{_KEEP}}}\"|'[^']{{1,{_KEEP}}}'(?!\w)|\((?:default|scaling)"
        rf"[^()]{{1,{_KEEP}}}\)|\([^()]{{1,14}}\)|\b(?:eq\.|Fig\.|section|appendix) \w+",
        lambda found: found[0].replace(" ", "\xa0"),
        text,
    )
    room = width - len(indent)
    best: list[str] = []
    for narrower in range(max(room // 2, 1)):
        lines = textwrap.wrap(
            held, width - narrower, initial_indent=first, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        best = best or lines
        if len(lines) < 2 or all(len(line.split(" ")) - line.count("  ") > 1 for line in
                                 (each.strip() for each in lines)):  # fmt: skip
            best = lines
            break
    return [line.replace("\xa0", " ") for line in best]


def _entry(entry: _Entry, width: int, column: int) -> list[str]:
    """Return an entry in two columns; a long form has a line of its own."""
    indent = " " * column
    lines = wrapped(entry.text, width, indent, first=indent)
    if len(entry.form) + 4 > column or not lines:
        return [f"  {entry.form}", *lines]
    return [f"  {entry.form:<{column - 2}}{lines[0][column:]}", *lines[1:]]


def _command_line(example: str, width: int) -> list[str]:
    """Return an example in lines that can be pasted together, broken before options."""
    parts = re.split(r" (?=--)", example)
    lines = [f"  {parts[0]}"]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"      {part}")
    return lines


def _docstring(command: Callable[..., None]) -> tuple[list[str], list[str]]:
    """Return the paragraphs of a command's description, and its examples."""
    text = (inspect.getdoc(command) or "").partition("\nArgs:")[0]
    examples = re.findall(r"^Example: (.*)$", text, re.M)
    blocks = re.split(r"\n\s*\n", re.sub(r"^Example: .*$", "", text, flags=re.M))
    return [" ".join(block.split()) for block in blocks if block.strip()], examples


def _argument_texts(command: Callable[..., None]) -> dict[str, str]:
    """Return the text of each argument in the docstring of a command."""
    _, _, text = (inspect.getdoc(command) or "").partition("\nArgs:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.M)
    return {key: " ".join(words.split()) for key, words in entries}


def _forms(name: str, command: Callable[..., None]) -> Iterator[str]:
    """Yield the positional arguments and required options of a command, as in its usage."""
    for each in parameters(command):
        if dataclasses.is_dataclass(each.annotation):
            continue
        needed = each.default is each.empty
        if positional(name, each.name):
            yield _positional_form(name, each, needed)
        elif needed:
            yield f"--{each.name.replace('_', '-')} {_value(each.name, each.annotation)}"


def _positional_form(name: str, each: Any, needed: bool) -> str:
    form = _place_or_choices(name, each)
    form = f"{form} [{form} ...]" if get_origin(bare(each.annotation)) is tuple else form
    return form if needed else f"[{form}]"


def _place_or_choices(name: str, each: Any) -> str:
    hint = bare(each.annotation)
    return metavar(hint) if choices(hint) else place(name, each.name)


def _groups(name: str, command: Callable[..., None]) -> Iterator[tuple[str, str, list[_Entry]]]:
    """Yield the title, description and entries of each group of arguments."""
    texts = _argument_texts(command)
    places: list[_Entry] = []
    plain = [_Entry("-h, --help", "Show this help and exit.")]
    inlined: list[_Entry] = []
    nested: list[tuple[str, str, list[_Entry]]] = []
    pairs = name == "train"
    for each in parameters(command):
        if dataclasses.is_dataclass(each.annotation):
            key = "" if each.name in WITHOUT_PREFIX else f"{each.name}."
            found = list(_fields(each.annotation, key, pairs))
            inlined += [entry for title, _, entries in found if not title for entry in entries]
            nested += [group for group in found if group[0]]
            continue
        text = texts.get(each.name, "")
        if get_origin(each.annotation) is not None and hasattr(each.annotation, "__metadata__"):
            text = text or str(each.annotation.__metadata__[0])
        if positional(name, each.name):
            form = _place_or_choices(name, each)
            places.append(_Entry(form, f"{text}{_default(each.default, text)}"))
        else:
            plain.append(_option(each.name, each.annotation, each.default, text, pair=False))
    if places:
        yield "Arguments", "", places
    yield "Options", "", [*plain, *inlined]
    yield from nested


def _fields(kind: Any, prefix: str, pairs: bool) -> Iterator[tuple[str, str, list[_Entry]]]:
    """Yield the groups of options of a dataclass; its own come first."""
    hints, texts = get_type_hints(kind), field_docstrings(kind)
    own, nested = [], []
    for each in dataclasses.fields(kind):
        key, hint = f"{prefix}{each.name}", hints[each.name]
        if dataclasses.is_dataclass(hint):
            nested += _fields(hint, f"{key}.", pairs)
            continue
        text = texts.get(each.name, "")
        if isinstance(each.default, bool) and each.default and not pairs:
            text = each.metadata["off"]
        own.append(_option(key, hint, each.default, text, pair=pairs))
    title = f"{prefix.rstrip('.').capitalize()} options" if prefix else ""
    about = (inspect.getdoc(kind) or "") if prefix else ""
    yield title, " ".join(about.partition("\n\n")[0].split()), own
    yield from nested


_LONGEST = 50
"""Characters of choices beyond which they are listed in the text of an option."""


def _option(key: str, annotation: Any, default: Any, text: str, *, pair: bool) -> _Entry:
    """Return the entry of an option; `pair` is whether a switch has the forms --x and --no-x."""
    hint = bare(annotation)
    prefix, dot, name = key.replace("_", "-").rpartition(".")
    form, negated = f"--{prefix}{dot}{name}", f"--{prefix}{dot}no-{name}"
    if hint is bool:
        if not pair:
            return _Entry(negated if default else form, text)
        state = f"on; {negated} turns it off" if default else "off"
        return _Entry(f"{form}, {negated}", f"{text} (default: {state})")
    if default is inspect.Parameter.empty:
        text = f"{text} (required)"
    elif get_origin(hint) is tuple and ... in get_args(hint):
        text = f"{text} (repeatable)"
    if len(named := ", ".join(map(str, choices(hint)))) > _LONGEST:
        return _Entry(f"{form} {name.upper()}", f"{text} One of {named}.{_default(default, text)}")
    return _Entry(f"{form} {_value(key, hint, default)}", f"{text}{_default(default, text)}")


def _value(key: str, annotation: Any, default: Any = None) -> str:
    """Return the placeholder of an option's value."""
    hint, name = bare(annotation), key.rpartition(".")[2]
    kinds = {each for each in (hint, *get_args(hint)) if isinstance(each, type)}
    if choices(hint) or kinds & {int, float}:
        return metavar(hint) + ("|None" if default is not None and type(None) in kinds else "")
    return _VALUES.get(name, metavar(hint))


def _default(default: Any, text: str) -> str:
    """Return the default of an option, unless it is none or its text tells it."""
    if default in (None, "", (), False, inspect.Parameter.empty) and default != 0:
        return ""
    if default is False or "Default:" in text:
        return ""
    return f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
