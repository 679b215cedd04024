"""Status and certificate of a fit: evidence that its minimum is the global one, and warnings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.intervals import covariance, root, undetermined, unidentified
from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import SMALL, Problem
from analysis.fitting.size_effect import estimate, size_effect
from analysis.fitting.solver import gradients
from scaling.columns import COLUMNS

_NARROW = 3.0
"""Range (as a factor) of N, D or C below which a power law looks like any other smooth function."""

_LARGEST_LOSS = 13.0
"""A model that predicts nothing has L = ln(vocabulary), 12.5 for the largest vocabulary in use."""


class Status(str):
    """One line of a fit's status: the text is for readers, `code` is for programs.

    The text is the code in words, followed by a detail: ``Status("at_bound", "E")`` is 'at bound:
    E'.
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


class Note(Status):
    """A line of a status whose text is the detail alone: a sentence that needs no code before
    it."""

    def __new__(cls, code: str, detail: str = "") -> Note:
        self = str.__new__(cls, detail or code.replace("_", " "))
        self.code, self.detail = code, detail
        return self

    def __reduce__(self) -> tuple[type[Status], tuple[str, str]]:
        return Note, (self.code, self.detail)


def as_status(line: str) -> Status:
    """Return a line of a status as one with a code, 'note' if it has none."""
    return line if isinstance(line, Status) else Note("note", line)


CONVERGED = Status("converged")
_CERTIFICATE = ("correlated", "not_identified", "at_bound")
"""Codes about single parameters, which are true of most fits and of interest in the certificate: a
plan names them where they leave it open."""


def worth_telling(status: Iterable[str]) -> list[str]:
    """Return the lines of a status without those that matter in the certificate only."""
    return [line for line in status if getattr(line, "code", "") not in _CERTIFICATE]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Evidence that a minimum is the global one, and what the data do not determine."""

    rows: int
    groups: int
    """Number of independent runs among the rows."""
    delta: float | None
    """Huber's threshold; None for least squares."""
    starts: int
    share: float
    """Fraction of the starts that reached the minimum."""
    reached: int
    """Number of starts that reached the minimum."""
    gap: float | None
    """Relative height of the next local minimum; None if no other was found."""
    gradient: float
    """Largest cosine between the residuals and a derivative of the law: 0 at a minimum."""
    condition: float
    """Condition number of the Gauss-Newton Hessian."""
    at_bound: tuple[str, ...]
    """Positive parameters that went to zero or infinity."""
    wrong_sign: tuple[str, ...]
    """Parameters that should be positive and are not."""
    not_identified: tuple[str, ...]
    """Parameters that could be ten times larger or smaller at no real cost."""
    undetermined: tuple[str, ...]
    """Parameters along a direction in which the fitted values do not change at all."""
    correlated: tuple[tuple[str, str, float], ...]
    """Pairs of parameters whose correlation exceeds 0.99 in absolute value, with the
    correlation."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of rows of the table that were left out, by reason."""
    intervals: str
    """Method of the intervals, as in FitResult."""
    freedom: float
    """Degrees of freedom of the covariance."""
    size_effect: float | None = None
    """Standard deviation of an error that the runs of one size share, on the scale of the
    residuals; None if the rows show none. The intervals include it."""
    size_p: float | None = None
    """p value of the test that there is no such error; None if the rows cannot tell."""
    resamples: float | None = None
    """Fraction of the resamples that converged; None without draws."""
    rescued: int | None = None
    """Number of resamples that another resample's solution improved; None without draws."""
    overflowed: float | None = None
    """Fraction of the draws with a parameter that overflowed; None without draws."""

    def record(self) -> dict[str, Any]:
        """Return a dictionary for JSON; without draws, their entries are absent."""
        values = dataclasses.asdict(self)
        if self.resamples is None:
            for name in ("resamples", "rescued", "overflowed"):
                del values[name]
        return values


def natural_covariance(problem: Problem, minimum: Minimum) -> tuple[np.ndarray, float]:
    """Return the covariance (q, q) of log coefficients and of exponents, and its degrees of
    freedom."""
    cov, freedom = covariance(problem, minimum)
    half = problem.model.natural(np.eye(problem.q)) @ root(cov)
    return half @ half.T, freedom  # a product with its own transpose has no negative diagonal


