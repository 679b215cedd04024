"""Curve laws on the published curves of Luo et al. 2025: fit on short runs, predict longer ones.

    python benchmarks/curves_published.py PUBLISHED [--check]

PUBLISHED holds multipower2025/curves_25M_100M.csv: losses under nine schedules at two model sizes.
As in the paper, each law is fitted to cosine_24000, constant_24000 and wsdcon_9, and predicts the
six other curves. The table shows the objective (sum of Huber's function, delta 0.001, of log
residuals) beside the published one, the mean absolute error of the six curves beside the published
one, how many points of the runs that are three times longer lie within 90 % intervals, and seconds.
multi_power is the default; "no prior" is the minimum of the published objective. The last line
sums up. With --check, the exit code is 1 if the default misses a goal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.fit import CurveFit, fit_curves
from analysis.curves.laws import multi_power
from analysis.curves.rates import Rates

FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
LONGER = ("constant_72000", "cosine_72000")
WARMUP = 2160
PUBLISHED: dict[int, dict[str, Any]] = {
    25: {
        "params": (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013,
                   0.64142257),
        "objective": 2.786e-4, "start": 2.482e-4, "mae": 0.00376,
    },
    100: {
        "params": (2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199,
                   0.65523644),
        "objective": 2.751e-4, "start": 2.210e-4, "mae": 0.00435,
    },
}  # fmt: skip
"""Published parameters, objectives of the fit and of its start, and mean error of six curves."""

R2 = {"wsdcon_9": 0.999471, "wsdcon_3": 0.998253, "wsdcon_18": 0.999606}
"""R2 of curves of the smaller model at the published parameters."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "multi_power": ("multi_power", {}),
    "multi_power, equal weights": ("multi_power", {"weights": "equal"}),
    "multi_power, no prior": ("multi_power", {"weights": "equal", "prior": False}),
    "annealing": ("annealing", {}),
    "multi_power_start, equal weights": ("multi_power_start", {"weights": "equal"}),
}
"""Name of each variant: the law, and options of the fit."""


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("published", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    table = pd.read_csv(options.published / "multipower2025/curves_25M_100M.csv")
    off = max(abs(r2(table, curve) - value) for curve, value in R2.items())
    print(f"R2 at the published parameters: off by at most {off:.1e}")
    figures: dict[str, float] = {"r2_off": off}
    print(f"{'size':>5} {'law':<34}{'objective':>10} {'start':>9}{'MAE':>9} {'paper':>8}"
          f"{'covered':>9} {'of each':>12}{'seconds':>9}")  # fmt: skip
    for size, paper in PUBLISHED.items():
        rows = table[table["model_M"] == size]
        for name, (law, chosen) in VARIANTS.items():
            fit = fit_curves(law, rows, run="curve", step="step", lr="lr", loss="loss",
                             warmup=WARMUP, fit_on=FITTED, **chosen)  # fmt: skip
            mae, inside = errors(fit, rows)
            each = " ".join(f"{x.mean():.2f}" for x in inside)
            covered = float(np.concatenate(inside).mean())
            print(f"{size:>4}M {name:<34}{fit.objective:>10.3e} {paper['start']:>9.3e}{mae:>9.5f} "
                  f"{paper['mae']:>8.5f}{covered:>9.3f} {each:>12}{fit.seconds:>9.2f}")  # fmt: skip
            if name == "multi_power":
                figures |= {
                    f"objective_{size}M": fit.objective, f"mae_{size}M": mae,
                    f"covered_{size}M": covered, f"seconds_{size}M": fit.seconds,
                }  # fmt: skip
    missed = misses(figures)
    print(" ".join(f"{name}={value:.5g}" for name, value in figures.items()))
    for miss in missed if options.check else ():
        print(f"missed: {miss}", file=sys.stderr)
    return 1 if options.check and missed else 0


def r2(table: pd.DataFrame, curve: str) -> float:
    """Return R2 of a curve of the smaller model at the published parameters."""
    rows = table[(table["model_M"] == 25) & (table["curve"] == curve)]
    points = multi_power.points(
        [(Rates.from_logged(rows["step"], rows["lr"], WARMUP), rows["step"])]
    )
    params = dict(zip(multi_power.params, PUBLISHED[25]["params"], strict=True))
    loss = rows["loss"].to_numpy()
    left = ((loss - multi_power.loss(params, points)) ** 2).sum()
    return float(1 - left / ((loss - loss.mean()) ** 2).sum())


def errors(fit: CurveFit, rows: pd.DataFrame) -> tuple[float, list[np.ndarray]]:
    """Return the mean absolute error of the curves not fitted, and which points of the longer ones
    lie within 90 % intervals."""
    mae, inside = [], []
    for name, curve in rows.groupby("curve"):
        if name in FITTED:
            continue
        at: dict[str, Any] = {"step": curve["step"], "lr": curve["lr"]}
        loss = curve["loss"].to_numpy()
        mae.append(np.abs(fit.predict(**at) - loss).mean())
        if name in LONGER:
            low, high = fit.predict_interval(0.9, **at)
            inside.append((low <= loss) & (loss <= high))
    return float(np.mean(mae)), inside


def misses(figures: dict[str, float]) -> list[str]:
    """Return the goals that the default fit misses."""
    goals = {"R2 to 1e-5": figures["r2_off"] <= 1e-5}
    for size, paper in PUBLISHED.items():
        goals |= {
            f"objective of {size}M": figures[f"objective_{size}M"] <= paper["start"],
            f"error of {size}M": figures[f"mae_{size}M"] <= paper["mae"],
            f"coverage of {size}M": 0.85 <= figures[f"covered_{size}M"] <= 0.95,
            f"seconds of {size}M": figures[f"seconds_{size}M"] < 5,
        }
    return [name for name, met in goals.items() if not met]


if __name__ == "__main__":
    sys.exit(main())
