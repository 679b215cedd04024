"""The result of a fit: parameters, intervals, predictions and derived quantities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy

from analysis.fitting import influence, outliers, presentation
from analysis.fitting.checks import FitError, check_level
from analysis.fitting.draws import central_interval, containing, spread, student_spread
from analysis.fitting.intervals import (
    Profile,
    covariance,
    moves,
    null_directions,
    profile,
    root,
)
from analysis.fitting.minimise import Minimum
from analysis.fitting.noise import NoiseModel
from analysis.fitting.problem import Problem
from analysis.fitting.reference import ahead, reference
from analysis.fitting.status import CONVERGED, Certificate, Status, natural_covariance
from analysis.fitting.vanishing import with_zero
from analysis.laws import Law
from scaling.jsonable import finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Estimate(NamedTuple):
    """A number with its standard error and interval."""

    value: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, kw_only=True)
class FitResult:
    """One law fitted to one table, as returned by :func:`fit`."""

    law: Law
    params: dict[str, float]
    """Every parameter of the law, including those held fixed."""
    stderr: dict[str, float]
    """Standard error of each parameter: the standard deviation of its draws, or half their central
    68 % if a few draws are distant. 0 for a fixed parameter, inf for one that the data do not
    determine, nan if unknown."""
    samples: pd.DataFrame = field(repr=False)
    """Draws from the sampling distribution: one row per draw, one column per parameter."""
    runs: pd.DataFrame = field(repr=False)
    """The rows that were fitted."""
    objective: float
    """The objective at its minimum, summed or averaged over rows as `loss` states."""
    loss: str
    """The objective in words, such as 'Huber(delta=0.001) of log L, sum'."""
    objective_kind: Literal["huber", "ls", "lad"] = "huber"
    """What was minimised: Huber's function, half the squares, or the absolute values."""
    status: tuple[Status, ...]
    """'converged' or 'not converged', followed by all warnings."""
    certificate: Certificate = field(repr=False)
    """Evidence that the minimum is the global one, and what the data do not determine."""
    intervals: str = "bootstrap"
    """Method of the intervals: one of bootstrap.METHODS, or 'none' if the data give none."""
    timings: dict[str, float] = field(default_factory=dict, repr=False)
    """Seconds spent in each stage."""
    noise: NoiseModel | None = field(default=None, repr=False)
    """How the variance of the residuals changes with the inputs; None if taken to be constant."""
    problem: Problem = field(repr=False)
    """The data and settings of the fit."""
    minimum: Minimum = field(repr=False)
    """The unknowns at the minimum, and the other findings of the search."""

    @property
    def name(self) -> str:
        """What the fit is called: its law."""
        return self.law.name

    @property
    def n(self) -> int:
        """Number of rows fitted."""
        return len(self.runs)

    @property
    def ok(self) -> bool:
        """Whether the fit converged without any warning."""
        return self.status == (CONVERGED,)

    @property
    def warnings(self) -> tuple[Status, ...]:
        """The lines of `status` that are warnings."""
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

    @property
    def informed(self) -> dict[str, float]:
        """How much of each parameter with a prior belief is prior: the width of the posterior over
        that of the prior, on the log scale. Near 0 the data decide, near 1 the prior does."""
        penalty = self.problem.penalty
        if penalty is None:
            return {}
        cov, _ = natural_covariance(self.problem, self.minimum)
        spread = np.sqrt(np.maximum(np.diag(cov), 0))[penalty.index]
        u = np.array([self.params[p] for p in penalty.names])
        log_spread = np.where(penalty.log[:, 0], spread, spread / u)
        return dict(zip(penalty.names, (log_spread / penalty.sd[:, 0]).tolist(), strict=True))

    def predict(self, **columns: Any) -> np.ndarray:
        """Evaluate the law at `columns` (numbers or arrays that broadcast), in its target's unit.

        Raises LawError for a missing or unknown column.
        """
        return self.law.predict(self.params, **columns)

    def predict_interval(
        self, level: float = 0.95, *, noise: bool = False, **columns: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (low, high) of the law at `columns`, each of the columns' common shape.

        With `noise`, the interval is that of one new run, which includes the residuals of this fit.
        Both assume that the law is right; :func:`analysis.validate` tests that.
        """
        check_level(level)
        columns = {name: np.asarray(x, float) for name, x in columns.items()}
        shape = np.broadcast_shapes(*(x.shape for x in columns.values()))
        flat = {name: np.broadcast_to(x, shape).reshape(-1, 1) for name, x in columns.items()}
        if self.intervals == "none":
            return np.full(shape, np.nan), np.full(shape, np.nan)
        if self.intervals == "delta" and self.problem.q:
            low, high = self._linearised_law(level, noise, flat)
            return low.reshape(shape), high.reshape(shape)
        draws = {p: self._draws(p) for p in self.law.params}
        with np.errstate(all="ignore"):  # a draw may lie far out
            y = self.law.predict(draws, **flat)
        if noise:
            r = self._residuals_on_scale() * np.sqrt(self.n / self._freedom_left())
            r = np.random.default_rng(0).choice(r / self._noise_at(self.runs), y.shape)
            r = r * self._noise_at(flat)
            y = y * np.exp(r) if self._on_log() else y + r
        low, high = central_interval(y, level)
        if not noise:
            low, high = containing(self.law.predict(self.params, **flat)[:, 0], low, high)
        return low.reshape(shape), high.reshape(shape)

    def interval(self, level: float = 0.95, *, profile: bool = False) -> pd.DataFrame:
        """Return value, stderr, low and high, one row per parameter.

        The intervals are quantiles of the samples. They are linearised if there are no samples, or
        if the samples are draws of the linearised fit; with `profile` they come from the profile
        likelihood. The interval of a parameter that the data do not determine is unbounded, and
        that of a positive one contains zero if the law without its term fits as well.
        """
        check_level(level)
        rows = {}
        for p, value in self.params.items():
            estimate = self._estimate(value, self._draws(p), level)
            free = p in self.problem.free
            if self.intervals == "none" and free:
                estimate = estimate._replace(low=np.nan, high=np.nan)
            elif p in self.certificate.undetermined:
                low = 0.0 if self.law.ranges[p].positive else -np.inf
                estimate = estimate._replace(low=low, high=np.inf)
            elif free and (self.intervals == "delta" or not len(self.samples)):
                low, high = self._linearised(p, level)
                estimate = estimate._replace(low=low, high=high)
            if profile and free:
                found = self.profile(p, level)
                estimate = estimate._replace(low=found.low, high=found.high)
            alone = set(self.certificate.undetermined) <= {p}  # no trade with other parameters
            if free and alone and estimate.low < value / 2:
                ends = with_zero(self.problem, self.minimum, p, level, estimate.low, estimate.high)
                estimate = estimate._replace(low=ends[0], high=ends[1])
            rows[p] = estimate._replace(stderr=self.stderr[p])
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(Estimate._fields))

    def profile(self, name: str, level: float = 0.95) -> Profile:
        """Return the profile likelihood of one fitted parameter: the curve and its interval."""
        if name not in self.problem.free:
            raise FitError(
                f"{name!r} is not a fitted parameter of {self.law.name}; those are "
                f"{', '.join(self.problem.free)}."
            )
        if self.intervals == "none":
            raise FitError(
                f"no profile of {name}: {self.certificate.groups} runs cannot tell how "
                f"{self.problem.q} parameters vary. Add runs, or fix parameters."
            )
        return profile(self.problem, self.minimum, name, level)

    def derived(
        self, what: str | Callable[[Mapping[str, Any]], Any], level: float = 0.95
    ) -> Estimate:
        """Compute a quantity from the parameters, with its interval.

        `what` is the name of one of the law's derived quantities, an expression ("beta / (alpha +
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
        """Return a function of the parameters that evaluates a derived name or an expression."""
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

    def influence(self, *, every: bool = True) -> pd.DataFrame:
        """Return how the fit changes without each row, the most influential row first.

        One column per fitted parameter holds its value without the row minus that with it. The
        column 'prediction' holds the change, in nats, of the logarithm of the prediction at ten
        times the compute of the largest run. Without `every`, only the rows that could matter most
        are refitted, which is fast for any table.
        """
        rows = None if every else influence.suspects(self.problem, self.minimum, influence.SUSPECTS)
        return influence.table(self.problem, self.minimum, self.runs.index, rows)

    def most_influential(self, level: float = 0.95) -> tuple[Any, float, float]:
        """Return the row that moves the prediction at ten times the compute most, the change of its
        logarithm without that row, and half the width of its interval at `level`."""
        top = self.influence(every=False)[influence.PREDICTION]
        point: dict[str, Any] = ahead(self.problem.columns)
        low, high = self.predict_interval(level, **point)
        with np.errstate(all="ignore"):
            half = float(np.log(high / low)) / 2
        return top.index[0], float(top.iloc[0]), half

    def outliers(self, cut: float = outliers.CUT) -> pd.DataFrame:
        """Return rows that lie more than `cut` standard errors from a fit to the good rows.

        The good rows are found by least trimmed squares, so that up to a quarter of bad rows cannot
        hide each other. Rows are reported, not removed.
        """
        return outliers.table(self.problem, self.minimum, self.runs.index, cut)

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """Return parameters and derived quantities with their intervals, one row each."""
        rows = self.interval(level)
        for name in self.law.derived:
            rows.loc[name] = list(self.derived(name, level))
        return rows

    def record(self, level: float = 0.95) -> dict[str, Any]:
        """Return everything as plain values for JSON; numbers that are not finite become None."""
        return finite(
            {
                "law": self.law.name,
                "formula": self.law.formula,
                "n": self.n,
                "left_out": self.certificate.left_out,
                "loss": self.loss,
                "objective": self.objective,
                "level": level,
                "intervals": self.intervals,
                "params": self.interval(level).to_dict("index"),
                "derived": {d: self.derived(d, level)._asdict() for d in self.law.derived},
                "reference": reference(self, level).record(),
                "status": list(map(str, self.status)),
                "certificate": self.certificate.record(),
                **({} if self.noise is None else {"noise": self.noise.record()}),
                "timings": self.timings,
            }
        )

    def __str__(self) -> str:
        return self.text()

    def text(self, level: float = 0.95) -> str:
        """Return the summary with the data, the objective, the residuals and the status."""
        return presentation.as_text(self, level)

    def _repr_html_(self) -> str:
        return presentation.as_html(self)

    def plot(self, *, width: Literal["column", "full"] = "full") -> Figure:
        """Plot measured against fitted values, and the residuals over the first input.

        The panels are side by side at the full width of a page, and stacked in a column.
        """
        return presentation.plot(self, width)

    def _draws(self, name: str) -> np.ndarray:
        return self.samples[name].to_numpy(float)

    def _on_log(self) -> bool:
        return self.problem.on == "log"

    def _freedom_left(self) -> int:
        """Return the number of rows minus fitted parameters, at least 1."""
        return max(self.n - self.problem.q, 1)

    def _quantile(self, level: float) -> float:
        return float(scipy.special.stdtrit(self.certificate.freedom, (1 + level) / 2))

    def _slope(
        self, function: Callable[[Mapping[str, Any]], Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Linearise a function of the parameters in the unknowns.

        Returns its gradient (q,), the directions that the data leave open (q, K), and the
        covariance of the unknowns (q, q); None if every parameter is fixed.
        """
        q, step = self.problem.q, 1e-5
        if not q:
            return None
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
        """Return the residuals of the law that was fitted, of which `law` may be a variant."""
        law, measured = self.problem.law, self.runs[self.law.target].to_numpy(float)
        inputs = {name: self.runs[name].to_numpy(float) for name in law.inputs}
        fitted = law.predict(self.params, **inputs)
        return np.log(measured / fitted) if self._on_log() else measured - fitted

    def _noise_at(self, columns: Mapping[str, Any] | pd.DataFrame) -> np.ndarray | float:
        """Return the standard deviation of the noise at these inputs; 1 if it is constant."""
        if self.noise is None:
            return 1.0
        return self.noise.sd(**{name: columns[name] for name in self.noise.exponents})

    def _linearised(self, name: str, level: float) -> tuple[float, float]:
        """Return Student's t interval of a parameter, on a log scale if the unknown is its log."""
        value, stderr = self.params[name], self.stderr[name]
        half = self._quantile(level) * stderr
        if not self.problem.model.log[self.problem.free.index(name)]:
            return value - half, value + half
        with np.errstate(over="ignore"):
            return value * float(np.exp(-half / value)), value * float(np.exp(half / value))

    def _linearised_law(
        self, level: float, noise: bool, columns: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return Student's t interval of the law at columns (m, 1), linearised on the fit's scale.

        Draws of strongly curved parameters (such as N_c and alpha) would be skewed around it.
        """
        cov, freedom = covariance(self.problem, self.minimum)
        one = root(cov)  # each column is one standard error
        step = 1e-4 / np.maximum(1.0, np.abs(one).max(axis=0))
        theta = np.concatenate([one * step, -one * step], axis=1) + self.minimum.theta
        with np.errstate(all="ignore"):
            y = self.law.predict(self.problem.params(theta), **columns)
            y = np.log(y) if self._on_log() else y
        ahead, behind = np.split(y, 2, axis=1)
        variance = np.sum(((ahead - behind) / (2 * step)) ** 2, axis=1)
        if noise:
            r = self._residuals_on_scale() / self._noise_at(self.runs)
            variance += np.sum(r**2) / self._freedom_left() * np.ravel(self._noise_at(columns)) ** 2
        half = scipy.special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance)
        best = self.law.predict(self.params, **columns)[:, 0]
        with np.errstate(over="ignore"):
            if self._on_log():
                return best * np.exp(-half), best * np.exp(half)
        return best - half, best + half

    def _estimate(self, value: float, draws: np.ndarray, level: float) -> Estimate:
        draws = np.broadcast_to(draws, np.shape(draws) or (1,))
        if len(draws) < 2:
            return Estimate(value, np.nan, np.nan, np.nan)
        low, high = containing(value, *central_interval(draws, level))
        if self.intervals == "delta":
            sd = student_spread(draws, self.certificate.freedom)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                sd = spread(draws)
        return Estimate(value, sd, float(low), float(high))
