"""Schemas of fits of laws, and of their tests on held-out runs."""

from __future__ import annotations

from scaling.schemas.notation import (
    ANYTHING,
    EXACT,
    FLAG,
    NUMBER,
    PLAIN,
    TEXT,
    WHOLE,
    Schema,
    about,
    define,
    many,
    maybe,
    named,
    pair,
    record,
)

ESTIMATE = define(
    "estimate",
    record(
        {"value": NUMBER, "stderr": NUMBER, "low": NUMBER, "high": NUMBER},
        "A value with its standard error and the ends of its interval of `level`.",
    ),
)

CERTIFICATE = define(
    "certificate",
    record(
        {
            "rows": about(WHOLE, "Rows that were fitted."),
            "groups": about(WHOLE, "Runs, which are resampled as a whole."),
            "delta": about(NUMBER, "Threshold of the Huber loss."),
            "starts": about(WHOLE, "Starting points of the search."),
            "share": about(NUMBER, "Fraction of the starts that reached the minimum."),
            "reached": WHOLE,
            "gap": about(NUMBER, "Relative height of the next minimum; null without another."),
            "gradient": about(NUMBER, "Largest cosine of residuals and gradients; 0 at a minimum."),
            "condition": about(NUMBER, "Condition number of the problem."),
            "at_bound": many(TEXT, "Parameters at the end of their range."),
            "wrong_sign": many(TEXT),
            "not_identified": many(TEXT, "Parameters whose intervals say nothing."),
            "undetermined": many(TEXT),
            "correlated": many(many(PLAIN), "[parameter, parameter, correlation]"),
            "left_out": named(WHOLE, "Rows left out, by reason."),
            "intervals": TEXT,
            "freedom": about(NUMBER, "Degrees of freedom."),
            "size_effect": about(NUMBER, "Error that the runs of each N share."),
            "size_p": NUMBER,
            "resamples": about(NUMBER, "Fraction of bootstrap draws that converged."),
            "rescued": WHOLE,
            "overflowed": NUMBER,
        },
        "The evidence that the fit is the minimum, and that its constants are identified.",
        optional=("resamples", "rescued", "overflowed"),
    ),
)

REFERENCE = define(
    "reference",
    record(
        {"at": named(NUMBER), "value": ESTIMATE, "exponents": named(ESTIMATE)},
        "The law's value and local exponents at the geometric mean of the rows.",
    ),
)

MEMBER = define(
    "member",
    record(
        {
            "weight": NUMBER,
            "held_out": about(NUMBER, "Error of ln L on held-out larger runs."),
            "law": TEXT,
            "loss": TEXT,
            "params": named(NUMBER),
            "prior_share": ANYTHING,
        },
        "One law of the combined fit `auto`.",
    ),
)

FIT = define(
    "fit",
    record(
        {
            "law": TEXT,
            "formula": TEXT,
            "n": about(WHOLE, "Rows that were fitted."),
            "left_out": named(WHOLE, "Rows left out, by reason."),
            "loss": about(TEXT, "The objective in words."),
            "objective": NUMBER,
            "level": EXACT,
            "intervals": about(TEXT, "How the intervals were computed."),
            "params": named(ESTIMATE, "The parameters of the law, by name."),
            "derived": named(ESTIMATE, "Quantities that follow from the parameters."),
            "reference": REFERENCE,
            "status": many(TEXT),
            "certificate": CERTIFICATE,
            "noise": record(
                {"constant": NUMBER, "exponents": named(NUMBER), "p": NUMBER},
                "The variance of the residuals as a power law of the inputs.",
            ),
            "timings": named(EXACT, "Seconds of each part."),
            "laws": named(MEMBER, "The laws of the fit `auto`."),
            "skipped": named(TEXT, "Laws that could not be fitted, with the reason."),
        },
        optional=("noise", "laws", "skipped"),
    ),
)

FITS: Schema = {
    "description": "One fit, or a list if several laws are given.",
    "anyOf": [FIT, many(FIT)],
}

LAWS: Schema = many(
    record(
        {
            "name": TEXT,
            "formula": TEXT,
            "inputs": about(TEXT, "Columns, separated by commas."),
            "parameters": TEXT,
            "target": TEXT,
            "source": TEXT,
        },
        more=PLAIN,
    ),
    "The laws that can be fitted.",
)

