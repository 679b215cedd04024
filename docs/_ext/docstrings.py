"""Docstrings of this project as reStructuredText.

They are plain text: indented blocks are code, single backticks are names, and parameters are
listed as `name: meaning` or as `name  meaning`, with or without the line `Arguments:` above them.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(?::\w+:)?(`+)(.+?)\1")
_ENTRY = re.compile(r"((?:[a-z_]\w*|[A-Z])(?:, (?:[a-z_]\w*|[A-Z]))*)(?:: +| {2,})(\S.*)")

_HEADING = "Arguments:\n"
_LARGEST = 4
"""A dataclass of more fields is the result of a function rather than an argument."""


def rst(text: str, names: frozenset[str] = frozenset()) -> str:
    """Convert a docstring to reStructuredText; entries for `names` become its parameters."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(text))
    made, code = [], False
    for block in blocks:
        if block.startswith(_HEADING):
            block = inspect.cleandoc(block.removeprefix(_HEADING))
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            made.append(block if code else f"::\n\n{block}")
            code = True
            continue
        code = False
        made.append(_entries(lines, names) or _prose(block))
    return "\n\n".join(made)


def _entries(lines: list[str], names: frozenset[str]) -> str:
    """Return a block of entries as fields or as a definition list, and any other block as ''."""
    starts = [_ENTRY.fullmatch(line) for line in lines if not line.startswith(" ")]
    if not starts or not all(starts) or lines[0].startswith(" "):
        return ""
    entries: list[tuple[str, str]] = []
    for line in lines:
        if match := None if line.startswith(" ") else _ENTRY.fullmatch(line):
            entries.append((match[1], match[2]))
        else:
            name, meaning = entries.pop()
            entries.append((name, f"{meaning} {line.strip()}"))
    known = all(set(name.split(", ")) <= names for name, _ in entries)
    if known:
        fields = [(name.replace(", ", ","), meaning) for name, meaning in entries]
        return "\n".join(f":param {name}: {_prose(meaning)}" for name, meaning in fields)
    return "\n".join(f"``{name}``\n    {_prose(meaning)}" for name, meaning in entries)


def _prose(text: str) -> str:
    """Set names in backticks as code, and escape whatever else reStructuredText would interpret."""
    made, at = [], 0
    for match in _CODE.finditer(text):
        code = " ".join(match[2].split()).lstrip("~")
        made += [_escape(text[at : match.start()]), f"``{code}``\\ "]
        at = match.end()
    return "".join([*made, _escape(text[at:])])


def _escape(text: str) -> str:
    text = re.sub(r"([\\*|`@])", r"\\\1", text)
    text = re.sub(r"(\w)_(?!\w)", r"\1\\_", text)
    return re.sub(r"^(\s*)([=+~^\"'.]{3,}|\.\.)", r"\1\\\2", text, flags=re.M)


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    names: frozenset[str] = frozenset()
    if what in ("function", "method"):
        with contextlib.suppress(TypeError, ValueError):
            names = frozenset(inspect.signature(obj).parameters)
    lines[:] = rst("\n".join(lines), names).splitlines()


def _shorten(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, given: str | None, gives: str | None
) -> tuple[str | None, str | None]:
    """Drop modules from names of types, and the signature of records that users do not make."""
    if what == "class" and len(getattr(obj, "__dataclass_fields__", ())) > _LARGEST:
        return "", None
    return (re.sub(r"~[\w.]+\.", "", given) if given else given), gives


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", _shorten)
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
