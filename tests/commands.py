"""Runs of a small command, and drivers of them in separate processes, for tests that disturb
them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from scaling.command_run import CommandRun
from scaling.execution import Execution
from sweeps.driver import run_here
from sweeps.queue import Job, Queue
from sweeps.runner.process import FOLDER
from sweeps.runner.runner import Runner
from sweeps.store import Store

ROOT = Path(__file__).parents[1]

TRAINER = '''
"""A trainer that resumes from its folder; with --child, a child of it trains."""
import argparse, json, os, subprocess, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path)
parser.add_argument("--seed", type=int)
parser.add_argument("--steps", type=int)
parser.add_argument("--seconds", type=float, default=0.02)
parser.add_argument("--child", action="store_true")
options = parser.parse_args()
if options.child:
    words = [word for word in sys.argv[1:] if word != "--child"]
    sys.exit(subprocess.call([sys.executable, __file__, *words]))
state = options.out / "state.json"
try:
    done = json.loads(state.read_text())["step"]
except (OSError, ValueError):
    done = 0
for step in range(done + 1, options.steps + 1):
    time.sleep(options.seconds)
    loss = 2 + 1 / step + options.seed / 100
    print(f"step {step} loss {loss:.4f}", flush=True)
    if step % 10 == 0:
        with (options.out / "curve.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "L": loss, "D": 100 * step}) + "\\n")
        state.with_name("new").write_text(json.dumps({"step": step}))
        os.replace(state.with_name("new"), state)
result = {"L": loss, "N": 1000, "D": 100 * options.steps}
(options.out / "result.json").write_text(json.dumps(result))
'''

DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
from commands import drive
drive(*sys.argv[2:])
"""


def command_run(command: str | Sequence[str], **keys: Any) -> CommandRun:
    """Return a run of a shell command, or of words."""
    words = ("sh", "-c", command) if isinstance(command, str) else tuple(command)
    steps = keys.get("steps", 10)
    return CommandRun(
        command=words, keys={"seed": 0} | keys, N=1000, D=100 * steps, batch_tokens=100
    )


def jobs(runs: Sequence[CommandRun], runner: Runner) -> list[Job]:
    return [Job((run,), 1.0, runner=runner) for run in runs]


def new_store(folder: Path) -> Store:
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    return Store(folder)


def run_all(
    folder: Path, runs: Sequence[CommandRun], retries: int = 0, **options: Any
) -> tuple[Store, Queue]:
    """Run commands in this process; returns the store and the queue."""
    runner = Runner(**({"workdir": folder.parent, "grace_seconds": 2.0} | options))
    store = new_store(folder)
    queue = Queue(store, retries)
    queue.add(jobs(runs, runner))
    run_here(queue, Execution(device="cpu"))
    return store, queue


def run_one(folder: Path, command: str | Sequence[str], **options: Any) -> dict[str, Any]:
    """Run one command in this process, and return the row of its result."""
    run = command_run(command)
    store, queue = run_all(folder, [run], **options)
    assert queue.fatal is None
    finished = store.result(run.run_id)
    assert finished is not None
    return dict(finished.row)


def log_of(folder: Path, command: str | Sequence[str]) -> str:
    return (folder / "runs" / command_run(command).run_id / "output.log").read_text()


# ------------------------------------------------------------------ drivers


def sweep_of(folder: Path, number: int, steps: int) -> list[CommandRun]:
    """Return runs of the trainer in `folder`; every other one trains in a child."""
    words = [sys.executable, str(folder / "train.py"), "--seed", "{seed}", "--steps", "{steps}"]
    words += ["--out", "{folder}"]
    return [
        command_run([*words, *(["--child"] if seed % 2 else [])], seed=seed, steps=steps + seed)
        for seed in range(number)
    ]


def drive(folder: str, results: str, number: str, steps: str, where: str) -> None:
    """Run what is missing of a sweep, as a driver does."""
    store = new_store(Path(folder, results))
    with store.drive():
        store.remove_leftovers()
        queue = Queue(store, retries=100)
        missing = [
            run
            for run in sweep_of(Path(folder), int(number), int(steps))
            if store.result(run.run_id) is None
        ]
        runner = Runner(workdir=Path(folder), grace_seconds=2.0)
        queue.add(jobs(missing, runner))
        if where == "here":
            run_here(queue, Execution(device="cpu"))
        else:
            from sweeps.on_ray.tune import run_on_ray

            run_on_ray(queue, workers=2, execution=Execution(device="cpu"), runner=runner)
        assert queue.fatal is None, queue.fatal


class Drivers:
    """Drivers of a sweep in a folder."""

    def __init__(self, folder: Path, number: int, steps: int, where: str) -> None:
        self.folder, self._sweep = folder, (str(number), str(steps), where)
        (folder / "train.py").write_text(TRAINER)
        self.runs = sweep_of(folder, number, steps)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, results: str) -> subprocess.Popen[bytes]:
        words = [str(ROOT / "tests"), str(self.folder), results, *self._sweep]
        with (self.folder / "errors").open("ab") as errors:
            driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER, *words],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        self.started.append(driver)
        return driver

    def store(self, results: str) -> Store:
        return Store(self.folder / results)

    def run(self, results: str) -> Store:
        """Run a driver to its end."""
        driver = self.start(results)
        code = driver.wait(timeout=300)
        assert code == 0, (self.folder / "errors").read_text()
        return self.store(results)

    def end(self) -> None:
        for driver in self.started:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(driver.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            driver.kill()
            driver.wait()


@contextlib.contextmanager
def drivers(folder: Path, number: int, steps: int, where: str) -> Iterator[Drivers]:
    found = Drivers(folder, number, steps, where)
    try:
        yield found
    finally:
        found.end()


def marked(folder: Path) -> list[int]:
    """Return the living processes of commands that run below a folder."""
    mark = f"{FOLDER}={folder}/".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
    return found


def results_of(store: Store) -> dict[str, Any]:
    """Return what must not depend on kills: status, sizes, losses and curves of each run."""
    found = {}
    for run_id in store.run_ids():
        if finished := store.result(run_id):
            row = finished.row
            points = [(p["S"], p["L"]) for p in finished.curve]
            found[run_id] = ([row[k] for k in ("status", "N", "D", "S", "L")], points)
    return found


def ends_of(store: Store, run_id: str) -> Counter[str]:
    return Counter(event["event"] for event in store.attempts(run_id))


def events_after_the_end(store: Store, run_id: str) -> list[str]:
    """Return what happened to a run after it had finished."""
    events = [event["event"] for event in store.attempts(run_id)]
    return events[events.index("ok") + 1 :]


def tidy(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def line(**values: Any) -> str:
    """Return words of a shell that print a JSON object, for a command (with {{ for {)."""
    text = json.dumps(values).replace("{", "{{").replace("}", "}}")
    return f"echo '{text}'"


def result(**values: Any) -> str:
    """Return words of a shell that write a result."""
    return f"{line(**({'L': 2.5, 'N': 1000, 'D': 1000} | values))} > {{folder}}/result.json"
