"""Collapse of learning curves (Qiu et al. 2025): those of a well-tuned ladder of sizes, each with
compute and reducible loss relative to their final values, fall on one curve."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.collapse_result import BESIDE, LADDER, Collapse, rms
from analysis.fitting.checks import FitError
from analysis.fitting.fit import fit
from analysis.laws.forms import floor as floor_law
from analysis.tables.runs_and_curves import load_runs_and_curves
from analysis.tables.select import usable
from scaling.columns import COLUMNS
from scaling.errors import TableError

STANDS_OUT = 3.0
"""A run stands out if it deviates this many times as much as the ladder's sizes, or seeds, do."""

_LEAST = 0.003
"""A smaller deviation than this is never unusual."""

_START = 0.1
"""Curves are compared from this fraction of the compute on, or from the end of the warm-up."""

_LATEST_START = 0.5
"""Runs whose warm-up takes a larger fraction are left out."""

_ALIKE = 0.98
"""Fractions that differ by less are the same evaluation, rounded to whole steps."""

_POINTS = 3
"""Fewest evaluations of a run between the start and the end."""

_SIZES = 3
"""Fewest sizes of a ladder; one more where the floor is fitted."""

_RANGE = 4.0
"""Least ratio of a ladder's largest to its smallest size."""

_ONE_HORIZON = 2.0
"""Horizons within this factor count as one."""

_NEAR = 1.8
"""A run belongs to the ladder if its tokens are within this factor of the ladder's power law."""

_SHAPE = (
    "schedule", "cooldown_fraction", "final_fraction", "cooldown", "resume_tokens", "cycles",
    "step_fractions", "step_factor", "knots",
)  # fmt: skip
"""Columns that tell the shape of a schedule, beside its peak and its length."""

_EFFECT = {
    "constant": (),
    "cosine": ("final_fraction",),
    "linear": ("final_fraction",),
    "wsd": ("cooldown_fraction", "cooldown"),
}
"""Columns of _SHAPE that have an effect, by schedule; all of them for others."""

_NOT_SETTINGS = ("seed", "tag", "points", "others", "patience", "warmup_fraction")
"""Config columns that may differ between seeds of one setting."""


def collapse(
    runs: Any,
    curves: pd.DataFrame | None = None,
    *,
    floor: float | None = None,
    start: float = _START,
) -> Collapse:
    """Normalise the learning curves of a ladder of sizes, and compare their spread to seeds.

    The curve of a run is (L - L_0) / (L_final - L_0) against the fraction of its compute. The
    ladder has one horizon per size, near the power law D ~ N^gamma through the runs with the least
    loss for their compute; of several settings at one size and horizon, it has the best, and the
    others are compared with it. Seeds are runs that differ in nothing else. All runs have one shape
    of schedule: the one with the most sizes.

    runs    A results folder, a table as `analysis.load` takes it, or the runs themselves.
    curves  Their learning curves, if `runs` is a table of runs.
    floor   L_0, the irreducible loss; the default is that of L(C) = L_0 + a C^-b, fitted to the
            ladder's final losses, or 0 if all horizons are alike.
    start   Curves are compared from this fraction of the compute on, if all warm-ups have ended.

    Raises TableError if there are too few sizes or evaluations.

    Source: Qiu et al. 2025 (arXiv 2507.02119), section 2
    """
    if isinstance(runs, str | Path):
        runs, curves = load_runs_and_curves(runs)
    if curves is None or curves.empty:
        raise TableError("a collapse needs learning curves, with several evaluations per run.")
    runs = _one_shape(usable(runs))
    all_curves = _by_run(runs, curves, start)
    runs = runs[runs["run_id"].isin(all_curves)]
    ladder, gamma = _ladder(runs)
    grows = not np.isnan(gamma)
    _check_sizes(ladder, _SIZES + (floor is None and grows))
    L_0 = floor if floor is not None else _fitted_floor(ladder) if grows else 0.0
    if (lowest := min(path[:, 1].min() for path in all_curves.values())) <= L_0:
        raise TableError(f"the floor {L_0:.4g} is not below the least loss, {lowest:.4g}.")
    x = _grid([all_curves[run] for run in ladder["run_id"]], start)
    values = {run: _normalised(path, x, L_0) for run, path in all_curves.items()}
    noise, own, dof = _seed_noise(runs, all_curves, x, L_0)
    roles = _deviations(_roles(runs, ladder), values, own)
    on_ladder = roles[roles["role"] == LADDER]
    usual = on_ladder[~on_ladder["stands_out"]]
    if usual["N"].nunique() < _SIZES:
        usual = on_ladder
    mean, spread = _mean_and_spread(usual, values)
    return Collapse(
        points=_points(roles, all_curves, L_0, x[0]),
        runs=roles,
        sizes=usual["N"].nunique(),
        spread=pd.Series(spread / mean, index=x, name="spread"),
        noise=None if noise is None else pd.Series(noise, index=x, name="noise"),
        noise_dof=dof,
        floor=float(L_0),
        floor_is="given" if floor is not None else "fitted" if grows else "none",
        gamma=gamma,
    )


