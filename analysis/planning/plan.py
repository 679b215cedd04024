"""What to train next: from a budget (or a size, an amount of data, a target loss) to a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import notebook
from analysis.arguments import expect
from analysis.critical_batch import CriticalBatch
from analysis.data_limits import with_unique
from analysis.fitting.checks import check_level
from analysis.fitting.result import FitResult
from analysis.fitting.status import Note, Status, as_status, worth_telling
from analysis.frontiers.frontier import frontier as optimal
from analysis.frontiers.parametric import parametric
from analysis.frontiers.result import Comparison, Frontier
from analysis.in_words import ABSURD, interval, times
from analysis.planning.accelerators import memory
from analysis.planning.doubts import (
    VAST,
    VAST_LOSS,
    doubts_of,
    headline_of,
    interval_doubts,
    loss_doubts,
)
from analysis.planning.extrapolation import Extrapolation, extrapolation_of
from analysis.planning.inverse import compute_draws, compute_for, source_of
from analysis.planning.model_shape import SuggestedModel, count_parameters, suggest_model
from analysis.planning.price import Deviation, deviation_line, deviation_record, deviations
from analysis.planning.quantity import Quantity, quantity_of
from analysis.planning.recipe import Recipe, recipe
from analysis.planning.shape_family import family_of
from scaling import units
from scaling.config import ModelConfig
from scaling.errors import ConfigError
from scaling.jsonable import finite
from scaling.table import LARGEST, sensible
from scaling.units import PF_DAY


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The compute-optimal run for one request."""

    asked: dict[str, float]
    """The request: C, N, D or L, and its value."""
    C: Quantity
    N: Quantity
    D: Quantity
    L: Quantity
    tokens_per_parameter: Quantity
    shape: SuggestedModel | None
    """A decoder of nearly N parameters; None if they cannot be counted."""
    family_shape: SuggestedModel | None
    """If the proportions of `shape` are outside those of the runs: a decoder of nearly N parameters
    in their proportions."""
    deviations: tuple[Deviation, ...]
    """The price of other sizes; empty without a law of N and D."""
    extrapolation: Extrapolation
    """How far the plan lies outside the data, and how far the law was tested."""
    recipe: Recipe
    memory: dict[str, Any] | None
    """Bytes of states and activations (:func:`analysis.planning.accelerators.memory`); None
    without a shape or a vocabulary."""
    tenfold: dict[str, float]
    """The factors in N, D, B and S for ten times the compute, and the resulting L."""
    status: tuple[Status, ...]
    """Warnings, one line each, with codes."""
    source: str
    level: float
    served: float = 0.0
    """Tokens of inference that C includes."""

    def record(self) -> dict[str, Any]:
        """Return plain numbers and strings, ready for JSON (infinite becomes None)."""
        quantities = ("C", "N", "D", "L", "tokens_per_parameter")
        return {
            "asked": self.asked,
            **{name: getattr(self, name).record() for name in quantities},
            "PF_days": self.C.value / PF_DAY,
            "shape": None if self.shape is None else self.shape.record(),
            "family_shape": None if self.family_shape is None else self.family_shape.record(),
            "deviations": [deviation_record(d) for d in self.deviations],
            "recipe": self.recipe.record(),
            "memory": self.memory,
            "tenfold": finite(self.tenfold),
            "inference_tokens": self.served,
            "beyond": self.beyond,
            "extrapolation": self.extrapolation.record(),
            "reliable": not self.doubts,
            "doubts": [{"code": line.code, "text": str(line)} for line in self.doubts],
            "status": list(self.status),
            "source": self.source,
            "level": self.level,
        }

    @property
    def beyond(self) -> dict[str, float]:
        """How many times C, N and D lie outside the data: 1 inside."""
        return self.extrapolation.beyond

    @property
    def doubts(self) -> tuple[Status, ...]:
        """The lines of the status that make the plan unreliable: it lies too far beyond the data,
        its intervals are missing or too wide, or the fit has no basis."""
        (asked,) = self.asked
        quantities = {"C": self.C, "N": self.N, "D": self.D, "L": self.L}
        return doubts_of(self.status, quantities, asked)

    @property
    def plain(self) -> str:
        """The plan in a line, without its doubts."""
        return (
            f"train {units.count(self.N.value)} parameters on {units.count(self.D.value)} tokens "
            f"({self.C.value:.3g} FLOPs): loss {self.L.value:.3f} nats/token "
            + interval(self.L.low, self.L.high, ".3f", vast=VAST_LOSS)
        )

    @property
    def headline(self) -> str:
        """The plan in a line, after its doubts."""
        return headline_of(self.plain, self.doubts)

    def __str__(self) -> str:
        lines = [self.headline, *self._quantity_lines(), *self._training_lines()]
        if self.deviations:
            mark = " (not reliable)" if self.doubts else ""
            lines.append(f"  price of another size, at the same loss{mark}:")
            lines += [f"    {deviation_line(d)}" for d in self.deviations]
        lines.append(f"  from {self.source}; {self.level:.0%} intervals")
        shown = {*self.doubts, *(line for line in self.status if line.code == "shape_untested")}
        rest = [line for line in worth_telling(self.status) if line not in shown]
        return "\n".join(lines + [f"  ! {line}" for line in rest])

    def _repr_html_(self) -> str:
        return notebook.plan(self)

    def _quantity_lines(self) -> Iterator[str]:
        """C, N, D, D/N and L with their intervals."""
        (name,) = self.asked
        served = f", {units.count(self.served)} tokens of inference included" if self.served else ""
        rows = [
            ("C", self.C, f"FLOPs ({self.C.value / PF_DAY:.3g} PF-days){served}"),
            ("N", self.N, "parameters"),
            ("D", self.D, "tokens"),
            ("D/N", self.tokens_per_parameter, "tokens per parameter"),
            ("L", self.L, "nats/token"),
        ]
        for symbol, q, unit in rows:
            vast = VAST_LOSS if symbol == "L" else VAST
            spread = interval(q.low, q.high, ".4g", vast=vast)
            spread = "asked for" if symbol == name else spread
            yield f"  {symbol:<6}{q.value:<11.4g}{spread:<24}{unit}"

    def _training_lines(self) -> Iterator[str]:
        """The model, its training and memory, and ten times the compute."""
        if self.shape is not None:
            yield f"  shape  {self._shape_words(self.shape)}"
            if self.shape.outside:
                yield _wrapped(f"outside the shapes of the runs: {'; '.join(self.shape.outside)}")
        if self.family_shape is not None:
            yield f"  or     {self._shape_words(self.family_shape)}"
            rest = "; ".join(self.family_shape.outside)
            yield _wrapped("in the proportions of the runs" + (f", but {rest}" if rest else ""))
        r = self.recipe
        yield (
            f"  train  B = {r.B:.3g} tokens ({r.origin('B')}), S = {r.S:.3g} steps,\n"
            f"         lr = {r.lr:.2g} ({r.origin('lr')})"
        )
        if self.memory is not None:
            fewest = ", ".join(f"{n} {gpu}" for gpu, n in self.memory["gpus"].items())
            yield (
                f"  memory {units.data_size(self.memory['states'])} of weights and optimizer, "
                f"{units.data_size(self.memory['activations'])} of activations per sequence: "
                f"at least {fewest}"
            )
        t, mark = self.tenfold, " (not reliable)" if self.doubts else ""
        if not all(map(sensible, t.values())):
            yield "  ten times the compute: not known"
            return
        yield (
            f"  ten times the compute{mark}: N x{t['N']:.3g}, D x{t['D']:.3g} = B x{t['B']:.3g} "
            f"and S x{t['S']:.3g}; loss {t['L']:.3f} (Kaplan et al. 2020: 5.4, 1.9, 1.7, 1.1)"
        )

    def _shape_words(self, shape: SuggestedModel) -> str:
        m, ratio = shape.model, shape.N / self.N.value
        off = f"{ratio - 1:+.1%}" if ratio < 10 else f"{times(ratio)}x"
        return (
            f"n_layer={m.n_layer} d_model={m.d_model} n_head={m.n_head}: N = {shape.N:,} "
            f"({off}), D = {shape.D:.4g} at the same C"
        )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, initial_indent=" " * 9, subsequent_indent=" " * 9)