_TEST = define(
    "validation",
    record(
        {
            "law": TEXT,
            "by": about(TEXT, "Column whose largest values are held out."),
            "level": EXACT,
            "supported": FLAG,
            "verdict": many(TEXT),
            "likelihood": TEXT,
            "backtest": many(
                record(
                    {
                        "cut": about(NUMBER, "Runs up to this value of `by` are fitted."),
                        "n_fit": WHOLE,
                        "n_held": WHOLE,
                        "error": about(NUMBER, "Root mean square error of ln L on the others."),
                        "bias": NUMBER,
                        "coverage": about(NUMBER, "Fraction of them within their intervals."),
                    },
                    more=NUMBER,
                )
            ),
            "scales": many(
                record({"n_held": WHOLE, "error": NUMBER, "bias": NUMBER}, more=PLAIN),
                "Each size predicted from the others.",
            ),
            "laws": many(
                record(
                    {
                        "law": TEXT,
                        "q": about(WHOLE, "Number of parameters."),
                        "aicc": about(NUMBER, "AICc above that of the best law."),
                        "error": NUMBER,
                        "held_out": NUMBER,
                        "left_out": NUMBER,
                        "status": maybe(TEXT),
                    },
                    more=PLAIN,
                ),
                "The law and its rivals.",
            ),
        }
    ),
)

_REGRET = define(
    "regret",
    record(
        {
            "regret": many(
                record(
                    {
                        "rule": TEXT,
                        "decision": TEXT,
                        "cut": NUMBER,
                        "n_fit": WHOLE,
                        "C": NUMBER,
                        "factor": NUMBER,
                        "nats": about(NUMBER, "Loss at the advice minus that of the best run."),
                        "flops": about(NUMBER, "Compute to make up for them."),
                        "at_least": FLAG,
                    },
                    more=PLAIN,
                )
            ),
            "summary": many(
                record({"decision": TEXT, "rule": TEXT, "n": WHOLE, "nats": NUMBER}, more=PLAIN)
            ),
            "absent": many(TEXT, "Decisions that these runs cannot judge, with the reason."),
        },
        "With --regret: what it loses to act on the laws' advice.",
    ),
)

VALIDATE: Schema = {"anyOf": [_TEST, _REGRET]}

BACKTEST: Schema = record(
    {
        "rows": many(
            record(
                {
                    "table": TEXT,
                    "group": TEXT,
                    "law": maybe(TEXT),
                    "rule": TEXT,
                    "axis": TEXT,
                    "factor": about(NUMBER, "Runs this many times larger were predicted."),
                    "rms": about(NUMBER, "Root mean square error of ln L."),
                    "bias": NUMBER,
                    "coverage": NUMBER,
                    "width": NUMBER,
                    "log_score": NUMBER,
                    "n": WHOLE,
                    "n_fit": WHOLE,
                },
                more=PLAIN,
            )
        ),
        "summary": many(
            record(
                {"axis": TEXT, "rule": TEXT, "cells": WHOLE, "groups": WHOLE, "rms": NUMBER,
                 "ratio": about(NUMBER, "Error divided by that of the baseline.")},
                more=PLAIN,
            )
        ),
        "groups": many(record({"axis": TEXT, "rule": TEXT, "group": TEXT}, more=PLAIN)),
        "baseline": TEXT,
        "level": EXACT,
        "skipped": named(ANYTHING, "Tables that were not tested, with the reason."),
        "failed": named(ANYTHING, "Rules that failed on a table, with the reason."),
    }
)  # fmt: skip

_FINDING = record(
    {
        "code": TEXT,
        "text": TEXT,
        "cost_nats": NUMBER,
        "cost_flops": NUMBER,
        "cost_at": about(NUMBER, "The costs are those at this many times the compute."),
    },
    "A fault of the claim, with its facts and its cost.",
    more=ANYTHING,
)

