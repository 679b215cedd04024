"""The linked figures of the page: loss against compute, the evidence for its law, and what other
sizes cost. A script draws them; a run that is chosen in one shows in all."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from analysis.fitting.held_out import rms
from analysis.in_words import times
from analysis.reporting import evidence
from analysis.reporting.beside import Beside
from analysis.reporting.elements import (
    canvas,
    count,
    escape,
    loss,
    percent,
)
from analysis.reporting.plan_cards import budget_words
from analysis.reporting.run_data import curve_values, embedded, run_values
from analysis.reporting.summary import Summary

_AXES = {"C": "compute C", "D": "tokens D", "S": "steps S", "N": "parameters N"}
"""Choices for the horizontal axis of the first figure."""
LINES = 1000
"""Most learning curves drawn in the first figure."""
_STOPS = 24
_LIGHT, _DARK = (0.0, 0.9), (0.25, 1.0)
"""Parts of viridis that can be seen on a light and on a dark page."""


class Linked:
    """The linked figures of one page."""

    def __init__(self, summary: Summary, runs: pd.DataFrame, beside: Beside | None = None) -> None:
        """`runs` are all runs, in the order of `run_data.ordered`."""
        self.summary, self.runs, self.beside = summary, runs, beside
        choice = summary.choice
        self.frontier = evidence.frontier_values(summary)
        self.held = evidence.held_out_runs(choice, runs)
        self.backtest = evidence.backtest_values(choice, runs)
        self.residuals = evidence.residual_values(choice, runs)
        self.laws = evidence.law_losses(summary)
        self.curves = curve_values(runs, summary.curves)

    def data(self) -> str:
        """Return everything that the page's script draws, in a <script> that holds no code."""
        values = {
            "runs": run_values(self.runs),
            "curves": self.curves,
            "hero": {
                "frontier": self.frontier,
                "held": self.held,
                "answer": self._answer(),
                "beside": None if self.beside is None else self.beside.values(),
                "lines": LINES,
            },
            "backtest": self.backtest,
            "residuals": self.residuals,
            "laws": self.laws,
            "colours": {"light": _stops(_LIGHT), "dark": _stops(_DARK)},
        }
        return f'<script id="data" type="application/json">{embedded(values)}</script>'

    def hero(self) -> list[str]:
        """Return the first figure, with its key."""
        runs = self.summary.runs
        axes = [x for x in _AXES if x in runs.columns and runs[x].notna().any()]
        options = "".join(f'<option value="{x}">{_AXES[x]}</option>' for x in axes)
        against = f'<label>Loss against <select id="axis">{options}</select></label>'
        how = (
            "Every point is a finished run. Hover to see a run; click to pin it, and drag to "
            "select runs, in all figures and in the table. With the keyboard: arrows, Enter and "
            "Escape."
        )
        return [
            '<figure class="plot">',
            f'<div class="controls">{against}</div>',
            canvas("hero", self._hero_words()),
            f'<ul class="key">{"".join(self._key())}</ul>',
            f"<figcaption>{how}{self._thinned()}</figcaption></figure>",
        ]

    def why(self) -> list[str]:
        """Return the evidence for the law in a row of small figures; nothing without any."""
        figures = [*self._backtest(), *self._residuals(), *self._disagreement()]
        if not figures:
            return []
        return ["<h2>Why believe it</h2>", '<div class="row">', *figures, "</div>"]

    def _answer(self) -> dict[str, float] | None:
        plan = self.summary.plan
        if plan is None:
            return None
        values = {name: getattr(plan, name).value for name in ("C", "N", "D", "L")}
        return values | {"L_low": plan.L.low, "L_high": plan.L.high}

    def _hero_words(self) -> str:
        """Describe the figure for those who cannot see it."""
        runs, plan = self.summary.runs, self.summary.plan
        words = (
            f"Loss against compute of {len(runs)} finished runs, from {runs['C'].min():.3g} to "
            f"{runs['C'].max():.3g} FLOPs; losses from {runs['L'].max():.3g} to "
            f"{runs['L'].min():.3g} nats per token."
        )
        if plan is not None:
            words += f" The answer: loss {plan.L.value:.3g} at {plan.C.value:.3g} FLOPs."
        return words

    def _key(self) -> list[str]:
        N = self.summary.runs["N"]
        low, high = count(float(N.min())), count(float(N.max()))
        ends = f'{low} <span id="sizes" aria-hidden="true"></span> {high} parameters'
        out = [f"<li>{ends}</li>"] if N.nunique() > 1 else [f"<li>{low} parameters</li>"]
        if self.held:
            ring = '<circle cx="8" cy="8" r="6.5" fill="none" stroke="var(--ink)"/>'
            dot = '<circle cx="8" cy="8" r="3.5" fill="var(--muted)"/>'
            out.append(_sign(ring + dot, "held out when the law was tested"))
        if self.frontier:
            line = '<path d="M0 8H16" stroke="var(--accent)" stroke-width="2"/>'
            title = escape(self.frontier["title"])
            out.append(_sign(line, f"least loss at each compute: {title}"))
            box = '<rect y="2" width="16" height="12" fill="var(--accent)" opacity="{}"/>'
            out.append(_sign(box.format(0.37), "95 % interval if the law is right"))
            if "wide_low" in self.frontier:
                words = "95 % interval of one new run, the law may be wrong"
                out.append(_sign(box.format(0.12), words))
        if self.summary.plan is not None:
            shape = '<path d="M8 1L15 8L8 15L1 8Z" fill="var(--accent)" stroke="var(--ink)"/>'
            out.append(_sign(shape, "the answer"))
        if self.beside is not None:
            square = '<rect x="3" y="3" width="10" height="10" fill="none" stroke="var(--other)"/>'
            out.append(_sign(square, f"{escape(self.beside.name)}: runs and (dashed) frontier"))
        return out

    def _thinned(self) -> str:
        if not self.curves:
            return ""
        words, runs = "", len(self.summary.runs)
        if runs > LINES:
            words = (
                f" The learning curves of {LINES} of the {runs} runs are drawn, evenly spaced by "
                "size and tokens, or of those selected; a run that is pinned shows its own."
            )
        if self.curves["thinned"]:
            most = self.curves["most"]
            words += f" Curves are thinned to {most} points, evenly spaced in log tokens."
        return words

    def _backtest(self) -> list[str]:
        choice = self.summary.choice
        if self.backtest is None or choice is None:
            return []
        key = "".join(
            _line(k, f"{escape(name)} {percent(error)}")
            for k, (name, error) in enumerate(choice.errors.items())
        )
        words = (
            f"Each law was fitted to the smaller runs alone and predicted the {choice.test.runs} "
            f"larger ones, up to {times(choice.test.reach)} times the compute. Lines: rms error by "
            "cut-off; points: single runs by the law used."
        )
        return [
            '<figure class="plot small">',
            "<h3>Held-out error</h3>",
            canvas("backtest", f"Errors on held-out runs. {words}"),
            f'<ul class="key">{key}</ul><figcaption>{words}</figcaption></figure>',
        ]

    def _residuals(self) -> list[str]:
        if self.residuals is None:
            return []
        off = [abs(x) for x in self.residuals["off"] if x is not None]
        words = (
            f"How far each run lies from the law, in percent; rms {rms(np.array(off)):.2g} %. A "
            "trend would mean that the law bends wrongly."
        )
        return [
            '<figure class="plot small">',
            "<h3>Residuals</h3>",
            canvas("residuals-N", f"Residuals against parameters. {words}", "half"),
            canvas("residuals-D", f"Residuals against tokens. {words}", "half"),
            f"<figcaption>{words}</figcaption></figure>",
        ]

    def _disagreement(self) -> list[str]:
        if len(self.laws) < 2:
            return []
        L = [each["L"] for each in self.laws]
        plan = self.summary.plan
        assert plan is not None
        budget = budget_words(plan.C.value, float(self.summary.runs["C"].max()))
        words = f"With {budget}, the laws predict losses from {loss(min(L))} to {loss(max(L))}."
        return [
            '<figure class="plot small">',
            "<h3>Disagreement of laws</h3>",
            canvas("laws", "The loss that each law predicts, with its interval."),
            f'<figcaption><span id="laws-words">{words}</span> Lines: 95 % intervals.</figcaption>'
            "</figure>",
        ]


def _sign(drawing: str, words: str) -> str:
    return f'<li><svg width="16" height="16" aria-hidden="true">{drawing}</svg>{words}</li>'


def _line(k: int, words: str) -> str:
    """Return an entry of a key for the k-th law, in the colours and dashes of page.js."""
    colour = ("accent", *(f"law-{i}" for i in range(2, 7)))[k % 6]
    dash = ("", "6 3", "2 2", "8 3 2 3", "1 3", "4 4")[k % 6]
    drawing = (
        f'<path d="M0 8H26" stroke="var(--{colour})" stroke-width="2" stroke-dasharray="{dash}"/>'
    )
    return f'<li><svg width="26" height="16" aria-hidden="true">{drawing}</svg>{words}</li>'


def _stops(part: tuple[float, float]) -> list[Any]:
    colours = matplotlib.colormaps["viridis"](np.linspace(*part, _STOPS))
    return [to_hex(c) for c in colours]
