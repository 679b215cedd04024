"""Limits of data: how much is enough, what repetition is worth, and when to stop training.

From Kaplan et al. 2020: the data rule (section 4), the step at which a run on little data begins to
overfit (section 5.3), where compute-efficient training runs out of data (section 6.3), and how far
short of convergence it stops (appendix B). From Muennighoff et al. 2023: the worth of a repeated
token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from analysis import laws
from analysis.arguments import expect
from analysis.critical_batch import Efficient, resampled_params
from analysis.fitting.combination import Combination
from analysis.fitting.result import Estimate, FitResult
from analysis.in_words import interval
from analysis.laws import Law, LawError
from analysis.published import muennighoff2023
from scaling.errors import ConfigError
from scaling.jsonable import finite


@dataclass(frozen=True, kw_only=True)
class DataRule:
    """How data must grow with size to limit overfitting: D = k N^exponent."""

    exponent: float
    low: float
    high: float
    coefficient: float
    """k, with N in parameters and D in tokens."""
    overfit: float
    """Relative excess over the loss on infinite data that the rule allows."""
    level: float
    paper: float = 0.74

    def tokens(self, *, N: Any) -> Any:
        """Return D [tokens] at which the loss of N parameters is `overfit` above its limit."""
        return self.coefficient * np.asarray(N, float) ** self.exponent

    def record(self) -> dict[str, float]:
        return finite({name: getattr(self, name) for name in self.__dataclass_fields__})

    def __str__(self) -> str:
        ends = interval(self.low, self.high, ".2f")
        return (
            f"data rule: D >= {self.coefficient:.2g} N^{self.exponent:.2f} "
            f"{ends} keeps the loss within {self.overfit:.0%} of its "
            f"value on infinite data (Kaplan et al. 2020: N^{self.paper})"
        )


def data_rule(result: FitResult, *, overfit: float = 0.02, level: float = 0.95) -> DataRule:
    """Find D as a power of N at constant overfitting, from a fit of kaplan_ND.

    It solves `relative_excess` = `overfit` for D. The paper takes 2 %, the spread between its
    seeds, and finds D >= 5e3 N^0.74.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 4.2, eqs. 4.2 to 4.4
    """
    remedy = "Fit kaplan_ND first: fit(laws.kaplan_ND, runs)."
    expect("data_rule(result)", "result", result, FitResult, remedy=remedy)
    _check_law(result, laws.kaplan_ND, "the data rule")
    if not overfit > 0:
        raise ConfigError(f"overfit={overfit} must be positive, such as 0.02 for 2 %.")
    exponent = result.derived("alpha_N / alpha_D", level)
    p = result.params
    scale = p["D_c"] / p["N_c"] ** exponent.value
    return DataRule(
        exponent=exponent.value,
        low=exponent.low,
        high=exponent.high,
        coefficient=scale / ((1 + overfit) ** (1 / p["alpha_D"]) - 1),
        overfit=overfit,
        level=level,
    )


def relative_excess(result: FitResult, *, ratio: Any) -> np.ndarray:
    """Return L(N, D) / L(N, inf) - 1 under a fit of kaplan_ND.

    It is (1 + D_c / N_c^a N^a / D)^alpha_D - 1 with a = alpha_N / alpha_D, so `ratio`, N^a / D,
    determines it.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eqs. 4.2 and 4.3
    """
    _check_law(result, laws.kaplan_ND, "the relative excess of loss")
    p = result.params
    scale = p["D_c"] / p["N_c"] ** (p["alpha_N"] / p["alpha_D"])
    return (1 + np.asarray(ratio, float) * scale) ** p["alpha_D"] - 1


def infinite_limit(result: FitResult, *, N: Any) -> np.ndarray:
    """Return L(N) on infinite data and steps, (N_c / N)^alpha_N, of kaplan_ND or kaplan_NS."""
    if result.law not in (laws.kaplan_ND, laws.kaplan_NS):
        raise LawError(
            f"the limit of loss needs a fit of kaplan_ND or kaplan_NS, not {result.law.name}."
        )
    p = result.params
    return (p["N_c"] / np.asarray(N, float)) ** p["alpha_N"]


def data_for(result: FitResult, *, N: float, excess: float = 0.02, level: float = 0.95) -> Estimate:
    """Find D [tokens] at which N parameters are within 1 + excess of their loss on infinite data.

    It takes any fitted law of N and D; the interval comes from the fit's draws. Raises LawError for
    a law of other inputs, and ConfigError if no amount of data suffices.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 4.2, for laws in general
    """
    law = result.law
    if set(law.inputs) != {"N", "D"}:
        raise LawError(
            f"data_for needs a law of N and D; {law.name} is a law of {', '.join(law.inputs)}."
        )
    for name, value in (("N", N), ("excess", excess)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value} must be positive and finite.")

    def tokens(params: Any) -> np.ndarray:
        p = {name: np.atleast_1d(np.asarray(params[name], float)) for name in law.params}
        rows = max(len(v) for v in p.values())

        def loss(log_D: np.ndarray) -> np.ndarray:
            columns = {"N": np.full(rows, float(N)), "D": np.exp(log_D)}
            with np.errstate(all="ignore"):  # extreme draws may overflow
                return np.asarray(law(*(columns[k] for k in law.inputs), **p), float)

        low, high = np.zeros(rows), np.full(rows, 300.0)
        goal = (1 + excess) * loss(np.full(rows, 600.0))
        known = (loss(high) <= goal) & (loss(low) > goal)
        for _ in range(60):
            middle = (low + high) / 2
            enough = loss(middle) <= goal
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(known, np.exp(high), np.nan)

    found = result.derived(tokens, level)
    if not math.isfinite(found.value):
        raise ConfigError(
            f"under {law.name} as fitted no amount of data brings N={N:g} within {excess:.2%} of "
            "its loss on infinite data, or any amount does."
        )
    return found


def early_stop(of_data: FitResult, of_steps: FitResult, *, N: Any, D: Any) -> np.ndarray:
    """Return a lower bound of the step S_min at which to stop training N parameters on D tokens.

    L(N, D) comes from a fit of kaplan_ND; S_c and alpha_S come from a fit of kaplan_NS.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 5.7 and Fig. 16
    """
    _check_law(of_data, laws.kaplan_ND, "the early-stopping bound")
    gap = of_data.predict(N=N, D=D) - infinite_limit(of_data, N=N)
    return early_stop_of_gap(of_steps, gap)


def early_stop_of_gap(of_steps: FitResult, gap: Any) -> np.ndarray:
    """Return S_c / gap^(1 / alpha_S), the early-stopping bound for L(N, D) - L(N, inf) = gap.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), eq. 5.7
    """
    _check_law(of_steps, laws.kaplan_NS, "the early-stopping bound")
    return of_steps.params["S_c"] / np.asarray(gap, float) ** (1 / of_steps.params["alpha_S"])


class Convergence(NamedTuple):
    """Compute-efficient training compared with training to near convergence, for the same loss."""

    efficient: float
    """Relative excess over the converged loss at which efficient training stops."""
    N: float
    """Ratio of parameters: efficient over near convergence."""
    S: float
    """Ratio of steps."""
    C: float
    """Ratio of compute."""


def convergence(*, alpha_N: float, alpha_S: float, excess: float = 0.02) -> Convergence:
    """Compare compute-efficient training with training to `excess` over the converged loss.

    Under L(N, S) = (N_c / N)^alpha_N + (S_c / S)^alpha_S the least compute for a loss stops at a
    fraction f = alpha_N / alpha_S above the converged loss of that size. In the paper f is 10 %.
    Compared with training to 2 %, this takes 2.7 times the parameters, 7.7 times fewer steps and 65
    % less compute.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), appendix B.2 and B.3
    """
    for name, value in (("alpha_N", alpha_N), ("alpha_S", alpha_S), ("excess", excess)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value} must be positive and finite.")
    f = alpha_N / alpha_S
    N = ((1 + f) / (1 + excess)) ** (1 / alpha_N)
    S = ((1 + 1 / f) / (1 + 1 / excess)) ** (1 / alpha_S)
    return Convergence(f, N, S, N * S)


@dataclass(frozen=True)
class Contradiction:
    """Where L(C_min) meets the loss that its tokens allow, L(D(C_min))."""

    at: dict[str, tuple[float, float, float]]
    """(value, low, high) of C [FLOPs], N, D and L where they meet; C and N are inf and L is 0 where
    they never do."""
    bound: np.ndarray
    """ln L(D(C_min)) as lines in ln C_min - centre, like the `lines` of a Frontier."""
    meet: float
    """Fraction of the draws in which they meet."""


def contradiction(found: Efficient, by_D: FitResult, *, seed: int = 0) -> Contradiction:
    """Find where compute-efficient training would reach a loss below what its tokens allow.

    At the critical batch size, such training takes D(C_min) = 2 C_min / (6 N(C_min)) tokens, each
    once. L(D) at those tokens, from a fit of kaplan_D, falls more slowly than L(C_min), so the two
    meet: in the paper near 1e4 PF-days and 1.7 nats. That is far outside any data, and moves by
    decades with the exponents.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 6.3, eqs. 6.7 and 6.8
    """
    _check_law(by_D, laws.kaplan_D, "the contradiction")
    front = found.frontier
    lines = front.lines | {"D": front.lines["D"] + [math.log(2.0), 0.0]}
    params = resampled_params(by_D, len(lines["L"]) - 1, seed)
    bound = -params[["alpha_D"]].to_numpy(float) * lines["D"]
    bound[:, 0] += (params["alpha_D"] * np.log(params["D_c"])).to_numpy(float)
    (start, slope), (start_D, slope_D) = lines["L"].T, bound.T
    with np.errstate(all="ignore"):
        ln_C = np.where(slope < slope_D, (start_D - start) / (slope - slope_D), np.inf)
        ln_C[~np.isfinite(slope)] = np.nan  # a draw without a frontier has no crossing to count
        ln = {name: lines[name][:, 0] + lines[name][:, 1] * ln_C for name in ("N", "D", "L")}
        at, ends = {}, (0.5 - front.level / 2, 0.5 + front.level / 2)
        for name, values in ({"C": ln_C + front.centre} | ln).items():
            low, high = np.nanquantile(values[1:], ends, method="nearest")
            at[name] = tuple(float(np.exp(v)) for v in (values[0], low, high))
    known = np.isfinite(lines["L"][1:, 1])
    return Contradiction(at, bound, float(np.mean(np.isfinite(ln_C[1:][known]))))


def worth(result: FitResult, *, epochs: Any) -> np.ndarray:
    """Return how many epochs of fresh tokens `epochs` over the same tokens are worth.

    It is 1 + R_D (1 - exp(-(epochs - 1) / R_D)): nearly `epochs` for a few, at most 1 + R_D.

    Source: Muennighoff et al. 2023 (arXiv 2305.16264), section 3.1, eq. 5
    """
    if "R_D" not in result.params:
        raise LawError(f"the worth of epochs needs a fit of muennighoff, not {result.law.name}.")
    passes = np.asarray(epochs, float)
    if not (np.isfinite(passes).all() and (passes > 0).all()):
        raise ConfigError(f"epochs={epochs} must be positive and finite.")
    R_D = result.params["R_D"]
    return np.where(passes > 1, 1 - R_D * np.expm1(-(passes - 1) / R_D), passes)


def repeating(law: Law, *, unique: float, R_D: float = muennighoff2023.params["R_D"]) -> Law:
    """Return `law` for `unique` tokens of data, with D replaced by what its epochs are worth.

    The default R_D is the paper's, whose data hardly bound it from above (15 and 95 fit about as
    well).

    Source: Muennighoff et al. 2023 (arXiv 2305.16264), eq. 5
    """
    if "D" not in law.inputs:
        raise LawError(f"data cannot limit {law.name}: it is a law of {', '.join(law.inputs)}.")
    place = law.inputs.index("D")

    def function(*inputs: Any, **params: Any) -> Any:
        D = inputs[place]
        fresh = np.minimum(D, unique)
        more = np.maximum(D - unique, 0.0) / unique
        D = fresh - unique * R_D * np.expm1(-more / R_D)
        return law.function(*inputs[:place], D, *inputs[place + 1 :], **params)

    name = f"{law.name}, {unique:.3g} unique tokens"
    return replace(law, name=name, function=function, optimum=None)  # the closed form is of `law`


def with_unique(result: FitResult, unique: float) -> FitResult:
    """Return a fit, or a combination of fits, whose laws repeat `unique` tokens of data.

    See :func:`repeating`.
    """
    changes: dict[str, Any] = {"law": repeating(result.law, unique=unique)}
    if isinstance(result, Combination):
        changes["laws"] = {name: with_unique(each, unique) for name, each in result.laws.items()}
    return replace(result, **changes)


def _check_law(result: FitResult, law: Law, purpose: str) -> None:
    """Raise LawError unless `result` is a fit of `law`."""
    if result.law != law:
        raise LawError(f"{purpose} needs a fit of {law.name}, not of {result.law.name}.")
