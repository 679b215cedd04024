"""Laws of a learning curve: the loss at a step as a function of all learning rates until then.

Each is L0 + A S1^-alpha plus a coefficient times the drop of the loss that a decay of the learning
rate brings. S1(s) is the sum of the learning rates of steps 1 to s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.curves import size_law
from analysis.curves.rates import Rates
from analysis.curves.sums import PRECISION, Nodes, nodes
from analysis.laws.law import LawError
from scaling.errors import did_you_mean


@dataclass(frozen=True, eq=False)
class Points:
    """Steps of one or more runs, with what the laws need to know of the learning rates."""

    S1: np.ndarray
    """Sum of the learning rates until each point."""
    lr: np.ndarray
    """Learning rate at each point."""
    peak: np.ndarray
    """Largest learning rate of each point's run until then."""
    nodes: Nodes | None
    """Nodes of the sums of the multi-power law; None for laws without them."""
    pieces: Pieces | None
    """Pieces of the decays before each point, for the annealing law."""

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.S1)


class Pieces(NamedTuple):
    """Pieces of decays seen from points: one entry per pair of a point and a piece before it."""

    row: np.ndarray
    slope: np.ndarray
    """Change of the learning rate per step."""
    length: np.ndarray
    """Number of steps of the piece until the point."""
    since: np.ndarray
    """Steps from the piece's last step to the point, both counted."""


class Drop(NamedTuple):
    """The annealing term at each point for a coefficient of 1, and its derivatives."""

    value: np.ndarray
    slopes: tuple[np.ndarray, ...]
    """With respect to each parameter of the term."""


