"""Checks of the options and the data of a fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.arguments import unknown_word
from analysis.fitting.bootstrap import METHODS
from analysis.fitting.problem import Problem
from analysis.fitting.starts import starts
from analysis.laws import Law
from analysis.tables.objectives import check_one_objective, check_one_start
from analysis.tables.rows import LAST, reasons
from analysis.tables.searches import SEARCHED, best_of_searches
from scaling import table
from scaling.errors import TableError


class FitError(ValueError):
    """There is no usable fit of this law to this table; the message says what to change."""


DEFAULT_CLUSTER = "run_id"
OBJECTIVES = ("auto", "huber", "ls", "lad")
INTERVALS = ("auto", *METHODS)
MOST_DRAWS = 1_000_000
"""Largest number of draws: far more than any interval needs, and as many as memory holds."""

_STANDARD_ERRORS = (
    "stderr", "std_err", "se", "sem", "standard_error", "l_stderr", "loss_stderr", "loss_std_err",
    "loss_se", "val_loss_stderr", "val_loss_se", "test_loss_stderr", "loss_sem",
)  # fmt: skip
"""Names of columns of standard errors, in lower case and with _ for /."""


@contextlib.contextmanager
def computable(problem: Problem, runs: pd.DataFrame, seed: int) -> Iterator[None]:
    """Turn numpy's errors about overflowing numbers into a FitError that names the data."""
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
        data = ", ".join(f"{name} from {x.min():.3g} to {x.max():.3g}" for name, x in spans.items())
        raise FitError(
            f"{law.name} cannot be fitted to these {problem.n} rows, {data}: its slopes are not "
            f"finite ({error}). Leave out rows that are far from the others."
        ) from error


def check_options(
    objective: str,
    delta: float | None,
    on: str,
    reduce: str,
    bootstrap: int,
    intervals: str,
    seed: int,
    noise: str = "constant",
) -> None:
    """Raise FitError for an option of fit() that is unknown or meaningless."""
    for name, value, known in (
        ("objective", objective, OBJECTIVES),
        ("on", on, ("log", "raw", "auto")),
        ("noise", noise, ("constant", "sizes", "auto")),
        ("reduce", reduce, ("sum", "mean")),
        ("intervals", intervals, INTERVALS),
    ):
        if value not in known:
            raise FitError(unknown_word(name, value, known))
    if delta is not None and not table.sensible(delta):
        raise FitError(
            f"delta={delta} must be positive and finite: it is the residual where Huber bends."
        )
    if delta is not None and objective in ("ls", "lad"):
        raise FitError(f"delta={delta} belongs to the objective huber, not to {objective}.")
    check_draws(bootstrap, seed)


