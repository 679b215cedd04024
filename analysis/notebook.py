"""Laws, fits, frontiers and plans as HTML for notebooks.

Everything is escaped, and no colour is fixed, so that tables can be read on light and dark pages
and where a code host removes styles.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis import in_words, small_plots

_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η",
    "kappa": "κ", "lambda": "λ", "nu": "ν", "rho": "ρ", "sigma": "σ",
}  # fmt: skip


# ------------------------------------------------------------------ parts


def symbol(name: str) -> str:
    """Return a symbol with subscripts and superscripts: alpha_N becomes α<sub>N</sub>."""
    base, _, above = name.partition("^")
    head, _, below = base.partition("_")
    shown = _GREEK.get(head, html.escape(head))
    shown += f"<sub>{_GREEK.get(below, html.escape(below))}</sub>" if below else ""
    return f"<i>{shown}</i>" + (f"<sup>{html.escape(above)}</sup>" if above else "")


def expression(text: str) -> str:
    """Return a formula with its symbols set: x^(a / b) becomes x<sup>a / b</sup>."""
    shown, rest = "", text
    while rest:
        if power := re.match(r"\^\((.*)", rest, re.S):
            inner, rest = _in_parentheses(power[1])
            shown += f"<sup>{expression(inner)}</sup>"
        elif power := re.match(r"\^(-?[\w.]+)", rest):
            shown += f"<sup>{expression(power[1])}</sup>"
            rest = rest[power.end() :]
        elif word := re.match(r"[A-Za-z]\w*", rest):
            known = len(word[0]) == 1 or "_" in word[0] or word[0] in _GREEK
            shown += symbol(word[0]) if known else html.escape(word[0])
            rest = rest[word.end() :]
        else:
            shown, rest = shown + html.escape(rest[0]), rest[1:]
    return shown


def number(value: float) -> str:
    """Return a number with three significant digits, as in 1.49 × 10<sup>6</sup>."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.3g}"
    mantissa, e, power = text.partition("e")
    if e:
        return f"{_minus(mantissa)}\u00a0×\u00a010<sup>{_minus(str(int(power)))}</sup>"
    return _minus(text)


def interval(low: float, high: float) -> str:
    """Return an interval in brackets, with words for ends that are unknown or say nothing."""
    if low is None or high is None:
        return "no interval"

    def end(value: float) -> str:
        nothing = math.isfinite(high - low) and abs(value) < 1e-9 * max(abs(low), abs(high))
        return number(0.0 if nothing else value)

    text = in_words.interval(low, high, end)
    if "bounded" in text:
        return text
    if text.startswith("[no"):
        return text.strip("[]")
    return text.replace(", ", ",\u00a0")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML; on narrow pages it scrolls by itself."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        '<div style="overflow-x: auto"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def card(title: str, *parts: str, notes: Iterable[object] = ()) -> str:
    """Return a title and parts that are HTML, and notes, which are escaped."""
    lines = [html.escape(str(note)) for note in notes]
    small = [f"<p><small>{'<br>'.join(lines)}</small></p>"] if lines else []
    return "\n".join([f"<div><p><b>{title}</b></p>", *parts, *small, "</div>"])


# ------------------------------------------------------------------ results


def law(each: Any) -> str:
    """Return a law: its formula, the starting range of each parameter, and its source."""
    rows = [
        (symbol(name), f"[{_end(span.low)}, {_end(span.high)}]" + _per(span.of))
        for name, span in each.ranges.items()
    ]
    columns = f"columns {', '.join(map(symbol, each.inputs))}; predicts {symbol(each.target)}"
    notes = [f"Source: {each.source}"] if each.source else []
    return card(
        f"{html.escape(each.name)}: {expression(each.formula)}",
        f"<p>{columns}</p>",
        table(["parameter", "search starts in"], rows),
        notes=notes,
    )


def fit(result: Any, notes: Iterable[str]) -> str:
    """Return a fit: value, standard error and 95 % interval of each parameter."""
    rows = [
        (expression(str(name)), number(row.value), number(row.stderr), interval(row.low, row.high))
        for name, row in zip(*_rows(result.summary()), strict=True)
    ]
    title = f"{html.escape(result.law.name)}: {expression(result.law.formula)}"
    shown = table(["", "value", "stderr", "95 % interval"], rows)
    return card(title, shown, _plots_of_fit(result), notes=notes)


def frontier(front: Any) -> str:
    """Return a frontier: the exponents of N, D and L, and the range of its data."""
    low, high = front.ranges["C"]
    return card(
        f"Compute-optimal frontier, {html.escape(front.method)}",
        _exponents([front]),
        f"<p>{html.escape(front.convention)}; C from {number(low)} to {number(high)} FLOPs</p>",
        _plots_of_frontier(front),
        notes=_warnings(front.status),
    )