# ------------------------------------------------------------------ the plan


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
    """Plan the compute-optimal run with C FLOPs, N parameters or D tokens, or to reach loss L.

    source      a fitted law of N and D, any frontier, or a table that `frontier` takes.
    model       the model whose n_ctx and d_ff / d_model the suggested shape keeps.
    vocab_size  needed for memory, and for a shape if the frontier counts all parameters (N_total);
                by default that of the runs, if they have one.
    served      tokens of inference after training: C then includes 2 N served, and the best model
                is smaller (Sardana et al. 2024). For a fitted law only.
    unique      available tokens of data: beyond them each epoch is worth less (Muennighoff et al.
                2023; see :func:`analysis.data_limits.repeating`). For a fitted law only.
    critical    gives the batch size; see :func:`analysis.planning.recipe.recipe`.

    Intervals cover the fit's own uncertainty. They do not cover that the law may be wrong where
    there are no data: `beyond` and `status` tell how far that is. Raises ConfigError unless exactly
    one of C, N, D, L is given, positive and finite, and for a loss that no compute reaches.
    """
    check_level(level)
    expect(
        "plan(source)", "source", source, FitResult, Frontier, Comparison, pd.DataFrame,
        remedy="It must be a fit, a frontier or a table; plans() takes several fits.",
    )  # fmt: skip
    front = _front(source, level=level, served=served, unique=unique)
    asked, value = _request({"C": C, "N": N, "D": D, "L": L})
    compute = value if asked == "C" else compute_for(front, asked, value)
    draws = _draws(front, asked, value, compute)
    best = {name: float(v[0]) for name, v in draws.items()}
    _check_trainable(front, asked, best)
    runs = None if front.fit is None else front.fit.runs
    vocab_size = vocab_size_of(runs) if vocab_size is None else vocab_size
    shape, family_shape = _shapes(
        front, best["N"], compute, runs, model=model, vocab_size=vocab_size
    )
    extrapolation = extrapolation_of(front, {name: best[name] for name in ("C", "N", "D")})
    quantities = _quantities(front, asked, draws, best, level)
    how = recipe(N=best["N"], D=best["D"], L=best["L"], runs=runs, critical=critical)
    with np.errstate(all="ignore"):
        ratio = quantity_of(draws["D"] / draws["N"], level)
    return Plan(
        asked={asked: float(value)},
        **quantities,
        tokens_per_parameter=ratio,
        shape=shape,
        family_shape=family_shape,
        deviations=tuple(deviations(front, best["N"], best["D"], level)),
        extrapolation=extrapolation,
        recipe=how,
        memory=memory(shape.model, vocab_size) if shape is not None and vocab_size else None,
        tenfold=_tenfold(front, compute, best, how, critical),
        status=(
            *_epochs(best["D"], unique),
            *extrapolation.lines(),
            *interval_doubts(quantities, asked),
            *loss_doubts(front.fit, best["N"], best["D"]),
            *_shape_lines(shape, best["N"]),
            *(as_status(line) for line in front.status),
        ),
        source=source_of(front),
        level=level,
        served=served,
    )


