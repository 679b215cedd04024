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
    interval,
    live,
    loss,
    marked_up,
    number,
    numeric,
    percent,
    table,
)
from analysis.reporting.evidence import law_frontier
from analysis.reporting.plan_cards import budget_words
from analysis.reporting.summary import Summary

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes in the table, as multiples of the best."""
FLAT = 0.005
"""Sizes whose loss is within this share of the best are as good as it."""
_HEADER = (
    "size", "N", "D at this compute", "loss", "loss above the best", "compute for the best loss",
    "D for the best loss",
)  # fmt: skip


def section(summary: Summary) -> list[str]:
    """Return what other sizes cost; nothing without a law of N and D."""
    front, plan = law_frontier(summary), summary.plan
    if front is None or front.fit is None or plan is None:
        return []
    words = budget_words(plan.C.value, float(summary.runs["C"].max()))
    rows = [
        [
            marked_up(f'<span data-factor="{factor:g}">{factor:g}× the best size</span>'),
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
        f"<p>Other sizes with {live('budget', words)}, and what they would need to reach the loss "
        "of the best size:</p>",
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
    yield "over", over_words(loss_over_best(front, factor=factor, **at))
    found = deviation(front, factor=factor, **at)
    yield "price", price_words(found.compute)
    yield "tokens", count(found.D) if np.inf > found.D else "–"


def over_words(q: Quantity) -> str:
    """Return how far a loss is above the best one, with its interval, as HTML."""
    ends = interval(q.low - 1, q.high - 1, lambda share: percent(share, signed=True))
    return f'{percent(q.value - 1, signed=True)} <span class="interval">{ends}</span>'


def price_words(q: Quantity) -> str:
    """Return a ratio of computes with its interval, as HTML."""
    if q.value == np.inf:
        return "no amount of data reaches it"
    ends = interval(q.low, q.high)
    return f'{number(q.value)} times <span class="interval">{ends}</span>'
