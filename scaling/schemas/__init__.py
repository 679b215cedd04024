"""JSON Schemas (draft 2020-12) of what commands with --json print.

A new command with --json has an entry in `COMMANDS`; tests/test_schema.py compares the outputs of
all commands with their schemas. Fields may be added to an output, and consumers should ignore those
that they do not know; no field changes its meaning or goes.
"""

from __future__ import annotations

from scaling.errors import ConfigError, did_you_mean
from scaling.schemas import fits, plans, runs
from scaling.schemas.notation import DEFINITIONS, Schema, references

DRAFT = "https://json-schema.org/draft/2020-12/schema"

COMMANDS: dict[str, Schema] = {
    "inspect": runs.INSPECT,
    "fit": fits.FITS,
    "laws": fits.LAWS,
    "validate": fits.VALIDATE,
    "backtest": fits.BACKTEST,
    "audit": fits.AUDIT,
    "verify-published": fits.VERIFY,
    "compare": fits.COMPARE,
    "transfer": fits.TRANSFER,
    "abilities": fits.ABILITIES,
    "frontier": plans.FRONTIERS,
    "plan": plans.PLANS,
    "design": plans.DESIGNS,
    "forecast": plans.FORECASTS,
    "train": runs.TRAIN,
    "eval": runs.EVAL,
    "harness": runs.HARNESS,
    "generate": runs.GENERATE,
    "export-model": runs.EXPORT_MODEL,
}
"""The schema of each command's JSON, without its definitions."""


def schema(command: str) -> Schema:
    """Return the whole schema of `scaling COMMAND --json`; raises ConfigError for another word."""
    if command not in COMMANDS:
        raise ConfigError(
            f"no schema is called {command!r}.{did_you_mean(command, COMMANDS)} There are "
            f"{', '.join(COMMANDS)}."
        )
    body = COMMANDS[command]
    needed = references(body)
    definitions = {name: each for name, each in DEFINITIONS.items() if name in needed}
    whole: Schema = {"$schema": DRAFT, "title": f"scaling {command} --json", **body}
    return whole | ({"$defs": definitions} if definitions else {})
