"""Sweeps end with the same table after random kills, halts, and a lack of open files or disk
space."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from disturbed import BASE, LONG, Project, assert_same_results, starts, tree, wait_for

from scaling import table
from sweeps.measure import Machine
from sweeps.store import Store

HOW = ("pack", "D_shared")
"""Columns for how a run was trained rather than its result: a killed pack resumes with fewer
runs."""

WSD = 'optim = { schedule = "wsd", warmup_tokens = 5120 }\n'
ONE = "[axes]\nseed = [0]\n"
SIZES = "[[1, 8, 1], [1, 16, 2], [2, 32, 2]]"
BUDGETS = """
[base]
data = { corpus = "corpus.txt", tokenizer = "bytes" }
model.n_ctx = 32
batch_tokens = 256
optim.lr = 0.01
eval = { test_tokens = 2048, points = 4 }
[isoflop]
C = [3e9]
models = [
    { n_layer = 1, d_model = 8, n_head = 1 },
    { n_layer = 1, d_model = 16, n_head = 1 },
    { n_layer = 1, d_model = 24, n_head = 1 },
]
[until]
isoflop = { within = 1.3 }
"""

KINDS = {
    "packs": BASE + "[axes]\ntokens = [102_400, 256_000]\nseed = [0, 1, 2, 3]\n",
    "branches": BASE + WSD + "[axes]\ntokens = [51_200, 204_800, 307_200]\nseed = [0, 1]\n",
    "rates": BASE
    + "tokens = 102_400\noptim.lr = 0.01\n"
    + ONE
    + "[until]\nlr = { within = 1.5 }\n",
    "budgets": BUDGETS,
}
QUICK = BASE + "tokens = 20_480\noptim.lr = 0.01\n" + ONE + "[until]\nlr = { within = 1.7 }\n"


def let_pack(project: Project, name: str) -> None:
    """Pretend that packs of two were measured to be faster, in this process and under Ray."""
    spec = project.spec(name, f'name = "{name}"\n{KINDS[name]}')
    for machine in (Machine(1, 1), Machine(2, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SCALING_CACHE", project.environment["SCALING_CACHE"])
            path = machine.path(spec.runs[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({1: 0.01, 2: 0.011}))


def under_way(store: Store) -> bool:
    folder = store.folder / "runs"
    return folder.is_dir() and bool(store.running(sorted(os.listdir(folder))))


def kill_again_and_again(
    project: Project, name: str, kills: int, seconds: float, *how: str
) -> tuple[Store, int]:
    """Start a driver `kills` times and kill its process group within `seconds`, every other time
    (and the first) once it trains; then let one end. Returns the store, and how often a run was
    under way."""
    rng = np.random.default_rng(0)
    store, disturbed = project.store(name, "killed"), 0
    for kill in range(kills):
        driver = project.start(name, "killed", *how)
        if kill % 2 == 0:
            wait_for(lambda d=driver: under_way(store) or d.poll() is not None, 120)
            time.sleep(float(rng.uniform(0, seconds / 8)))
        else:
            time.sleep(float(rng.uniform(0, seconds)))
        disturbed += under_way(store)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
    project.run(name, "killed", *how)
    return store, disturbed


def starts_of_all(store: Store) -> list[int]:
    return [len(starts(store, run_id)) for run_id in os.listdir(store.folder / "runs")]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ray", "here"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_sweep_ends_the_same_after_random_kills(
    project: Project, name: str, where: str
):
    let_pack(project, name)
    packs = "packs=1" if name in ("packs", "branches") else "packs=0"
    project.run(name, "alone", "in_process=1", "packs=0")
    how = (packs, "in_process=1") if where == "here" else (packs,)
    kills, seconds = (5, 14) if where == "ray" else (8, 6)
    store, disturbed = kill_again_and_again(project, name, kills, seconds, *how)
    assert disturbed >= 2 and max(starts_of_all(store)) > 1
    rows = table.read(store.folder)
    assert set(rows.status) == {"ok"}
    if name == "packs":
        assert rows["pack"].max() == 2
    if name == "branches":
        assert rows.D_shared.max() > 0
    assert not any(store.killed(run_id) for run_id in rows.run_id)
    assert_same_results(store, project.store(name, "alone"), HOW)
    assert "nothing to train" in project.run(name, "killed", *how)


def test_an_adaptive_sweep_ends_the_same_after_a_kill(project: Project):
    project.spec("quick", f'name = "quick"\n{QUICK}')
    project.run("quick", "alone", "in_process=1")
    store, disturbed = kill_again_and_again(project, "quick", 1, 2, "in_process=1")
    assert disturbed and set(table.read(store.folder).status) == {"ok"}
    assert_same_results(store, project.store("quick", "alone"))


# ------------------------------------------------------------------ time


@pytest.mark.slow
@pytest.mark.parametrize("halted", ["driver and workers", "all processes"])
def test_a_sweep_that_was_halted_for_a_minute_goes_on(
    project: Project, undisturbed: Store, halted: str
):
    """This happens when a laptop is closed, or a batch system suspends the job."""
    spec = project.spec("long", LONG)
    driver = project.start("long", "results")
    store = project.store("long", "results")
    dear = spec.runs[-1].run_id
    wait_for(lambda: (store.run_folder(dear) / "checkpoint.pt").exists(), 90)
    pids = {pid for run in spec.runs for pid in starts(store, run.run_id)}
    family = [p for p in tree(driver) if halted == "all processes" or p.pid in pids]
    family.append(psutil.Process(driver.pid))
    assert store.result(dear) is None and len(family) > 1
    for process in family:
        process.suspend()
    time.sleep(60)
    for process in family:
        process.resume()
    out, err = driver.communicate(timeout=150)
    assert (driver.returncode, err) == (0, "") and "4 ok" in out
    assert [len(starts(store, run.run_id)) for run in spec.runs] == [1, 1, 1, 1]
    assert_same_results(store, undisturbed)


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.mark.slow
@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_the_clock_is_set_back(project: Project, undisturbed: Store):
    """The clock is set back by a day while runs train, and between a kill and the next call.

    Without Ray, which does not start under libfaketime: time.sleep() raises there.
    """
    spec = project.spec("long", LONG)
    store = project.store("long", "results")
    dear = spec.runs[-1].run_id
    offset = project.folder / "offset"
    offset.write_text("+0")
    project.environment |= {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # as the kernel's monotonic clock does not jump either
    }
    driver = project.start("long", "results", "in_process=1")
    wait_for(lambda: (store.run_folder(dear) / "checkpoint.pt").exists(), 120)
    offset.write_text("-1d")
    before = (store.progress(dear) or {}).get("step", 0)
    wait_for(lambda: (store.progress(dear) or {}).get("step", 0) > before or bool(store.rows()))
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    offset.write_text("-2d")
    project.run("long", "results", "in_process=1")
    times = [event["time"] for event in store.attempts(dear)]
    assert times != sorted(times) and store.killed(dear) == 0
    assert_same_results(store, undisturbed)


# ------------------------------------------------------------------ scarce resources


def command(project: Project, *words: str, files: int | None = None) -> tuple[int, str, str]:
    """Run `scaling` with a limit on open files; returns (exit code, stdout, stderr)."""

    def limit() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    done = subprocess.run(
        [sys.executable, "-P", "-m", "scaling.cli", *words],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=250,
        preexec_fn=limit,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("files", [24, 64, 128])
@pytest.mark.parametrize("how", [("--in-process",), ()], ids=["here", "ray"])
def test_few_files_may_be_open(project: Project, undisturbed: Store, files: int, how: tuple[str]):
    """The sweep works, or one line says why it does not; either way nothing is lost."""
    project.spec("long", LONG)
    words = "sweep", "long.toml", "--no-packs", *how
    code, _, err = command(project, *words, files=files)
    assert code == 0 or (code == 2 and err.count("\n") == 1 and "Traceback" not in err), err
    assert code == 0 or "open files" in err or "Ray did not start" in err
    code, _, err = command(project, *words)
    assert (code, err) == (0, "")
    assert_same_results(project.store("long", "results"), undisturbed)


def test_the_cache_is_on_a_full_disk(project: Project):
    """The cache is on a file system of 64 KiB, mounted in a separate namespace."""
    project.spec("full", f'name = "full"\n{BASE}tokens = 2560\n[axes]\nseed = [0]\n')
    disk = project.folder / "disk"
    disk.mkdir()
    project.environment["SCALING_CACHE"] = str(disk)
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this system")
    words = f"'{sys.executable}' -P -m scaling.cli sweep full.toml --in-process"
    mount = f"mount -t tmpfs -o size=64k none '{disk}' 2>/dev/null || exit 77"
    again = f"mount -o remount,size=64m '{disk}'"
    script = f"{mount}; {words}; echo code $?; {again}; {words}; echo code $?"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert "code 2" in done.stdout and done.stdout.endswith("code 0\n"), done.stderr
    assert done.stderr.count("\n") == 1 and str(disk) in done.stderr
    assert "No space left on device" in done.stderr
    assert table.read(project.folder / "results" / "full").status.tolist() == ["ok"]
