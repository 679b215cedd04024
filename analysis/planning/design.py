"""Which runs to train next, so that one number becomes as certain as a budget allows.

This is optimal design of experiments. Near a fitted law a run at (N, D) adds J' J / sigma^2 to the
information on its parameters, where J is the law's gradient, and the variance of a target with
gradient g is g' M^-1 g (c-optimality; for a predicted loss that is I-optimality at one point;
Atkinson, Donev and Tobias 2007, Optimum Experimental Designs, with SAS, chapters 9, 10 and 17).
As the law is not known, the criterion is averaged over the bootstrap distribution of its
parameters. The design is then compared by simulation with an isoFLOP set, a ladder and a plain grid
of equal cost, and the best of them is taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.arguments import expect
from analysis.fitting.checks import check_level
from analysis.fitting.result import Estimate, FitResult
from analysis.laws import Law
from analysis.planning.design_alternatives import KINDS
from analysis.planning.design_candidates import Candidates, rate_checks
from analysis.planning.design_comparison import linearised_widths, rivals, simulated_widths
from analysis.planning.design_law import LEAST_GRADIENT
from analysis.planning.design_simulation import Simulation
from analysis.planning.design_spec import (
    NOTE,
    Point,
    expected,
    run_fields,
    shared_fields,
    toml_value,
)
from analysis.planning.optimal_design import (
    DesignProblem,
    draws_of,
    gradient_of,
    information,
    noise_of,
    target_function,
)
from scaling import progress
from scaling.config import ModelConfig, RunConfig
from scaling.errors import ConfigError
from scaling.table import LARGEST, sensible

_LISTS = ("runs", "grid", "sets", "checks")
"""Entries of a record that a spec's comment leaves out."""
_PRIOR_SD = 3.0
"""Standard deviation, in logarithms, of the prior of each parameter before any run."""
FAR = 1000.0
"""A target L or N without a C is at this many times the budget."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Runs to train, and how certain they are expected to make the target."""

    target: str
    """'a', the exponent of N_opt; 'L@C' or 'N@C', ln L or ln N of the optimum at C FLOPs;
    'ln alpha' or the like, for a parameter of the law."""
    law: str
    runs: tuple[Point, ...]
    sets: dict[str, tuple[Point, ...]]
    """The compared sets of runs of about equal cost: the 'optimal' design and, if the limits allow
    them, an 'isoflop' set, a 'ladder' (sizes at one D / N) and a plain 'grid'."""
    kind: str
    """Which of them `runs` is: the one of least expected half-width."""
    half_width: dict[str, Any]
    """Expected half-width of the target's interval with 'nothing more', with each of the sets, and
    with the 'design' that is taken (for L, N and parameters: of their logarithms); None without
    any runs."""
    value: float
    """The target under the present fit."""
    budget: float
    level: float
    noise: float
    """Standard deviation of ln L that one run is expected to have about the law."""
    kept: bool
    """Whether the runs so far count as well."""
    base: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Fields of RunConfig that all runs share."""
    checks: tuple[tuple[Point, float], ...] = ()
    """Runs that are repeated at another learning rate: (run, factor)."""

    @property
    def grid(self) -> tuple[Point, ...]:
        """The plain grid of sizes x horizons; empty if the limits allow none."""
        return self.sets.get("grid", ())

    @property
    def rival(self) -> str | None:
        """The best of the other sets; None if there is no other."""
        others = [kind for kind in self.sets if kind != self.kind]
        return min(others, key=lambda kind: self.half_width[kind], default=None)

    @property
    def C(self) -> float:
        """FLOPs of all runs."""
        return sum(p.C for p in self.runs) + sum(p.C for p, _ in self.checks)

    def table(self) -> pd.DataFrame:
        """Return one row per run: n_layer, d_model, n_head, N, D, C, seed."""
        rows = [
            {
                "n_layer": p.model.n_layer, "d_model": p.model.d_model, "n_head": p.model.n_head,
                "N": p.N, "D": p.D, "C": p.C, "seed": p.seed,
            }
            for p in self.runs
        ]  # fmt: skip
        return pd.DataFrame(rows).sort_values(["N", "D", "seed"], ignore_index=True)

    def record(self) -> dict[str, Any]:
        """Return plain numbers and strings, ready for JSON."""
        return {
            "target": self.target, "law": self.law, "value": self.value, "level": self.level,
            "half_width": self.half_width, "budget": self.budget, "C": self.C,
            "noise": self.noise, "kept": self.kept,
            "runs": self.table().to_dict("records"),
            "kind": self.kind,
            "rival": self.rival,
            "grid": [{"N": p.N, "D": p.D, "C": p.C} for p in self.grid],
            "sets": {
                kind: [{"N": p.N, "D": p.D, "C": p.C} for p in points]
                for kind, points in self.sets.items()
            },
            "checks": [{"N": p.N, "D": p.D, "times_lr": factor} for p, factor in self.checks],
        }  # fmt: skip

    def __str__(self) -> str:
        w = self.half_width
        what = "the exponent of N_opt" if self.target == "a" else self.target
        what = f"ln {what}" if "@" in what else what
        counted = " with those so far" if self.kept else ""
        now = f"+- {w['nothing more']:.2g}" if self.kept else "(not counted: keep=False)"
        lines = [
            f"{len(self.runs)} runs of {self.C:.3g} FLOPs in all, for {what} under {self.law}",
            f"  now          {self.value:.4g} {now}",
            f"  these runs   +- {w['design']:.2g} expected{counted} ({self.level:.0%}): "
            f"{KINDS[self.kind]}",
            *self._others(),
            self.table().to_string(index=False, float_format="{:.3g}".format),
        ]
        if self.checks:
            checks = ", ".join(f"N = {p.N:,} at x{factor:g}" for p, factor in self.checks)
            lines.append(f"learning rates checked: {checks}")
        return "\n".join(lines)

    def _others(self) -> list[str]:
        """Return a line per other set: its half-width, and how much wider that is."""
        w = self.half_width
        return [
            f"  {KINDS[kind]:<14} +- {w[kind]:.2g}, {len(self.sets[kind])} runs of "
            f"{sum(p.C for p in self.sets[kind]):.3g} FLOPs{self._ratio(kind)}"
            for kind in sorted(self.sets, key=lambda kind: w[kind])
            if kind != self.kind
        ]

    def _ratio(self, kind: str) -> str:
        least = self.half_width["design"]  # 0 if the target is the same in all draws
        return f": {self.half_width[kind] / least:.2f} times as wide" if least else ""

    def toml(self, name: str) -> str:
        """Return the spec of a sweep of these runs, with the expectation as a comment."""
        note = {k: v for k, v in self.record().items() if k not in _LISTS}
        lines = [
            f"# {NOTE}{json.dumps(note)}",
            f'name = "{name}"',
            f'description = "Chosen to narrow {self.target} under {self.law}."',
            "",
            "[base]",
            *(f"{key} = {toml_value(value)}" for key, value in self.base.items()),
            "",
            "[axes]",
            "zip = [",
            *(f"    {{ {run_fields(p)} }}," for p in sorted(self.runs, key=lambda p: (p.N, p.D))),
            "]",
        ]
        if self.checks:
            lines += ["", "[[sets]]", 'name = "learning-rate"', "axes.zip = ["]
            for p, factor in self.checks:
                lines.append(
                    f"    {{ {run_fields(p)}, optim.lr = {toml_value(self._rate(factor))} }},"
                )
            lines.append("]")
        return "\n".join(lines) + "\n"

    def _rate(self, factor: float) -> Any:
        lr = self.base.get("optim.lr", RunConfig().optim.lr)
        if not isinstance(lr, str):
            return factor * lr
        head, _, rest = lr.partition(" ")
        return f"{factor * float(head):.6g} {rest}".strip()


class Achieved(NamedTuple):
    """A target before a designed sweep, as the design expected it, and as it came out."""

    target: str
    before: float
    """Its value before the sweep."""
    expected: float
    """Half-width expected of the design."""
    grid: float
    """Half-width expected of the plain grid; nan if there was none."""
    achieved: Estimate

    def __str__(self) -> str:
        half = (self.achieved.high - self.achieved.low) / 2
        grid = f" (a plain grid: {self.grid:.2g})" if math.isfinite(self.grid) else ""
        return (
            f"{self.target}: before {self.before:.4g}; after {self.achieved.value:.4g} "
            f"[{self.achieved.low:.4g}, {self.achieved.high:.4g}], a half-width of {half:.2g} "
            f"where {self.expected:.2g} was expected{grid}: "
            f"{half / self.expected:.2f} times"
        )


def achieved(result: FitResult, toml: str) -> Achieved:
    """Compare a designed sweep's target in a fit to its runs with what its TOML expected."""
    note = expected(toml)
    target = target_function(result.law, note["target"])
    found = result.derived(
        lambda p: target({k: np.atleast_1d(v) for k, v in p.items()}), note["level"]
    )
    w = note["half_width"]
    grid = w.get("grid")
    grid = math.nan if grid is None else grid
    return Achieved(note["target"], note["value"], w["design"], grid, found)


