"""Fit a law to a table of runs: :func:`fit` gives a frozen :class:`FitResult`."""

from __future__ import annotations

import contextlib
import html
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis.engine import Minimum, Problem, gradients, minimise, starts
from analysis.laws import Law, resolve
from analysis.uncertainty import (
    METHODS,
    SMALL,
    Profile,
    covariance,
    draw,
    moves,
    null_directions,
    profile,
    root,
    undetermined,
    unidentified,
)
from scaling import table
from scaling.table import TableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FitError(ValueError):
    """No usable fit exists for this law and this table; the message says what to change."""


class Status(str):
    """One line of a fit's status: text for people, `code` for programs.

    The text is the code in words, and a detail: ``Status("at_bound", "E")`` is 'at bound: E'.
    """

    code: str
    detail: str

    def __new__(cls, code: str, detail: str = "") -> Status:
        words = code.replace("_", " ")
        self = super().__new__(cls, f"{words}: {detail}" if detail else words)
        self.code, self.detail = code, detail
        return self

    def __reduce__(self) -> tuple[type[Status], tuple[str, str]]:
        return Status, (self.code, self.detail)


CONVERGED = Status("converged")


class Estimate(NamedTuple):
    """A number with its standard error and interval."""

    value: float
    stderr: float
    low: float
    high: float


