"""Status and certificate of a fit: evidence that its minimum is the global one, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import SMALL
from analysis.fitting.intervals import covariance, root, undetermined, unidentified
from analysis.fitting.minimise import Minimum
from analysis.fitting.problem import Problem
from analysis.fitting.solver import gradients


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


def status_of(
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


def rows_alike(problem: Problem, runs: pd.DataFrame, minimum: Minimum) -> list[Status]:
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


def table_warnings(problem: Problem, runs: pd.DataFrame) -> list[Status]:
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


def natural_covariance(problem: Problem, minimum: Minimum) -> tuple[np.ndarray, float]:
    """Covariance (q, q) of the logs of coefficients, and of exponents; degrees of freedom."""
    cov, freedom = covariance(problem, minimum)
    half = problem.model.natural(np.eye(problem.q)) @ root(cov)
    return half @ half.T, freedom  # a product with its own transpose has no negative diagonal


def certify(problem: Problem, minimum: Minimum) -> dict[str, Any]:
    free = problem.free
    J = gradients(problem, minimum.theta) * np.sqrt(problem.weights)[:, None]
    r = problem.residuals(minimum.theta)[0]
    psi = np.clip(r, -minimum.delta, minimum.delta) * np.sqrt(problem.weights)
    norms = np.linalg.norm(J, axis=0) + 1e-300
    cosine = np.abs(psi @ J) / (norms * max(np.linalg.norm(psi), 1e-12 * np.sqrt(problem.n)))
    cov, _ = natural_covariance(problem, minimum)
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
