"""Frontiers: lines in log C with their bootstrap distribution, and several side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.intervals import interval
from analysis.fitting.result import FitResult
from analysis.frontiers.optimum import optimum_at, parameter_draws
from analysis.tables.conventions import meaning
from scaling.errors import ConfigError


@dataclass(frozen=True)
class Frontier:
    """The best size, data and loss at any compute, with a bootstrap distribution."""

    method: str
    params: str
    """The column that N counts: N (non-embedding), N_total, ..."""
    flops: str
    """What C counts: '6 N D', or a column such as C_kaplan."""
    optima: pd.DataFrame = field(repr=False)
    """What the lines go through: C, N, D, L, kind and, where known, N_low and N_high."""
    ranges: dict[str, tuple[float, float]] = field(repr=False)
    """Smallest and largest C, N and D of the data; of the envelope and isoFLOP minima, the C
    between which an optimum is bracketed by sizes on both sides."""
    status: tuple[str, ...]
    """What a reader should know; empty where nothing is odd."""
    lines: dict[str, np.ndarray] = field(repr=False)
    """ln N, ln D and ln L as lines in ln C - centre: (1 + resamples, 2), intercept and slope, the
    estimate first. Of the parametric method: the local slope over the data."""
    centre: float = field(repr=False)
    fit: FitResult | None = field(default=None, repr=False)
    """The fitted law (parametric only)."""
    level: float = 0.95
    per_token: Callable[[Any], Any] = field(default=lambda N: 6.0 * N, repr=False)
    """FLOPs for one token of training at N parameters."""
    bias: dict[str, float] | None = None
    """Of the isoFLOP methods, measured on a law fitted to the same runs: what the method adds to
    the exponent of N_opt, and relatively to N in the middle of the budgets. Not corrected for."""
    served: float = 0.0
    """Tokens that the model is to be run on afterwards, at 2 N FLOPs each: C then counts training
    and inference (parametric only)."""
    sets: tuple[pd.DataFrame, ...] = field(default=(), repr=False)
    """Of the isoFLOP methods: the runs of each row of `optima`, with losses at the budget's C."""

    @property
    def convention(self) -> str:
        return f"{self.params} against C = {self.flops}"

    def draws(self, C: Any) -> dict[str, np.ndarray]:
        """{'N', 'D', 'L'}: (1 + resamples, n), the estimate first.

        C is a number, (n,), or (1 + resamples, n): each resample at its own compute.
        """
        C = np.atleast_1d(np.asarray(C, float))
        if not (np.isfinite(C).all() and (C > 0).all()):
            wrong = C[~(np.isfinite(C) & (C > 0))].flat[0]
            raise ConfigError(f"C={wrong:g} must be positive and finite [FLOPs].")
        if self.fit is not None:
            return optimum_at(
                self.fit.law, parameter_draws(self.fit), C, self.per_token, self.served
            )
        x = np.log(C) - self.centre
        return {name: np.exp(line[:, :1] + line[:, 1:] * x) for name, line in self.lines.items()}

    def at(self, *, C: Any) -> pd.DataFrame:
        """N, D and L at C [FLOPs] with intervals (N_low, N_high, ...), one row a C.

        `beyond` is how many times C lies outside the data's compute: 1 inside.
        """
        C = np.atleast_1d(np.asarray(C, float))
        low, high = self.ranges["C"]
        table: dict[str, Any] = {"C": C}
        for name, values in self.draws(C).items():
            low_, high_ = quantiles(values[1:], self.level)
            table |= {name: values[0], f"{name}_low": low_, f"{name}_high": high_}
        table["beyond"] = np.maximum(1.0, np.maximum(C / high, low / C))
        return pd.DataFrame(table)

    @property
    def exponents(self) -> pd.DataFrame:
        """exponent, value, low, high, method, convention: N_opt, D_opt and L_opt as powers of C."""
        rows = []
        slopes = {f"{name}_opt": line[:, 1] for name, line in self.lines.items()}
        if self.fit is not None and "E" in self.fit.params:
            slopes["L_opt - E"] = self._above_floor()
        for name, slope in slopes.items():
            low, high = quantiles(slope[1:], self.level)
            rows.append((name, slope[0], low, high, self.method, self.convention))
        columns = ["exponent", "value", "low", "high", "method", "convention"]
        return pd.DataFrame(rows, columns=columns)

    def _above_floor(self) -> np.ndarray:
        """Slope of ln(L_opt - E) in ln C: the power law that is left above the floor."""
        assert self.fit is not None
        C = np.geomspace(*self.ranges["C"], 9)
        excess = self.draws(C)["L"] - parameter_draws(self.fit)["E"][:, None]
        return straight_line(np.log(C) - self.centre, np.log(np.maximum(excess, 1e-300)))[:, 1]

    def coefficient(self, name: str) -> float:
        """k of N_opt = k C^a (C in FLOPs); `name` is 'N', 'D' or 'L'."""
        intercept, slope = self.lines[name][0]
        return float(np.exp(intercept - slope * self.centre))

    def record(self) -> dict[str, Any]:
        """Everything as plain numbers and strings, ready for JSON."""
        return {
            "method": self.method,
            "convention": self.convention,
            "params": {"column": self.params, "counts": meaning(self.params)},
            "flops": {"column": self.flops, "counts": meaning(self.flops)},
            "bias": self.bias,
            "exponents": self.exponents.drop(columns=["method", "convention"]).to_dict("records"),
            "coefficients": {name: self.coefficient(name) for name in self.lines},
            "optima": self.optima.astype(object)
            .where(self.optima.notna(), None)
            .to_dict("records"),
            "range": {name: list(ends) for name, ends in self.ranges.items()},
            "level": self.level,
            "status": list(self.status),
        }

    def __str__(self) -> str:
        shown = [f"compute-optimal frontier, {self.method} ({self.convention})"]
        for row in self.exponents.itertuples(index=False):
            power = f"{row.exponent:<9} ~ C^{row.value:<7.3f}"
            shown.append(f"  {power} {interval(row.low, row.high, '.3f')}")
        if self.bias is not None:
            shown.append(
                f"  of which the method itself: {self.bias['exponent']:+.3f} of the exponent, "
                f"{self.bias['N']:+.1%} of N (on a law fitted to the same runs; not corrected)"
            )
        low, high = self.ranges["C"]
        shown.append(f"  from C = {low:.2g} to {high:.2g} FLOPs; {self.level:.0%} intervals")
        return "\n".join(shown + [f"  ! {line}" for line in self.status])


