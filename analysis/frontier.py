"""The compute-optimal frontier: N_opt(C), D_opt(C), L_opt(C), by every method in use.

envelope     lower envelope of the learning curves (Kaplan et al. 2020, Figs. 1 and 13; Hoffmann
             et al. 2022, approach 1)
isoflop      minima of loss against size at fixed compute, by parabola (Hoffmann et al. 2022,
             approach 2)
akima        the same by Akima interpolation in log-log (Porian et al. 2024)
parametric   least loss of a fitted law of N and D at fixed compute (Hoffmann et al. 2022,
             approach 3): in closed form where there is one, numerically otherwise
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.interpolate import Akima1DInterpolator, CubicSpline

from analysis import laws
from analysis.fitting.checks import FitError, check_draws, check_level
from analysis.fitting.fit import fit
from analysis.fitting.intervals import interval
from analysis.fitting.result import FitResult
from analysis.laws import Law
from analysis.tables.conventions import counted, in_words, meaning, per_token, six
from scaling.config import ConfigError
from scaling.table import TableError, sensible

METHODS = ("envelope", "isoflop", "akima", "parametric")
_GRID = 512
"""Points of log C at which learning curves are compared."""
_KNOTS = 32
"""Points of one curve that its spline is fitted to; more are averaged."""
_TANGENTS = 1024
"""Slopes at which curves are touched from below to draw their envelope."""
_BATCH = 250
"""Resamples whose envelopes are in memory at once."""
_SLACK = 0.05
"""Runs whose C differ by less than this share a budget."""
_TOLERANCES = (_SLACK, 0.12, 0.3)
"""Tried in turn where C is only nearly the same within a budget."""
_COVERED = 0.95
"""Share of the runs that a tolerance must put into budgets for no wider one to be tried."""
_ENOUGH = 250
"""Runs that show the shape of a law as well as thousands do."""
_SAME = 0.02
"""Sizes that differ relatively by less are one size."""
_LOST = 0.05
"""A minimum that more resamples than these lack is none."""
_NEAR = 8.0
"""A parabola uses sizes within this factor of the best one (and at least five)."""
_FEWEST = 4
"""Sizes that a budget needs before its minimum can be interior and its curvature known."""


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
            return _optimal(self.fit.law, _stacked(self.fit), C, self.per_token, self.served)
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
        excess = self.draws(C)["L"] - _stacked(self.fit)["E"][:, None]
        return _line(np.log(C) - self.centre, np.log(np.maximum(excess, 1e-300)))[:, 1]

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


def frontier(
    data: pd.DataFrame | FitResult,
    *,
    method: str | None = None,
    curves: pd.DataFrame | None = None,
    law: Law | str = "chinchilla",
    params: str = "N",
    flops: str | Callable[[Any], Any] = "C",
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    tolerance: float | None = None,
) -> Frontier | Comparison:
    """The compute-optimal frontier of runs, of learning curves, or of a fitted law of N and D.

    data     a FitResult; runs, one row a run; or learning curves, one row an evaluation (both as
             `load` gives them).
    method   'envelope', 'isoflop', 'akima', 'parametric', or 'all' for a Comparison. Where not
             given: parametric for a fit, envelope for curves, parametric for runs.
    curves   the learning curves of the runs in `data`, for the envelope within 'all'.
    law      what the parametric method fits to runs.
    params   what N counts: a column, or N_total, N_kaplan, N_head from the shape.
    flops    what C counts: a column, '6 N_total D', or C_kaplan, C_chinchilla, C_matmul from the
             shape (see analysis.conventions); for the parametric method also a function of N that
             gives the FLOPs of one token.
    tolerance  how far apart, relatively, the C of one isoFLOP budget may lie (see `isoflop`).

    Intervals are percentile bootstraps: of whole runs (envelope, parametric), or of the noise
    about each minimum (isoflop, akima; there scaled up where the minima scatter more than that).
    Raises TableError where the data do not allow the method, saying what is lacking.
    """
    check_draws(bootstrap, seed)
    check_level(level)
    if tolerance is not None and not (sensible(tolerance) or tolerance == 0):
        raise FitError(f"tolerance={tolerance} must be a finite number, 0 or more, such as 0.1.")
    options: dict[str, Any] = {"bootstrap": bootstrap, "level": level, "seed": seed}
    if isinstance(data, FitResult):
        if method not in (None, "parametric"):
            raise TableError(
                f"method={method!r} needs runs or learning curves; a fitted law has the parametric "
                "frontier only."
            )
        return parametric(data, flops=flops, level=level)
    is_curve = "D_total" in data.columns
    method = method or ("envelope" if is_curve else "parametric")
    if method not in (*METHODS, "all"):
        raise TableError(
            f"method={method!r} is unknown; the methods are {', '.join(METHODS)} and all."
        )
    points = data if is_curve else curves
    runs = _last(data) if is_curve else data

    def one(name: str) -> Frontier:
        if name == "parametric":
            table = counted(runs, params, flops if isinstance(flops, str) else "C")
            fitted = fit(law, table, bootstrap=bootstrap, seed=seed)
            per = per_token(table) if isinstance(flops, str) else flops
            front = parametric(fitted, flops=per, level=level)
        elif callable(flops):
            raise TableError(
                f"flops as a function of N is for the parametric method; {name} needs a column."
            )
        elif name == "envelope":
            if points is None:
                raise TableError(
                    "the envelope needs learning curves: load(folder, curves=True), or give them "
                    "as frontier(runs, curves=...)."
                )
            front = envelope(counted(points, params, flops), **options)
        else:
            table = counted(runs, params, flops)
            if points is not None and not budgets_of(table):
                table = slices(counted(points, params, flops))
            elif flops != "C" and not budgets_of(table) and table["N"].duplicated().any():
                table = slices(table.assign(run_id=table["N"].astype(str)))
            front = isoflop(table, kind=name, tolerance=tolerance, **options)
        return replace(front, params=params, flops=in_words(flops))

    if method != "all":
        return one(method)
    fronts, skipped = {}, {}
    for name in METHODS:
        try:
            fronts[name] = one(name)
        except (TableError, FitError) as error:
            skipped[name] = str(error)
    if not fronts:
        raise TableError("no method works on these data: " + " | ".join(skipped.values()))
    return Comparison(fronts, skipped)


# ------------------------------------------------------------------ envelope


def envelope(
    curves: pd.DataFrame,
    *,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Frontier:
    """The lower envelope of learning curves (one row an evaluation; columns run_id, N, D, C, L).

    Each curve is smoothed by a cubic spline in log-log, its stiffness by cross-validation: the
    least of many noisy values is too low. A size's curves are then replaced by their lower convex
    envelope, which joins the ends of decayed runs. Two neighbouring sizes cross where the optimum is their
    geometric mean, up to the third derivative of loss in ln N; a line through these crossings has
    neither the bias of the envelope's staircase nor its dependence on the ends. Where a size is
    best the envelope touches L_opt: the line of L goes through the middles of these stretches.

    Source: Kaplan et al. 2020, Figs. 1 and 13; Hoffmann et al. 2022, section 3.1
    """
    curves = counted(curves, "N", "C", need=("run_id",))
    sizes, x, loss, of = _smoothed(curves)
    envelopes = _Envelopes(x, loss, of, len(sizes))
    (everything,) = envelopes(np.ones((1, len(of)), bool))
    winner = _winner(everything)
    marks = _marks(x, winner, everything.min(axis=0), sizes)
    if len(marks.crossings) < 2:
        raise TableError(
            f"the envelope needs three sizes that take turns in being best; of {len(sizes)} sizes "
            f"{len(marks.crossings) + 1} ever are (N = "
            f"{', '.join(f'{sizes[i]:.3g}' for i in np.unique(winner[winner >= 0]))}). "
            "Train the others longer or shorter, or add sizes between."
        )
    rng = np.random.default_rng(seed)
    runs = loss.shape[0]
    picked = rng.multinomial(runs, np.full(runs, 1 / runs), size=bootstrap) > 0
    per = per_token(curves)
    centre = float(marks.crossings[:, 0].mean())
    rows = [_envelope_lines(marks, per, centre)]
    for part in np.array_split(picked, max(1, bootstrap // _BATCH)):
        for again in envelopes(part):
            found = _marks(x, _winner(again), again.min(axis=0), sizes)
            rows.append(_envelope_lines(found, per, centre))
    lines = {name: np.array([row[name] for row in rows]) for name in ("N", "D", "L")}
    status = _few(lines["N"], bootstrap)
    never = [f"{sizes[i]:.3g}" for i in range(len(sizes)) if i not in set(winner)]
    if never:
        status.append(f"N = {', '.join(never)} is never best within the compute of the curves")
    if np.bincount(of).max() == 1:
        status.append(
            "one run a size: earlier points of a run are above the loss that a schedule of their "
            "own length would reach, so the frontier of decayed runs lies lower"
        )
    if "B" in curves.columns and (curves.groupby("N")["B"].nunique() > 1).any():
        B = curves["B"]
        status.append(
            f"runs of several batch sizes ({B.min():.4g} to {B.max():.4g} tokens) in one envelope: it "
            "takes the best, but batches far above the critical one spend more than C_min; see "
            "method kaplan, or analysis.batch.adjusted"
        )
    status += _curved(marks.touches[:, 0], marks.touches[:, 2])
    both = np.concatenate([marks.crossings, marks.touches])
    kinds = ["crossing"] * len(marks.crossings) + ["touch"] * len(marks.touches)
    C, N = np.exp(both[:, 0]), both[:, 1]
    optima = pd.DataFrame({"C": C, "N": N, "D": C / per(N), "L": np.exp(both[:, 2])})
    optima = optima.assign(kind=kinds).sort_values("C", ignore_index=True)
    return Frontier(
        "envelope", "N", "6 N D", optima, _ranges(curves, optima), tuple(status), lines, centre,
        None, level, per,
    )  # fmt: skip


def _smoothed(curves: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """sizes (g,), ln C (c,), ln L of each run there (r, c; inf where it has no data), and the
    index of each run's size (r,)."""
    sizes = np.unique(curves["N"])
    x = np.linspace(np.log(curves["C"].min()), np.log(curves["C"].max()), _GRID)
    losses, of = [], []
    for _, curve in curves.sort_values("C").groupby("run_id", sort=False):
        u, first = np.unique(np.log(curve["C"].to_numpy(float)), return_index=True)
        v = np.log(curve["L"].to_numpy(float))[first]
        inside = (x >= u[0]) & (x <= u[-1])
        row = np.full(_GRID, np.inf)
        if len(u) >= 5:
            row[inside] = _smooth(*_thinned(u, v))(x[inside])
        elif len(u) >= 2:
            row[inside] = np.interp(x[inside], u, v)
        losses.append(row)
        of.append(int(np.searchsorted(sizes, curve["N"].iloc[0])))
    return sizes, x, np.array(losses), np.array(of)


