"""Errors on held-out runs: laws refitted to the smaller runs predict the larger ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.fitting.intervals import covariance, root
from analysis.fitting.minimise import Minimum, minimise
from analysis.fitting.problem import Problem, typical
from analysis.fitting.result import FitResult
from analysis.fitting.solver import gradients

CUTS = 5
"""Number of growing cut-offs, from 40 % of the runs to 80 %."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How well a law, refitted to the runs up to each of several cut-offs, predicts the others."""

    errors: Mapping[float, np.ndarray] = field(repr=False)
    """{cut-off in N D: ln(measured / predicted) of every row above it}."""
    sizes: Mapping[float, np.ndarray] = field(repr=False)
    """{cut-off in N D: N D of these rows, over the cut-off}."""
    expected: Mapping[float, np.ndarray] = field(repr=False)
    """{cut-off in N D: the error of each of these rows that noise alone explains: that of the row
    and that of the fit, as a standard deviation}."""
    cuts: tuple[float, ...]
    """The cut-offs at which every compared law could be refitted."""

    @property
    def error(self) -> float:
        """The held-out error: the rms of ln L, averaged over the cut-offs; nan without any."""
        return float(np.mean([rms(self.errors[cut]) for cut in self.cuts])) if self.cuts else np.nan

    @property
    def excess(self) -> float:
        """The part of the held-out error that noise does not explain: 0 for a law that is right;
        nan without cut-offs."""
        if not self.cuts:
            return np.nan
        over = [rms(self.errors[cut]) ** 2 - rms(self.expected[cut]) ** 2 for cut in self.cuts]
        return float(np.sqrt(max(np.mean(over), 0.0)))

    @property
    def distance(self) -> float:
        """The mean of ln C of the held-out rows over the cut-off; nan without cut-offs."""
        found = [np.log(self.sizes[cut]).mean() for cut in self.cuts]
        return float(np.mean(found)) if found else np.nan

    @property
    def runs(self) -> int:
        """Number of rows above the lowest cut-off."""
        return len(self.errors[self.cuts[0]]) if self.cuts else 0

    @property
    def reach(self) -> float:
        """How many times the compute of the runs fitted the largest held-out run has."""
        return float(max(self.sizes[cut].max() for cut in self.cuts)) if self.cuts else np.nan

    def record(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return {
            "error": self.error,
            "runs": self.runs,
            "reach": self.reach,
            "cuts": [
                {"C": 6 * cut, "n_held": len(self.errors[cut]), "error": rms(self.errors[cut])}
                for cut in self.cuts
            ],
        }


def held_out_tests(results: Mapping[str, FitResult], *, cuts: int = CUTS) -> dict[str, HeldOut]:
    """Refit laws of N and D to the runs below growing cut-offs in compute, and predict the others.

    All laws have the same cut-offs: those at which every one of them could be refitted.
    """
    least = 2 + max((len(result.law.params) for result in results.values()), default=0)
    errors: dict[str, dict[float, np.ndarray]] = {}
    sizes: dict[str, dict[float, np.ndarray]] = {}
    expected: dict[str, dict[float, np.ndarray]] = {}
    for name, result in results.items():
        size = compute_of_run(result)
        found = {cut: _tested(result, size > cut) for cut in cutoffs(size, cuts, least)}
        kept = {cut: x for cut, x in found.items() if x is not None and np.isfinite(x[0]).all()}
        errors[name] = {cut: off for cut, (off, _) in kept.items()}
        expected[name] = {cut: noise for cut, (_, noise) in kept.items()}
        sizes[name] = {cut: size[size > cut] / cut for cut in kept}
    shared = set.intersection(*(set(found) for found in errors.values())) if errors else set()
    return {
        name: HeldOut(
            errors=errors[name],
            sizes=sizes[name],
            expected=expected[name],
            cuts=tuple(sorted(shared)),
        )
        for name in results
    }


def held_out(results: Mapping[str, FitResult], *, cuts: int = CUTS) -> dict[str, float]:
    """Return the rms error of log L with which fitted laws of N and D predict their larger runs.

    Each law is refitted to the runs below growing cut-offs in compute and predicts those above.
    The error is the mean over the cut-offs at which all laws could be refitted; nan if there is
    none.
    """
    return {name: test.error for name, test in held_out_tests(results, cuts=cuts).items()}


def compute_of_run(result: FitResult) -> np.ndarray:
    """Return N D of each row, or the largest in its run, since a run is held out as a whole."""
    compute = pd.Series(result.problem.columns["N"] * result.problem.columns["D"])
    return compute.groupby(result.problem.groups).transform("max").to_numpy()


def cutoffs(size: np.ndarray, cuts: int, least: int) -> list[float]:
    """Return increasing quantiles with at least `least` rows below and one above."""
    values = np.quantile(size, np.linspace(0.4, 0.8, cuts), method="lower")
    return [float(c) for c in np.unique(values) if (size <= c).sum() >= least and (size > c).any()]


def objective_of(result: FitResult) -> tuple[Literal["huber", "ls", "lad"], float | None]:
    """Return the arguments of fit() that repeat a fit's objective, including its threshold."""
    if result.objective_kind == "lad":
        return "lad", None
    delta = result.certificate.delta
    return ("ls", None) if delta is None else ("huber", delta)


def errors_of(result: FitResult, held: np.ndarray) -> np.ndarray | None:
    """Return log(measured / predicted) of the rows `held`, by the law refitted to all others.

    Returns None if the others do not suffice for a fit, or if the fit fails.
    """
    found = _tested(result, held)
    return None if found is None else found[0]


def _tested(result: FitResult, held: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the errors of `errors_of`, and their standard deviation if the law is right."""
    problem = result.problem.take(np.flatnonzero(~held))
    if problem.n <= problem.q or any(np.ptp(x) == 0 for x in problem.columns.values()):
        return None
    warm = problem.model.centred(result.problem.model.natural(result.minimum.basins))
    try:
        with np.errstate(all="ignore"):
            found = minimise(problem, *objective_of(result), seed=0, warm=warm)
    except (FloatingPointError, np.linalg.LinAlgError):
        return None
    params = {p: float(v[0]) for p, v in problem.params(found.theta).items()}
    x = {name: column[held] for name, column in result.problem.columns.items()}
    with np.errstate(all="ignore"):
        off = np.log(result.problem.target[held] / result.law.predict(params, **x))
    return off, _noise(problem, found, result.problem.take(np.flatnonzero(held)))


def _noise(problem: Problem, minimum: Minimum, held: Problem) -> np.ndarray:
    """Return the standard deviation of ln(measured / predicted) of the rows held out, from the
    residuals of the rows fitted and from what these leave unknown of the parameters."""
    with np.errstate(all="ignore"):
        try:
            cov, _ = covariance(problem, minimum)
            half = held.model.centred(problem.model.natural(root(cov)))
        except np.linalg.LinAlgError:
            return np.full(held.n, np.inf)
        theta = held.model.centred(problem.model.natural(minimum.theta))
        unknown = np.sum((gradients(held, theta) @ half) ** 2, axis=1)
        variance = (1.4826 * typical(problem, minimum.theta)) ** 2 + unknown
        unit = 1.0 if held.on == "log" else held.target
        return np.nan_to_num(np.sqrt(variance) / unit, nan=np.inf)


def rms(x: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(x**2)))