_DEFAULT_CLUSTER = "run_id"
OBJECTIVES = ("auto", "huber", "ls", "lad")
INTERVALS = ("auto", *METHODS)


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
    """Where they come from: one of METHODS, or 'none' where the data give none."""
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
        added. Neither knows of a law that is wrong: see analysis.validate.
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
        return _plain(
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
            sd = _spread(draws)
        if self.intervals == "delta":  # Student's t with few degrees of freedom has no variance
            one = special.ndtr(1.0)
            with np.errstate(over="ignore", invalid="ignore"):  # draws may have overflowed
                left, right = np.quantile(draws, [1 - one, one])
                half = float(right - left) / 2
            sd = half / float(special.stdtrit(self.certificate["freedom"], one))
        return Estimate(value, sd, float(low), float(high))


_FAR = 1e250
"""A draw beyond this has overflowed: its parameter, or what follows from it, is unbounded."""


def _quantiles(draws: np.ndarray, level: float) -> np.ndarray:
    """The central interval along the last axis; infinite where it reaches draws that overflowed.

    A draw at which the quantity does not exist (nan) counts as overflowed upwards.
    """
    draws = np.clip(np.nan_to_num(draws, nan=1e300, posinf=1e300, neginf=-1e300), -1e300, 1e300)
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return np.where(np.abs(ends) > _FAR, np.copysign(np.inf, ends), ends)


def _spread(draws: np.ndarray) -> float:
    """Standard deviation, or half the central 68 % where a few draws far out would decide it."""
    one = float(special.ndtr(1.0))
    low, high = _quantiles(draws, 2 * one - 1)
    with np.errstate(over="ignore", invalid="ignore"):
        sd, robust = float(np.std(draws, ddof=1)), float(high - low) / 2
    return sd if np.isfinite(sd) and sd <= 10 * robust else robust


def fit(
    law: Law | str,
    runs: pd.DataFrame,
    *,
    objective: str = "auto",
    delta: float | None = None,
    on: str = "log",
    reduce: str = "sum",
    bootstrap: int = 1000,
    intervals: str = "auto",
    cluster: str | None = _DEFAULT_CLUSTER,
    fixed: Mapping[str, float] | None = None,
    weights: Any = None,
    seed: int = 0,
    warm: FitResult | None = None,
) -> FitResult:
    """Fit `law` to `runs`: the global minimum, with draws for intervals and a certificate.

    law: a Law, its name, or 'file.py:name'.
    runs: one row a measurement, with the law's inputs and its target as columns. Where there is a
        column 'status', rows that are not 'ok' are left out.
    objective: 'huber', 'ls' (half the sum of squares) or 'lad' (the sum of absolute values), of
        the residuals. 'auto' is 'huber', or 'ls' for fewer than 25 rows that are all runs of
        their own.
    delta: Huber's threshold. None ties it to the residuals, 1.345 times 1.4826 times their median
        size, which costs 5 % of efficiency under Gaussian noise; Hoffmann et al. 2022 and most
        papers since use 1e-3, which costs about 20 %.
    on: 'log' compares logarithms, as the papers do; 'raw' the values themselves.
    reduce: 'sum' or 'mean', how `FitResult.objective` is stated; the fit is the same.
    bootstrap: how many draws; 0 for none.
    intervals: 'bootstrap' (percentile, over runs), 'residual', 'wild', 'delta' (linearised, with
        Student's t; jackknifed over runs where rows share them), or 'auto': 'bootstrap', or 'delta'
        for fewer than 25 runs. Rows clustered in no more runs than there are parameters give no
        intervals.
    cluster: the column that says which rows belong to one run and are drawn together; it must be
        there, unless it is the default 'run_id'. None makes every row its own.
    fixed: parameters held at a value.
    weights: non-negative, one a row (an array, or the name of a column): relative precisions (a
        row's share of the objective), not counts of repeated rows. Rows of weight 0 are left out.
    seed: of starts and draws: the same seed gives the same result.
    warm: an earlier result of the same law, whose minima are tried first; saves time.

    Raises TableError for a table that cannot be used, LawError for a law that cannot, FitError
    where no usable fit exists. Lesser trouble is told by `FitResult.status`.
    """
    began = time.perf_counter()
    law = resolve(law)
    _check_options(objective, delta, on, reduce, bootstrap, intervals, seed)
    fixed = _held(law, fixed or {})
    runs, w, left_out = _usable(law, runs, weights, on)
    problem = Problem(
        law,
        {name: runs[name].to_numpy(float) for name in law.inputs},
        runs[law.target].to_numpy(float),
        w,
        _groups(runs, cluster),
        fixed,
        on,
    )
    _check_data(problem)
    clustered = problem.units() < problem.n
    small = problem.units() < SMALL
    if objective == "auto":
        objective = "ls" if small and not clustered and delta is None else "huber"
    if clustered and problem.units() <= problem.q:
        intervals = "none"
    elif not bootstrap:
        intervals = "delta"
    elif intervals == "auto":
        intervals = "delta" if small else "bootstrap"
    if intervals == "residual" and clustered:
        raise FitError(
            f"intervals='residual' redraws single rows, but the rows belong to {problem.units()} "
            "runs: use 'wild' or 'bootstrap', which keep a run's rows together, or cluster=None."
        )
    with _computable(problem, runs, seed):
        minimum = minimise(problem, objective, delta, seed, _warm(problem, warm))
        solved = time.perf_counter()
        certificate = _certificate(problem, minimum) | {
            "left_out": left_out,
            "intervals": intervals,
        }
        certified = time.perf_counter()
        cov, freedom = _natural_covariance(problem, minimum)
        certificate["freedom"] = freedom
        params = {p: float(v[0]) for p, v in problem.params(minimum.theta).items()}
        if not np.isfinite(law.predict(params, **problem.columns)).all():
            raise FloatingPointError("not finite at its minimum")
        stderr = dict.fromkeys(law.params, 0.0)
        for j, (p, log) in enumerate(zip(problem.free, problem.model.log, strict=True)):
            stderr[p] = float(np.sqrt(max(cov[j, j], 0))) * (params[p] if log else 1.0)
        samples = pd.DataFrame(columns=list(law.params), dtype=float)
        if intervals == "none":
            stderr |= dict.fromkeys(problem.free, np.nan)
        elif bootstrap:
            draws = draw(problem, minimum, intervals, bootstrap, seed)
            samples = pd.DataFrame(problem.params(draws.theta))
            far = ~(samples[list(problem.free)].abs() < _FAR).all(axis=1)
            certificate |= {
                "resamples": draws.converged,
                "rescued": draws.rescued,
                "overflowed": float(far.mean()),
            }
            if intervals != "delta":
                stderr |= {p: _spread(samples[p].to_numpy(float)) for p in problem.free}
        if intervals != "none":
            stderr |= dict.fromkeys(certificate["undetermined"], np.inf)
        ended = time.perf_counter()
        return FitResult(
            law,
            params,
            stderr,
            samples,
            runs,
            _stated(problem, minimum, objective, reduce),
            _loss_in_words(objective, minimum.delta, on, law.target, reduce),
            (
                *_status(problem, minimum, certificate),
                *_suspicions(problem, runs),
                *_alike(problem, runs, minimum),
            ),
            certificate,
            intervals,
            {
                "fit": solved - began,
                "certificate": certified - solved,
                "intervals": ended - certified,
                "total": ended - began,
            },
            problem,
            minimum,
            "ls" if objective == "ls" else "lad" if objective == "lad" else "huber",
        )


@contextlib.contextmanager
def _computable(problem: Problem, runs: pd.DataFrame, seed: int) -> Iterator[None]:
    """A FitError in place of what numpy raises where numbers overflow on the way."""
    law = problem.law
    try:
        with np.errstate(all="ignore"):
            yield
    except FloatingPointError as error:
        raise FitError(
            f"{law.name} is {error}{_not_finite(problem, runs, seed)}: check the units of "
            f"{', '.join(law.inputs)} and the law's Range of each parameter."
        ) from error
    except np.linalg.LinAlgError as error:
        spans = {**problem.columns, law.target: problem.target}
        said = ", ".join(f"{name} from {x.min():.3g} to {x.max():.3g}" for name, x in spans.items())
        raise FitError(
            f"{law.name} cannot be fitted to these {problem.n} rows, {said}: its slopes are not finite "
            f"({error}). Leave out rows that are far from the others."
        ) from error


# --- Checks ---------------------------------------------------------------------------------------


def _check_options(
    objective: str,
    delta: float | None,
    on: str,
    reduce: str,
    bootstrap: int,
    intervals: str,
    seed: int,
) -> None:
    for name, value, known in (
        ("objective", objective, OBJECTIVES),
        ("on", on, ("log", "raw")),
        ("reduce", reduce, ("sum", "mean")),
        ("intervals", intervals, INTERVALS),
    ):
        if value not in known:
            raise FitError(f"{name}={value!r} is not known: use one of {', '.join(known)}.")
    if delta is not None and not table.sensible(delta):
        raise FitError(
            f"delta={delta} must be positive and finite: it is the residual where Huber bends."
        )
    if delta is not None and objective in ("ls", "lad"):
        raise FitError(f"delta={delta} belongs to objective='huber', not to {objective!r}.")
    check_draws(bootstrap, seed)


MOST_DRAWS = 1_000_000
"""Of a bootstrap: far more than any interval needs, and as many as memory holds."""


def check_draws(bootstrap: int, seed: int) -> None:
    """Raise FitError where `bootstrap` is no number of draws, or `seed` no seed."""
    if not 0 <= bootstrap <= MOST_DRAWS or int(bootstrap) != bootstrap:
        raise FitError(
            f"bootstrap={bootstrap} must be a whole number of draws, 0 for none, at most {MOST_DRAWS}."
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise FitError(f"seed={seed!r} must be a whole number, 0 or more.")


def check_level(level: float) -> None:
    """Raise FitError where `level` is no confidence level."""
    if not 1e-9 < level < 1:
        raise FitError(f"level={level} must lie between 0 and 1, such as 0.95.")


def _held(law: Law, fixed: Mapping[str, float]) -> dict[str, float]:
    """Parameters held at a value, checked."""
    out = {}
    for p, given in fixed.items():
        if p not in law.params:
            raise FitError(
                f"fixed: {law.name} has no parameter {p!r}; it has {', '.join(law.params)}."
            )
        value = out[p] = float(given)
        positive = law.ranges[p].positive
        # A coefficient held at zero drops its term, which is a law of its own.
        if not np.isfinite(value) or (positive and value < 0):
            raise FitError(
                f"fixed: {p}={given!r} must be a {'positive' if positive else 'finite'} number."
            )
    return out


def _numbers(runs: pd.DataFrame, name: str) -> np.ndarray:
    """A column as floats; TableError naming the first entry that is not a number."""
    if pd.api.types.is_numeric_dtype(runs[name]):
        return runs[name].to_numpy(float, na_value=np.nan)
    text = runs[name].astype(object)
    x = pd.to_numeric(text, errors="coerce").to_numpy(float, na_value=np.nan)
    bad = np.isnan(x) & text.notna().to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise TableError(
            f"column {name!r} holds what is no number in {bad.sum()} of {len(x)} rows, first "
            f"{text.iloc[row]!r} at row {runs.index[row]}: correct it, or drop these rows."
        )
    return x


def _usable(
    law: Law, runs: pd.DataFrame, weights: Any, on: str
) -> tuple[pd.DataFrame, np.ndarray, dict[str, int]]:
    """The rows to fit, with the law's columns as floats; their weights; rows left out, by reason."""
    if not isinstance(runs, pd.DataFrame):
        raise TableError(f"runs must be a pandas DataFrame, not {type(runs).__name__}.")
    used = [*law.inputs, law.target, *([weights] if isinstance(weights, str) else [])]
    for name in used:
        if name not in runs.columns:
            raise TableError(table.missing_column(name, runs.columns))
    twice = [str(c) for c in runs.columns[runs.columns.duplicated()].unique()]
    if twice:
        raise TableError(
            f"the table has several columns called {', '.join(map(repr, twice))}: rename or drop "
            "all but one."
        )
    total = len(runs)
    table.check(runs[[]] if not total else runs[[]].assign(rows=1))
    if weights is not None and not isinstance(weights, str):
        weights = np.asarray(weights, float)
        if weights.shape != (total,):
            raise TableError(f"weights have shape {weights.shape}, but the table has {total} rows.")
    left_out: dict[str, int] = {}
    keep = np.ones(total, bool)
    if "status" in runs.columns:
        status = runs["status"].astype(object).where(runs["status"].notna(), "missing")
        keep = (status == "ok").to_numpy(bool)
        found = status[~keep].value_counts()
        left_out |= {f"status {value!s}": int(count) for value, count in found.items()}
        if not keep.any():
            values = ", ".join(f"{value!r} ({count})" for value, count in found.items())
            raise TableError(
                f"no row has status 'ok': nothing to fit. The column 'status' holds {values}: "
                "rename what means 'ok', or drop the column."
            )
    runs = runs[keep]
    if weights is None:
        w = np.ones(len(runs))
    else:
        w = _numbers(runs, weights) if isinstance(weights, str) else weights[keep]
    if not (np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
        raise TableError("weights must be finite and not negative, and not all zero.")
    if (w == 0).any():
        left_out["weight 0"] = int((w == 0).sum())
        runs, w = runs[w > 0], w[w > 0]
    columns = [*law.inputs, law.target]
    runs = runs.assign(**{name: _numbers(runs, name) for name in columns})
    table.check(runs[columns])
    sized = {r.of for r in law.ranges.values()}  # a Range of a column is spaced by its logarithm
    for name in columns:
        x = runs[name].to_numpy(float)
        positive = on == "log" if name == law.target else name in sized
        bad = ~np.isfinite(x) | ((x <= 0) if positive else False)
        if bad.any():
            raise TableError(
                f"column {name!r} must be {'positive and ' if positive else ''}finite: "
                f"{_which(bad, runs, name)}. Drop these rows, or mark the run as "
                "status='diverged'."
            )
    return runs, w, left_out


def _which(bad: np.ndarray, runs: pd.DataFrame, name: str) -> str:
    row = int(np.flatnonzero(bad)[0])
    return (
        f"{bad.sum()} of {len(bad)} rows {'is' if bad.sum() == 1 else 'are'} not, first at row "
        f"{runs.index[row]} ({name}={runs[name].iloc[row]})"
    )


def _not_finite(problem: Problem, runs: pd.DataFrame, seed: int) -> str:
    """The first row at which the law is never finite, in words.

    Raises TableError where that is because a column is not positive.
    """
    r = problem.residuals(starts(problem, seed, count=64))
    bad = ~np.isfinite(r).any(axis=0)
    if not bad.any():
        return ""
    for name, x in problem.columns.items():
        if np.array_equal(bad, np.asarray(x <= 0)):
            raise TableError(
                f"column {name!r} must be positive and finite for {problem.law.name}: "
                f"{_which(np.asarray(bad), runs, name)}. Drop these rows."
            )
    row = int(np.flatnonzero(bad)[0])
    values = ", ".join(f"{name}={x[row]:g}" for name, x in problem.columns.items())
    return f" in {bad.sum()} of {problem.n} rows, first at row {runs.index[row]} ({values})"


def _groups(runs: pd.DataFrame, cluster: str | None) -> np.ndarray:
    if cluster is None or (cluster == _DEFAULT_CLUSTER and cluster not in runs.columns):
        return np.arange(len(runs))
    if cluster not in runs.columns:
        raise TableError(f"cluster: {table.missing_column(cluster, runs.columns)}")
    missing = runs[cluster].isna().to_numpy()
    if missing.any():
        rows = ", ".join(map(str, runs.index[missing][:5]))
        raise TableError(
            f"column {cluster!r} says which run a row belongs to, but {missing.sum()} of "
            f"{len(runs)} rows have none (row {rows}{', ...' if missing.sum() > 5 else ''}): fill "
            "them in, or pass cluster=None where every row is a run of its own."
        )
    try:
        codes, _ = pd.factorize(runs[cluster])
    except TypeError:
        raise TableError(
            f"column {cluster!r} says which run a row belongs to, but holds lists or tables "
            f"({cluster}={runs[cluster].iloc[0]!r}); give text or numbers, or another cluster."
        ) from None
    return codes if codes.max() + 1 < len(codes) else np.arange(len(runs))


def _warm(problem: Problem, result: FitResult | None) -> np.ndarray | None:
    """The minima of another result as unknowns of this problem."""
    if result is None or result.problem is None or result.minimum is None:
        return None
    same = (result.law.name, result.law.inputs, result.law.params, result.law.target) == (
        problem.law.name, problem.law.inputs, problem.law.params, problem.law.target
    )  # fmt: skip
    if not same or result.problem.free != problem.free:
        raise FitError(f"warm: that result is of {result.law.name} with other free parameters.")
    return problem.model.centred(result.problem.model.natural(result.minimum.basins))


def _check_data(problem: Problem) -> None:
    law, n, q = problem.law, problem.n, problem.q
    if q == 0:
        raise FitError(f"every parameter of {law.name} is fixed: nothing to fit.")
    if n <= q:
        raise FitError(
            f"{law.name} has {q} parameters to fit ({', '.join(problem.free)}), but the table has "
            f"{n} usable rows: at least {q + 1} are needed. Fix some parameters, or add runs."
        )
    for name, x in problem.columns.items():
        if np.ptp(x) == 0:
            raise FitError(
                f"{law.name} needs runs that differ in {name}, but all {n} have {name}={x[0]:g}."
            )
        if np.ptp(x) < 1e-9 * np.abs(x).max():
            raise FitError(
                f"{law.name} needs runs that differ in {name}, but all {n} have {name} within "
                f"{np.ptp(x) / np.abs(x).max():.1g} of {x[0]:g}."
            )


def _status(
    problem: Problem, minimum: Minimum, certificate: Mapping[str, Any]
) -> tuple[Status, ...]:
    words = [CONVERGED if minimum.converged else Status("not_converged")]
    if certificate["intervals"] == "none":
        words.append(
            Status(
                "intervals_not_determined",
                f"{certificate['groups']} runs for {problem.q} parameters, "
                "and rows of one run are not independent",
            )
        )
    elif certificate["intervals"] != "delta" and problem.units() < min(SMALL, problem.n):
        # Measured: 95 % percentile intervals cover 84 % with 8 runs and 91 % with 16.
        words.append(
            Status("few_runs", f"intervals rest on {certificate['groups']} runs and are narrow")
        )
    if certificate["reached"] < 2 <= certificate["starts"]:
        words.append(
            Status("reached_by_few_starts", f"{certificate['reached']} of {certificate['starts']}")
        )
    if certificate.get("resamples", 1.0) < 0.95:
        words.append(
            Status("resamples_not_converged", f"{100 * (1 - certificate['resamples']):.0f} %")
        )
    if certificate.get("overflowed", 0.0) > 0:
        words.append(Status("draws_unbounded", f"{100 * certificate['overflowed']:.2g} %"))
    if certificate["at_bound"]:
        words.append(Status("at_bound", ", ".join(certificate["at_bound"])))
    if certificate["wrong_sign"]:
        words.append(Status("wrong_sign", ", ".join(certificate["wrong_sign"])))
    if certificate["not_identified"]:
        words.append(Status("not_identified", ", ".join(certificate["not_identified"])))
    if certificate["gap"] is not None and certificate["gap"] < 0.05:
        words.append(
            Status("several_basins", f"another is only {100 * certificate['gap']:.2g} % higher")
        )
    if certificate["correlated"]:
        pairs = [f"{p}~{q} ({rho:.4f})" for p, q, rho in certificate["correlated"]]
        words.append(Status("correlated", ", ".join(pairs)))
    return tuple(words)


def _alike(problem: Problem, runs: pd.DataFrame, minimum: Minimum) -> list[Status]:
    """Rows that look like checkpoints of a few runs, but are fitted as independent.

    They share size and batch, there are at least four of each, and their residuals agree: the
    intraclass correlation (one-way analysis of variance) is above a half.
    """
    keys = [name for name in ("N", "B") if name in runs.columns]
    if not keys or problem.units() < problem.n or set(keys) >= set(problem.law.inputs):
        return []
    codes = runs.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    sizes = np.bincount(codes)
    G, n = len(sizes), problem.n
    if G < 2 or np.median(sizes) < 4:
        return []
    r = problem.residuals(minimum.theta)[0]
    r = r - r.mean()
    means = np.bincount(codes, r) / sizes
    between = float(sizes @ means**2) / (G - 1)
    within = float(np.sum((r - means[codes]) ** 2)) / (n - G)
    each = n / G
    agreement = (between - within) / max(between + (each - 1) * within, 1e-300)
    if agreement < 0.5 or np.abs(r).max() < 1e-9:
        return []
    return [
        Status(
            "rows_alike",
            f"{n} rows share {G} values of {' and '.join(keys)} and their residuals agree "
            f"({agreement:.2f}): if they are checkpoints of one run each, name its column, cluster=...",
        )
    ]


_NARROW = 3.0
"""N, D or C over a smaller factor: a power law and anything else that is smooth look the same."""


def _suspicions(problem: Problem, runs: pd.DataFrame) -> list[Status]:
    """What looks wrong in the table itself."""
    words = []
    x, L = problem.columns, problem.target
    told = [*problem.law.inputs, problem.law.target, *({"seed"} & set(runs.columns))]
    again = runs.duplicated(told).to_numpy()
    if again.any():
        words.append(
            Status(
                "duplicates",
                f"{again.sum()} rows repeat another exactly, first row "
                f"{runs.index[int(np.argmax(again))]} (drop them with runs.drop_duplicates())",
            )
        )
    if "N" in x and "D" in x and x["N"].max() < 1e3 and x["D"].max() < 1e5:
        words.append(Status("implausible", "N below 1000 and D below 100000 (in millions?)"))
    if "N" in x and "D" in x and np.mean(x["N"] > x["D"]) > 0.9:
        words.append(
            Status(
                "implausible",
                f"N exceeds D in {100 * np.mean(x['N'] > x['D']):.0f} % of the rows "
                "(are the columns swapped?)",
            )
        )
    for name in [name for name in ("N", "D", "C") if name in x]:
        if (span := x[name].max() / x[name].min()) < _NARROW:
            words.append(
                Status(
                    "narrow_range",
                    f"{name} spans a factor of {span:.3g} only, too little to tell an "
                    f"exponent or to extrapolate (give {_NARROW:g} at least)",
                )
            )
    if problem.law.target == "L":
        # A model that knows nothing has L = ln(vocabulary): 12.5 for the largest in use.
        known = "vocab_size" in runs.columns
        limit = np.full(len(L), 13.0)
        if known:
            vocabulary = pd.to_numeric(runs["vocab_size"], errors="coerce")
            limit = np.log(vocabulary.to_numpy(float, na_value=np.nan))
            limit = np.where(np.isfinite(limit), limit, 13.0)
        over = (L / limit) > 1.05
        if over.any():
            worst = int(np.argmax(L - limit))
            words.append(
                Status(
                    "implausible",
                    f"L={L[worst]:.3g} in {over.sum()} rows like row {runs.index[worst]}, "
                    f"above ln(vocabulary) = {limit[worst]:.3g} (bits or perplexity rather than nats "
                    "per token?)",
                )
            )
    return words


# --- Certificate ----------------------------------------------------------------------------------


def _natural_covariance(problem: Problem, minimum: Minimum) -> tuple[np.ndarray, float]:
    """Covariance (q, q) of the logs of coefficients, and of exponents; degrees of freedom."""
    cov, freedom = covariance(problem, minimum)
    half = problem.model.natural(np.eye(problem.q)) @ root(cov)
    return half @ half.T, freedom  # a product with its own transpose has no negative diagonal


def _certificate(problem: Problem, minimum: Minimum) -> dict[str, Any]:
    free = problem.free
    J = gradients(problem, minimum.theta) * np.sqrt(problem.weights)[:, None]
    r = problem.residuals(minimum.theta)[0]
    psi = np.clip(r, -minimum.delta, minimum.delta) * np.sqrt(problem.weights)
    norms = np.linalg.norm(J, axis=0) + 1e-300
    cosine = np.abs(psi @ J) / (norms * max(np.linalg.norm(psi), 1e-12 * np.sqrt(problem.n)))
    cov, _ = _natural_covariance(problem, minimum)
    sd = np.sqrt(np.maximum(np.diag(cov), 0)) + 1e-150
    rho = np.clip(cov / np.outer(sd, sd), -1, 1)
    pairs = [
        [free[i], free[j], float(rho[i, j])]
        for i in range(len(free))
        for j in range(i)
        if abs(rho[i, j]) > 0.99
    ]
    others = minimum.objectives[1:]
    gap = float(others[0] / max(minimum.objective, 1e-300) - 1) if len(others) else None
    params = {p: float(v[0]) for p, v in problem.params(minimum.theta).items()}
    ranges = problem.law.ranges
    open_ = undetermined(problem, minimum)
    loose = {*unidentified(problem, minimum), *open_}
    return {
        "rows": problem.n,
        "groups": problem.units(),
        "delta": None if np.isinf(minimum.delta) else minimum.delta,
        "starts": minimum.starts,
        "share": minimum.share,
        "reached": round(minimum.share * minimum.starts),
        "gap": gap,
        "gradient": float(cosine.max()),
        "condition": float(np.linalg.cond(J.T @ J)),
        "at_bound": _at_bound(problem, params),
        "wrong_sign": [p for p in free if ranges[p].positive and params[p] <= 0],
        "not_identified": [p for p in free if p in loose],
        "undetermined": open_,
        "correlated": pairs,
    }


def _at_bound(problem: Problem, params: Mapping[str, float]) -> list[str]:
    """Positive parameters that ran to zero or infinity: a factor 1000 further changes nothing."""
    at = problem.law.predict(params, **problem.columns)
    out = []
    for p in problem.free:
        if not problem.law.ranges[p].positive or params[p] <= 0:
            continue
        for factor in (1e-3, 1e3):
            with np.errstate(all="ignore"):
                y = problem.law.predict({**params, p: params[p] * factor}, **problem.columns)
            if np.allclose(y, at, rtol=1e-7, atol=0):
                out.append(p)
                break
    return out


# --- In words -------------------------------------------------------------------------------------


def _stated(problem: Problem, minimum: Minimum, objective: str, reduce: str) -> float:
    """The objective as reported."""
    value, w = minimum.objective, problem.weights
    if objective == "lad":  # solved for as Huber's function with a vanishing threshold
        value = np.abs(problem.residuals(minimum.theta)[0]) @ w
    return float(value / (w.sum() if reduce == "mean" else 1.0))


def _loss_in_words(objective: str, delta: float, on: str, target: str, reduce: str) -> str:
    of = f"log {target}" if on == "log" else target
    name = {
        # Where nothing is left of the residuals, their scale sets no threshold.
        "huber": f"Huber(delta={delta:.4g})" if np.isfinite(delta) else "Huber(without threshold)",
        "ls": "least squares",
        "lad": "least absolute deviations",
    }[objective]
    return f"{name} of {of}, {reduce}"


def _plain(x: Any) -> Any:
    """Numbers, strings, lists and dicts only; what is not finite becomes None."""
    if isinstance(x, Mapping):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, str) or x is None:
        return x
    if isinstance(x, bool | np.bool_):
        return bool(x)
    if isinstance(x, int | np.integer):
        return int(x)
    if isinstance(x, float | np.floating):
        return float(x) if np.isfinite(x) else None
    if isinstance(x, Iterable):
        return [_plain(v) for v in x]
    raise TypeError(f"{type(x).__name__} has no plain form")
