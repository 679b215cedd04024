"""What to train next: from a budget (or a size, an amount of data, a target loss) to a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from analysis.critical_batch import CriticalBatch
from analysis.data_limits import repeating
from analysis.fitting.checks import check_level
from analysis.fitting.intervals import interval
from analysis.fitting.result import FitResult
from analysis.fitting.status import Status
from analysis.frontiers.frontier import frontier as optimal
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Comparison, Frontier
from analysis.planning.accelerators import memory
from analysis.planning.model_shape import Shape, count_parameters, shape
from analysis.planning.recipe import Recipe, recipe
from scaling import units
from scaling.config import ModelConfig
from scaling.count import PF_DAY
from scaling.errors import ConfigError
from scaling.jsonable import finite
from scaling.table import LARGEST, sensible

_WRONG = ("not_converged", "wrong_sign")
"""Codes of a fit's status that leave a plan without a basis."""
_OPEN = ("not_identified", "at_bound")
"""Codes that do so where they leave the plan open: a scale far from the data may be unknown, and the best
size among the data is not."""
_WIDE = 100.0
"""High over low of N beyond which a plan is open."""

FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Departures from the best size whose price a plan states (Kaplan et al. 2020, Fig. 12)."""


class Quantity(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float


class Deviation(NamedTuple):
    """A size other than the best one, trained until the loss is the plan's."""

    factor: float
    """N over N_opt."""
    compute: Quantity
    """C over the plan's C; infinite where no amount of data reaches that loss."""
    D: float


@dataclass(frozen=True)
class Plan:
    """The compute-optimal run for one request."""

    asked: dict[str, float]
    C: Quantity
    N: Quantity
    D: Quantity
    L: Quantity
    tokens_per_parameter: Quantity
    shape: Shape | None
    deviations: tuple[Deviation, ...]
    beyond: dict[str, float]
    """How many times C, N and D lie outside the data: 1 inside."""
    recipe: Recipe
    memory: dict[str, Any] | None
    """Bytes of states and activations (see analysis.planning.accelerators); None without a shape or a
    vocabulary."""
    tenfold: dict[str, float]
    """By what to multiply N, D, B and S to spend ten times the compute, and what L then is."""
    status: tuple[str, ...]
    source: str
    level: float
    served: float = 0.0
    """Tokens of inference that C counts too."""

    def record(self) -> dict[str, Any]:
        """Everything as plain numbers and strings, ready for JSON (infinite becomes None)."""
        quantities = ("C", "N", "D", "L", "tokens_per_parameter")
        return {
            "asked": self.asked,
            **{name: finite(getattr(self, name)._asdict()) for name in quantities},
            "PF_days": self.C.value / PF_DAY,
            "shape": None if self.shape is None else self.shape.record(),
            "deviations": [
                {"factor": d.factor, "compute": finite(d.compute._asdict())} | finite({"D": d.D})
                for d in self.deviations
            ],
            "recipe": self.recipe.record(),
            "memory": self.memory,
            "tenfold": finite(self.tenfold),
            "inference_tokens": self.served,
            "beyond": self.beyond,
            "reliable": not self.doubts,
            "status": list(self.status),
            "source": self.source,
            "level": self.level,
        }

    @property
    def doubts(self) -> tuple[str, ...]:
        """What the fit says against planning with it: parameters that the data leave open, ..."""
        narrow = self.N.high <= _WIDE * self.N.low
        doubtful = _WRONG if narrow else _WRONG + _OPEN
        return tuple(
            line for line in self.status if isinstance(line, Status) and line.code in doubtful
        )

    @property
    def headline(self) -> str:
        plain = (
            f"train {units.count(self.N.value)} parameters on {units.count(self.D.value)} tokens "
            f"({self.C.value:.3g} FLOPs): loss {self.L.value:.3f} nats/token "
            + interval(self.L.low, self.L.high, ".3f")
        )
        return f"{plain} - NOT RELIABLE, {'; '.join(self.doubts)}" if self.doubts else plain

    def __str__(self) -> str:
        (name,) = self.asked
        lines = [self.headline]
        served = f", {units.count(self.served)} tokens of inference included" if self.served else ""
        rows = [
            ("C", self.C, f"FLOPs ({self.C.value / PF_DAY:.3g} PF-days){served}"),
            ("N", self.N, "parameters"),
            ("D", self.D, "tokens"),
            ("D/N", self.tokens_per_parameter, "tokens per parameter"),
            ("L", self.L, "nats/token"),
        ]
        for symbol, q, unit in rows:
            exact = symbol == name
            spread = "asked for" if exact else interval(q.low, q.high, ".4g")
            lines.append(f"  {symbol:<6}{q.value:<11.4g}{spread:<24}{unit}")
        if self.shape is not None:
            m, off = self.shape.model, self.shape.N / self.N.value - 1
            lines.append(
                f"  shape  n_layer={m.n_layer} d_model={m.d_model} n_head={m.n_head}: "
                f"N = {self.shape.N:,} ({off:+.1%}), D = {self.shape.D:.4g} at the same C"
            )
        r = self.recipe
        lines.append(
            f"  train  B = {r.B:.3g} tokens ({r.sources['B']}), S = {r.S:.3g} steps, lr = {r.lr:.2g} "
            f"({r.sources['lr']})"
        )
        if self.memory is not None:
            fewest = ", ".join(f"{n} {gpu}" for gpu, n in self.memory["gpus"].items())
            lines.append(
                f"  memory {units.data_size(self.memory['states'])} of weights and optimiser, "
                f"{units.data_size(self.memory['activations'])} of activations per "
                f"sequence: at least {fewest}"
            )
        t = self.tenfold
        lines.append(
            f"  ten times the compute: N x{t['N']:.3g}, D x{t['D']:.3g} = B x{t['B']:.3g} and S "
            f"x{t['S']:.3g}; loss {t['L']:.3f} (Kaplan et al. 2020: 5.4, 1.9, 1.7, 1.1)"
        )
        if self.deviations:
            lines.append("  price of another size, at the same loss:")
            lines += [f"    {_price(d)}" for d in self.deviations]
        lines.append(f"  from {self.source}; {self.level:.0%} intervals")
        return "\n".join(lines + [f"  ! {line}" for line in self.status])


