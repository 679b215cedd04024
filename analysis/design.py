"""Which runs to train next, so that one number becomes as certain as a budget allows.

Optimal design of experiments: near a fitted law a run at (N, D) adds J' J / sigma^2 to the
information on its parameters, J the law's gradient there, and the variance of a target with gradient
g is g' M^-1 g (c-optimality; for a predicted loss that is I-optimality at one point; Atkinson, Donev
and Tobias 2007, Optimum Experimental Designs, with SAS, chapters 9, 10 and 17). As the law is not
known, the criterion is averaged over the bootstrap distribution of its parameters.
"""

from __future__ import annotations

import contextlib
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis.fitting.checks import FitError, check_level
from analysis.fitting.fit import fit
from analysis.fitting.result import Estimate, FitResult
from analysis.frontiers.optimum import optimum_at
from analysis.laws import Law, LawError, resolve
from analysis.plan import shape
from analysis.tables.conventions import six
from scaling.config import ConfigError, ModelConfig, RunConfig, fields_of
from scaling.count import parameters
from scaling.table import LARGEST, TableError, sensible

_DRAWS = 48
"""Draws of the parameters that the criterion is averaged over."""
_VAGUE = 3.0
"""Standard deviation, in logarithms, of what is known of a parameter before any run."""
_STEP = 0.01
"""Of finite differences in ln(parameter): wide, as optima are found to 1e-6 of N."""
FAR = 1000.0
"""A target at this many times the sweep's budget, where none is named."""


class Point(NamedTuple):
    """One run."""

    model: ModelConfig
    N: int
    D: float
    seed: int = 0

    @property
    def C(self) -> float:
        """6 N D."""
        return 6.0 * self.N * self.D


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
            f"# {_NOTE}{json.dumps(note)}",
            f'name = "{name}"',
            f'description = "Chosen to narrow {self.target} under {self.law}."',
            "",
            "[base]",
            *(f"{key} = {_toml(value)}" for key, value in self.base.items()),
            "",
            "[axes]",
            "zip = [",
            *(f"    {{ {_keys(p)} }}," for p in sorted(self.runs, key=lambda p: (p.N, p.D))),
            "]",
        ]
        if self.checks:
            lines += ["", "[[sets]]", 'name = "learning-rate"', "axes.zip = ["]
            for p, factor in self.checks:
                lines.append(f"    {{ {_keys(p)}, optim.lr = {_toml(self._rate(factor))} }},")
            lines.append("]")
        return "\n".join(lines) + "\n"

    def _rate(self, factor: float) -> Any:
        lr = self.base.get("optim.lr", RunConfig().optim.lr)
        if not isinstance(lr, str):
            return factor * lr
        head, _, rest = lr.partition(" ")
        return f"{factor * float(head):.6g} {rest}".strip()


_NOTE = "expected: "


def expected(toml: str) -> dict[str, Any]:
    """What a design's TOML says was expected: target, law, value, half_width, level, ...

    Raises ConfigError for a TOML that no design wrote.
    """
    for line in toml.splitlines():
        if line.startswith(f"# {_NOTE}"):
            return json.loads(line[len(_NOTE) + 2 :])
    raise ConfigError(f"this spec was not written by a design: it has no line '# {_NOTE}{{...}}'.")


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
    target = _target(result.law, note["target"])
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
    aim = _target(law, target)
    draws = _draws(result, seed)
    sigma = _noise_of(result) if noise is None else noise
    if not 1e-9 <= sigma <= 1e3:
        raise ConfigError(
            f"noise={sigma} must be positive, a standard deviation of ln L from 1e-9 to 1000 (it is that of the "
            "fit's residuals where none is given)."
        )
    base = _base(result.runs)
    every = (
        _candidates(result, budget, models, {"N": N, "D": D, "ratio": ratio}, base)
        if points is None
        else list(points)
    )
    gradient = _gradient(lambda p: aim(p)[:, None], draws)[:, 0]
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
        so_far = _information(law, draws, result.runs["N"], result.runs["D"])
        prior = prior + np.einsum("kni,knj->kij", so_far, so_far) / sigma**2
    J = _information(law, draws, [p.N for p in every], [p.D for p in every]) / sigma
    cost = np.array([p.C for p in every])
    checked = _checks(every, budget) if checks else ()
    room = budget - sum(p.C for p, _ in checked)
    problem = _Problem(J, gradient, prior, cost, room, np.asarray(seeds), runs)
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


