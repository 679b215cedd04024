"""Outputs of commands with --json compared with their published schemas."""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Iterator
from typing import Any

import pytest

from scaling import schemas


def closed(schema: Any) -> Any:
    """Return a schema that allows no field beside those that it names."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


def faults(command: str, value: Any) -> list[str]:
    """Return how an output differs from the schema of its command, fields not named included."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    validator = Draft202012Validator(closed(schemas.schema(command)))
    found = []
    for error in validator.iter_errors(value):
        near = best_match([error]) or error
        found.append(f"{near.json_path}: {near.message[:300]}")
    return found


@contextlib.contextmanager
def checked() -> Iterator[list[str]]:
    """Compare all that commands of this process print as JSON within the block with the schemas;
    gives the list of the commands that did. Raises AssertionError for an output that differs."""
    running, seen = [""], []
    with pytest.MonkeyPatch.context() as patch:
        from scaling.cli import app, output

        parse_and_call = app.parse_and_call

        def remember(name: str, *rest: Any) -> None:
            running[0] = name
            parse_and_call(name, *rest)

        def dumps(value: Any, **options: Any) -> str:
            text = json.dumps(value, **options)
            if running[0] in schemas.COMMANDS:
                wrong = faults(running[0], json.loads(text))
                assert not wrong, f"scaling {running[0]} --json: {wrong}"
                seen.append(running[0])
            return text

        patch.setattr(app, "parse_and_call", remember)
        patch.setattr(output, "json", types.SimpleNamespace(dumps=dumps))
        yield seen
