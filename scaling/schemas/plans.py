"""Schemas of frontiers, plans, designs and forecasts."""

from __future__ import annotations

from scaling.schemas.fits import ACCURACIES, ESTIMATE, FIT, QUANTITY
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

_COUNT = record({"column": TEXT, "counts": TEXT}, "The column that was used, and what it counts.")

FRONTIER = define(
    "frontier",
    record(
        {
            "method": TEXT,
            "convention": TEXT,
            "params": _COUNT,
            "flops": _COUNT,
            "bias": maybe(named(NUMBER, "Bias of the method on the laws.")),
            "corrected": about(FLAG, "Whether the bias was subtracted."),
            "bias_laws": named(NUMBER, "Weights of the laws that the bias is measured on."),
            "exponents": many(
                record(
                    {
                        "exponent": about(TEXT, "N_opt, D_opt, L_opt, ...: a power of C."),
                        "value": NUMBER,
                        "low": NUMBER,
                        "high": NUMBER,
                        "reason": TEXT,
                    },
                    optional=("reason",),
                )
            ),
            "coefficients": named(NUMBER, "k of N_opt = k C^a, by quantity."),
            "optima": many(
                record({"C": NUMBER, "N": NUMBER, "D": NUMBER, "L": NUMBER}, more=PLAIN),
                "The points that the power laws are fitted to.",
            ),
            "range": named(pair(), "Smallest and largest value in the data."),
            "level": EXACT,
            "status": many(TEXT),
            "use": TEXT,
            "law": maybe(TEXT),
        },
        "A compute-optimal frontier by one method.",
    ),
)

_FRONTIERS = define(
    "frontiers",
    record(
        {"methods": named(FRONTIER), "skipped": named(TEXT, "Methods left out, with the reason.")},
        "The frontiers by every method that the data allow.",
    ),
)

_EFFICIENT = define(
    "efficient",
    record(
        {
            "exponents": many(
                record(
                    {"exponent": TEXT, "value": NUMBER, "low": NUMBER, "high": NUMBER,
                     "analytic": NUMBER, "paper": NUMBER},
                )
            ),
            "frontier": FRONTIER,
            "critical_batch": record(
                {
                    "contours": many(named(PLAIN)),
                    "law": maybe(FIT),
                    "status": many(TEXT),
                    "level": EXACT,
                }
            ),
            "steps": FIT,
        },
        "With --method kaplan: exponents of N, B, S and D in C_min.",
    ),
)  # fmt: skip

FRONTIERS: Schema = {"anyOf": [FRONTIER, _FRONTIERS, _EFFICIENT]}

_DOUBT = record({"code": TEXT, "text": TEXT})

_SHAPE = define(
    "shape",
    record(
        {
            "n_layer": WHOLE, "d_model": WHOLE, "n_head": WHOLE, "n_ctx": WHOLE, "N": WHOLE,
            "D": NUMBER, "N_kaplan": WHOLE, "d_ff": WHOLE, "in_family": FLAG, "outside": many(TEXT),
        },
        "A decoder of nearly N parameters, and in what it differs from the runs.",
    ),
)  # fmt: skip

_EXTRAPOLATION = define(
    "extrapolation",
    record(
        {
            "band": about(TEXT, "inside, tested, untested or unreliable."),
            "beyond": named(NUMBER, "How many times C, N and D lie outside the data."),
            "limits": named(NUMBER),
            "tested": about(NUMBER, "Factor in compute over which the law was tested."),
        }
    ),
)

_PLAN_FIELDS: dict[str, Schema] = {
    "asked": named(NUMBER, "What was asked for: C, N, D or L."),
    "C": QUANTITY,
    "N": QUANTITY,
    "D": QUANTITY,
    "L": QUANTITY,
    "tokens_per_parameter": QUANTITY,
    "PF_days": NUMBER,
    "shape": maybe(_SHAPE),
    "family_shape": maybe(_SHAPE),
    "deviations": many(
        record(
            {
                "factor": about(EXACT, "Times N."),
                "compute": about(QUANTITY, "Times C for the same loss."),
                "D": NUMBER,
            }
        ),
        "The price of other sizes.",
    ),
    "recipe": record(
        {
            "B": NUMBER,
            "S": NUMBER,
            "lr": NUMBER,
            "sources": named(TEXT),
            "beyond": named(NUMBER),
        },
        "Batch size [tokens], steps and learning rate.",
    ),
    "memory": ANYTHING,
    "tenfold": about(ANYTHING, "Growth of N, D, B and S, and the loss, at ten times the compute."),
    "inference_tokens": NUMBER,
    "beyond": named(NUMBER, "How many times C, N and D lie outside the data: 1 inside."),
    "extrapolation": _EXTRAPOLATION,
    "reliable": FLAG,
    "doubts": many(_DOUBT, "Why the plan is not reliable."),
    "status": many(TEXT),
    "source": TEXT,
    "level": EXACT,
}

_ONE_PLAN = define("one_plan", record(_PLAN_FIELDS, "The plan by one law."))

_CHOICE = define(
    "choice",
    record(
        {
            "law": TEXT,
            "rule": TEXT,
            "determined": FLAG,
            "tests": named(
                record(
                    {
                        "error": NUMBER,
                        "runs": WHOLE,
                        "reach": NUMBER,
                        "cuts": many(record({"C": NUMBER, "n_held": WHOLE, "error": NUMBER})),
                    }
                ),
                "Errors of each law on held-out larger runs.",
            ),
            "skipped": named(TEXT),
        },
        "How the law was chosen.",
    ),
)

