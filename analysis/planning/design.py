"""Which runs to train next, so that one number becomes as certain as a budget allows.

Optimal design of experiments: near a fitted law a run at (N, D) adds J' J / sigma^2 to the
information on its parameters, J the law's gradient there, and the variance of a target with gradient
g is g' M^-1 g (c-optimality; for a predicted loss that is I-optimality at one point; Atkinson, Donev
and Tobias 2007, Optimum Experimental Designs, with SAS, chapters 9, 10 and 17). As the law is not
known, the criterion is averaged over the bootstrap distribution of its parameters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis.fitting.checks import check_level
from analysis.fitting.result import Estimate, FitResult
from analysis.planning.design_spec import (
    NOTE,
    Point,
    expected,
    run_fields,
    shared_fields,
    toml_value,
)
from analysis.planning.model_shape import shape
from analysis.planning.optimal_design import (
    DesignProblem,
    draws_of,
    gradient_of,
    information,
    noise_of,
    target_function,
)
from scaling.config import ModelConfig, RunConfig
from scaling.errors import ConfigError
from scaling.size import parameters
from scaling.table import LARGEST, sensible

_VAGUE = 3.0
"""Standard deviation, in logarithms, of what is known of a parameter before any run."""
FAR = 1000.0
"""A target at this many times the sweep's budget, where none is named."""


@dataclass(frozen=True)
class Design:
    """Runs to train, and what they are expected to tell."""

    target: str
    """'a', the exponent of N_opt; 'L@C' or 'N@C', ln L or ln N of the optimum at C FLOPs; 'ln alpha'
    and the like, of a parameter of the law."""
    law: str
    runs: tuple[Point, ...]
    grid: tuple[Point, ...]
    """A plain grid of sizes x horizons that costs as much."""
    half_width: dict[str, Any]
    """Expected half-width of the target's interval with 'nothing more', the 'grid', the 'design'
    (of L, N and parameters: of their logarithms); None where nothing is kept."""
    value: float
    """Of the target, as known so far."""
    budget: float
    level: float
    noise: float
    """Standard deviation of ln L that one run is expected to have about the law."""
    kept: bool
    """The runs so far count as well."""
    base: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Fields of RunConfig that all runs share."""
    checks: tuple[tuple[Point, float], ...] = ()
    """Runs again at another learning rate: (run, times the rate)."""

    @property
    def C(self) -> float:
        return sum(p.C for p in self.runs) + sum(p.C for p, _ in self.checks)

    def table(self) -> pd.DataFrame:
        """One row a run: n_layer, d_model, n_head, N, D, C, seed."""
        rows = [
            {
                "n_layer": p.model.n_layer, "d_model": p.model.d_model, "n_head": p.model.n_head,
                "N": p.N, "D": p.D, "C": p.C, "seed": p.seed,
            }
            for p in self.runs
        ]  # fmt: skip
        return pd.DataFrame(rows).sort_values(["N", "D", "seed"], ignore_index=True)

    def record(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for JSON."""
        return {
            "target": self.target, "law": self.law, "value": self.value, "level": self.level,
            "half_width": self.half_width, "budget": self.budget, "C": self.C,
            "noise": self.noise, "kept": self.kept,
            "runs": self.table().to_dict("records"),
            "grid": [{"N": p.N, "D": p.D, "C": p.C} for p in self.grid],
            "checks": [{"N": p.N, "D": p.D, "times_lr": factor} for p, factor in self.checks],
        }  # fmt: skip

    def __str__(self) -> str:
        w = self.half_width
        what = "the exponent of N_opt" if self.target == "a" else self.target
        what = f"ln {what}" if "@" in what else what
        counted = " with those so far" if self.kept else ""
        lines = [
            f"{len(self.runs)} runs of {self.C:.3g} FLOPs in all, for {what} under {self.law}",
            f"  now          {self.value:.4g}"
            + (f" +- {w['nothing more']:.2g}" if self.kept else " (not counted: keep=False)"),
            f"  these runs   +- {w['design']:.2g} expected{counted} ({self.level:.0%})",
            f"  plain grid   +- {w['grid']:.2g} expected, {len(self.grid)} runs of "
            f"{sum(p.C for p in self.grid):.3g} FLOPs: {w['grid'] / w['design']:.2f} times as wide",
            self.table().to_string(index=False, float_format="{:.3g}".format),
        ]
        if self.checks:
            lines.append(
                "learning rates checked: "
                + ", ".join(f"N = {p.N:,} at x{factor:g}" for p, factor in self.checks)
            )
        return "\n".join(lines)

    def toml(self, name: str) -> str:
        """A sweep of these runs, to be read by sweeps.Spec; the expectation is in its comments."""
        note = {k: v for k, v in self.record().items() if k not in ("runs", "grid", "checks")}
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
    """The target as it was before a designed sweep, as expected of it, and as it came out."""

    target: str
    before: float
    """Its value then."""
    expected: float
    grid: float
    """Half-widths expected of the design and of the plain grid."""
    achieved: Estimate

    def __str__(self) -> str:
        half = (self.achieved.high - self.achieved.low) / 2
        return (
            f"{self.target}: before {self.before:.4g}; after "
            f"{self.achieved.value:.4g} [{self.achieved.low:.4g}, {self.achieved.high:.4g}], that is +- "
            f"{half:.2g}, where {self.expected:.2g} was expected (and {self.grid:.2g} of a plain grid): "
            f"{half / self.expected:.2f} times"
        )


