"""Speed of the frontier by every method, compared with a plain implementation in the same process.

The baseline is the common recipe. Per resample, it takes one envelope of the smoothed curves in a
Python loop, `numpy.polyfit` and `scipy.interpolate.Akima1DInterpolator` for each budget, and one
L-BFGS fit of the law from the optimum. A few resamples are timed and extrapolated.

    python benchmarks/frontier_speed.py            # print the table
    python benchmarks/frontier_speed.py --check    # exit with 1 if a goal is missed
"""

# ruff: noqa: E402  (threads must be set before numpy is imported)
from __future__ import annotations

import argparse
import os
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
from scipy.interpolate import Akima1DInterpolator
from scipy.optimize import minimize
from scipy.special import huber

from analysis import frontier, published
from analysis.frontiers.budgets import budgets_of
from analysis.frontiers.frontier import METHODS
from analysis.frontiers.result import Comparison

GOALS = {"seconds": ("at most", 5.0)}
"""Goal for each figure on the last line."""

SIZES, HORIZONS, EVALUATIONS = 20, 10, 100
BUDGETS, SIZES_OF_BUDGET = 40, 50
LAW = published.besiroglu2024


def tables(seed: int, small: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, curves): 2000 runs in isoFLOP sets, and 200 learning curves of 100 evaluations."""
    rng = np.random.default_rng(seed)
    budgets, sizes = (8, 12) if small else (BUDGETS, SIZES_OF_BUDGET)
    front = frontier_of_law()
    rows = []
    for C in np.geomspace(1e18, 1e22, budgets):
        best = float(front.at(C=C)["N"].iloc[0])
        for N in best * np.geomspace(1 / 8, 8, sizes):
            rows.append((N, C / (6 * N), C))
    runs = pd.DataFrame(rows, columns=["N", "D", "C"])
    runs["L"] = LAW.predict(N=runs["N"], D=runs["D"])
    runs["L"] *= np.exp(0.003 * rng.standard_normal(len(runs)))
    curves, count = [], 0
    sizes, horizons, points = (8, 4, 30) if small else (SIZES, HORIZONS, EVALUATIONS)
    for N in np.geomspace(3e7, 1e10, sizes):
        for ratio in np.geomspace(2, 200, horizons):
            D = N * ratio * np.geomspace(1e-3, 1, points)
            L = LAW.predict(N=np.full(points, N), D=D)
            L *= 1 + 0.02 * (1 - (D / D[-1]) ** 2)
            L *= np.exp(0.003 * rng.standard_normal() + 0.0015 * rng.standard_normal(points))
            curves.append(
                pd.DataFrame(
                    {"run_id": f"{count:04d}", "N": N, "D": D, "C": 6 * N * D, "L": L}
                ).assign(D_total=D[-1])
            )
            count += 1
    return runs, pd.concat(curves, ignore_index=True)


def frontier_of_law():
    """The exact frontier of the law behind the tables."""
    from analysis import fit

    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    exact = pd.DataFrame({"N": N, "D": D, "L": LAW.predict(N=N, D=D)})
    return frontier(fit(LAW.law, exact, bootstrap=0))


def recipe(runs: pd.DataFrame, curves: pd.DataFrame, resamples: int, seed: int) -> dict[str, float]:
    """Seconds per resample for each method as it is usually written."""
    rng = np.random.default_rng(seed)
    seconds = dict.fromkeys(METHODS, 0.0)
    grid = np.linspace(np.log(curves["C"].min()), np.log(curves["C"].max()), 512)
    table = [
        (run["N"].iloc[0], np.log(run["C"].to_numpy()), np.log(run["L"].to_numpy()))
        for _, run in curves.groupby("run_id")
    ]
    budgets = [
        (np.log(b["N"].to_numpy()), np.log(b["L"].to_numpy()), np.log(b["C"].mean()))
        for b in budgets_of(runs)
    ]
    N, D, L = (runs[name].to_numpy() for name in ("N", "D", "L"))
    best = np.log([LAW.params[p] for p in ("A", "B", "E")]).tolist()
    best += [LAW.params["alpha"], LAW.params["beta"]]

    def objective(p: np.ndarray, rows: np.ndarray) -> float:
        terms = (p[0] - p[3] * np.log(N[rows]), p[1] - p[4] * np.log(D[rows]), p[2])
        return float(huber(1e-3, np.log(sum(map(np.exp, terms))) - np.log(L[rows])).sum())

    for _ in range(resamples):
        began = time.perf_counter()
        sizes, least = np.full(len(grid), np.nan), np.full(len(grid), np.inf)
        for i in rng.integers(0, len(table), len(table)):
            n, u, v = table[i]
            loss = np.interp(grid, u, v, left=np.inf, right=np.inf)
            sizes, least = np.where(loss < least, n, sizes), np.minimum(loss, least)
        known = np.isfinite(least)
        np.polyfit(grid[known], np.log(sizes[known]), 1)
        seconds["envelope"] += time.perf_counter() - began
        for name in ("isoflop", "akima"):
            began = time.perf_counter()
            minima = []
            for u, v, c in budgets:
                noisy = v + 0.003 * rng.standard_normal(len(v))
                if name == "akima":
                    fine = np.linspace(u[0], u[-1], 1025)
                    minima.append((c, fine[np.argmin(Akima1DInterpolator(u, noisy)(fine))]))
                else:
                    a, b, _ = np.polyfit(u, noisy, 2)
                    minima.append((c, -b / (2 * a)))
            np.polyfit(*np.array(minima).T, 1)
            seconds[name] += time.perf_counter() - began
        began = time.perf_counter()
        minimize(objective, best, args=(rng.integers(0, len(N), len(N)),), method="L-BFGS-B")
        seconds["parametric"] += time.perf_counter() - began
    return {name: value / resamples for name, value in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--resamples", type=int, default=1000, help="resamples per method")
    parser.add_argument(
        "--baseline", type=int, default=5, help="number of the recipe's resamples that are timed"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="repetitions, of which the best counts"
    )
    parser.add_argument("--small", action="store_true", help="small tables, for a quick test")
    options = parser.parse_args()

    runs, curves = tables(0, options.small)
    seconds = dict.fromkeys((*METHODS, "all"), np.inf)
    for _ in range(options.repeats):
        for method in seconds:
            began = time.perf_counter()
            found = frontier(
                runs, method=method, law=LAW.law, curves=curves, bootstrap=options.resamples
            )
            seconds[method] = min(seconds[method], time.perf_counter() - began)
            if isinstance(found, Comparison) and found.skipped:
                raise SystemExit(f"a method failed: {found.skipped}")
    base = recipe(runs, curves, options.baseline, 1)
    print(
        f"{len(runs)} runs, {curves['run_id'].nunique()} curves of "
        f"{len(curves) // curves['run_id'].nunique()} points, {options.resamples} resamples, one "
        f"thread, best of {options.repeats}; recipe extrapolated from {options.baseline} resamples"
    )
    for method in METHODS:
        there = base[method] * options.resamples
        ratio = there / seconds[method]
        print(f"  {method:<11}{seconds[method]:7.2f} s   recipe {there:8.1f} s   {ratio:6.1f}x")
    print(f"  {'all':<11}{seconds['all']:7.2f} s")
    figures = {"seconds": seconds["all"]} | {
        f"speedup_{method}": base[method] * options.resamples / seconds[method]
        for method in METHODS
    }
    missed = [
        f"{name} is {figures[name]:.3g}; the goal is {way} {goal:g}"
        for name, (way, goal) in GOALS.items()
        if (figures[name] > goal if way == "at most" else figures[name] < goal)
    ]
    for line in missed:
        print(f"missed: {line}")
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