def comparison(each: Any) -> str:
    """Return the frontiers by several methods in one table."""
    fronts = list(each.fronts.values())
    warnings = [f"{f.method}: {line}" for f in fronts for line in _warnings(f.status)]
    skipped = [f"no {name}: {why}" for name, why in each.skipped.items()]
    title = "Compute-optimal frontier, by method"
    return card(title, _exponents(fronts), notes=[*warnings, *skipped])


def plan(each: Any) -> str:
    """Return a plan: C, N, D and L with intervals, and how to train."""
    return card("Plan", *_plan_parts(each), _losses([each.source], [each]), notes=_plan_notes(each))


def plans(each: Any) -> str:
    """Return the first of several plans, and a table of all."""
    lead = [f"<p>{html.escape(line)}</p>" for line in getattr(each, "verdict", ())]
    rows = [
        (
            html.escape(name),
            *(f"{number(q.value)} {interval(q.low, q.high)}" for q in (p.N, p.L)),
            number(p.D.value),
            _percent(each.held_out.get(name, math.nan)),
            "not reliable" if p.doubts else "",
        )
        for name, p in each.plans.items()
    ]
    header = ["law", symbol("N"), symbol("L"), symbol("D"), "larger runs missed by", ""]
    others = [table(header, rows)] if len(rows) > 1 else []
    skipped = [f"no plan by {name}: {why}" for name, why in each.skipped.items()]
    first = _plan_parts(each.first)
    losses = _losses(list(each.plans), list(each.plans.values()))
    return card("Plan", *lead, *first, *others, losses, notes=[*_plan_notes(each.first), *skipped])


def joint(each: Any) -> str:
    """Return the joint fit of two recipes: parameters of A, and what B adds to them."""
    title = f"Two recipes: {html.escape(each.law.name)}: {expression(each.law.formula)}"
    pinned = "" if each.pinned is None else f"; floor given as {number(each.pinned)}"
    shared = f"<p>shared: {html.escape(each.share)}{pinned}; d is what B adds to A</p>"
    parts = [shared, _parameters(each.result, 0.95), _plots_of_fit(each.result)]
    return card(title, *parts, notes=_warnings(each.result.status))


def joint_curves(each: Any, name: str, formula: str) -> str:
    """Return the law of curves and sizes of a sweep, with 90 % intervals and its residuals."""
    rows = [
        (symbol(p), number(each.params[p]), interval(*ends)) for p, ends in each.intervals.items()
    ]
    state = "" if each.converged else "; not converged"
    counts = f"{each.n} points of {len(each.sweep.N)} runs, {len(each.sweep.sizes)} sizes{state}"
    plot = small_plots.Plot("Measured loss", "Residual [%]")
    measured = np.exp(np.asarray(each.sweep.log_loss, float))
    plot.dashes([measured.min(), measured.max()], [0, 0])
    plot.dots(measured, 100 * np.expm1(each.minimum.residual))
    return card(
        f"{html.escape(name)}: {expression(formula)}",
        f"<p>{html.escape(counts)}</p>",
        table(["", "value", "90 % interval"], rows),
        small_plots.beside(plot.svg()),
        notes=each.notes,
    )


def validation(each: Any) -> str:
    """Return a test of a law: its verdict, and its rivals with their errors."""
    rows = [
        (
            html.escape(str(name)), str(row["q"]), number(row["aicc"]), _percent(row["error"]),
            _percent(row["held_out"]), _percent(row["left_out"]),
        )
        for name, row in each.laws.iterrows()
    ]  # fmt: skip
    header = ["law", "parameters", "ΔAICc", "error in sample", "larger runs missed by",
              "left-out sizes missed by"]  # fmt: skip
    title = f"{html.escape(each.law.name)}: {html.escape(str(each.verdict[0]))}"
    return card(title, table(header, rows), notes=each.verdict[1:])


def critical_batch(each: Any) -> str:
    """Return the critical batch size: its law, and its value at each loss."""
    names = [name for name in each.table.columns if each.table[name].dtype.kind in "fiu"]
    rows = [[number(float(row[name])) for name in names] for _, row in each.table.iterrows()]
    parts = [table([expression(name) for name in names], rows)]
    if each.law is not None:
        parts.insert(0, f"<p>{expression(each.law.law.formula)}</p>")
        parts.insert(1, _parameters(each.law, each.level))
    title = f"Critical batch size [tokens], {100 * each.level:g} % intervals"
    return card(title, *parts, notes=_warnings(each.status))


# ------------------------------------------------------------------ helpers


