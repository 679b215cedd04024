"""The search for the best model size at each budget of [isoflop]."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling import size
from scaling.config import ModelConfig, RunConfig
from sweeps.adaptive.bracket import bracket_minimum
from sweeps.adaptive.families import without
from sweeps.adaptive.growth import Growth, loss_of
from sweeps.adaptive.learning_rate import RateSearch
from sweeps.adaptive.sizes import model_between, model_beyond, with_flops
from sweeps.result import Row


@dataclass(frozen=True, kw_only=True)
class IsoFlop:
    """The table [until.isoflop]."""

    within: float = 1.5
    """The best size is found to within this factor in N: both neighbours are that close, or there
    is no architecture between."""


def search_sizes(
    runs: Mapping[str, RunConfig],
    budgets: Mapping[str, float],
    options: IsoFlop,
    rows: Mapping[str, Row],
    growth: Growth,
    rates: RateSearch | None,
) -> None:
    """Add the runs that bracket the best size of each budget to `growth`.

    `budgets` are the FLOPs of the runs, {run_id: C}. With `rates`, each size is judged by its run
    at the best learning rate.
    """
    sets: dict[tuple[Any, ...], dict[ModelConfig, RunConfig]] = {}
    for run_id, C in budgets.items():
        run = runs[run_id]
        searched = ("optim.lr",) if rates else ()
        fixed = (C, *without(run, "model.", "tokens", *searched))
        sets.setdefault(fixed, {})[run.model] = run
    for (C, *_), by_model in sets.items():
        if len(by_model) > 1:
            _search_budget(C, by_model, options, rows, growth, rates)


def _search_budget(
    C: float,
    by_model: Mapping[ModelConfig, RunConfig],
    options: IsoFlop,
    rows: Mapping[str, Row],
    growth: Growth,
    rates: RateSearch | None,
) -> None:
    """Bracket the best size of one budget; `by_model` holds the spec's runs of it."""
    first = next(iter(by_model.values()))

    def N_of(model: ModelConfig) -> int:
        return size.parameters(model, first.data.vocab_size).N

    @functools.cache
    def run_of(model: ModelConfig) -> RunConfig:
        return by_model.get(model) or with_flops(dataclasses.replace(first, model=model), C)

    def loss(model: ModelConfig) -> float | None:
        run = rates.best(run_of(model)) if rates else run_of(model)
        return loss_of(rows.get(run.run_id)) if run else None

    def between(
        left: ModelConfig, best: ModelConfig, right: ModelConfig
    ) -> tuple[bool, ModelConfig] | None:
        N = [N_of(model) for model in (left, best, right)]
        gaps = math.log(N[1] / N[0]), math.log(N[2] / N[1])
        for to_left in sorted((True, False), key=lambda side: -gaps[0 if side else 1]):
            gap, pair = (gaps[0], (left, best)) if to_left else (gaps[1], (best, right))
            if gap > math.log(options.within) and (new := model_between(*pair)):
                return to_left, new
        return None

    models, found = bracket_minimum(
        sorted(by_model, key=N_of),
        lambda models: [loss(model) for model in models],
        beyond=model_beyond,
        between=between,
    )
    if rates is None:
        growth.add(map(run_of, models))
    if found.index is not None:
        where = "" if found.inside else " at the end of what was tried"
        growth.notes.append(f"best size N={N_of(models[found.index])}{where}: C={C:.3g}")
