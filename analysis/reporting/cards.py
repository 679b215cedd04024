"""Cards of the page: laws with their formulas typeset, plans, the frontier and predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from analysis.data_limits import DataRule
from analysis.fitting.combination import Combination
from analysis.fitting.result import FitResult
from analysis.fitting.status import worth_telling
from analysis.in_words import times
from analysis.laws.symbols import name as name_of
from analysis.planning.prediction import EXTRAPOLATION, STATISTICAL
from analysis.reporting.elements import (
    card,
    cell,
    count,
    details,
    escape,
    facts,
    interval,
    loss,
    marked_up,
    number,
    numeric,
    percent,
    scrolled,
    sentence,
    table,
)
from analysis.reporting.formulas import mathml, symbol
from analysis.reporting.summary import Summary, key_of

_COUNTED = ("N", "D", "S", "B", "U")
_INPUT_UNITS = {"N": "parameters", "D": "tokens", "C": "FLOPs", "S": "steps"}


# ------------------------------------------------------------------ laws


def law_section(summary: Summary) -> list[str]:
    """Return a card for each law, and the verdict on the law used."""
    if not summary.laws:
        return []
    used = key_of(summary.choice.first.law) if summary.choice else ""
    cards = [
        card(escape(_title(key, result, used == key)), *_law(result))
        for key, result in sorted(summary.laws.items(), key=lambda item: item[0] != used)
    ]
    out = ["<h2>Laws</h2>", "<p>95 % intervals, clustered by run.</p>"]
    out += ['<div class="cards">', *cards, "</div>"]
    choice = summary.choice
    if choice is not None and choice.test.cuts:
        validation = summary.validation(used)
        if not isinstance(validation, str):
            kind = "good" if validation.supported else "warn"
            head, *rest = map(str, validation.verdict)
            out.append(
                f'<p><span class="mark {kind}">{escape(head)}</span> '
                f"{escape(sentence('; '.join(rest) or f'{choice.name} predicts them'))}</p>"
            )
    return out


def _title(key: str, result: FitResult, used: bool) -> str:
    name = result.law.name
    if isinstance(result, Combination):
        name = f"{result.name} ({result.lead})"
    title = f"{key}: {name}" if key.startswith("L(") else f"L(N, D): {name}"
    return f"{title}, used for the answer" if used else title


def _law(result: FitResult) -> Iterator[str]:
    typeset = mathml(result.law.formula).replace("<math", '<math display="block"', 1)
    yield scrolled(typeset, f"Formula of {result.law.name}", "formula")
    yield f"<p>{_reference(result)}</p>"
    rows = {str(name): row for name, row in result.interval().iterrows()}
    exponents = [name for name in rows if name.startswith(("alpha", "beta"))] or list(rows)
    yield facts((symbol(name_of(result.law, name)), _row(rows[name])) for name in exponents)
    constants = [(symbol(name_of(result.law, n)), _row(r)) for n, r in rows.items()
                 if n not in exponents]  # fmt: skip
    parts = [facts(constants)] if constants else []
    parts += _certificate(result)
    if notes := worth_telling(result.warnings):
        yield f'<p class="note">{escape(sentence("; ".join(notes)))}</p>'
    yield details("Constants and certificate", *parts)


def _reference(result: FitResult) -> str:
    """Return the value of the law at the middle of its data."""
    at = {}
    for name in result.law.inputs:
        values = result.runs[name].to_numpy(float) if name in result.runs else np.array([np.nan])
        values = values[np.isfinite(values) & (values > 0)]
        if not len(values):
            return f"Fitted to {result.n} points."
        at[name] = float(np.exp(np.median(np.log(values))))
    with np.errstate(all="ignore"):
        value = float(result.predict(**at))
        low, high = (float(end) for end in result.predict_interval(0.95, **at))
    where = ", ".join(
        f"{count(x) if name in _COUNTED else number(x)} {_INPUT_UNITS.get(name, escape(name))}"
        for name, x in at.items()
    )
    return (
        f"{symbol(result.law.target)} = <b>{loss(value)}</b> {interval(low, high)} at {where}, the "
        f"middle of the {result.n} points fitted."
    )


def _certificate(result: FitResult) -> Iterator[str]:
    found = result.certificate
    rows = [
        ("rows, runs", f"{found.rows}, {found.groups}"),
        ("objective", escape(result.loss)),
        ("starts that reached the minimum", f"{100 * found.share:.0f} % of {found.starts}"),
        ("gradient at the minimum", number(found.gradient)),
        ("condition number", number(found.condition)),
    ]
    yield facts(rows)
    for a, b, r in found.correlated:
        names = f"{symbol(name_of(result.law, a))} and {symbol(name_of(result.law, b))}"
        yield f"<p>{names} are correlated: {number(r)}.</p>"
    if result.law.source:
        yield f"<p>Source: {escape(result.law.source)}</p>"


def _row(row: Any) -> str:
    spread = interval(row["low"], row["high"])
    return f'{number(row["value"])} <span class="interval">{spread}</span>'


# ------------------------------------------------------------------ frontier, tasks, records


def frontier_section(summary: Summary) -> list[str]:
    """Return the compute-optimal frontier by every method; nothing without one."""
    rows = [
        (
            cell(front.title),
            marked_up(mathml(str(row.exponent))),
            numeric(number(row.value)), marked_up(interval(row.low, row.high)),
            cell(front.use),
        )
        for front in summary.frontiers.values()
        for row in front.exponents.itertuples()
    ]  # fmt: skip
    if not rows:
        return []
    header = ("method", "power of C", "exponent", "95 % interval", "use")
    rule = [f"<p>{_data_rule(summary.rule)}</p>"] if summary.rule else []
    return [
        "<h2>Compute-optimal frontier</h2>",
        "<p>The best size, data and loss grow as powers of the compute.</p>",
        table(header, rows, label="Exponents of the frontier by method"),
        *rule,
    ]


def _data_rule(rule: DataRule) -> str:
    return (
        f"Data rule: {symbol('D')} ≥ {number(rule.coefficient)} {symbol('N')}"
        f"<sup>{number(rule.exponent)}</sup> {interval(rule.low, rule.high)} keeps the loss within "
        f"{percent(rule.overfit)} of its value on infinite data (Kaplan et al. 2020: {symbol('N')}"
        f"<sup>{rule.paper}</sup>)."
    )


def ability_section(summary: Summary) -> list[str]:
    """Return the accuracies predicted for the next run; nothing without scores of tasks."""
    found = summary.abilities
    if found is None:
        return []
    rows = [
        (cell(name), numeric(number(q.value)), marked_up(interval(q.low, q.high)))
        for name, q in found.accuracy.items()
    ]
    out = ["<h2>Accuracy on tasks</h2>"]
    if rows:
        header = ("task", "predicted", "95 % interval")
        out += [
            f"<p>{escape(found.heading[:1].upper() + found.heading[1:])}:</p>",
            table(header, rows, label="Predicted accuracy by task"),
        ]
    return [*out, *([f"<p>{escape(found.others)}</p>"] if found.others else [])]


def record_section(summary: Summary) -> list[str]:
    """Return the predictions on record beside what was measured; nothing without records."""
    track = summary.track
    if track is None:
        return []
    rows = []
    for score in track.scores:
        values = score.on_record.values
        L = score.predicted if score.scored else values["L"]
        N, D = (score.N, score.D) if score.scored else (values["N"], values["D"])
        measured = error = inside = ""
        remark = score.waiting
        if score.scored:
            wide, narrow = score.inside(EXTRAPOLATION), score.inside(STATISTICAL)
            where = narrow if wide is None else wide
            inside = "" if where is None else "inside" if where else "outside"
            measured, error = loss(score.measured), percent(score.relative, signed=True)
            remark = f"table {score.table}"
        rows.append(
            (cell(score.on_record.name), cell(score.on_record.time[:10]), numeric(count(N)),
             numeric(count(D)), numeric(loss(L)), numeric(measured), numeric(error), cell(inside),
             cell(remark))
        )  # fmt: skip
    header = ("name", "date", "N", "D", "predicted", "measured", "error", "interval", "remarks")
    return [
        "<h2>Predictions on record</h2>",
        f"<p>{escape(sentence(track.summary))}</p>",
        table(header, rows, label="Predictions on record"),
    ]


def spans(summary: Summary) -> str:
    """Return how many runs there are by status, and the ranges of what they measured."""
    runs = summary.runs
    counts = ", ".join(f"{n} {escape(status)}" for status, n in summary.counts.items())
    ranges = ", ".join(
        f"{symbol(name)} from {write(float(runs[name].min()))} to {write(float(runs[name].max()))}"
        for name, write in (("N", count), ("D", count), ("C", number), ("L", loss))
    )
    span = times(float(runs["C"].max() / runs["C"].min()))
    return f'<p class="muted">Runs: {counts}; {ranges}. The compute spans {span} times.</p>'
