"""Sweeps on a real Ray whose processes are killed.

Finished runs are kept, the others resume, and the final table is the same. Only processes that
these tests started are killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from disturbed import (
    BASE,
    LONG,
    Project,
    alive,
    assert_same_results,
    kill_tree,
    results_of,
    starts,
    tree,
    wait_for,
)

from scaling import table
from sweeps.measure import Machine
from sweeps.store import Store

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
head = {"num_cpus": 0, "temp_dir": sys.argv[1], "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head | {"object_store_memory": 100 << 20})
def add(): cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
add(), add()
print(cluster.address, flush=True)
for line in sys.stdin:
    add()
cluster.shutdown()
"""


def test_tune_and_in_process_agree_and_failures_are_results(project: Project):
    spec = project.spec(
        "mixed",
        'name = "mixed"\n'
        + BASE
        + """
        tokens = 10_240
        [axes]
        tokens = [2560, 7680, 20_480]
        [[sets]]
        name = "diverges"
        base.optim = { lr = 1e9, warmup_fraction = 0.0, clip = 1e9 }
        axes.seed = [0]
        [[sets]]
        name = "raises"
        base.data.max_bytes = 300_000
        axes.seed = [0]
        """,
    )
    project.damage_tokens(spec.runs[-1].data)
    out = project.run("mixed", "my results/a b")
    tuned = project.store("mixed", "my results/a b")
    rows = table.read(tuned.folder)
    assert len(out.splitlines()) < 20 and "ray imported" in out
    assert sorted(rows.status) == ["diverged", "failed", "ok", "ok", "ok"]

    begun = {run.D: tuned.attempts(run.run_id)[0]["time"] for run in spec.runs if not run.tag}
    assert sorted(begun, key=lambda D: begun[D]) == [20_480, 7680, 2560]

    by_tag = {run.tag: run.run_id for run in spec.runs}
    raised = rows.set_index("run_id").loc[by_tag["raises"]]
    assert raised.status == "failed" and "Error: index" in raised.error
    assert len(raised.error.splitlines()) == 1
    log = (tuned.run_folder(by_tag["raises"]) / "output.log").read_text()
    assert "Traceback" in log and raised.error in log
    assert pd.isna(raised.L) and raised.D == 10_240 and raised.N > 0
    assert len(starts(tuned, by_tag["raises"])) == 1  # it would only raise again
    diverged = rows.set_index("run_id").loc[by_tag["diverges"]]
    assert diverged.status == "diverged" and "lr" in diverged.error
    for run in spec.runs:
        text = (tuned.run_folder(run.run_id) / "result.json").read_text()
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))

    again = project.run("mixed", "my results/a b")
    assert "nothing to train" in again and "ray not imported" in again
    assert all(len(starts(tuned, run.run_id)) == 1 for run in spec.runs)

    project.run("mixed", "here", "in_process=1")
    assert_same_results(tuned, project.store("mixed", "here"))


@pytest.mark.slow
def test_arms_are_stopped_early_on_ray_as_in_this_process(project: Project):
    until = "[until]\nlr = { within = 1.7, factor = 8, halving = 2 }\n"
    text = BASE.replace("points = 4", "points = 8") + "[axes]\nseed = [0]\n"
    text = text.replace(
        "batch_tokens = 256", "batch_tokens = 256\noptim.lr = 0.01\ntokens = 10_240"
    )
    project.spec("arms", 'name = "arms"\n' + text + until)
    out = project.run("arms", "on ray", "workers=1")
    assert "stopped early" in out and "ray imported" in out
    assert "ray not imported" in project.run("arms", "on ray", "workers=1")
    project.run("arms", "here", "in_process=1")
    assert "stopped" in set(table.read(project.store("arms", "here").folder).status)
    assert_same_results(project.store("arms", "on ray"), project.store("arms", "here"))


