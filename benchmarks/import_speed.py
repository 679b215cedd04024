"""Time to import offline runs of Weights & Biases, as `scaling import` does in its own process.

The benchmark writes 1000 runs with 200 entries of seven numbers each, in the format of W&B's own
files. The baseline, run right after, is the least that any importer does: read the bytes of every
file and parse the JSON of every number.

    python benchmarks/import_speed.py            # print the times (about a minute)
    python benchmarks/import_speed.py --check    # exit with 1 if a goal is missed
    python benchmarks/import_speed.py --runs 100
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from goals import finish

ROOT = Path(__file__).resolve().parents[1]
GOALS = {"import_s": ("at most", 60.0)}
ENTRIES = 200
SHAPES = ((2, 128), (4, 256), (6, 384), (8, 512), (12, 768))
HORIZONS = (500, 1000, 2000, 4000, 8000)


def write(folder: Path, runs: int) -> None:
    """Write offline runs of a training script."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tracker_files import write_wandb_run

    for number in range(runs):
        n_layer, d_model = SHAPES[number % len(SHAPES)]
        steps = HORIZONS[number // len(SHAPES) % len(HORIZONS)]
        config = {
            "n_layer": n_layer, "d_model": d_model, "batch_size": 64, "seq_len": 512, "lr": 3e-3,
            "max_steps": steps, "seed": number, "optimizer": "adamw",
        }  # fmt: skip
        N = 12 * n_layer * d_model**2
        history = []
        for k in range(1, ENTRIES + 1):
            step = steps * k // ENTRIES
            D = step * 64 * 512
            L = 1.8 + 400 / N**0.34 + 1500 / D**0.36 + 1e-6 * number
            row = {
                "_step": step, "train/loss": L + 0.01, "train/grad_norm": 0.5, "tokens_seen": D,
                "lr": 3e-3 * math.cos(k / ENTRIES), "_timestamp": 1.7e9 + k, "_runtime": 1.0 * k,
            }  # fmt: skip
            history.append(row | {"val/loss": L} if k % 10 == 0 else row)
        write_wandb_run(folder, history, config, id=f"r{number:05d}", start=number)


def timed(code: str, *words: str) -> float:
    """Return the seconds that a Python program takes in its own process."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return time.perf_counter() - begin


IMPORT = (
    "import sys\nfrom scaling.cli import main\nmain(['import', sys.argv[1], '--out', sys.argv[2]])"
)
BYTES = (
    "import json, pathlib, re, sys\n"
    "for path in pathlib.Path(sys.argv[1]).rglob('*.wandb'):\n"
    "    for text in re.findall(rb'[0-9.]+', path.read_bytes()):\n"
    "        try: json.loads(text)\n"
    "        except ValueError: pass\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="offline runs")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="import-speed-") as scratch:
        folder = Path(scratch)
        write(folder, asked.runs)
        seconds = timed(IMPORT, f"wandb:{folder}", str(folder / "runs.csv"))
        base = timed(BYTES, str(folder))
    entries = asked.runs * ENTRIES
    print(f"{asked.runs} runs with {entries} entries: {seconds:.1f} s; baseline: {base:.1f} s")
    found = {"runs": asked.runs, "entries": entries, "import_s": seconds, "ratio": seconds / base}
    finish(found, GOALS, check=asked.check)


if __name__ == "__main__":
    main()
