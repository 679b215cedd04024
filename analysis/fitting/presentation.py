"""Presentation of a fit: as text, as HTML in a notebook, and as a figure of its residuals."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from analysis.fitting.intervals import cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.fitting.result import FitResult

_METHODS = {"delta": "linearised (t)", "bootstrap": "percentile bootstrap"}


def as_text(result: FitResult, level: float) -> str:
    """Return the summary with the data, the objective, the residuals and the status."""
    rows = result.summary(level).map(lambda x: cell(float(x), ".5g"))
    rows.columns = ["value", "stderr", f"{100 * level:g} % low", "high"]
    lines = [f"{result.law.name}: {result.law.formula}", f"  {_data(result)}"]
    lines += ["  " + line for line in rows.to_string().splitlines()]
    lines += [f"  {line}" for line in _notes(result)]
    return "\n".join(lines)


def as_html(result: FitResult) -> str:
    """Return the summary as HTML for a notebook, with 95 % intervals."""
    rows = result.summary()
    rows.columns = ["value", "stderr", "95 % low", "high"]
    body = rows.map(lambda x: cell(float(x), ".5g")).to_html()
    notes = "<br>".join(html.escape(line) for line in (_data(result), *_notes(result)))
    title = html.escape(f"{result.law.name}: {result.law.formula}")
    return f"<p><b>{title}</b></p>{body}<p>{notes}</p>"


def plot(result: FitResult) -> Figure:
    """Plot measured against fitted values, and the residuals over the first input."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    target, x = result.law.target, result.law.inputs[0]
    left.loglog(result.fitted, result.runs[target], ".")
    ends = result.runs[target].agg(["min", "max"]).to_numpy(float) * [0.97, 1.03]
    left.plot(ends, ends, lw=0.8, color="0.5")
    left.set(xlabel=f"fitted {target}", ylabel=f"measured {target}", xlim=ends, ylim=ends)
    left.set_title(result.law.formula, fontsize="small")
    right.semilogx(result.runs[x], 100 * result.residuals, ".")
    right.axhline(0, lw=0.8, color="0.5")
    right.set(xlabel=x, ylabel="residual [%]")
    return figure


def _data(result: FitResult) -> str:
    spans = [
        f"{name} {result.runs[name].min():.3g} to {result.runs[name].max():.3g}"
        for name in result.law.inputs
    ]
    left_out = result.certificate.left_out
    rows = f"{result.n} rows"
    if left_out:
        reasons = ", ".join(
            f"{count} {'with ' * reason.startswith(('status', 'weight'))}{reason}"
            for reason, count in left_out.items()
        )
        rows = f"{result.n} of {result.n + sum(left_out.values())} rows (left out: {reasons})"
    unit = " [nats/token]" if result.law.target == "L" else ""
    return f"{rows}, {', '.join(spans)}; {result.loss}{unit} = {result.objective:.6g}"


def _notes(result: FitResult) -> list[str]:
    c, r = result.certificate, result.residuals.abs()
    method = _METHODS.get(result.intervals, result.intervals)
    if len(result.samples):
        method += f", {len(result.samples)} draws"
    if c.groups < result.n:
        method += f", clustered in {c.groups} runs"
    gap = "no other" if c.gap is None else f"the next is {100 * c.gap:.2g} % higher"
    return [
        f"intervals: {method}",
        f"residuals: median {100 * r.median():.2g} %, largest {100 * r.max():.2g} % "
        f"(row {r.idxmax()})",
        f"minimum: reached by {100 * c.share:.0f} % of {c.starts} starts, {gap}",
        f"status: {'; '.join(result.status)}",
    ]
