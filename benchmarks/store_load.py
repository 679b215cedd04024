"""Cost of commands on a results folder with very many finished runs.

The benchmark creates a folder with 1e5 runs and 1e6 curve points, and the spec that asks for them.
It runs each command in its own process and prints user CPU seconds and peak memory. The baseline,
run right after each command, is the simplest program that reads the same files: json.loads of every
result.json, or pandas.read_csv of the table.

    python benchmarks/store_load.py            # print the table (about five minutes)
    python benchmarks/store_load.py --check    # exit with 1 if a goal is missed
    python benchmarks/store_load.py --runs 10000
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

GOALS = {"status": 3.0, "dry_run": 3.0, "merge_again": 2.0, "merge_again_gb": 0.5, "spec": 6.0}
"""Upper limits at 1e5 runs, in user CPU seconds or gigabytes."""

POINTS = 10
SHAPES = ((1, 32, 2), (2, 64, 2), (2, 96, 3), (3, 128, 4), (4, 128, 4))
HORIZONS = (5, 20, 80, 320)

ROOT = Path(__file__).resolve().parents[1]


def spec_text(runs: int) -> str:
    models = ", ".join(f"{{ n_layer = {n}, d_model = {d}, n_head = {h} }}" for n, d, h in SHAPES)
    seeds = list(range(runs // (len(SHAPES) * len(HORIZONS))))
    return (
        'name = "load"\n[base]\noptim.lr = "0.05 N^-0.25"\n[axes]\n'
        f"seed = {seeds}\nmodel = [{models}]\ntokens_per_parameter = {list(HORIZONS)}\n"
    )


def make(folder: Path, runs: int) -> None:
    """Create a folder as a sweep leaves it before its first merge."""
    from sweeps.result import dump, failed_row
    from sweeps.spec import Spec
    from sweeps.store import Store

    text = spec_text(runs)
    (folder / "load.toml").write_text(text)
    store = Store(folder / "results" / "load")
    for run in Spec.from_text(text).runs:
        L = 1.9 + 9.0 * run.model.d_model**-0.5 + 38.0 * run.D**-0.3 + 1e-6 * run.seed
        measured = {"status": "ok", "L": L, "seconds": 1 / 3, "tokens_per_second": 1e5, "pack": 1}
        row = failed_row(run, "") | measured | {"corpus_hash": "00e1", "lr_peak": 1e-3}
        steps = [max(1, run.S * k // POINTS) for k in range(1, POINTS + 1)]
        curve = [
            {"run_id": run.run_id, "S": S, "D": S * run.batch_tokens, "C": 1e9 * S, "L": L + 1 / S,
             "L_train": L, "lr": 1e-3, "grad_norm": 0.5}
            for S in steps
        ]  # fmt: skip
        path = store.run_folder(run.run_id)
        path.mkdir(parents=True)
        (path / "result.json").write_bytes(dump(row, curve, []))
    store.write_manifest({"name": "load", "spec": text})


def measured(code: str, *words: str, cwd: Path) -> tuple[float, float]:
    """(user CPU seconds, peak gigabytes) of a Python program in its own process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = (
        "import resource, sys\n" + code + "\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=cwd, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{code}\nfailed:\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime, float(done.stderr.splitlines()[-1])


COMMAND = "from scaling.cli import main; main(sys.argv[1:])"
MERGE = "from sweeps.store import Store; Store('results/load').merge()"
PARSE = "from sweeps.spec import Spec; Spec.from_toml('load.toml')"
JSON = (
    "import json, pathlib\n"
    "for path in pathlib.Path('results/load/runs').glob('*/result.json'):\n"
    "    json.loads(path.read_bytes())"
)
CSV = "import pandas; pandas.read_csv('results/load/runs.csv')"

STEPS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("spec", PARSE, (), JSON),
    ("status_raw", COMMAND, ("status", "results/load"), JSON),
    ("merge", MERGE, (), JSON),
    ("merge_again", MERGE, (), JSON),
    ("status", COMMAND, ("status", "results/load"), CSV),
    ("dry_run", COMMAND, ("sweep", "load.toml", "--dry-run"), CSV),
    ("sweep", COMMAND, ("sweep", "load.toml"), CSV),
    ("fit", COMMAND, ("fit", "results/load", "--bootstrap", "0"), CSV),
)
"""Name, program, its arguments, and the baseline program."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000, help="finished runs")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    asked = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="store-load-") as scratch:
        folder = Path(scratch)
        make(folder, asked.runs)
        print(f"{'':<12} {'CPU [s]':>8} {'memory [GB]':>12} {'baseline [s]':>13} {'ratio':>7}")
        for name, code, words, baseline in STEPS:
            seconds, memory = measured(code, *words, cwd=folder)
            base, _ = measured(baseline, cwd=folder)
            figures |= {name: seconds, f"{name}_gb": memory, f"{name}_ratio": seconds / base}
            print(f"{name:<12} {seconds:8.2f} {memory:12.2f} {base:13.2f} {seconds / base:7.2f}")
    missed = [name for name, goal in GOALS.items() if figures[name] > goal]
    for name in missed:
        print(f"missed: {name} is {figures[name]:.2f}; the goal is at most {GOALS[name]:g}")
    print(" ".join(f"{name}={value:.3g}" for name, value in figures.items()))
    if asked.check and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
