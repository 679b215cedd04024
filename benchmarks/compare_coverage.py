"""Coverage of the effective speed-up's 90 % interval, measured on synthetic pairs of recipes.

    python benchmarks/compare_coverage.py           # print the table
    python benchmarks/compare_coverage.py --check   # exit with 1 if a case misses 87 to 93 %

Recipe A has the law L = E + k_A C^-alpha_A or Hoffmann et al.'s of N and D, and B the same with
other constants. Each table has relative Gaussian noise. Coverage is the share of pairs whose
interval contains the true speed-up at ten times the largest compute.
"""

# ruff: noqa: E402  (threads must be set before numpy is imported)
from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd

from analysis import effective_speedup, laws
from analysis.comparison.joint import joint_fit
from analysis.planning.quantity import quantity_of

LEVEL = 0.9
GOAL = (0.87, 0.93)
E, ALPHA = 1.7, 0.17
LOSS_A, LOSS_B = 1000.0, 1100.0
CASES = {
    "two losses": "two losses of known standard error, floor and exponent known",
    "two losses, alpha": "the same, with a standard error of the exponent",
    "pinned floor": "2 x 12 runs in C, floor pinned, one exponent",
    "pinned floor, 40": "2 x 40 runs in C, floor pinned, one exponent",
    "two exponents": "2 x 20 runs in C, floor pinned, an exponent each",
    "shared floor": "2 x 20 runs in C, floor fitted and shared, one exponent",
    "N and D": "2 x 40 runs in N and D (chinchilla), floor fitted and shared",
}


def covered(job: tuple[str, int, int]) -> tuple[str, bool, float]:
    """Whether the interval of one synthetic pair contains the truth, and its width in logs."""
    case, seed, draws = job
    rng = np.random.default_rng([list(CASES).index(case), seed])
    if case.startswith("two losses"):
        truth, found = _two_losses(rng, alpha_stderr=0.004 if "alpha" in case else 0.0)
    elif case == "N and D":
        truth, found = _sizes(rng, draws, seed)
    else:
        n = {"pinned floor": 12, "pinned floor, 40": 40}.get(case, 20)
        truth, found = _compute(
            rng, n, draws, seed, pinned=case != "shared floor", same=case != "two exponents"
        )
    return case, bool(found.low <= truth <= found.high), float(np.log(found.high / found.low))


def _two_losses(rng, alpha_stderr):
    """A comparison of two measured losses at 1e20 FLOPs."""
    a, b = (k * 1e20**-ALPHA for k in (LOSS_A, LOSS_B))
    noise = 0.02 * a
    measured = (E + gap + noise * rng.standard_normal() for gap in (a, b))
    found = effective_speedup(
        *measured, floor=E, alpha=ALPHA + alpha_stderr * rng.standard_normal(), stderr_A=noise,
        stderr_B=noise, alpha_stderr=alpha_stderr, level=LEVEL,
    )  # fmt: skip
    return (b / a) ** (1 / ALPHA), found


def _compute(rng, n, draws, seed, *, pinned, same):
    """A comparison of two ladders in C."""
    exponents = (ALPHA, ALPHA if same else ALPHA + 0.004)
    tables = []
    for k, alpha in zip((LOSS_A, LOSS_B), exponents, strict=True):
        C = np.geomspace(1e17, 1e20, n)
        L = (E + k * C**-alpha) * np.exp(0.003 * rng.standard_normal(n))
        tables.append(pd.DataFrame({"C": C, "L": L}))
    joint = joint_fit(
        laws.floor_C, (tables[0], tables[1]), share="exponents" if same else "floor",
        floor=E if pinned else None, bootstrap=draws, seed=seed,
    )  # fmt: skip
    C = 1e21
    truth = (LOSS_B / (LOSS_A * C ** (exponents[1] - exponents[0]))) ** (1 / exponents[1])
    return truth, quantity_of(joint.speedup(C), LEVEL)


def _sizes(rng, draws, seed):
    """A comparison of two tables of N and D."""
    truths = [
        {"E": 1.8, "A": A, "B": B, "alpha": 0.34, "beta": 0.37}
        for A, B in ((480.0, 2100.0), (520.0, 2400.0))
    ]
    tables = []
    for truth in truths:
        N = np.exp(rng.uniform(np.log(5e7), np.log(5e9), 40))
        D = N * np.exp(rng.uniform(np.log(3), np.log(300), 40))
        L = laws.chinchilla.predict(truth, N=N, D=D) * np.exp(0.003 * rng.standard_normal(40))
        tables.append(pd.DataFrame({"N": N, "D": D, "L": L}))
    joint = joint_fit(laws.chinchilla, (tables[0], tables[1]), bootstrap=draws, seed=seed)
    C = 1e22
    exact = []
    optimum = laws.chinchilla.optimum
    assert optimum is not None
    for truth in truths:  # along the frontier, Hoffmann's law is E + K C^-gamma
        N = optimum(C, **truth)
        exact.append(float(laws.chinchilla.predict(truth, N=N, D=C / 6 / N)) - truth["E"])
    gamma = 0.34 * 0.37 / (0.34 + 0.37)
    return (exact[1] / exact[0]) ** (1 / gamma), quantity_of(joint.speedup(C), LEVEL)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--tables", type=int, default=400, help="synthetic pairs per case")
    parser.add_argument("--draws", type=int, default=400, help="resamples per fit")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="cases to run")
    options = parser.parse_args()
    began = time.perf_counter()
    jobs = [(case, seed, options.draws) for case in options.cases for seed in range(options.tables)]
    if options.workers == 1:
        rows = list(map(covered, jobs))
    else:
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            rows = pool.map(covered, jobs, chunksize=8)
    missed = []
    error = np.sqrt(LEVEL * (1 - LEVEL) / options.tables)
    for case in options.cases:
        hits = np.array([(hit, width) for name, hit, width in rows if name == case])
        share, width = hits[:, 0].mean(), np.median(hits[:, 1])
        print(f"{case:<20} covered {share:.3f} (+- {error:.3f})  ln width {width:.2f}", flush=True)
        if not GOAL[0] <= share <= GOAL[1]:
            missed.append(case)
    print(f"{time.perf_counter() - began:.0f} s")
    for case in missed:
        print(f"missed: {case} ({CASES[case]}) is not within {GOAL[0]:.0%} to {GOAL[1]:.0%}")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