def _smooth(u: np.ndarray, v: np.ndarray) -> CubicSpline:
    """The natural cubic smoothing spline of v at u (n >= 5), its stiffness by generalised
    cross-validation.

    In the basis of Demmler and Reinsch the residuals are the coefficients times s / (1 + s), s the
    stiffness times an eigenvalue, so that all stiffnesses are tried at once.

    Source: Craven and Wahba 1979; Green and Silverman 1994, section 2.3
    """
    h, n = np.diff(u), len(u)
    Q = np.zeros((n, n - 2))
    inner = np.arange(n - 2)
    Q[inner, inner], Q[inner + 2, inner] = 1 / h[:-1], 1 / h[1:]
    Q[inner + 1, inner] = -1 / h[:-1] - 1 / h[1:]
    R = np.diag((h[:-1] + h[1:]) / 3) + np.diag(h[1:-1] / 6, 1) + np.diag(h[1:-1] / 6, -1)
    eigen, basis = np.linalg.eigh(Q @ np.linalg.solve(R, Q.T))
    eigen[:2] = 0.0  # straight lines cost nothing
    z = basis.T @ v
    s = np.geomspace(1e-3, 1e5, 97)[:, None] / np.median(eigen[2:]) * eigen
    left = s / (1 + s)
    best = np.argmin(((left * z) ** 2).sum(axis=1) / left.sum(axis=1) ** 2)
    return CubicSpline(u, basis @ (z * (1 - left[best])), bc_type="natural")


