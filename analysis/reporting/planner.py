"""The section of the report that gives the answer and lets a reader change the question.

The page computes plans itself, from the draws of the fit (:mod:`analysis.reporting.planner_data`),
without a server. Its numbers are those of `scaling plan`.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from analysis.frontiers.choice import percent
from analysis.in_words import times
from analysis.planning.accelerators import GPUS, MFU
from analysis.planning.answer import flops
from analysis.planning.doubts import VAST_LOSS
from analysis.planning.plan import Plan
from analysis.reporting.elements import interval, loss, package_file
from analysis.reporting.law_numbers import LEVEL
from analysis.reporting.plan_cards import mark_of
from analysis.reporting.planner_data import data_of
from analysis.reporting.run_data import embedded
from analysis.reporting.summary import Summary
from scaling import units

MODEL = (
    "planner_formats.js", "planner_numbers.js", "planner_law.js", "planner_prices.js",
    "planner_shapes.js", "planner_model.js",
)  # fmt: skip
"""The scripts that compute plans, in order."""
_CODE = (*MODEL, "planner_words.js", "planner_sections.js", "planner.js")
_DEVICE = "h100"
"""The accelerator shown first, the default of `scaling plan`."""
_PRICE = 2.5
"""Dollars per hour of one accelerator to begin with; it only has to be of the right order."""

STYLE = """
.planner { margin: 0 0 2.5rem; }
.planner [hidden] { display: none; }
.planner-answer { font-size: clamp(1.3rem, 1rem + 1.6vw, 1.95rem); font-weight: 600;
  letter-spacing: -.01em; line-height: 1.3; margin: 0 0 .8rem; max-width: 46ch;
  min-height: 2.6em; text-wrap: pretty; }
.planner-trust { color: var(--muted); margin: 0 0 .3rem; max-width: 78ch; }
.planner-trust strong { color: var(--ink); font-weight: 400; }
.planner-mark { border: 1.5px solid currentColor; border-radius: 1rem; display: inline-block;
  font-size: .85rem; font-weight: 600; line-height: 1.2; margin-right: .4rem; padding: .15rem .6rem;
  white-space: nowrap; }
.planner-mark::before { margin-right: .35rem; }
.planner-mark[data-mark=good] { color: var(--good); }
.planner-mark[data-mark=good]::before { content: "\\25CF" / ""; }
.planner-mark[data-mark=warn] { color: var(--warn); }
.planner-mark[data-mark=warn]::before { content: "\\25B2" / ""; }
.planner-mark[data-mark=bad] { color: var(--bad); }
.planner-mark[data-mark=bad]::before { content: "\\25A0" / ""; }
.planner-play { display: none; gap: 1rem 2rem; grid-template-columns: minmax(0, 1fr);
  background: var(--panel); border: 1px solid var(--line); border-radius: .6rem;
  margin-top: 1.4rem; padding: 1.1rem 1.3rem; }
.planner-live .planner-play { display: grid; }
@media (min-width: 56rem) {
  .planner-play { grid-template-columns: minmax(0, 1.1fr) minmax(0, 1fr); }
}
.planner-play fieldset { border: 0; margin: 0; min-width: 0; padding: 0; }
.planner-play legend, .planner-play caption { color: var(--muted); font-size: .9rem;
  padding: 0 0 .4rem; text-align: left; }
.planner-row { margin: 0 0 .9rem; }
.planner-head { align-items: center; display: flex; flex-wrap: wrap; gap: .3rem .7rem; }
.planner-head > label:first-child { flex: 1 1 6rem; font-weight: 600; margin: 0; }
.planner-play input, .planner-play select, .planner-play button { background: var(--paper);
  border: 1px solid var(--muted); border-radius: .3rem; color: var(--ink); font: inherit;
  font-size: .95rem; margin: 0; min-height: 2rem; padding: .15rem .5rem; width: auto; }
.planner-play input[inputmode] { font-variant-numeric: tabular-nums; width: 8.5rem; }
.planner-play input[aria-invalid=true] { border-color: var(--bad); outline-color: var(--bad); }
.planner-play input[type=checkbox] { accent-color: var(--accent); height: 1.15rem; min-height: 0;
  vertical-align: -.2rem; width: 1.15rem; }
.planner-play :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.planner-play :disabled { opacity: .5; }
.planner-pin { margin: 0; white-space: nowrap; }
.planner-play input[type=range] { accent-color: var(--accent); border: 0; display: block;
  background: transparent; height: 2rem; margin: 0; max-width: none; padding: 0; width: 100%; }
.planner-band { height: .4rem; margin: -.2rem .5rem .1rem; position: relative; }
.planner-band i { border-radius: .2rem; bottom: 0; min-width: 3px; position: absolute; top: 0; }
.planner-band .planner-data { background: var(--ink); }
.planner-band .planner-tested { background: var(--muted); opacity: .45; }
.planner-key, .planner-note, .planner-words { color: var(--muted); font-size: .88rem; }
.planner-key i { border-radius: .2rem; display: inline-block; height: .4rem; margin-right: .3rem;
  vertical-align: .1rem; width: 1.4rem; background: var(--ink); }