def test_a_mistake_that_a_worker_finds_ends_the_sweep(project: Project):
    spec = project.spec(
        "wrong",
        'name = "wrong"\n'
        + BASE
        + """
        [axes]
        tokens = [409_600, 2_560_000]  # the shorter first, so that the longer is well under way
        [[sets]]
        name = "mistaken"
        base.data.corpus = "absent.txt"
        axes.tokens = [25_600]
        """,
    )
    driver = project.start("wrong", "results", "unchecked=1")
    _, err = driver.communicate(timeout=100)
    assert driver.returncode == 2
    assert "absent.txt" in err and err.count("\n") == 1
    store = project.store("wrong", "results")
    long, mistaken = spec.runs[1].run_id, spec.runs[2].run_id
    assert mistaken not in store.rows()
    assert store.attempts(mistaken)[-1]["event"] == "refused"
    # The other worker's training was not lost: it wrote its checkpoint.
    assert store.result(long) is None and (store.run_folder(long) / "checkpoint.pt").exists()
    assert not store.stop_file.exists()


def listened_on(processes: list[psutil.Process]) -> set[str]:
    """Return the addresses on which these processes listen."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            waiting = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            found |= {c.laddr.ip.removeprefix("::ffff:") for c in waiting}
    return found


def test_a_killed_driver_loses_nothing(project: Project, undisturbed: Store):
    spec = project.spec("long", LONG)
    driver = project.start("long", "results")
    store = project.store("long", "results")
    dear, cheap = spec.runs[-1].run_id, spec.runs[0].run_id
    wait_for(lambda: (store.run_folder(dear) / "checkpoint.pt").exists())
    wait_for(lambda: (store.progress(dear) or {}).get("step", 0) > 300)
    pids = {pid for run in spec.runs for pid in starts(store, run.run_id)}
    workers = [process for process in tree(driver) if process.pid in pids]
    assert workers
    session = ray_session(driver)
    private = session.parent.lstat()  # files that Ray opens to everybody lie in here
    assert (private.st_mode & 0o777, private.st_uid) == (0o700, os.getuid())
    assert {"127.0.0.1"} == listened_on([psutil.Process(driver.pid), *tree(driver)])
    driver.kill()
    driver.wait()
    finished = {run.run_id for run in spec.runs if store.result(run.run_id)}
    assert dear not in finished
    before = (store.progress(dear) or {})["step"]

    # Restart at once: workers outlive their driver by a moment, and their runs must not be taken.
    out = project.run("long", "results")
    assert "4 runs" in out or "of 4 runs" in out
    assert len(starts(store, dear)) == 2
    assert all(len(starts(store, run_id)) == 1 for run_id in finished)
    assert_same_results(store, undisturbed)
    assert before > 300 and cheap in store.rows()
    assert not any(process.is_running() for process in workers)
    assert not session.exists()  # what the killed driver had left


def test_ctrl_c_stops_cleanly_and_a_second_driver_is_refused(project: Project, undisturbed: Store):
    spec = project.spec("long", LONG)
    driver = project.start("long", "results")
    store = project.store("long", "results")
    dear = spec.runs[-1].run_id
    wait_for(lambda: (store.progress(dear) or {}).get("step", 0) > 100)

    rival = project.start("long", "results", "in_process=1")
    _, complaint = rival.communicate(timeout=60)
    assert rival.returncode == 2
    assert f"process {driver.pid} " in complaint and len(complaint.splitlines()) == 1

    family = tree(driver)
    assert len(family) > 3
    begin = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    out, err = driver.communicate(timeout=60)
    assert time.monotonic() - begin < 10
    assert driver.returncode == 130 and err == ""
    (printed,) = (line.split("Resume with: ")[1] for line in out.splitlines() if "Resume" in line)
    assert printed == (
        "scaling sweep long.toml --results results --no-packs --checkpoint-seconds 0.2"
    )
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert store.result(dear) is None and (store.run_folder(dear) / "checkpoint.pt").exists()

    project.command(shlex.split(printed)[1:])
    assert store.attempts(dear)[1]["event"] == "interrupted"
    assert_same_results(store, undisturbed)


def test_a_killed_worker_resumes_and_a_deadly_run_fails_alone(project: Project, undisturbed: Store):
    spec = project.spec("long", LONG)
    driver = project.start("long", "results", "retries=1")
    store = project.store("long", "results")
    second, dear = (run.run_id for run in spec.runs[-2:])
    wait_for(lambda: (store.run_folder(second) / "checkpoint.pt").exists())
    family = {process.pid for process in tree(driver)}
    assert starts(store, second)[0] in family
    os.kill(starts(store, second)[0], signal.SIGKILL)  # once: resumes

    killed: set[int] = set()
    while driver.poll() is None and len(killed) < 2:  # retries + 1 times: fails
        pids = starts(store, dear)
        if pids and pids[-1] not in killed:
            assert pids[-1] in {process.pid for process in tree(driver)}
            os.kill(pids[-1], signal.SIGKILL)
            killed.add(pids[-1])
        time.sleep(0.05)
    out, err = driver.communicate(timeout=150)
    assert (driver.returncode, err) == (0, "")
    assert "1 failed" in out and f"{dear} failed" in out
    rows = table.read(store.folder).set_index("run_id")
    assert rows.status.value_counts().to_dict() == {"ok": 3, "failed": 1}
    assert "2 attempts ended badly" in rows.error[dear]
    assert len(starts(store, second)) == 2 and len(starts(store, dear)) == 2

    project.run("long", "results", "in_process=1", "retry_failed=1")
    assert_same_results(store, undisturbed)


@pytest.mark.slow
def test_torch_has_as_many_threads_as_ray_grants_cpus(project: Project):
    (project.folder / "own.py").write_text(
        "import sys, torch\n"
        "from scaling.model import Model, family\n"
        "@family\n"
        "class Own(Model):\n"
        "    def tensors(self):\n"
        "        return {'mix.weight': (self.model.d_model, self.model.d_model)}\n"
        "    def hidden(self, p, tokens_kbt):\n"
        "        ray = sys.modules.get('ray')\n"
        "        if ray and ray.is_initialized():  # in a worker\n"
        "            granted = ray.get_runtime_context().get_assigned_resources()\n"
        "            print(torch.get_num_threads(), 'threads of', granted['CPU'])\n"
        "        return self.embed(p, tokens_kbt).flatten(1, 2) @ p['mix.weight']\n"
    )
    own = f'family = "{project.folder}/own.py:Own"'
    base = BASE.replace("n_layer = 1", f"{own}, n_layer = 1")
    spec = project.spec("own", f'name = "own"\n{base}[axes]\ntokens = [2560]\n')
    project.run("own", "results", "workers=1", "threads=2")
    store = project.store("own", "results")
    log = (store.run_folder(spec.runs[0].run_id) / "output.log").read_text()
    assert set(log.splitlines()) == {"2 threads of 2.0"}


@pytest.mark.slow
def test_experiments_of_tune_follow_one_another(project: Project):
    """Tune frees what it keeps about its trials at the end of each experiment."""
    spec = project.spec(
        "many", 'name = "many"\n' + BASE + "tokens = 2560\n[axes]\nseed = [0, 1, 2, 3, 4]\n"
    )
    project.run("many", "results", "experiment=2")
    store = project.store("many", "results")
    pids = [starts(store, run.run_id) for run in spec.runs]
    assert all(len(attempts) == 1 for attempts in pids)
    assert len({pid for (pid,) in pids}) >= 3  # each has its own workers
    project.run("many", "here", "in_process=1")
    assert_same_results(store, project.store("many", "here"))


def ray_session(driver: subprocess.Popen[str]) -> Path:
    """Return the folder in which a driver started Ray."""
    (raylet,) = (process for process in tree(driver) if process.name() == "raylet")
    (socket,) = (w for w in raylet.cmdline() if w.startswith("--raylet_socket_name="))
    return Path(socket.partition("=")[2]).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_killed_part_of_ray_and_sigterm(project: Project, part: str):
    # Workers outlive the head by seconds, in which no run of this length ends.
    spec = project.spec("long", LONG.replace("409_600", "2_560_000"))
    driver = project.start("long", "results")
    store = project.store("long", "results")
    dear = spec.runs[-1].run_id
    wait_for(lambda: (store.run_folder(dear) / "checkpoint.pt").exists())
    if (
        part == "gcs_server"
    ):  # docs/faults.md: its death while Ray and the experiment begin is not covered
        wait_for(lambda: (store.progress(dear) or {}).get("step", 0) > 2000)
    (process,) = (process for process in tree(driver) if process.name() == part)
    process.kill()
    wait_for(lambda: len(starts(store, dear)) == 2)
    assert store.killed(dear) == 0  # not the run's fault

    family = tree(driver)
    driver.terminate()
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (130, "")
    assert "Resume with: scaling sweep long.toml" in out
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == [] and store.result(dear) is None
    project.run("long", "results", "in_process=1")
    project.run("long", "undisturbed", "in_process=1")
    assert_same_results(store, project.store("long", "undisturbed"))


def test_packs_and_branches_that_are_killed_end_as_each_run_alone(
    project: Project, sweeps_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = project.spec(
        "packed",
        'name = "packed"\n'
        + BASE
        + """
        optim = { schedule = "wsd", warmup_tokens = 5120 }
        [axes]
        tokens = [5120, 102_400, 307_200]
        seed = [0, 1, 2, 3]
        """,
    )
    monkeypatch.setenv("SCALING_CACHE", str(sweeps_cache))
    path = Machine(2, 1).path(spec.runs[0])  # as if packs of two had been measured to be faster
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({1: 0.01, 2: 0.011}))
    driver = project.start("packed", "results", "packs=1")
    store = project.store("packed", "results")
    dear = [run.run_id for run in spec.runs if run.D > 300_000]
    wait_for(lambda: any((store.run_folder(run_id) / "checkpoint.pt").exists() for run_id in dear))
    (first, *_) = (r for r in dear if (store.run_folder(r) / "checkpoint.pt").exists())
    os.kill(starts(store, first)[0], signal.SIGKILL)
    wait_for(lambda: len(starts(store, first)) == 2)
    wait_for(lambda: len(store.rows()) > 3)
    kill_tree([psutil.Process(driver.pid)])
    finished = {run.run_id: len(starts(store, run.run_id)) for run in spec.runs}
    finished = {run_id: n for run_id, n in finished.items() if store.result(run_id)}
    assert 3 < len(finished) < len(spec.runs)

    assert "runs to train" in project.run("packed", "results", "packs=1")
    assert all(len(starts(store, run_id)) == n for run_id, n in finished.items())
    project.run("packed", "alone", "in_process=1")
    packed, alone = results_of(store), results_of(project.store("packed", "alone"))
    assert packed[0]["pack"].max() == 2 and packed[0].D_shared.max() > 0
    for mine, theirs in zip(packed, alone, strict=True):
        how = mine.columns.intersection(["pack", "D_shared"])
        pd.testing.assert_frame_equal(
            mine.drop(columns=how), theirs.drop(columns=how), check_exact=True
        )


@pytest.mark.slow
def test_the_memory_monitor_fails_the_hungry_run_alone(project: Project):
    """Ray's monitor ends the whole experiment with the worker that it kills."""
    spec = project.spec(
        "hungry",
        'name = "hungry"\n'
        + BASE
        + """
        [axes]
        zip = [
            { tokens = 256_000 },
            { tokens = 256_256 },
            { tokens = 2e8, batch_tokens = 2_097_152, model.d_model = 256, model.n_layer = 2 },
        ]
        """,
    )
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + (3 << 30)) / memory.total
    project.environment |= {
        "RAY_memory_usage_threshold": f"{threshold:.4f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    out = project.run("hungry", "results", "retries=1")
    rows = table.read(project.folder / "results" / "hungry").set_index("run_id")
    assert [rows.status[run.run_id] for run in spec.runs] == ["ok", "ok", "failed"]
    assert "running low on memory" in rows.error[spec.runs[2].run_id]
    assert "running low on memory" in out


@pytest.mark.slow
def test_a_cluster_of_the_caller_is_used_and_left_running(project: Project, ray_folder: str):
    project.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    project.spec("mine", 'name = "mine"\n' + BASE + "[axes]\ntokens = [2560, 5120]\n")
    code = """
import sys, ray
options = {"include_dashboard": False, "logging_level": "critical", "_temp_dir": sys.argv[1]}
ray.init(address="local", num_cpus=1, **options)
import sweeps.sweep
from sweeps.errors import StoreError
sweep = sweeps.sweep.Sweep.from_toml("mine.toml")
try:
    sweep.run(workers=1, threads=2, quiet=True)
except StoreError as error:
    assert "asks for 2 CPUs, but the largest node of this Ray cluster has 1" in str(error)
else:
    raise AssertionError("not refused")
runs = sweep.run(workers=2, quiet=True)
assert ray.is_initialized() and (runs.status == "ok").all()
"""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, ray_folder],
        cwd=project.folder,
        env=project.environment,
        check=True,
        timeout=120,
    )


