"""A frontier with its bootstrap distribution, and a comparison of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis import notebook
from analysis.fitting.draws import containing, open_interval
from analysis.fitting.result import FitResult
from analysis.fitting.status import Note, Status, worth_telling
from analysis.frontiers.optimum import optima_of, parameter_draws
from analysis.in_words import interval
from analysis.tables.conventions import meaning
from scaling.errors import ConfigError
from scaling.jsonable import finite


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """The best size, data and loss at any compute, with a bootstrap distribution."""

    method: str
    params: str
    """The column that N counts: N (non-embedding), N_total, ..."""
    flops: str
    """What C counts: '6 N D', or a column such as C_kaplan."""
    optima: pd.DataFrame = field(repr=False)
    """Points that the lines pass through: C, N, D, L, kind and, if known, N_low and N_high."""
    ranges: dict[str, tuple[float, float]] = field(repr=False)
    """Smallest and largest C, N and D of the data. For the envelope and isoFLOP minima, C spans
    the optima that are bracketed by sizes on both sides."""
    status: tuple[Status, ...]
    """Warnings and notes with codes; empty if there are none."""
    lines: dict[str, np.ndarray] = field(repr=False)
    """ln N, ln D and ln L as lines in ln C - centre: (1 + resamples, 2), intercept and slope, the
    estimate first. The parametric method has the local slope over the data."""
    centre: float = field(repr=False)
    fit: FitResult | None = field(default=None, repr=False)
    """The fitted law (parametric only)."""
    level: float = 0.95
    per_token: Callable[[Any], Any] = field(default=lambda N: 6.0 * N, repr=False)
    """Training FLOPs per token at N parameters."""
    bias: dict[str, float] | None = None
    """What an isoFLOP method adds to the exponent of N_opt and, relatively, to N in the middle of
    the budgets, with the ends of their intervals (exponent_low, ...)."""
    corrected: bool = False
    """Whether the bias is subtracted."""
    unbiased: dict[str, np.ndarray] | None = field(default=None, repr=False)
    """The lines with the bias subtracted, if `lines` are not corrected although it is known.
    Intervals then hold those of both."""
    bias_laws: dict[str, float] = field(default_factory=dict, repr=False)
    """The laws that the bias is measured on, with the weight of each; the first gives its value."""
    served: float = 0.0
    """Tokens of inference at 2 N FLOPs each, which C then counts too (parametric only)."""
    sets: tuple[pd.DataFrame, ...] = field(default=(), repr=False)
    """Runs of each row of `optima`, with losses at the budget's C (isoFLOP methods only)."""
    use: str = ""
    """Which frontier a plan of the same runs uses, in words."""

    @property
    def title(self) -> str:
        """The method, with its law if it has one."""
        return self.method if self.fit is None else f"{self.method} ({self.fit.name})"

    @property
    def convention(self) -> str:
        return f"{self.params} against C = {self.flops}"

    def draws(self, C: Any) -> dict[str, np.ndarray]:
        """Return draws of N, D and L at C: (1 + resamples, n) each, the estimate first.

        C is a number, (n,), or (1 + resamples, n) with a compute for each resample.
        """
        C = np.atleast_1d(np.asarray(C, float))
        if not (np.isfinite(C).all() and (C > 0).all()):
            wrong = C[~(np.isfinite(C) & (C > 0))].flat[0]
            raise ConfigError(f"C={wrong:g} must be positive and finite [FLOPs].")
        if self.fit is not None:
            return optima_of(self.fit, C, self.per_token, self.served)
        return self._on_lines(self.lines, C)

    def _on_lines(self, lines: dict[str, np.ndarray], C: np.ndarray) -> dict[str, np.ndarray]:
        x = np.log(C) - self.centre
        with np.errstate(over="ignore"):  # a resample's line may be steep
            return {name: np.exp(line[:, :1] + line[:, 1:] * x) for name, line in lines.items()}

    def at(self, *, C: Any) -> pd.DataFrame:
        """Return N, D and L at C [FLOPs] with intervals (N_low, N_high, ...), one row per C.

        `beyond` is the factor by which C lies outside the data's compute: 1 inside.
        """
        C = np.atleast_1d(np.asarray(C, float))
        low, high = self.ranges["C"]
        table: dict[str, Any] = {"C": C}
        others = {} if self.unbiased is None else self._on_lines(self.unbiased, C)
        for name, values in self.draws(C).items():
            least, most = interval_of(values, self.level)
            if name in others:
                least, most = hull((least, most), interval_of(others[name], self.level))
            least = np.maximum(least, 0.0)
            table |= {name: values[0], f"{name}_low": least, f"{name}_high": most}
        table["beyond"] = np.maximum(1.0, np.maximum(C / high, low / C))
        return pd.DataFrame(table)

    @property
    def exponents(self) -> pd.DataFrame:
        """Return N_opt, D_opt and L_opt as powers of C.

        Columns: exponent, value, low, high, method, convention.
        """
        rows = []
        slopes = {f"{name}_opt": line[:, 1] for name, line in self.lines.items()}
        if self.fit is not None and "E" in self.fit.params:
            slopes["L_opt - E"] = self._above_floor()
        unbiased = {f"{k}_opt": v[:, 1] for k, v in (self.unbiased or {}).items()}
        for name, slope in slopes.items():
            low, high = exponent_interval(slope, self.level)
            if name in unbiased:
                low, high = hull((low, high), exponent_interval(unbiased[name], self.level))
            rows.append((name, slope[0], low, high, self.method, self.convention))
        columns = ["exponent", "value", "low", "high", "method", "convention"]
        return pd.DataFrame(rows, columns=columns)

    def _above_floor(self) -> np.ndarray:
        """Return the slope of ln(L_opt - E) in ln C, the power law above the floor."""
        assert self.fit is not None
        C = np.geomspace(*self.ranges["C"], 9)
        excess = self.draws(C)["L"] - parameter_draws(self.fit)["E"][:, None]
        return straight_line(np.log(C) - self.centre, np.log(np.maximum(excess, 1e-300)))[:, 1]

    def coefficient(self, name: str) -> float:
        """Return k of N_opt = k C^a (C in FLOPs); `name` is 'N', 'D' or 'L'."""
        intercept, slope = self.lines[name][0]
        with np.errstate(over="ignore"):
            return float(np.exp(intercept - slope * self.centre))

    def record(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, ready for JSON."""
        rows = self.exponents.drop(columns=["method", "convention"])
        return {
            "method": self.method,
            "convention": self.convention,
            "params": {"column": self.params, "counts": meaning(self.params)},
            "flops": {"column": self.flops, "counts": meaning(self.flops)},
            "bias": self.bias,
            "corrected": self.corrected,
            "bias_laws": self.bias_laws,
            "exponents": finite([self._exponent_record(row) for row in rows.to_dict("records")]),
            "coefficients": finite({name: self.coefficient(name) for name in self.lines}),
            "optima": finite(self.optima.to_dict("records")),
            "range": {name: list(ends) for name, ends in self.ranges.items()},
            "level": self.level,
            "status": list(self.status),
            "use": self.use,
            "law": None if self.fit is None else self.fit.name,
        }

    @staticmethod
    def _exponent_record(row: dict[Any, Any]) -> dict[str, Any]:
        """Return an exponent for JSON, with the reason why its ends are missing if they are."""
        if np.isfinite([row["low"], row["high"]]).all():
            return row
        return row | {"reason": interval(row["low"], row["high"], "").strip("[]")}

    def _bias_in_words(self, bias: dict[str, float]) -> str:
        """Return the bias with its interval, and what was done about it."""
        if self.corrected:
            done = "corrected for; the intervals hold its uncertainty"
        elif self.unbiased is not None:
            done = "not corrected; the intervals hold it (--correct-bias subtracts it)"
        else:
            done = "not corrected"
        slope = f"{bias['exponent']:+.3f}"
        ends = [bias.get(f"exponent_{end}", np.nan) for end in ("low", "high")]
        if np.isfinite(ends).all():
            slope += f" [{ends[0]:+.3f}, {ends[1]:+.3f}]"
        law = next(iter(self.bias_laws), "a law")
        return (
            f"bias of the method: {slope} in the exponent, {bias['N']:+.1%} in N (measured on "
            f"{law}, fitted to the same runs; {done})"
        )

    def _repr_html_(self) -> str:
        return notebook.frontier(self)

    def __str__(self) -> str:
        shown = [f"compute-optimal frontier, {self.title}: {self.convention}"]
        for row in self.exponents.itertuples(index=False):
            power = f"{row.exponent:<9} ~ C^{row.value:<7.3f}"
            shown.append(f"  {power} {interval(row.low, row.high, '.3f')}")
        if self.bias is not None:
            shown.append(f"  {self._bias_in_words(self.bias)}")
        low, high = self.ranges["C"]
        shown.append(f"  from C = {low:.2g} to {high:.2g} FLOPs; {self.level:.0%} intervals")
        shown += [f"  {self.use}"] if self.use else []
        return "\n".join(shown + [f"  ! {line}" for line in worth_telling(self.status)])


@dataclass(frozen=True)
class Comparison:
    """The frontiers by every method that the data allow."""

    fronts: dict[str, Frontier]
    skipped: dict[str, str]
    """Why the data do not allow a method, by its name."""

    @property
    def exponents(self) -> pd.DataFrame:
        return pd.concat([front.exponents for front in self.fronts.values()], ignore_index=True)

    def at(self, *, C: Any) -> pd.DataFrame:
        """Return :meth:`Frontier.at` for every method, one row per method and C."""
        rows = [front.at(C=C).assign(method=name) for name, front in self.fronts.items()]
        return pd.concat(rows, ignore_index=True)

    def record(self) -> dict[str, Any]:
        return {
            "methods": {name: front.record() for name, front in self.fronts.items()},
            "skipped": self.skipped,
        }

    def _repr_html_(self) -> str:
        return notebook.comparison(self)

    def __str__(self) -> str:
        lines = [str(front) for front in self.fronts.values()]
        return "\n".join(lines + [f"no {name}: {why}" for name, why in self.skipped.items()])


def interval_of(draws: np.ndarray, level: float) -> tuple[Any, Any]:
    """Return (low, high) of the interval of `level` along the first axis, the estimate first.

    Draws without a frontier (nan) may lie anywhere, and the interval holds the estimate; see
    :func:`analysis.fitting.draws.open_interval` and :func:`analysis.fitting.draws.containing`.
    Without any draws, both ends are nan.
    """
    return containing(draws[0], *open_interval(draws[1:], level))


def hull(one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the least and the greatest end of two intervals; nan, which is unknown, is ignored."""
    return np.fmin(one[0], other[0]), np.fmax(one[1], other[1])


def exponent_interval(slopes: np.ndarray, level: float) -> tuple[float, float]:
    """Return (low, high) of an exponent of N_opt, D_opt or L_opt, the estimate first.

    As D = C / (6 N), the exponents of N_opt and D_opt lie between 0 and 1, so an interval at least
    that wide says nothing: it has no ends.
    """
    low, high = (float(end) for end in interval_of(slopes, level))
    return (-np.inf, np.inf) if high - low >= 1 else (low, high)


def exponent_notes(lines: dict[str, np.ndarray], level: float, data: str) -> Iterator[Note]:
    """Say which exponents the data do not identify, and why; `data` counts runs and sizes."""
    slopes = {f"{name}_opt": line[:, 1] for name, line in lines.items()}
    unknown = [
        name for name, slope in slopes.items() if np.isinf(exponent_interval(slope, level)).any()
    ]
    if unknown:
        lost = float(np.mean(~np.isfinite(lines["N"][1:, 1])))
        why = f"{level:.0%} intervals are wider than every possible value, 0 to 1"
        if lost > (1 - level) / 2:
            why = f"{lost:.0%} of the resamples have no frontier"
        yield Note(
            "exponent_not_identified",
            f"{data} are too few, or too noisy, for an interval of the exponent of "
            f"{', '.join(unknown)}: {why}",
        )
    impossible = [
        f"{name} ~ C^{slopes[name][0]:.2f}"
        for name in ("N_opt", "D_opt")
        if not -0.005 < slopes[name][0] < 1.005
    ]
    if impossible:
        yield Note(
            "impossible_exponent",
            f"{' and '.join(impossible)}: an exponent outside 0 to 1 means that more compute is "
            "best spent on fewer parameters or fewer tokens; do not extrapolate it",
        )


def data_ranges(table: pd.DataFrame, optima: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return the range of C with a bracketed optimum, and of N and D in the data."""
    used = optima[optima["kind"].isin(("crossing", "minimum"))]
    tables = {"C": used, "N": table, "D": table}
    return {k: (float(t[k].min()), float(t[k].max())) for k, t in tables.items()}


def straight_line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fit each row of y (resamples, n) by least squares in x: (intercept, slope) per row."""
    y = np.atleast_2d(y)
    if len(x) < 2 or np.ptp(x) == 0:
        return np.full((len(y), 2), np.nan)
    mean = x.mean()
    slope = (y - y.mean(axis=1, keepdims=True)) @ (x - mean) / np.sum((x - mean) ** 2)
    return np.column_stack([y.mean(axis=1) - slope * mean, slope])


def lost_resamples(lines: np.ndarray, bootstrap: int) -> list[Note]:
    """Warn about resamples that have no line."""
    lost = int(np.sum(~np.isfinite(lines[1:]).all(axis=1)))
    text = f"{lost} of {bootstrap} resamples have no frontier"
    return [Note("resamples_lost", text)] if lost else []


def curvature_notes(x: np.ndarray, y: np.ndarray) -> list[Note]:
    """Warn if ln L bends in ln C, where a pure power law misleads outside the data."""
    if len(x) < 4:
        return []
    coefficients, covariance = np.polyfit(x - x.mean(), y, 2, cov=True)
    t = coefficients[0] / np.sqrt(covariance[0, 0])
    if t > 3:
        text = (
            f"L_opt(C) flattens (curvature {t:.0f} standard errors): its power law is local; for "
            "losses beyond the data use the parametric method"
        )
        return [Note("loss_flattens", text)]
    return []