def achieved(result: FitResult, toml: str) -> Achieved:
    """A designed sweep's target under a fit to its runs, beside what its TOML expected."""
    note = expected(toml)
    target = target_function(result.law, note["target"])
    found = result.derived(
        lambda p: target({k: np.atleast_1d(v) for k, v in p.items()}), note["level"]
    )
    w = note["half_width"]
    return Achieved(note["target"], note["value"], w["design"], w["grid"], found)


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
) -> Design:
    """The runs of at most `budget` FLOPs that make the interval of `target` narrowest.

    result  a law of N and D fitted to the runs so far, with bootstrap draws.
    target  'a', the exponent of N_opt; 'L@C' or 'N@C', the best loss or size at C FLOPs, such as
            'L@1e18'; 'L' and 'N' alone are at 1000 times the budget; or a parameter of the law, such
            as 'alpha' (its logarithm; 'ln a' for one that is called a).
    keep    count the runs so far as well; without, the new runs must tell on their own.
    runs    at most so many; seeds, at most so many of them at one (N, D); checks adds runs at half and twice the learning
            rate of the smallest and the largest size, within the budget.
    points  the runs to choose from; seeds may then be a list, a number for each. Where not given:
    models  the sizes to choose from; where not given, up to 12 shapes over the range N, of the depth
            of the runs so far where that is one.
    N, D    smallest and largest to be trained, and ratio, the least and most D / N; from the data's
            least to four times their largest where not given (of the ratio: to the largest). The
            law is trusted there; no run takes more than half of the budget.
    noise   standard deviation of ln L about the law; the fit's residuals' where not given.

    Raises ConfigError for a law, a budget, a range or a target that cannot be.
    """
    check_level(level)
    law = result.law
    if set(law.inputs) != {"N", "D"}:
        raise ConfigError(f"a design needs a law of N and D; {law.name} is one of {law.inputs}.")
    if not sensible(budget):
        raise ConfigError(
            f"budget={budget} must be positive and finite [FLOPs], no more than {LARGEST:g}."
        )
    if target in ("L", "N"):
        target = f"{target}@{FAR * budget:.6g}"
    for name, number in (("seeds", seeds), ("runs", runs)):
        if isinstance(number, int) and number < 1:
            raise ConfigError(f"{name}={number} must be 1 or more.")
    if target != "a" and target in law.params:
        target = f"ln {target}"
    aim = target_function(law, target)
    draws = draws_of(result, seed)
    sigma = noise_of(result) if noise is None else noise
    if not 1e-9 <= sigma <= 1e3:
        raise ConfigError(
            f"noise={sigma} must be positive, a standard deviation of ln L from 1e-9 to 1000 (it is that of the "
            "fit's residuals where none is given)."
        )
    base = shared_fields(result.runs)
    every = (
        _candidates(result, budget, models, {"N": N, "D": D, "ratio": ratio}, base)
        if points is None
        else list(points)
    )
    gradient = gradient_of(lambda p: aim(p)[:, None], draws)[:, 0]
    known = np.isfinite(gradient).all(axis=1)
    # Where hardly any draw is finite the law is vague: the design is the best one at its estimate.
    if known.sum() < max(1, min(4, len(gradient))):
        raise ConfigError(
            f"{target} does not exist under {law.name} as fitted, or in hardly any resample: fit "
            "another law, or choose another target."
        )
    if np.abs(gradient).max() < 1e-3:
        raise ConfigError(
            f"{target} is the same for all parameters of {law.name}: nothing to learn."
        )
    draws = {name: value[known] for name, value in draws.items()}
    gradient = gradient[known]
    prior = np.broadcast_to(
        np.eye(gradient.shape[1]) / _VAGUE**2, (len(gradient), *[gradient.shape[1]] * 2)
    )
    if keep:
        so_far = information(law, draws, result.runs["N"], result.runs["D"])
        prior = prior + np.einsum("kni,knj->kij", so_far, so_far) / sigma**2
    J = information(law, draws, [p.N for p in every], [p.D for p in every]) / sigma
    cost = np.array([p.C for p in every])
    checked = _checks(every, budget) if checks else ()
    room = budget - sum(p.C for p, _ in checked)
    problem = DesignProblem(J, gradient, prior, cost, room, np.asarray(seeds), runs)
    chosen = problem.solve()
    if not len(chosen):
        raise ConfigError(
            f"budget={budget:.3g} FLOPs pays for no run: the cheapest candidate costs "
            f"{cost.min():.3g}. Give more, or lower N or D."
        )
    grid = _grid(every, room, len(chosen))
    rows = {"nothing more": np.array([], int), "grid": grid, "design": chosen}
    widths: dict[str, float | None] = {}
    for name, picks in rows.items():
        freedom = len(picks) + keep * result.n - gradient.shape[1]
        enough = len(picks) or keep
        half = special.stdtrit(max(freedom, 1), (1 + level) / 2)
        widths[name] = float(half * problem.width(picks)) if enough else None
    count: dict[int, int] = {}
    picked = []
    for i in chosen.tolist():
        picked.append(every[i]._replace(seed=count.get(i, 0)))
        count[i] = count.get(i, 0) + 1
    value = float(aim({p: np.array([v]) for p, v in result.params.items()})[0])
    return Design(
        target, law.name, tuple(picked), tuple(every[i] for i in grid.tolist()),
        widths, value, budget, level, float(sigma),
        keep, base, checked,
    )  # fmt: skip