@pytest.fixture
def cluster(project: Project, ray_folder: str) -> Iterator[subprocess.Popen[str]]:
    """Start a head without CPUs and two nodes with one each; a line on its stdin adds a node."""
    project.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CLUSTER, ray_folder],
        cwd=project.folder,
        env=project.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    family: list[psutil.Process] = []
    try:
        yield ray
        family = tree(ray)
        ray.communicate(timeout=60)
    finally:
        kill_tree([*family, *tree(ray), psutil.Process(ray.pid)] if ray.poll() is None else family)


@pytest.mark.slow
def test_a_node_of_a_cluster_dies_and_another_joins(
    project: Project, cluster: subprocess.Popen[str], undisturbed: Store
):
    # The last keeps its node busy while the others, two of the long sweep, find theirs.
    tokens = "[axes]\ntokens = [256_000, 409_600, 1_638_400]\n"
    spec = project.spec("nodes", 'name = "nodes"\n' + BASE + tokens)
    assert cluster.stdin and cluster.stdout
    driver = project.start("nodes", "results", f"address={cluster.stdout.readline().strip()}")
    store = project.store("nodes", "results")
    short, disturbed, dear = (run.run_id for run in spec.runs)
    nodes: dict[int, int] = {}
    """{pid of a worker: pid of its node's raylet}, as seen while both were alive."""

    def trains(run_id: str, attempt: int = 1) -> bool:
        pids = starts(store, run_id)
        if len(pids) == attempt and pids[-1] not in nodes:
            nodes[pids[-1]] = psutil.Process(pids[-1]).ppid()
        return len(pids) == attempt

    def raylet(run_id: str) -> int:
        """Return the raylet of the node that trained the run last."""
        return nodes[starts(store, run_id)[-1]]

    checkpoint = store.run_folder(disturbed) / "checkpoint.pt"
    wait_for(lambda: trains(dear) and trains(disturbed) and checkpoint.exists(), 90)
    first, other = raylet(disturbed), raylet(dear)
    node = psutil.Process(first)
    assert node in tree(cluster) and node.name() == "raylet" and other != first
    kill_tree([node, *node.children(recursive=True)])
    cluster.stdin.write("another node\n")
    cluster.stdin.flush()
    wait_for(lambda: trains(disturbed, attempt=2), 90)
    wait_for(lambda: trains(short), 90)
    new = {raylet(disturbed), raylet(short)}
    assert first not in new and new - {other}  # the node that joined has taken work
    out, err = driver.communicate(timeout=120)
    assert (driver.returncode, err) == (0, "") and "raylet" not in out
    assert "actor" in store.attempts(disturbed)[1]["error"]  # the reason that Ray gives
    assert "anew" not in (store.run_folder(disturbed) / "output.log").read_text()
    for mine, theirs in zip(results_of(store), results_of(undisturbed), strict=True):
        both = [x[x.run_id.isin([short, disturbed])].reset_index(drop=True) for x in (mine, theirs)]
        assert len(both[0])
        pd.testing.assert_frame_equal(*both, check_exact=True)


