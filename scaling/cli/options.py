"""Options shared by several commands, each with one type and one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

Json = Annotated[bool, "Print JSON instead of text."]

Latex = Annotated[bool, "Print a LaTeX table (booktabs) instead of text."]

Map = Annotated[
    tuple[str, ...],
    "Map columns of the table to symbols, such as loss=L,params=N,tokens=D. Expressions such as "
    "1e6*params_M=N are accepted, and so are patterns in text or in the name of the file, such as "
    "'{path:loss_N(\\d+)}=N'. Default: what is not mapped is guessed from the columns.",
]

Where = Annotated[
    str | None,
    'Use only the rows that satisfy this condition, such as "D == D.max()" or "n_layer > 1".',
]

Strict = Annotated[
    bool,
    "Refuse a table in which a finished run has no loss or a row occurs twice, instead of leaving "
    "these rows out.",
]

Rows = Annotated[
    str,
    "Evaluations that count if a run_id occurs more than once: the last of each run (last), all of "
    "them, the one with the lowest loss (best), or the loss at some tokens, such as at=2B. auto: "
    "the last, or all if there are fewer than 10 runs or if D at their ends follows N.",
]

Decimal = Annotated[
    str | None,
    "Decimal mark of the table's numbers: comma or point. Needed only if the table does not show "
    "it: 5,035 can be 5.035 or 5035.",
]

Level = Annotated[float, "Confidence level of the intervals."]

Seed = Annotated[
    int, "Seed for what is drawn at random: starting points, bootstrap draws, samples of text."
]

Objective = Annotated[
    Literal["auto", "huber", "ls", "lad"],
    "Objective to minimise: the Huber loss, least squares (ls) or least absolute deviations (lad). "
    "auto: huber.",
]

Delta = Annotated[
    float | None,
    "Threshold of the Huber loss, such as 1e-3 (Hoffmann et al. 2022). Default: set from the scale "
    "of the residuals.",
]

On = Annotated[
    Literal["log", "raw", "auto"],
    "Fit the logarithm of the loss, or the loss itself (raw). auto: the more likely of the two.",
]

Noise = Annotated[
    Literal["constant", "sizes", "auto"],
    "Weigh all rows alike (constant), or each by the inverse of its variance, which varies with "
    "the law's inputs and is estimated too (sizes). auto: sizes, if a test rejects a constant "
    "variance.",
]

Cluster = Annotated[
    str,
    "Column that identifies a run. Rows with the same value are resampled and held out together.",
]

Critical = Annotated[
    Path | None,
    "Results folder with several batch sizes, such as results/batch. It provides the critical "
    "batch size for runs at a single batch size.",
]

Filter = Annotated[
    tuple[str, ...],
    "Use only the runs that satisfy this condition, such as model.n_layer=2 or 'D<1e6'.",
]

Tag = Annotated[str | None, "Use only the runs with this tag."]
