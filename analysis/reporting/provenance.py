"""Where the runs of a page come from: the manifest of a results folder, read and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.reporting.elements import details, escape, marked_up, table
from scaling.errors import TableError
from scaling.files import decode, read_bytes

_TYPES: dict[str, type] = {
    "name": str, "description": str, "revision": str, "versions": dict, "machine": dict,
    "spec": str, "changes": dict, "corpus_hashes": dict, "sessions": list,
}  # fmt: skip
"""Types of the values of a manifest, by key; null stands for unknown."""
_TYPE_NAMES = {str: "a string", dict: "an object", list: "a list", bool: "true or false"}
_FOLDED = ("spec", "sessions", "description")
"""Keys that are not in the table: they are shown elsewhere, or are long."""
_LONGEST = 300
"""Most characters of a value in the table; the folded JSON has all of it."""


def manifest_of(folder: Path) -> dict[str, Any]:
    """Read the manifest of a results folder, empty if missing. Raises TableError if it is
    damaged."""
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    cure = (
        "Remove it: the next `scaling sweep` writes it again, and without it a report has no "
        "provenance."
    )
    try:
        manifest = json.loads(decode(read_bytes(path)))
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path} cannot be read as JSON ({error}). {cure}") from None
    if not isinstance(manifest, dict):
        raise TableError(f"{path} must be a JSON object, not {_type_name(manifest)}. {cure}")
    for key, kind in _TYPES.items():
        if not isinstance(value := manifest.get(key), kind | None):
            raise TableError(
                f"{path}: {key!r} must be {_TYPE_NAMES[kind]}, not {_type_name(value)}. {cure}"
            )
    return manifest


def section(manifest: dict[str, Any]) -> list[str]:
    """Return the manifest as a table, with the spec and the whole JSON folded; nothing without
    one."""
    if not manifest:
        return []
    rows = [
        (marked_up(escape(name)), f'<td class="long">{escape(text)}</td>')
        for name, text in _rows(manifest)
    ]
    out = ["<h2>Provenance</h2>"]
    if rows:
        out.append(table(("what", "value"), rows, label="Provenance"))
    if manifest.get("spec"):
        out.append(details("The spec", f"<pre>{escape(manifest['spec'])}</pre>"))
    whole = json.dumps(manifest, ensure_ascii=False, indent=1)
    return [*out, details("All of it, as JSON", f"<pre>{escape(whole)}</pre>")]


def _rows(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and values; each entry of an object has a row of its own."""
    for key, value in manifest.items():
        if key in _FOLDED or value in (None, {}, []):
            continue
        if isinstance(value, dict):
            yield from ((f"{key}: {name}", _text(each)) for name, each in value.items())
        else:
            yield key, _text(value)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _type_name(value: Any) -> str:
    return "null" if value is None else _TYPE_NAMES.get(type(value), "a number")