# ------------------------------------------------------------------ which runs


def _one_shape(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with the shape of schedule that has the most sizes, then the most runs."""
    if "run_id" not in runs.columns:
        raise TableError("a collapse needs a column run_id that joins runs and learning curves.")
    known = [name for name in _SHAPE if name in runs.columns]
    if not known:
        return runs
    if "schedule" in known:  # without the fields that have no effect
        runs = runs.copy()
        for kind, fields in _EFFECT.items():
            idle = [name for name in known if name not in ("schedule", *fields)]
            runs.loc[runs["schedule"] == kind, idle] = np.nan
    shape = _keys(runs, known)
    counts = runs.groupby(shape)["N"].agg(["nunique", "size"])
    best = counts.sort_values(["nunique", "size"], kind="stable").index[-1]
    return runs[shape == best]


def _by_run(runs: pd.DataFrame, curves: pd.DataFrame, start: float) -> dict[Any, np.ndarray]:
    """Return {run_id: [fraction of compute, loss]} of the runs with enough evaluations."""
    along = next(name for name in ("C", "D", "S") if name in curves.columns)
    curves = curves[curves["run_id"].isin(runs["run_id"])].dropna(subset=[along, "L"])
    curves = curves.sort_values(["run_id", along], kind="stable")
    curves = curves.drop_duplicates(["run_id", along])
    ids = curves["run_id"].to_numpy()
    points = curves[[along, "L"]].to_numpy(float)
    rates = curves["lr"].to_numpy(float) if "lr" in curves.columns else np.full(len(ids), np.nan)
    ends = np.flatnonzero(np.r_[ids[1:] != ids[:-1], True][: len(ids)]) + 1
    found = {}
    for first, last in zip([0, *ends[:-1]], ends, strict=False):  # no end without evaluations
        if last - first <= _POINTS:
            continue
        path, lr, begins = points[first:last].copy(), rates[first:last], 0.0
        path[:, 0] /= path[-1, 0]
        if not np.isnan(lr).any():
            begins = path[int(np.argmax(lr >= 0.999 * lr.max())), 0]
        path = path[path[:, 0] >= begins]
        inside = (path[:, 0] >= start) & (path[:, 0] < 1)
        if begins <= _LATEST_START and inside.sum() >= _POINTS - 1:
            found[ids[first]] = path
    return found


def _settings(runs: pd.DataFrame) -> pd.Series:
    """Return a key of each run that is equal for seeds of one setting."""
    names = [c.name for c in COLUMNS if c.is_config and c.name not in _NOT_SETTINGS]
    used = ["N", "D", *(name for name in (*names, "B", "lr_peak") if name in runs.columns)]
    return _keys(runs, used)


def _keys(runs: pd.DataFrame, names: list[str]) -> pd.Series:
    """Return a text per run that is equal for runs with the same values in these columns."""
    filled = [runs[name].astype(object).where(runs[name].notna(), "") for name in names]
    rows = zip(*filled, strict=True)
    return pd.Series([repr(row) for row in rows], index=runs.index, dtype=object)


def _ladder(runs: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return the runs of the ladder, all seeds of each, and gamma of D ~ N^gamma."""
    runs = runs.assign(setting=_settings(runs))
    means = runs.groupby("setting").agg({"N": "first", "D": "first", "C": "mean", "L": "mean"})
    best = means.loc[means.groupby(["N", "D"])["L"].idxmin()].sort_values(["C", "L"])
    if best["N"].nunique() < 2:
        return runs.iloc[:0], float("nan")
    several = best.groupby("N").size().max() > 1
    front = best[best["L"] <= best["L"].cummin()]
    if not several or front["N"].nunique() < 2:
        front = best
    path = np.log(front[["N", "D"]]).groupby("N").mean().reset_index().to_numpy(float)
    gamma, at_one = np.polyfit(path[:, 0], path[:, 1], 1)
    if several:
        off = (np.log(best["D"]) - gamma * np.log(best["N"]) - at_one).abs()
        near = best.assign(off=off)[off < np.log(_NEAR)]
        best = near.loc[near.groupby("N")["off"].idxmin()]
    alike = best["D"].max() < _ONE_HORIZON * best["D"].min()
    return runs[runs["setting"].isin(best.index)], float("nan") if alike else float(gamma)


def _check_sizes(ladder: pd.DataFrame, wanted: int) -> None:
    """Raise TableError if the ladder has fewer than `wanted` sizes, or they are too close."""
    N = ladder["N"]
    if N.nunique() < wanted:
        raise TableError(
            f"a collapse needs {wanted} sizes with horizons on one power law D ~ N^gamma, one "
            f"shape of schedule, and {_POINTS} evaluations after the warm-up; there are "
            f"{N.nunique()}."
        )
    if N.max() < _RANGE * N.min():
        raise TableError(
            f"a collapse compares sizes over a factor of {_RANGE:g} at least; these lie between "
            f"N = {N.min():.3g} and {N.max():.3g}."
        )


def _roles(runs: pd.DataFrame, ladder: pd.DataFrame) -> pd.DataFrame:
    """Return the ladder's runs and those of other settings at the same size and horizon."""
    places = set(zip(ladder["N"], ladder["D"], strict=True))
    there = [place in places for place in zip(runs["N"], runs["D"], strict=True)]
    chosen = runs[there]
    role = np.where(chosen["run_id"].isin(ladder["run_id"]), LADDER, BESIDE)
    kept = ["run_id", "N", "D", *(["seed"] if "seed" in chosen.columns else [])]
    return chosen[kept].assign(role=role).reset_index(drop=True)


# ------------------------------------------------------------------ numbers


def _fitted_floor(ladder: pd.DataFrame) -> float:
    """Return E of L(C) = E + A / C^alpha, fitted to the mean final loss of each size."""
    finals = ladder.groupby("N", as_index=False)[["C", "L"]].mean()
    try:
        result = fit(floor_law("C"), finals, bootstrap=0, intervals="delta")
    except FitError as error:
        raise TableError(f"the floor of L(C) cannot be fitted: {error}") from None
    return min(max(0.0, result.params["E"]), 0.999 * float(finals["L"].min()))


def _grid(paths: Iterable[np.ndarray], start: float) -> np.ndarray:
    """Return the fractions at which the ladder is compared: those of its run with the fewest
    evaluations, from where all of its runs have begun."""
    paths = list(paths)
    low = max(start, *(path[0, 0] for path in paths))
    inside = [path[(path[:, 0] >= _ALIKE * low) & (path[:, 0] < 1), 0] for path in paths]
    grid = np.unique(np.maximum(min(inside, key=len), low))
    if len(grid) < _POINTS - 1:
        raise TableError(
            f"the ladder's runs have {len(grid)} common evaluations between {low:.2g} of their "
            "compute, where all warm-ups have ended, and the end: raise eval.points."
        )
    return grid


def _normalised(path: np.ndarray, x: np.ndarray, L_0: float) -> np.ndarray:
    reducible = np.log((path[:, 1] - L_0) / (path[-1, 1] - L_0))
    return np.exp(np.interp(np.log(x), np.log(path[:, 0]), reducible))


def _mean_and_spread(
    on_ladder: pd.DataFrame, values: dict[Any, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean curve and the standard deviation between sizes; seeds share the weight of
    their size."""
    rows = np.array([values[run] for run in on_ladder["run_id"]])
    weight = (1 / on_ladder.groupby("N")["N"].transform("size")).to_numpy()
    sizes = weight.sum()
    mean = weight @ rows / sizes
    return mean, np.sqrt(weight @ (rows - mean) ** 2 / (sizes - 1))


def _seed_noise(
    runs: pd.DataFrame, paths: dict[Any, np.ndarray], x: np.ndarray, L_0: float
) -> tuple[np.ndarray | None, float, int]:
    """Return the relative noise between seeds by x, that of normalised curves (in log, over all
    x), and the degrees of freedom."""
    if "seed" not in runs.columns:
        return None, 0.0, 0
    total, normalised, dof = np.zeros(len(x)), 0.0, 0
    settings = _settings(runs)
    several = runs.groupby(settings)["seed"].transform("nunique") >= 2
    for _, seeds in runs[several].groupby(settings[several]):
        kept = [paths[run] for run in seeds["run_id"] if _ALIKE * paths[run][0, 0] <= x[0]]
        if len(kept) < 2:
            continue
        raw = np.array([np.interp(np.log(x), np.log(p[:, 0]), p[:, 1]) for p in kept]) - L_0
        logs = np.log([_normalised(p, x, L_0) for p in kept])
        n = len(kept) - 1
        total += n * raw.var(axis=0, ddof=1) / raw.mean(axis=0) ** 2
        normalised += n * float(logs.var(axis=0, ddof=1).mean())
        dof += n
    if not dof:
        return None, 0.0, 0
    return np.sqrt(total / dof), float(np.sqrt(normalised / dof)), dof


def _deviations(roles: pd.DataFrame, values: dict[Any, np.ndarray], own: float) -> pd.DataFrame:
    """Return `roles` with the deviation of each run from the median curve of the ladder's other
    sizes, and whether it stands out from theirs and from the noise `own` of normalised curves."""
    on_ladder = roles[roles["role"] == LADDER]
    logs = {run: np.log(values[run]) for run in roles["run_id"]}
    by_size = on_ladder.groupby("N")["run_id"]
    means = {N: np.mean([logs[run] for run in ids], axis=0) for N, ids in by_size}

    def apart(curve: np.ndarray, N: float) -> float:
        return rms(curve - np.median([mean for n, mean in means.items() if n != N], axis=0))

    usual = {N: apart(mean, N) for N, mean in means.items()}
    deviations, out = [], []
    for run, N in zip(roles["run_id"], roles["N"], strict=True):
        deviation = apart(logs[run], N)
        scale = max(_LEAST, own, float(np.median([usual[n] for n in usual if n != N])))
        deviations.append(deviation)
        out.append(bool(deviation > STANDS_OUT * scale))
    return roles.assign(deviation=deviations, stands_out=out)


def _points(
    roles: pd.DataFrame, paths: dict[Any, np.ndarray], L_0: float, low: float
) -> pd.DataFrame:
    """Return the normalised evaluations from the fraction `low` on, as a long table."""
    frames = []
    for row in roles.to_dict("records"):
        path = paths[row["run_id"]]
        late = path[path[:, 0] >= _ALIKE * low]
        value = (late[:, 1] - L_0) / (path[-1, 1] - L_0)
        frames.append(pd.DataFrame({**row, "x": late[:, 0], "value": value}))
    return pd.concat(frames, ignore_index=True)
