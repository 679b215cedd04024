"""Exponents from noisy isoFLOP curves: 9216 fits of the design of arXiv 2603.22339.

    python benchmarks/exponent_inference.py                  # all fits, 15 minutes on one core
    python benchmarks/exponent_inference.py --repeats 16     # a part of them
    python benchmarks/exponent_inference.py --check          # exit with 1 if a goal is missed

L(N, D) = 1.69 + 406.4 / N^.465 + 410.7 / D^.155 is sampled along 2, 3 or 4 isoFLOP curves between
1e17 and 1e21 FLOPs, each with 4, 8, 16 or 32 sizes within a factor of 8 of a centre that drifts
from the optimum to a third of it. Gaussian noise of .05, .1 or .2 nats is added to the raw loss.
The error is that of a = beta / (alpha + beta) and of b = 1 - a, in per cent of the truth.

Source of the design and of the published errors: Open-Athena, scaling-law-analysis, experiment 7.
"""

# ruff: noqa: E402  (threads must be set before numpy is imported)
from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd

from analysis import fit

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.465, 0.155
NOISE = (0.05, 0.1, 0.2)
CURVES = (2, 3, 4)
POINTS = (4, 8, 16, 32)
REPEATS = 256
SEED = 42
SMALLEST, LARGEST = 1e17, 1e21
REACH = np.log10(8)
DRIFT = np.log10(3)
PUBLISHED = {
    "isoFLOP parabolas": (4.845, 715.5),
    "L-BFGS, random starts": (16.19, 296.0),
    "L-BFGS, log loss, grid of starts": (1.258, 44.2),
    "L-BFGS, raw loss, grid of starts": (1.1065, 73.6),
    "variable projection": (1.08891, 34.19263),
}
"""Geometric mean and largest error in per cent of the published methods. The last is least squares
on the raw loss, as here, so that both have the same minima."""
OPTIONS = {"objective": "ls", "on": "raw", "bootstrap": 0}


def tables(noise: float, curves: int, repeat: int) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield (points per curve, table) of one repeat: the noise of all comes from one generator."""
    rng = np.random.default_rng(SEED + repeat)
    a = BETA / (ALPHA + BETA)
    G = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    C = np.geomspace(SMALLEST, LARGEST, curves)
    way = np.log10(C / SMALLEST) / np.log10(LARGEST / SMALLEST)
    centre = np.log10(G * (C / 6) ** a) - DRIFT * way
    for points in POINTS:
        N = 10 ** (centre[:, None] + np.linspace(-REACH, REACH, points))
        D = C[:, None] / 6 / N
        L = E + A / N**ALPHA + B / D**BETA + rng.normal(0, noise, N.shape)
        yield points, pd.DataFrame({"N": N.ravel(), "D": D.ravel(), "L": L.ravel()})


def errors(job: tuple[float, int, int]) -> list[dict]:
    """Return the errors of one repeat, one row per number of points."""
    noise, curves, repeat = job
    out = []
    for points, runs in tables(noise, curves, repeat):
        found = fit("chinchilla", runs, **OPTIONS)
        total = found.params["alpha"] + found.params["beta"]
        out.append(
            {
                "noise": noise,
                "curves": curves,
                "points": points,
                "repeat": repeat,
                "a": 100 * abs(found.params["beta"] / total / (BETA / (ALPHA + BETA)) - 1),
                "b": 100 * abs(found.params["alpha"] / total / (ALPHA / (ALPHA + BETA)) - 1),
                "converged": found.minimum.converged,
            }
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="seeds, of 256")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    began = time.perf_counter()
    jobs = [(s, c, r) for s in NOISE for c in CURVES for r in range(options.repeats)]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        found = pool.imap_unordered(errors, jobs, chunksize=8)
        rows = pd.DataFrame([row for each in found for row in each])
    every = rows[["a", "b"]].to_numpy().ravel()
    mean, largest = float(np.exp(np.log(every[every > 0]).mean())), float(every.max())
    lost = int((~rows["converged"]).sum())
    for method, (published, most) in PUBLISHED.items():
        print(f"{method:<34} geometric mean {published:7.3f} %, largest {most:7.2f} %")
    print(f"{'this toolkit, raw loss':<34} geometric mean {mean:7.3f} %, largest {largest:7.2f} %")
    missed = []
    if options.repeats == REPEATS:
        least, most = PUBLISHED["variable projection"]
        if mean > least:
            missed.append(f"the geometric mean is {mean:.4f} %; the goal is {least} %")
        if largest > most:
            missed.append(f"the largest error is {largest:.4f} %; the goal is {most} %")
    if lost:
        missed.append(f"{lost} fits did not converge")
    for line in missed:
        print(f"missed: {line}")
    seconds = time.perf_counter() - began
    print(
        f"fits={len(rows)} gmean={mean:.4f} largest={largest:.4f} unconverged={lost} "
        f"seconds={seconds:.0f}"
    )
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