def certify(
    problem: Problem, minimum: Minimum, intervals: str, left_out: Mapping[str, int]
) -> Certificate:
    """Collect the evidence about a minimum (the fit adds that of the draws)."""
    free = problem.free
    J = gradients(problem, minimum.theta) * np.sqrt(problem.weights)[:, None]
    r = problem.residuals(minimum.theta)[0]
    psi = np.clip(r, -minimum.delta, minimum.delta) * np.sqrt(problem.weights)
    norms = np.linalg.norm(J, axis=0) + 1e-300
    pull = np.zeros((problem.q, 1))
    problem.add_prior(minimum.theta, pull, np.zeros((problem.q, problem.q, 1)), None)
    cosine = np.abs(psi @ J + pull[:, 0]) / (
        norms * max(np.linalg.norm(psi), 1e-12 * np.sqrt(problem.n))
    )
    cov, freedom = natural_covariance(problem, minimum)
    others = minimum.objectives[1:]
    gap = float(others[0] / max(minimum.objective, 1e-300) - 1) if len(others) else None
    params = {p: float(v[0]) for p, v in problem.params(minimum.theta).items()}
    ranges = problem.law.ranges
    flat = undetermined(problem, minimum)
    shared, test = size_effect(problem, minimum), estimate(problem, minimum)
    loose = {*unidentified(problem, minimum), *flat}
    return Certificate(
        rows=problem.n,
        groups=problem.units(),
        delta=None if np.isinf(minimum.delta) else minimum.delta,
        starts=minimum.starts,
        share=minimum.share,
        reached=round(minimum.share * minimum.starts),
        gap=gap,
        gradient=float(cosine.max()),
        condition=float(np.linalg.cond(J.T @ J)),
        at_bound=_at_bound(problem, params),
        wrong_sign=tuple(p for p in free if ranges[p].positive and params[p] <= 0),
        not_identified=tuple(p for p in free if p in loose),
        undetermined=tuple(flat),
        correlated=_correlated(free, cov),
        left_out=left_out,
        intervals=intervals,
        freedom=freedom,
        size_effect=None if shared is None else shared.sd,
        size_p=None if test is None else test.p,
    )


def _correlated(names: tuple[str, ...], cov: np.ndarray) -> tuple[tuple[str, str, float], ...]:
    sd = np.sqrt(np.maximum(np.diag(cov), 0)) + 1e-150
    rho = np.clip(cov / np.outer(sd, sd), -1, 1)
    return tuple(
        (names[i], names[j], float(rho[i, j]))
        for i in range(len(names))
        for j in range(i)
        if abs(rho[i, j]) > 0.99
    )


def _at_bound(problem: Problem, params: Mapping[str, float]) -> tuple[str, ...]:
    """Return positive parameters at zero or infinity: a factor 1000 further changes nothing."""
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
    return tuple(out)


def status_of(problem: Problem, minimum: Minimum, certificate: Certificate) -> tuple[Status, ...]:
    """Return whether the fit converged, and the warnings of the certificate."""
    c = certificate
    lines = [CONVERGED if minimum.converged else Status("not_converged")]
    if c.intervals == "none":
        detail = (
            f"{c.groups} runs for {problem.q} parameters, and rows of one run are not independent"
        )
        lines.append(Status("intervals_not_determined", detail))
    elif c.intervals != "delta" and problem.units() < min(SMALL, problem.n):
        # Measured: 95 % percentile intervals cover 84 % with 8 runs and 91 % with 16.
        lines.append(Status("few_runs", f"intervals rest on {c.groups} runs and are narrow"))
    if c.reached < 2 <= c.starts:
        lines.append(Status("reached_by_few_starts", f"{c.reached} of {c.starts}"))
    if c.resamples is not None and c.resamples < 0.95:
        lines.append(Status("resamples_not_converged", f"{100 * (1 - c.resamples):.0f} %"))
    if c.overflowed is not None and c.overflowed > 0:
        lines.append(Status("draws_unbounded", f"{100 * c.overflowed:.2g} %"))
    if c.at_bound:
        lines.append(Status("at_bound", ", ".join(c.at_bound)))
    if c.wrong_sign:
        lines.append(Status("wrong_sign", ", ".join(c.wrong_sign)))
    if c.not_identified:
        lines.append(Status("not_identified", ", ".join(c.not_identified)))
    if c.gap is not None and c.gap < 0.05:
        lines.append(Status("several_basins", f"another is only {100 * c.gap:.2g} % higher"))
    if c.correlated:
        pairs = [f"{p}~{q} ({rho:.4f})" for p, q, rho in c.correlated]
        lines.append(Status("correlated", ", ".join(pairs)))
    return tuple(lines)


