"""Short notation for JSON Schema (draft 2020-12), and the definitions that schemas share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": ["number", "null"]}
"""A number; null stands for one that is unknown or not finite."""
EXACT: Schema = {"type": "number"}
"""A number that is always known."""
PLAIN: Schema = {"type": ["string", "number", "boolean", "null"]}
ANYTHING: Schema = {}

DEFINITIONS: dict[str, Schema] = {}
"""Definitions by name, which :func:`ref` points to."""


def about(schema: Schema, description: str) -> Schema:
    """Return the schema with a description."""
    return {**schema, "description": description}


def maybe(schema: Schema) -> Schema:
    """Return a schema that also accepts null."""
    kind = schema.get("type")
    if isinstance(kind, str) and kind in ("string", "integer", "boolean"):
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def many(items: Schema, description: str = "") -> Schema:
    """Return the schema of a list."""
    schema = {"type": "array", "items": items}
    return about(schema, description) if description else schema


def pair(items: Schema = NUMBER) -> Schema:
    """Return the schema of a list of two, such as the ends of an interval."""
    return {"type": "array", "items": items, "minItems": 2, "maxItems": 2}


def named(values: Schema, description: str = "") -> Schema:
    """Return the schema of an object whose keys are names of any kind."""
    schema = {"type": "object", "additionalProperties": values}
    return about(schema, description) if description else schema


def record(
    fields: Mapping[str, Schema],
    description: str = "",
    *,
    optional: Iterable[str] = (),
    more: Schema | None = None,
) -> Schema:
    """Return the schema of an object.

    optional: the fields that may be absent; all others are required.
    more: schema of further fields whose names depend on the data.
    """
    absent = {*optional}
    schema: Schema = {"type": "object"}
    if description:
        schema["description"] = description
    schema["properties"] = dict(fields)
    schema["required"] = [name for name in fields if name not in absent]
    if more is not None:
        schema["additionalProperties"] = more
    return schema


def ref(name: str, description: str = "") -> Schema:
    """Return a reference to a definition."""
    schema: Schema = {"$ref": f"#/$defs/{name}"}
    return about(schema, description) if description else schema


def define(name: str, schema: Schema) -> Schema:
    """Add a definition, and return a reference to it."""
    DEFINITIONS[name] = schema
    return ref(name)


def references(schema: Any) -> set[str]:
    """Return the names of the definitions that a schema needs, directly or not."""
    found: set[str] = set()
    due = [schema]
    while due:
        each = due.pop()
        if isinstance(each, Mapping):
            name = str(each.get("$ref", "")).removeprefix("#/$defs/")
            if name and name not in found:
                found.add(name)
                due.append(DEFINITIONS[name])
            due += each.values()
        elif isinstance(each, list):
            due += each
    return found