AUDIT: Schema = record(
    {
        "claim": record(
            {
                "law": TEXT,
                "params": named(NUMBER),
                "rounding": named(NUMBER),
                "objective": maybe(TEXT),
                "delta": NUMBER,
                "on": maybe(TEXT),
                "rows": ANYTHING,
                "held_out": ANYTHING,
                "fixed": maybe(many(TEXT)),
                "map": named(TEXT),
                "convention": named(ANYTHING),
                "source": TEXT,
            }
        ),
        "n": WHOLE,
        "objective": record(
            {"what": TEXT, "at_claim": NUMBER, "within_rounding": NUMBER, "at_minimum": NUMBER}
        ),
        "rederived": named(NUMBER, "The parameters at the minimum."),
        "held": many(TEXT, "Parameters that stayed at the claimed value."),
        "findings": many(_FINDING),
        "predictions": many(named(PLAIN)),
    }
)

VERIFY: Schema = record({"ok": FLAG, "rows": many(named(PLAIN), "Published and refitted values.")})

QUANTITY = define(
    "quantity",
    record(
        {
            "value": NUMBER,
            "low": NUMBER,
            "high": NUMBER,
            "reason": about(TEXT, "Why an end is null, such as 'not identified'."),
        },
        "A value with the ends of its interval of `level`.",
        optional=("reason",),
    ),
)

COMPARE: Schema = record(
    {
        "A": TEXT,
        "B": TEXT,
        "law": TEXT,
        "share": about(TEXT, "What the laws of the two recipes share."),
        "floor": maybe(QUANTITY),
        "floor_pinned": FLAG,
        "n": named(WHOLE, "Runs of each recipe."),
        "level": EXACT,
        "target": about(NUMBER, "Compute at which the recipes are compared."),
        "L": record({"A": QUANTITY, "B": QUANTITY}),
        "better": maybe(TEXT),
        "speedup": QUANTITY,
        "probability_A_better": NUMBER,
        "by_compute": many(named(PLAIN)),
        "crossover": record(
            {
                "value": NUMBER, "low": NUMBER, "high": NUMBER, "reason": TEXT,
                "better_below": maybe(TEXT), "none_found": FLAG, "probability": NUMBER,
            },
            "Compute at which the better recipe changes.",
            optional=("reason",),
        ),
        "choices": many(named(PLAIN), "Choices that smaller runs would have made."),
        "why_no_choices": TEXT,
        "params": named(ESTIMATE),
        "status": many(TEXT),
    }
)  # fmt: skip

TRANSFER: Schema = record(
    {
        "cells": many(named(PLAIN), "Effective data at each N and D_F."),
        "law": maybe(
            record(
                {
                    "k": NUMBER, "alpha": NUMBER, "beta": NUMBER, "intervals": named(pair()),
                    "cells": WHOLE, "rms": NUMBER,
                },
                "D_T = k D_F^alpha N^beta.",
            )
        ),
        "parents": many(PLAIN),
        "untuned": about(
            named(many(WHOLE)),
            "Of each arm, the cells whose best learning rate is an end of those tried, and all.",
        ),
        "level": EXACT,
        "noise": NUMBER,
        "stable": NUMBER,
    }
)  # fmt: skip

_TASK = record(
    {
        "task": TEXT,
        "shots": WHOLE,
        "metric": TEXT,
        "code": about(TEXT, "Verdict, such as predictable or at_chance."),
        "text": TEXT,
        "runs": NUMBER,
        "items": NUMBER,
        "chance": NUMBER,
        "best": NUMBER,
        "noise": NUMBER,
        "form": maybe(TEXT),
        "error": NUMBER,
        "r2": NUMBER,
        "r2_ceiling": NUMBER,
        "errors": named(NUMBER),
        "params": named(NUMBER),
        "ceiling_held": FLAG,
        "certificate": CERTIFICATE,
        "given_loss": NUMBER,
        "constant": NUMBER,
        "skill": NUMBER,
        "skill_low": NUMBER,
    },
    optional=(
        "params", "ceiling_held", "certificate", "given_loss", "constant", "skill", "skill_low",
    ),
)  # fmt: skip

ACCURACIES = define(
    "accuracies",
    record(
        {
            "N": NUMBER,
            "D": NUMBER,
            "level": EXACT,
            "accuracy": named(
                record({"value": NUMBER, "low": NUMBER, "high": NUMBER}), "Accuracy by task."
            ),
            "left_out": named(many(TEXT), "Tasks without a prediction, by reason."),
        },
        "The accuracies predicted for one run.",
    ),
)

ABILITIES: Schema = record(
    {"tasks": many(_TASK), "other": ANYTHING, "prediction": maybe(ACCURACIES)}
)