# ------------------------------------------------------------------ the design


def design(
    result: FitResult,
    *,
    budget: float,
    target: str = "a",
    keep: bool = True,
    runs: int = 40,
    seeds: int | Sequence[int] = 1,
    checks: bool = False,
    points: Sequence[Point] | None = None,
    models: Sequence[ModelConfig] | None = None,
    N: tuple[float, float] | None = None,
    D: tuple[float, float] | None = None,
    ratio: tuple[float, float] | None = None,
    noise: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    compare: bool = True,
) -> Design:
    """Choose the runs of at most `budget` FLOPs that make the interval of `target` narrowest.

    result  a law of N and D fitted to the runs so far, with bootstrap draws.
    target  'a', the exponent of N_opt; 'L@C' or 'N@C', the best loss or size at C FLOPs, such as
            'L@1e18' ('L' and 'N' alone are at 1000 times the budget); or a parameter of the law,
            such as 'alpha' (its logarithm; 'ln a' for a parameter called a).
    keep    count the runs so far as well; without it, the new runs must be enough on their own.
    runs    maximum number of runs.
    seeds   maximum number of runs at one (N, D).
    checks  add runs at half and twice the learning rate of the smallest and the largest size,
            within the budget.
    points  the runs to choose from; `seeds` may then be a list with a number for each. By default
            they are all combinations of sizes and horizons:
    models  the sizes; by default up to 12 in the range N, with the depth of the runs so far if
            they have only one.
    N, D    smallest and largest value; by default from the data's smallest to four times their
            largest.
    ratio   smallest and largest D / N; by default those of the data. The law is trusted within
            these ranges. No run takes more than half of the budget.
    noise   standard deviation of ln L about the law; by default that of the fit's residuals.
    compare  compare the optimal design with an isoFLOP set, a ladder and a plain grid of about
            equal cost, by simulation on the law, and return the best. Without it, the optimal
            design is returned with the half-width of its linearisation.

    Raises ConfigError for an impossible law, budget, range or target.
    """
    check_level(level)
    expect("design(result)", "result", result, FitResult, remedy="Fit a law first: fit(law, runs).")
    law = result.law
    _check_request(law, budget, runs=runs, seeds=seeds)
    target = _full_target(law, target, budget)
    aim = target_function(law, target)
    draws, gradient = _target_gradient(law, aim, target, draws_of(result, seed))
    sigma = _noise(result, noise)
    base = shared_fields(result.runs)
    allowed = Candidates.among(points) if points is not None else Candidates.within(
        result.runs, budget, models=models, ranges={"N": N, "D": D, "ratio": ratio}, base=base
    )  # fmt: skip
    points = allowed.points
    checked = rate_checks(points, budget) if checks else ()
    room = budget - sum(p.C for p, _ in checked)
    prior = _prior(result, draws, sigma, keep=keep)
    problem = _problem(law, draws, points, sigma, gradient, prior, room, seeds, runs)
    progress.step("choosing the runs of the design")
    chosen = _solve(problem, budget)
    sets = {"optimal": tuple(_numbered(points, chosen))}
    kept = result.n if keep else 0
    if compare:
        sets |= rivals(result, problem, allowed, draws, sigma)
        if not keep and not target.startswith("L@"):
            # The runs of a ladder share D / N: alone, they cannot tell N's exponent from D's.
            sets.pop("ladder", None)
        simulated = Simulation.of(result, aim, sigma, _PRIOR_SD, seed, kept=keep)
        widths = simulated_widths(simulated, sets, level, kept=kept)
    else:
        widths = linearised_widths(problem, chosen, level, kept=kept)
    kind = min(sets, key=lambda each: widths[each] or math.inf)
    return Design(
        target=target, law=law.name, runs=sets[kind], sets=sets, kind=kind, budget=budget,
        half_width=widths | {"design": widths[kind]}, level=level, noise=float(sigma), kept=keep,
        value=float(aim({p: np.array([v]) for p, v in result.params.items()})[0]),
        base=base, checks=checked,
    )  # fmt: skip