def plan(
    source: FitResult | Frontier | Comparison | pd.DataFrame,
    *,
    C: float | None = None,
    N: float | None = None,
    D: float | None = None,
    L: float | None = None,
    model: ModelConfig | None = None,
    vocab_size: int | None = None,
    level: float = 0.95,
    served: float = 0.0,
    unique: float | None = None,
    critical: CriticalBatch | None = None,
) -> Plan:
    """The compute-optimal run with C FLOPs; or with N parameters; or D tokens; or to reach loss L.

    source      a fitted law of N and D, any frontier, or a table that `frontier` takes.
    model       the model whose n_ctx and d_ff / d_model the suggested shape keeps.
    vocab_size  needed for memory, and for a shape where the frontier counts all parameters
                (N_total); where the runs have one, theirs.
    served      tokens that the model will be run on afterwards: C then counts 2 N served too, and
                the best model is smaller (Sardana et al. 2024). Of a fitted law only.
    unique      tokens of data that there are: beyond them each epoch is worth less (Muennighoff et
                al. 2023; see overfit.repeating). Of a fitted law only.
    critical    gives the batch size; see `recipe`.

    Intervals cover the fit's own uncertainty, not that the law is wrong where there are no data:
    `beyond` and `status` say how far that is. Raises ConfigError unless exactly one of C, N, D, L
    is given, positive and finite, and for a loss that no compute reaches.
    """
    check_level(level)
    for name, number in (("served", served), ("unique", unique)):
        if number and not isinstance(source, FitResult):
            raise ConfigError(f"{name}={number:g} needs a fitted law: plan(fit(...), ...).")
        if number and not sensible(number):
            raise ConfigError(
                f"{name}={number} must be a number of tokens, no more than {LARGEST:g}."
            )
    if unique == 0:
        raise ConfigError("unique=0 tokens of data: there is nothing to train on.")
    if isinstance(source, FitResult):
        limited = source
        if unique is not None:
            limited = replace(source, law=repeating(source.law, unique=unique))
        front = parametric(limited, level=level, served=served)
    else:
        front = optimal(source, level=level) if isinstance(source, pd.DataFrame) else source
    if isinstance(front, Comparison):
        raise ConfigError("a plan needs one frontier, not several: plan(comparison.fronts[...]).")
    given = {k: v for k, v in (("C", C), ("N", N), ("D", D), ("L", L)) if v is not None}
    if len(given) != 1:
        raise ConfigError(
            f"a plan needs exactly one of C, N, D and L; got {', '.join(given) or 'none'}. "
            "Say plan(fit, C=1e21)."
        )
    ((asked, value),) = given.items()
    if not sensible(value):
        raise ConfigError(f"{asked}={value} must be positive and finite, no more than {LARGEST:g}.")
    compute = value if asked == "C" else _compute(front, asked, value)
    spread = np.full(len(front.lines["N"]), compute)
    if asked != "C":
        spread = _compute_draws(front, asked, value, compute)
    reached = np.isfinite(spread)
    own = front.draws(np.where(reached, spread, compute)[:, None])
    draws = {name: np.where(reached, v[:, 0], np.inf) for name, v in own.items()}
    draws |= {"C": spread, asked: np.full(len(spread), float(value))}
    best = {name: float(v[0]) for name, v in draws.items()}
    _possible(front, asked, best)
    quantities = {name: _quantity(draws[name], level) for name in ("C", "N", "D", "L")}
    if (
        front.fit is not None and asked != "L" and len(front.fit.samples)
    ):  # of this very run, not of each resample's own best
        low, high = front.fit.predict_interval(level, N=best["N"], D=best["D"])
        quantities["L"] = Quantity(best["L"], float(low), float(high))
    runs = None if front.fit is None else front.fit.runs
    if vocab_size is None and runs is not None and "vocab_size" in runs.columns:
        sizes = pd.to_numeric(runs["vocab_size"], errors="coerce").dropna().unique()
        vocab_size = int(sizes[0]) if len(sizes) == 1 and 1 <= sizes[0] < LARGEST else None
    with np.errstate(invalid="ignore"):
        ratio = _quantity(draws["D"] / draws["N"], level)
    beyond = _beyond(front, {name: best[name] for name in ("C", "N", "D")})
    found = shape(best["N"], model=model, count=front.params, vocab_size=vocab_size)
    form = None
    if found is not None:
        size = count_parameters(found, front.params, vocab_size)
        form = Shape(found, size, (compute - 2 * size * served) / float(front.per_token(size)))
    how = recipe(N=best["N"], D=best["D"], L=best["L"], runs=runs, critical=critical)
    more = {name: float(v[0, 0]) for name, v in front.draws(10 * compute).items()}
    then = recipe(**more, runs=runs, critical=critical)
    tenfold = {name: more[name] / best[name] for name in ("N", "D")}
    tenfold |= {"B": then.B / how.B, "S": then.S / how.S, "L": more["L"]}
    return Plan(
        asked={asked: float(value)},
        **quantities,
        tokens_per_parameter=ratio,
        shape=form,
        deviations=tuple(_deviations(front, best["N"], best["D"], level)),
        beyond=beyond,
        recipe=how,
        memory=memory(found, vocab_size) if found is not None and vocab_size else None,
        tenfold=tenfold,
        status=(*_epochs(best["D"], unique), *_qualified(front, beyond, form, best["N"])),
        source=_source(front),
        level=level,
        served=served,
    )


