"""Fit a law to a table of runs: :func:`fit` gives a frozen :class:`FitResult`."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis import engine, uncertainty
from analysis.engine import Minimum, Problem
from analysis.laws import Law, resolve
from scaling import table
from scaling.table import TableError

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


OBJECTIVES = ("auto", "huber", "ls", "lad")
INTERVALS = ("auto", *uncertainty.METHODS)


@dataclass(frozen=True)
class FitResult:
    """One law fitted to one table. Made by :func:`fit`."""

    law: Law
    params: dict[str, float]
    """Every parameter of the law, those held fixed included."""
    stderr: dict[str, float]
    """Standard error of each; 0 for a parameter held fixed."""
    samples: pd.DataFrame = field(repr=False)
    """Draws from the sampling distribution: one row a draw, one column a parameter."""
    runs: pd.DataFrame = field(repr=False)
    """The rows that were fitted."""
    objective: float
    """The objective at its minimum, summed or averaged over rows as `loss` says."""
    loss: str
    """The objective in words, such as 'Huber(delta=0.001) of log L, sum'."""
    status: tuple[str, ...]
    """'converged' or 'not converged', then everything a reader should be warned of."""
    certificate: dict[str, Any] = field(repr=False)
    """Evidence that the minimum is the global one, and what the data leave open."""
    intervals: str = "bootstrap"
    """What the samples are draws of: one of uncertainty.METHODS."""
    timings: dict[str, float] = field(default_factory=dict, repr=False)
    """Seconds spent, by stage."""
    problem: Problem | None = field(default=None, repr=False, compare=False)
    minimum: Minimum | None = field(default=None, repr=False, compare=False)

    @property
    def n(self) -> int:
        """Rows fitted."""
        return len(self.runs)

    @property
    def ok(self) -> bool:
        """Converged, and nothing to be warned of."""
        return self.status == ("converged",)

    @property
    def fitted(self) -> pd.Series:
        """The law at each row of `runs`."""
        y = self.predict(**{name: self.runs[name].to_numpy(float) for name in self.law.inputs})
        return pd.Series(y, self.runs.index, name=self.law.target)

    @property
    def residuals(self) -> pd.Series:
        """(measured - fitted) / fitted of each row, indexed like `runs`."""
        return (self.runs[self.law.target] / self.fitted - 1).rename("residual")

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
        _check_level(level)
        columns = {name: np.asarray(x, float) for name, x in columns.items()}
        shape = np.broadcast_shapes(*(x.shape for x in columns.values()))
        flat = {name: np.broadcast_to(x, shape).reshape(-1, 1) for name, x in columns.items()}
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
        draws of the linearised fit; with `profile` from the profile likelihood.
        """
        _check_level(level)
        rows = {}
        for p, value in self.params.items():
            estimate = self._estimate(value, self._draws(p), level)
            if self.stderr[p] > 0 and (self.intervals == "delta" or not len(self.samples)):
                low, high = self._linearised(p, level)
                estimate = estimate._replace(low=low, high=high)
            if profile and self.stderr[p] > 0:
                found = self.profile(p, level)
                estimate = estimate._replace(low=found.low, high=found.high)
            rows[p] = estimate._replace(stderr=self.stderr[p])
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(Estimate._fields))

    def profile(self, name: str, level: float = 0.95) -> uncertainty.Profile:
        """Profile likelihood of one fitted parameter: the curve and its interval."""
        if self.problem is None or self.minimum is None:
            raise FitError("this result carries no data to profile: fit it again.")
        if name not in self.problem.free:
            raise FitError(
                f"{name!r} is not a fitted parameter of {self.law.name}; those are "
                f"{', '.join(self.problem.free)}."
            )
        return uncertainty.profile(self.problem, self.minimum, name, level)

    def derived(
        self, what: str | Callable[[Mapping[str, Any]], Any], level: float = 0.95
    ) -> Estimate:
        """A quantity computed from the parameters, with its interval.

        `what` names one of the law's derived quantities, is an expression ("beta / (alpha +
        beta)"), or a function of a mapping from parameter names to values (numbers or arrays).
        Raises FitError for an expression that cannot be evaluated.
        """
        _check_level(level)
        if callable(what):
            value = float(what(self.params))
            draws = what({p: self._draws(p) for p in self.params})
        else:
            expression = self.law.derived.get(what, what)
            try:
                value = float(np.ravel(pd.DataFrame([self.params]).eval(expression))[0])
                draws = self.samples.eval(expression)
            except Exception as error:
                known = ", ".join([*self.law.derived, *self.params])
                raise FitError(
                    f"derived({what!r}): {error}. Use an expression in {known}, or a function."
                ) from error
        return self._estimate(value, np.asarray(draws, float), level)

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
        rows = self.summary(level).map("{:.5g}".format)
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
        return f"{self.n} rows, {', '.join(spans)}; {self.loss} = {self.objective:.6g}"

    def _notes(self) -> list[str]:
        c, r = self.certificate, self.residuals.abs()
        what = {"delta": "linearised (t)", "bootstrap": "percentile bootstrap"}
        drawn = f"{what.get(self.intervals, self.intervals)}, {len(self.samples)} draws"
        if c["groups"] < self.n:
            drawn += f", clustered in {c['groups']} runs"
        gap = "no other" if c["gap"] is None else f"the next is {100 * c['gap']:.2g} % higher"
        return [
            f"intervals: {drawn if len(self.samples) else what['delta']}",
            f"residuals: median {100 * r.median():.2g} %, largest {100 * r.max():.2g} % "
            f"(row {r.idxmax()})",
            f"minimum: reached by {100 * c['share']:.0f} % of {c['starts']} starts, {gap}",
            f"status: {'; '.join(self.status)}",
        ]

    def _draws(self, name: str) -> np.ndarray:
        return self.samples[name].to_numpy(float)

    def _on_log(self) -> bool:
        return self.problem is None or self.problem.on == "log"

    def _free(self) -> int:
        return sum(s > 0 for s in self.stderr.values())

    def _residuals_on_scale(self) -> np.ndarray:
        if self._on_log():
            return np.log1p(self.residuals.to_numpy(float))
        return (self.runs[self.law.target] - self.fitted).to_numpy(float)

    def _linearised(self, name: str, level: float) -> tuple[float, float]:
        """Student's t interval of a parameter: of its logarithm where the fit worked with that."""
        value, stderr = self.params[name], self.stderr[name]
        assert self.problem is not None
        half = float(special.stdtrit(self.certificate["freedom"], (1 + level) / 2)) * stderr
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
        cov, freedom = uncertainty.covariance(self.problem, self.minimum)
        values, vectors = np.linalg.eigh(cov)
        root = vectors * np.sqrt(np.maximum(values, 0))  # columns: one standard error
        step = 1e-4 / np.maximum(1.0, np.abs(root).max(axis=0))
        theta = np.concatenate([root * step, -root * step], axis=1) + self.minimum.theta
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
            sd = float(np.std(draws, ddof=1))
        if self.intervals == "delta":  # Student's t with few degrees of freedom has no variance
            one = special.ndtr(1.0)
            left, right = np.quantile(draws, [1 - one, one])
            sd = float(right - left) / 2 / float(special.stdtrit(self.certificate["freedom"], one))
        return Estimate(value, sd, float(low), float(high))


