"""Reasons not to rely on a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from analysis.fitting.combination import Combination
from analysis.fitting.result import FitResult
from analysis.fitting.status import Note, Status
from analysis.frontiers.choice import OPEN, WIDE, WRONG
from analysis.in_words import times
from analysis.planning.quantity import Quantity

WIDE_LOSS = 2.0
"""The same for L: between a floor near 1.5 and the 10 of a model that predicts nothing, a factor of
two says hardly anything."""

VAST, VAST_LOSS = 1e4, 10.0
"""Factors that an interval of C, N or D, and of L, must not span to be printed in numbers."""


CLOSE = 0.03
"""A loss is known well if half its extrapolation interval of 90 % is at most this, relatively. Over
the suite of results/LOG.md, 91 % of such predictions are within 2 % of the larger runs, and half of
the others are."""


def loss_doubts(fit: FitResult | None, N: float, D: float) -> Iterator[Status]:
    """Yield a line if the combined fit knows the loss at N and D too loosely to rely on it."""
    if not isinstance(fit, Combination):
        return
    low, high = fit.predict_interval(0.9, kind="extrapolation", N=N, D=D)
    half = math.log(float(high) / float(low)) / 2 if 0 < low < high < math.inf else math.inf
    if half > CLOSE:
        known = f"to about {100 * half:.2g} %" if half < 1 else "hardly at all"
        yield Note("loss_uncertain", f"the loss is known {known} (90 % extrapolation interval)")


def interval_doubts(quantities: Mapping[str, Quantity], asked: str) -> Iterator[Status]:
    """Yield a line for all intervals of C, N, D and L that are missing, and one for each that is
    too wide to be of use."""
    computed = {name: q for name, q in quantities.items() if name != asked}
    unknown = [name for name, q in computed.items() if not q.known]
    if unknown:
        yield Note("no_interval", f"no interval of {', '.join(unknown)} is known")
    for name, q in computed.items():
        limit = WIDE_LOSS if name == "L" else WIDE
        if q.known and not 0 < q.high <= limit * q.low < math.inf:
            yield Note("wide_interval", f"the interval of {name} {_width(q)}")


def _width(q: Quantity) -> str:
    if math.isinf(q.high):
        return "has no upper end"
    factor = q.high / q.low if q.low > 0 else math.inf
    return f"spans {f'a factor of {times(factor)}' if factor < 1e6 else 'more than a millionfold'}"


def fit_doubts(status: Iterable[str]) -> tuple[Status, ...]:
    """Return the lines that say that the fit behind a plan has no basis."""
    return tuple(line for line in status if isinstance(line, Status) and line.code in WRONG)


def headline_of(plain: str, doubts: Iterable[str]) -> str:
    """Return a plan in a line, after its doubts if it has any."""
    reasons = "; ".join(doubts)
    return f"NOT RELIABLE: {reasons} - {plain}" if reasons else plain


def doubts_of(
    status: Iterable[Status], quantities: Mapping[str, Quantity], asked: str
) -> tuple[Status, ...]:
    """Return what makes a plan unreliable: its distance, its intervals, then its fit."""
    status, N = tuple(status), quantities["N"]
    narrow = 0 < N.high <= WIDE * N.low < math.inf
    fit = WRONG if narrow else WRONG + OPEN
    return (
        *(line for line in status if line.code in ("unreliable_extrapolation", "loss_uncertain")),
        *interval_doubts(quantities, asked),
        *(line for line in status if line.code in fit),
    )