def _front(
    source: FitResult | Frontier | Comparison | pd.DataFrame,
    *,
    level: float,
    served: float,
    unique: float | None,
) -> Frontier:
    """Return the frontier of the source. Raises ConfigError for options that do not suit it."""
    for name, number in (("served", served), ("unique", unique)):
        if number and not isinstance(source, FitResult):
            raise ConfigError(f"{name}={number:g} needs a fitted law.")
        if number and not sensible(number):
            raise ConfigError(
                f"{name}={number} must be a number of tokens, no more than {LARGEST:g}."
            )
    if unique == 0:
        raise ConfigError("unique=0 tokens of data: there is nothing to train on.")
    if isinstance(source, FitResult):
        if unique is not None:
            source = with_unique(source, unique)
        return parametric(source, level=level, served=served)
    front = optimal(source, level=level) if isinstance(source, pd.DataFrame) else source
    if isinstance(front, Comparison):
        raise ConfigError("a plan needs one frontier, not several: plan(comparison.fronts[...]).")
    return front


def _request(values: Mapping[str, float | None]) -> tuple[str, float]:
    """Return the one value that is given, and its name. Raises ConfigError."""
    given = {name: value for name, value in values.items() if value is not None}
    if len(given) != 1:
        raise ConfigError(
            f"a plan needs exactly one of C, N, D and L; got {', '.join(given) or 'none'}. "
            "Give one of --flops, --params, --tokens and --loss; --params with --tokens predicts "
            "the loss of that run."
        )
    ((asked, value),) = given.items()
    if not sensible(value):
        raise ConfigError(f"{asked}={value} must be positive and finite, no more than {LARGEST:g}.")
    return asked, value


def _draws(front: Frontier, asked: str, value: float, compute: float) -> dict[str, np.ndarray]:
    """Return C, N, D and L of the estimate and of each resample, (1 + resamples,) each."""
    spread = np.full(len(front.lines["N"]), compute)
    if asked != "C":
        spread = compute_draws(front, asked, value, compute)
    reached = np.isfinite(spread)
    optima = front.draws(np.where(reached, spread, compute)[:, None])
    draws = {name: np.where(reached, v[:, 0], np.inf) for name, v in optima.items()}
    return draws | {"C": spread, asked: np.full(len(spread), float(value))}


