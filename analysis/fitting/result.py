"""The result of a fit."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis.fitting.checks import FitError, check_level
from analysis.fitting.intervals import (
    Profile,
    covariance,
    moves,
    null_directions,
    profile,
    root,
)
from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem
from analysis.fitting.status import CONVERGED, Status
from analysis.laws import Law

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Estimate(NamedTuple):
    """A number with its standard error and interval."""

    value: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class FitResult:
    """One law fitted to one table. Made by :func:`fit`."""

    law: Law
    params: dict[str, float]
    """Every parameter of the law, those held fixed included."""
    stderr: dict[str, float]
    """Standard error of each: the standard deviation of its draws (half their central 68 % where a
    few lie far out). 0 for a parameter held fixed, inf for one that the data leave open, nan where
    nothing is known of it."""
    samples: pd.DataFrame = field(repr=False)
    """Draws from the sampling distribution: one row a draw, one column a parameter."""
    runs: pd.DataFrame = field(repr=False)
    """The rows that were fitted."""
    objective: float
    """The objective at its minimum, summed or averaged over rows as `loss` says."""
    loss: str
    """The objective in words, such as 'Huber(delta=0.001) of log L, sum'."""
    status: tuple[Status, ...]
    """'converged' or 'not converged', then everything a reader should be warned of."""
    certificate: dict[str, Any] = field(repr=False)
    """Evidence that the minimum is the global one, and what the data leave open."""
    intervals: str = "bootstrap"
    """Where they come from: one of bootstrap.METHODS, or 'none' where the data give none."""
    timings: dict[str, float] = field(default_factory=dict, repr=False)
    """Seconds spent, by stage."""
    problem: Problem | None = field(default=None, repr=False)
    minimum: Minimum | None = field(default=None, repr=False)
    objective_kind: Literal["huber", "ls", "lad"] = "huber"
    """What was minimised: Huber's function, half the squares or the absolute values."""

    @property
    def n(self) -> int:
        """Rows fitted."""
        return len(self.runs)

    @property
    def ok(self) -> bool:
        """Converged, and nothing to be warned of."""
        return self.status == (CONVERGED,)

    @property
    def warnings(self) -> tuple[Status, ...]:
        """Everything in `status` that a reader should be warned of."""
        return tuple(line for line in self.status if line != CONVERGED)

    @property
    def fitted(self) -> pd.Series:
        """The law at each row of `runs`."""
        y = self.predict(**{name: self.runs[name].to_numpy(float) for name in self.law.inputs})
        return pd.Series(y, self.runs.index, name=self.law.target)

    @property
    def residuals(self) -> pd.Series:
        """(measured - fitted) / fitted of each row, indexed like `runs`."""
        return (self.runs[self.law.target] / self.fitted - 1).rename("residual")

    @property
    def log_residuals(self) -> np.ndarray:
        """ln(measured / fitted) of each row."""
        return np.log((self.runs[self.law.target] / self.fitted).to_numpy(float))

    def predict(self, **columns: Any) -> np.ndarray:
        """The law at `columns` (numbers or arrays that broadcast), in the unit of its target.

        Raises LawError for a missing or unknown column.
        """
        return self.law.predict(self.params, **columns)

    def predict_interval(
        self, level: float = 0.95, *, noise: bool = False, **columns: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of the law at `columns`, each of the columns' common shape.

        With `noise` the interval is that of one new run there: the residuals of this fit are
        added. Neither knows of a law that is wrong: see analysis.validation.
        """
        check_level(level)
        columns = {name: np.asarray(x, float) for name, x in columns.items()}
        shape = np.broadcast_shapes(*(x.shape for x in columns.values()))
        flat = {name: np.broadcast_to(x, shape).reshape(-1, 1) for name, x in columns.items()}
        if self.intervals == "none":
            return np.full(shape, np.nan), np.full(shape, np.nan)
        if self.intervals == "delta" and self._free():
            low, high = self._linearised_law(level, noise, flat)
            return low.reshape(shape), high.reshape(shape)
        draws = {p: self._draws(p) for p in self.law.params}
        with np.errstate(all="ignore"):  # a draw may lie far out
            y = self.law.predict(draws, **flat)
        if noise:
            r = self._residuals_on_scale() * np.sqrt(self.n / max(self.n - self._free(), 1))
            r = np.random.default_rng(0).choice(r, y.shape)
            y = y * np.exp(r) if self._on_log() else y + r
        low, high = _quantiles(y, level)
        return low.reshape(shape), high.reshape(shape)

    def interval(self, level: float = 0.95, *, profile: bool = False) -> pd.DataFrame:
        """Each parameter's value, stderr, low and high, one row a parameter.

        From the samples' quantiles; linearised where there are none, or where the samples are
        draws of the linearised fit; with `profile` from the profile likelihood. Unbounded for a
        parameter that the data leave open.
        """
        check_level(level)
        rows = {}
        for p, value in self.params.items():
            estimate = self._estimate(value, self._draws(p), level)
            free = self.problem is not None and p in self.problem.free
            if self.intervals == "none" and free:
                estimate = estimate._replace(low=np.nan, high=np.nan)
            elif p in self._open():
                low = 0.0 if self.law.ranges[p].positive else -np.inf
                estimate = estimate._replace(low=low, high=np.inf)
            elif free and (self.intervals == "delta" or not len(self.samples)):
                low, high = self._linearised(p, level)
                estimate = estimate._replace(low=low, high=high)
            if profile and free:
                found = self.profile(p, level)
                estimate = estimate._replace(low=found.low, high=found.high)
            rows[p] = estimate._replace(stderr=self.stderr[p])
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(Estimate._fields))

    def profile(self, name: str, level: float = 0.95) -> Profile:
        """Profile likelihood of one fitted parameter: the curve and its interval."""
        if self.problem is None or self.minimum is None:
            raise FitError("this result carries no data to profile: fit it again.")
        if name not in self.problem.free:
            raise FitError(
                f"{name!r} is not a fitted parameter of {self.law.name}; those are "
                f"{', '.join(self.problem.free)}."
            )
        if self.intervals == "none":
            raise FitError(
                f"no profile of {name}: {self._groups()} runs cannot tell how {len(self._names())} "
                "parameters vary. Add runs, or fix parameters."
            )
        return profile(self.problem, self.minimum, name, level)

    def derived(
        self, what: str | Callable[[Mapping[str, Any]], Any], level: float = 0.95
    ) -> Estimate:
        """A quantity computed from the parameters, with its interval.

        `what` names one of the law's derived quantities, is an expression ("beta / (alpha +
        beta)"), or a function of a mapping from parameter names to values (numbers or arrays).
        Raises FitError for an expression that cannot be evaluated.
        """
        check_level(level)
        function = what if callable(what) else self._expression(what)
        value = float(np.ravel(function(self.params))[0])
        linear = self._slope(function)
        if linear is not None:
            gradient, null, cov = linear
            if self.intervals == "none":
                moving = bool(np.any(gradient))
                return Estimate(value, *((np.nan,) * 3 if moving else (0.0, value, value)))
            if moves(null, gradient):
                return Estimate(value, np.inf, -np.inf, np.inf)
            if not len(self.samples):
                stderr = float(np.linalg.norm(gradient @ root(cov)))
                half = self._quantile(level) * stderr
                return Estimate(value, stderr, value - half, value + half)
        with np.errstate(all="ignore"):  # a draw may lie far out
            draws = function({p: self._draws(p) for p in self.params})
        return self._estimate(value, np.asarray(draws, float), level)

    def _expression(self, text: str) -> Callable[[Mapping[str, Any]], Any]:
        """A function of the parameters that evaluates a derived quantity's name or expression."""
        expression = self.law.derived.get(text, text)

        def evaluate(params: Mapping[str, Any]) -> Any:
            try:
                table = pd.DataFrame({p: np.atleast_1d(x) for p, x in params.items()})
                return np.asarray(table.eval(expression), float)
            except Exception as error:
                known = ", ".join([*self.law.derived, *self.params])
                raise FitError(
                    f"derived({text!r}): {error}. Use an expression in {known}, or a function."
                ) from error

        return evaluate

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """Parameters and derived quantities with their intervals, one row each."""
        rows = self.interval(level)
        for name in self.law.derived:
            rows.loc[name] = list(self.derived(name, level))
        return rows

    def record(self, level: float = 0.95) -> dict[str, Any]:
        """Everything as plain numbers and strings, ready for JSON (not finite becomes None)."""
        return plain(
            {
                "law": self.law.name,
                "formula": self.law.formula,
                "n": self.n,
                "left_out": self.certificate.get("left_out", {}),
                "loss": self.loss,
                "objective": self.objective,
                "level": level,
                "intervals": self.intervals,
                "params": self.interval(level).to_dict("index"),
                "derived": {d: self.derived(d, level)._asdict() for d in self.law.derived},
                "status": list(self.status),
                "certificate": self.certificate,
                "timings": self.timings,
            }
        )

    def __str__(self) -> str:
        return self.text()

    def text(self, level: float = 0.95) -> str:
        """The summary with what belongs beside it: data, objective, residuals, status."""
        rows = self.summary(level).map(lambda x: "-" if x != x else f"{x:.5g}")
        rows.columns = ["value", "stderr", f"{100 * level:g} % low", "high"]
        lines = [f"{self.law.name}: {self.law.formula}", f"  {self._data()}"]
        lines += ["  " + line for line in rows.to_string().splitlines()]
        lines += [f"  {line}" for line in self._notes()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = self.summary()
        rows.columns = ["value", "stderr", "95 % low", "high"]
        body = rows.to_html(float_format="{:.5g}".format)
        notes = "<br>".join(html.escape(line) for line in (self._data(), *self._notes()))
        title = html.escape(f"{self.law.name}: {self.law.formula}")
        return f"<p><b>{title}</b></p>{body}<p>{notes}</p>"

    def plot(self) -> Figure:
        """Measured against fitted, and the residuals over the first input."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        target, x = self.law.target, self.law.inputs[0]
        left.loglog(self.fitted, self.runs[target], ".")
        ends = self.runs[target].agg(["min", "max"]).to_numpy(float) * [0.97, 1.03]
        left.plot(ends, ends, lw=0.8, color="0.5")
        left.set(xlabel=f"fitted {target}", ylabel=f"measured {target}", xlim=ends, ylim=ends)
        left.set_title(self.law.formula, fontsize="small")
        right.semilogx(self.runs[x], 100 * self.residuals, ".")
        right.axhline(0, lw=0.8, color="0.5")
        right.set(xlabel=x, ylabel="residual [%]")
        return figure

    def _data(self) -> str:
        spans = [
            f"{name} {self.runs[name].min():.3g} to {self.runs[name].max():.3g}"
            for name in self.law.inputs
        ]
        left_out = self.certificate.get("left_out", {})
        rows = f"{self.n} rows"
        if left_out:
            reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.items())
            rows = f"{self.n} of {self.n + sum(left_out.values())} rows (left out: {reasons})"
        unit = " [nats/token]" if self.law.target == "L" else ""
        return f"{rows}, {', '.join(spans)}; {self.loss}{unit} = {self.objective:.6g}"

    def _notes(self) -> list[str]:
        c, r = self.certificate, self.residuals.abs()
        what = {"delta": "linearised (t)", "bootstrap": "percentile bootstrap"}
        drawn = what.get(self.intervals, self.intervals)
        if len(self.samples):
            drawn += f", {len(self.samples)} draws"
        if c["groups"] < self.n:
            drawn += f", clustered in {c['groups']} runs"
        gap = "no other" if c["gap"] is None else f"the next is {100 * c['gap']:.2g} % higher"
        return [
            f"intervals: {drawn}",
            f"residuals: median {100 * r.median():.2g} %, largest {100 * r.max():.2g} % "
            f"(row {r.idxmax()})",
            f"minimum: reached by {100 * c['share']:.0f} % of {c['starts']} starts, {gap}",
            f"status: {'; '.join(self.status)}",
        ]

    def _draws(self, name: str) -> np.ndarray:
        return self.samples[name].to_numpy(float)

    def _on_log(self) -> bool:
        return self.problem is None or self.problem.on == "log"

    def _names(self) -> tuple[str, ...]:
        """The fitted parameters."""
        if self.problem is None:
            return tuple(p for p, s in self.stderr.items() if s != 0)
        return self.problem.free

    def _free(self) -> int:
        return len(self._names())

    def _open(self) -> list[str]:
        """Parameters along a direction in which the fitted values do not change."""
        return self.certificate.get("undetermined", [])

    def _groups(self) -> int:
        return self.certificate["groups"]

    def _quantile(self, level: float) -> float:
        return float(special.stdtrit(self.certificate["freedom"], (1 + level) / 2))

    def _slope(
        self, function: Callable[[Mapping[str, Any]], Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Gradient (q,) of a function of the parameters in the unknowns, the open directions (q, K)
        and the covariance (q, q); None for a result that carries no data."""
        if self.problem is None or self.minimum is None or not self._free():
            return None
        q, step = self.problem.q, 1e-5
        moved = self.minimum.theta + step * np.concatenate([np.eye(q), -np.eye(q)], 1)
        points = self.problem.params(moved)
        with np.errstate(all="ignore"):
            y = [
                float(np.ravel(function({p: float(x[k]) for p, x in points.items()}))[0])
                for k in range(2 * q)
            ]
        gradient = np.nan_to_num((np.array(y[:q]) - np.array(y[q:])) / (2 * step))
        null = null_directions(self.problem, self.minimum)
        return gradient, null, covariance(self.problem, self.minimum)[0]

    def _residuals_on_scale(self) -> np.ndarray:
        if self._on_log():
            return self.log_residuals
        return (self.runs[self.law.target] - self.fitted).to_numpy(float)

    def _linearised(self, name: str, level: float) -> tuple[float, float]:
        """Student's t interval of a parameter: of its logarithm where the fit worked with that."""
        value, stderr = self.params[name], self.stderr[name]
        assert self.problem is not None
        half = self._quantile(level) * stderr
        if not self.problem.model.log[self.problem.free.index(name)]:
            return value - half, value + half
        with np.errstate(over="ignore"):
            return value * float(np.exp(-half / value)), value * float(np.exp(half / value))

    def _linearised_law(
        self, level: float, noise: bool, columns: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Student's t interval of the law at columns (m, 1), linearised on the scale of the fit:
        draws of strongly curved parameters (N_c and alpha, say) would lie lopsided about it."""
        assert self.problem is not None and self.minimum is not None
        cov, freedom = covariance(self.problem, self.minimum)
        one = root(cov)  # columns: one standard error
        step = 1e-4 / np.maximum(1.0, np.abs(one).max(axis=0))
        theta = np.concatenate([one * step, -one * step], axis=1) + self.minimum.theta
        with np.errstate(all="ignore"):
            y = self.law.predict(self.problem.params(theta), **columns)
            y = np.log(y) if self._on_log() else y
        ahead, behind = np.split(y, 2, axis=1)
        variance = np.sum(((ahead - behind) / (2 * step)) ** 2, axis=1)
        if noise:
            variance += np.sum(self._residuals_on_scale() ** 2) / max(self.n - self._free(), 1)
        half = special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance)
        best = self.law.predict(self.params, **columns)[:, 0]
        with np.errstate(over="ignore"):
            if self._on_log():
                return best * np.exp(-half), best * np.exp(half)
        return best - half, best + half

    def _estimate(self, value: float, draws: np.ndarray, level: float) -> Estimate:
        draws = np.broadcast_to(draws, np.shape(draws) or (1,))
        if len(draws) < 2:
            return Estimate(value, np.nan, np.nan, np.nan)
        low, high = _quantiles(draws, level)
        with np.errstate(over="ignore", invalid="ignore"):
            sd = spread(draws)
        if self.intervals == "delta":  # Student's t with few degrees of freedom has no variance
            one = special.ndtr(1.0)
            with np.errstate(over="ignore", invalid="ignore"):  # draws may have overflowed
                left, right = np.quantile(draws, [1 - one, one])
                half = float(right - left) / 2
            sd = half / float(special.stdtrit(self.certificate["freedom"], one))
        return Estimate(value, sd, float(low), float(high))


FAR = 1e250
"""A draw beyond this has overflowed: its parameter, or what follows from it, is unbounded."""


def _quantiles(draws: np.ndarray, level: float) -> np.ndarray:
    """The central interval along the last axis; infinite where it reaches draws that overflowed.

    A draw at which the quantity does not exist (nan) counts as overflowed upwards.
    """
    draws = np.clip(np.nan_to_num(draws, nan=1e300, posinf=1e300, neginf=-1e300), -1e300, 1e300)
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return np.where(np.abs(ends) > FAR, np.copysign(np.inf, ends), ends)


def spread(draws: np.ndarray) -> float:
    """Standard deviation, or half the central 68 % where a few draws far out would decide it."""
    one = float(special.ndtr(1.0))
    low, high = _quantiles(draws, 2 * one - 1)
    with np.errstate(over="ignore", invalid="ignore"):
        sd, robust = float(np.std(draws, ddof=1)), float(high - low) / 2
    return sd if np.isfinite(sd) and sd <= 10 * robust else robust


def plain(x: Any) -> Any:
    """Numbers, strings, lists and dicts only; what is not finite becomes None."""
    if isinstance(x, Mapping):
        return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, str) or x is None:
        return x
    if isinstance(x, bool | np.bool_):
        return bool(x)
    if isinstance(x, int | np.integer):
        return int(x)
    if isinstance(x, float | np.floating):
        return float(x) if np.isfinite(x) else None
    if isinstance(x, Iterable):
        return [plain(v) for v in x]
    raise TypeError(f"{type(x).__name__} has no plain form")
