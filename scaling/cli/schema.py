"""The command that publishes the schemas of what commands print as JSON."""

from __future__ import annotations

from scaling.cli.output import show, show_json


def schema(name: str = "") -> None:
    """Print the JSON Schema of the JSON that a command prints.

    Example: scaling schema plan
    Example: scaling schema

    Args:
        name: A command with the option --json, such as fit, plan or frontier. Default: all
            commands are listed.
    """
    from scaling import schemas

    if name:
        show_json(schemas.schema(name))
    else:
        show(*schemas.COMMANDS)