@dataclass(frozen=True, eq=False)
class CurveLaw:
    """L = L0 + A S1^-alpha + coefficient * drop(learning rates; shape parameters)."""

    name: str
    formula: str
    source: str
    coefficient: str
    """Name of the coefficient of the drop; it is positive."""
    shape: tuple[str, ...]
    """Names of the parameters of the drop."""
    drop: Callable[[Points, Sequence[float]], Drop]
    starts: tuple[tuple[float, ...], ...]
    """Values of the shape parameters that a fit starts from, with learning rates in units of the
    peak."""
    log: tuple[bool, ...] = ()
    """Which of the shape parameters are positive and searched on a log scale."""
    prior: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """{parameter: (mean, standard deviation)} of what is believed before the fit, of its logarithm
    where it is searched on a log scale."""
    unit: Callable[[Mapping[str, float], float], dict[str, float]] | None = None
    """Convert shape parameters found for learning rates in units of the peak."""
    counts_warmup: bool = False
    """Whether the warm-up's rise of the learning rate is part of the drop."""
    needs: frozenset[str] = frozenset()
    """What the drop needs of the points: 'nodes' or 'pieces'."""

    @property
    def params(self) -> tuple[str, ...]:
        """Names of all parameters."""
        return ("L0", "A", "alpha", self.coefficient, *self.shape)

    def points(self, runs: Sequence[tuple[Rates, Any]], precision: float = PRECISION) -> Points:
        """Return the points of runs, each given by its rates and its steps."""
        return _points(self, runs, precision)

    def loss(self, params: Mapping[str, float], points: Points) -> np.ndarray:
        """Return the loss at each point."""
        return self.loss_and_slopes(params, points)[0]

    def annealed(self, params: Mapping[str, float], points: Points) -> np.ndarray:
        """Return how much lower the loss is at each point than without any decay."""
        drop = self.drop(points, [params[p] for p in self.shape]).value
        without = points.peak if self.counts_warmup else 0.0
        return params[self.coefficient] * np.maximum(without - drop, 0.0)

    def loss_and_slopes(
        self, params: Mapping[str, float], points: Points
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss at each point, and its derivatives by each of `params`."""
        drop = self.drop(points, [params[p] for p in self.shape])
        power = points.S1 ** -params["alpha"]
        A, B = params["A"], params[self.coefficient]
        loss = params["L0"] + A * power + B * drop.value
        slopes = [np.ones(points.n), power, -A * power * np.log(points.S1), drop.value]
        return loss, np.stack([*slopes, *(B * each for each in drop.slopes)], axis=1)


def _points(law: CurveLaw, runs: Sequence[tuple[Rates, Any]], precision: float) -> Points:
    S1, lr, peak, sums, pieces = [], [], [], [], []
    n = 0
    for rates, at in runs:
        steps = np.asarray(at, float)
        S1.append(rates.cumulative(steps))
        lr.append(rates.at(steps))
        peak.append(_peak_until(rates, steps))
        if "nodes" in law.needs:
            found = nodes(rates, steps, precision)
            sums.append((found.row + n, found.lr, found.x, found.weight))
        if "pieces" in law.needs:
            found = _decays(rates, steps)
            pieces.append(found._replace(row=found.row + n))
        n += len(steps)
    joined = [np.concatenate(each) for each in zip(*sums, strict=True)] if sums else None
    return Points(
        np.concatenate(S1) if S1 else np.empty(0),
        np.concatenate(lr) if lr else np.empty(0),
        np.concatenate(peak) if peak else np.empty(0),
        Nodes(n, *joined) if joined is not None else None,
        Pieces(*(np.concatenate(each) for each in zip(*pieces, strict=True))) if pieces else None,
    )


def _peak_until(rates: Rates, steps: np.ndarray) -> np.ndarray:
    """Return the largest rate of steps 0 to each step."""
    highest = np.maximum.accumulate(rates.lr)
    i = np.searchsorted(rates.steps, steps, side="right") - 1
    return np.maximum(highest[i], rates.at(steps))


def _decays(rates: Rates, steps: np.ndarray) -> Pieces:
    """Return the pieces after the warm-up on which the rate changes, seen from each step."""
    start, end, _, slope = rates.pieces()
    row, piece = np.nonzero((start[None, :] < steps[:, None]) & (start[None, :] >= rates.warmup))
    stop = np.minimum(end[piece], steps[row])
    return Pieces(row, slope[piece], stop - start[piece], steps[row] - stop + 1)


# ------------------------------------------------------------------ the laws


def _multi_power(points: Points, shape: Sequence[float]) -> Drop:
    """Return the sum of (lr_k - lr_(k-1)) [1 - (1 + C lr_k^-gamma x_k)^-beta], and its slopes."""
    C, beta, gamma = shape
    at = points.nodes
    assert at is not None
    log_lr = np.log(np.maximum(at.lr, 1e-300))
    with np.errstate(over="ignore"):
        z = C * np.exp(-gamma * log_lr) * at.x
    z = np.minimum(z, 1e300)
    log1 = np.log1p(z)
    power = np.exp(-beta * log1)
    steep = at.weight * power * (beta * z / (1 + z))
    return Drop(
        at.sum(at.weight * (1 - power)),
        (at.sum(steep) / C, at.sum(at.weight * power * log1), -at.sum(steep * log_lr)),
    )


def _multi_power_unit(shape: Mapping[str, float], peak: float) -> dict[str, float]:
    C = shape["C"] * peak ** (shape["gamma"] - 1)
    return {"C": C, "beta": shape["beta"], "gamma": shape["gamma"]}


def _annealing(points: Points, shape: Sequence[float]) -> Drop:
    """Return -S2, S2 = sum over i <= s of m_i, m_i = decay m_(i-1) + lr_(i-1) - lr_i.

    The decrease of step k counts 1 + decay + ... + decay^(s - k) times. With r = 1 - decay, that
    is (1 - decay^(s - k + 1)) / r; over the steps of a piece it is a geometric sum.
    """
    (r,) = shape
    at = points.pieces
    assert at is not None
    log_decay = np.log1p(-r)
    last, all_ = np.exp(log_decay * at.since), np.exp(log_decay * at.length)
    # Sum of decay^(s - k + 1) over the piece, and its derivative by r.
    geometric = last * -np.expm1(log_decay * at.length) / r
    d_last, d_all = -at.since * last / (1 - r), -at.length * all_ / (1 - r)
    d_geometric = (d_last * (1 - all_) - last * d_all) / r - geometric / r
    value = (at.length - geometric) / r
    slope = -d_geometric / r - value / r
    n = points.n
    return Drop(
        np.bincount(at.row, at.slope * value, n), (np.bincount(at.row, at.slope * slope, n),)
    )


def _instant(points: Points, shape: Sequence[float]) -> Drop:
    return Drop(points.lr - points.peak, ())


multi_power = CurveLaw(
    name="multi_power",
    formula="L(s) = L0 + A S1^-alpha + B sum_(k=1..s) (lr_k - lr_(k-1)) "
    "[1 - (1 + C lr_k^-gamma (S1(s) - S1(k-1)))^-beta]",
    source="Luo et al. 2025 (arXiv 2503.12811)",
    coefficient="B",
    shape=("C", "beta", "gamma"),
    drop=_multi_power,
    log=(True, True, False),
    starts=tuple(
        (C, beta, gamma) for C in (1e-3, 1e-2, 0.1) for beta in (0.3, 0.8) for gamma in (0.3, 0.7)
    ),
    prior={"beta": (0.0, 0.5), "gamma": (0.2, 0.25)},
    unit=_multi_power_unit,
    counts_warmup=True,
    needs=frozenset({"nodes"}),
)

annealing = CurveLaw(
    name="annealing",
    formula="L(s) = L0 + A S1^-alpha - C S2, S2 = sum_(i=1..s) m_i, "
    "m_i = (1 - r) m_(i-1) + lr_(i-1) - lr_i after warm-up",
    source="Tissue et al. 2024 (arXiv 2408.11029), with lambda = 1 - r",
    coefficient="C",
    shape=("r",),
    drop=_annealing,
    log=(True,),
    starts=tuple((r,) for r in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
    needs=frozenset({"pieces"}),
)

multi_power_start = CurveLaw(
    name="multi_power_start",
    formula="L(s) = L0 + A S1^-alpha - B (lr_peak - lr_s)",
    source="Luo et al. 2025 (arXiv 2503.12811), the start of their fits",
    coefficient="B",
    shape=(),
    drop=_instant,
    starts=((),),
)

CURVE_LAWS: dict[str, CurveLaw] = {
    each.name: each for each in (multi_power, annealing, multi_power_start)
}
"""The laws of learning curves by name."""


def resolve(law: str | CurveLaw) -> CurveLaw:
    """Return the law of learning curves called `law`; raise LawError with the nearest name."""
    if isinstance(law, CurveLaw):
        return law
    if law in CURVE_LAWS:
        return CURVE_LAWS[law]
    known = [*CURVE_LAWS, size_law.NAME]
    raise LawError(
        f"no law of learning curves is called {law!r}.{did_you_mean(str(law), known)} "
        f"Known: {', '.join(known)}."
    )


def table() -> pd.DataFrame:
    """List the laws of learning curves: name, formula, inputs, parameters, target and source."""
    rows = [
        {
            "name": each.name,
            "formula": each.formula,
            "inputs": "learning rates of steps 1 to s",
            "parameters": ", ".join(each.params),
            "target": "L",
            "source": each.source,
        }
        for each in CURVE_LAWS.values()
    ]
    sizes = {
        "name": size_law.NAME,
        "formula": size_law.FORMULA,
        "inputs": "N, tokens per step, learning rates of steps 1 to s",
        "parameters": ", ".join(name.removeprefix("ln_") for name in size_law.UNKNOWNS),
        "target": "L",
        "source": size_law.SOURCE,
    }
    return pd.DataFrame([*rows, sizes])
