"""The shapes of the decoders that were trained, and whether a suggested one is among their kind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.planning.model_shape import head_width, suggest_model, usual_aspect
from scaling.config import ModelConfig

TOLERANCE = 1.5
"""Loss hardly depends on proportions (Kaplan et al. 2020, Fig. 5), so a shape is outside the family
if it exceeds the range of the runs by more than this factor."""
WORDS = {
    "n_layer": "{:,.0f} layers",
    "d_model": "d_model = {:,.0f}",
    "aspect": "d_model / n_layer = {:,.3g}",
    "n_head": "{:,.0f} heads",
    "head": "heads {:,.3g} wide",
    "ff_ratio": "d_ff / d_model = {:,.3g}",
}
"""{proportion: how it is said}."""


@dataclass(frozen=True)
class ShapeFamily:
    """The range of each proportion of the decoders that were trained."""

    ranges: dict[str, tuple[float, float]]
    """{proportion: (smallest, largest)}: n_layer, d_model, aspect (d_model / n_layer) and, if
    known, n_head, head (width) and ff_ratio (d_ff / d_model)."""

    def outside(self, model: ModelConfig) -> dict[str, float]:
        """Return the proportions of a model that are outside the family, and their values."""
        values = _proportions_of(model)
        return {name: values[name] for name in self.ranges if self._is_outside(name, values[name])}

    def _is_outside(self, name: str, value: float) -> bool:
        low, high = self.ranges[name]
        # Runs of one depth say nothing about any other.
        tolerance = 1.0 if name == "n_layer" and low == high else TOLERANCE
        return not low / tolerance <= value * (1 + 1e-9) <= high * tolerance * (1 + 2e-9)

    def sentences(self, model: ModelConfig) -> Iterator[str]:
        """Say what is outside the family."""
        for name, value in self.outside(model).items():
            low, high = self.ranges[name]
            if name == "n_layer" and low == high:
                deeper = "deeper" if value > low else "shallower"
                yield f"all runs have {low:.0f} layer{'s'[: low != 1]}; {deeper} is untested"
            else:
                ends = f"{low:,.3g}" if low == high else f"{low:,.3g} to {high:,.3g}"
                yield f"{WORDS[name].format(value)} (runs: {ends})"

    def suggest(
        self, N: float, *, model: ModelConfig | None, count: str, vocab_size: int | None
    ) -> ModelConfig | None:
        """Return a decoder of nearly N parameters in the proportions of the family.

        Runs of one depth keep it; otherwise the usual aspect ratio is moved into the range of the
        runs. So are the width of heads and d_ff / d_model.
        """
        depth, deepest = self.ranges["n_layer"]
        layers = int(depth) if depth == deepest else None
        aspect = float(np.clip(usual_aspect(N), *self.ranges["aspect"]))
        width = math.sqrt(N / (12 * layers)) if layers else (aspect**2 * N / 12) ** (1 / 3)
        head = float(head_width(width))
        if "head" in self.ranges:
            head = float(np.clip(head, *self.ranges["head"]))
        ff_ratio = None
        if "ff_ratio" in self.ranges:
            own = 4.0 if model is None or model.d_ff is None else model.d_ff / model.d_model
            ff_ratio = float(np.clip(own, *self.ranges["ff_ratio"]))
        return suggest_model(
            N, model=model, n_layer=layers, aspect=aspect, head=max(1, round(head)),
            ff_ratio=ff_ratio, count=count, vocab_size=vocab_size,
        )  # fmt: skip


def family_of(runs: pd.DataFrame | None) -> ShapeFamily | None:
    """Return the family of the shapes of a table; None if it has no depths and widths."""
    if runs is None or not {"n_layer", "d_model"} <= set(runs.columns):
        return None
    names = [name for name in ("n_layer", "d_model", "n_head", "d_ff") if name in runs.columns]
    shapes = runs[names].apply(pd.to_numeric, errors="coerce").drop_duplicates()
    shapes = shapes[(shapes["n_layer"] >= 1) & (shapes["d_model"] >= 1)]
    if shapes.empty:
        return None
    values = shapes.assign(aspect=shapes["d_model"] / shapes["n_layer"])
    if "n_head" in values.columns:
        values = values.assign(
            head=values["d_model"] / values["n_head"].where(values["n_head"] > 0)
        )
    if "d_ff" in values.columns:
        ratio = (values["d_ff"] / values["d_model"]).where(values["d_ff"] > 0)
        values = values.assign(ff_ratio=ratio)
    ranges = {}
    for name in WORDS:
        if name in values.columns and (known := values[name].dropna()).size:
            ranges[name] = (float(known.min()), float(known.max()))
    return ShapeFamily(ranges)


def _proportions_of(model: ModelConfig) -> dict[str, float]:
    return {
        "n_layer": float(model.n_layer),
        "d_model": float(model.d_model),
        "aspect": model.d_model / model.n_layer,
        "n_head": float(model.n_head),
        "head": model.d_model / model.n_head,
        "ff_ratio": model.ff_width / model.d_model,
    }