def _check_request(law: Law, budget: float, **counts: int | Sequence[int]) -> None:
    """Raise ConfigError if runs cannot be designed for this law and budget."""
    if set(law.inputs) != {"N", "D"}:
        raise ConfigError(f"a design needs a law of N and D; {law.name} is one of {law.inputs}.")
    if not sensible(budget):
        raise ConfigError(
            f"budget={budget} must be positive and finite [FLOPs], no more than {LARGEST:g}."
        )
    for name, number in counts.items():
        if isinstance(number, int) and number < 1:
            raise ConfigError(f"{name}={number} must be 1 or more.")


def _full_target(law: Law, target: str, budget: float) -> str:
    """Return the target with its C, or as the logarithm of a parameter."""
    if target in ("L", "N"):
        target = f"{target}@{FAR * budget:.6g}"
    return f"ln {target}" if target != "a" and target in law.params else target


def _noise(result: FitResult, given: float | None) -> float:
    """Return the standard deviation of ln L. Raises ConfigError if it is out of range."""
    sigma = max(noise_of(result), 1e-9) if given is None else given  # of an exact fit
    if not 1e-9 <= sigma <= 1e3:
        raise ConfigError(
            f"noise={sigma} must be positive: a standard deviation of ln L from 1e-9 to 1000 (by "
            "default that of the fit's residuals)."
        )
    return sigma