def _candidates(
    result: FitResult,
    budget: float,
    models: Sequence[ModelConfig] | None,
    asked: Mapping[str, tuple[float, float] | None],
    base: Mapping[str, Any],
) -> list[Point]:
    runs = result.runs.assign(ratio=result.runs["D"] / result.runs["N"])
    ends = {}
    for name, given in asked.items():
        more = 1 if name == "ratio" else 4
        low, high = given or (runs[name].min(), more * runs[name].max())
        if not 0 < low < high:
            raise ConfigError(
                f"{name}=({low:g}, {high:g}) must be a range: 0 < smallest < largest."
            )
        ends[name] = float(low), float(high)
    like = ModelConfig(
        **{k.removeprefix("model."): v for k, v in base.items() if k.startswith("model.")}
    )
    if models is None:
        depths = runs["n_layer"].unique() if "n_layer" in runs.columns else ()
        # Sizes of one depth are compared with sizes of that depth.
        one = int(depths[0]) if len(depths) == 1 else None
        sizes = np.geomspace(ends["N"][0], ends["N"][1], 12)
        shapes = (shape(n, model=like, n_layer=one) for n in sizes)
        found = list(dict.fromkeys(m for m in shapes if m is not None))
        low, high = ends["N"][0] / 1.1, ends["N"][1] * 1.1  # small shapes come in coarse steps
        models = [m for m in found if low <= parameters(m, 0).N <= high] or found
    unit = base.get("batch_tokens", RunConfig().batch_tokens)
    points = []
    for model in models:
        size = parameters(model, 0).N
        for d in np.geomspace(ends["D"][0], ends["D"][1], 13):
            point = Point(model, size, float(max(round(d / unit), 1) * unit))
            if budget / 2 >= point.C and ends["ratio"][0] <= point.D / size <= ends["ratio"][1]:
                points.append(point)
    points = list(dict.fromkeys(points))
    if not points:
        cheapest = 6 * min(parameters(m, 0).N for m in models) * ends["D"][0]
        raise ConfigError(
            f"budget={budget:.3g} FLOPs pays for no run: the smallest N and D take {cheapest:.3g}, "
            f"and one run may take half (with D / N from {ends['ratio'][0]:.3g} to "
            f"{ends['ratio'][1]:.3g}). Give more, or widen N, D or the ratio."
        )
    return points


def _grid(every: Sequence[Point], room: float, count: int) -> np.ndarray:
    """Indices of a plain grid among the candidates: as many sizes as horizons, evenly spaced in
    logs from the smallest, the largest of both as far up as the budget goes; about `count` runs."""
    sizes = np.unique([p.N for p in every])
    horizons = np.unique([p.D for p in every])
    index = {(p.N, p.D): i for i, p in enumerate(every)}
    best, spent = np.array([], int), 0.0
    around = max(2, round(math.sqrt(count)))
    for sides in {max(2, around - 1), around, around + 1}:
        for reach in np.linspace(0.1, 1, 91):
            picks = []
            for axis in (sizes, horizons):
                at = np.linspace(0, reach * (len(axis) - 1), sides).round().astype(int)
                picks.append(axis[np.unique(at)])
            cells = [index.get((n, d)) for n in picks[0] for d in picks[1]]
            if None in cells:
                continue
            chosen = np.array(cells, int)
            cost = sum(every[i].C for i in chosen)
            if spent < cost <= room:
                best, spent = chosen, cost
    return best


def _checks(every: Sequence[Point], budget: float) -> tuple[tuple[Point, float], ...]:
    """The smallest and the largest size at half and twice the learning rate, on the least data,
    for at most a fifth of the budget."""
    found: list[tuple[Point, float]] = []
    for N in (min(p.N for p in every), max(p.N for p in every)):
        point = min((p for p in every if p.N == N), key=lambda p: p.D)
        if 2 * point.C + sum(p.C for p, _ in found) <= budget / 5:
            found += [(point, 0.5), (point, 2.0)]
    return tuple(found)
