"""Schemas of runs, their scores and samples, and of what a table holds."""

from __future__ import annotations

from scaling.schemas.notation import (
    ANYTHING,
    FLAG,
    NUMBER,
    PLAIN,
    TEXT,
    WHOLE,
    Schema,
    about,
    many,
    maybe,
    named,
    pair,
    record,
)

TRAIN: Schema = record(
    {
        "run_id": TEXT,
        "status": TEXT,
        "L": about(NUMBER, "Test loss in nats per token."),
        "N": NUMBER,
        "D": NUMBER,
        "C": NUMBER,
        "B": NUMBER,
        "S": NUMBER,
        "tests": named(NUMBER, "Loss on each test corpus."),
    },
    "The row of the run; docs/reference/columns.md describes all columns.",
    more=ANYTHING,
)

EVAL: Schema = record(
    {
        "table": maybe(TEXT),
        "evaluated": NUMBER,
        "runs": many(
            record(
                {
                    "run_id": maybe(TEXT), "N": NUMBER, "D": NUMBER, "C": NUMBER, "L": NUMBER,
                    "bits_per_byte": NUMBER,
                }
            )
        ),
        "rows": many(
            record(
                {
                    "run_id": maybe(TEXT), "task": TEXT, "version": TEXT, "shots": WHOLE,
                    "metric": TEXT, "n": WHOLE, "value": NUMBER, "stderr": NUMBER, "nll": NUMBER,
                    "bits_per_byte": NUMBER, "p_gold": NUMBER, "chance": NUMBER, "main": FLAG,
                },
                more=PLAIN,
            ),
            "One row per run, task and metric.",
        ),
    }
)  # fmt: skip

HARNESS: Schema = record({"tasks": named(named(ANYTHING))}, more=ANYTHING)

_WRITER: dict[str, Schema] = {"run_id": TEXT, "N": NUMBER, "D": NUMBER, "L": NUMBER}

_SAMPLES = record(
    {
        "settings": named(ANYTHING),
        "samples": many(
            record(
                {
                    **_WRITER, "prompt": TEXT, "text": TEXT, "tokens": WHOLE, "ended": TEXT,
                    "logprob": NUMBER, "score": NUMBER, "repeated": NUMBER,
                    "bits_per_byte": about(NUMBER, "Under the judge; null without one."),
                }
            )
        ),
    }
)  # fmt: skip

_JUDGED = record(
    {
        "settings": named(ANYTHING),
        "judge": record(_WRITER),
        "judged": many(record(_WRITER, more=ANYTHING)),
    },
    "With --judge and no prompts: models that continue held-out text, beside people.",
)

GENERATE: Schema = {"anyOf": [_SAMPLES, _JUDGED]}

EXPORT_MODEL: Schema = record(
    {
        "folder": TEXT,
        "architecture": TEXT,
        "files": many(TEXT),
        "run_id": maybe(TEXT),
        "parameters": WHOLE,
        "notes": many(TEXT),
    }
)

INSPECT: Schema = record(
    {
        "columns": many(
            record(
                {
                    "name": TEXT,
                    "means": about(maybe(TEXT), "Symbol that it was taken for; null for none."),
                    "unit": maybe(TEXT),
                    "range": maybe(pair(PLAIN)),
                },
                more=ANYTHING,
            )
        ),
        "allows": named(ANYTHING, "Laws, frontier methods and figures that the table allows."),
        "missing": about(ANYTHING, "What the others lack."),
        "suspicious": many(named(ANYTHING), "Rows that look like mistakes, with the reason."),
    },
    "What a table holds.",
    more=ANYTHING,
)