def _thinned(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most _KNOTS means of neighbouring points, both ends kept: what a smooth curve needs."""
    if len(u) <= _KNOTS:
        return u, v
    inner = np.linspace(u[0], u[-1], _KNOTS - 1)[1:-1]
    cell = np.concatenate([[-1], np.searchsorted(inner, u[1:-1]), [_KNOTS]])
    _, cell, count = np.unique(cell, return_inverse=True, return_counts=True)
    return np.bincount(cell, u) / count, np.bincount(cell, v) / count


class _Envelopes:
    """The lower convex envelope of each size's curves in log-log, for many choices of runs at once.

    A sum of powers of C, as L is in D = C / (6 N) at fixed N, is convex in log-log. A decaying
    learning rate makes each run dip at its end, below where the longer runs of its size then are;
    the envelope joins these ends. It is the largest of the tangents below all runs chosen, at
    _TANGENTS slopes: of a union of curves each tangent is the lowest of the curves' own.
    """

    def __init__(self, x: np.ndarray, loss: np.ndarray, of: np.ndarray, sizes: int):
        corners = [_lower_hull(x[known], row[known]) for row, known in _thin(loss)]
        self.x, self.of_size = x, [np.flatnonzero(of == i) for i in range(sizes)]
        whole = [
            _lower_hull(*(np.concatenate([corners[r][k] for r in runs]) for k in (0, 1)))
            for runs in self.of_size
        ]
        slopes = np.concatenate([np.diff(v) / np.diff(u) for u, v in (*corners, *whole)])
        if not len(slopes):
            raise TableError(
                "the envelope needs learning curves; here no run, and no size, has two evaluations "
                "of different C. Give tables with rows along each run, or use another method."
            )
        self.slopes = np.unique(np.quantile(slopes, np.linspace(0, 1, _TANGENTS)))
        self.tangents = np.array([(v - np.outer(self.slopes, u)).min(axis=1) for u, v in corners])
        self.ends = np.array([(u[0], u[-1]) for u, _ in corners])

    def __call__(self, picked: np.ndarray) -> np.ndarray:
        """ln L (resamples, sizes, c) of the runs `picked` (resamples, r); inf where a size has no
        data."""
        out = np.empty((len(picked), len(self.of_size), len(self.x)))
        for i, runs in enumerate(self.of_size):
            chosen, again = np.unique(picked[:, runs], axis=0, return_inverse=True)
            out[:, i] = self._one(runs, chosen)[again.ravel()]
        return out

    def _one(self, runs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """The same of one size: chosen (k, its runs) to (k, c)."""
        height = np.full((len(chosen), len(self.slopes)), np.inf)
        low, high = np.full(len(chosen), np.inf), np.full(len(chosen), -np.inf)
        for r, one in zip(runs, chosen.T, strict=True):
            height[one] = np.minimum(height[one], self.tangents[r])
            low[one] = np.minimum(low[one], self.ends[r, 0])
            high[one] = np.maximum(high[one], self.ends[r, 1])
        height[~np.isfinite(low)] = 0.0
        # Tangents take over from each other in the order of their slopes.
        corner = -np.diff(height) / np.diff(self.slopes)
        width = len(self.x) + 1
        cell = np.ceil((corner - self.x[0]) / (self.x[1] - self.x[0]))
        cell = np.clip(cell, 0, width - 1).astype(int) + width * np.arange(len(chosen))[:, None]
        passed = np.bincount(cell.ravel(), minlength=width * len(chosen)).reshape(-1, width)
        at = np.cumsum(passed[:, :-1], axis=1)
        least = np.take_along_axis(height, at, axis=1) + self.slopes[at] * self.x
        inside = (self.x >= low[:, None]) & (self.x <= high[:, None])
        return np.where(inside, least, np.inf)


def _thin(loss: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each run's row with at most _KNOTS of the points at which it has data."""
    for row in loss:
        known = np.flatnonzero(np.isfinite(row))
        yield row, known[np.linspace(0, len(known) - 1, min(_KNOTS, len(known))).astype(int)]


def _lower_hull(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the lower convex hull of points, by Andrew's monotone chain."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(zip(u.tolist(), v.tolist(), strict=True)):
        if kept and x == kept[-1][0]:
            continue
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (y1 - y0) * (x - x1) < (y - y1) * (x1 - x0):
                break
            kept.pop()
        kept.append((x, y))
    corners = np.array(kept).reshape(-1, 2)
    return corners[:, 0], corners[:, 1]


def _winner(envelopes: np.ndarray) -> np.ndarray:
    """Index of the size with the least loss at each ln C; -1 where none has data."""
    best = envelopes.argmin(axis=0)
    return np.where(np.isfinite(envelopes.min(axis=0)), best, -1)


class _Marks(NamedTuple):
    """Rows of ln C, N, ln L."""

    crossings: np.ndarray
    """Where two neighbouring winners take turns, N their geometric mean."""
    touches: np.ndarray
    """The middle of the stretch over which a size wins."""


def _marks(x: np.ndarray, winner: np.ndarray, least: np.ndarray, sizes: np.ndarray) -> _Marks:
    """Crossings of neighbouring winners and the middles of the stretches between them.

    Each size's stretch is as long as the ln C at which it wins, in order of size: short
    alternations that noise causes at a crossing cancel.
    """
    on = winner >= 0
    x, least = x[on], least[on]
    wins = np.bincount(winner[on], minlength=len(sizes))
    best = np.flatnonzero(wins)
    ends = np.cumsum(wins[best])[:-1]
    u = (x[ends - 1] + x[ends]) / 2
    v = (u[:-1] + u[1:]) / 2
    between = np.sqrt(sizes[best][:-1] * sizes[best][1:])
    return _Marks(
        np.column_stack([u, between, np.interp(u, x, least)]),
        np.column_stack([v, sizes[best][1:-1], np.interp(v, x, least)]),
    )


def _envelope_lines(
    marks: _Marks, per: Callable[[Any], Any], centre: float
) -> dict[str, np.ndarray]:
    x, N, _ = marks.crossings.T
    y, _, L = (marks.touches if len(marks.touches) >= 2 else marks.crossings).T
    return {
        "N": _line(x - centre, np.log(N))[0],
        "D": _line(x - centre, x - np.log(per(N)))[0],
        "L": _line(y - centre, L)[0],
    }


# ------------------------------------------------------------------ isoFLOP


def isoflop(
    runs: pd.DataFrame,
    *,
    kind: str = "isoflop",
    tolerance: float | None = None,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Frontier:
    """Minima of ln L against ln N at each compute budget, and power laws through them.

    kind       'isoflop' fits a parabola to the sizes near the best one, 'akima' interpolates all.
    tolerance  runs whose C lie within 1 + tolerance of each other share a budget (5 % where not
               given, more where that leaves most of the runs out).

    A minimum must be interior: where the best size is the smallest or the largest of its budget, or
    the parabola opens downwards, the budget is listed in `optima` with that kind and not used. Rows
    with equal run_id share their noise; repeats of a size (seeds) are averaged, so keep only its
    best learning rate beforehand. Losses at a C slightly off the budget's are moved there along
    Chinchilla's law, fitted to the same runs; on that law `Frontier.bias` is measured.

    Source: Hoffmann et al. 2022, section 3.2; Porian et al. 2024 (arXiv 2406.19146)
    """
    runs = counted(runs, "N", "C")
    budgets, status = _sets(runs, tolerance)
    law = _reference(runs)
    per = per_token(runs)
    spread = max(float(np.ptp(np.log(budget["C"]))) for budget in budgets)
    if spread > 1e-3:
        how = "losses are moved to the budget's C along a fitted law" if law else "not corrected"
        status.append(f"C differs by up to {np.expm1(spread):.1%} within a budget: {how}")
    budgets = [_levelled(budget, law) for budget in budgets]
    noise = _noise(budgets)
    rng = np.random.default_rng(seed)
    groups = pd.factorize(runs["run_id"])[0] if "run_id" in runs else np.arange(len(runs))
    shocks = noise * rng.standard_normal((bootstrap, groups.max() + 1))
    row_of = pd.Series(groups, index=runs.index)
    rows, paths = [], []
    for budget in budgets:
        C = _budget(budget)
        u, v = np.log(budget["N"].to_numpy(float)), np.log(budget["L"].to_numpy(float))
        state = _interior(u, v, kind)
        draws = np.vstack([v, v + shocks[:, row_of[budget.index]]])
        at, least = _minima(u, draws, kind)
        if state == "minimum" and np.mean(~np.isfinite(at)) > _LOST:
            state = "flat"
        bias = np.nan
        if state == "minimum":
            bias = _bias(law, budget, kind, per)
            paths.append((np.log(C), at, least, bias))
            low, high = np.exp(quantiles(at[1:], level))
        else:
            at, least, low, high = at * np.nan, least * np.nan, np.nan, np.nan
        N = np.exp(at[0])
        rows.append((C, N, C / per(N), np.exp(least[0]), state, low, high, len(u), bias))
    columns = ["C", "N", "D", "L", "kind", "N_low", "N_high", "sizes", "bias"]
    optima = pd.DataFrame(rows, columns=columns)
    status += [
        f"no interior minimum at C = {', '.join(f'{C:.3g}' for C in group['C'])}: {_WHY[str(kind)]}"
        for kind, group in optima.groupby("kind")
        if kind != "minimum"
    ]
    if len(paths) < 2:
        found = optima[optima["kind"] == "minimum"]
        raise TableError(
            f"isoFLOP minima need two budgets with an interior minimum; of {len(budgets)} here "
            f"{len(paths)} have one: "
            + "; ".join(
                [*(f"N_opt({r.C:.3g}) = {r.N:.3g}" for r in found.itertuples()), *status]
                or ["one budget only; train another, ten times as large"]
            )
        )
    x = np.array([p[0] for p in paths])
    centre = float(x.mean())
    N, L = np.array([p[1] for p in paths]).T, np.array([p[2] for p in paths]).T
    logs = {"N": N, "D": x - np.log(per(np.exp(N))), "L": L}
    lines = {name: _line(x - centre, y) for name, y in logs.items()}
    status += _few(lines["N"], bootstrap)
    scale = _birge(x - centre, N)
    if scale > 1:
        status.append(
            f"the minima scatter {scale:.1f} times more about the line than the noise of the "
            "losses explains; intervals are widened by that"
        )
        lines = {name: line[0] + scale * (line - line[0]) for name, line in lines.items()}
    if len(paths) == 2:
        status.append("two budgets only: whether the frontier is straight is not tested")
    status += _curved(x, L[0])
    off = np.array([p[3] for p in paths])
    known, bias = np.isfinite(off), None
    if known.sum() >= 2:
        line = _line(x[known] - centre, off[known])[0]
        bias = {"exponent": float(line[1]), "N": float(np.expm1(line[0]))}
    else:
        status.append(
            "the method's own bias is not known: Chinchilla's law, as it fits these runs, has no "
            "minimum within their sizes"
        )
    return Frontier(
        kind, "N", "6 N D", optima, _ranges(runs, optima), tuple(status), lines, centre,
        None, level, per, bias, sets=tuple(budgets),
    )  # fmt: skip


def _reference(runs: pd.DataFrame) -> FitResult | None:
    """Chinchilla's law fitted to the runs (a few hundred of them, spread over N and C), to measure an
    estimator with; None where it cannot be."""
    spread = runs.sort_values(["C", "N"], kind="stable")
    spread = spread.iloc[:: max(1, len(runs) // _ENOUGH)]
    try:
        return fit(laws.chinchilla, spread, bootstrap=0, cluster=None)
    except (FitError, TableError):
        return None


def _budget(budget: pd.DataFrame) -> float:
    """C of a budget: the geometric mean of its runs'."""
    return float(np.exp(np.log(budget["C"]).mean()))


def _levelled(budget: pd.DataFrame, law: FitResult | None) -> pd.DataFrame:
    """The budget with losses as they would be at its own C, each size trained on as much more or
    fewer tokens."""
    if law is None or np.ptp(np.log(budget["C"])) == 0:
        return budget
    N, D = budget["N"].to_numpy(), budget["D"].to_numpy()
    at = D * _budget(budget) / budget["C"].to_numpy()
    return budget.assign(L=budget["L"] * law.predict(N=N, D=at) / law.predict(N=N, D=D))


def _bias(
    law: FitResult | None, budget: pd.DataFrame, kind: str, per: Callable[[Any], Any]
) -> float:
    """ln N of the minimum that the method finds in noiseless losses of the law at the budget's own
    sizes, less the law's true optimum: the method's bias, from the width of the grid, from where
    its middle lies and from alpha != beta; nan where there is none.

    Source: Czech et al. 2026 (arXiv 2603.22339)
    """
    if law is None:
        return np.nan
    C, N = _budget(budget), budget["N"].to_numpy()
    D = budget["D"].to_numpy() * C / budget["C"].to_numpy()
    u, v = np.log(N), np.log(law.predict(N=N, D=D))
    true = _optimal(law.law, _stacked(law), np.array([C]), per)["N"][0, 0]
    if not np.isfinite(v).all() or _interior(u, v, kind) != "minimum":
        return np.nan
    return float(_minima(u, v[None], kind)[0][0] - np.log(true))


def slices(curves: pd.DataFrame, budgets: int = 8) -> pd.DataFrame:
    """Cut learning curves at `budgets` values of C, as an isoFLOP table (N, D, C, L, run_id).

    Curves are smoothed as for the envelope; a size's loss is the best of its runs there. Budgets
    are spread over the C at which at least four sizes have data, without the outermost tenths.

    Source: Hoffmann et al. 2022, section 3.1; Porian et al. 2024
    """
    sizes, x, loss, of = _smoothed(curves)
    have = sum(np.isfinite(loss[of == i]).any(axis=0) for i in range(len(sizes)))
    wide = x[np.asarray(have) >= _FEWEST]
    if not len(wide):
        raise TableError(f"no compute is reached by the curves of {_FEWEST} sizes: add sizes.")
    names = curves.sort_values("C")["run_id"].unique()
    rows = []
    for cut in np.quantile(wide, np.linspace(0.1, 0.9, budgets)):
        cell = int(np.argmin(np.abs(x - cut)))
        for i, N in enumerate(sizes):
            column = np.where(of == i, loss[:, cell], np.inf)
            best = int(np.argmin(column))
            if np.isfinite(column[best]):
                C = float(np.exp(x[cell]))
                rows.append((names[best], N, C, np.exp(column[best])))
    table = pd.DataFrame(rows, columns=["run_id", "N", "C", "L"])
    return table.assign(D=table["C"] / per_token(curves)(table["N"].to_numpy()))


_WHY = {
    "edge": "the least loss is at the smallest or largest size, so the optimum is outside",
    "concave": "the parabola opens downwards, so it has no minimum",
    "flat": f"within the noise of the losses (in over {_LOST:.0%} of resamples) the parabola may as "
    "well open downwards",
}


def budgets_of(runs: pd.DataFrame, tolerance: float = _SLACK) -> list[pd.DataFrame]:
    """Runs by budget, in order of C, repeats of a size averaged; without those of too few sizes.

    A budget is a window of width ln(1 + tolerance) in ln C; the fullest is taken first, so that
    strays between budgets join none. TableError where repeats of a size differ in batch size.
    """
    return [budget for budget, _ in _windows(runs, tolerance)]


def _windows(runs: pd.DataFrame, tolerance: float) -> list[tuple[pd.DataFrame, pd.Index]]:
    """Budgets in order of C, and the rows of `runs` that each is made of."""
    order = runs.iloc[np.argsort(runs["C"].to_numpy(float), kind="stable")]
    chosen = []
    while len(order) >= _FEWEST:
        x = np.log(order["C"].to_numpy(float))
        end = np.searchsorted(x, x + np.log1p(tolerance) + 1e-12, side="right")
        count = end - np.arange(len(x))
        if count.max() < _FEWEST:
            break
        full = np.flatnonzero(count == count.max())
        start = full[np.argmin(x[end[full] - 1] - x[full])]
        inside = order.iloc[start : end[start]]
        order = order.drop(index=inside.index)
        budget = _one_a_size(inside)
        if len(budget) >= _FEWEST:
            chosen.append((budget, inside.index))
    return sorted(chosen, key=lambda one: _budget(one[0]))


def _one_a_size(budget: pd.DataFrame) -> pd.DataFrame:
    """A budget in order of N, the repeats of a size averaged (in logs)."""
    budget = budget.sort_values("N", kind="stable")
    size = np.cumsum(np.diff(np.log(budget["N"]), prepend=-np.inf) > _SAME)
    if "B" in budget.columns:
        several = np.flatnonzero(budget["B"].groupby(size).nunique() > 1)
        if len(several):
            mixed = budget[size == several[0] + 1]
            B = ", ".join(f"{b:.4g}" for b in np.unique(mixed["B"]))
            raise TableError(
                f"the budget C = {_budget(budget):.3g} has runs of N = {mixed['N'].iloc[0]:.3g} at "
                f"several batch sizes ({B}): an average of them is no minimum. Keep one batch size, "
                "or the best run of each size."
            )
    means = {c: np.exp(np.log(budget[c]).groupby(size).transform("mean")) for c in "NDCL"}
    return budget.assign(**means)[np.diff(size, prepend=0) > 0]


def _sets(runs: pd.DataFrame, tolerance: float | None) -> tuple[list[pd.DataFrame], list[str]]:
    """Budgets, and what to say of the runs that are in none.

    Without a tolerance the least of _TOLERANCES that leaves hardly a run out, or, where none does,
    the one that leaves out the fewest.
    """
    best: list[pd.DataFrame] = []
    used, inside = 0.0, np.zeros(len(runs), bool)
    for width in _TOLERANCES if tolerance is None else (tolerance,):
        found = _windows(runs, width)
        rows = [runs.index.isin(index) for _, index in found]
        covered = np.any(rows, axis=0) if rows else np.zeros(len(runs), bool)
        if covered.sum() > 1.02 * inside.sum():
            best, used, inside = [budget for budget, _ in found], width, covered
        if covered.mean() >= _COVERED:
            break
    if not best:
        width = _TOLERANCES[-1] if tolerance is None else tolerance
        raise TableError(
            f"isoFLOP minima need budgets of at least {_FEWEST} sizes at one C (within "
            f"{width:.0%}); these {len(runs)} runs have none. Train an isoFLOP set, or use "
            "method='envelope'."
        )
    status = []
    if not inside.all():
        left = np.sort(runs["C"].to_numpy()[~inside])
        status.append(
            f"{len(left)} of {len(runs)} runs, C = {left[0]:.3g} to {left[-1]:.3g}, share no budget "
            f"of {_FEWEST} sizes (within {used:.0%}); not used"
        )
    return best, status


def _near(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Mask of the sizes a parabola uses: within a factor of the best, and five at least."""
    distance = np.abs(u - u[np.argmin(v)])
    reach = max(np.log(_NEAR), np.sort(distance)[min(4, len(u) - 1)])
    return distance <= reach * (1 + 1e-12)


def parabola(N: np.ndarray, L: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parabola in log-log that `isoflop` fits to one budget, to be drawn: (which of the sizes
    it uses, N, L along it)."""
    u, v = np.log(N), np.log(L)
    near = _near(u, v)
    origin = u[near].mean()
    x = np.linspace(u[near].min(), u[near].max(), 61)
    y = np.polyval(np.polyfit(u[near] - origin, v[near], 2), x - origin)
    return near, np.exp(x), np.exp(y)


def _interior(u: np.ndarray, v: np.ndarray, kind: str) -> str:
    """'minimum', 'edge' or 'concave': whether the curve through one budget has its least inside."""
    if kind == "akima":
        fine = np.linspace(u[0], u[-1], 1025)
        best = int(np.argmin(Akima1DInterpolator(u, v)(fine)))
        return "edge" if best in (0, len(fine) - 1) else "minimum"
    best = int(np.argmin(v))
    if best in (0, len(u) - 1):
        return "edge"
    near = _near(u, v)
    curvature, slope, _ = np.polyfit(u[near] - u[best], v[near], 2)
    if curvature <= 0:
        return "concave"
    return "minimum" if u[0] < u[best] - slope / (2 * curvature) < u[-1] else "edge"


def _minima(u: np.ndarray, v: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(ln N, ln L) of the minimum of each row of v (resamples, sizes); the first row is the data.

    A resample whose minimum is at the edge stays there (the interval then ends at the data), one
    whose parabola opens downwards is nan.
    """
    if kind == "akima":
        fine = np.linspace(u[0], u[-1], 1025)
        w = Akima1DInterpolator(u, v, axis=1)(fine)
        best = np.clip(np.argmin(w, axis=1), 1, len(fine) - 2)
        left, mid, right = (w[np.arange(len(w)), best + k] for k in (-1, 0, 1))
        bend = left - 2 * mid + right
        shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0.0)
        shift = np.clip(shift, -1, 1)
        return fine[best] + shift * (fine[1] - fine[0]), mid - 0.25 * (left - right) * shift
    near = _near(u, v[0])
    origin = u[near].mean()
    c2, c1, c0 = np.polyfit(u[near] - origin, v[:, near].T, 2)
    c2 = np.where(c2 > 0, c2, np.nan)
    at = np.clip(origin - c1 / (2 * c2), u[0], u[-1])
    return at, c0 + c1 * (at - origin) + c2 * (at - origin) ** 2


def _noise(budgets: Sequence[pd.DataFrame]) -> float:
    """Relative noise of a loss, from how far five neighbours of a budget are from a cubic.

    Pseudo-residuals (Gasser et al. 1986) do not mistake the curve's shape for noise, their median
    does not mistake one odd run for it.
    """
    residuals = []
    for budget in budgets:
        u, v = np.log(budget["N"].to_numpy(float)), np.log(budget["L"].to_numpy(float))
        k = min(5, len(u))
        for i in range(len(u) - k + 1):
            powers = np.vander(u[i : i + k] - u[i : i + k].mean(), k - 1)
            contrast = np.linalg.svd(powers.T)[2][-1]  # unit vector at right angles to cubics
            residuals.append(contrast @ v[i : i + k])
    return float(1.4826 * np.median(np.abs(residuals)))


def _birge(x: np.ndarray, y: np.ndarray) -> float:
    """sqrt(chi2 / dof) of the estimates y[0] about their line, at least 1 (Birge 1932)."""
    freedom = len(x) - 2
    if freedom < 1 or not np.isfinite(y[1:]).any(axis=0).all():
        return 1.0
    spread = np.nanstd(y[1:], axis=0)
    if not (spread > 0).all():
        return 1.0
    intercept, slope = _line(x, y[:1])[0]
    chi2 = np.sum(((y[0] - intercept - slope * x) / spread) ** 2)
    return float(max(1.0, np.sqrt(chi2 / freedom)))


# ------------------------------------------------------------------ parametric


def parametric(
    result: FitResult,
    *,
    flops: str | Callable[[Any], Any] = "C",
    level: float = 0.95,
    served: float = 0.0,
) -> Frontier:
    """The least of a fitted law of N and D at each C, for every resample of the fit.

    By the law's own closed form (Law.optimum), if it has one and C = 6 N D; otherwise the law is
    minimised over ln N at fixed C, to 1e-9 in ln N. A resample without an optimum (an exponent below 0, say)
    is nan and counted in `status`; FitError where the fit itself has none.

    served  tokens of inference to come: C = C_training + 2 N served is what is kept fixed, which
            favours smaller models trained longer.

    Source: Hoffmann et al. 2022, section 3.3 and eq. 4; Sardana et al. 2024 (arXiv 2401.00448), eq. 2
    """
    law = result.law
    if set(law.inputs) != {"N", "D"}:
        raise TableError(
            f"a frontier needs a law of N and D; {law.name} is a law of {', '.join(law.inputs)}. "
            "Fit chinchilla or kaplan_ND."
        )
    if isinstance(flops, str):
        per = per_token(counted(result.runs, "N", flops)) if flops != "C" else six
    else:
        per = flops
    runs = result.runs
    N = runs["N"].to_numpy(float)
    compute = per(N) * runs["D"].to_numpy(float) + 2 * N * served
    span = {"C": (float(compute.min()), float(compute.max()))}
    for name in ("N", "D"):
        span[name] = (float(runs[name].min()), float(runs[name].max()))
    C = np.geomspace(*span["C"], 9) if span["C"][1] > span["C"][0] else span["C"][0] * np.array(
        [0.5, 1.0, 2.0]
    )  # fmt: skip
    values = _optimal(law, _stacked(result), C, per, served)
    if not np.isfinite(values["N"][0]).any():
        found = ", ".join(f"{p} = {v:.3g}" for p, v in result.params.items())
        raise FitError(
            f"{law.name} as fitted ({found}) has no optimum at any compute of the data: no size is "
            "best. Check the table, or fit another law."
        )
    x = np.log(C)
    centre = float(x.mean())
    lines = {name: _line(x - centre, np.log(values[name])) for name in ("N", "D", "L")}
    status: list[str] = [*result.warnings]
    status += _few(lines["N"], len(result.samples))
    inner = (values["N"][0] > span["N"][0] / 2) & (values["N"][0] < span["N"][1] * 2)  # not nan
    if not inner.all():
        status.append(
            f"at {np.sum(~inner)} of {len(C)} budgets within the data the optimum is a model more "
            "than twice outside the sizes trained"
        )
    optima = pd.DataFrame({"C": C} | {name: values[name][0] for name in ("N", "D", "L")})
    low, high = quantiles(values["N"][1:], level)
    optima = optima.assign(kind="law", N_low=low, N_high=high)
    return Frontier(
        "parametric",
        "N",
        in_words(flops),
        optima,
        span,
        tuple(status),
        lines,
        centre,
        result,
        level,
        per,
        served=served,
    )


def _optimal(
    law: Law,
    params: dict[str, np.ndarray],
    C: np.ndarray,
    per: Callable[[Any], Any],
    served: float = 0.0,
) -> dict[str, np.ndarray]:
    """N, D, L of least loss at C, (n,) or (resamples, n), for each set of parameters; nan where
    there is none: a draw far out may have an exponent below 0, or overflow."""
    p = {name: np.asarray(value, float)[:, None] for name, value in params.items()}
    if law.optimum is not None and per is six and not served:
        N = law.optimum(C, **{name: p[name] for name in law.params})
    else:
        N = _argmin(law, p, C, per, served)
    with np.errstate(all="ignore"):
        D = (C - 2 * N * served) / per(N)
        best = {"N": N, "D": D, "L": _predict(law, p, N, D)}
        lost = ~np.all([np.isfinite(v) & (v > 0) for v in best.values()], axis=0)
    return {name: np.where(lost, np.nan, value) for name, value in best.items()}


def _argmin(
    law: Law,
    p: dict[str, np.ndarray],
    C: np.ndarray,
    per: Callable[[Any], Any],
    served: float = 0.0,
) -> np.ndarray:
    """Grids of ln N that close in on the minimum; the first reaches from N = 1 to D = 1. nan where
    the law is nowhere finite."""

    def loss(N: np.ndarray) -> np.ndarray:
        D = (C[..., None] - 2 * N * served) / per(N)
        return _predict(law, deep, N, np.where(D > 0, D, np.nan))

    deep = {name: value[:, :, None] for name, value in p.items()}
    rows = max((len(v) for v in p.values()), default=1)
    low = np.zeros((rows, C.shape[-1]))
    high = np.broadcast_to(np.log(np.maximum(C / 6, 2.0)), low.shape)
    grid = np.linspace(0, 1, 33)
    known = np.ones_like(low, bool)
    for _ in range(5):
        u = low[:, :, None] + (high - low)[:, :, None] * grid
        v = loss(np.exp(u))
        known &= np.isfinite(v).any(axis=2)
        best = np.argmin(np.where(np.isfinite(v), v, np.inf), axis=2)
        take = (
            np.take_along_axis(u, np.clip(best + k, 0, 32)[:, :, None], 2)[:, :, 0] for k in (-1, 1)
        )
        low, high = take
    # Three points about a minimum of finite precision: their parabola is exacter than any of them.
    u = (low + high)[:, :, None] / 2 + 1e-3 * np.array([-1, 0, 1])
    left, mid, right = np.moveaxis(loss(np.exp(u)), 2, 0)
    with np.errstate(invalid="ignore"):
        bend = left - 2 * mid + right
        shift = np.where(bend > 0, 0.5 * (left - right) / np.where(bend > 0, bend, 1), 0.0)
    return np.where(known, np.exp(u[:, :, 1] + 1e-3 * np.clip(shift, -1, 1)), np.nan)


def _predict(law: Law, params: dict[str, np.ndarray], N: Any, D: Any) -> np.ndarray:
    columns = {"N": N, "D": D}
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        return np.asarray(law(*(columns[name] for name in law.inputs), **params), float)


def _stacked(result: FitResult) -> dict[str, np.ndarray]:
    """Each parameter of the law: (1 + resamples,), the estimate first."""
    return {
        name: np.concatenate([[result.params[name]], result.samples[name].to_numpy(float)])
        for name in result.law.params
    }


# ------------------------------------------------------------------ shared


def quantiles(draws: np.ndarray, level: float) -> tuple[Any, Any]:
    """(low, high) of the interval of `level` along the first axis; nan draws are left out, and
    where there are no draws both are nan."""
    known = np.isfinite(draws).any(axis=0)
    if not known.all():
        draws = np.where(known, draws, 0.0) if len(draws) else np.zeros((1, *draws.shape[1:]))
    ends = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = np.where(known, ends, np.nan)
    return low, high


def _last(curves: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each run."""
    return curves.sort_values("D", kind="stable").drop_duplicates("run_id", keep="last")


def _ranges(table: pd.DataFrame, optima: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Of C where the optimum is bracketed; of N and D in the data."""
    used = optima[optima["kind"].isin(("crossing", "minimum"))]
    tables = {"C": used, "N": table, "D": table}
    return {k: (float(t[k].min()), float(t[k].max())) for k, t in tables.items()}


def _line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares (intercept, slope) of each row of y (resamples, n) in x: (resamples, 2)."""
    y = np.atleast_2d(y)
    if len(x) < 2 or np.ptp(x) == 0:
        return np.full((len(y), 2), np.nan)
    mean = x.mean()
    slope = (y - y.mean(axis=1, keepdims=True)) @ (x - mean) / np.sum((x - mean) ** 2)
    return np.column_stack([y.mean(axis=1) - slope * mean, slope])


def _few(lines: np.ndarray, bootstrap: int) -> list[str]:
    lost = int(np.sum(~np.isfinite(lines[1:]).all(axis=1)))
    return [f"{lost} of {bootstrap} resamples have no frontier"] if lost else []


def _curved(x: np.ndarray, y: np.ndarray) -> list[str]:
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
