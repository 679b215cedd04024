"""A summary as text: the answer and what it rests on, and every detail."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.fitting.held_out import rms
from analysis.fitting.reference import NEXT
from analysis.fitting.result import FitResult
from analysis.fitting.status import worth_telling
from analysis.frontiers.choice import Choice, percent
from analysis.frontiers.frontier import USED
from analysis.frontiers.result import Frontier
from analysis.in_words import interval
from analysis.laws.symbols import name as name_of
from analysis.planning.answer import WIDTH, wrapped

_LINES = 15
"""A summary has at most this many lines, so that the end of the demo's output can be read aloud."""

if TYPE_CHECKING:
    from analysis.reporting.summary import Summary


def brief(summary: Summary) -> str:
    """Return the answer in three sentences, and what it rests on in the lines that are left."""
    answer = [*wrapped(summary.verdict), ""]
    basis = [
        textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for line in _basis(summary)
    ]
    while len(basis) > 1 and len(answer) + sum(map(len, basis)) > _LINES:
        del basis[0]
    return "\n".join([*answer, *(line for lines in basis for line in lines)])


def _basis(summary: Summary) -> Iterator[str]:
    if summary.collapse:  # the first line to go
        yield f"curves: {summary.collapse.brief}"
    yield f"runs: {_counts(summary)}; {_ranges(summary, ' to ')}"
    if summary.choice is not None and summary.choice.test.cuts:
        errors = summary.choice.errors.items()
        yield "held-out error: " + ", ".join(f"{name} {percent(e)}" for name, e in errors)
    if edge := exponents(summary):
        yield "laws: " + ", ".join(edge)
    if summary.frontiers:
        fronts = sorted(summary.frontiers.values(), key=lambda front: front.use != USED)
        yield "N_opt ~ C^a: " + ", ".join(map(_power, fronts))
    if summary.abilities and summary.abilities.accuracy:
        yield f"accuracy of the next run: {summary.abilities.brief}"
    if summary.track:
        yield f"track record: {summary.track.summary}"
    more = "more with --details"
    if summary.skipped:
        verb = "items are" if len(summary.skipped) > 1 else "item is"
        more = f"{len(summary.skipped)} {verb} missing: see --details"
    yield f"figures: {_files(summary.figures)}; {more}" if summary.figures else more


def exponents(summary: Summary) -> list[str]:
    """Return the exponents of L(N), L(D) and L(C), each with its interval."""
    found = []
    for key in ("L(N)", "L(D)", "L(C)"):
        if key in summary.laws:
            result = summary.laws[key]
            (symbol,) = (p for p in result.law.params if p.startswith("alpha"))
            row = result.interval(0.95).loc[symbol]
            spread = interval(row["low"], row["high"], ".3f")
            found.append(f"{name_of(result.law, symbol)} = {row['value']:.3f} {spread}")
    return found


def _power(front: Frontier) -> str:
    row = front.exponents.set_index("exponent").loc["N_opt"]
    used = f" ({front.use})" if front.use == USED else ""
    return f"{front.title} {row.value:.2f} {interval(row.low, row.high, '.2f')}{used}"


def _files(paths: tuple[Path, ...]) -> str:
    """Name the files of a folder once each, with their suffixes."""
    stems = dict.fromkeys(path.stem for path in paths)
    suffixes = dict.fromkeys(path.suffix for path in paths)
    return f"{', '.join(stems)} ({', '.join(suffixes)}) in {paths[0].parent}"


def _counts(summary: Summary) -> str:
    return ", ".join(f"{n} {status}" for status, n in summary.counts.items())


def _ranges(summary: Summary, to: str) -> str:
    runs = summary.runs
    ends = {name: (runs[name].min(), runs[name].max()) for name in ("N", "D", "C", "L")}
    return ", ".join(
        f"{name} {_short(low)}{to}{_short(high)}" for name, (low, high) in ends.items()
    )


def _short(value: float) -> str:
    """Return a number in three digits, such as 2.68e3 or 4.01e13."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.3g}")


def detailed(summary: Summary) -> str:
    """Return every law, held-out error, frontier, plan and reason."""
    lines = [*wrapped(summary.verdict), ""]
    lines += [f"{summary.folder}: {_counts(summary)}; {_ranges(summary, ' .. ')}", ""]
    lines.append("laws (95 % intervals)")
    for key, result in summary.laws.items():
        lines += _law(key, result)
    if summary.choice is not None and summary.choice.test.cuts:
        lines += ["", *_held_out(summary.choice)]
    lines.append("")
    if summary.rule:
        lines.append(str(summary.rule))
    for front in summary.frontiers.values():
        powers = [
            f"{row.exponent} ~ C^{row.value:.2f} {interval(row.low, row.high, '.2f')}"
            for row in front.exponents.itertuples()
            if row.exponent in ("N_opt", "D_opt")
        ]
        used = f" ({front.use})" if front.use == USED else ""
        lines.append(f"frontier, {front.title}: {', '.join(powers)}{used}")
    if summary.plan:
        lines += ["", f"next, with {NEXT:g} times the largest run: {summary.plan}"]
    if summary.further:
        lines += ["", f"with {NEXT**2:g} times: {summary.further.headline}"]
    if summary.abilities:
        lines += ["", str(summary.abilities)]
    if summary.collapse:
        lines += ["", f"collapse of learning curves: {summary.collapse.brief}"]
    if summary.track:
        lines += ["", str(summary.track)]
    lines += [f"no {name}: {why}" for name, why in summary.skipped.items()]
    if summary.figures:
        lines += ["", "figures:", *(f"  {path}" for path in summary.figures)]
    return "\n".join(lines)


def _law(key: str, result: FitResult) -> Iterator[str]:
    """The parameters of a law with their intervals, and its warnings."""
    title = key if key.startswith("L(") else f"L(N, D), {result.law.name}"
    yield f"  {title}: {result.law.formula}   [{result.n} points]"
    yield "      " + "  ".join(parameters(result))
    yield from (f"      ! {warning}" for warning in worth_telling(result.warnings))


def parameters(result: FitResult) -> list[str]:
    """Return the parameters of a fit, each with its interval, under the names of symbols.py."""
    return [
        f"{name_of(result.law, str(p))} = {row['value']:.4g} "
        f"{interval(row['low'], row['high'], '.4g')}"
        for p, row in result.interval(0.95).iterrows()
    ]


def _held_out(choice: Choice) -> Iterator[str]:
    """The held-out error of every law, and its errors by cut-off."""
    yield "held out: laws fitted to the runs up to each C predict the larger ones (rms error)"
    cuts = choice.test.cuts
    yield f"  {'':<16}  average  " + "  ".join(f"{6 * cut:<8.2g}" for cut in cuts)
    for name, test in choice.tests.items():
        row = "  ".join(f"{percent(rms(test.errors[cut])):<8}" for cut in cuts)
        yield f"  {name:<16}  {percent(test.error):<7}  {row}"
