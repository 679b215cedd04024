"""Plans for the same request under several laws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.fitting.checks import FitError
from analysis.fitting.intervals import interval
from analysis.fitting.result import FitResult
from analysis.frontiers.choice import Choice, asked_for, choose_among
from analysis.planning.answer import verdict, wrapped
from analysis.planning.plan import Plan, plan
from scaling.errors import ConfigError, TableError
from scaling.jsonable import finite


@dataclass(frozen=True, kw_only=True)
class Plans:
    """Plans for the same request under several laws."""

    plans: dict[str, Plan]
    """{law: plan}; the first is the one to read."""
    skipped: dict[str, str]
    """{law: reason why it gives no plan}."""
    held_out: dict[str, float]
    """{law: error of predicting the larger runs from the smaller ones}; NaN for too few runs."""
    choice: Choice
    """The laws behind the plans, and how they were tested."""

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
        return verdict(self.choice, self.first, rivals=self.plans)

    def record(self) -> dict[str, Any]:
        """Return the first plan's record with the `verdict`, those of all `laws` and the
        `disagreement`."""
        return self.first.record() | {
            "verdict": list(self.verdict),
            "choice": self.choice.record(),
            "laws": {name: p.record() for name, p in self.plans.items()},
            "skipped": self.skipped,
            "held_out": finite(self.held_out),
            "disagreement": self.disagreement,
        }

    def __str__(self) -> str:
        lines = [*wrapped(self.verdict), "", str(self.first)]
        if len(self.plans) > 1:
            lines.append("the same under other laws:")
            lines += [self._line(name) for name in self.plans]
            off = self.disagreement
            lines.append(
                f"  they differ by a factor of {off['N']:.3g} in N, {off['D']:.3g} in D and by "
                f"{off['L']:.3f} nats in L; the intervals above exclude this model uncertainty"
            )
        return "\n".join(lines + [f"no plan by {n}: {why}" for n, why in self.skipped.items()])

    def _line(self, name: str) -> str:
        p, error = self.plans[name], self.held_out[name]
        missed = "" if math.isnan(error) else f"; larger runs missed by {error:.1%}"
        doubt = " - NOT RELIABLE" if p.doubts else ""
        return (
            f"  {name:<16} C = {p.C.value:.3g}, N = {p.N.value:.3g} "
            f"{interval(p.N.low, p.N.high, '.3g')}, D = {p.D.value:.3g}, L = {p.L.value:.3f} "
            f"{interval(p.L.low, p.L.high, '.3f')}{missed}{doubt}"
        )


def plans(sources: Choice | Mapping[str, FitResult], *, rank: bool = False, **asked: Any) -> Plans:
    """Plan the same request under each of several fitted laws; `asked` as for :func:`plan`.

    With `rank`, the first plan is that of the law that predicts the larger runs best from the
    smaller ones (:func:`analysis.fitting.held_out.held_out`), among the laws that the data
    determine, or among all if they determine none. The others follow, best predictor first. A
    choice (:func:`analysis.frontiers.choice.choose`) keeps its order.

    Raises the first law's error if no law gives a plan.
    """
    fits = sources.fits if isinstance(sources, Choice) else sources
    made: dict[str, Plan] = {}
    skipped: dict[str, str] = dict(sources.skipped) if isinstance(sources, Choice) else {}
    first: Exception | None = None
    for name, source in fits.items():
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