def checkpoints_as_runs(problem: Problem, runs: pd.DataFrame, minimum: Minimum) -> list[Status]:
    """Warn about rows that look like checkpoints of a few runs but are fitted as independent.

    Such rows share a size and a batch size, there are at least four of each, and their residuals
    agree: the intraclass correlation (one-way analysis of variance) is above one half.
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
            f"({agreement:.2f}): if they are checkpoints of runs, name the column of the run "
            "with --cluster",
        )
    ]


def table_warnings(problem: Problem, runs: pd.DataFrame) -> list[Status]:
    """Warn about what looks wrong in the table itself."""
    x = problem.columns
    lines = []
    again = _repeated(problem, runs)
    if again.any():
        lines.append(
            Status(
                "duplicates",
                f"{again.sum()} rows repeat another exactly, first row "
                f"{runs.index[int(np.argmax(again))]}: are they the same run?",
            )
        )
    if "N" in x and "D" in x and x["N"].max() < 1e3 and x["D"].max() < 1e5:
        lines.append(Status("implausible", "N below 1000 and D below 100000 (in millions?)"))
    if "N" in x and "D" in x and np.mean(x["N"] > x["D"]) > 0.9:
        lines.append(
            Status(
                "implausible",
                f"N exceeds D in {100 * np.mean(x['N'] > x['D']):.0f} % of the rows "
                "(are the columns swapped?)",
            )
        )
    for name in [name for name in ("N", "D", "C") if name in x]:
        if (span := x[name].max() / x[name].min()) < _NARROW:
            lines.append(
                Status(
                    "narrow_range",
                    f"{name} spans only a factor of {span:.3g}, too little to determine an "
                    f"exponent or to extrapolate (give at least {_NARROW:g})",
                )
            )
    if problem.law.target == "L":
        lines += _implausible_losses(problem.target, runs)
    return lines


def _repeated(problem: Problem, runs: pd.DataFrame) -> np.ndarray:
    """Return which rows (n,) repeat an earlier one in the columns of the law and in all settings.

    A setting is a column of a run's configuration, or any other column whose values recur: a column
    with a value of its own in nearly every row numbers, names or measures rows.
    """
    known = {c.name for c in COLUMNS if c.is_config}
    compared = [*problem.law.inputs, problem.law.target]
    again = runs.duplicated(compared).to_numpy()
    if not again.any():
        return again
    compared += [c for c in known & set(runs.columns) if c not in compared]
    others = runs.drop(columns=[*compared, "run_id"], errors="ignore").astype(str)
    recurring = [c for c in others.columns if others[c].nunique() <= len(runs) / 2]
    codes = pd.concat([runs[compared].astype(str), others[recurring]], axis=1)
    return codes.duplicated().to_numpy()


def _implausible_losses(L: np.ndarray, runs: pd.DataFrame) -> list[Status]:
    """Warn about losses above those of a model that predicts nothing."""
    limit = np.full(len(L), _LARGEST_LOSS)
    if "vocab_size" in runs.columns:
        vocabulary = pd.to_numeric(runs["vocab_size"], errors="coerce")
        limit = np.log(vocabulary.to_numpy(float, na_value=np.nan))
        limit = np.where(np.isfinite(limit), limit, _LARGEST_LOSS)
    over = (L / limit) > 1.05
    if not over.any():
        return []
    worst = int(np.argmax(L - limit))
    return [
        Status(
            "implausible",
            f"L={L[worst]:.3g} in {over.sum()} rows like row {runs.index[worst]}, above "
            f"ln(vocabulary) = {limit[worst]:.3g} (bits or perplexity rather than nats per token?)",
        )
    ]
