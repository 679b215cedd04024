"""How far a plan lies outside the runs, and how far their law was tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from analysis.fitting.result import FitResult
from analysis.fitting.status import Note, Status
from analysis.frontiers.result import Frontier
from analysis.in_words import times
from analysis.validation.validate import tested_reach
from scaling.jsonable import finite

INSIDE = 1.001
"""Factors beyond the data that are not more than this are rounding."""
ALWAYS = 10.0
"""A plan this many times beyond the data is never unreliable for its distance alone: one decade is
what held-out runs can test in most sweeps."""
NEVER = 1000.0
"""A plan more than this many times beyond the data is unreliable, however much the data span. The
longest extrapolations that were published and then met are about 200 (Hoffmann et al. 2022), 1e3 to
1e4 (OpenAI 2023, GPT-4) and 4e3 (Llama 3), and all of these rest on purpose-made sweeps."""

Band = Literal["inside", "tested", "untested", "unreliable"]


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """How far a plan lies outside the data, next to how far it may be trusted.

    Two decades of data cannot show whether a power law holds for three more. So a plan is
    unreliable if it lies further beyond the data, in C, N or D, than the data span themselves, or
    than a factor of 1000. A factor of 10 is always allowed.
    """

    beyond: dict[str, float]
    """How many times C, N and D lie outside the data: 1 inside."""
    below: tuple[str, ...]
    """Those of C, N and D that lie below the data rather than above."""
    limits: dict[str, float]
    """The factor of each beyond which a plan is unreliable."""
    tested: float | None
    """How many times larger, in C, the largest runs held out of a backtest are than those that
    predict them; None without a law, or if there are too few runs for a backtest."""
    has_law: bool = True
    """Whether the frontier is that of a fitted law, which held-out runs can test."""

    @property
    def band(self) -> Band:
        """Where the plan lies: inside the data, as far beyond as held-out runs tested the law,
        further, or too far to rely on."""
        if self.excess:
            return "unreliable"
        far = max(self.beyond.values())
        if far <= INSIDE:
            return "inside"
        return "tested" if far <= (self.tested or 1.0) else "untested"

    @property
    def excess(self) -> tuple[str, ...]:
        """Those of C, N and D that lie beyond their limit; C alone if it is among them, as N and D
        follow from it."""
        far = tuple(k for k, factor in self.beyond.items() if factor > self.limits[k])
        return ("C",) if "C" in far else far

    def lines(self) -> Iterator[Status]:
        """Yield the warning about the distance: none inside the data."""
        outside = {k: v for k, v in self.beyond.items() if v > INSIDE}
        if not outside:
            return
        factors = ", ".join(f"{k} {v:.3g}x" for k, v in outside.items())
        if max(outside.values()) > 10:
            yield Note(
                "far_extrapolation",
                f"EXTRAPOLATION: {factors} beyond the data; {self._tested_words()}. The interval "
                "is a lower bound on the uncertainty: it assumes that the law holds there",
            )
        else:
            yield Note("extrapolates", f"extrapolates: {factors} beyond the data")
        if self.excess:
            yield Note("unreliable_extrapolation", "; ".join(map(self._distance, self.excess)))

    def _tested_words(self) -> str:
        if not self.has_law:
            return "without a law there is no held-out test"
        if self.tested is None:
            return "too few runs to test any extrapolation"
        return f"held-out runs test the law up to {self.tested:.3g}x in C"

    def _distance(self, name: str) -> str:
        what, who = {
            "C": ("the compute", "run"),
            "N": ("the parameters", "model"),
            "D": ("the tokens", "run"),
        }[name]
        if name in self.below:
            return (
                f"{what} is {times(self.beyond[name])} times less than that of the smallest {who}"
            )
        longest = "longest" if name == "D" else "largest"
        return f"{times(self.beyond[name])} times {what} of the {longest} {who}"

    def record(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return finite(
            {"band": self.band, "beyond": self.beyond, "limits": self.limits, "tested": self.tested}
        )


def extrapolation_of(front: Frontier, best: Mapping[str, float]) -> Extrapolation:
    """Return how far C, N and D of a plan lie outside the data of its frontier."""
    return extrapolation_beyond({name: front.ranges[name] for name in best}, best, front.fit)


def extrapolation_beyond(
    ranges: Mapping[str, tuple[float, float]], best: Mapping[str, float], fit: FitResult | None
) -> Extrapolation:
    """Return how far C, N and D of a run lie outside their ranges in the data, and how far held-out
    runs test the fitted law, if there is one."""
    return Extrapolation(
        beyond={
            k: max(1.0, value / ranges[k][1], ranges[k][0] / value) for k, value in best.items()
        },
        below=tuple(k for k, value in best.items() if value < ranges[k][0]),
        limits={k: min(max(high / low, ALWAYS), NEVER) for k, (low, high) in ranges.items()},
        tested=None if fit is None else tested_reach(fit),
        has_law=fit is not None,
    )