@pytest.mark.slow
def test_runs_over_two_nodes_survive_the_death_of_each_part(
    project: Project, cluster: subprocess.Popen[str]
):
    tokens = "[axes]\ntokens = [2560, 5120, 819_200]\n"
    spec = project.spec("over", 'name = "over"\n' + BASE + tokens)
    long = spec.runs[-1].run_id
    assert cluster.stdin and cluster.stdout
    address = f"address={cluster.stdout.readline().strip()}"
    store = project.store("over", "results")
    checkpoint = store.run_folder(long) / "checkpoint.pt"

    def start(number: int) -> subprocess.Popen[str]:
        how = "workers=2", "retries=3", f"devices={number}", f"nodes={number}", address
        return project.start("over", "results", *how)

    def ranks() -> list[psutil.Process]:
        """Return the processes that were started as ranks, on any node."""
        return [p for p in tree(cluster) if alive(p) and "_follow" in " ".join(p.cmdline())]

    def kill_node(raylet: int) -> None:
        node = psutil.Process(raylet)
        assert node.name() == "raylet"
        kill_tree([node, *node.children(recursive=True)])

    def raylet(rank: psutil.Process) -> int:
        """Return the raylet of a node on which an actor started a rank."""
        return psutil.Process(rank.ppid()).ppid()

    def trains(attempt: int) -> tuple[psutil.Process, psutil.Process]:
        """Return both ranks of the long run once there is a new checkpoint to resume from."""
        began = time.time()
        wait_for(lambda: len(starts(store, long)) == attempt, 90)
        wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_mtime > began, 90)
        (other,) = ranks()
        return psutil.Process(starts(store, long)[-1]), other

    _, err = start(4).communicate(timeout=60)
    assert re.search(
        "asks for 1 CPUs on each of 4 nodes, but the nodes .* have 0 CPUs, 2 x 1 CPUs;", err
    )

    driver = start(2)
    both = trains(attempt=1)
    assert both[0].ppid() != raylet(both[1])  # two nodes
    driver.kill()
    wait_for(lambda: not any(map(alive, both)), 30)

    driver = start(2)
    first, other = trains(attempt=2)
    other.kill()
    first, other = trains(attempt=3)
    kill_node(first.ppid())
    wait_for(lambda: not alive(other), 60)
    cluster.stdin.write("another node\n")
    cluster.stdin.flush()
    first, other = trains(attempt=4)
    kill_node(raylet(other))
    wait_for(lambda: not alive(first), 60)
    cluster.stdin.write("another node\n")
    cluster.stdin.flush()
    _, err = driver.communicate(timeout=120)
    assert (driver.returncode, err) == (0, "") and not ranks()
    deaths = [e["error"] for e in store.attempts(long) if e["event"] == "killed"]
    said = "ended by SIGKILL; the run", "actor", "node 2 of 2 is lost"
    assert len(deaths) == 3 and all(part in death for part, death in zip(said, deaths, strict=True))
    pids = starts(store, long)
    assert len(pids) == 5 and pids[1] == pids[2]  # a worker whose nodes are all alive is used again
    assert "anew" not in (store.run_folder(long) / "output.log").read_text()

    project.run("over", "one", "devices=2", "in_process=1")
    mine, theirs = (results_of(s)[0] for s in (store, project.store("over", "one")))
    assert set(mine.device) == set(theirs.device) == {"2 x cpu x1"}
    assert mine.L.tolist() == pytest.approx(theirs.L.tolist(), rel=1e-5)


