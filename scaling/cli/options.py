"""Options that several commands have: one type and one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

Json = Annotated[bool, "Print JSON instead of text."]

Latex = Annotated[bool, "Print a LaTeX table (booktabs) instead of text."]

Map = Annotated[
    tuple[str, ...],
    "Columns of the table and their symbols, such as loss=L,params=N,tokens=D. An expression may stand "
    "for a column, such as 1e6*params_M=N or 10**log10_flops=C. May be given more than once.",
]

Where = Annotated[
    str | None, 'Keep only the rows that match, such as "D == D.max()" or "n_layer > 1".'
]

Level = Annotated[float, "Confidence level of the intervals."]

Seed = Annotated[int, "Seed of the random starting points and bootstrap draws."]

Objective = Annotated[
    Literal["auto", "huber", "ls", "lad"],
    "Huber, least squares or least absolute deviations; auto is Huber, or least squares for fewer "
    "than 25 runs.",
]

Delta = Annotated[
    float | None,
    "Huber's threshold. The default is tied to the residual scale; Hoffmann et al. used 1e-3.",
]

On = Annotated[Literal["log", "raw"], "Fit the log of the loss, or the loss itself."]

Cluster = Annotated[
    str, "The column whose equal values mark one run, whose rows are drawn and held out together."
]

Critical = Annotated[
    Path | None,
    "A results folder with several batch sizes, such as results/batch, that gives the critical batch "
    "size to runs with only one.",
]

Filter = Annotated[
    tuple[str, ...],
    "Keep only the runs for which this holds, such as model.n_layer=2 or 'D<1e6'. May be given more "
    "than once.",
]

Tag = Annotated[str | None, "Keep only the runs with this tag."]
