"""Coverage of the intervals, measured by fitting many synthetic tables of a known law.

    python benchmarks/coverage.py                         # print the table
    python benchmarks/coverage.py --out results/coverage  # also write it to a folder
    python benchmarks/coverage.py --check                 # exit with 1 if a goal is missed

Coverage is the share of tables whose interval contains the true value. It is measured for E, alpha,
beta, a = beta / (alpha + beta), and for ln N_opt and L_opt at 10 and 1000 times the largest compute
that a table can contain, and averaged over these.
"""

# ruff: noqa: E402  (threads must be set before numpy is imported)
from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd

from analysis import fit, laws

TRUTH = {"E": 1.82, "A": 480.0, "B": 2100.0, "alpha": 0.347, "beta": 0.367}
LEVELS = (0.9, 0.95)
METHODS: dict[str, dict] = {
    "default": {},
    "bootstrap over rows": {"cluster": None},
    "residual": {"intervals": "residual", "cluster": None},
    "wild": {"intervals": "wild"},
    "delta, least squares": {"objective": "ls", "intervals": "delta"},
    "Huber 1e-3, bootstrap": {"objective": "huber", "delta": 1e-3},
    "profile": {},
}
"""Options of fit() for each kind of interval. The first is the default of fit(); the last calls
FitResult.profile, which covers parameters only."""
CASES = {
    "independent": "120 runs, 0.5 % Gaussian noise",
    "checkpoints": "40 runs of 8 checkpoints that share 90 % of the variance of their noise",
    "heavy tails": "120 runs, 0.4 % Student t noise of 3 degrees of freedom",
    "small": "30 runs",
    "few runs": "16 runs of 8 checkpoints that share 90 % of the variance of their noise",
}
SHORT = ("small", "few runs")
"""Cases whose shortfall is reported but not a goal."""
LARGEST = 1.6e10
MOST = 300.0
"""The largest run has up to LARGEST parameters and MOST tokens per parameter."""


def runs_of(case: str, seed: int) -> pd.DataFrame:
    """A synthetic table of a case (see CASES)."""
    rng = np.random.default_rng([list(CASES).index(case), seed])
    runs = int(CASES[case].split()[0])
    N = np.exp(rng.uniform(np.log(5e7), np.log(LARGEST), runs))
    D = N * np.exp(rng.uniform(np.log(3), np.log(MOST), runs))
    run = np.arange(runs)
    noise = 0.005 * rng.standard_normal(runs)
    if "checkpoints" in CASES[case]:
        fraction = np.geomspace(0.1, 1, 8)
        run, N = np.repeat(run, 8), np.repeat(N, 8)
        D = (D[:, None] * fraction).ravel()
        noise = np.sqrt(0.9) * np.repeat(noise, 8) + np.sqrt(0.1) * 0.005 * rng.standard_normal(
            len(N)
        )
    elif case == "heavy tails":
        noise = 0.004 * rng.standard_t(3, runs)
    L = laws.chinchilla.predict(TRUTH, N=N, D=D) * np.exp(noise)
    return pd.DataFrame({"run_id": run, "N": N, "D": D, "L": L})