.planner-key i + i, .planner-key .planner-tested { background: var(--muted); opacity: .45; }
.planner-hardware { display: flex; flex-wrap: wrap; gap: .4rem .9rem; margin: .3rem 0 .6rem; }
.planner-play table { border-collapse: collapse; font-size: .95rem; width: 100%; }
.planner-play th, .planner-play td { border-bottom: 1px solid var(--line); color: inherit;
  font-variant-numeric: tabular-nums; font-weight: 400; padding: .28rem .6rem .28rem 0;
  text-align: left; vertical-align: baseline; white-space: nowrap; }
.planner-play thead th { color: var(--muted); font-size: .88rem; }
.planner-numbers td:nth-of-type(1) { font-weight: 600; }
.planner-numbers td:nth-of-type(2) { color: var(--muted); font-size: .88rem; white-space: normal;
  width: 99%; }
.planner-numbers .planner-unit { color: var(--muted); font-size: .88rem; }
@media (max-width: 32rem) {
  .planner-play { padding: .8rem .9rem; }
  .planner-numbers tr { border-bottom: 1px solid var(--line); display: grid;
    grid-template-columns: minmax(0, 1fr) auto; padding: .25rem 0; }
  .planner-numbers th, .planner-numbers td { border: 0; padding: 0; width: auto; }
  .planner-numbers td:nth-of-type(2) { grid-column: 1 / -1; text-align: right; width: auto; }
}
.planner-command { margin: 1rem 0; }
.planner-command code { background: var(--paper); border: 1px solid var(--line);
  border-radius: .3rem; display: block; font-size: .85rem; margin: 0 0 .5rem;
  overflow-wrap: anywhere; padding: .5rem .7rem; }
.planner-command span { display: inline-block; max-width: 100%; }
.planner-play button { cursor: pointer; padding: .25rem .8rem; }
.planner-hear { clip-path: inset(50%); height: 1px; overflow: hidden; position: absolute;
  white-space: nowrap; width: 1px; }
"""
"""CSS of the section; it uses the page's variables for colours."""


def section(summary: Summary) -> list[str]:
    """Return the answer, its trust and the planner as lines of HTML.

    Without a plan they say why there is none; with one by a frontier that has no law, there is
    nothing to move.
    """
    start = '<section id="planner-section" class="planner" aria-label="The answer">'
    if summary.plan is None:
        advice, needed = summary.verdict[1:]
        return [
            start,
            f'<p class="planner-answer">{html.escape(advice)}</p>',
            f'<p class="planner-trust">{html.escape(needed)}</p>',
            "</section>",
        ]
    data = data_of(summary)
    lines = [start, *_answer(summary, summary.plan)]
    if data is None:
        lines.append(
            '<p class="planner-trust">The answer comes from a frontier without a law that this '
            "page could plan with, so there is nothing to change here.</p>"
        )
        return [*lines, "</section>"]
    return [
        *lines,
        '<noscript><p class="planner-trust">The figures, sliders and filters of this page need '
        "JavaScript. The numbers below are those of this answer.</p></noscript>",
        '<div class="planner-play">',
        "<div>",
        *_controls(),
        "</div><div>",
        *_numbers(),
        '<p class="planner-command">'
        '<code id="planner-command"></code>'
        '<button type="button" id="planner-copy">Copy as command</button> '
        '<button type="button" id="planner-reset">Reset</button> '
        '<span id="planner-copied" role="status"></span></p>',
        f'<p class="planner-note">{_holds(data)}</p>',
        "</div></div>",
        '<div id="planner-live" class="planner-hear" role="status" aria-live="polite"></div>',
        f'<script type="application/json" id="planner-data">{embedded(data)}</script>',
        "</section>",
    ]


def script() -> str:
    """Return the JavaScript of the section. It does nothing on a page without its data."""
    code = "\n".join(map(package_file, _CODE))
    found = "if (document.getElementById('planner-data'))"
    return f"'use strict';\n{found} (() => {{\n{code}\n}})();\n"


