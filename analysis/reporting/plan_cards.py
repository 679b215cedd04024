"""The plans of the page as cards, and the same request under every law.

The page's script writes new numbers into the same elements when a reader changes the question:
`data-of` names what an element holds (`planner_sections.js`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from analysis.fitting.checks import FitError
from analysis.fitting.reference import NEXT
from analysis.fitting.status import Status, worth_telling
from analysis.in_words import times
from analysis.planning.doubts import VAST, VAST_LOSS
from analysis.planning.model_shape import SuggestedModel
from analysis.planning.plan import Plan
from analysis.planning.plans import Plans, plans
from analysis.planning.quantity import Quantity
from analysis.reporting.elements import (
    card,
    count,
    details,
    escape,
    facts,
    interval,
    live,
    loss,
    marked_up,
    number,
    numeric,
    percent,
    rule,
    sentence,
    table,
)
from analysis.reporting.summary import Summary
from scaling import units
from scaling.errors import ConfigError, TableError

MARKS = {
    "inside": ("good", "tested within the data"),
    "tested": ("good", "extrapolates as far as tested"),
    "untested": ("warn", "extrapolates further than tested"),
    "unreliable": ("bad", "not supported"),
}
"""Kind and words of the mark of a plan, by where it lies."""


def mark_of(plan: Plan, *, doubtful: bool) -> tuple[str, str]:
    """Return the kind and the words of the mark of a plan."""
    return MARKS["unreliable" if doubtful else plan.extrapolation.band]


def mark(plan: Plan, *, doubtful: bool) -> str:
    """Return the mark of a plan: a word in a colour, never colour alone."""
    kind, words = mark_of(plan, doubtful=doubtful)
    return f'<span class="mark {kind}">{words}</span>'


def plan_section(summary: Summary) -> list[str]:
    """Return the plans as cards: the next run, that of ten times more, and those of other laws."""
    first, further = summary.plan, summary.further
    if first is None:
        return []
    largest = float(summary.runs["C"].max())
    doubts = summary.planned.doubts if summary.planned else first.doubts
    cards = [_card("plan-0", first, doubts, largest)]
    if further is not None:
        cards.append(_card("plan-1", further, _doubts(summary, further), largest))
    return [
        "<h2>Plans</h2>",
        f"<p>The plan for the chosen budget, and the plan for {NEXT:g} times its compute.</p>",
        '<div class="cards">',
        *cards,
        "</div>",
        *([] if summary.planned is None else _laws(summary.planned)),
    ]


def _doubts(summary: Summary, plan: Plan) -> tuple[Status, ...]:
    """Return the doubts of a plan by the first law, with those that the other laws raise."""
    if summary.choice is None or summary.planned is None:
        return plan.doubts
    try:
        return plans(summary.choice, C=plan.C.value, critical=summary.critical).doubts
    except (ConfigError, FitError, TableError):
        return plan.doubts


def budget_words(C: float, largest: float) -> str:
    """Return a compute in words, against that of the largest run."""
    if C / largest > 1.01:
        return f"{times(C / largest)} times the compute of the largest run"
    return f"{number(C)} FLOPs"


def with_interval(q: Quantity, write: Callable[[float], str], *, vast: float | None = VAST) -> str:
    """Return a quantity with its interval, as HTML; one that spans a factor of `vast` is not
    stated."""
    if q.low == q.high == q.value:
        return write(q.value)
    ends = interval(q.low, q.high, write, vast=vast)
    ends = ends if ends.startswith("[") else f"({ends})"
    return f'{write(q.value)} <span class="interval">{ends}</span>'


def _card(name: str, plan: Plan, doubts: tuple[Status, ...], largest: float) -> str:
    words = escape(sentence("; ".join(map(str, doubts)))) if doubts else ""
    rest = "".join(
        f"<li>{escape(line)}</li>" for line in worth_telling(plan.status) if line not in doubts
    )
    return card(
        live("title", budget_words(plan.C.value, largest)),
        f"<p>{live('mark', mark(plan, doubtful=bool(doubts)))}</p>",
        facts((label, live(key, value)) for key, label, value in _rows(plan)),
        f"<p>{live('doubts', words)}</p>",
        details(
            "How this was found",
            f"<p>From {escape(plan.source)}; {100 * plan.level:g} % intervals.</p>",
            f"<p>Batch size: {live('B-source', rule(plan.recipe.origin('B')))}.</p>",
            f"<p>Learning rate: {live('lr-source', rule(plan.recipe.origin('lr')))}.</p>",
            f'<ul data-of="notes">{rest}</ul>',
        ),
        name=name,
    )


def _rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Yield key, label and value; a row without a value is hidden."""
    yield "N", "parameters", with_interval(plan.N, count)
    yield "D", "tokens", with_interval(plan.D, count)
    yield "ratio", "tokens per parameter", with_interval(plan.tokens_per_parameter, number)
    yield "C", "compute", f"{with_interval(plan.C, number)} FLOPs"
    yield "L", "loss", f"{with_interval(plan.L, loss, vast=VAST_LOSS)} nats/token"
    yield "B", "batch size", f"{count(plan.recipe.B)} tokens"
    yield "S", "steps", count(plan.recipe.S)
    yield "lr", "peak learning rate", number(plan.recipe.lr)
    yield "shape", "shape", _shape(plan.shape)
    yield "kin", "or, as the runs", _shape(plan.family_shape)
    memory = ""
    if plan.memory is not None:
        gpus = " or ".join(f"{n} {escape(gpu)}" for gpu, n in plan.memory["gpus"].items())
        memory = f"{units.data_size(plan.memory['states'])}: at least {gpus}"
    yield "memory", "weights and optimizer", memory


def _shape(shape: SuggestedModel | None) -> str:
    if shape is None:
        return ""
    m = shape.model
    return f"{m.n_layer} layers, width {m.d_model}, {m.n_head} heads"


def _laws(planned: Plans) -> list[str]:
    """Return the plans of every law in a table; nothing if there is only one."""
    if len(planned.plans) < 2:
        return []
    rows = [
        (
            marked_up(f'<span data-law="{escape(name)}">{escape(name)}</span>'),
            numeric(live("C", number(p.C.value))),
            *(numeric(live(key, with_interval(getattr(p, key), count))) for key in ("N", "D")),
            numeric(live("L", with_interval(p.L, loss, vast=VAST_LOSS))),
            numeric(percent(planned.held_out[name])),
            marked_up(live("remark", "not supported" if p.doubts else "")),
        )
        for name, p in planned.plans.items()
    ]
    header = ("law", "C", "N", "D", "loss", "missed larger runs by", "remark")
    return [
        "<h3>The same request under every law</h3>",
        table(header, rows, label="Plans of every law", name="plan-laws"),
    ]
