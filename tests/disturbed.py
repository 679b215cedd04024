"""Sweeps in separate processes, which tests of faults and kills disturb."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from scaling import table
from scaling.config import DataConfig
from sweeps.spec import Spec
from sweeps.store import Store

ROOT = Path(__file__).parents[1]

DRIVER = """
import sys
from sweeps import Sweep
from sweeps.errors import StoreError
options = dict(word.split("=") for word in sys.argv[3:])
if options.get("unchecked") == "1":  # a mistake that shows only on the worker's machine
    import sweeps.driver
    sweeps.driver.prepare = lambda *_, **__: {}
if "experiment" in options:
    import sweeps.on_ray.tune
    sweeps.on_ray.tune.jobs_of_an_experiment = lambda workers: int(options["experiment"])
try:
    Sweep.from_toml(sys.argv[1], results=sys.argv[2]).run(
        workers=int(options.get("workers", 2)),
        threads=int(options.get("threads", 1)),
        devices=int(options.get("devices", 1)),
        nodes=int(options.get("nodes", 1)),
        address=options.get("address"),
        in_process=options.get("in_process") == "1",
        retries=int(options.get("retries", 2)),
        retry_failed=options.get("retry_failed") == "1",
        packs=options.get("packs") == "1",
        checkpoint_seconds=0.2,
    )
except KeyboardInterrupt as stop:
    print(stop)
    sys.exit(130)
except ValueError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
print("ray imported" if "ray" in sys.modules else "ray not imported")
"""

BASE = """
[base]
data = { corpus = "corpus.txt", tokenizer = "bytes" }
model = { n_layer = 1, d_model = 16, n_head = 1, n_ctx = 32 }
batch_tokens = 256
eval = { test_tokens = 2048, points = 4 }
"""

# Two runs of a few seconds each and two short ones, which leaves enough time to disturb them.
LONG = 'name = "long"\n' + BASE + "[axes]\ntokens = [20480, 30720, 256_000, 409_600]\n"

MEASURED_ANEW = ["seconds", "tokens_per_second", "step_seconds", "mfu", "peak_flops", "memory"]


class Project:
    """A folder with a corpus and specs, in which drivers are started."""

    def __init__(self, folder: Path, cache: Path, text: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "SCALING_CACHE": str(cache),
            "HOME": "/dev/null/home",  # not writable, not even by root
            "RAY_TMPDIR": str(folder),
        }
        # A file left behind by a cluster that is long gone. Trying to join it takes minutes.
        (folder / "ray").mkdir()
        (folder / "ray" / "ray_current_cluster").write_text("192.0.2.1:6379")
        self.started: list[subprocess.Popen[str]] = []
        shutil.copy(text, folder / "corpus.txt")

    def spec(self, name: str, text: str) -> Spec:
        (self.folder / f"{name}.toml").write_text(text)
        return Spec.from_toml(self.folder / f"{name}.toml")

    def start(self, name: str, results: str, *options: str) -> subprocess.Popen[str]:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, f"{name}.toml", results, *options],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(driver)
        return driver

    def run(self, name: str, results: str, *options: str) -> str:
        """Run a driver to its end and return its output. Its stderr must be empty."""
        out, err = self.start(name, results, *options).communicate(timeout=200)
        assert err == ""
        return out

    def command(self, words: list[str]) -> str:
        """Run a `scaling` command in a new process and return its output."""
        done = subprocess.run(
            [sys.executable, "-m", "scaling.cli", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def damage_tokens(self, data: DataConfig) -> None:
        """Prepare a corpus, then fill its token file with ids outside of any vocabulary."""
        code = (
            "import sys, json\n"
            "from scaling.config import DataConfig; from scaling.data import corpus\n"
            "print(corpus.prepare(DataConfig(**json.loads(sys.argv[1]))).train)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(dataclasses.asdict(data))],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        train = Path(done.stdout.strip())
        np.full_like(np.fromfile(train, np.uint16), 60_000).tofile(train)

    def store(self, name: str, results: str) -> Store:
        return Store(self.folder / results / name)


def kill_tree(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def tree(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Descendants of the driver."""
    try:
        return psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def starts(store: Store, run_id: str) -> list[int]:
    """Worker pids of a run's attempts, in order."""
    return [e["pid"] for e in store.attempts(run_id) if e["event"] == "start"]


def results_of(store: Store, without: Sequence[str] = ()) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, curves) of a sweep without the columns that depend on the clock."""
    rows = table.read(store.folder).drop(columns=[*MEASURED_ANEW, *without])
    return rows, table.read_curves(store.folder)


def assert_same_results(one: Store, other: Store, without: Sequence[str] = ()) -> None:
    for mine, theirs in zip(results_of(one, without), results_of(other, without), strict=True):
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