@dataclass(frozen=True)
class Comparison:
    """The frontier by every method that the data allow."""

    fronts: dict[str, Frontier]
    skipped: dict[str, str]
    """Method: why the data do not allow it."""

    @property
    def exponents(self) -> pd.DataFrame:
        return pd.concat([front.exponents for front in self.fronts.values()], ignore_index=True)

    def at(self, *, C: Any) -> pd.DataFrame:
        """:meth:`Frontier.at` of every method, one row a method and C."""
        rows = [front.at(C=C).assign(method=name) for name, front in self.fronts.items()]
        return pd.concat(rows, ignore_index=True)

    def record(self) -> dict[str, Any]:
        return {
            "methods": {name: front.record() for name, front in self.fronts.items()},
            "skipped": self.skipped,
        }

    def __str__(self) -> str:
        lines = [str(front) for front in self.fronts.values()]
        return "\n".join(lines + [f"no {name}: {why}" for name, why in self.skipped.items()])


def quantiles(draws: np.ndarray, level: float) -> tuple[Any, Any]:
    """(low, high) of the interval of `level` along the first axis; nan draws are left out, and
    where there are no draws both are nan."""
    known = np.isfinite(draws).any(axis=0)
    if not known.all():
        draws = np.where(known, draws, 0.0) if len(draws) else np.zeros((1, *draws.shape[1:]))
    ends = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = np.where(known, ends, np.nan)
    return low, high


def data_ranges(table: pd.DataFrame, optima: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Of C where the optimum is bracketed; of N and D in the data."""
    used = optima[optima["kind"].isin(("crossing", "minimum"))]
    tables = {"C": used, "N": table, "D": table}
    return {k: (float(t[k].min()), float(t[k].max())) for k, t in tables.items()}


def straight_line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares (intercept, slope) of each row of y (resamples, n) in x: (resamples, 2)."""
    y = np.atleast_2d(y)
    if len(x) < 2 or np.ptp(x) == 0:
        return np.full((len(y), 2), np.nan)
    mean = x.mean()
    slope = (y - y.mean(axis=1, keepdims=True)) @ (x - mean) / np.sum((x - mean) ** 2)
    return np.column_stack([y.mean(axis=1) - slope * mean, slope])


def lost_resamples(lines: np.ndarray, bootstrap: int) -> list[str]:
    lost = int(np.sum(~np.isfinite(lines[1:]).all(axis=1)))
    return [f"{lost} of {bootstrap} resamples have no frontier"] if lost else []


def curvature_notes(x: np.ndarray, y: np.ndarray) -> list[str]:
    """Warn where ln L bends in ln C: a pure power law then misleads outside the data."""
    if len(x) < 4:
        return []
    coefficients, covariance = np.polyfit(x - x.mean(), y, 2, cov=True)
    t = coefficients[0] / np.sqrt(covariance[0, 0])
    if t > 3:
        return [
            f"L_opt(C) flattens (curvature {t:.0f} standard errors): its power law is local; for "
            "losses beyond the data use the parametric method"
        ]
    return []
