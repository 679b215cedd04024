"""Fit a law to a table of runs: :func:`fit` gives a frozen :class:`FitResult`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import engine
from analysis.laws import Law, resolve
from scaling import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FitError(ValueError):
    """No usable fit exists for this law and this table; the message says what to change."""


class Estimate(NamedTuple):
    """A number with its standard error and interval."""

    value: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True)
class FitResult:
    """One law fitted to one table."""

    law: Law
    params: dict[str, float]
    """Every parameter of the law, those held fixed included."""
    stderr: dict[str, float]
    """Standard errors (of the bootstrap where there is one); 0 for a fixed parameter."""
    samples: pd.DataFrame = field(repr=False)
    """Draws from the sampling distribution: one row a resample, one column a parameter."""
    runs: pd.DataFrame = field(repr=False)
    """The rows that were fitted."""
    objective: float
    """The objective at its minimum, reduced as `loss` says."""
    loss: str
    """The objective in words."""
    status: tuple[str, ...]
    """What a reader should know: 'converged' first, then warnings."""
    certificate: dict[str, Any] = field(default_factory=dict, repr=False)
    """Evidence that the minimum is the global one, and what the data leave open."""
    timings: dict[str, float] = field(default_factory=dict, repr=False)
    """Seconds spent, by stage."""

    @property
    def n(self) -> int:
        return len(self.runs)

    def predict(self, **columns: Any) -> np.ndarray:
        """The law at `columns` (numbers or arrays that broadcast), in the unit of its target."""
        return self.law.predict(self.params, **columns)

    def predict_interval(
        self, level: float = 0.95, *, noise: bool = False, **columns: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of the law at `columns`; with `noise`, of one new run there."""
        spread = {p: self.samples[p].to_numpy() for p in self.law.params}
        columns = {k: np.asarray(v, float) for k, v in columns.items()}
        shape = np.broadcast_shapes(*(v.shape for v in columns.values()))
        flat = {k: np.broadcast_to(v, shape).reshape(-1, 1) for k, v in columns.items()}
        y = self.law.predict(spread, **flat)
        if noise:
            r = np.log1p(self.residuals.to_numpy())
            rng = np.random.default_rng(0)
            y = y * np.exp(-rng.choice(r, y.shape))
        low, high = np.quantile(y, [(1 - level) / 2, (1 + level) / 2], axis=1)
        return low.reshape(shape), high.reshape(shape)

    def interval(self, level: float = 0.95) -> pd.DataFrame:
        """Each parameter's value, stderr, low and high."""
        rows = {p: self._estimate(self.params[p], self.samples[p], level) for p in self.params}
        return pd.DataFrame.from_dict(rows, orient="index", columns=Estimate._fields)

    def derived(
        self, what: str | Callable[[Mapping[str, Any]], Any], level: float = 0.95
    ) -> Estimate:
        """A quantity computed from the parameters, with its interval.

        `what` names one of the law's derived quantities, is an expression ("beta / (alpha +
        beta)"), or a function of a mapping from parameter names to values (numbers or arrays).
        """
        if callable(what):
            value = float(what(self.params))
            draws = what({p: self.samples[p].to_numpy() for p in self.params})
        else:
            expression = self.law.derived.get(what, what)
            value = float(pd.DataFrame([self.params]).eval(expression).iloc[0])
            draws = self.samples.eval(expression)
        return self._estimate(value, np.asarray(draws, float), level)

    @staticmethod
    def _estimate(value: float, draws: Any, level: float) -> Estimate:
        draws = np.asarray(draws, float)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return Estimate(value, float(np.std(draws, ddof=1)), float(low), float(high))

    @property
    def residuals(self) -> pd.Series:
        """(measured - fitted) / fitted of each row, indexed like `runs`."""
        fitted = self.predict(**{name: self.runs[name] for name in self.law.inputs})
        return pd.Series(self.runs[self.law.target] / fitted - 1, name="residual")

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """Parameters and derived quantities with their intervals, one row each."""
        rows = self.interval(level)
        for name in self.law.derived:
            rows.loc[name] = self.derived(name, level)
        return rows

    def record(self, level: float = 0.95) -> dict[str, Any]:
        """Everything as plain numbers and strings, ready for JSON."""
        return {
            "law": self.law.name,
            "n": self.n,
            "objective": self.objective,
            "params": self.interval(level).to_dict("index"),
            "derived": {n: self.derived(n, level)._asdict() for n in self.law.derived},
            "status": list(self.status),
            "certificate": self.certificate,
            "timings": self.timings,
        }

    def __str__(self) -> str:
        return f"{self.law.formula}\n{self.summary().to_string(float_format='{:.5g}'.format)}"

    def _repr_html_(self) -> str:
        return f"<p>{self.law.formula}</p>{self.summary().to_html(float_format='{:.5g}'.format)}"

    def plot(self) -> Figure:
        """Measured against fitted, and the residuals."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        fitted = self.predict(**{name: self.runs[name] for name in self.law.inputs})
        left.plot(fitted, self.runs[self.law.target], ".")
        left.axline((fitted[0], fitted[0]), slope=1, lw=0.8, color="0.5")
        left.set(xlabel=f"fitted {self.law.target}", ylabel=f"measured {self.law.target}")
        right.plot(self.runs[self.law.inputs[0]], 100 * self.residuals, ".")
        right.axhline(0, lw=0.8, color="0.5")
        right.set(xscale="log", xlabel=self.law.inputs[0], ylabel="residual [%]")
        return figure


def fit(
    law: Law | str,
    runs: pd.DataFrame,
    *,
    objective: str = "huber",
    delta: float | None = None,
    on: str = "log",
    reduce: str = "sum",
    bootstrap: int = 200,
    cluster: str | None = "run_id",
    fixed: Mapping[str, float] | None = None,
    weights: Any = None,
    seed: int = 0,
) -> FitResult:
    """Fit `law` to `runs`."""
    law = resolve(law)
    fixed = dict(fixed or {})
    table.check(runs, need=[*law.inputs, law.target])
    if "status" in runs.columns:
        runs = runs[runs["status"] == "ok"]
    began = time.perf_counter()
    rows = len(runs)
    w = np.ones(rows) if weights is None else np.asarray(weights, float)
    if cluster in runs.columns:
        groups = pd.factorize(runs[cluster])[0]
    else:
        groups = np.arange(rows)
    problem = engine.Problem(
        law,
        {name: runs[name].to_numpy(float) for name in law.inputs},
        runs[law.target].to_numpy(float),
        w,
        groups,
        fixed,
        on,
    )
    starts = engine.starts(problem, 40, seed)
    theta, value = engine.minimise(problem, np.inf if delta is None else delta, w, starts)
    if delta is None and objective == "huber":
        for _ in range(3):
            spread = 1.4826 * np.median(np.abs(problem.residuals(theta)))
            delta = max(1.345 * spread, 1e-9)
            theta, value = engine.minimise(problem, delta, w, theta[None])
    limit = np.inf if delta is None else delta
    rng = np.random.default_rng(seed)
    units = groups.max() + 1
    draws = []
    for _ in range(bootstrap):
        counts = np.bincount(rng.integers(units, size=units), minlength=units)
        draws.append(engine.minimise(problem, limit, w * counts[groups], theta[None])[0])
    samples = pd.DataFrame(problem.params(np.array(draws)))
    params = {k: float(v) for k, v in problem.params(theta).items()}
    return FitResult(
        law,
        params,
        {p: float(samples[p].std()) for p in samples},
        samples,
        runs,
        value / (rows if reduce == "mean" else 1),
        f"{objective} on {on}",
        ("converged",),
        {},
        {"total": time.perf_counter() - began},
    )
