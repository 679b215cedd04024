"""Plans for the same request under several laws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis import notebook
from analysis.arguments import expect
from analysis.fitting.checks import FitError
from analysis.fitting.result import FitResult
from analysis.fitting.status import Note, Status
from analysis.frontiers.choice import Choice, asked_for, choose_among
from analysis.in_words import interval, times
from analysis.planning.answer import verdict, wrapped
from analysis.planning.doubts import VAST, VAST_LOSS, fit_doubts, headline_of
from analysis.planning.plan import Plan, plan
from scaling import progress
from scaling.errors import ConfigError, TableError
from scaling.jsonable import finite

ALIKE = 1.5
"""Laws whose errors on held-out runs differ by less than this factor cannot be told apart: the
error is a mean over a few cut-offs of one table."""
APART = 3.0
"""Plans for sizes that differ by more than this factor are different advice."""


@dataclass(frozen=True, kw_only=True)
class Plans:
    """Plans for the same request under several laws."""

    plans: dict[str, Plan]
    """{law: plan}; the first is the one to read."""
    skipped: dict[str, str]
    """{law: reason why it gives no plan}."""
    held_out: dict[str, float]
    """{law: error of predicting the larger runs from the smaller ones}; NaN for too few runs."""
    choice: Choice | None = None
    """The laws behind the plans, and how they were tested; None if that is unknown."""

    @property
    def first(self) -> Plan:
        """The plan to read."""
        return next(iter(self.plans.values()))

    @property
    def disagreement(self) -> dict[str, float]:
        """Largest over smallest value among the laws for C, N and D; for L the difference."""
        values = {
            name: [getattr(p, name).value for p in self.plans.values()]
            for name in ("C", "N", "D", "L")
        }
        return {k: max(v) / min(v) if k != "L" else max(v) - min(v) for k, v in values.items()}

    @property
    def verdict(self) -> tuple[str, str, str]:
        """The answer in three sentences: the law, what to train, and the main doubts."""
        return verdict(self.choice, self.first, rivals=self.plans, doubted=self.doubts)

    @property
    def rivals(self) -> dict[str, Plan]:
        """The first plan and those of laws that the data cannot tell apart from its law: they
        determine the law, and it predicts the larger runs about as well."""
        name, first = next(iter(self.plans.items()))
        error = self.held_out[name]
        near = {
            other: p
            for other, p in self.plans.items()
            if not fit_doubts(p.status) and self.held_out[other] <= ALIKE * error
        }
        return {name: first} | near

    @property
    def doubts(self) -> tuple[Status, ...]:
        """The doubts of the first plan and, if laws that the data cannot tell apart plan for sizes
        more than a factor of 3 apart, that."""
        N = {name: p.N.value for name, p in self.rivals.items()}
        low, high = min(N, key=N.__getitem__), max(N, key=N.__getitem__)
        if N[high] <= APART * N[low]:
            return self.first.doubts
        text = (
            f"{low} and {high} predict the larger runs about equally well and differ by a factor "
            f"of {times(N[high] / N[low])} in N"
        )
        return (*self.first.doubts, Note("laws_disagree", text))

    @property
    def headline(self) -> str:
        """The first plan in a line, after the doubts."""
        return headline_of(self.first.plain, self.doubts)

    def record(self) -> dict[str, Any]:
        """Return the first plan's record with the `verdict`, those of all `laws` and the
        `disagreement`."""
        return self.first.record() | {
            "verdict": list(self.verdict),
            "choice": None if self.choice is None else self.choice.record(),
            "reliable": not self.doubts,
            "doubts": [{"code": line.code, "text": str(line)} for line in self.doubts],
            "laws": {name: p.record() for name, p in self.plans.items()},
            "skipped": self.skipped,
            "held_out": finite(self.held_out),
            "disagreement": finite(self.disagreement),
        }

    def __str__(self) -> str:
        _, *details = str(self.first).splitlines()
        lines = [] if self.choice is None else [*wrapped(self.verdict), ""]
        lines += [self.headline, *details]
        if len(self.plans) > 1:
            lines.append("the same under other laws:")
            lines += [self._line(name) for name in self.plans]
            off = self.disagreement
            lines.append(
                f"  they differ by a factor of {off['N']:.3g} in N, {off['D']:.3g} in D and by "
                f"{off['L']:.3f} nats in L; the intervals above exclude this model uncertainty"
            )
        return "\n".join(lines + [f"no plan by {n}: {why}" for n, why in self.skipped.items()])

    def _repr_html_(self) -> str:
        return notebook.plans(self)

    def _line(self, name: str) -> str:
        p, error = self.plans[name], self.held_out[name]
        missed = "" if math.isnan(error) else f"; larger runs missed by {error:.1%}"
        doubt = " - NOT RELIABLE" if p.doubts else ""
        return (
            f"  {name:<16} C = {p.C.value:.3g}, N = {p.N.value:.3g} "
            f"{interval(p.N.low, p.N.high, '.3g', vast=VAST)}, D = {p.D.value:.3g}, "
            f"L = {p.L.value:.3f} {interval(p.L.low, p.L.high, '.3f', vast=VAST_LOSS)}"
            f"{missed}{doubt}"
        )


def plans(sources: Choice | Mapping[str, FitResult], *, rank: bool = False, **asked: Any) -> Plans:
    """Plan the same request under each of several fitted laws; `asked` as for :func:`plan`.

    With `rank`, the first plan is that of the law that predicts the larger runs best from the
    smaller ones (:func:`analysis.fitting.held_out.held_out`), among the laws that the data
    determine, or among all if they determine none. The others follow, best predictor first. A
    choice (:func:`analysis.frontiers.choice.choose`) keeps its order.

    Raises the first law's error if no law gives a plan.
    """
    expect(
        "plans(sources)", "sources", sources, Mapping, Choice,
        remedy="It must be fits by name: {law.name: fit(law, runs) for law in ...}.",
    )  # fmt: skip
    fits = sources.fits if isinstance(sources, Choice) else sources
    made: dict[str, Plan] = {}
    skipped: dict[str, str] = dict(sources.skipped) if isinstance(sources, Choice) else {}
    first: Exception | None = None
    for name, source in fits.items():
        progress.step(f"planning with {name}")
        try:
            made[name] = plan(source, **asked)
        except (ConfigError, FitError, TableError) as error:
            first = first or error
            skipped[name] = str(error)
    if not made:
        raise first or ConfigError("plans needs at least one fitted law.")
    if isinstance(sources, Choice):
        choice = sources.among(made)
    else:
        planned = {name: fits[name] for name in made}
        choice = choose_among(planned) if rank else asked_for(planned)
    return Plans(
        plans={name: made[name] for name in choice.fits},
        skipped=skipped,
        held_out=choice.errors,
        choice=choice,
    )
