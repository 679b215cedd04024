"""The answer in three sentences: which law predicts best, what to train, and what speaks against
it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from analysis.fitting.status import Status
from analysis.frontiers.choice import Choice, percent
from analysis.in_words import times
from analysis.planning.plan import Plan
from scaling import units

WIDTH = 100
"""Characters per line of the printed sentences."""
_MOST = 3
"""Number of doubts that are told."""
SIMILAR = 2.0
"""A law predicts about as well if its held-out error is at most this many times that of the law
used."""
DIFFERENT = 1.3
"""Answers of two laws differ if their sizes differ by more than this factor."""
LONGER = 2.0
"""A plan for more than this many times the largest N or D of the runs is worth a remark."""


class Doubt(NamedTuple):
    """A reason why the answer may be wrong."""

    code: str
    text: str
    """A clause that follows 'that'."""


def verdict(
    choice: Choice | None,
    plan: Plan | None,
    *,
    rivals: Mapping[str, Plan] | None = None,
    doubted: Iterable[Status] | None = None,
    runs: pd.DataFrame | None = None,
    why: str = "",
) -> tuple[str, str, str]:
    """Return three sentences: the law and how far it was tested, what to train, and the doubts.

    rivals   plans for the same request by other laws of the choice.
    doubted  what makes the plan unreliable; by default `plan.doubts`.
    runs     the runs; by default those that the law was fitted to.
    why      the reason for a missing choice or plan.
    """
    reason = f": {why.rstrip('.')}" if why else ""
    if choice is not None:
        law, runs = choice.sentence, choice.first.runs if runs is None else runs
    elif plan is not None and plan.source.startswith("parametric"):
        law = "How well the law predicts larger runs was not tested."
    else:
        law = "No law of N and D could be fitted, so nothing was tested on larger runs."
    if plan is None:
        nothing = "What to train next, these runs do not tell" + (reason or "") + "."
        return law, nothing, "Runs of several sizes N and numbers of tokens D are needed."
    lines = tuple(plan.doubts if doubted is None else doubted)
    found = list(doubts(choice, plan, rivals or {}, runs, lines))
    return law, _advice(plan, runs, bool(lines)), _against([doubt.text for doubt in found])


def wrapped(sentences: Iterable[str]) -> list[str]:
    """Return the sentences as lines, each sentence on lines of its own."""
    return [line for sentence in sentences for line in textwrap.wrap(sentence, WIDTH)]


def _advice(plan: Plan, runs: pd.DataFrame | None, doubtful: bool) -> str:
    """What to train, and the loss to expect."""
    (asked,) = plan.asked
    run = f"{units.count(plan.N.value)} parameters on {units.count(plan.D.value)} tokens"
    if asked == "C":
        request = f"With {flops(plan.C.value)} FLOPs"
        if runs is not None and (factor := plan.C.value / float(runs["C"].max())) > 1.01:
            more = f"{times(factor)} times the compute of the largest run"
            request = f"With {more} ({flops(plan.C.value)} FLOPs)"
    else:
        request = {
            "N": f"To make the best of {units.count(plan.N.value)} parameters",
            "D": f"To make the best of {units.count(plan.D.value)} tokens",
            "L": f"To reach a loss of {plan.L.value:.4g} nats per token",
        }[asked]
        run += f" ({flops(plan.C.value)} FLOPs)"
    recipe = (
        f"with batches of {units.count(plan.recipe.B)} tokens and a peak learning rate of "
        f"{plan.recipe.lr:.2g}"
    )
    says = "the answer is NOT RELIABLE: the law says" if doubtful else "train"
    return f"{request}, {says} {run}, {recipe}{_expected(plan, doubtful)}."


def _expected(plan: Plan, doubtful: bool) -> str:
    """The loss to expect, unless it was asked for."""
    if "L" in plan.asked:
        return ""
    spread = "no interval is known"
    if plan.L.low == plan.L.low:
        spread = f"{100 * plan.level:g} % interval {plan.L.low:.3f} to {plan.L.high:.3f}"
    lead = ", and a loss of" if doubtful else "; expect a loss of"
    return f"{lead} {plan.L.value:.3f} nats per token ({spread})"


def doubts(
    choice: Choice | None,
    plan: Plan,
    rivals: Mapping[str, Plan],
    runs: pd.DataFrame | None,
    doubted: tuple[Status, ...] = (),
) -> Iterator[Doubt]:
    """Yield what may be wrong with a plan, the most consequential first."""
    yield from _unreliable(plan, doubted)
    codes = {line.code for line in doubted}
    if choice is not None and "unreliable_extrapolation" not in codes:
        yield from _untested(choice, plan)
    if choice is not None and "laws_disagree" not in codes:
        yield from _rivals(choice, plan, rivals)
    for line in plan.status:
        if line.code == "shape_untested":
            which = str(line).partition(": ")[2].partition(";")[0]
            yield Doubt(line.code, f"its shape is outside those of the runs ({which})")
        elif line.code == "repeated_data":
            yield Doubt(line.code, str(line))
    if runs is not None:
        yield from _larger(plan, runs)
    yield from _recipe(plan, runs)
    if runs is not None and "seed" in runs.columns and runs["seed"].nunique() == 1:
        yield Doubt("one_seed", "every run has the same seed, so their noise is unknown")


def _unreliable(plan: Plan, doubted: tuple[Status, ...]) -> Iterator[Doubt]:
    """The reasons why a plan is not reliable."""
    open_, told = [], False
    for line in doubted:
        if line.code in ("not_identified", "at_bound"):
            open_ += [name for name in line.detail.split(", ") if name not in open_]
    for line in doubted:
        if line.code in ("not_identified", "at_bound"):
            if not told:
                yield Doubt(line.code, f"these runs do not determine {_listed(open_)}")
            told = True
        elif line.code == "wrong_sign":
            yield Doubt(line.code, f"{line.detail} of the law has the wrong sign")
        elif line.code == "not_converged":
            yield Doubt(line.code, "the fit of the law did not converge")
        elif line.code == "unreliable_extrapolation":
            of_runs = plan.source.startswith("parametric")
            far = f"this is {line.detail}" if of_runs else "no best size is known near this compute"
            yield Doubt(line.code, far)
        else:
            yield Doubt(line.code, str(line))


def _untested(choice: Choice, plan: Plan) -> Iterator[Doubt]:
    """Extrapolation beyond what held-out runs tested."""
    factor = plan.beyond["C"]
    if not choice.test.cuts:
        yield Doubt("untested", "the law was not tested on larger runs")
    elif factor > choice.test.reach:
        yield Doubt(
            "beyond_test",
            f"the law was tested up to {times(choice.test.reach)} times the compute, and this is "
            f"{times(factor)} times",
        )


def _rivals(choice: Choice, plan: Plan, rivals: Mapping[str, Plan]) -> Iterator[Doubt]:
    """Other answers by laws that predict about as well."""
    limit = SIMILAR * choice.test.error
    similar = {
        name: other
        for name, other in rivals.items()
        if name != choice.name and (not choice.test.cuts or choice.errors.get(name, 0) <= limit)
    }
    sizes = [other.N.value for other in similar.values()]
    if not sizes or max([plan.N.value, *sizes]) < DIFFERENT * min([plan.N.value, *sizes]):
        return
    if len(similar) == 1:
        ((name, other),) = similar.items()
        yield Doubt(
            "rivals",
            f"{name}, which {_missed(choice, name)}, says {units.count(other.N.value)} parameters "
            f"on {units.count(other.D.value)} tokens",
        )
        return
    as_well = "predict" if choice.test.cuts else "fit"
    yield Doubt(
        "rivals",
        f"laws that {as_well} about as well say {units.count(min(sizes))} to "
        f"{units.count(max(sizes))} parameters",
    )


def _missed(choice: Choice, name: str) -> str:
    if not choice.test.cuts:
        return "fits about as well"
    return f"missed the larger runs by {percent(choice.errors[name])}"


def _larger(plan: Plan, runs: pd.DataFrame) -> Iterator[Doubt]:
    """A size or an amount of data far above that of any run."""
    N, D = (getattr(plan, name).value / float(runs[name].max()) for name in ("N", "D"))
    if max(N, D) <= LONGER:
        return
    parts = [f"{times(N)} times as many parameters"] if N > LONGER else []
    parts += [f"{times(D)} times as many tokens"] if D > LONGER else []
    yield Doubt("larger", f"it takes {' and '.join(parts)} as any run")


def _recipe(plan: Plan, runs: pd.DataFrame | None) -> Iterator[Doubt]:
    """A batch size or a learning rate that these runs did not have or search."""
    far = plan.recipe.beyond.get("B", 1.0)
    if far > LONGER:
        larger = runs is None or float(runs["B"].max()) < plan.recipe.B
        size = "larger" if larger else "smaller"
        yield Doubt("batch", f"its batches are {times(far)} times {size} than those of the runs")
    if not searched(runs):
        whose = "these runs" if "of these runs" in plan.recipe.sources["lr"] else "other work"
        yield Doubt("lr", f"its learning rate follows the rule of {whose} and was not searched")


def searched(runs: pd.DataFrame | None) -> bool:
    """Whether any size was trained at three learning rates or more."""
    if runs is None or not {"N", "D", "lr_peak"} <= set(runs.columns):
        return False
    return bool((runs.groupby(["N", "D"])["lr_peak"].nunique() >= 3).any())


def _against(clauses: list[str]) -> str:
    if not clauses:
        return "Nothing in these runs speaks against it."
    told = [f"that {clause}" for clause in clauses[:_MOST]]
    if len(told) == 1:
        return f"The main doubt is {told[0]}."
    return f"The main doubts are {'; '.join(told[:-1])}; and {told[-1]}."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def flops(value: float) -> str:
    """Return FLOPs with two digits, such as '4e14'."""
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}"