def _quantities(
    front: Frontier,
    asked: str,
    draws: Mapping[str, np.ndarray],
    best: Mapping[str, float],
    level: float,
) -> dict[str, Quantity]:
    """Return C, N, D and L with their intervals."""
    quantities = {name: quantity_of(draws[name], level) for name in ("C", "N", "D", "L")}
    if front.fit is not None and asked != "L" and len(front.fit.samples):
        # The interval is that of this very run, not of each resample's own best run.
        low, high = front.fit.predict_interval(level, N=best["N"], D=best["D"])
        quantities["L"] = Quantity(best["L"], float(low), float(high))
    return quantities


def _check_trainable(front: Frontier, asked: str, best: Mapping[str, float]) -> None:
    """Raise ConfigError if nobody can train the best run of the frontier."""
    at = f"{asked}={best[asked]:g}: the best run by this frontier ({source_of(front)})"
    for name, what in (("C", ""), ("N", "parameter"), ("D", "token"), ("L", "")):
        if not sensible(best[name]) or best[name] >= ABSURD:
            raise ConfigError(f"{at} is so far beyond the data that its {name} cannot be computed.")
        if what and best[name] < 1:
            raise ConfigError(f"{at} has {name} = {best[name]:.3g}, less than one {what}.")


def vocab_size_of(runs: pd.DataFrame | None) -> int | None:
    """Return the vocabulary of the runs, if they have one."""
    if runs is None or "vocab_size" not in runs.columns:
        return None
    sizes = pd.to_numeric(runs["vocab_size"], errors="coerce").dropna().unique()
    return int(sizes[0]) if len(sizes) == 1 and 1 <= sizes[0] < LARGEST else None


def _shapes(
    front: Frontier,
    N: float,
    compute: float,
    runs: pd.DataFrame | None,
    *,
    model: ModelConfig | None,
    vocab_size: int | None,
) -> tuple[SuggestedModel | None, SuggestedModel | None]:
    """Return a decoder of nearly N parameters that spends the compute, if N can be counted.

    If its proportions are outside those of the runs, the second is one of theirs.
    """
    family = family_of(runs)

    def suggested(found: ModelConfig | None) -> SuggestedModel | None:
        if found is None:
            return None
        size = count_parameters(found, front.params, vocab_size)
        D = (compute - 2 * size * front.served) / float(front.per_token(size))
        outside = () if family is None else tuple(family.sentences(found))
        return SuggestedModel(model=found, N=size, D=D, outside=outside)

    usual = suggested(suggest_model(N, model=model, count=front.params, vocab_size=vocab_size))
    if family is None or usual is None or not usual.outside:
        return usual, None
    kin = suggested(family.suggest(N, model=model, count=front.params, vocab_size=vocab_size))
    same = kin is not None and kin.model == usual.model
    return usual, None if same else kin


def _tenfold(
    front: Frontier,
    compute: float,
    best: Mapping[str, float],
    how: Recipe,
    critical: CriticalBatch | None,
) -> dict[str, float]:
    """Return the factors in N, D, B and S for ten times the compute, and the resulting L."""
    more = {name: float(v[0, 0]) for name, v in front.draws(10 * compute).items()}
    runs = None if front.fit is None else front.fit.runs
    then = recipe(**more, runs=runs, critical=critical)
    factors = {name: more[name] / best[name] for name in ("N", "D")}
    return factors | {"B": then.B / how.B, "S": then.S / how.S, "L": more["L"]}


# ------------------------------------------------------------------ warnings


def _epochs(D: float, unique: float | None) -> Iterator[Status]:
    if unique is not None and unique * 1.005 < D:
        yield Note(
            "repeated_data",
            f"D is {D / unique:.3g} epochs of the {unique:.3g} unique tokens; their worth is that "
            "of Muennighoff et al. 2023 (R_D* = 15.4, which their runs hardly bound from above)",
        )


def _shape_lines(shape: SuggestedModel | None, N: float) -> Iterator[Status]:
    if shape is not None and shape.outside:
        yield Note(
            "shape_untested",
            f"the shape is outside those of the runs: {'; '.join(shape.outside)}",
        )
    if shape is not None and abs(shape.N / N - 1) > 0.1:
        yield Note(
            "no_shape",
            f"no shape of the usual proportions has N = {N:.3g}; the nearest has N = {shape.N}",
        )
