"""Estimates of training time on this machine, from finished runs or a few seconds of measurement.

Training takes  t = a / B + b n_layer / B + c F  seconds per token: there is a fixed cost per step,
per layer of a step, and per FLOP (F: matrix-product FLOPs per token, 'matmul' in scaling.count).
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaling import size
from scaling.config import RunConfig
from scaling.training.pack_key import pack_key
from sweeps.measure import Machine, Packs
from sweeps.runner.speed import CommandSpeed

Sample = tuple[float, float, float, float]
"""A measurement: (B, n_layer, F, seconds per token)."""

_TYPICAL = (8e-4, 8e-4, 4e-11)
"""a, b and c of one laptop core, used if nothing was measured."""

_COMPILED_GAIN = 0.05
"""Compiled steps are used if they are shorter by this fraction."""

_MAX_SAMPLES = 2000
"""Number of finished runs from which the speed is estimated; three coefficients need no more."""


@dataclass(frozen=True)
class Speed:
    """A predictor of one worker's time from sizes."""

    step: float
    """a [s]."""
    layer: float
    """b [s]."""
    flop: float
    """c [s]."""
    samples: int = 0
    """Number of measurements behind the prediction; with 0 it is a guess."""

    def step_seconds(self, run: RunConfig) -> float:
        """Return the seconds of one training step."""
        F = size.flops_per_token_of(run, "matmul")
        return self.step + self.layer * run.model.n_layer + run.batch_tokens * self.flop * F

    def test(self, run: RunConfig) -> float:
        """Return the seconds of one evaluation, which consists of forward passes only."""
        return max(1.0, run.eval.test_tokens / run.batch_tokens) * self.step_seconds(run) / 3

    def seconds(self, run: RunConfig) -> float:
        """Return the expected seconds of a run, evaluations included."""
        tests = min(run.eval.points, run.S)
        return run.S * self.step_seconds(run) + tests * self.test(run)


@dataclass(frozen=True)
class Costs:
    """Time that one worker takes for runs, alone and in packs."""

    speed: Speed
    packs: Mapping[Hashable, Mapping[int, float]] = field(default_factory=dict)
    """{pack key: {K: seconds per step of K runs}} of the pack keys that were measured."""
    compiled: frozenset[Hashable] = frozenset()
    """Pack keys to train compiled; `packs` has their compiled times."""
    other: Mapping[Hashable, float] = field(default_factory=dict)
    """{pack key: time per step in the other precision over that in its own, both uncompiled}, where
    measured; nan if the other precision cannot be used."""
    commands: CommandSpeed | None = None
    """Time of the runs of a command, which `speed` says nothing about; None for our trainer."""

    @property
    def samples(self) -> int:
        """Number of measurements behind the times; with 0 they are a guess."""
        return self.speed.samples if self.commands is None else self.commands.samples

    def sizes(self, run: RunConfig) -> list[int]:
        """Return the pack sizes of known cost, smallest first; only 1 if nothing was measured."""
        return sorted(self.packs.get(pack_key(run), ())) or [1]

    def step(self, run: RunConfig, K: float) -> float:
        """Return the seconds of one step of K runs, where K may be an average; interpolates
        linearly."""
        known = self.packs.get(pack_key(run))
        if not known:
            return self.speed.step_seconds(run)
        sizes = sorted(known)
        above = next((k for k in sizes if k >= K), sizes[-1])
        below = max((k for k in sizes if k < above), default=above)
        if below == above:
            return known[above]
        return known[below] + (known[above] - known[below]) * (K - below) / (above - below)

    def test(self, run: RunConfig) -> float:
        """Return the seconds of one evaluation of a run."""
        return self.speed.test(run)


def fit_speed(samples: Iterable[Sample]) -> Speed:
    """Fit the coefficients to samples by relative least squares, none of them negative."""
    samples = [s for s in samples if all(x > 0 for x in s)]
    if not samples:
        return Speed(*_TYPICAL)
    import numpy as np
    from scipy.optimize import nnls

    B, layers, F, seconds = np.array(samples, float).T
    features = np.stack([1 / B, layers / B, F], axis=1)
    scale = float(np.median(seconds / (features @ _TYPICAL)))
    # A weak prior on the typical ratio of the three coefficients stabilises a fit to few samples.
    prior = 0.1 * np.eye(3)
    design = np.concatenate([features * _TYPICAL * scale / seconds[:, None], prior])
    target = np.concatenate([np.ones(len(seconds)), 0.1 * np.ones(3)])
    price = nnls(design, target)[0] * _TYPICAL * scale
    return Speed(*map(float, price), samples=len(samples))


def samples_of(rows: Iterable[Mapping[str, Any]], on: Machine | None = None) -> list[Sample]:
    """Return measurements from the rows of a results table, for runs that trained alone.

    With `on`, only rows from the same kind and number of devices count.
    """
    samples = []
    for row in rows:
        if on is not None and not on.like(row.get("device") or ""):
            continue
        values = [row.get(key) for key in ("B", "n_layer", "C_matmul", "D", "tokens_per_second")]
        if row.get("status") == "ok" and all(values) and row.get("pack") in (None, 1):
            B, layers, C, D, rate = (float(v) for v in values if v)
            samples.append((B, layers, C / D, 1 / rate))
    return samples


def costs_of(on: Machine, runs: Collection[RunConfig], rows: Iterable[Mapping[str, Any]]) -> Costs:
    """Return the known costs of `runs`, from measurements and from finished runs.

    With `on.compile`, the runs of a pack key are compiled if this sweep or an earlier one measured
    that to be faster. The choice does not depend on how many of them are left, so that a sweep that
    was stopped resumes as it began.
    """
    if not runs:
        return Costs(fit_speed([]))
    runs = {pack_key(run): run for run in runs}.values()
    packs = on.known(runs)
    known = list(rows)
    some = known[:: max(1, len(known) // _MAX_SAMPLES)]
    price = fit_speed([*samples_of_packs(packs, runs), *samples_of(some, on)])
    fast: Packs = {}
    for key, compiled in (on.known(runs, compiled=True) if on.compile else {}).items():
        plain = packs.get(key, {})
        ratios = [compiled[K] / plain[K] for K in compiled.keys() & plain.keys()]
        if ratios and statistics.fmean(ratios) < 1 - _COMPILED_GAIN:
            fast[key] = compiled
    return Costs(price, packs | fast, frozenset(fast), on.compared(runs))


def samples_of_packs(packs: Packs, runs: Iterable[RunConfig]) -> list[Sample]:
    """Return the measurements of packs of one run as samples."""
    return [
        (
            run.batch_tokens,
            run.model.n_layer,
            size.flops_per_token_of(run, "matmul"),
            packs[key][1] / run.batch_tokens,
        )
        for key, run in {pack_key(run): run for run in runs}.items()
        if key in packs
    ]


def typical(runs: Iterable[RunConfig]) -> list[tuple[RunConfig, int]]:
    """Return (run, 1) for the cheapest, the median and the most expensive pack key.

    Pack keys are ordered by FLOPs per token. The runs are to be measured as packs of one.
    """
    ordered = sorted(
        {pack_key(run): run for run in runs}.values(),
        key=lambda run: size.flops_per_token_of(run, "matmul"),
    )
    picks = {0, len(ordered) // 2, len(ordered) - 1} if ordered else ()
    return [(ordered[i], 1) for i in sorted(picks)]
