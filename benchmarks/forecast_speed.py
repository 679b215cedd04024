"""Speed and accuracy of forecasts of a sweep under way, on the committed sweep `headline`.

Every run but the longest of each size is cut at half of its steps, as if it were still training.
The time is that of reading the folder, fitting the law and forecasting all runs.

    python benchmarks/forecast_speed.py            # print the figures
    python benchmarks/forecast_speed.py --check    # exit with 1 if a goal is missed
"""

# ruff: noqa: E402  (threads must be set before numpy is imported)
from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np

from analysis import forecast
from analysis.curves.curve_folders import read_folder
from analysis.curves.run_curve import RunCurves

GOALS = {
    "seconds": ("at most", 5.0),
    "rms": ("at most", 0.01),
    "coverage": ("at least", 0.85),
    "flagged": ("at most", 0.05),
}
"""Goal for each figure: seconds in all, rms of ln(loss), share of the true losses in their 90 %
intervals, and share of these healthy runs that are said to have left the law."""
FOLDER = Path(__file__).parents[1] / "results" / "headline"


def under_way(runs: RunCurves, fraction: float) -> RunCurves:
    """Return the runs with all but the longest of each size cut at a fraction of their steps."""
    longest = {N: max(r.end for r in runs.runs if r.N == N) for N in {r.N for r in runs.runs}}
    cut = [r if r.end == longest[r.N] else r.cut(round(fraction * r.end)) for r in runs.runs]
    return RunCurves(runs=cut, source=runs.source)


def measured(fraction: float = 0.5) -> dict[str, float]:
    begun = time.perf_counter()
    runs = read_folder(FOLDER)
    found = forecast(under_way(runs, fraction))
    seconds = time.perf_counter() - begun
    true = {run.run: float(run.loss[-1]) for run in runs.runs}
    errors = np.array([np.log(true[each.run] / each.loss) for each in found])
    return {
        "runs": len(found),
        "seconds": seconds,
        "rms": float(np.sqrt(np.mean(errors**2))),
        "coverage": float(np.mean([each.low <= true[each.run] <= each.high for each in found])),
        "flagged": float(np.mean([each.off_law is not None for each in found])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    found = measured()
    print(", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    missed = [
        f"{name} {found[name]:.4g} is not {how} {goal:g}"
        for name, (how, goal) in GOALS.items()
        if (found[name] > goal if how == "at most" else found[name] < goal)
    ]
    print("\n".join(missed) or "every goal is met")
    return int(check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
