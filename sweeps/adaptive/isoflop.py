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
from sweeps.adaptive.bracket import Minimum, bracket_minimum
from sweeps.adaptive.families import without
from sweeps.adaptive.growth import Growth, loss_of
from sweeps.adaptive.learning_rate import RateSearch
from sweeps.adaptive.sizes import shape_between, shape_beyond, with_flops
from sweeps.result import Row


@dataclass(frozen=True)
class IsoFlop:
    """[until.isoflop]"""

    within: float = 1.5
    """The best size is known to this factor in N: both neighbours lie within it, or there is no
    shape between."""


def search_sizes(
    runs: Mapping[str, RunConfig],
    budgets: Mapping[str, float],
    asked: IsoFlop,
    rows: Mapping[str, Row],
    growth: Growth,
    rates: RateSearch | None,
) -> None:
    sets: dict[tuple[Any, ...], dict[ModelConfig, RunConfig]] = {}
    for run_id, C in budgets.items():
        run = runs[run_id]
        searched = ("optim.lr",) if rates else ()
        fixed = (C, *without(run, "model.", "tokens", *searched))
        sets.setdefault(fixed, {})[run.model] = run
    for (C, *_), by_model in sets.items():
        first = next(iter(by_model.values()))

        @functools.cache
        def at(model: ModelConfig, C: float = C, by_model=by_model, first=first) -> RunConfig:
            return by_model.get(model) or with_flops(dataclasses.replace(first, model=model), C)

        def loss(model: ModelConfig, at=at) -> float | None:
            run = rates.best(at(model)) if rates else at(model)
            return loss_of(rows.get(run.run_id)) if run else None

        def between(
            left: ModelConfig, best: ModelConfig, right: ModelConfig, V: int = first.data.vocab_size
        ) -> tuple[bool, ModelConfig] | None:
            N = [size.parameters(m, V).N for m in (left, best, right)]
            gaps = math.log(N[1] / N[0]), math.log(N[2] / N[1])
            for to_left in sorted((True, False), key=lambda side: -gaps[0 if side else 1]):
                gap, pair = (gaps[0], (left, best)) if to_left else (gaps[1], (best, right))
                if gap > math.log(asked.within) and (new := shape_between(*pair)):
                    return to_left, new
            return None

        models = sorted(by_model, key=lambda m: size.parameters(m, first.data.vocab_size).N)
        if len(models) < 2:
            continue
        found = Minimum(None)
        models, found = bracket_minimum(
            models,
            lambda models, loss=loss: [loss(model) for model in models],
            beyond=shape_beyond,
            between=between,
        )
        if rates is None:
            growth.add(map(at, models))
        if found.index is not None:
            N = size.parameters(models[found.index], first.data.vocab_size).N
            where = "" if found.inside else " at the end of what was tried"
            growth.said.append(f"best size N={N}{where}: C={C:.3g}")