class _Problem:
    """Choose rows of J (k draws, n candidates, q) within `room`, to make g' M^-1 g small."""

    def __init__(
        self,
        J: np.ndarray,
        g: np.ndarray,
        prior: np.ndarray,
        cost: np.ndarray,
        room: float,
        seeds: np.ndarray,
        most: int,
    ):
        self.J, self.g, self.prior, self.cost = J, g, prior, cost
        self.room, self.seeds, self.most = room, seeds, most

    def width(self, chosen: np.ndarray) -> float:
        """Standard error of the target: root of the geometric mean over the draws."""
        return float(np.exp(0.5 * self._value(chosen)))

    def solve(self) -> np.ndarray:
        """Greedy, by gain per cost to several powers, each bettered by exchanges; the best."""
        found = [self._exchanged(self._greedy(power)) for power in (1.0, 0.6, 0.3, 0.0)]
        return min(found, key=self._value)

    def _inverse(self, chosen: np.ndarray) -> np.ndarray:
        rows = self.J[:, chosen]
        return np.linalg.inv(self.prior + np.einsum("kni,knj->kij", rows, rows))

    def _value(self, chosen: np.ndarray) -> float:
        V = self._inverse(chosen)
        return float(np.mean(np.log(np.einsum("ki,kij,kj->k", self.g, V, self.g))))

    def _after(self, chosen: np.ndarray) -> np.ndarray:
        """The criterion after each candidate is added (n,): one Sherman-Morrison step."""
        V = self._inverse(chosen)
        Vg = np.einsum("kij,kj->ki", V, self.g)
        VJ = np.einsum("kij,knj->kni", V, self.J)
        now = np.einsum("ki,ki->k", self.g, Vg)[:, None]
        less = np.einsum("kni,ki->kn", VJ, self.g) ** 2 / (1 + np.einsum("kni,kni->kn", VJ, self.J))
        return np.mean(np.log(np.maximum(now - less, 1e-300)), axis=0)

    def _free(self, chosen: np.ndarray) -> np.ndarray:
        """Candidates that may still be added."""
        used = np.bincount(chosen, minlength=len(self.cost))
        return (used < self.seeds) & (self.cost[chosen].sum() + self.cost <= self.room)

    def _greedy(self, power: float) -> np.ndarray:
        chosen = np.array([], int)
        while (free := self._free(chosen)).any() and len(chosen) < self.most:
            gain = self._value(chosen) - self._after(chosen)
            gain = np.where(free, gain, -np.inf) / self.cost**power
            chosen = np.append(chosen, int(np.argmax(gain)))
        return chosen

    def _exchanged(self, chosen: np.ndarray) -> np.ndarray:
        """Take one run out and spend what that frees, as long as it helps."""
        best = self._value(chosen) if len(chosen) else math.inf
        for _ in range(_ROUNDS):
            before = best
            for i in np.argsort(-self.cost[chosen]).tolist():
                if i >= len(chosen):
                    continue
                again = np.delete(chosen, i)
                while (free := self._free(again)).any() and len(again) < self.most:
                    after = np.where(free, self._after(again), np.inf)
                    again = np.append(again, int(np.argmin(after)))
                if (value := self._value(again)) < best - 1e-6:
                    chosen, best = again, value
            if best > before - 1e-3:
                break
        return chosen


_ROUNDS = 3


