"""Presentation of a fit: as text, as HTML in a notebook, and as a figure of its residuals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from analysis import notebook
from analysis.fitting import reference
from analysis.in_words import cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.fitting.result import FitResult

_METHODS = {"delta": "linearised (t)", "bootstrap": "percentile bootstrap"}


def as_text(result: FitResult, level: float) -> str:
    """Return the law at a point inside the data, then its constants, residuals and status."""
    rows = result.summary(level).map(lambda x: cell(float(x), ".5g"))
    rows.columns = ["value", "stderr", f"{100 * level:g} % low", "high"]
    lines = [
        reference.in_words(result, level),
        f"{result.law.name}: {result.law.formula}",
        f"  {_data(result)}",
    ]
    lines += ["  " + line for line in rows.to_string().splitlines()]
    lines += [f"  {line}" for line in _notes(result)]
    return "\n".join(lines)


def as_html(result: FitResult) -> str:
    """Return the summary as HTML for a notebook, with 95 % intervals."""
    return notebook.fit(result, (_data(result), *_notes(result)))


def plot(result: FitResult, width: Literal["column", "full"] = "full") -> Figure:
    """Plot measured against fitted values, and the residuals over the first input."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from analysis import style

    target, x = result.law.target, result.law.inputs[0]
    measured, fitted = result.runs[target], result.fitted
    with rc_context(style.paper()):
        if width == "full":
            figure = Figure(figsize=(style.FULL, 2.4))
            left, right = figure.subplots(1, 2)
        else:
            figure = Figure(figsize=(style.COLUMN, 4.8))
            left, right = figure.subplots(2, 1)
        left.plot(fitted, measured, ".", ms=5, color=style.INK, alpha=0.6, mew=0)
        ends = measured.agg(["min", "max"]).to_numpy(float) * [0.97, 1.03]
        left.plot(ends, ends, lw=0.8, color=style.FIT, zorder=1, label="measured = fitted")
        left.set(xlim=ends, ylim=ends, ylabel=f"Measured: {style.label(target)}")
        left.set_xlabel(f"Fitted by {style.words(result.law.name)}: {style.label(target)}")
        for which in ("x", "y"):
            style.loss_axis(left, which=which)
        left.legend(loc="upper left")
        percent = 100 * result.residuals
        right.plot(result.runs[x], percent, ".", ms=5, color=style.INK, alpha=0.6, mew=0)
        right.axhline(0, lw=0.8, color=style.FIT, zorder=1)
        style.count_axis(right)
        right.set(xlabel=style.label(x), ylabel="Residual [%]")
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
    if c.size_effect:
        scale = (
            f"{100 * c.size_effect:.2g} %" if result.problem.on == "log" else f"{c.size_effect:.2g}"
        )
        method += f", with an error of {scale} that the runs of each N share (p = {c.size_p:.2g})"
    lines = [f"noise: {result.noise}"] if result.noise is not None else []
    row, change, half = result.most_influential()
    if abs(change) > half:
        lines.append(
            f"influence: without row {row}, {result.law.target} at 10 times the largest compute "
            f"changes by {100 * math.expm1(min(change, 50)):+.2g} %, more than its interval "
            f"(±{100 * math.expm1(min(half, 50)):.2g} %)"
        )
    gap = "no other" if c.gap is None else f"the next is {100 * c.gap:.2g} % higher"
    return [
        f"intervals: {method}",
        f"residuals: median {100 * r.median():.2g} %, largest {100 * r.max():.2g} % "
        f"(row {r.idxmax()})",
        *lines,
        f"minimum: reached by {100 * c.share:.0f} % of {c.starts} starts, {gap}",
        *_status(result),
    ]


def _status(result: FitResult) -> list[str]:
    """Return the status; constants that are open are a warning only if a prediction is too."""
    names = reference.open_constants(result)
    if not names:
        return [f"status: {'; '.join(result.status)}"]
    which, target = ", ".join(names), result.law.target
    them, is_are = ("it", "is") if len(names) == 1 else ("them", "are")
    off = reference.uncertainty(result)
    if reference.matters(result):
        far = f"within {100 * off:.2g} % only" if off < 1 else "hardly"
        known = (
            ""
            if off != off
            else f": {target} is known {far} at {reference.NEXT:g} times the compute"
        )
        return [
            f"status: {'; '.join(result.status)}",
            f"constants: {which} {is_are} open, and predictions depend on {them}{known}",
        ]
    rest = [line for line in result.status if line.code not in ("not_identified", "at_bound")]
    return [
        f"status: {'; '.join(rest)}",
        f"constants: {which} {is_are} not known singly, and need not be: {target} at "
        f"{reference.NEXT:g} times the compute is known within {100 * off:.2g} %",
    ]
