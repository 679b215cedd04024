"""Time of a joint fit of 50 curves of 200 points with 500 resamples, and its draws' accuracy.

    python benchmarks/joint_curves.py [--check]

A draw takes two steps from the minimum of the linear model. Some of them are compared with full
refits of the same resampled losses. With `--check` the exit code is 1 if the fit takes more
than 60 s, or if the spreads of draws and refits differ by more than 15 %.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from analysis.curves.joint import fit_joint
from analysis.curves.joint_solve import draws
from analysis.curves.simulated import simulate

SECONDS = 60.0
DIFFERENCE = 0.15


def main() -> int:
    """Run the benchmark and print its numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the goals are missed")
    parser.add_argument("--refits", type=int, default=40, help="full refits to compare with")
    check, refits = (vars(parser.parse_args())[name] for name in ("check", "refits"))
    sizes = list(np.geomspace(3e3, 1e6, 10))
    horizons = list(np.geomspace(2e5, 6.4e6, 5))
    sweep = simulate(sizes, horizons, points=210)
    sweep.curves["S"] = sweep.curves["S"].astype(int)
    begun = time.perf_counter()
    fit = fit_joint(sweep.curves, rates=sweep.rates, n_boot=500, after=1.0)
    seconds = time.perf_counter() - begun
    free = fit.law.free
    quick, full = (
        draws(fit.problem, fit.minimum, refits, 1, limit=limit)[:, free] for limit in (2, 60)
    )
    scale = full.std(axis=0)
    apart = np.sqrt(np.mean(((quick - full) / scale) ** 2))
    ratio = quick.std(axis=0) / scale
    worst = float(np.abs(ratio - 1).max())
    print(
        f"curves={len(fit.sweep.N)} points={fit.n} draws={len(fit.draws)} seconds={seconds:.1f} "
        f"draw_error_sd={apart:.3f} spread_difference={worst:.3f} converged={fit.converged}"
    )
    return int(check and (seconds > SECONDS or worst > DIFFERENCE or not fit.converged))


if __name__ == "__main__":
    sys.exit(main())