_ON_TOP: dict[str, Schema] = {
    "budget": about(maybe(TEXT), "What buys the budget, such as 8 GPUs for 24 hours."),
    "abilities": ACCURACIES,
    "on_record": about(TEXT, "File of the record."),
}
_NOT_ALWAYS = ("abilities", "on_record")

PLAN = define(
    "plan",
    record(
        {
            **_PLAN_FIELDS,
            "verdict": many(TEXT),
            "choice": maybe(_CHOICE),
            "laws": named(_ONE_PLAN, "The plan by each law."),
            "skipped": named(TEXT, "Laws without a plan, with the reason."),
            "held_out": named(NUMBER, "Error of each law on held-out larger runs."),
            "disagreement": named(NUMBER, "Factors (of L: nats) by which the laws differ."),
            **_ON_TOP,
        },
        "The plan by the law that leads, and those by all laws.",
        optional=_NOT_ALWAYS,
    ),
)

_PREDICTION = define(
    "prediction",
    record(
        {
            "asked": named(NUMBER),
            "N": NUMBER,
            "D": NUMBER,
            "C": NUMBER,
            "L": NUMBER,
            "intervals": named(maybe(pair()), "Intervals of one new run's loss, by kind."),
            "level": EXACT,
            "laws": named(
                record(
                    {
                        "weight": NUMBER, "held_out": NUMBER, "formula": TEXT,
                        "params": named(NUMBER), "L": NUMBER, "low": NUMBER, "high": NUMBER,
                    }
                )
            ),
            "extrapolation": _EXTRAPOLATION,
            "unique_tokens": NUMBER,
            "nearby": record({"factors": many(EXACT), "L": many(many(NUMBER))}),
            "reliable": FLAG,
            "doubts": many(_DOUBT),
            "status": many(TEXT),
            **_ON_TOP,
        },
        "With --params and --tokens: the predicted loss of that run.",
        optional=_NOT_ALWAYS,
    ),
)  # fmt: skip

_SCORES = define(
    "scores",
    record(
        {
            "records": many(
                record(
                    {
                        "name": TEXT, "file": TEXT, "time": TEXT, "N": NUMBER, "D": NUMBER,
                        "L": NUMBER, "level": EXACT, "laws": named(NUMBER), "table": ANYTHING,
                        "scored": FLAG, "waiting": maybe(TEXT), "run": named(ANYTHING),
                        "predicted": NUMBER, "error_nats": NUMBER, "error_percent": NUMBER,
                        "intervals": named(maybe(pair())), "inside": named(maybe(FLAG)),
                        "other_laws_percent": named(NUMBER),
                    },
                    optional=(
                        "run", "predicted", "error_nats", "error_percent", "intervals", "inside",
                        "other_laws_percent",
                    ),
                )
            ),
            "n": WHOLE,
            "scored": WHOLE,
            "rms_percent": NUMBER,
            "coverage": named(record({"inside": WHOLE, "of": WHOLE})),
            "unreadable": many(TEXT),
        },
        "With --score: the predictions on record and what was measured.",
    ),
)  # fmt: skip

_SCHEDULE = define(
    "schedule",
    record(
        {
            "law": TEXT,
            "steps": WHOLE,
            "knots": many(record({"step": NUMBER, "lr": NUMBER}), "Linear in between."),
            "optim.knots": about(TEXT, "The same for a spec."),
            "loss": NUMBER,
            "low": NUMBER,
            "high": NUMBER,
            "level": EXACT,
            "gains": named(
                record({"loss": NUMBER, "gain": NUMBER, "low": NUMBER, "high": NUMBER}),
                "Gain over other schedules.",
            ),
            "notes": many(TEXT),
        },
        "With --schedule: the best learning-rate schedule.",
    ),
)

PLANS: Schema = {"anyOf": [PLAN, _PREDICTION, _SCORES, _SCHEDULE]}

_POINT = record({"N": NUMBER, "D": NUMBER, "C": NUMBER})

_DESIGN = define(
    "design",
    record(
        {
            "target": TEXT,
            "law": TEXT,
            "value": NUMBER,
            "level": EXACT,
            "half_width": named(NUMBER, "Half-width of the target's interval, by design."),
            "budget": EXACT,
            "C": about(EXACT, "FLOPs of the chosen runs."),
            "noise": NUMBER,
            "kept": about(FLAG, "Whether the existing runs count."),
            "runs": many(record({"N": NUMBER, "D": NUMBER, "C": NUMBER}, more=PLAIN)),
            "kind": TEXT,
            "rival": maybe(TEXT),
            "grid": many(_POINT),
            "sets": named(many(_POINT)),
            "checks": many(record({"N": NUMBER, "D": NUMBER, "times_lr": NUMBER})),
        }
    ),
)

_ACHIEVED = define(
    "achieved",
    record(
        {
            "target": TEXT,
            "before": NUMBER,
            "expected": NUMBER,
            "grid": NUMBER,
            "achieved": {"anyOf": [ESTIMATE, many(NUMBER)]},
        },
        "With --achieved: half-widths before the sweep, expected, and the estimate after it.",
    ),
)

DESIGNS: Schema = {"anyOf": [_DESIGN, _ACHIEVED]}

FORECASTS: Schema = many(
    record(
        {
            "run": TEXT,
            "status": TEXT,
            "loss": about(NUMBER, "Median of the final loss."),
            "low": NUMBER,
            "high": NUMBER,
            "level": EXACT,
            "steps": NUMBER,
            "steps_left": NUMBER,
            "seconds_left": NUMBER,
            "flops_left": NUMBER,
            "p_best": about(NUMBER, "Probability of ending below the best finished run."),
            "off_law": maybe(named(ANYTHING)),
            "points": WHOLE,
            "N": NUMBER,
            "D": NUMBER,
        },
        "The final loss of one run that has not finished.",
    )
)