def optimum(p, C):
    """(ln N_opt, L_opt) at C = 6 N D (Hoffmann et al. 2022, eq. 4)."""
    G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    N = G * (C / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
    L = p["E"] + p["A"] * N ** -p["alpha"] + p["B"] * (C / 6 / N) ** -p["beta"]
    return np.log(N), L


BUDGET = 6 * LARGEST * MOST * LARGEST
QUANTITIES = {
    "E": lambda p: p["E"],
    "alpha": lambda p: p["alpha"],
    "beta": lambda p: p["beta"],
    "a": lambda p: p["beta"] / (p["alpha"] + p["beta"]),
    "ln N_opt, 10x": lambda p: optimum(p, 10 * BUDGET)[0],
    "ln N_opt, 1000x": lambda p: optimum(p, 1000 * BUDGET)[0],
    "L_opt, 10x": lambda p: optimum(p, 10 * BUDGET)[1],
    "L_opt, 1000x": lambda p: optimum(p, 1000 * BUDGET)[1],
}


def one(job: tuple[str, int, int]) -> list[dict]:
    """Coverage and width of every interval for one table."""
    case, seed, draws = job
    runs = runs_of(case, seed)
    rows, first = [], None
    for method, options in METHODS.items():
        same = not options or (options == {"cluster": None} and runs["run_id"].is_unique)
        if first is None or not same:
            result = fit(laws.chinchilla, runs, bootstrap=draws, seed=seed, warm=first, **options)
            first = first or result
        else:
            result = first
        for level in LEVELS:
            for quantity, of in QUANTITIES.items():
                if method != "profile":
                    found = result.derived(of, level)
                elif quantity in TRUTH:
                    found = result.profile(quantity, level)
                else:
                    continue
                rows.append(
                    {
                        "case": case,
                        "method": method,
                        "level": level,
                        "quantity": quantity,
                        "covered": found.low <= of(TRUTH) <= found.high,
                        "width": found.high - found.low,
                    }
                )
    return rows


def by_quantity(rows: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Coverage of each quantity at one level, one row per case and method."""
    rows = rows[rows["level"] == level]
    out = rows.groupby(["case", "method", "quantity"], sort=False)["covered"].mean()
    return out.unstack("quantity").reset_index()


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean coverage per case and method at each level, and width relative to the default's."""
    mean = rows.groupby(["case", "method", "level", "quantity"], sort=False)
    cells = mean.agg(covered=("covered", "mean"), width=("width", "median")).reset_index()
    base = cells[cells["method"] == "default"].set_index(["case", "level", "quantity"])["width"]
    keys = pd.MultiIndex.from_frame(cells[["case", "level", "quantity"]])
    cells["width"] /= base.loc[keys].to_numpy()
    out = cells.groupby(["case", "method", "level"], sort=False)[["covered", "width"]].mean()
    out = out.unstack("level")
    out.columns = [f"{what} {100 * level:.0f} %" for what, level in out.columns]
    return out.reset_index()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--tables", type=int, default=200, help="synthetic tables per case")
    parser.add_argument("--draws", type=int, default=400, help="resamples per fit")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, help="folder for coverage.csv and README.md")
    options = parser.parse_args()

    began = time.perf_counter()
    jobs = [(case, seed, options.draws) for case in CASES for seed in range(options.tables)]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        rows = pd.DataFrame(
            [row for rows in pool.imap_unordered(one, jobs, chunksize=8) for row in rows]
        )
    rows["case"] = pd.Categorical(rows["case"], CASES)
    rows["method"] = pd.Categorical(rows["method"], METHODS)
    rows["quantity"] = pd.Categorical(rows["quantity"], QUANTITIES)
    rows = rows.sort_values(["case", "method", "level", "quantity"]).astype({"method": str})
    rows = rows.astype({"case": str, "quantity": str})
    found = table(rows)
    apart = by_quantity(rows)
    note = (
        f"There are {options.tables} tables per case and {options.draws} draws per fit. The "
        f"coverage of one quantity has a standard error of {errors(options.tables)}. The mean over "
        "quantities has a smaller one, but more than a third of that, because one table tends to "
        "hit or miss all of them together. Widths are relative to the default's."
    )
    for each in (found, apart):
        print(each.to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
    print(note)
    if options.out:
        write(options.out, found, apart, note)
    default = found[found["method"] == "default"].set_index("case")
    figures = {
        f"{case.replace(' ', '_')}_{100 * level:.0f}": float(
            default.loc[case, f"covered {100 * level:.0f} %"]
        )
        for case in CASES
        for level in LEVELS
    }
    missed = [
        f"{name} covers {value:.3f}"
        for name, value in figures.items()
        if not name.startswith(tuple(case.replace(" ", "_") for case in SHORT))
        and abs(value - float(name[-2:]) / 100) > 0.03
    ]
    for line in missed:
        print(f"missed: {line}; the goal is within 0.03 of nominal")
    seconds = time.perf_counter() - began
    print(" ".join(f"{k}={v:.3f}" for k, v in figures.items()) + f" seconds={seconds:.0f}")
    return int(options.check and bool(missed))


def errors(tables: int) -> str:
    """Standard errors of a nominal coverage, at each level."""
    return " and ".join(
        f"{np.sqrt(level * (1 - level) / tables):.3f} at {100 * level:.0f} %" for level in LEVELS
    )


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if np.isfinite(value) else "-"


def markdown(found: pd.DataFrame) -> str:
    head = "| " + " | ".join(found.columns) + " |\n|" + " --- |" * len(found.columns) + "\n"
    return head + "\n".join(
        "| " + " | ".join(_cell(v) for v in row) + " |" for row in found.itertuples(index=False)
    )


def write(folder: Path, found: pd.DataFrame, apart: pd.DataFrame, note: str) -> None:
    """Write coverage.csv, by_quantity.csv, and a README.md that explains both tables."""
    folder.mkdir(parents=True, exist_ok=True)
    found.round(4).to_csv(folder / "coverage.csv", index=False)
    apart.round(4).to_csv(folder / "by_quantity.csv", index=False)
    cases = "\n".join(f"- {name}: {what}" for name, what in CASES.items())
    methods = "\n".join(
        f"- {name}: fit({', '.join(f'{k}={v!r}' for k, v in options.items())})"
        + (".profile(name) of each parameter" if name == "profile" else "")
        for name, options in METHODS.items()
    )
    text = (
        "# Coverage of intervals\n\n"
        "Coverage is the share of synthetic tables of a known law (Hoffmann et al. 2022) whose "
        "interval contains the\ntrue value. For 95 % intervals it should be 0.95. The first table "
        "below gives the mean over E, alpha, beta,\na = beta / (alpha + beta), and over ln N_opt "
        "and L_opt at 10 and 1000 times the largest compute of the\nsynthetic tables "
        f"({BUDGET:.2g} FLOPs). The second gives each of these at 95 %.\n\n{note}\n\n"
        f"This page is generated by `benchmarks/coverage.py`.\n\n## Synthetic tables\n\n{cases}\n\n"
        f"## Kinds of interval\n\nOptions that are not listed have their defaults.\n\n{methods}\n\n"
        f"## Mean over quantities\n\n{markdown(found)}\n\n"
        f"## Each quantity, 95 % intervals\n\n{markdown(apart)}\n"
    )
    (folder / "README.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