def _quantiles(draws: np.ndarray, level: float) -> np.ndarray:
    """The central interval along the last axis; a draw that overflowed counts as very large."""
    draws = np.nan_to_num(draws, nan=1e300, posinf=1e300, neginf=-1e300)
    return np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=-1)


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
    cluster: str | None = "run_id",
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
        the residuals. 'auto' is 'huber', or 'ls' for fewer than 25 runs.
    delta: Huber's threshold. None ties it to the residuals, 1.345 times 1.4826 times their median
        size, which costs 5 % of efficiency under Gaussian noise; Hoffmann et al. 2022 and most
        papers since use 1e-3, which costs about 20 %.
    on: 'log' compares logarithms, as the papers do; 'raw' the values themselves.
    reduce: 'sum' or 'mean', how `FitResult.objective` is stated; the fit is the same.
    bootstrap: how many draws; 0 for none.
    intervals: 'bootstrap' (percentile, over runs), 'residual', 'wild', 'delta' (linearised, with
        Student's t), or 'auto': 'bootstrap', or 'delta' for fewer than 25 runs.
    cluster: the column that says which rows belong to one run and are drawn together. None, or a
        column that is not there, makes every row its own.
    fixed: parameters held at a value.
    weights: non-negative, one a row (an array, or the name of a column).
    seed: of starts and draws: the same seed gives the same result.
    warm: an earlier result of the same law, whose minima are tried first; saves time.

    Raises TableError for a table that cannot be used, LawError for a law that cannot, FitError
    where no usable fit exists. Lesser trouble is told by `FitResult.status`.
    """
    began = time.perf_counter()
    law = resolve(law)
    _check_options(objective, delta, on, reduce, bootstrap, intervals)
    fixed = {p: float(value) for p, value in (fixed or {}).items()}
    for p in fixed:
        if p not in law.params:
            raise FitError(
                f"fixed: {law.name} has no parameter {p!r}; it has {', '.join(law.params)}."
            )
    runs, w = _usable(law, runs, weights, on)
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
    small = problem.units() < uncertainty.SMALL
    if objective == "auto":
        objective = "ls" if small and delta is None else "huber"
    if intervals == "auto":
        intervals = "delta" if small else "bootstrap"
    try:
        minimum = engine.minimise(problem, objective, delta, seed, _warm(problem, warm))
    except FloatingPointError as error:
        raise FitError(
            f"{law.name} is {error}: check the units of {', '.join(law.inputs)} and the law's "
            "Range of each parameter."
        ) from error
    solved = time.perf_counter()
    certificate = _certificate(problem, minimum)
    certified = time.perf_counter()
    cov, freedom = _natural_covariance(problem, minimum)
    certificate["freedom"] = freedom
    params = {p: float(v[0]) for p, v in problem.params(minimum.theta).items()}
    stderr = dict.fromkeys(law.params, 0.0)
    for j, (p, log) in enumerate(zip(problem.free, problem.model.log, strict=True)):
        stderr[p] = float(np.sqrt(cov[j, j])) * (params[p] if log else 1.0)
    samples = pd.DataFrame(columns=list(law.params), dtype=float)
    if bootstrap:
        draws = uncertainty.draw(problem, minimum, intervals, bootstrap, seed)
        samples = pd.DataFrame(problem.params(draws.theta))
        certificate |= {"resamples": draws.converged, "rescued": draws.rescued}
        if intervals != "delta":
            with np.errstate(over="ignore", invalid="ignore"):
                stderr |= {p: float(samples[p].std()) for p in problem.free}
    ended = time.perf_counter()
    return FitResult(
        law,
        params,
        stderr,
        samples,
        runs,
        _stated(problem, minimum, objective, reduce),
        _loss_in_words(objective, minimum.delta, on, law.target, reduce),
        _status(problem, runs, minimum, certificate),
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
    )


# --- Checks ---------------------------------------------------------------------------------------


def _check_options(
    objective: str, delta: float | None, on: str, reduce: str, bootstrap: int, intervals: str
) -> None:
    for name, value, known in (
        ("objective", objective, OBJECTIVES),
        ("on", on, ("log", "raw")),
        ("reduce", reduce, ("sum", "mean")),
        ("intervals", intervals, INTERVALS),
    ):
        if value not in known:
            raise FitError(f"{name}={value!r} is not known: use one of {', '.join(known)}.")
    if delta is not None and not delta > 0:
        raise FitError(f"delta={delta} must be positive: it is the residual where Huber bends.")
    if delta is not None and objective in ("ls", "lad"):
        raise FitError(f"delta={delta} belongs to objective='huber', not to {objective!r}.")
    if bootstrap < 0 or int(bootstrap) != bootstrap:
        raise FitError(f"bootstrap={bootstrap} must be a whole number of draws, 0 for none.")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise FitError(f"level={level} must lie between 0 and 1, such as 0.95.")


def _usable(law: Law, runs: pd.DataFrame, weights: Any, on: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows to fit and their weights."""
    if not isinstance(runs, pd.DataFrame):
        raise TableError(f"runs must be a pandas DataFrame, not {type(runs).__name__}.")
    table.check(runs, need=[*law.inputs, law.target])
    if weights is None:
        w = np.ones(len(runs))
    elif isinstance(weights, str):
        if weights not in runs.columns:
            raise TableError(table.missing_column(weights, runs.columns))
        w = runs[weights].to_numpy(float)
    else:
        w = np.asarray(weights, float)
        if w.shape != (len(runs),):
            raise TableError(f"weights have shape {w.shape}, but the table has {len(runs)} rows.")
    if "status" in runs.columns:
        ok = (runs["status"] == "ok").to_numpy()
        runs, w = runs[ok], w[ok]
        if not len(runs):
            raise TableError("no row has status 'ok': nothing to fit.")
    if not (np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
        raise TableError("weights must be finite and not negative, and not all zero.")
    for name in (*law.inputs, law.target):
        x = pd.to_numeric(runs[name], errors="coerce").to_numpy(float)
        bad = ~np.isfinite(x) | ((x <= 0) if name in law.inputs or on == "log" else False)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise TableError(
                f"column {name!r} must be positive and finite: {bad.sum()} of {len(x)} rows "
                f"{'is' if bad.sum() == 1 else 'are'} not, first at row {runs.index[row]} "
                f"({name}={runs[name].iloc[row]}). Drop these rows, or mark the run as "
                "status='diverged'."
            )
    return runs, w


def _groups(runs: pd.DataFrame, cluster: str | None) -> np.ndarray:
    if cluster is None or cluster not in runs.columns:
        return np.arange(len(runs))
    codes, _ = pd.factorize(runs[cluster], use_na_sentinel=False)
    return codes if codes.max() + 1 < len(codes) else np.arange(len(runs))


def _warm(problem: Problem, result: FitResult | None) -> np.ndarray | None:
    """The minima of another result as unknowns of this problem."""
    if result is None or result.problem is None or result.minimum is None:
        return None
    if result.law != problem.law or result.problem.free != problem.free:
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


def _status(
    problem: Problem, runs: pd.DataFrame, minimum: Minimum, certificate: Mapping[str, Any]
) -> tuple[str, ...]:
    words = ["converged" if minimum.converged else "not converged"]
    if certificate["at_bound"]:
        words.append(f"at bound: {', '.join(certificate['at_bound'])}")
    if certificate["wrong_sign"]:
        words.append(f"wrong sign: {', '.join(certificate['wrong_sign'])}")
    if certificate["not_identified"]:
        words.append(f"not identified: {', '.join(certificate['not_identified'])}")
    if certificate["gap"] is not None and certificate["gap"] < 0.05:
        words.append(f"several basins: another is only {100 * certificate['gap']:.2g} % higher")
    if certificate["correlated"]:
        pairs = [f"{p}~{q} ({rho:.4f})" for p, q, rho in certificate["correlated"]]
        words.append(f"correlated: {', '.join(pairs)}")
    return (*words, *_suspicions(problem, runs))


def _suspicions(problem: Problem, runs: pd.DataFrame) -> list[str]:
    """What looks wrong in the table itself."""
    words = []
    x, L = problem.columns, problem.target
    measured = runs.drop(columns="run_id", errors="ignore").select_dtypes("number")
    copies = int(measured.duplicated().sum())
    if copies:
        words.append(f"duplicates: {copies} rows repeat another exactly")
    if "N" in x and "D" in x and np.mean(x["N"] > x["D"]) > 0.9:
        words.append(
            f"implausible: N exceeds D in {100 * np.mean(x['N'] > x['D']):.0f} % of the rows "
            "(are the columns swapped?)"
        )
    if problem.law.target == "L":
        # A model that knows nothing has L = ln(vocabulary): 12.5 for the largest in use.
        known = "vocab_size" in runs.columns
        limit = np.log(runs["vocab_size"].to_numpy(float)) if known else np.full(len(L), 13.0)
        over = (L / limit) > 1.05
        if over.any():
            worst = int(np.argmax(L - limit))
            words.append(
                f"implausible: L={L[worst]:.3g} in {over.sum()} rows like row {runs.index[worst]}, "
                f"above ln(vocabulary) = {limit[worst]:.3g} (bits or perplexity rather than nats "
                "per token?)"
            )
    return words


# --- Certificate ----------------------------------------------------------------------------------


def _natural_covariance(problem: Problem, minimum: Minimum) -> tuple[np.ndarray, float]:
    """Covariance (q, q) of the logs of coefficients, and of exponents; degrees of freedom."""
    cov, freedom = uncertainty.covariance(problem, minimum)
    mix = problem.model.natural(np.eye(problem.q))
    return mix @ cov @ mix.T, freedom


def _certificate(problem: Problem, minimum: Minimum) -> dict[str, Any]:
    free = problem.free
    J = engine.gradients(problem, minimum.theta) * np.sqrt(problem.weights)[:, None]
    r = problem.residuals(minimum.theta)[0]
    psi = np.clip(r, -minimum.delta, minimum.delta) * np.sqrt(problem.weights)
    norms = np.linalg.norm(J, axis=0) + 1e-300
    cosine = np.abs(psi @ J) / (norms * max(np.linalg.norm(psi), 1e-12 * np.sqrt(problem.n)))
    cov, _ = _natural_covariance(problem, minimum)
    sd = np.sqrt(np.diag(cov)) + 1e-300
    with np.errstate(all="ignore"):
        rho = cov / np.outer(sd, sd)
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
    return {
        "rows": problem.n,
        "groups": problem.units(),
        "delta": None if np.isinf(minimum.delta) else minimum.delta,
        "starts": minimum.starts,
        "share": minimum.share,
        "gap": gap,
        "gradient": float(cosine.max()),
        "condition": float(np.linalg.cond(J.T @ J)),
        "at_bound": _at_bound(problem, params),
        "wrong_sign": [p for p in free if ranges[p].positive and params[p] <= 0],
        "not_identified": list(uncertainty.unidentified(problem, minimum)),
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
        "huber": f"Huber(delta={delta:.4g})",
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