def _target_gradient(
    law: Law,
    aim: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    target: str,
    draws: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the draws at which the target exists, and its gradient at each, (k, q).

    Raises ConfigError if there are hardly any, or if the target depends on no parameter.
    """
    gradient = gradient_of(lambda p: aim(p)[:, None], draws)[:, 0]
    known = np.isfinite(gradient).all(axis=1)
    # If hardly any draw is finite, the law is vague and the design is the best at its estimate.
    if known.sum() < max(1, min(4, len(gradient))):
        raise ConfigError(
            f"{target} does not exist under {law.name} as fitted, or in hardly any resample: fit "
            "another law, or choose another target."
        )
    if np.abs(gradient).max() < LEAST_GRADIENT:
        raise ConfigError(
            f"{target} is the same for all parameters of {law.name}: nothing to learn."
        )
    return {name: value[known] for name, value in draws.items()}, gradient[known]


def _prior(
    result: FitResult, draws: Mapping[str, np.ndarray], sigma: float, *, keep: bool
) -> np.ndarray:
    """Return the information without new runs, (k, q, q): of the prior and, if kept, the runs."""
    k, q = len(next(iter(draws.values()))), len(draws)
    prior = np.broadcast_to(np.eye(q) / _PRIOR_SD**2, (k, q, q))
    if not keep:
        return prior
    so_far = information(result.law, draws, result.runs["N"], result.runs["D"])
    return prior + np.einsum("kni,knj->kij", so_far, so_far) / sigma**2


def _problem(
    law: Law,
    draws: Mapping[str, np.ndarray],
    points: Sequence[Point],
    sigma: float,
    gradient: np.ndarray,
    prior: np.ndarray,
    room: float,
    seeds: int | Sequence[int],
    most: int,
) -> DesignProblem:
    """Return the problem of choosing among these points."""
    return DesignProblem(
        J=information(law, draws, [p.N for p in points], [p.D for p in points]) / sigma,
        g=gradient,
        prior=prior,
        cost=np.array([p.C for p in points]),
        budget=room,
        seeds=np.asarray(seeds),
        most=most,
    )


def _solve(problem: DesignProblem, budget: float) -> np.ndarray:
    """Return the indices of the chosen runs. Raises ConfigError if the budget pays for none."""
    chosen = problem.solve()
    if not len(chosen):
        raise ConfigError(
            f"budget={budget:.3g} FLOPs pays for no run: the cheapest candidate costs "
            f"{problem.cost.min():.3g}. Give more, or lower N or D."
        )
    return chosen


def _numbered(points: Sequence[Point], chosen: np.ndarray) -> list[Point]:
    """Return the chosen points; those chosen several times get seeds 0, 1, ..."""
    count: dict[int, int] = {}
    picked = []
    for i in chosen.tolist():
        picked.append(points[i]._replace(seed=count.get(i, 0)))
        count[i] = count.get(i, 0) + 1
    return picked