def _possible(front: Frontier, asked: str, best: Mapping[str, float]) -> None:
    """Raise ConfigError where the best run of a frontier is none that anyone can train."""
    at = f"{asked}={best[asked]:g}: the best run by this frontier ({_source(front)})"
    for name, what in (("N", "parameter"), ("D", "token"), ("L", "")):
        if not sensible(best[name]):
            raise ConfigError(
                f"{at} has no {name} that can be computed, so far is it beyond the data."
            )
        if what and best[name] < 1:
            raise ConfigError(f"{at} has {name} = {best[name]:.3g}, less than one {what}.")


# ------------------------------------------------------------------ from N, D or L to C


def _compute(front: Frontier, name: str, value: float) -> float:
    """C at which the optimum has this N, D or L."""

    def off(log_C: float) -> float:
        return math.log(front.draws(math.exp(log_C))[name][0, 0] / value)

    middle = 0.5 * sum(math.log(end) for end in front.ranges["C"])
    for reach in (5.0, 20.0, 60.0, 150.0):
        low, high = max(middle - reach, math.log(6.0)), middle + reach
        if off(low) * off(high) <= 0:
            return math.exp(float(brentq(off, low, high, xtol=1e-10)))
    if name == "L":
        floor = front.draws(math.exp(middle + 150))["L"][0, 0]
        raise ConfigError(
            f"L={value:g} nats/token is out of reach: this frontier ({_source(front)}) tends to "
            f"{floor:.4g} however much compute is spent. Ask for more than that."
        )
    raise ConfigError(f"{name}={value:g} is optimal at no compute that this frontier covers.")


def _compute_draws(front: Frontier, name: str, value: float, C: float) -> np.ndarray:
    """The same for every resample: (1 + resamples,); infinite where a resample does not get
    there within a factor of 1e5 of the estimate."""
    x = math.log(C) + np.linspace(-12, 12, 49)
    paths = np.log(front.draws(np.exp(x))[name])
    sign = -1.0 if name == "L" else 1.0
    out = np.full(len(paths), np.inf)
    for i, path in enumerate(sign * paths):
        goal = sign * math.log(value)
        if np.isfinite(path).all() and path[-1] >= goal:
            out[i] = math.exp(np.interp(goal, np.maximum.accumulate(path), x))
    out[0] = C
    return out


