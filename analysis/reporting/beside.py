"""A second sweep beside the first: its answer, and where the two differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analysis.fitting.checks import FitError
from analysis.in_words import times
from analysis.planning.doubts import VAST, VAST_LOSS
from analysis.planning.plan import Plan
from analysis.planning.plans import plans
from analysis.reporting.elements import (
    card,
    count,
    escape,
    facts,
    interval,
    loss,
    marked_up,
    number,
    percent,
    sentence,
    table,
)
from analysis.reporting.evidence import frontier_values
from analysis.reporting.formulas import mathml
from analysis.reporting.plan_cards import with_interval
from analysis.reporting.run_data import five_digits
from analysis.reporting.summary import Summary
from scaling.errors import ConfigError, TableError

_SAME = ("vocab_size", "tokenizer", "corpus_hash", "corpus", "n_ctx")
"""Columns that must agree for losses per token to be comparable."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Two sweeps side by side."""

    first: Summary
    second: Summary
    names: tuple[str, str]

    @property
    def name(self) -> str:
        """Name of the second sweep."""
        return self.names[1]

    def values(self) -> dict[str, Any]:
        """Return the runs and the frontier of the second sweep for the page's script."""
        runs = self.second.runs
        present = [x for x in ("C", "D", "S", "N", "L") if x in runs.columns]
        return {
            "name": self.name,
            "runs": {x: five_digits(runs[x].to_numpy(dtype=float, na_value=float("nan")))
                     for x in present},
            "frontier": frontier_values(self.second),
        }  # fmt: skip

    def section(self) -> list[str]:
        """Return the section with both answers at the same compute and a table of differences."""
        first, second = self.first.plan, self._same_compute()
        out = [f"<h2>{escape(self.names[0])} beside {escape(self.names[1])}</h2>"]
        if different := self._different():
            words = ", ".join(different)
            out.append(
                f'<p class="note">The runs differ in {escape(words)}: compare their losses with '
                "care, since the loss per token depends on it.</p>"
            )
        cards = [
            card(escape(name), *_answer(summary, plan))
            for name, summary, plan in zip(
                self.names, (self.first, self.second), (first, second), strict=True
            )
        ]
        out += ['<div class="cards">', *cards, "</div>"]
        rows = list(self._rows(first, second))
        header = ("quantity", *self.names, "difference")
        return [*out, table(header, rows, label="Differences between the two sweeps")]

    def _same_compute(self) -> Plan | None:
        """Return the plan of the second sweep for the compute of the first one's plan."""
        first, choice = self.first.plan, self.second.choice
        if first is None or choice is None:
            return self.second.plan
        try:
            return plans(choice, C=first.C.value).first
        except (ConfigError, FitError, TableError):
            return self.second.plan

    def _different(self) -> list[str]:
        both = [s.runs for s in (self.first, self.second)]
        return [
            name for name in _SAME
            if all(name in runs.columns for runs in both)
            and set(both[0][name].dropna().astype(str)) != set(both[1][name].dropna().astype(str))
        ]  # fmt: skip

    def _rows(self, first: Plan | None, second: Plan | None) -> Iterator[tuple[str, ...]]:
        for words, name in (("best size N", "N"), ("data D", "D"), ("loss", "L")):
            if first is None or second is None:
                break
            a, b = getattr(first, name), getattr(second, name)
            write = loss if name == "L" else count
            apart = b.value - a.value if name == "L" else b.value / a.value
            difference = (
                f"{apart:+.3g}".replace("-", "−") if name == "L" else f"{times(apart)} times"
            )
            at = f"{words} at {number(first.C.value)} FLOPs" if first.C == second.C else words
            vast = VAST_LOSS if name == "L" else VAST
            yield _row(at, *(with_interval(q, write, vast=vast) for q in (a, b)), difference)
        yield _row("finished runs", *(str(len(s.runs)) for s in (self.first, self.second)), "")
        for name in ("N", "D", "C"):
            spans = [
                f"{write(float(s.runs[name].min()))} to {write(float(s.runs[name].max()))}"
                for s in (self.first, self.second)
                for write in (number if name == "C" else count,)
            ]
            yield _row(f"range of {name}", *spans, "")
        yield _row(
            "lowest loss measured",
            *(loss(float(s.runs["L"].min())) for s in (self.first, self.second)),
            f"{self.second.runs['L'].min() - self.first.runs['L'].min():+.3g}".replace("-", "−"),
        )
        errors = [s.choice.test.error if s.choice else float("nan") for s in self._both()]
        yield _row("held-out error of the law", *map(percent, errors), "")
        yield from self._exponents()

    def _both(self) -> tuple[Summary, Summary]:
        return self.first, self.second

    def _exponents(self) -> Iterator[tuple[str, ...]]:
        """The exponents of L(N), L(D) and L(C), if both sweeps have them."""
        for key in ("L(N)", "L(D)", "L(C)"):
            fits = [s.laws.get(key) for s in self._both()]
            if None in fits:
                continue
            found = []
            for result in fits:
                assert result is not None
                (symbol,) = (p for p in result.law.params if p.startswith("alpha"))
                found.append(result.interval().loc[symbol])
            a, b = found
            apart = f"{b['value'] - a['value']:+.2g}".replace("-", "−")
            cells = (f"{number(r['value'])} {interval(r['low'], r['high'])}" for r in found)
            yield _row(f"exponent of {key}", *cells, apart)


def _row(*cells: str) -> tuple[str, ...]:
    return tuple(marked_up(each) for each in cells)


def _answer(summary: Summary, plan: Plan | None) -> list[str]:
    """Return the answer of one sweep, and its law."""
    out = []
    if plan is None:
        out.append(f"<p>{escape(summary.verdict[1])}</p>")
    else:
        rows = [
            ("compute", f"{number(plan.C.value)} FLOPs"),
            ("parameters", with_interval(plan.N, count)),
            ("tokens", with_interval(plan.D, count)),
            ("loss", with_interval(plan.L, loss, vast=VAST_LOSS)),
        ]
        out.append(facts(rows))
        if plan.doubts:
            doubts = escape(sentence("; ".join(map(str, plan.doubts))))
            out.append(f'<p><span class="mark bad">not supported</span> {doubts}</p>')
    if summary.choice is not None:
        out.append(f"<p>{mathml(summary.choice.first.law.formula)}</p>")
        out.append(f'<p class="muted">{escape(summary.choice.sentence)}</p>')
    return out