def _target(law: Law, name: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Parameters (k,) -> the target (k,)."""
    what, _, at = name.partition("@")
    if (parameter := name.removeprefix("ln ")) in law.params and name != "a":
        return lambda p: np.log(p[parameter])
    if name == "a":
        around = np.array([1e-1, 1e1])

        def slope(p: Mapping[str, np.ndarray]) -> np.ndarray:
            N = np.log(optimum_at(law, dict(p), 1e18 * around, six)["N"])
            return (N[:, 1] - N[:, 0]) / np.log(around[1] / around[0])

        return slope
    try:
        C = float(at)
    except ValueError:
        C = math.nan
    if what not in ("L", "N") or not sensible(C):
        raise ConfigError(
            f"target={name!r} is not known: 'a' for the exponent of N_opt, 'L@1e18' or 'N@1e18' for "
            f"the best loss or size at so many FLOPs, or a parameter of {law.name}: "
            f"{', '.join(law.params)}."
        )
    return lambda p: np.log(optimum_at(law, dict(p), np.array([C]), six)[what][:, 0])


def _draws(result: FitResult, seed: int) -> dict[str, np.ndarray]:
    """Some draws of the free parameters and the estimate: (k,) each."""
    if not len(result.samples):
        raise ConfigError("a design needs the draws of a fit: fit(..., bootstrap=200).")
    rng = np.random.default_rng(seed)
    rows = result.samples.iloc[rng.permutation(len(result.samples))[:_DRAWS]]
    draws = {p: np.append(rows[p].to_numpy(float), result.params[p]) for p in result.law.params}
    fine = np.all([np.isfinite(v) & (v > 0) for v in draws.values()], axis=0)
    return {p: v[fine] for p, v in draws.items()}


def _gradient(
    function: Callable[[Mapping[str, np.ndarray]], np.ndarray], draws: Mapping[str, np.ndarray]
) -> np.ndarray:
    """d function / d ln(parameter) by central differences: (k, n, parameters) of a (k, n) result."""
    columns = []
    with np.errstate(all="ignore"):
        for name in draws:
            ends = [
                function({**draws, name: draws[name] * np.exp(sign * _STEP)}) for sign in (1, -1)
            ]
            columns.append((ends[0] - ends[1]) / (2 * _STEP))
    return np.stack(columns, axis=-1)


def _information(law: Law, draws: Mapping[str, np.ndarray], N: Any, D: Any) -> np.ndarray:
    """d ln L / d ln(parameter) at each run: (k, n, parameters)."""
    columns = {"N": np.asarray(N, float), "D": np.asarray(D, float)}

    def log_loss(p: Mapping[str, np.ndarray]) -> np.ndarray:
        deep = {name: v[:, None] for name, v in p.items()}
        return np.log(law(*(columns[name] for name in law.inputs), **deep))

    return _gradient(log_loss, draws)


def _noise_of(result: FitResult) -> float:
    """Standard deviation of the residuals of ln L, robust, for the parameters fitted."""
    r = result.log_residuals
    free = max(result.n - len(result.law.params), 1)
    return float(1.4826 * np.median(np.abs(r)) * np.sqrt(result.n / free))


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


# ------------------------------------------------------------------ adaptive sweeps


def interval_width(asked: Any, rows: Sequence[Mapping[str, Any]]) -> float:
    """Width of the 95 % interval of `asked.parameter` in a fit of `asked.law` to these rows.

    `asked` is a sweeps.interval.Interval. Infinite where there is none. Raises ConfigError where
    there is no such law or parameter, or none that runs could be designed for.
    """
    law = _asked(asked)
    if not rows:
        return math.inf
    try:
        found = fit(law, pd.DataFrame(rows))
    except (FitError, TableError):
        return math.inf
    low, high = found.interval(0.95).loc[asked.parameter, ["low", "high"]]
    return float(high - low) if math.isfinite(high - low) else math.inf


_AIM = 0.9
"""A round aims at this part of the width that is asked: what comes out scatters, and rounds take time."""
_LEAST = 0.99
"""A round that leaves the interval this part as wide, or more, is not worth its runs."""


def interval_runs(due: Any) -> tuple[list[int], float, str]:
    """The next round of runs for an interval: (which of the candidates, the width expected with them,
    why there are none).

    `due` is a sweeps.interval.Due. The runs are as many as its FLOPs pay for, or fewer that are
    expected to do. The expected width is the one so far, times the ratio of linearised ones.
    """
    asked = due.asked
    sizes = [parameters(run.model, run.data.vocab_size).N for run in due.candidates]
    points = [
        Point(run.model, N, float(run.D)) for run, N in zip(due.candidates, sizes, strict=True)
    ]
    index = {point: i for i, point in enumerate(points)}
    picks: list[int] = []
    flops, width, why = due.flops, math.inf, ""
    try:
        result = fit(_asked(asked), pd.DataFrame(due.rows))
        # Half the FLOPs, as long as these are expected to do.
        while not picks or width <= _AIM * asked.width:
            made = design(
                result, budget=flops, target=f"ln {asked.parameter}", runs=asked.runs,
                points=points, seeds=due.left,
            )  # fmt: skip
            now, then = made.half_width["nothing more"], made.half_width["design"]
            wide = (
                due.width if math.isfinite(due.width) else 2 * now * result.params[asked.parameter]
            )
            if picks and wide * then / now > _AIM * asked.width:
                break
            picks = [index[point._replace(seed=0)] for point in made.runs]
            width = wide * then / now
            flops = made.C / 2
    except (FitError, TableError, ConfigError) as error:
        why = "" if picks else f"no runs can be designed: {error}"
    if width > max(asked.width, _LEAST * due.width):
        picks, why = (
            [],
            why
            or (
                f"the best runs for {due.flops:.3g} FLOPs are expected to narrow it by less than "
                f"{1 - _LEAST:.0%}"
            ),
        )
    return picks, width, why


def _asked(asked: Any) -> Law:
    """The law of an Interval, if it can be used for it."""
    try:
        law = resolve(asked.law)
    except LawError as error:
        raise ConfigError(f"[until] interval.law: {error}") from None
    if asked.parameter not in law.params:
        raise ConfigError(
            f"[until] interval.parameter={asked.parameter!r}: {asked.law} has {', '.join(law.params)}."
        )
    if asked.add == "designed" and set(law.inputs) != {"N", "D"}:
        raise ConfigError(
            f"[until] interval: runs are designed for laws of N and D; {law.name} is one of "
            f"{', '.join(law.inputs)}. Give add = 'seeds'."
        )
    return law


# ------------------------------------------------------------------ TOML


def _base(runs: pd.DataFrame) -> dict[str, Any]:
    """Fields of RunConfig on which all runs so far agree, where they are not the defaults: found by
    the last part of their names among the columns. Sizes, horizon and seed are the design's."""
    base: dict[str, Any] = {}
    own = ("model.n_layer", "model.d_model", "model.n_head", "model.d_ff", "tokens", "seed", "tag")
    for key, (_, default) in fields_of().items():
        column = "B" if key == "batch_tokens" else key.rpartition(".")[2]
        if key in own or column not in runs.columns:
            continue
        values = runs[column].dropna().unique()
        if len(values) != 1 or runs[column].isna().any() or is_dataclass(default):
            continue
        value = values[0].item() if hasattr(values[0], "item") else values[0]
        hint = fields_of()[key][0]
        if isinstance(value, str) and float in (hint, *typing.get_args(hint)):
            with contextlib.suppress(ValueError):  # a column of rules has its numbers as text
                value = float(value)
        if (
            isinstance(value, float)
            and value.is_integer()
            and int in (hint, *typing.get_args(hint))
        ):
            value = int(value)
        if value != default:
            base[key] = value
    return base


def _keys(p: Point) -> str:
    """A run's fields as they stand in an inline table."""
    default = ModelConfig()
    words = {"model.n_layer": p.model.n_layer, "model.d_model": p.model.d_model}
    words |= {"model.n_head": p.model.n_head, "tokens": int(p.D), "seed": p.seed}
    if p.model.d_ff is not None and p.model.d_ff != default.d_ff:
        words["model.d_ff"] = p.model.d_ff
    return ", ".join(f"{key} = {_toml(value)}" for key, value in words.items())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)