# ------------------------------------------------------------------ the price of another size


def price(front: Frontier, *, N: float, D: float, factor: float, level: float = 0.95) -> Quantity:
    """Compute to reach the loss of (N, D) with factor x N parameters, over that of (N, D).

    Infinite where no amount of data reaches it. Of a parametric frontier only: ConfigError else.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), Fig. 12
    """
    if front.fit is None:
        raise ConfigError(f"the price of another size needs a law of N and D, not {front.method}.")
    return _quantity(_same_loss(front, N, D, factor)[0], level)


def _deviations(front: Frontier, N: float, D: float, level: float) -> Iterator[Deviation]:
    """Compute for the same loss at other sizes; needs a law of N and D."""
    if front.fit is None:
        return
    for factor in FACTORS:
        ratio, tokens = _same_loss(front, N, D, factor)
        yield Deviation(factor, _quantity(ratio, level), float(tokens[0]))


def _same_loss(front: Frontier, N: float, D: float, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """C / C_opt and D at factor x N, for every set of parameters: bisection in ln D."""
    assert front.fit is not None
    law, samples = front.fit.law, front.fit.samples
    params = {
        p: np.concatenate([[front.fit.params[p]], samples[p].to_numpy(float)]) for p in law.params
    }

    def loss(n: float, d: Any) -> np.ndarray:
        columns = {"N": np.full(np.shape(d), n), "D": d}
        with np.errstate(all="ignore"):  # a draw may lie far out
            return np.asarray(law(*(columns[k] for k in law.inputs), **params), float)

    rows = len(samples) + 1
    goal = loss(N, np.full(rows, D))
    low, high = np.full(rows, math.log(D) - 30), np.full(rows, math.log(D) + 60)
    reachable = loss(factor * N, np.exp(high)) < goal
    for _ in range(60):
        middle = (low + high) / 2
        enough = loss(factor * N, np.exp(middle)) <= goal
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    tokens = np.where(reachable, np.exp(high), np.inf)
    there = float(front.per_token(factor * N)) * tokens + 2 * factor * N * front.served
    return there / (float(front.per_token(N)) * D + 2 * N * front.served), tokens


# ------------------------------------------------------------------ words


def _beyond(front: Frontier, at: dict[str, float]) -> dict[str, float]:
    return {
        name: max(1.0, value / front.ranges[name][1], front.ranges[name][0] / value)
        for name, value in at.items()
    }


def _epochs(D: float, unique: float | None) -> Iterator[str]:
    if unique is not None and unique * 1.005 < D:
        yield (
            f"D is {D / unique:.3g} epochs of the {unique:.3g} unique tokens; their worth is that of "
            "Muennighoff et al. 2023 (R_D* = 15.4, which their runs hardly bound from above)"
        )


def _qualified(
    front: Frontier, beyond: dict[str, float], form: Shape | None, N: float
) -> Iterator[str]:
    far = max(beyond.values())
    if far > 1.001:
        parts = ", ".join(f"{k} {v:.3g}x" for k, v in beyond.items() if v > 1.001)
        if far > 100:
            yield (
                f"EXTRAPOLATION: {parts} beyond the data. So far out the interval is a lower bound "
                "on the uncertainty: it assumes that the law holds there"
            )
        elif far > 10:
            yield f"EXTRAPOLATION: {parts} beyond the data; the interval assumes that the law holds"
        else:
            yield f"extrapolates: {parts} beyond the data"
    if form is not None and abs(form.N / N - 1) > 0.1:
        yield f"no shape of the usual proportions has N = {N:.3g}; the nearest is N = {form.N}"
    yield from front.status


def _source(front: Frontier) -> str:
    what = front.fit.law.name if front.fit is not None else "power laws"
    return f"{front.method} frontier, {what} ({front.convention})"


def _price(d: Deviation) -> str:
    name = f"{d.factor:g} x N"
    if not math.isfinite(d.compute.value):
        return f"{name:<9} no amount of data reaches this loss"
    spread = interval(d.compute.low - 1, d.compute.high - 1, "+.1%").replace("+inf%", "unreachable")
    return f"{name:<9} {d.compute.value - 1:+.1%} compute {spread}, D = {d.D:.3g}"


def _quantity(draws: np.ndarray, level: float) -> Quantity:
    """The first is the estimate, the rest the distribution; what is not known is far out."""
    rest = np.sort(np.where(np.isnan(draws[1:]), np.inf, draws[1:]))
    if not len(rest):
        return Quantity(float(draws[0]), math.nan, math.nan)
    low, high = (rest[round(q * (len(rest) - 1))] for q in ((1 - level) / 2, (1 + level) / 2))
    return Quantity(float(draws[0]), float(low), float(high))