def _plan_parts(each: Any) -> list[str]:
    (asked,) = each.asked
    quantities = [
        ("C", each.C, "FLOPs"),
        ("N", each.N, "parameters"),
        ("D", each.D, "tokens"),
        ("D / N", each.tokens_per_parameter, "tokens per parameter"),
        ("L", each.L, "nats per token"),
    ]
    rows = [
        (
            expression(name),
            number(q.value),
            "asked for" if name == asked else interval(q.low, q.high),
            unit,
        )
        for name, q, unit in quantities
    ]
    r = each.recipe
    how = [f"{symbol('B')} = {number(r.B)} tokens", f"{symbol('S')} = {number(r.S)} steps",
           f"learning rate {number(r.lr)}"]  # fmt: skip
    if each.shape is not None:
        m = each.shape.model
        how.insert(0, f"n_layer {m.n_layer}, d_model {m.d_model}, n_head {m.n_head}")
    doubts = [f"<p><b>Not reliable</b>: {html.escape('; '.join(map(str, each.doubts)))}</p>"]
    header = ["", "value", f"{100 * each.level:g} % interval", "unit"]
    return [*(doubts if each.doubts else []), table(header, rows), f"<p>Train {'; '.join(how)}</p>"]


def _plan_notes(each: Any) -> list[str]:
    rest = [line for line in _warnings(each.status) if line not in map(str, each.doubts)]
    return [f"from {each.source}", *rest]


def _plots_of_fit(result: Any) -> str:
    """Return measured against fitted values, and the residuals over the first input."""
    target, x = result.law.target, result.law.inputs[0]
    measured, fitted = result.runs[target].to_numpy(float), np.asarray(result.fitted, float)
    ends = [min(measured.min(), fitted.min()), max(measured.max(), fitted.max())]
    law = small_plots.Plot(f"Fitted {target}", f"Measured {target}")
    law.line(ends, ends).dots(fitted, measured)
    over = result.runs[x].to_numpy(float)
    rest = small_plots.Plot(x, "Residual [%]", log_x=bool((over > 0).all()))
    rest.dashes([over.min(), over.max()], [0, 0]).dots(over, 100 * result.residuals)
    return small_plots.beside(law.svg(), rest.svg())


def _plots_of_frontier(front: Any) -> str:
    """Return N_opt against C with its interval, and the optima that it rests on."""
    low, high = front.ranges["C"]
    C = np.geomspace(low, high, 25)
    line = front.at(C=C)
    plot = small_plots.Plot("C [FLOPs]", "Optimal N", log_x=True, log_y=True)
    plot.band(C, line["N_low"], line["N_high"]).line(C, line["N"])
    if front.fit is None:
        plot.dots(front.optima["C"], front.optima["N"])
    return small_plots.beside(plot.svg())


def _losses(names: Sequence[str], plans: Sequence[Any]) -> str:
    """Return the predicted loss of each plan with its interval."""
    rows = [(each.L.value, each.L.low, each.L.high) for each in plans]
    return small_plots.beside(
        small_plots.intervals([name.split(" (")[0] for name in names], rows, "L [nats/token]")
    )


def _exponents(fronts: Sequence[Any]) -> str:
    rows = [
        (html.escape(front.method), f"{expression(row.exponent)} ∝ {symbol('C')}"
         f"<sup>{number(row.value)}</sup>", interval(row.low, row.high))
        for front in fronts
        for row in front.exponents.itertuples(index=False)
    ]  # fmt: skip
    return table(["method", "power law", f"{100 * fronts[0].level:g} % interval"], rows)


def _parameters(result: Any, level: float) -> str:
    names, rows = _rows(result.interval(level))
    cells = [
        (symbol(name), number(row.value), interval(row.low, row.high))
        for name, row in zip(names, rows, strict=True)
    ]
    return table(["", "value", f"{100 * level:g} % interval"], cells)


def _rows(frame: Any) -> tuple[list[str], list[Any]]:
    return [str(name) for name in frame.index], list(frame.itertuples(index=False))


def _warnings(status: Iterable[object]) -> list[str]:
    """Return the lines of a status without those that hold for nearly every law."""
    return [str(line) for line in status if getattr(line, "code", "") != "correlated"]


def _end(value: float | Mapping[str, Any]) -> str:
    return number(value) if isinstance(value, int | float) else html.escape(str(value))


def _per(column: str | None) -> str:
    return f" × {symbol(column)}" if column else ""


def _percent(share: float) -> str:
    return "–" if share is None or math.isnan(share) else f"{100 * share:.2g} %"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _in_parentheses(text: str) -> tuple[str, str]:
    """Split text after an opening parenthesis at the one that closes it."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[:i], text[i + 1 :]
    return text, ""