def check_draws(bootstrap: int, seed: int) -> None:
    """Raise FitError unless `bootstrap` is a number of draws and `seed` a seed."""
    if not 0 <= bootstrap <= MOST_DRAWS or int(bootstrap) != bootstrap:
        raise FitError(
            f"bootstrap={bootstrap} must be a whole number of draws, 0 for none, at most "
            f"{MOST_DRAWS}."
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise FitError(f"seed={seed!r} must be a whole number, 0 or more.")


def check_level(level: float) -> None:
    """Raise FitError unless `level` is a confidence level."""
    if not 1e-9 < level < 1:
        raise FitError(f"level={level} must lie between 0 and 1, such as 0.95.")


def held_parameters(law: Law, fixed: Mapping[str, float]) -> dict[str, float]:
    """Return the fixed parameters as checked floats."""
    out = {}
    for p, given in fixed.items():
        if p not in law.params:
            raise FitError(
                f"fixed: {law.name} has no parameter {p!r}; it has {', '.join(law.params)}."
            )
        value = out[p] = float(given)
        positive = law.ranges[p].positive
        # A coefficient held at zero drops its term, which gives a valid law.
        if not np.isfinite(value) or (positive and value < 0):
            raise FitError(
                f"fixed: {p}={given!r} must be a {'positive' if positive else 'finite'} number."
            )
    return out


def _numbers(runs: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as floats; raise TableError naming the first entry that is not a number."""
    if pd.api.types.is_numeric_dtype(runs[name]):
        return runs[name].to_numpy(float, na_value=np.nan)
    text = runs[name].astype(object)
    x = pd.to_numeric(text, errors="coerce").to_numpy(float, na_value=np.nan)
    bad = np.isnan(x) & text.notna().to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise TableError(
            f"column {name!r} must be numbers, but {bad.sum()} of {len(x)} rows are not, first "
            f"{text.iloc[row]!r} at row {runs.index[row]}: correct them, or drop these rows."
        )
    return x


def usable_rows(
    law: Law, runs: pd.DataFrame, weights: Any, on: str
) -> tuple[pd.DataFrame, np.ndarray, dict[str, int], dict[str, str]]:
    """Return the rows to fit (the law's columns as floats), their weights, the number of rows left
    out by reason, and remarks on the rows by code.

    Raises TableError for a table that cannot be fitted.
    """
    if not isinstance(runs, pd.DataFrame):
        raise TableError(f"runs must be a pandas DataFrame, not {type(runs).__name__}.")
    if isinstance(weights, str):
        compute = _compute_weights(weights, law, runs)
        weights = _weight_column(weights, law, runs) if compute is None else compute
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
    check_one_objective(runs, one_task=True)
    check_one_start(runs)
    keep, left_out = _finished(runs)
    remarks: dict[str, str] = {}
    if law.best_of:
        best = best_of_searches(runs, law.target, law.best_of)
        keep, left_out, remarks = keep & best.kept, left_out | best.left_out, best.remarks
    runs = runs[keep]
    if law.best_of:
        runs.attrs[SEARCHED] = law.target
    w = _weights(runs, weights[keep] if isinstance(weights, np.ndarray) else weights, law, on)
    if (w == 0).any():
        left_out["weight 0"] = int((w == 0).sum())
        runs, w = runs[w > 0], w[w > 0]
    w = _of_mean_one(w)
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
                f"{_which(bad, runs, name)}. {table.remedy(name, x)}"
            )
    return runs, w, left_out, remarks


def _finished(runs: pd.DataFrame) -> tuple[np.ndarray, dict[str, int]]:
    """Return which rows (n,) have status 'ok', and why others do not count, {reason: number}.

    Raises TableError if none has.
    """
    left_out = reasons(runs)
    if "status" not in runs.columns:
        return np.ones(len(runs), bool), left_out
    status = runs["status"].astype(object).where(runs["status"].notna(), "missing")
    keep = (status == "ok").to_numpy(bool)
    found = status[~keep].value_counts()
    if not keep.any():
        values = ", ".join(f"{value!r} ({count})" for value, count in found.items())
        raise TableError(
            f"no row has status 'ok': nothing to fit. The column 'status' holds {values}: "
            "rename what means 'ok', or remove the column."
        )
    if "unfinished" not in runs.attrs:  # counted by load(), in the words of the table
        left_out |= {f"status {value!s}": int(count) for value, count in found.items()}
    return keep, left_out


def _compute_weights(weights: str, law: Law, runs: pd.DataFrame) -> np.ndarray | None:
    """Return C to a power for 'C' and 'C^0.5', 1 in rows without C; None for other words."""
    name, _, power = weights.partition("^")
    if name != "C" or (weights in runs.columns and power):
        return None
    try:
        power = float(power or 1)
    except ValueError:
        raise TableError(f"weights={weights!r} must be 'C' to a power, such as C^0.5.") from None
    if "C" in runs.columns:
        C = pd.to_numeric(runs["C"], errors="coerce").to_numpy(float)
    elif {"N", "D"} <= {*runs.columns}:
        C = 6.0 * np.prod([pd.to_numeric(runs[x], errors="coerce") for x in ("N", "D")], axis=0)
    else:
        missing = next((x for x in law.inputs if x not in runs.columns), "C")
        raise TableError(table.missing_column(missing, runs.columns))
    known = np.isfinite(C) & (C > 0)
    return np.where(known, C / C[known].max(initial=1e-300), 1.0) ** power


def _weight_column(weights: str, law: Law, runs: pd.DataFrame) -> str:
    """Return the column of weights or of standard errors; "stderr" finds that of the target."""
    if weights != "stderr" or weights in runs.columns:
        return weights
    usual = f"{law.target}_stderr"
    if usual in runs.columns:
        return usual
    if law.target == "L":
        found = [c for c in runs.columns if str(c).lower().replace("/", "_") in _STANDARD_ERRORS]
        if len(found) == 1:
            return found[0]
    raise TableError(
        f"weights by standard errors need a column {usual!r}, or numbers such as 5.03 ± 0.004: the "
        f"table has {', '.join(map(str, runs.columns))}. Say --map COLUMN={usual}."
    )


def _weights(runs: pd.DataFrame, weights: str | np.ndarray | None, law: Law, on: str) -> np.ndarray:
    """Return the weight of each row: given, in a column, or from standard errors."""
    if weights is None:
        return np.ones(len(runs))
    if isinstance(weights, np.ndarray):
        w = weights
    elif weights == "stderr" or _is_standard_error(weights):
        w = _precision(runs, weights, law, on)
    else:
        w = _numbers(runs, weights)
    if not (np.isfinite(w).all() and (w >= 0).all() and w.max(initial=0.0) > 0):
        raise TableError("weights must be finite and not negative, and not all zero.")
    return w


def _precision(runs: pd.DataFrame, name: str, law: Law, on: str) -> np.ndarray:
    """Return 1 / stderr^2 of what is fitted, up to a factor."""
    error = _numbers(runs, name)
    bad = ~(np.isfinite(error) & (error > 0))
    if bad.any():
        raise TableError(
            f"column {name!r} must be positive and finite to be a standard error: "
            f"{_which(bad, runs, name)}."
        )
    if on == "log":  # the standard error of ln L is that of L over L
        error = error / _numbers(runs, law.target)
    return (error.min() / error) ** 2


def _of_mean_one(w: np.ndarray) -> np.ndarray:
    """Return weights scaled to mean 1, so that their size cannot matter."""
    w = w / w.max()
    return w if (w == 1).all() else w / w.mean()


def _is_standard_error(name: str) -> bool:
    """Return whether a column of this name holds standard errors."""
    name = name.lower().replace("/", "_")
    return name in _STANDARD_ERRORS or name.endswith(("_stderr", "_std_err", "_se"))


def _which(bad: np.ndarray, runs: pd.DataFrame, name: str) -> str:
    row = int(np.flatnonzero(bad)[0])
    return (
        f"{bad.sum()} of {len(bad)} rows {'is' if bad.sum() == 1 else 'are'} not, first at row "
        f"{runs.index[row]} ({name}={runs[name].iloc[row]})"
    )


def _not_finite(problem: Problem, runs: pd.DataFrame, seed: int) -> str:
    """Describe the first row at which the law is not finite at any start.

    Raises TableError if the reason is a column that is not positive.
    """
    r = problem.residuals(starts(problem, seed, count=64))
    bad = ~np.isfinite(r).any(axis=0)
    if not bad.any():
        return ""
    for name, x in problem.columns.items():
        if np.array_equal(bad, np.asarray(x <= 0)):
            raise TableError(
                f"column {name!r} must be positive and finite for {problem.law.name}: "
                f"{_which(np.asarray(bad), runs, name)}. {table.remedy(name, x)}"
            )
    row = int(np.flatnonzero(bad)[0])
    values = ", ".join(f"{name}={x[row]:g}" for name, x in problem.columns.items())
    return f" in {bad.sum()} of {problem.n} rows, first at row {runs.index[row]} ({values})"


def group_codes(runs: pd.DataFrame, cluster: str | None) -> np.ndarray:
    """Return the number of the run of each row (n,)."""
    if cluster is None or (cluster == DEFAULT_CLUSTER and cluster not in runs.columns):
        return np.arange(len(runs))
    if cluster not in runs.columns:
        raise TableError(f"cluster: {table.missing_column(cluster, runs.columns)}")
    missing = runs[cluster].isna().to_numpy()
    if missing.any():
        rows = ", ".join(map(str, runs.index[missing][:5]))
        raise TableError(
            f"column {cluster!r} names the run of each row, but {missing.sum()} of "
            f"{len(runs)} rows have none (row {rows}{', ...' if missing.sum() > 5 else ''}): fill "
            "them in, or name another column with --cluster."
        )
    try:
        codes, _ = pd.factorize(runs[cluster])
    except TypeError:
        raise TableError(
            f"column {cluster!r} names the run of each row, but holds lists or tables "
            f"({cluster}={runs[cluster].iloc[0]!r}); give text or numbers, or another cluster."
        ) from None
    return codes if codes.max() + 1 < len(codes) else np.arange(len(runs))


def check_data(problem: Problem, left_out: Mapping[str, int]) -> None:
    """Raise FitError for too few rows, or for inputs that do not vary.

    left_out: the number of rows left out by reason.
    """
    law, n, q = problem.law, problem.n, problem.q
    earlier = (
        f" {left_out[LAST]} {LAST} are left out; fit them too with --rows all."
        if LAST in left_out
        else ""
    )
    if q == 0:
        raise FitError(f"every parameter of {law.name} is fixed: nothing to fit.")
    if n <= q:
        raise FitError(
            f"{law.name} has {q} parameters to fit ({', '.join(problem.free)}), but the table has "
            f"{n} usable rows: at least {q + 1} are needed. Fix some parameters, or add runs."
            f"{earlier}"
        )
    for name, x in problem.columns.items():
        if np.ptp(x) == 0:
            raise FitError(
                f"{law.name} needs runs that differ in {name}, but all {n} have {name}={x[0]:g}."
                f"{earlier}"
            )
        if np.ptp(x) < 1e-9 * np.abs(x).max():
            raise FitError(
                f"{law.name} needs runs that differ in {name}, but all {n} have {name} within "
                f"{np.ptp(x) / np.abs(x).max():.1g} of {x[0]:g}.{earlier}"
            )
