"""What a sweep of commands costs beside the commands themselves, on two workers.

The baseline starts the same commands, two at a time, each as soon as the one before it has ended.

- overhead: 100 commands of 0.2 s. The seconds per run and worker that `scaling sweep` takes beyond
  the baseline, with the start of Python and of Ray, which are most of it.
- utilisation: 1000 commands of 0.1 s. The part of the time of two workers in which commands run,
  from the start of the first one to the end of the last one.

    python benchmarks/command_overhead.py            # print the figures
    python benchmarks/command_overhead.py --check    # exit with 1 if a goal is missed
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from goals import finish

ROOT = Path(__file__).parents[1]

GOALS = {"overhead_s": ("at most", 0.3), "utilisation": ("at least", 0.85)}
"""Goal for each figure on the last line."""

SCRIPT = """sleep {seconds}; printf '{"L": %s, "N": 1000}' {i} > {folder}/result.json"""
"""What each command does, as a shell script."""

SPEC = """
name = "commands"
[runner]
command = ["sh", "-c", '''SCRIPT''']
[base]
tokens = 1000
[axes]
i = [VALUES]
"""


def script(seconds: float, i: object, folder: object) -> str:
    """Return the script of one command."""
    filled = SCRIPT.replace("{seconds}", str(seconds)).replace("{i}", str(i))
    return filled.replace("{folder}", str(folder))


def baseline(number: int, seconds: float, folder: Path, workers: int) -> float:
    """Return the seconds that the commands take without a sweep."""
    folder.mkdir()

    def run(i: int) -> None:
        (folder / f"{i}").mkdir()
        subprocess.run(["sh", "-c", script(seconds, i, folder / f"{i}")], check=True)

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, range(1, number + 1)))
    return time.perf_counter() - start


def sweep(number: int, seconds: float, folder: Path, workers: int) -> tuple[float, float]:
    """Return the seconds of a whole call of `scaling sweep`, and those between the start of the
    first command and the end of the last one."""
    folder.mkdir()
    text = SCRIPT.replace("{seconds}", str(seconds)).replace('{"L": %s, "N": 1000}', "_OBJECT_")
    text = text.replace("_OBJECT_", '{{"L": %s, "N": 1000}}')
    values = ", ".join(map(str, range(1, number + 1)))
    spec = SPEC.replace("SCRIPT", text).replace("VALUES", values)
    (folder / "commands.toml").write_text(spec)
    words = ["-m", "scaling.cli", "sweep", "commands.toml", "--workers", str(workers)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SCALING_PROGRESS": "0"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"the sweep failed: {done.stderr[-2000:]}{done.stdout[-2000:]}")
    ends = [path.stat().st_mtime for path in folder.glob("results/commands/runs/*/work/*.json")]
    if len(ends) != number:
        raise SystemExit(f"{len(ends)} of {number} commands have written their result.")
    return took, max(ends) - min(ends) + seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--workers", type=int, default=2, help="workers of both ways")
    parser.add_argument("--few", type=int, default=100, help="commands of 0.2 s")
    parser.add_argument("--many", type=int, default=1000, help="commands of 0.1 s")
    options = parser.parse_args()
    workers, found = options.workers, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bare = baseline(options.few, 0.2, folder / "bare", workers)
        took, _ = sweep(options.few, 0.2, folder / "sweep", workers)
        found["overhead_s"] = (took - bare) * workers / options.few
        found["ratio"] = took / bare
        print(f"{options.few} commands of 0.2 s: {bare:.1f} s alone, {took:.1f} s in a sweep")
        bare = baseline(options.many, 0.1, folder / "bare-many", workers)
        took, between = sweep(options.many, 0.1, folder / "sweep-many", workers)
        found["utilisation"] = options.many * 0.1 / workers / between
        found["utilisation_alone"] = options.many * 0.1 / workers / bare
        found["utilisation_call"] = options.many * 0.1 / workers / took
        print(
            f"{options.many} commands of 0.1 s: {bare:.1f} s alone; in a sweep {between:.1f} s, "
            f"and {took:.1f} s with its start and end"
        )
    finish(found, GOALS, check=options.check)


if __name__ == "__main__":
    main()