@pytest.mark.slow
def test_a_node_that_falls_silent_is_missed(project: Project, cluster: subprocess.Popen[str]):
    spec = project.spec("silent", 'name = "silent"\n' + BASE + "[axes]\ntokens = [819_200]\n")
    (run_id,) = (run.run_id for run in spec.runs)
    assert cluster.stdin and cluster.stdout
    address = f"address={cluster.stdout.readline().strip()}"
    store = project.store("silent", "results")
    driver = project.start("silent", "results", "workers=1", "devices=2", "nodes=2", address)
    checkpoint = store.run_folder(run_id) / "checkpoint.pt"
    wait_for(lambda: checkpoint.exists(), 90)
    (first,) = starts(store, run_id)
    (other,) = (p for p in tree(cluster) if "_follow" in " ".join(p.cmdline()))
    node = psutil.Process(psutil.Process(other.ppid()).ppid())
    stopped = [node, *node.children(recursive=True)]
    for process in stopped:
        process.suspend()
    try:
        cluster.stdin.write("another node\n")
        cluster.stdin.flush()
        wait_for(lambda: len(starts(store, run_id)) == 2, 180)
        assert not psutil.pid_exists(first)
        _, err = driver.communicate(timeout=60)
        assert (driver.returncode, err) == (0, "")
    finally:
        kill_tree(stopped)
    events = [e["event"] for e in store.attempts(run_id)]
    assert events == ["start", "killed", "start", "ok"]


@pytest.mark.slow
def test_twenty_random_kills_of_the_driver(project: Project, undisturbed: Store):
    spec = project.spec("long", LONG)
    store = project.store("long", "results")
    rng = np.random.default_rng(0)
    done: dict[str, int] = {}
    for _ in range(20):
        driver = project.start("long", "results")
        time.sleep(float(rng.uniform(0.5, 14)))
        driver.kill()
        driver.communicate()
        for run_id, attempts in done.items():
            assert len(starts(store, run_id)) == attempts, "a finished run was trained again"
        done = {r.run_id: len(starts(store, r.run_id)) for r in spec.runs if store.result(r.run_id)}
    project.run("long", "results")
    assert_same_results(store, undisturbed)
