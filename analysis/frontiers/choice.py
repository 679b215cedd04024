"""The law of N and D that everything else rests on: chosen once for a table of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis import laws as known
from analysis.fitting.checks import FitError
from analysis.fitting.combination import AUTO, Combination, combined, fit_members
from analysis.fitting.fit import fit
from analysis.fitting.held_out import HeldOut, held_out_tests
from analysis.fitting.reference import NEXT
from analysis.fitting.result import FitResult
from analysis.frontiers.parametric import parametric
from analysis.in_words import times
from analysis.laws import Law, LawError
from scaling.errors import TableError
from scaling.jsonable import finite

CANDIDATES: tuple[Law, ...] = (
    known.chinchilla,
    known.kaplan_ND,
    known.bottleneck,
    known.shared_exponent,
)
"""The laws of N and D that are compared unless others are asked for."""

WRONG = ("not_converged", "wrong_sign")
"""Codes of a fit's status that leave a plan without a basis."""
OPEN = ("not_identified", "at_bound")
"""Codes that do so if they leave the plan open: a scale far from the data may be unknown although
the best size within the data is known."""
WIDE = 100.0
"""A plan is open if the upper end of an interval of C, N or D is more than this many times the
lower end."""

Rule = Literal["held_out", "fit", "asked"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The laws of N and D fitted to a table, the one to use first."""

    fits: dict[str, FitResult]
    """The fitted laws by name, the one to use first and then the best predictors."""
    tests: dict[str, HeldOut] = field(repr=False)
    """Their tests on held-out larger runs, in the same order."""
    rule: Rule
    """Why the first law is the first: it predicts the larger runs best (held_out); it fits best, as
    the runs are too few to hold any out (fit); or it was asked for (asked)."""
    determined: bool
    """Whether the runs determine the first law well enough for a plan."""
    skipped: dict[str, str]
    """Reason why a law could not be fitted, by its name."""

    @property
    def name(self) -> str:
        """Name of the law to use."""
        return next(iter(self.fits))

    @property
    def first(self) -> FitResult:
        """The fitted law to use."""
        return self.fits[self.name]

    @property
    def test(self) -> HeldOut:
        """Its test on held-out larger runs."""
        return self.tests[self.name]

    @property
    def errors(self) -> dict[str, float]:
        """{law: held-out error}; nan if the runs are too few to hold any out."""
        return {name: test.error for name, test in self.tests.items()}

    @property
    def sentence(self) -> str:
        """Which law is used, why, and how far it was tested."""
        name, test, law = self.name, self.test, "fitted to the smaller runs alone, it missed the"
        if isinstance(self.first, Combination):
            name = f"{AUTO} ({self.first.lead})"
        if not test.cuts:
            runs = f"these {self.first.problem.units()} runs"
            untested = "no law was tested, as they are too few to hold any out"
            if self.rule == "asked" or len(self.fits) == 1:
                return f"{name} was fitted to {runs}, but {untested}."
            return f"{name} fits {runs} best (by AICc), but {untested}."
        lead = f"{name} predicts these runs best"
        if self.rule == "asked":
            lead = f"{name} is the law asked for"
        elif any(error < test.error for error in self.errors.values()):
            lead = (
                f"The answer is that of {name}"
                if self.name == AUTO
                else f"Of the laws that these runs determine, {name} predicts them best"
            )
        others = [other for other in self.fits if other != self.name]
        rivals = ""
        if others:
            next_best = min(others, key=lambda other: self.errors[other])
            rivals = f" ({next_best}: {percent(self.errors[next_best])})"
        return (
            f"{lead}: {law} {test.runs} larger ones, up to {times(test.reach)} times the compute, "
            f"by {percent(test.error)} on average{rivals}."
        )

    def among(self, names: Collection[str]) -> Choice:
        """Return the choice with the given laws only, in the same order."""
        if self.fits.keys() <= set(names):
            return self
        kept = [name for name in self.fits if name in names]
        return replace(
            self,
            fits={name: self.fits[name] for name in kept},
            tests={name: self.tests[name] for name in kept},
            determined=self.determined if kept[0] == self.name else determines(self.fits[kept[0]]),
        )

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return finite(
            {
                "law": self.name,
                "rule": self.rule,
                "determined": self.determined,
                "tests": {name: test.record() for name, test in self.tests.items()},
                "skipped": self.skipped,
            }
        )


def laws_named(names: Sequence[str]) -> list[Law] | None:
    """Return the laws of these names; None for none, or for 'auto' alone.

    Raises LawError for an unknown name, and for 'auto' among others.
    """
    if not names or tuple(names) == (AUTO,):
        return None
    if AUTO in names:
        raise LawError(
            f"{AUTO} chooses the law, so that no other can be asked for; its report shows the "
            "others. Give --law auto alone, or leave it out."
        )
    return [known.resolve(name) for name in names]


def choose(
    runs: pd.DataFrame,
    laws: Sequence[Law] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    rank: bool = True,
    alone: bool = False,
) -> Choice:
    """Fit the laws to the runs and choose the one that predicts the larger runs best.

    Without `laws`, that is the combined fit (:mod:`analysis.fitting.combination`), next to the
    other common laws for comparison; if the runs are too few for it, it is the best of CANDIDATES.
    Among the laws that the data determine, or among all if they determine none, the first has the
    least held-out error (:func:`analysis.fitting.held_out.held_out`). If the runs are too few to
    hold any out, it has the least AICc.

    rank   if False, the laws keep their order: the first was asked for.
    alone  fit only the law chosen with `bootstrap` draws, and the others without: the same law,
           much sooner.

    Raises FitError if no law can be fitted, or if the one asked for cannot, and LawError for a law
    without N and D among its inputs.
    """
    for law in laws or ():
        if not {"N", "D"} <= set(law.inputs):
            raise LawError(
                f"{law.name} is a law of {' and '.join(law.inputs)}; a choice of N and D needs one "
                f"of both, such as {AUTO} (the default) or {CANDIDATES[0].name}."
            )
    if laws is None:
        try:
            return _combined(runs, bootstrap=bootstrap, seed=seed, alone=alone)
        except (FitError, TableError):
            laws = CANDIDATES
    fits, skipped = {}, {}
    for law in laws:
        try:
            fits[law.name] = fit(law, runs, bootstrap=0 if alone else bootstrap, seed=seed)
        except (FitError, TableError) as error:
            if not rank and law is laws[0]:
                raise
            skipped[law.name] = str(error)
    if not fits:
        raise FitError(next(iter(skipped.values())))
    if not rank:
        return asked_for(fits, skipped)

    def drawn(name: str) -> FitResult:
        if alone:
            fits[name] = fit(fits[name].law, runs, bootstrap=bootstrap, seed=seed)
        return fits[name]

    tests = held_out_tests(fits)
    return _ordered(fits, tests, skipped, drawn=drawn)


def _combined(runs: pd.DataFrame, *, bootstrap: int, seed: int, alone: bool) -> Choice:
    """Return the combined fit as a choice, and the laws that it contains; if `alone`, these are
    without draws."""
    members, unfit = fit_members(runs, seed=seed)
    rivals: dict[str, FitResult] = {}
    skipped = dict(unfit)
    for law in CANDIDATES:
        if law != next(iter(members.values())).law:
            try:
                draws = 0 if alone else bootstrap
                rivals[law.name] = fit(law, runs, bootstrap=draws, seed=seed)
            except (FitError, TableError) as error:
                skipped[law.name] = str(error)
    tests = held_out_tests({**members, **rivals})
    auto = combined(members, tests, unfit, bootstrap=bootstrap, seed=seed)
    order = sorted(rivals, key=lambda name: np.nan_to_num(tests[name].error, nan=math.inf))
    return Choice(
        fits={AUTO: auto, **{name: rivals[name] for name in order}},
        tests={AUTO: auto.test, **{name: tests[name] for name in order}},
        rule="held_out" if auto.test.cuts else "fit",
        determined=determines(auto),
        skipped=skipped,
    )


def choose_among(fits: Mapping[str, FitResult]) -> Choice:
    """Choose among laws that are fitted already, as `choose` does."""
    return _ordered(dict(fits), held_out_tests(fits), {})


def asked_for(fits: Mapping[str, FitResult], skipped: Mapping[str, str] | None = None) -> Choice:
    """Return the given laws as a choice of the caller's: the first is used."""
    fits = dict(fits)
    return Choice(
        fits=fits,
        tests=held_out_tests(fits),
        rule="asked",
        determined=determines(next(iter(fits.values()))),
        skipped=dict(skipped or {}),
    )


def _ordered(
    fits: dict[str, FitResult],
    tests: dict[str, HeldOut],
    skipped: dict[str, str],
    drawn: Callable[[str], FitResult] | None = None,
) -> Choice:
    rule: Rule = "held_out" if next(iter(tests.values())).cuts else "fit"
    score = {
        name: (tests[name].error if rule == "held_out" else _aicc(result), len(result.law.params))
        for name, result in fits.items()
    }
    order = sorted(fits, key=lambda name: score[name])
    first = next((name for name in order if determines(drawn(name) if drawn else fits[name])), None)
    best = first or order[0]
    order = [best, *(name for name in order if name != best)]
    return Choice(
        fits={name: fits[name] for name in order},
        tests={name: tests[name] for name in order},
        rule=rule,
        determined=first is not None,
        skipped=skipped,
    )


def determines(result: FitResult) -> bool:
    """Whether the data determine a law of N and D well enough to plan with it.

    What they leave open counts only if it leaves the best size at NEXT times the compute of the
    largest run open.
    """
    codes = {line.code for line in result.status}
    if codes & set(WRONG):
        return False
    if not codes & set(OPEN):
        return True
    try:
        front = parametric(result)
        N = front.draws(NEXT * front.ranges["C"][1])["N"][1:, 0]
    except (FitError, TableError):
        return False
    if not len(N):
        return False
    low, high = np.quantile(np.where(np.isnan(N), np.inf, N), [0.025, 0.975], method="nearest")
    return bool(high <= WIDE * low)


def _aicc(result: FitResult) -> float:
    """Return AICc by the Gaussian likelihood of ln L; inf with too few runs for it."""
    n, k = result.problem.units(), result.problem.q + 1
    if n <= k + 1:
        return math.inf
    variance = max(float(np.mean(result.log_residuals**2)), 1e-300)
    return n * math.log(variance) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def percent(error: float) -> str:
    """Return a relative error for readers, such as '1.4 %'."""
    return f"{100 * error:.2g} %"