def _answer(summary: Summary, plan: Plan) -> Iterator[str]:
    """The sentence and its trust for the first budget, as a page without scripts shows them."""
    more = plan.C.value / float(summary.runs["C"].max())
    ends = interval(plan.L.low, plan.L.high, loss, vast=VAST_LOSS)
    choice = summary.choice
    missed = "the law was not tested"
    if choice is not None and choice.test.cuts:
        missed = f"the law missed its held-out runs by {percent(choice.test.error)}"
    budget = f"{times(more)}x the compute" if more > 1.01 else f"{flops(plan.C.value)} FLOPs"
    run = f"{units.count(plan.N.value)} parameters on {units.count(plan.D.value)} tokens"
    sentence = f"With {budget}: {run}, loss {loss(plan.L.value)} {ends}; {missed}."
    law, _, doubt = summary.verdict
    doubtful = bool(summary.planned.doubts if summary.planned else plan.doubts)
    mark, word = mark_of(plan, doubtful=doubtful)
    yield f'<p id="planner-answer" class="planner-answer">{html.escape(sentence)}</p>'
    yield (
        '<p class="planner-trust">'
        f'<span id="planner-mark" class="planner-mark" data-mark="{mark}">{word}</span> '
        f'<span id="planner-trust">{html.escape(law)}</span> '
        f'<strong id="planner-doubt">{html.escape(doubt)}</strong></p>'
    )


def _controls() -> Iterator[str]:
    """The sliders, pins and units."""
    devices = "".join(
        f"<option{' selected' if name == _DEVICE else ''}>{name}</option>" for name in GPUS
    )
    unit = (
        '<select id="planner-unit" aria-label="Unit of the budget">'
        '<option value="flops">FLOPs</option><option value="hours">GPU hours</option>'
        '<option value="dollars">dollars</option></select>'
    )
    yield "<fieldset><legend>Play with the budget. What is pinned stays; the rest follows.</legend>"
    yield from _row("C", "Budget", unit)
    yield (
        '<p id="planner-budget-words" class="planner-words"></p>'
        '<div id="planner-hardware" class="planner-hardware" hidden>'
        f'<label>GPU <select id="planner-device">{devices}</select></label>'
        '<label>precision <select id="planner-precision"></select></label>'
        f'<label>MFU <input id="planner-mfu" inputmode="decimal" value="{MFU:g}"></label>'
        f'<label>dollars per hour <input id="planner-price" inputmode="decimal" '
        f'value="{_PRICE:g}"></label></div>'
    )
    yield from _row("N", "Parameters N")
    yield from _row("D", "Tokens D")
    yield from _row("served", "Inference tokens")
    yield from _row("unique", "Unique data")
    yield (
        '<p class="planner-key"><i></i>the runs '
        '<i class="planner-tested"></i>as far beyond them as the law was tested</p></fieldset>'
    )


def _row(name: str, label: str, unit: str = "") -> Iterator[str]:
    """A slider with its number and, for C, N and D, its pin and the range of the data."""
    extra = name in ("served", "unique")
    slider = f"planner-{name}" if extra else f"planner-slider-{name}"
    empty = {"served": "none", "unique": "unlimited"}.get(name, "")
    checked = " checked" if name == "C" else ""
    pin = (
        ""
        if extra
        else f'<label class="planner-pin"><input type="checkbox" id="planner-pin-{name}"{checked} '
        f'aria-label="Pin {label}"> pin</label>'
    )
    tested = '<i class="planner-tested" id="planner-tested-C"></i>' if name == "C" else ""
    band = (
        ""
        if extra
        else f'<div class="planner-band" aria-hidden="true">{tested}'
        f'<i class="planner-data" id="planner-data-{name}"></i></div>'
    )
    yield (
        f'<div class="planner-row"><div class="planner-head"><label for="{slider}">{label}</label>'
        f'<input id="planner-{name}-number" inputmode="decimal" autocomplete="off" '
        f'aria-label="{label}, as a number" placeholder="{empty}">{unit}{pin}</div>'
        f'<input type="range" id="{slider}" min="0" max="1" step="any">{band}</div>'
    )


def _numbers() -> Iterator[str]:
    """The answer as a table, and the cost of deviating."""
    rows = (
        ("C", "Compute C", "FLOPs"),
        ("N", "Parameters N", ""),
        ("D", "Tokens D", ""),
        ("ratio", "Tokens D / N", ""),
        ("L", "Loss L", "nats/token"),
        ("B", "Batch size B", "tokens"),
        ("S", "Steps S", ""),
        ("lr", "Learning rate", ""),
    )
    body = "".join(
        f'<tr><th scope="row">{label} <span class="planner-unit">{unit}</span></th>'
        f'<td><output id="planner-{name}" aria-live="off"></output></td>'
        f'<td id="planner-{name}-interval"></td></tr>'
        for name, label, unit in rows
    )
    yield (
        '<table class="planner-numbers">'
        f"<caption>The answer, with {LEVEL:.0%} intervals</caption><tbody>{body}</tbody></table>"
        '<p id="planner-deviation" class="planner-words"></p>'
    )


def _holds(data: dict[str, Any]) -> str:
    """How many draws the page holds, and what it does with them."""
    count = data["laws"][0]["count"]
    draws = f"{count:,} draws of the fit" if count else "the fit, without draws"
    return (
        f"This page holds {draws} and computes every number from them as `scaling plan` does; it "
        "loads and sends nothing. The intervals assume that the law holds where it is used."
    ).replace("`scaling plan`", "<code>scaling plan</code>")
