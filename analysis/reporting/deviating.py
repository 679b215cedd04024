"""What other sizes than the best one cost: a figure of the loss, and a table.

The page's script draws the figure, and writes new numbers into the table when a reader changes the
question (`planner_sections.js`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.frontiers.result import Frontier
from analysis.planning.plan import Plan
from analysis.planning.price import deviation, loss_over_best
from analysis.planning.quantity import Quantity
from analysis.reporting.elements import (
    canvas,
    count,
    live,
    loss,
    marked_up,
    number,
    numeric,
    percent,
    table,
)
from analysis.reporting.evidence import law_frontier
from analysis.reporting.plan_cards import budget_words, with_interval
from analysis.reporting.summary import Summary

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes in the table, as multiples of the best."""
FLAT = 0.005
"""Sizes whose loss is within this share of the best are as good as it."""
_HEADER = (
    "size", "N", "D at this compute", "loss", "loss above the best", "compute for the same loss",
    "D for the same loss",
)  # fmt: skip


def section(summary: Summary) -> list[str]:
    """Return what other sizes cost; nothing without a law of N and D."""
    front, plan = law_frontier(summary), summary.plan
    if front is None or front.fit is None or plan is None:
        return []
    words = budget_words(plan.C.value, float(summary.runs["C"].max()))
    rows = [
        [
            marked_up(f'<span data-factor="{factor:g}">{factor:g} × best</span>'),
            *(numeric(live(key, text)) for key, text in _row(front, plan, factor)),
        ]
        for factor in FACTORS
    ]
    figure = "Loss above that of the best size, against the number of parameters, at one compute."
    return [
        "<h2>What it costs to deviate</h2>",
        '<div id="deviating">',
        '<figure class="plot">',
        canvas("deviation", figure),
        '<figcaption id="deviation-words"></figcaption></figure>',
        f"<p>Other sizes with {live('budget', words)}, and the compute and tokens with which they "
        "would reach the loss of the best size:</p>",
        table(_HEADER, rows, label="The price of other sizes", name="planner-cost"),
        "</div>",
    ]


def _row(front: Frontier, best: Plan, factor: float) -> Iterator[tuple[str, str]]:
    """Yield the key and the text of each number of a size."""
    assert front.fit is not None
    N = factor * best.N.value
    D = (best.C.value - 2 * N * best.served) / float(front.per_token(N))
    yield "N", count(N)
    yield "D", count(D)
    with np.errstate(all="ignore"):
        yield "L", loss(float(front.fit.predict(N=N, D=D)))
    if factor == 1:
        yield from (("over", "–"), ("price", "1"), ("tokens", count(D)))
        return
    at: dict[str, Any] = {"N": best.N.value, "D": best.D.value, "level": best.level}
    over = Quantity(*(x - 1 for x in loss_over_best(front, factor=factor, **at)))
    yield "over", with_interval(over, lambda share: percent(share, signed=True), vast=None)
    found = deviation(front, factor=factor, **at)
    reached = found.compute.value < np.inf
    words = with_interval(found.compute, number).replace(" <", "× <")
    yield "price", words if reached else "no amount of data reaches it"
    yield "tokens", count(found.D) if np.inf > found.D else "–"
